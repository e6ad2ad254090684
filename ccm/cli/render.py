"""Text for people: tables that know the width of the terminal, figures with units, colour where it is wanted.

Colour only on a terminal, never with NO_COLOR; lines are cut only on a terminal, so that a pipe gets everything. What
comes from a provider is escaped first: an error text must not steer anybody's terminal. Pure but for `screen()`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TextIO

from ccm.observe.log import escape
from ccm.shape import dataclass

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
_GAP = "  "
_NARROWEST = 8  # a column is not squeezed below this many cells


@dataclass(frozen=True, slots=True)
class Screen:
    """What output goes to. `width` is None where nothing limits it (a pipe, a file)."""

    width: int | None = None
    colour: bool = False

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour ("" for none), where colours are shown."""
        code = _COLOURS.get(colour)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour; plain strings do where there is none."""

    text: str
    colour: str = ""


def screen(stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> Screen:
    """The screen behind a stream (standard output). NO_COLOR, TERM=dumb and COLUMNS are honoured."""
    target = stream or sys.stdout
    if not target.isatty():
        return Screen()
    colour = not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"
    return Screen(max(20, shutil.get_terminal_size((80, 24)).columns), colour)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | Cell]], on: Screen, right: Sequence[int] = ()
) -> str:
    """Aligned columns without a trailing blank; `right` lists the columns that are right-aligned (figures).

    Where a terminal is too narrow, the widest columns give way first, each cut text ends in "…".
    """
    if not rows:
        return ""
    cells = [
        [Cell(escape(c)) if isinstance(c, str) else Cell(escape(c.text), c.colour) for c in row]
        for row in rows
    ]
    lines = [[Cell(name, "dim") for name in head], *cells]
    widths = [max(cell_width(line[n].text) for line in lines) for n in range(len(head))]
    if on.width is not None:
        widths = _squeeze(widths, on.width - len(_GAP) * (len(widths) - 1))
    return "\n".join(_line(line, widths, on, right) for line in lines)


def _line(line: Sequence[Cell], widths: Sequence[int], on: Screen, right: Sequence[int]) -> str:
    parts = []
    for n, (cell, width) in enumerate(zip(line, widths, strict=True)):
        text = cut(cell.text, width)
        blank = " " * (width - cell_width(text))
        shown = on.paint(text, cell.colour)
        parts.append(blank + shown if n in right else shown + blank)
    return _GAP.join(parts).rstrip()


def _squeeze(widths: list[int], room: int) -> list[int]:
    widths = list(widths)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda n: widths[n])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def cell_width(text: str) -> int:
    """How many columns of a terminal a text takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(c) or c == "\u200d"
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


def cut(text: str, width: int) -> str:
    """The text within so many columns, with "…" where something was left out."""
    if cell_width(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += cell_width(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "…"


def duration(seconds: float | None) -> str:
    """Two units at most: `3h 12m`, `4m 5s`, `12s`, `340ms`; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for name, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{name} {rest}{below}" if rest else f"{whole // size}{name}"
    return f"{whole}s"


def count(number: int) -> str:
    """`950`, `12.3k`, `4.56M`: three figures at most."""
    value, unit = float(number), ""
    for name in ("k", "M", "G", "T"):
        if round(value, 2) < 1000:
            break
        value, unit = value / 1000, name
    if not unit:
        return str(number)
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def percent(share: float | None) -> str:
    """`99.8%`, `100%`; "-" for None. Never rounded up to 100 %."""
    if share is None:
        return "-"
    return f"{int(share * 1000) / 10:.1f}".removesuffix(".0") + "%"


def money(usd: float | None) -> str:
    """`$12.30`, `$0.0042`; "-" for None (unknown)."""
    if usd is None:
        return "-"
    if usd and abs(usd) < 0.995:
        return f"${usd:.4f}".rstrip("0").ljust(5, "0")
    return f"${usd:,.2f}"


def clock(at: float, now: float | None = None) -> str:
    """Local time of day; with the date where it is not of the last 24 hours."""
    current = time.time() if now is None else now
    form = "%H:%M:%S" if abs(current - at) < 86400 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(at))
