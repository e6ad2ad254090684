"""The command behind `scripts/fidelity`: runs the gates that were asked for, prints their tables, decides."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.fidelity import places
from tests.fidelity.table import Row, complaints, fallen, render

LIMIT_S = 590.0  # the whole run: under ten minutes
_USAGE = """scripts/fidelity [--quick] [--gate N]... [--cuts N] [--floor PERCENT] [--jobs N]

  1  recorded answers: as recorded, the other form (flip), one and seven bytes at a time, CRLF, cut at random places
  2  recorded conversations: what must be sent back is sent back
  3  requests of Claude Code to every dialect
  4  servers and readers from elsewhere: llama.cpp, aimock, Smithy's encoder; official SDKs, @ai-sdk/anthropic
  5  Claude Code itself through every dialect and every fault

Exit: 0 every row of every table reaches the floor | 1 one falls, or could not be measured | 2 wrong usage"""


def _recorded(gate: int) -> Callable[[argparse.Namespace, float], list[Row]]:
    def run(a: argparse.Namespace, _: float) -> list[Row]:
        from tests.fidelity import judge  # the SDKs take a second to import: only where they are used

        if a.quick:
            return judge.run([gate], cuts=min(a.cuts, 2), variants="cut", flip="translated")
        return judge.run([gate], cuts=a.cuts)

    return run


def _foreign(a: argparse.Namespace, _: float) -> list[Row]:
    from tests.fidelity import converse, foreign, readers

    parts: list[tuple[str, Callable[[], list[Row]]]] = [
        ("llama.cpp", lambda: foreign.llama(a.quick)),
        ("aimock", lambda: foreign.aimock(a.quick)),
        ("smithy", converse.streams),
        ("readers", lambda: readers.run(a.quick)),
    ]
    out: list[Row] = []
    for name, part in parts:
        out += _measured(name, part)
    return out


def _claude(a: argparse.Namespace, deadline: float) -> list[Row]:
    from tests.fidelity import claude

    return claude.run(claude.cases(a.quick), jobs=a.jobs, deadline=deadline)


GATES: dict[int, tuple[str, Callable[[argparse.Namespace, float], list[Row]]]] = {
    1: ("recorded answers", _recorded(1)),
    2: ("recorded conversations", _recorded(2)),
    3: ("requests of Claude Code", _recorded(3)),
    4: ("servers and readers from elsewhere", _foreign),
    5: ("Claude Code", _claude),
}


def _measured(name: str, part: Callable[[], list[Row]]) -> list[Row]:
    """The part's rows; one row with what stood in the way, when it could not be run."""
    try:
        return part()
    except Exception as error:  # the other gates still have something to say
        return [Row(name, "-", "not measured", 1, 0, [f"{type(error).__name__}: {error}"])]


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=_USAGE)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--gate", type=int, action="append", choices=sorted(GATES))
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--floor", type=float, default=99.0)
    parser.add_argument("--jobs", type=int, default=3)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gates. Returns the exit status."""
    a = _parsed(arguments)
    try:
        places.shared()
    except places.Unavailable as error:
        print(f"scripts/fidelity: {error}", file=sys.stderr)
        return 1
    began = time.monotonic()
    low: list[Row] = []
    rows: list[Row] = []
    for gate in a.gate or sorted(GATES):
        title, run = GATES[gate]
        start = time.monotonic()
        found = _measured(title, lambda run=run: run(a, began + LIMIT_S))  # type: ignore[misc]
        print(render(f"gate {gate}: {title} ({time.monotonic() - start:.0f} s)", found), flush=True)
        for line in complaints(found):
            print(f"  ! {line}")
        print(flush=True)
        rows += found
        low += fallen(found, a.floor)
    print(_verdict(rows, low, a, time.monotonic() - began))
    return 1 if low or not rows else 0


def _verdict(rows: Sequence[Row], low: Sequence[Row], a: Any, seconds: float) -> str:
    items, right = sum(r.items for r in rows), sum(r.right for r in rows)
    head = f"{right} of {items} right in {len(rows)} rows, {seconds:.0f} s"
    if not low:
        return f"{head}; every row reaches {a.floor:g} %"
    names = ", ".join(f"{r.gate} {r.dialect} {r.provider} {r.percent:.2f} %" for r in low)
    return f"{head}; FALLEN below {a.floor:g} %: {names}"


if __name__ == "__main__":
    sys.exit(main())
