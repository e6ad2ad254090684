"""`ccmctl top`: rates, latencies, tokens and money, live. On a terminal in place (q ends it), elsewhere block by block.

`page` makes the lines and knows nothing of terminals; `_Live` paints them with curses. The plain form is for pipes,
TERM=dumb and --plain, and needs no curses at all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccm.cli import overview, views
from ccm.cli.render import Cell, Screen, count, cut, duration, money, percent, screen, table
from ccm.control.client import NotRunning, Unanswered
from ccm.observe.log import escape

INTERVAL_S = 2.0
_SHORTEST_S = 0.2
_PAINT = re.compile(r"\x1b\[([0-9;]*)m")
_KEYS_S = 0.1  # how soon a key is noticed

View = Mapping[str, Any]
Ask = Callable[..., Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `ccmctl top` takes."""
    parser.add_argument(
        "--interval", type=float, default=INTERVAL_S, metavar="SECONDS", help=f"how often ({INTERVAL_S:g})"
    )
    parser.add_argument("--count", type=int, default=0, metavar="N", help="end after so many screens")
    parser.add_argument("--plain", action="store_true", help="block after block, as in a pipe")


def run(given: argparse.Namespace, path: str, ask: Ask) -> int:
    """Shows it until q, Ctrl-C or --count. Raises NotRunning where no ccm runs at the beginning."""
    interval = max(_SHORTEST_S, given.interval)
    first = ask(path, "GET", "/top")
    plain = given.plain or given.json or not (sys.stdin.isatty() and sys.stdout.isatty())
    if plain or os.environ.get("TERM", "dumb") in ("", "dumb"):
        return _plain(given, path, ask, first, interval)
    import curses

    try:
        _in_curses(lambda window: _Live(window, path, ask, interval, given.count).run(first))
    except curses.error as error:  # a terminal that curses does not know
        print(f"ccmctl: this terminal cannot be painted ({error}); going on plainly", file=sys.stderr)
        return _plain(given, path, ask, first, interval)
    return 0


def _in_curses(show: Callable[[Any], None]) -> None:
    """As curses.wrapper, but colours are begun only by who shows any: they would paint everything white on black."""
    import curses

    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        show(window)
    finally:
        window.keypad(False)
        curses.echo()
        curses.nocbreak()
        curses.endwin()


def _plain(given: argparse.Namespace, path: str, ask: Ask, view: Any, interval: float) -> int:
    shown = 0
    while True:
        on = screen()
        print(json.dumps(view) if given.json else "\n".join(page(view, on, None)) + "\n")
        sys.stdout.flush()
        shown += 1
        if shown == given.count:
            return 0
        time.sleep(interval)
        view = ask(path, "GET", "/top")


def page(view: View, on: Screen, height: int | None) -> list[str]:
    """The screen's lines, within its width, and within `height` lines (None: all of them)."""
    status, window = view["status"], view["window"]
    every, span = window["all"], window["span_s"]
    lines = [overview.headline(status, on), _cut(f"primary {overview.primary(status)}", on)]
    lines.append(
        _cut(
            f"last {duration(span)}: {_rate(every['per_s'])}, {percent(every['success'])} well, "
            f"{status['in_flight']} in flight, first content p50 {duration(every['first_content_p50_s'])} "
            f"p95 {duration(every['first_content_p95_s'])}",
            on,
        )
    )
    cost = money(every["cost_usd"])
    per_hour = "" if every["cost_usd"] is None else f" ({money(every['cost_usd'] * 3600 / max(span, 1.0))}/h)"
    saved = _saved(every)
    lines.append(
        _cut(
            f"tokens {count(every['input_tokens'])} in ({count(every['cache_read_tokens'])} cached), "
            f"{count(every['output_tokens'])} out, {every['output_tokens_per_s']:.0f}/s; cost {cost}{per_hour}{saved}",
            on,
        )
    )
    lines += [_cut(f"budget {overview.budget(row)}", on) for row in status.get("budgets") or ()]
    lines += [_cut(f"drill {overview.drill(row)}", on) for row in status.get("drills") or ()]
    lines += ["", *_providers(status["providers"], window["providers"], on)]
    lines += ["", *views.requests(view["requests"], on).split("\n")]
    if height is None or len(lines) <= height:
        return lines
    return [*lines[: max(0, height - 1)], "…"][: max(1, height)]


