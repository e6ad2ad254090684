"""`ccmctl budget` and `ccmctl session`: how the budgets are, lifting them, and letting stopped sessions go on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from ccm.cli.command import Command, say_text
from ccm.cli.figures_views import bar, usd
from ccm.cli.render import Cell, Screen, table
from ccm.observe.log import escape

View = Mapping[str, Any]
_COLOURS = {
    "ok": "green",
    "lifted": "yellow",
    "reserved": "yellow",
    "over 80 %": "yellow",
    "over 90 %": "yellow",
}
_FILTERS = (("provider", "provider"), ("model", "model"), ("request_class", "class"), ("project", "project"))


def _budget_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("act", metavar="list | lift | restore", nargs="?", choices=("list", "lift", "restore"),
                        default="list", help="list (the default), lift NAME, or restore NAME")  # fmt: skip
    parser.add_argument("name", metavar="NAME", nargs="?", help="which budget")
    parser.add_argument("--for", dest="seconds", metavar="DURATION",
                        help="lift it only so long (90s, 30m, 2h, 1d), not until its period ends")  # fmt: skip


def _budget_args(given: argparse.Namespace) -> dict[str, Any]:
    if given.act == "list":
        if given.name or given.seconds:
            given.parser.error("say lift or restore before a NAME")
        return {}
    if not given.name:
        given.parser.error(f"which budget? ccmctl budget {given.act} NAME (`ccmctl budget` lists them)")
    if given.act == "restore":
        if given.seconds:
            given.parser.error("--for goes with lift")
        return {"name": given.name, "restore": True}
    return {"name": given.name, **({"for": given.seconds} if given.seconds else {})}


def _session_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("act", metavar="resume", choices=("resume",), help="let a session go on")
    parser.add_argument(
        "session", metavar="ID", help="the session, or the beginning of its id (`ccmctl budget`)"
    )


def budgets(answer: View, on: Screen) -> str:
    """What an action said; else a line for each budget, what the guard has stopped, and what is wrong."""
    if "text" in answer:
        return str(answer["text"])
    lines = [_line(row) for row in answer["budgets"]]
    head = ("budget", "per", "spent", "of", "used", "reserved", "state", "for", "resets", "")
    parts = [
        table(head, lines, on, right=(2, 3, 4, 5)) if lines else "no budgets: see [budgets] in the README"
    ]
    unpriced = max((int(row["unpriced"]) for row in answer["budgets"]), default=0)
    notes = [f"without a known price, and so not counted: {unpriced} requests"] if unpriced else []
    notes += [str(answer["problem"])] if answer["problem"] else []
    parts += [on.paint(escape(note), "dim") for note in notes]
    return "\n".join([*parts, *_guard(answer["guard"], on)])


def _line(row: View) -> list[str | Cell]:
    share, state = float(row["share"]), str(row["state"])
    if row["lifted_until"] is not None:
        state += f" until {_clock(float(row['lifted_until']))}"
    what = ", ".join(f"{word} {row[name]}" for name, word in _FILTERS if row[name]) or "everything"
    if row["session"]:
        what += f"; most by session {row['session']}"
    colour = _COLOURS.get(str(row["state"]), "red")
    return [
        str(row["name"]),
        str(row["per"]),
        usd(float(row["spent_usd"])),
        usd(float(row["limit_usd"])),
        f"{share:.0%}",
        usd(float(row["reserved_usd"])) if row["reserved_usd"] else "-",
        Cell(state, colour),
        what,
        str(row["resets"]) or "-",
        Cell(bar(share, 1.0, 12), colour),
    ]


def _guard(guard: View, on: Screen) -> list[str]:
    if not guard["on"]:
        return []
    stopped = [
        on.paint(
            escape(f"stopped since {_clock(float(one['since']))}: session {one['session']}: {one['why']}"),
            "red",
        )
        for one in guard["stopped"]
    ]
    return stopped or ["runaway guard: no session is stopped"]


def _clock(at: float) -> str:
    return time.strftime("%a %H:%M", time.localtime(at))


COMMANDS: tuple[Command, ...] = (
    Command("budgets", "what is spent of each budget, and what the runaway guard has stopped", "GET", "/budgets", budgets),
    Command(
        "budget", "how the budgets are; lift one, or restore it", "POST", "/budget", budgets, _budget_arguments,
        _budget_args, examples=(
            "ccmctl budget                      what is spent of each",
            "ccmctl budget lift daily --for 2h  let requests pass for two hours",
            "ccmctl budget restore daily        it holds again",
        ),
    ),
    Command("session", "let a session go on that the runaway guard has stopped", "POST", "/session/resume", say_text,
            _session_arguments, lambda given: {"session": given.session}),
)  # fmt: skip
