"""Expected prices, by a table of cases: tests/data/routing/cost/*.json.

A case has the prices of targets a and b (USD per million tokens), what the conversation has been like (`past`: turns
answered at time 0), a request some seconds later, and what it is expected to cost where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccm.model import ModelFacts, Outcome, Price
from ccm.routing.cost import TTL_S, History, expected_input, expected_output, expected_price, ttl_s
from tests.routing import World, provider

CASES = Path(__file__).resolve().parents[1] / "data" / "routing" / "cost"
NAMES = sorted(path.stem for path in CASES.glob("*.json"))
KEY = ("session", "model")


def load(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    for target in case["targets"].values():
        target["above"] = tuple(map(tuple, target.get("above", ())))
        target.setdefault("cache_ttl_s", None)
    return case


def price_of(target: dict[str, Any]) -> Price:
    return Price(**{key: value for key, value in target.items() if key != "cache_ttl_s"})


def test_there_are_cases() -> None:
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_price(name: str) -> None:
    case = load(name)
    request, history = case["request"], History()
    for turn in case.get("past", ()):
        target = case["targets"][turn["target"]]
        own = {"cache_ttl_s": float(target["cache_ttl_s"] or 0)}
        seconds = ttl_s(provider(turn["target"], **own), price_of(target), request.get("caching", ""))
        history.learn(
            KEY, turn["target"], 0.0, size_bytes=0, input_tokens=turn["input_tokens"],
            output_tokens=turn["output_tokens"], ttl_s=seconds,
        )  # fmt: skip
    past, now = history.find(KEY), request.get("seconds_later", 0)
    output = expected_output(past, request["max_tokens"])
    for id, target in case["targets"].items():
        warm = past.warm_tokens(id, now) if past else 0
        found = expected_price(
            price_of(target), request["input_tokens"], output, warm, request.get("caching", "")
        )
        assert found == (None if case["usd"][id] is None else pytest.approx(case["usd"][id])), case["says"]


@pytest.mark.parametrize("name", NAMES)
def test_the_router_chooses_accordingly(name: str) -> None:
    case = load(name)
    facts = {id: ModelFacts(id, price=price_of(target)) for id, target in case["targets"].items()}
    providers = [
        provider(id, tiers={"default": id}, cache_ttl_s=float(t["cache_ttl_s"] or 0))
        for id, t in case["targets"].items()
    ]
    world = World(*providers, strategy="cost", facts=lambda model, type: facts[type])
    control = {"type": "ephemeral", **({"ttl": "1h"} if case["request"].get("caching") == "1h" else {})}
    block = {
        "type": "text",
        "text": "x",
        **({"cache_control": control} if "caching" in case["request"] else {}),
    }
    request = {
        "messages": [{"role": "user", "content": [block]}],
        "max_tokens": case["request"]["max_tokens"],
    }

    def sized(tokens: int) -> dict[str, Any]:
        """A request that is taken for so many tokens, at four bytes each."""
        return {"request": request, "session": "s", "size_bytes": tokens * 4}

    for turn in case.get("past", ()):
        route = world.route(**sized(turn["input_tokens"]))
        target = next(t for t in route.targets if t.endpoint.id == turn["target"])
        outcome = Outcome(None, False, 1.0, turn["input_tokens"], turn["output_tokens"])
        world.end(target, outcome)
    world.clock.now += case["request"].get("seconds_later", 0)
    route = world.route(**sized(case["request"]["input_tokens"]))
    assert route.targets[0].endpoint.id == case["first"], case["says"]
    told = world.explain(**sized(case["request"]["input_tokens"]))
    for line in told["candidates"]:
        usd = case["usd"][line["endpoint"]]
        assert line["price_usd"] == (None if usd is None else pytest.approx(usd, abs=2e-6))


def test_what_providers_count_corrects_our_estimate() -> None:
    history = History()
    history.learn(KEY, "a/m", 0.0, size_bytes=40_000, input_tokens=8_000, output_tokens=0, ttl_s=300)
    assert expected_input(None, 40_000) == 10_000
    assert expected_input(history.find(KEY), 40_000) == 8_000
    assert expected_output(history.find(KEY), 0) == 1000


def test_expected_output_follows_the_conversation_slowly() -> None:
    history = History()
    for tokens in (1000, 2000):
        history.learn(KEY, "a/m", 0.0, size_bytes=1, input_tokens=1, output_tokens=tokens, ttl_s=1)
    assert expected_output(history.find(KEY), 0) == pytest.approx(1300)


def test_the_history_is_bounded_and_forgets_the_least_recently_used() -> None:
    history = History(most=3)
    for n in range(5):
        history.learn((str(n), "m"), "a/m", 0.0, size_bytes=1, input_tokens=1, output_tokens=1, ttl_s=1)
    assert len(history) == 3
    assert history.find(("0", "m")) is None and history.find(("4", "m")) is not None
    for n in range(20):
        history.learn(KEY, f"{n}/m", 0.0, size_bytes=1, input_tokens=1, output_tokens=1, ttl_s=9)
    past = history.find(KEY)
    assert past is not None and len(past.warm) == 8 and past.warm_tokens("19/m", 1.0) == 1


def test_ttl() -> None:
    hour = Price(cache_write_1h=6.0)
    assert ttl_s(provider("a"), hour, "1h") == TTL_S["1h"] == 3600
    assert ttl_s(provider("a"), Price(), "1h") == ttl_s(provider("a"), hour, "5m") == 300
    assert ttl_s(provider("a", cache_ttl_s=1800.0), hour, "1h") == 1800


def test_a_bound_conversation_is_not_held_where_it_is_dearer() -> None:
    prices = {"a": Price(10.0, 10.0, 9.0), "b": Price(1.0, 1.0)}
    world = World(
        provider("a"), provider("b"), strategy="cost", facts=lambda m, type: ModelFacts(m, price=prices[type])
    )
    target = next(t for t in world.route(session="s", size_bytes=4000).targets if t.endpoint.id == "a")
    world.end(target)
    assert world.ids(session="s", size_bytes=4000)[0] == "b"


def test_equal_prices_keep_a_conversation() -> None:
    world = World(
        provider("a"), provider("b"), strategy="cost", facts=lambda m, t: ModelFacts(m, price=Price(1.0, 1.0))
    )
    world.end(world.route(session="s").targets[1])
    assert world.ids(session="s") == ["b", "a"]
    assert world.route(session="s").reason == "affinity hit"
