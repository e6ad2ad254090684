"""Drills against a real ccm: every fault, before and after the commit, looks like the provider's own and is told truly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ccm.control import client
from tests import answers, grammar
from tests.gateway import Gateway, provider
from tests.http1 import message, post
from tests.upstream import Upstream

DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini")
LONG = "one two three four five six seven eight nine ten. " * 8


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    limits = {"header_s": 1.0, "first_content_s": 1.0, "idle_s": 1.0}
    tables = [provider(up, f"x-{dialect}", dialect, priority=1, timeouts=limits) for dialect in DIALECTS]
    gw = shared_gateway("drill", "\n".join([*tables, provider(up, "spare", priority=9, timeouts=limits)]))
    up.reset()
    ask(gw, "POST", "/drill", {"off": True})
    ask(gw, "POST", "/reset")
    return gw


def ask(gateway: Gateway, method: str, path: str, args: dict[str, Any] | None = None) -> Any:
    return client.ask(gateway.env["CCM_SOCKET"], method, path, args, 5.0)


def drilled(gateway: Gateway, name: str, fault: str, **more: Any) -> None:
    ask(gateway, "POST", "/switch", {"name": name})
    ask(gateway, "POST", "/drill", {"name": name, "fault": fault, **more})


def report(gateway: Gateway) -> dict[str, Any]:
    """The youngest drill, when the requests that met it are accounted for."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        row: dict[str, Any] = ask(gateway, "GET", "/drill")["drills"][0]
        if row["met"] and all(met["done"] for met in row["requests_met"]):
            return row
        time.sleep(0.01)
    raise AssertionError(f"no request met the drill: {row}")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    ("fault", "result"),
    [("429", "429"), ("500", "500"), ("529", "529"), ("refuse", "connect"), ("garbage", "protocol")],
)
def test_a_fault_before_the_commit_costs_the_client_nothing(
    up: Upstream, gateway: Gateway, name: str, fault: str, result: str, stream: bool
) -> None:
    drilled(gateway, f"x-{name}", fault)
    reply = post(gateway.base_url, message(stream=stream))
    assert reply.status == 200
    assert reply.headers["x-ccm-provider"] != f"x-{name}"
    (met,) = report(gateway)["requests_met"]
    assert met["id"] == reply.headers["request-id"] and met["failed_over"] and met["status"] == 200
    assert set(met["met_as"]) <= {result, "502"} and met["outcome"].endswith("instead")
    assert met["added_s"] is not None and met["added_s"] < 3
    called = [seen for seen in up.ledger if seen.method == "POST" and seen.path.startswith(f"/x-{name}/")]
    assert len(called) == (
        1 if fault == "garbage" else 0
    )  # what answers in its place does not bother the provider
    assert post(gateway.base_url, message()).status == 200


@pytest.mark.parametrize("name", ["anthropic", "openai_chat"])
def test_hang_runs_into_the_real_time_limit(gateway: Gateway, name: str) -> None:
    drilled(gateway, f"x-{name}", "hang")
    began = time.monotonic()
    reply = post(gateway.base_url, message())
    assert reply.status == 200 and 0.9 < time.monotonic() - began < 3
    (met,) = report(gateway)["requests_met"]
    assert met["met_as"] == ["head_timeout"] and met["failed_over"] and met["added_s"] >= 0.9


