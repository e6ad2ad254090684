"""`ccmctl drill`: begins a drill, waits for the requests that meet it, and tells what their clients saw."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccm.cli.overview import drill as told
from ccm.cli.render import Screen, clock, duration, screen
from ccm.errors import ControlError
from ccm.faults import DRILL_S, FAULTS
from ccm.observe.log import escape

LOOK_S = 0.3
LAST_WAIT_S = 30.0  # for requests that have met the fault and still run when the drill is over

View = Mapping[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `ccmctl drill` takes."""
    parser.add_argument("name", metavar="PROVIDER", nargs="?", help="whose path the fault is put into")
    parser.add_argument("fault", metavar="FAULT", nargs="?", choices=tuple(FAULTS), help=", ".join(FAULTS))
    parser.add_argument(
        "--requests", type=int, metavar="N", help="for so many requests (1, unless --for is given)"
    )
    parser.add_argument(
        "--for", dest="seconds", metavar="DURATION", help=f"for so long ({DRILL_S:.0f}s; at most 1h)"
    )
    parser.add_argument(
        "--after", type=int, metavar="EVENTS", help="cut, garbage, hang: strike after so many events"
    )
    parser.add_argument("--delay", metavar="DURATION", help="slow: how late the first content comes (10s)")
    parser.add_argument("--off", action="store_true", help="end the drill of PROVIDER, or all of them")
    parser.add_argument(
        "--no-wait", action="store_true", help="only begin; `ccmctl drill` shows the report later"
    )


def run(given: argparse.Namespace, path: str, ask: Callable[..., Any]) -> int:
    """Runs one command line. Raises ControlError with ccm's own words."""
    if given.off:
        answer = ask(path, "POST", "/drill", {"off": True, **({"name": given.name} if given.name else {})})
        print(json.dumps(answer, indent=2) if given.json else answer["text"])
        return 0
    if not given.name:
        view = ask(path, "GET", "/drill")
        print(json.dumps(view, indent=2) if given.json else report(view, screen()))
        return 0
    if not given.fault:
        given.parser.error(f"say which FAULT: {', '.join(FAULTS)}")
    wanted = {"requests": given.requests, "for": given.seconds, "after": given.after, "delay": given.delay}
    args = {name: value for name, value in wanted.items() if value is not None}
    begun = ask(path, "POST", "/drill", {"name": given.name, "fault": given.fault, **args})
    if given.no_wait:
        print(json.dumps(begun, indent=2) if given.json else begun["text"])
        return 0
    if not given.json:
        print(f"{begun['text']}; Ctrl-C ends it")
        sys.stdout.flush()
    try:
        row = wait(begun["drill"]["id"], path, ask, None if given.json else _tell)
    except KeyboardInterrupt:
        ask(path, "POST", "/drill", {"off": True, "name": given.name})
        print("\nthe drill was ended", file=sys.stderr)
        row = _find(ask(path, "GET", "/drill"), begun["drill"]["id"])
    if given.json:
        print(json.dumps(row, indent=2))
    else:
        print(summary(row))
    return 0


def wait(
    number: int,
    path: str,
    ask: Callable[..., Any],
    tell: Callable[[View], None] | None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> View:
    """The drill's row once it is over and every request that met it has ended (waited for LAST_WAIT_S at most); `tell`
    gets each of them as it ends, once."""
    seen: set[str] = set()
    until: float | None = None
    while True:
        row = _find(ask(path, "GET", "/drill"), number)
        for met in row["requests_met"]:
            if met["done"] and met["id"] not in seen:
                seen.add(met["id"])
                if tell is not None:
                    tell(met)
        if not row["on"]:
            until = until or clock() + LAST_WAIT_S
            if all(met["done"] for met in row["requests_met"]) or clock() >= until:
                return row
        pause(LOOK_S)


def _find(view: View, number: int) -> View:
    for row in view["drills"]:
        if row["id"] == number:
            found: View = row
            return found
    raise ControlError(
        "ccm no longer knows of this drill: it was started again, and no drill outlives that", 409
    )


def _tell(met: View) -> None:
    print(line(met))
    sys.stdout.flush()


def line(met: View) -> str:
    """One request that met the fault: what its client saw, the way it took, and the time that cost."""
    if not met["done"]:
        return f"  {met['id']}: {met['outcome']}"
    text = f"  {clock(met['at'])} {met['id']}: {met['outcome']}, {' > '.join(met['attempts'])}"
    if met["added_s"] is not None:
        text += f", {duration(met['added_s'])} lost"
    return escape(text)


def summary(row: View) -> str:
    """How many met it, how many clients saw nothing of it, and the worst time it cost."""
    met = [one for one in row["requests_met"] if one["done"]]
    if not met:
        return f"drill over ({row['over'] or 'still on'}): no request met it"
    well = sum(one["ending"] == "complete" for one in met)
    over = sum(bool(one["failed_over"]) for one in met)
    lost = [one["added_s"] for one in met if one["added_s"] is not None]
    text = f"drill over ({row['over'] or 'still on'}): {row['count']} met it, {well} of {len(met)} answered all the same"
    text += f", {over} by another provider" if over else ""
    return text + (f"; {duration(max(lost))} lost at worst" if lost else "")


def report(view: View, on: Screen) -> str:
    """All known drills with what became of their requests, youngest first."""
    if not view["drills"]:
        return "there was no drill since ccm was started"
    parts = []
    for row in view["drills"]:
        head = (
            told(row)
            if row["on"]
            else f"{row['provider']} {row['fault']} at {clock(row['begun_at'])}: {row['over']}"
        )
        lines = [on.paint(escape(head), "bold"), *(line(met) for met in row["requests_met"])]
        if not row["requests_met"]:
            lines.append("  no request met it" + (" yet" if row["on"] else ""))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
