"""Budgets, guard and quota through a real ccm: a race of 64, the message, lifting, a restart, going elsewhere."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway, provider, providers
from tests.http1 import Reply, message, post
from tests.upstream import Upstream

MODEL = "claude-sonnet-4-5"  # 3 and 15 dollars a million
USAGE = {"input_tokens": 1000, "output_tokens": 500}
COST = 0.0105
TEXT = "tell me more " * 310  # about a thousand tokens


def answer(
    usage: dict[str, int] = USAGE, headers: dict[str, str] | None = None, stall: float = 0.0
) -> list[tuple[Any, ...]]:
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Yes."}], "usage": usage,
    }  # fmt: skip
    return [*([("stall", stall)] if stall else []), ("status", 200, headers or {}, body)]


def ask(gateway: Gateway, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    body = {"model": MODEL, "max_tokens": USAGE["output_tokens"], **fields}
    return post(gateway.base_url, message(TEXT, False, **body), headers)


def until_refused(gateway: Gateway, most: int = 12, **fields: Any) -> tuple[int, Reply]:
    """Asks one after the other until a budget says no for good; how many were answered before."""
    for n in range(most):
        reply = ask(gateway, **fields)
        while reply.status == 429 and reply.headers.get("x-should-retry") == "true":
            time.sleep(0.02)
            reply = ask(gateway, **fields)
        if reply.status == 429:
            return n, reply
        assert reply.status == 200, reply.body
    raise AssertionError(f"{most} requests were answered")


def line(gateway: Gateway, name: str) -> dict[str, Any]:
    """A budget as ccmctl tells it, when nothing is running any more."""
    for _ in range(100):
        told = json.loads(gateway.ctl("budgets", "--json", check=True).stdout)
        row = next(dict(row) for row in told["budgets"] if row["name"] == name)
        if not row["running"]:
            return row
    raise AssertionError(f"still reserved: {row}")


def test_a_race_the_message_a_restart_and_lifting(tmp_path: Path) -> None:
    """64 parallel requests against a budget for 10: never more than one over (issue: must show 4)."""
    with Upstream() as up:
        up.always("/a", answer(stall=0.3))
        config = providers(up, "a") + f"[budgets.daily]\nlimit_usd = {10 * COST}\n"
        gateway = Gateway(tmp_path, config).start()
        with ThreadPoolExecutor(64) as pool:
            replies = list(pool.map(lambda _: ask(gateway), range(64)))
        served = sum(reply.status == 200 for reply in replies)
        refused = [reply for reply in replies if reply.status == 429]
        assert served + len(refused) == 64
        assert served == len(up.seen("/a")) <= 11, "what is refused costs nothing"
        assert served >= 5, "and what has room is let in"
        up.always("/a", answer())
        more, last = until_refused(gateway)
        row = line(gateway, "daily")
        assert served + more in (10, 11)
        assert row["spent_usd"] == pytest.approx((served + more) * COST, rel=1e-6)
        assert row["state"] == "used up"

        error = last.json()["error"]
        assert error["type"] == "billing_error"
        assert last.headers["x-should-retry"] == "false"
        for word in ("budget daily", "$0.1", "begins anew", "`ccmctl budget lift daily`"):
            assert word in error["message"]

        assert gateway.stop() == 0
        gateway.start()
        assert ask(gateway).status == 429, "it survives a restart"
        assert line(gateway, "daily")["spent_usd"] == pytest.approx(row["spent_usd"], rel=1e-6)
        gateway.ctl("budget", "lift", "daily", "--for", "1h", check=True)
        assert ask(gateway).status == 200
        gateway.ctl("budget", "restore", "daily", check=True)
        assert ask(gateway).status == 429
        gateway.stop()


def test_warnings_a_providers_budget_and_a_downgrade(tmp_path: Path) -> None:
    with Upstream() as up:
        for name in ("a", "b", "c"):
            up.always(f"/{name}", answer())
        config = (
            providers(up, "a", "b", "c")
            + f"[budgets.of-a]\nlimit_usd = {5 * COST}\nprovider = 'a'\n"
            + f"[budgets.titles]\nlimit_usd = {COST}\nclass = 'subagent'\n"
            + "then = 'downgrade'\ndowngrade_to = 'c/claude-haiku-4-5'\n"
        )
        gateway = Gateway(tmp_path, config).start()
        heard = [ask(gateway) for _ in range(4)]
        assert line(gateway, "of-a")["spent_usd"] == pytest.approx(
            4 * COST
        )  # an answer is booked after it was given
        heard.append(ask(gateway))
        assert [reply.headers["x-ccm-provider"] for reply in heard] == ["a"] * 5
        warned = [reply.headers.get("x-ccm-budget", "") for reply in heard]
        assert warned[:4] == [""] * 4
        assert warned[4].startswith("budget of-a: 80 % used")
        assert line(gateway, "of-a")["state"] == "used up"
        assert ask(gateway).headers["x-ccm-provider"] == "b", "another provider may serve"

        agent = {"x-claude-code-agent-id": "a1", "x-claude-code-session-id": "s1"}
        first = ask(gateway, agent)
        assert first.headers["x-ccm-provider"] == "b"
        line(gateway, "titles")
        cheaper = ask(gateway, agent)
        assert cheaper.headers["x-ccm-provider"] == "c"
        assert up.seen("/c")[-1].json["model"] == "claude-haiku-4-5"
        assert "the request goes to c/claude-haiku-4-5" in cheaper.headers["x-ccm-budget"]
        gateway.stop()


def test_the_guard_stops_a_runaway_until_it_is_resumed(tmp_path: Path) -> None:
    with Upstream() as up:
        up.always("/a", answer())
        gateway = Gateway(tmp_path, providers(up, "a") + "[guard]\nrepeats = 2\n").start()
        session = {"x-claude-code-session-id": "5e5510"}

        def turns(count: int) -> list[dict[str, Any]]:
            history: list[dict[str, Any]] = [{"role": "user", "content": "fix it"}]
            for n in range(count):
                call = {"type": "tool_use", "id": f"t{n}", "name": "Bash", "input": {"command": "make"}}
                result = {"type": "tool_result", "tool_use_id": f"t{n}", "content": "failed"}
                history += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
            return history

        assert "x-ccm-budget" not in ask(gateway, session, messages=turns(1)).headers
        warned = ask(gateway, session, messages=turns(2))
        assert "Bash was called with the same arguments 2 times" in warned.headers["x-ccm-budget"]
        stopped = ask(gateway, session, messages=turns(4))
        assert (stopped.status, stopped.headers["x-should-retry"]) == (429, "false")
        assert "`ccmctl session resume 5e5510`" in stopped.json()["error"]["message"]
        assert ask(gateway, session).status == 429
        assert ask(gateway).status == 200, "others go on"
        gateway.ctl("session", "resume", "5e5510", check=True)
        assert ask(gateway, session, messages=turns(4)).status == 200
        gateway.stop()


def test_r40_the_plan_first_the_next_one_when_its_window_is_spent_and_back(tmp_path: Path) -> None:
    def plan(used: float, reset_s: float) -> dict[str, str]:
        return {
            "anthropic-ratelimit-unified-status": "allowed",
            "anthropic-ratelimit-unified-5h-utilization": str(used),
            "anthropic-ratelimit-unified-5h-reset": str(int(time.time() + reset_s)),
        }

    with Upstream() as up:
        up.always("/api", answer())
        config = provider(up, "api", priority=1) + provider(up, "plan", priority=2, prefer_until="limit")
        gateway = Gateway(tmp_path, config).start()
        up.script("/plan", answer(headers=plan(0.75, 600)))
        up.always("/plan", lambda _: answer(headers=plan(1.0, 3)))
        assert ask(gateway).headers["x-ccm-provider"] == "plan"
        rows = {
            row["name"]: row for row in json.loads(gateway.ctl("providers", "--json").stdout)["providers"]
        }
        told = rows["plan"]["endpoints"][0]["quota"]
        assert (told["left_percent"], told["what"]) == (25.0, "5h window")
        assert 540 < told["resets_s"] <= 600
        assert rows["api"]["endpoints"][0]["quota"] is None
        assert ask(gateway).headers["x-ccm-provider"] == "plan"
        assert ask(gateway).headers["x-ccm-provider"] == "api", "before it is refused even once"
        up.always("/plan", answer(headers=plan(0.0, 600)))
        deadline = time.monotonic() + 6
        while (back := ask(gateway).headers["x-ccm-provider"]) == "api" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert back == "plan", "at its reset it comes back by itself"
        gateway.stop()
