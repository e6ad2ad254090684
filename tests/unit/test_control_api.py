"""The table of the control room: every route answers, strangers are told what there is, keys stay inside."""

from __future__ import annotations

import json

import pytest

from ccm.control import api


def ask(core, method: str, path: str, **args):
    reply = api.call(core, method, path, args)
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize(
    "route", [route for route in api.ROUTES if route.method == "GET"], ids=lambda r: r.path
)
def test_every_reading_route_answers(fake_core, route) -> None:
    reply = api.call(fake_core, "GET", route.path, {})
    assert reply.status == 200 and reply.content_type == route.content_type and reply.body


def test_the_table_lists_itself(fake_core) -> None:
    _, answer = ask(fake_core, "GET", "/")
    assert {row["path"] for row in answer["routes"]} >= {"/status", "/switch", "/stop", "/metrics.prom"}


def test_switch_and_back(fake_core) -> None:
    assert ask(fake_core, "POST", "/switch", name="openai", **{"for": "30m"})[1]["seconds"] == 1800
    assert ask(fake_core, "POST", "/switch", name="openai", **{"for": 60})[1]["seconds"] == 60
    assert fake_core.router.primary == "openai"
    assert ask(fake_core, "POST", "/switch", auto=True)[0] == 200
    assert fake_core.router.primary is None


@pytest.mark.parametrize(
    ("method", "path", "args", "status", "says"),
    [
        ("GET", "/nothing", {}, 404, "GET / lists"),
        ("GET", "/switch", {}, 405, "POST"),
        ("DELETE", "/status", {}, 405, "GET"),
        ("POST", "/switch", {}, 400, "'name'"),
        ("POST", "/switch", {"name": 3}, 400, "'name'"),
        ("POST", "/switch", {"name": "openai", "for": "soon"}, 400, "duration"),
        ("POST", "/switch", {"name": "openai", "for": float("nan")}, 400, "duration"),
        ("POST", "/switch", {"name": "openai", "for": True}, 400, "duration"),
        ("POST", "/switch", {"name": "openai", "until": 3}, 400, "no argument 'until'"),
        ("POST", "/switch", {"name": "nobody"}, 404, "configured:"),
        ("POST", "/stop", {"drain": "no"}, 400, "true or false"),
        ("GET", "/requests", {"limit": "-1"}, 400, "number"),
        ("POST", "/log-level", {"level": "loud"}, 400, "debug"),
    ],
)
def test_refusals_say_what_would_work(
    fake_core, method: str, path: str, args: dict, status: int, says: str
) -> None:
    code, answer = ask(fake_core, method, path, **args)
    assert code == status and says in answer["error"]
    assert fake_core.router.primary is None and fake_core.stops == []


def test_a_fault_of_ours_is_an_answer_and_a_log_line(fake_core) -> None:
    def broken():
        raise RuntimeError("with sk-canary-0123456789abcdef inside")

    fake_core.reloads = broken
    code, answer = ask(fake_core, "POST", "/reload")
    assert code == 500 and "RuntimeError" in answer["error"] and "inside ccm" in answer["error"]
    assert b"Traceback" in fake_core.sink.lines[-1] and b"canary-0123" not in fake_core.sink.lines[-1]


def test_no_answer_carries_a_key(fake_core) -> None:
    fake_core.router.rows[0]["reason"] = "rejected sk-canary-0123456789abcdef"
    reply = api.call(fake_core, "GET", "/status", {})
    assert b"canary-0123" not in reply.body and b"sk-can...cdef" in reply.body
