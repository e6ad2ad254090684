"""What one router tells the next: affinity and who asked to be left alone; whatever else is said does no harm."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from ccm.model import Endpoint, Failure, FailureKind, KeySource, Provider, ProviderError, Secret
from ccm.routing import heritage
from ccm.routing.affinity import Affinity
from ccm.routing.board import Board
from ccm.routing.breaker import IN_A_ROW, State


def endpoint(name: str, key: str = "sk-1") -> Endpoint:
    source = KeySource("env", "K", Secret(key, "environment"))
    return Endpoint(name, Provider(name, "custom", "anthropic", f"https://{name}", keys=(source,)), source)


def board(*endpoints: Endpoint) -> Board:
    found = Board(random.Random(1))
    for one in endpoints:
        found.row(one)
    return found


def failure(kind: FailureKind, seconds: float | None = None) -> Failure:
    return Failure(kind, ProviderError(429, "rate_limit_error", "slow down"), retry_after_s=seconds)


def passed_on(told: dict[str, Any], *endpoints: Endpoint, now: float) -> tuple[Board, Affinity]:
    new, affinity = board(*endpoints), Affinity()
    heritage.take(json.loads(json.dumps(told)), new, affinity, now)
    return new, affinity


def test_it_survives_the_way_and_another_clock() -> None:
    a, b = endpoint("a"), endpoint("b")
    old, affinity = board(a, b), Affinity()
    affinity.bind(("s1", "opus"), "a", 990.0)
    affinity.bind(("s2", "opus"), "b", 1000.0)
    old.row(a).failed("opus", failure(FailureKind.RATE_LIMIT, 600.0), 1000.0, 1000.0)
    breaker = old.row(b).breaker
    for _ in range(IN_A_ROW):
        permit = breaker.permit(1000.0)
        assert permit is not None
        breaker.fail(permit, 1000.0)
    left = breaker.until - 1000.0
    new, bound = passed_on(heritage.tell(old, affinity, 1000.0), a, b, now=50.0)
    assert [(key, who) for key, who, _ in bound.entries()] == [(("s1", "opus"), "a"), (("s2", "opus"), "b")]
    assert next(iter(bound.entries()))[2] == 40.0 and bound.moves == 0
    model = new.row(a).model("opus", 50.0)
    assert new.row(a).remaining_s(model, 50.0) == 600.0
    assert model.cool.kind is FailureKind.RATE_LIMIT and "slow down" in model.cool.reason
    assert new.row(b).breaker.state(50.0) is State.OPEN
    assert (
        new.row(b).breaker.until - 50.0 == pytest.approx(left, abs=0.01) and new.row(b).breaker.openings == 1
    )
    assert new.row(b).breaker.state(50.0 + left + 1) is State.HALF_OPEN


def test_what_is_configured_otherwise_starts_anew() -> None:
    a = endpoint("a")
    old, affinity = board(a), Affinity()
    affinity.bind(("s1", "opus"), "a", 0.0)
    old.row(a).failed("opus", failure(FailureKind.RATE_LIMIT, 600.0), 0.0, 0.0)
    told = heritage.tell(old, affinity, 0.0)
    moved = replace(a, provider=replace(a.provider, base_url="https://other"))
    for other in (endpoint("a", "sk-2"), moved, endpoint("c")):
        new, bound = passed_on(told, other, now=0.0)
        assert len(bound) == 0 and new.row(other).ready(new.row(other).model("opus", 0.0), 0.0)


def test_no_key_is_told() -> None:
    a = endpoint("a", "sk-canary-0123456789")
    assert "canary" not in json.dumps(heritage.tell(board(a), Affinity(), 0.0))


@pytest.mark.parametrize(
    "told",
    [
        {}, {"version": 2}, {"version": 1}, {"version": 1, "endpoints": []}, {"version": 1, "endpoints": {"a": 3}},
        {"version": 1, "endpoints": {"a": {"identity": None}}, "affinity": [[1]]},
        {"version": 1, "endpoints": {"a": {"identity": "ID", "own": {"cool": {"kind": "?"}}, "models": {}}}},
        {"version": 1, "endpoints": {"a": {"identity": "ID", "own": {"open": {"left_s": "x"}}, "models": {}}}},
        {"version": 1, "endpoints": {"a": {"identity": "ID", "own": {}, "models": []}}, "affinity": 3},
        {"version": 1, "endpoints": {"a": {"identity": "ID", "own": {}, "models": {}}}, "affinity": [["s", "m", "a", "x"]]},
    ],
)  # fmt: skip
def test_nonsense_does_no_harm(told: dict[str, Any]) -> None:
    a = endpoint("a")
    identity = heritage.tell(board(a), Affinity(), 0.0)["endpoints"]["a"]["identity"]
    told = json.loads(json.dumps(told).replace('"ID"', json.dumps(identity)))
    new, bound = passed_on(told, a, now=0.0)
    assert len(bound) == 0 and new.row(a).alive(0.0)
