"""The table of the control room: every route answers, strangers are told what there is, keys stay inside."""

from __future__ import annotations

import json

import pytest

from ccm.control import api, figures, observing
from ccm.errors import Refusal
from ccm.observe.record import RequestRecord


def ask(core, method: str, path: str, **args):
    reply = api.call(core, method, path, args)
    return reply.status, json.loads(reply.body)


@pytest.mark.parametrize(
    "route",
    [one for one in api.ROUTES if one.method == "GET" and one not in figures.ROUTES + observing.ROUTES],
    ids=lambda r: r.path,
)
def test_every_reading_route_answers(fake_core, route) -> None:
    fake_core.recent.append(RequestRecord("req_1", 5.0, ending="complete"))
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


def test_a_request_is_explained_bare_or_with_its_headers(fake_core) -> None:
    body = {"model": "claude-opus-5-5", "messages": [], "max_tokens": 3}
    assert ask(fake_core, "POST", "/explain", **body)[1]["order"] == ["anthropic/claude-opus-5-5"]
    assert ask(fake_core, "POST", "/explain", request=body, headers={"X-App": "cli"})[0] == 200
    assert fake_core.asked == [(body, {}), (body, {"x-app": "cli"})]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"messages": []}, "Messages request"),
        ({"model": 3}, "Messages request"),
        ({"request": {"model": "m"}, "headers": []}, "'headers'"),
        ({"request": {"model": "m"}, "headers": {"a": 1}}, "'headers'"),
    ],
)
def test_what_is_no_request_is_not_explained(fake_core, args: dict, says: str) -> None:
    code, answer = ask(fake_core, "POST", "/explain", **args)
    assert code == 400 and says in answer["error"] and fake_core.asked == []


def test_a_refusal_is_an_explanation_too(fake_core) -> None:
    def refuse(body, headers):
        raise Refusal(404, "not_found_error", "nobody has it")

    fake_core.explain_request = refuse
    code, answer = ask(fake_core, "POST", "/explain", model="m")
    assert code == 200 and answer["refused"] == "404 not_found_error: nobody has it" and answer["order"] == []


def test_drill_on_and_off(fake_core) -> None:
    code, answer = ask(fake_core, "POST", "/drill", name="openai", fault="529", requests=3, **{"for": "5m"})
    assert code == 200 and answer["drill"]["requests"] == 3 and "overloaded" in answer["text"]
    assert ask(fake_core, "GET", "/status")[1]["drills"][0]["provider"] == "openai"
    assert b"drill begins" in fake_core.sink.lines[-1]
    assert ask(fake_core, "POST", "/drill", off=True)[1]["text"] == "ended: openai 529"
    assert ask(fake_core, "GET", "/status")[1]["drills"] == []


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ({"name": "nobody", "fault": "529"}, 404, "configured:"),
        ({"name": "groq", "fault": "529"}, 409, "no usable key"),
        ({"name": "openai"}, 400, "'fault'"),
        ({"name": "openai", "fault": "flood"}, 400, "known: 429"),
        ({"name": "openai", "fault": "529", "requests": "many"}, 400, "whole number"),
        ({"name": "openai", "fault": "529", "for": "2h"}, 400, "1 h"),
    ],
)
def test_no_drill_where_there_can_be_none(fake_core, args: dict, code: int, says: str) -> None:
    found, answer = ask(fake_core, "POST", "/drill", **args)
    assert found == code and says in answer["error"] and fake_core.drills() == []


def test_a_switch_of_one_class(fake_core) -> None:
    args = {"name": "openai", "class": "think", "for": "30m"}
    assert "for requests of class think now for 30m" in ask(fake_core, "POST", "/switch", **args)[1]["text"]
    assert fake_core.router.primary is None and fake_core.router.classes["think"][0] == "openai"
    shown = ask(fake_core, "GET", "/status")[1]
    assert shown["primary"] is None and shown["classes"]["think"]["primary"] == "openai"
    code, answer = ask(fake_core, "POST", "/switch", name="openai", **{"class": "thnk"})
    assert code == 400 and "did you mean think?" in answer["error"]
    assert "was openai" in ask(fake_core, "POST", "/switch", auto=True, **{"class": "think"})[1]["text"]
    assert fake_core.router.classes["think"] == (None, None)
    assert ask(fake_core, "GET", "/status")[1]["classes"] == {}
