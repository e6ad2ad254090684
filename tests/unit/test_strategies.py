"""Orders among equals."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ccm.model import STRATEGIES
from ccm.routing.strategies import TABLE, Rival, Turns, TurnTable

RNG = random.Random(3)


def rival(id: str, index: int = 0, **more: object) -> Rival:
    return Rival(id, str(more.pop("provider", id)), index, **more)  # type: ignore[arg-type]


def firsts(name: str, rivals: list[Rival], times: int, turns: Turns | None = None) -> list[str]:
    turns = turns or Turns()
    return [TABLE[name](rivals, turns, RNG)[0].id for _ in range(times)]


def test_every_configurable_strategy_exists() -> None:
    assert set(TABLE) == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_rival_comes_back_exactly_once(name: str) -> None:
    rivals = [rival("a", 0), rival("b", 1), rival("c", 2)]
    for _ in range(20):
        assert sorted(r.id for r in TABLE[name](rivals, Turns(), RNG)) == ["a", "b", "c"]
        assert [r.id for r in TABLE[name](rivals[:1], Turns(), RNG)] == ["a"]


def test_priority_then_file_order() -> None:
    rivals = [rival("a", 0, priority=5), rival("b", 1, priority=1), rival("c", 2, priority=1)]
    assert [r.id for r in TABLE["priority"](rivals, None, RNG)] == ["b", "c", "a"]


def test_round_robin_alternates_evenly() -> None:
    rivals = [rival("a", 0, weight=9), rival("b", 1), rival("c", 2)]
    assert firsts("round-robin", rivals, 6) == ["a", "b", "c"] * 2


def test_round_robin_goes_by_provider_not_by_key() -> None:
    rivals = [rival("a#1", 0, provider="a"), rival("a#2", 1, provider="a"), rival("b", 2)]
    assert Counter(firsts("round-robin", rivals, 400)) == {"b": 200, "a#1": 100, "a#2": 100}


def test_weighted_is_exact_and_smooth() -> None:
    rivals = [rival("a", 0, weight=5), rival("b", 1, weight=1), rival("c", 2, weight=1)]
    assert firsts("weighted", rivals, 7) == ["a", "a", "b", "a", "c", "a", "a"]


def test_weight_zero_is_the_last_resort() -> None:
    rivals = [rival("a", 0, weight=0), rival("b", 1, weight=2), rival("c", 2, weight=1)]
    assert "a" not in firsts("weighted", rivals, 30)
    assert [r.id for r in TABLE["weighted"](rivals, Turns(), RNG)][-1] == "a"
    assert [r.id for r in TABLE["weighted"](rivals[:1], Turns(), RNG)] == ["a"]


def test_who_was_away_owes_and_is_owed_nothing() -> None:
    turns, rivals = Turns(), [rival("a", 0), rival("b", 1)]
    firsts("round-robin", rivals, 100, turns)
    assert firsts("round-robin", rivals[:1], 50, turns) == ["a"] * 50
    assert Counter(firsts("round-robin", rivals, 100, turns)) == {"a": 50, "b": 50}


def test_without_turns_nothing_is_counted() -> None:
    turns, rivals = Turns(), [rival("a", 0), rival("b", 1)]
    for _ in range(5):
        assert TABLE["round-robin"](rivals, None, RNG)[0].id == "a"
    assert firsts("round-robin", rivals, 2, turns) == ["a", "b"]


def test_turns_are_per_model_and_bounded() -> None:
    table = TurnTable(most=3)
    first = table.of("m")
    for n in range(2):
        table.of(str(n))
    assert table.of("m") is first
    for n in range(5):
        table.of(str(n))
    assert table.of("m") is not first


def test_latency_prefers_the_quick_and_idle() -> None:
    rivals = [rival("slow", 0, latency_s=2.0), rival("quick", 1, latency_s=0.5)]
    assert firsts("latency", rivals, 20) == ["quick"] * 20
    rivals = [rival("slow", 0, latency_s=2.0), rival("quick", 1, latency_s=0.5, in_flight=9)]
    assert firsts("latency", rivals, 20) == ["slow"] * 20


def test_latency_never_puts_the_worst_of_three_first() -> None:
    rivals = [rival("a", 0, latency_s=1.0), rival("b", 1, latency_s=2.0), rival("c", 2, latency_s=3.0)]
    found = Counter(firsts("latency", rivals, 300))
    assert found["c"] == 0
    assert found["a"] > found["b"] > 0


def test_the_unmeasured_counts_as_the_median() -> None:
    rivals = [rival("a", 0, latency_s=1.0), rival("new", 1), rival("c", 2, latency_s=3.0)]
    order = [r.id for r in TABLE["latency"](rivals, None, random.Random(1))]
    assert order.index("new") < order.index("c")
    assert Counter(firsts("latency", [rival("x", 0), rival("y", 1)], 200)).keys() == {"x", "y"}


def test_cost_and_unknown_prices_last() -> None:
    rivals = [rival("?", 0), rival("dear", 1, price_usd=3.0), rival("cheap", 2, price_usd=1.0)]
    assert [r.id for r in TABLE["cost"](rivals, None, RNG)] == ["cheap", "dear", "?"]


def test_least_busy_by_weight() -> None:
    rivals = [rival("a", 0, in_flight=3, weight=4), rival("b", 1, in_flight=1), rival("c", 2, in_flight=2)]
    assert [r.id for r in TABLE["least-busy"](rivals, None, RNG)] == ["a", "b", "c"]


def test_what_is_due_gets_one_request_whatever_it_was_like() -> None:
    rivals = [
        rival("a", 0, latency_s=0.1),
        rival("b", 1, latency_s=9.0, due=True),
        rival("c", 2, latency_s=0.2),
    ]
    assert TABLE["latency"](rivals, Turns(), RNG)[0].id == "b"
    assert TABLE["latency"](rivals, None, RNG)[0].id != "b"  # who takes no turn measures nothing
