"""POST /v1/messages/count_tokens: the provider's own count where it has one, else an estimate; never a failure (R45)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import Reply, message, post
from tests.upstream import Upstream

PATH = "/v1/messages/count_tokens?beta=true"


def count(gateway: Gateway, body: dict[str, Any]) -> Reply:
    body = {k: v for k, v in body.items() if k not in ("stream", "max_tokens")}
    return post(gateway.base_url, body, path=PATH)


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dialect = params.get("dialect", "anthropic")
    gw = shared_gateway(dialect, providers(up, "a", "b", dialect=dialect))
    up.reset()
    gw.reset()
    return gw


def asked(up: Upstream) -> list[str]:
    return [s.path.partition("?")[0] for s in up.ledger]


def test_anthropic_counts_itself(up: Upstream, gateway: Gateway) -> None:
    up.aside("/a", ("status", 200, {}, {"input_tokens": 4321}))
    reply = count(gateway, message("how much is it"))
    assert reply.status == 200
    assert reply.json()["input_tokens"] == 4321
    assert asked(up) == ["/a/v1/messages/count_tokens"]


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "openai_responses", "gemini"])
def test_every_dialect_answers(up: Upstream, gateway: Gateway, dialect: str) -> None:
    reply = count(
        gateway,
        message(
            "word " * 1000, system="You are kind.", tools=[{"name": "T", "input_schema": {"type": "object"}}]
        ),
    )
    assert reply.status == 200
    assert 800 < reply.json()["input_tokens"] < 2500


def test_an_estimate_counts_system_tools_and_messages(
    up: Upstream, shared_gateway: Callable[..., Gateway]
) -> None:
    gw = shared_gateway("estimate", providers(up, "a", dialect="openai_chat"))
    small = message("hi")
    tool = {"name": "Read", "description": "Reads a file. " * 100, "input_schema": {"type": "object"}}
    counts = [
        count(gw, body).json()["input_tokens"]
        for body in (
            small,
            message("hi", system="Be kind. " * 300),
            message("hi", tools=[tool]),
            message("hi " * 1000),
        )
    ]
    assert 1 <= counts[0] < 100
    assert all(n > counts[0] + 200 for n in counts[1:]), counts


@pytest.mark.parametrize("code", [404, 405, 500, 529])
def test_a_provider_that_cannot_count_is_no_failure(up: Upstream, gateway: Gateway, code: int) -> None:
    for name in ("/a", "/b"):
        up.aside(name, ("status", code, {}, answers.error("anthropic", code, "no")))
    reply = count(gateway, message("x " * 500))
    assert reply.status == 200
    assert reply.json()["input_tokens"] > 100
    assert post(gateway.base_url, message()).headers["x-ccm-provider"] == "a", (
        "counting never moves its health"
    )


def test_a_404_is_remembered(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    gw = fresh(providers(up, "a"))
    up.reset()
    up.aside("/a", ("status", 404, {}, answers.error("anthropic", 404, "Not found")))
    for n in range(4):
        assert count(gw, message(f"number {n}")).status == 200
    assert len(asked(up)) == 1


def test_a_burst_is_served(up: Upstream, gateway: Gateway) -> None:
    """`/context` of Claude Code: 26 at once on up to 16 connections."""
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: count(gateway, message(f"part {n}")), range(26)))
    assert [r.status for r in replies] == [200] * 26


def test_a_bad_body_is_400(gateway: Gateway) -> None:
    reply = post(gateway.base_url, b"{", path=PATH)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