def _rate(per_s: float) -> str:
    return f"{per_s:.1f} requests/s" if per_s >= 1 else f"{per_s * 60:.3g} requests/min"


def _saved(every: View) -> str:
    cost, without = every["cost_usd"], every["list_cost_usd"]
    if cost is None or without is None or without <= cost:
        return ""
    return f", {money(without - cost)} saved"


def _providers(rows: Sequence[View], figures: Mapping[str, View], on: Screen) -> list[str]:
    if not rows:
        return ["no provider is configured"]
    shown: list[list[str | Cell]] = []
    wide = on.width is None or on.width >= 120
    for row in rows:
        mine = figures.get(str(row["name"]), {})
        state = str(row["state"])
        cells: list[str | Cell] = [
            ("* " if row["primary"] else "  ") + str(row["name"]),
            Cell(state, overview.STATE_COLOURS.get(state, "")),
            str(row["in_flight"]),
            f"{float(mine.get('per_s') or 0) * 60:.3g}",
            percent(mine.get("success")),
            duration(mine.get("first_content_p50_s")),
            duration(mine.get("first_content_p95_s")),
            f"{float(mine.get('output_tokens_per_s') or 0):.0f}",
            money(mine.get("cost_usd")),
        ]
        shown.append([*cells, overview.quota(row), overview.reason(row)] if wide else cells)
    head = ["  PROVIDER", "STATE", "NOW", "PER MIN", "WELL", "p50", "p95", "TOK/s", "COST"]
    head += ["QUOTA", "WHY"] if wide else []
    return table(head, shown, on, right=(2, 3, 4, 5, 6, 7, 8)).split("\n")


def _cut(text: str, on: Screen) -> str:
    return escape(text) if on.width is None else cut(escape(text), on.width)


class _Live:
    """The screen in place: asks, paints, minds the keys (q ends it) and the terminal's size."""

    def __init__(self, window: Any, path: str, ask: Ask, interval: float, most: int) -> None:
        import curses

        self._curses = curses
        self._window = window
        self._path, self._ask, self._interval, self._most = path, ask, interval, most
        self._colour = not os.environ.get("NO_COLOR") and curses.has_colors()
        self._attributes = {"1": curses.A_BOLD, "2": curses.A_DIM, "0": 0, "": 0}
        curses.curs_set(0) if curses.tigetstr("civis") else None
        if self._colour:
            curses.start_color()
            curses.use_default_colors()
            for number, (code, colour) in enumerate(
                (("31", curses.COLOR_RED), ("32", curses.COLOR_GREEN), ("33", curses.COLOR_YELLOW)), 1
            ):
                curses.init_pair(number, colour, -1)
                self._attributes[code] = curses.color_pair(number)

    def run(self, view: View) -> None:
        shown, problem = 0, ""
        while True:
            self._paint(view, problem)
            shown += 1
            if shown == self._most or self._keys(view, problem):
                return
            try:
                view, problem = self._ask(self._path, "GET", "/top"), ""
            except (NotRunning, Unanswered) as error:  # it may be started again
                problem = str(error)

    def _keys(self, view: View, problem: str) -> bool:
        """Waits out the interval; True when it is to end. A new size is painted at once."""
        end = time.monotonic() + self._interval
        while (left := end - time.monotonic()) > 0:
            self._window.timeout(int(min(left, _KEYS_S) * 1000) + 1)
            key = self._window.getch()
            if key in (ord("q"), ord("Q"), 27):
                return True
            if key == self._curses.KEY_RESIZE:
                self._paint(view, problem)
            elif key in (ord(" "), ord("r")):
                return False
        return False

    def _paint(self, view: View, problem: str) -> None:
        height, width = self._window.getmaxyx()
        on = Screen(max(20, width - 1), self._colour)
        lines = page(view, on, height - 1)
        foot = f"ccmctl: {problem}" if problem else "q ends, space asks at once"
        self._window.erase()
        for y, line in enumerate(
            [*lines[: height - 1], *[""] * (height - 1 - len(lines)), cut(foot, on.width or 80)]
        ):
            self._line(y, line)
        self._window.refresh()

    def _line(self, y: int, line: str) -> None:
        x, attribute = 0, 0
        for n, part in enumerate(_PAINT.split(line)):
            if n % 2:
                attribute = self._attributes.get(part, 0)
            elif part:
                try:
                    self._window.addstr(y, x, part, attribute)
                except self._curses.error:  # the terminal has just become smaller
                    return
                x = self._window.getyx()[1]
