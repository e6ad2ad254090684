"""Costs, usage and sessions as pages for people: tables, and bars where a terminal has room for them. Pure.

What nobody knows is told as unknown, with the number of requests it concerns; it is never shown as 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli.render import Cell, Screen, cell_width, clock, count, table
from ccm.observe.log import escape

View = Mapping[str, Any]
_BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MOST_SHOWN = 60  # rows on a terminal; a pipe gets all


def usd(value: float | None) -> str:
    """`$12.34`, `$1,234`, `$0.0042`: three figures or cents, whichever says more; "unknown" for None."""
    if value is None:
        return "unknown"
    sign, size = ("-" if value < 0 else ""), abs(value)
    if size >= 999.995:
        return f"{sign}${size:,.0f}"
    if size >= 0.0995 or size == 0:
        return f"{sign}${size:.2f}"
    text = f"{size:.{min(2 - math.floor(math.log10(size)) - 1, 8)}f}"
    return f"{sign}${text}" if float(text) else f"{sign}$0.00"


def bar(part: float, most: float, cells: int = _BAR_CELLS) -> str:
    """A bar of at most so many cells, in eighths; something that is not nothing is never shown as nothing."""
    if most <= 0 or part <= 0:
        return ""
    eighths = max(1, round(min(part / most, 1.0) * cells * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def costs(view: View, on: Screen) -> str:
    """`ccmctl costs`: one line per row, the dearest first, with what was saved; or the CSV that was asked for."""
    if "csv" in view:
        return str(view["csv"]).rstrip("\r\n")
    if not view["rows"]:
        return f"nothing was used since {_since(view)}"
    rows, left_out = _shown(view, on)
    most = max((row["cost_usd"] or 0.0 for row in rows), default=0.0)
    lines: list[list[str | Cell]] = []
    for row in (*rows, *_last(view)):
        total = row["name"] == "total" and row is not rows[-1]
        lines.append([
            Cell(str(row["name"]) or "(none)", "bold" if total else ""),
            count(int(row["requests"])),
            count(int(row["input"])),
            count(int(row["cache_read"])),
            count(int(row["cache_write_5m"]) + int(row["cache_write_1h"])),
            count(int(row["output"])),
            Cell(usd(row["cost_usd"]), "yellow" if row["cost_usd"] is None else ""),
            Cell(f"+{count(int(row['unpriced']))}" if row["unpriced"] else "", "yellow"),
            "" if row["saved_usd"] is None else usd(row["saved_usd"]),
            "" if total else bar(row["cost_usd"] or 0.0, most),
        ])  # fmt: skip
    head = [view["by"].upper(), "REQUESTS", "IN", "CACHED", "WRITTEN", "OUT", "COST", "UNPRICED", "SAVED", ""]
    return _page(f"costs since {_since(view)}", head, lines, on, [*_notes(view), *left_out])


def usage(view: View, on: Screen) -> str:
    """`ccmctl usage`: tokens by day (or what was asked for), how much of the input came from caches, what failed."""
    if "csv" in view:
        return str(view["csv"]).rstrip("\r\n")
    notes = _store(view)
    if not view["rows"]:
        return "\n".join([f"nothing was used since {_since(view)}", *notes])
    rows, left_out = _shown(view, on)
    most = max((_all_tokens(row) for row in rows), default=0)
    lines: list[list[str | Cell]] = []
    for row in (*rows, *_last(view)):
        total = row["name"] == "total" and row is not rows[-1]
        lines.append([
            Cell(str(row["name"]) or "(none)", "bold" if total else ""),
            count(int(row["requests"])),
            Cell(count(int(row["failed"])), "red" if row["failed"] else "dim"),
            count(int(row["input"])),
            count(int(row["cache_read"])),
            _percent(row["cache_read"], _input(row)),
            count(int(row["cache_write_5m"]) + int(row["cache_write_1h"])),
            count(int(row["output"])),
            count(int(row["thinking"])) if row["thinking"] else "-",
            count(int(row["attempts"])),
            "" if total else bar(_all_tokens(row), most),
        ])  # fmt: skip
    head = [view["by"].upper(), "REQUESTS", "FAILED", "IN", "CACHED", "HIT", "WRITTEN", "OUT", "THINKING", "CALLS", ""]  # fmt: skip
    return _page(f"usage since {_since(view)}", head, lines, on, [*left_out, *notes])


def sessions(view: View, on: Screen) -> str:
    """`ccmctl sessions`: youngest first."""
    if not view["sessions"]:
        return "no session is known yet"
    lines: list[list[str | Cell]] = [
        [
            str(row["session"]),
            str(row["project"]) or "-",
            clock(row["first_at"]),
            clock(row["last_at"]),
            count(int(row["requests"])),
            count(_input(row)),
            _percent(row["cache_read"], _input(row)),
            count(int(row["output"])),
            Cell(usd(row["cost_usd"]), "yellow" if row["cost_usd"] is None else ""),
            Cell(f"+{count(int(row['unpriced']))}" if row["unpriced"] else "", "yellow"),
        ]
        for row in view["sessions"]
    ]
    head = ["SESSION", "PROJECT", "FIRST", "LAST", "REQUESTS", "IN", "HIT", "OUT", "COST", "UNPRICED"]
    return table(head, lines, on, right=range(4, 10))


def _shown(view: View, on: Screen) -> tuple[Sequence[View], list[str]]:
    """The rows for this screen, and a line about those that are left out."""
    rows: Sequence[View] = view["rows"]
    hidden, cost = int(view.get("rest", {}).get("count", 0)), view.get("rest", {}).get("cost_usd") or 0.0
    if on.width is not None and len(rows) > _MOST_SHOWN:
        cut = rows[:-_MOST_SHOWN] if view["by"] == "day" else rows[_MOST_SHOWN:]
        rows = rows[-_MOST_SHOWN:] if view["by"] == "day" else rows[:_MOST_SHOWN]
        hidden, cost = hidden + len(cut), cost + sum(row["cost_usd"] or 0.0 for row in cut)
    return rows, [f"{hidden} more with {usd(cost)}"] if hidden else []


def _last(view: View) -> list[View]:
    many = len(view["rows"]) > 1
    return [{"name": "total", **view["total"]}] if many else []


def _notes(view: View) -> list[str]:
    """What the figures do not know, in words."""
    total, notes = view["total"], []
    if total["unpriced"]:
        many = int(total["unpriced"])
        notes.append(
            f"+{many} unpriced request{'s' if many > 1 else ''}: their cost is unknown and not in these sums; "
            "prices can be put into [catalog] models_file"
        )
    if total["assumed_usd"]:
        notes.append(
            f"{usd(total['assumed_usd'])} of it is assumed: calls that were cut off, which may be billed"
        )
    if total["estimated"]:
        notes.append(
            f"{count(int(total['estimated']))} requests without the provider's own figures are estimated"
        )
    return notes


def _store(view: View) -> list[str]:
    store = view.get("store")
    if not store:
        return []
    text = f"{count(store['rows'])} requests in {store['path']} ({count(store['size_bytes'])}B)"
    if store["dropped"]:
        text += f", {count(store['dropped'])} dropped"
    return [text, *([str(store["problem"])] if store["problem"] else [])]


# Where a terminal is too narrow these columns go, in this order: "" are the bars.
_SPARE = ("", "WRITTEN", "CALLS", "THINKING", "CACHED", "OUT", "IN", "FAILED", "SAVED")


def _page(
    title: str, head: Sequence[str], lines: Sequence[Sequence[str | Cell]], on: Screen, notes: Sequence[str]
) -> str:
    """The table, with the columns that there is room for, and the notes below. All but the first are figures."""
    shown = [n for n, name in enumerate(head) if name or on.width is not None]
    for name in _SPARE:
        if on.width is None or _width(head, lines, shown) <= on.width:
            break
        shown = [n for n in shown if head[n] != name]
    columns = [head[n] for n in shown]
    right = [place for place, name in enumerate(columns) if place and name]
    text = table(columns, [[line[n] for n in shown] for line in lines], on, right)
    below = [on.paint(escape(note), "dim") for note in notes]
    return "\n".join([on.paint(title, "bold"), "", text, *([""] if below else []), *below])


def _width(head: Sequence[str], lines: Sequence[Sequence[str | Cell]], shown: Sequence[int]) -> int:
    whole = table([head[n] for n in shown], [[line[n] for n in shown] for line in lines], Screen())
    return max(cell_width(line) for line in whole.splitlines())


def _since(view: View) -> str:
    since = float(view["since"])
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(since)) if since > 0 else "the beginning"


def _input(row: View) -> int:
    return int(row["input"] + row["cache_read"] + row["cache_write_5m"] + row["cache_write_1h"])


def _all_tokens(row: View) -> int:
    return _input(row) + int(row["output"])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"
