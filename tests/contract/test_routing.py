"""Rules, names and limits through the public port: what is asked for -> model and providers."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, provider, providers
from tests.http1 import message, post
from tests.upstream import Upstream

RULES = """
[routes]
background = "c/small"
think = "b"
[[rules]]
name = "blue"
when = { header = { x-team = "blue" } }
use = { provider = "c", model = "blue-model", only = true }
[[rules]]
name = "agents"
when = { class = "subagent", model = "claude-opus-*" }
use = "b/agent-model"
"""


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    models = {"default": "own-model"}
    gw = shared_gateway("rules", providers(up, "a", "b", "c", models=models) + RULES)
    up.reset()
    gw.reset()
    return gw


def went(up: Upstream) -> tuple[str, str]:
    """(provider, model) of the only request that arrived."""
    (seen,) = up.seen()
    return seen.path.split("/")[1], seen.json["model"]


@pytest.mark.parametrize(
    ("fields", "headers", "expected"),
    [
        ({}, {}, ("a", "own-model")),
        ({"thinking": {"type": "adaptive"}}, {}, ("b", "own-model")),
        ({"model": "claude-haiku-4-5"}, {}, ("c", "small")),
        ({}, {"x-claude-code-request-class": "auxiliary"}, ("c", "small")),
        ({}, {"x-team": "blue"}, ("c", "blue-model")),
        ({"model": "claude-opus-5-5"}, {"x-claude-code-agent-id": "7"}, ("b", "agent-model")),
        ({"thinking": {"type": "adaptive"}}, {"x-ccm-provider": "c"}, ("c", "own-model")),
        ({"model": "c,claude-sonnet-5-5"}, {}, ("c", "own-model")),
        ({"model": "c/claude-sonnet-5-5"}, {}, ("c", "own-model")),
        ({"model": "claude-sonnet-5-5[1m]"}, {}, ("a", "own-model")),
        ({"system": "<CCM-SUBAGENT-MODEL>c,tagged</CCM-SUBAGENT-MODEL>You are"}, {}, ("c", "tagged")),
        ({"system": "<CCR-SUBAGENT-MODEL>c/tagged</CCR-SUBAGENT-MODEL>You are"}, {}, ("c", "tagged")),
        ({"system": "<CCM-SUBAGENT-MODEL>nobody,x</CCM-SUBAGENT-MODEL>You are"}, {}, ("a", "own-model")),
    ],
)
def test_where_a_request_goes(
    up: Upstream, gateway: Gateway, fields: dict[str, Any], headers: dict[str, str], expected: tuple[str, str]
) -> None:
    reply = post(gateway.base_url, message(**fields), headers)
    assert reply.status == 200, reply.body
    assert went(up) == expected


def test_r51_the_answer_says_who_gave_it_and_why(up: Upstream, gateway: Gateway) -> None:
    reply = post(gateway.base_url, message(), {"x-team": "blue"})
    assert reply.headers["x-ccm-provider"] == "c"
    assert reply.headers["x-ccm-model"] == "blue-model"
    assert reply.headers["x-ccm-route"].startswith("blue: ")
    assert reply.headers["x-ccm-attempts"] == "c=200"


def test_a_rule_without_only_fails_over_to_the_others(up: Upstream, gateway: Gateway) -> None:
    up.always("/b", ("status", 500, {}, answers.error("anthropic", 500, "no")))
    reply = post(gateway.base_url, message(thinking={"type": "adaptive"}))
    assert reply.status == 200
    assert reply.headers["x-ccm-attempts"] == "b=500,a=200"
    up.always("/c", ("status", 500, {}, answers.error("anthropic", 500, "no")))
    reply = post(gateway.base_url, message(), {"x-team": "blue"})
    assert reply.status in (502, 503) and "c" in reply.error["message"]


def test_r30_an_error_before_the_first_content_of_a_200_fails_over(up: Upstream, gateway: Gateway) -> None:
    opening = answers.events("anthropic")[:2]
    up.always("/a", [("sse", [*opening, answers.error("anthropic", 529, "Overloaded")])])
    reply = post(gateway.base_url, message())
    assert reply.status == 200 and reply.headers["x-ccm-provider"] == "b"
    assert re.match(r"a=\d+", reply.headers["x-ccm-attempts"])


def test_r31_when_all_fail_the_status_is_true_and_says_when_to_come_back(
    up: Upstream, gateway: Gateway
) -> None:
    for name in "abc":
        up.always(
            f"/{name}", ("status", 429, {"retry-after": "20"}, answers.error("anthropic", 429, "slow down"))
        )
    reply = post(gateway.base_url, message())
    assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
    assert 1 <= int(reply.headers["retry-after"]) <= 20
    assert reply.headers["x-ccm-attempts"] == "a=429,b=429,c=429"


def test_r38_a_plan_of_one_at_a_time_serves_everybody_in_turn(
    up: Upstream, shared_gateway: Callable[..., Gateway]
) -> None:
    gw = shared_gateway("capped", provider(up, "one", max_in_flight=1))
    up.reset()
    statuses: list[int] = []

    def done() -> None:
        statuses.append(post(gw.base_url, message(stream=False), timeout=20).status)

    up.always("/one", [("stall", 0.05), ("answer",)])
    threads = [threading.Thread(target=done) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 12
    arrived = sorted(seen.at for seen in up.seen("/one"))
    assert all(later - earlier >= 0.045 for earlier, later in itertools.pairwise(arrived))


def test_r47_a_conversation_stays_and_new_ones_spread(
    up: Upstream, shared_gateway: Callable[..., Gateway]
) -> None:
    gw = shared_gateway("turns", providers(up, "a", "b") + '[load_balancing]\nstrategy = "round-robin"\n')
    up.reset()
    homes = []
    for session in ("s1", "s2", "s3", "s4"):
        whom = {
            post(gw.base_url, message(), {"x-claude-code-session-id": session}).headers["x-ccm-provider"]
            for _ in range(4)
        }
        assert len(whom) == 1, "all turns of a session at one provider"
        homes += whom
    assert sorted(homes) == ["a", "a", "b", "b"]


def test_r57_the_client_leaves_and_nothing_goes_on(up: Upstream, gateway: Gateway) -> None:
    up.always("/", [("stall", 10)])
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        post(gateway.base_url, message(), timeout=0.3)
    (seen,) = up.wait("/", 1)
    assert seen.answered.wait(3), "the provider's side was not closed"
    time.sleep(0.2)
    assert len(up.seen()) == 1 and time.monotonic() - began < 5
