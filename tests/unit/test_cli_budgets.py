"""`ccmctl budget`, `budgets` and `session`, down to the meter and back."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ccm.cli import budgets as cli
from ccm.cli.arguments import Parser
from ccm.cli.render import Screen
from ccm.control import api
from ccm.errors import Refusal
from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord
from ccm.settings import Budget, GuardSettings, UsageSettings
from ccm.usage.meter import Meter

PRICE = Price(1.0, 1.0)
SETTINGS = UsageSettings(
    budgets=(
        Budget("daily", 2.0),
        Budget("odd", 5.0, per="session", provider="a", then="warn"),
        Budget("free", 9.0, project="none"),
    ),
    guard=GuardSettings(repeats=1),
)


def spend(meter: Meter, dollars: float, price: Price = PRICE) -> None:
    record = RequestRecord(
        f"r{time.monotonic_ns()}", time.time(), provider="a", endpoint="a", model="m", session="s1"
    )
    record.price, record.usage, record.ending = price, Usage(input=int(dollars * 1e6)), "complete"
    record.attempts.append(Attempt("a", "m", "200", 1.0))
    meter.settle(record)


def run(core: Any, *argv: str, on: Screen = Screen()) -> str:  # noqa: B008
    """What a command shows; its arguments go through the parser and the control table."""
    command = next(one for one in cli.COMMANDS if one.name == argv[0])
    parser = Parser(prog="ccmctl")
    command.arguments(parser)
    given = parser.parse_args(argv[1:])
    given.parser = parser
    reply = api.call(core, command.method, command.path, json.loads(json.dumps(dict(command.args(given)))))
    answer = json.loads(reply.body)
    assert reply.status == 200, answer
    return command.show(answer, on)


@pytest.fixture
def core(fake_core: Any) -> Any:
    fake_core.meter = Meter(SETTINGS, None)
    return fake_core


def test_the_list(core: Any) -> None:
    spend(core.meter, 1.7)
    spend(core.meter, 1.0, Price())
    text = run(core, "budget")
    assert text == run(core, "budget", "list") == run(core, "budgets")
    head, daily, odd, free, *notes = text.splitlines()
    assert head.split()[:5] == ["budget", "per", "spent", "of", "used"]
    assert daily.split()[:8] == ["daily", "day", "$1.70", "$2.00", "85%", "-", "over", "80"]
    assert "everything" in daily and "█" in daily
    assert "provider a; most by session s1" in odd
    assert "project none" in free and "0%" in free
    assert notes == [
        "without a known price, and so not counted: 1 requests",
        "without the usage store, budgets know only what was spent since the start",
        "runaway guard: no session is stopped",
    ]


def test_nothing_to_list(fake_core: Any) -> None:
    fake_core.meter = Meter(UsageSettings(), None)
    assert run(fake_core, "budgets") == "no budgets: see [budgets] in the README"


def test_lift_and_restore(core: Any) -> None:
    spend(core.meter, 2.0)
    assert "used up" in run(core, "budgets")
    assert run(core, "budget", "lift", "daily", "--for", "2h").startswith("the budget daily is lifted until ")
    assert "lifted until" in run(core, "budgets")
    assert run(core, "budget", "restore", "daily") == "the budget daily holds again"
    assert "used up" in run(core, "budgets", on=Screen(200, True))


def test_a_stopped_session_is_shown_and_resumed(core: Any) -> None:
    record = RequestRecord("x", time.time(), provider="a", model="m", session="abcdef")
    with pytest.raises(Refusal):
        core.meter.admit(record, PRICE, 1, 1, lambda: [("Bash", 1)] * 2)
    assert "session abcdef: Bash was called with the same arguments 2 times" in run(core, "budgets")
    assert run(core, "session", "resume", "abc") == "session abcdef may go on"


@pytest.mark.parametrize(
    "argv",
    [("budget", "lift"), ("budget", "restore", "daily", "--for", "1h"), ("budget", "list", "daily"), ("session",),
     ("budget", "daily"), ("session", "stop", "x")],
)  # fmt: skip
def test_what_makes_no_sense_is_said_at_once(core: Any, argv: tuple[str, ...], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        run(core, *argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "args", "status", "says"),
    [
        ("/budget", {"name": "nope"}, 404, "there are: daily, odd, free"),
        ("/budget", {"for": "1h"}, 400, "which budget?"),
        ("/budget", {"name": "daily", "restore": True, "for": "1h"}, 400, "leave 'for' out"),
        ("/budget", {"name": "daily", "for": "soon"}, 400, "duration"),
        ("/budget", {"name": 3}, 400, "'name'"),
        ("/session/resume", {}, 400, "'session'"),
        ("/session/resume", {"session": "x"}, 404, "none is stopped"),
    ],
)
def test_refusals_say_what_would_work(
    core: Any, path: str, args: dict[str, Any], status: int, says: str
) -> None:
    reply = api.call(core, "POST", path, args)
    assert reply.status == status
    assert says in json.loads(reply.body)["error"]