def test_slow_is_late_and_too_slow_fails_over(gateway: Gateway) -> None:
    drilled(gateway, "x-anthropic", "slow", delay="0.4s")
    began = time.monotonic()
    reply = post(gateway.base_url, message())
    assert reply.headers["x-ccm-provider"] == "x-anthropic" and time.monotonic() - began >= 0.4
    grammar.check(reply.events)
    (met,) = report(gateway)["requests_met"]
    assert met["outcome"] == "answered by x-anthropic, late" and met["added_s"] == 0.4
    drilled(gateway, "x-anthropic", "slow", delay="5s")
    assert post(gateway.base_url, message()).headers["x-ccm-provider"] != "x-anthropic"
    (met,) = report(gateway)["requests_met"]
    assert met["met_as"] == ["first_content_timeout"]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        *((fault, name) for fault in ("cut", "garbage") for name in DIALECTS),
        ("hang", "anthropic"),
        ("hang", "gemini"),
    ],
)
def test_a_fault_after_the_commit_is_one_honest_error(
    up: Upstream, gateway: Gateway, name: str, fault: str
) -> None:
    up.always(f"/x-{name}", ("sse", answers.events(name, LONG), 0.01))
    drilled(gateway, f"x-{name}", fault, after=6)
    reply = post(gateway.base_url, message())
    assert reply.status == 200 and reply.headers["x-ccm-provider"] == f"x-{name}"
    kinds = [event["type"] for event in reply.events]
    assert kinds[-1] == "error" and "message_stop" not in kinds
    assert LONG.startswith(reply.text) and reply.text
    row = report(gateway)
    (met,) = row["requests_met"]
    assert met["ending"] == "broken" and "error event" in met["outcome"] and not met["failed_over"]
    failures = ask(gateway, "GET", "/status")["providers"]
    mine = next(one for one in failures if one["name"] == f"x-{name}")
    assert mine["last_error"]  # its health learnt of it as of any other failure
    assert post(gateway.base_url, message()).status == 200


def test_a_whole_answer_that_is_cut(gateway: Gateway) -> None:
    drilled(gateway, "x-openai_chat", "cut")
    reply = post(gateway.base_url, message(stream=False))
    assert reply.status == 200 and reply.headers["x-ccm-provider"] != "x-openai_chat"
    assert report(gateway)["requests_met"][0]["met_as"] == ["broken"]


def test_the_breaker_opens_as_for_a_real_failure(gateway: Gateway) -> None:
    drilled(gateway, "x-gemini", "500", **{"for": "20s"})
    for _ in range(8):
        assert post(gateway.base_url, message()).status == 200
    rows = {row["name"]: row for row in ask(gateway, "GET", "/providers")["providers"]}
    assert rows["x-gemini"]["state"] == "open"
    assert report(gateway)["count"] < 8  # an open breaker keeps requests away from the fault
    shown = gateway.ctl("status", check=True).stdout
    assert "x-gemini 500 is on" in shown
    assert gateway.ctl("drill", "--off", check=True).stdout == "ended: x-gemini 500\n"
    assert "is on" not in gateway.ctl("status", check=True).stdout


def test_a_drill_does_not_outlive_ccm(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    gw = fresh(provider(up, "alone"))
    ask(gw, "POST", "/drill", {"name": "alone", "fault": "529", "for": "1h"})
    assert ask(gw, "GET", "/status")["drills"][0]["provider"] == "alone"
    gw.stop()
    gw.start()
    assert ask(gw, "GET", "/drill") == {"drills": []}
    assert post(gw.base_url, message()).headers["x-ccm-provider"] == "alone"


def test_ccmctl_waits_and_tells(gateway: Gateway) -> None:
    timer = threading.Timer(0.6, lambda: post(gateway.base_url, message()))
    ask(gateway, "POST", "/switch", {"name": "x-anthropic"})
    timer.start()
    done = gateway.ctl("drill", "x-anthropic", "529")
    timer.join()
    assert done.returncode == 0, done.stderr
    first, line, last = done.stdout.splitlines()
    assert first.startswith("drill: the next request to x-anthropic within 1m") and "overloaded" in first
    assert "x-anthropic 529 > x-anthropic 529 > " in line and "instead" in line and "lost" in line
    assert last.startswith(
        "drill over (after 1 request): 1 met it, 1 of 1 answered all the same, 1 by another"
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nobody", "529"), "there is no provider"),
        (("x-anthropic", "529", "--for", "2h"), "1 h at most"),
        (("x-anthropic", "slow", "--after", "3"), "cut, garbage, hang"),
    ],
)
def test_ccmctl_says_what_cannot_be(gateway: Gateway, args: tuple[str, ...], says: str) -> None:
    done = gateway.ctl("drill", *args)
    assert done.returncode == 1 and says in done.stderr


def test_json_is_the_whole_report(gateway: Gateway) -> None:
    done = gateway.ctl("drill", "x-anthropic", "529", "--for", "0.5s", "--json")
    row = json.loads(done.stdout)
    assert (row["on"], row["over"], row["requests_met"]) == (False, "its time is over", [])
