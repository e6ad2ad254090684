"""Commands that go on: `requests -f` over restarts and in a crowd, `--watch`, and the wait of a drill."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ccm.cli import ctl, drilling, follow
from ccm.cli.render import Screen
from ccm.control import recent
from ccm.control.client import NotRunning
from ccm.errors import ControlError
from ccm.observe.record import Attempt, RequestRecord


class Over(Exception):
    """The end of an endless loop in a test."""


def record(number: int) -> RequestRecord:
    return RequestRecord(
        f"r{number}",
        1e6,
        asked_model="m",
        status=200,
        ending="complete",
        attempts=[Attempt("a", "m", "200", 0.1)],
    )


def shown(capsys) -> list[str]:
    return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]


def test_every_request_once_in_order(fake_core, capsys) -> None:
    fake_core.recent.extend(record(n) for n in range(5))
    steps = iter([3, 0, 30, 1])
    made = [5]

    def ask(path, method, target, args):
        return recent.requests(fake_core, args["limit"], args.get("after"))

    def pause(seconds: float) -> None:
        try:
            for _ in range(next(steps)):
                fake_core.recent.append(record(made[0]))
                made[0] += 1
        except StopIteration:
            raise Over from None

    with pytest.raises(Over):
        follow.requests(SimpleNamespace(limit=2, json=True), "p", ask, pause)
    assert shown(capsys) == [f"r{n}" for n in range(3, 39)]


def test_a_ccm_that_comes_back_is_waited_for(fake_core, capsys) -> None:
    calls = []

    def ask(path, method, target, args):
        calls.append(args)
        if len(calls) == 1:
            fake_core.recent.append(record(1))
        elif len(calls) in (2, 3):
            raise NotRunning(path)
        elif len(calls) == 4:
            fake_core.recent.clear()
            fake_core.recent.append(record(9))
        elif len(calls) == 5:
            raise Over
        return recent.requests(fake_core, args["limit"], args.get("after"))

    with pytest.raises(Over):
        follow.requests(SimpleNamespace(limit=20, json=True), "p", ask, lambda seconds: None)
    out = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.out.splitlines()] == ["r1", "r9"]
    assert out.err.count("waiting for it") == 1 and "may be missing" in out.err


def test_lines_for_people(fake_core, capsys) -> None:
    def ask(path, method, target, args):
        if "after" in args:
            raise Over
        fake_core.recent.append(record(1))
        return recent.requests(fake_core, 5)

    with pytest.raises(Over):
        follow.requests(SimpleNamespace(limit=5, json=False), "p", ask, lambda seconds: None)
    (line,) = capsys.readouterr().out.splitlines()
    assert "200 complete  m: a 200" in line and line.endswith("r1")


def test_watch_puts_blocks_one_after_the_other_in_a_pipe(capsys) -> None:
    codes = iter([0, 0, 3])

    def once() -> int:
        print("block")
        return next(codes)

    assert follow.watch(1.0, once, lambda seconds: None) == 3
    assert capsys.readouterr().out == "block\n\nblock\n\nblock\n"


def test_watch_is_wired(monkeypatch, capsys) -> None:
    answers = iter([{"status": "ok"}, {"status": "degraded"}])

    def ask(path, *more):
        try:
            return next(answers)
        except StopIteration:
            raise NotRunning(path) from None

    monkeypatch.setattr(ctl, "ask", ask)
    monkeypatch.setattr(follow.watch, "__defaults__", (lambda seconds: None,))
    assert ctl.run(["health", "--watch", "0.5"]) == 3
    assert capsys.readouterr().out == "ok\n\ndegraded\n\n"


# ---- a drill that is waited for


def row(on: bool, *met: tuple[str, bool]) -> dict:
    return {
        "drills": [
            {"id": 4, "on": on, "over": "" if on else "after 1 request", "provider": "a", "fault": "529", "count": len(met),
             "left_s": 3.0, "left_requests": 1, "begun_at": 1e6,
             "requests_met": [
                 {"id": id, "done": done, "at": 1e6, "outcome": "answered by b instead", "attempts": ["a 529", "b 200"],
                  "added_s": 0.25, "ending": "complete", "failed_over": True}
                 for id, done in met
             ]}
        ]
    }  # fmt: skip


def test_a_drill_is_waited_for_until_its_requests_are_done() -> None:
    views = iter([row(True), row(True, ("r1", True)), row(False, ("r1", True), ("r2", False)),
                  row(False, ("r1", True), ("r2", True))])  # fmt: skip
    told: list[str] = []
    found = drilling.wait(4, "p", lambda *a: next(views), lambda met: told.append(met["id"]), lambda s: None)
    assert told == ["r1", "r2"] and not found["on"]
    assert drilling.summary(found) == (
        "drill over (after 1 request): 2 met it, 2 of 2 answered all the same, 2 by another provider; 250ms lost at worst"
    )


def test_a_request_that_never_ends_is_not_waited_for_for_ever() -> None:
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += 10.0

    found = drilling.wait(4, "p", lambda *a: row(False, ("r1", False)), None, pause, lambda: now[0])
    assert now[0] == 30.0 and drilling.summary(found).endswith("no request met it")


def test_a_drill_that_a_restart_ended_is_said() -> None:
    with pytest.raises(ControlError, match="no drill outlives"):
        drilling.wait(5, "p", lambda *a: row(True), None, lambda s: None)


def test_the_report_of_drills() -> None:
    page = drilling.report(row(True, ("r1", True)), Screen())
    assert page.startswith("a 529 is on: for 1 more request, 3s at most\n")
    assert page.endswith("r1: answered by b instead, a 529 > b 200, 250ms lost")
    assert "no request met it yet" in drilling.report(row(True), Screen())
