"""The read model of a decision: it tells what `route` does, and changes nothing (R51)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.model import STRATEGIES
from ccm.model import FailureKind as K
from ccm.settings import Rule, Use, When
from tests.routing import OK, World, provider

MAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "adaptive"}}


def world(**more: Any) -> World:
    return World(*(provider(name, priority=n, weight=3 - n) for n, name in enumerate("abc")), **more)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "latency"])
def test_it_tells_what_would_happen_and_changes_nothing(strategy: str) -> None:
    made = world(strategy=strategy)
    for n in range(12):
        session = f"s{n % 5}"
        told = made.explain(session=session, request=MAIN)
        assert told == made.explain(session=session, request=MAIN), "asking twice is asking once"
        route = made.route(session=session, request=MAIN)
        assert told["order"] == [target.id for target in route.targets]
        assert told["reason"] == route.reason
        made.end(route.targets[0])


def test_it_is_plain_data_with_everything_in_it() -> None:
    made = world(
        rules=(
            Rule("thinkers", When(classes=("think",)), Use((("c", "deep"),))),
            Rule("never", When(tiers=("haiku",)), Use((("b", ""),))),
        )
    )
    made.spoil("a", K.CREDENTIAL)
    made.end(made.route(session="s", request=MAIN).targets[0], OK)
    told = made.explain(session="s", request=MAIN)
    assert json.loads(json.dumps(told)) == told
    assert (told["class"], told["classes"], told["rule"]) == ("think", ["think"], "thinkers")
    assert told["rules"] == [
        {"rule": "thinkers: to c/deep", "holds": True},
        {"rule": "never: to b", "holds": False},
    ]
    assert (told["bound_to"], told["order"], told["panic"], told["refused"]) == (
        "c",
        ["c/deep", "b/b-mid"],
        False,
        "",
    )
    c, b, a = told["candidates"]
    assert (c["endpoint"], c["place"], c["bound"], c["fallback"]) == ("c", 1, True, False)
    assert (b["place"], b["fallback"], b["ruled_out"]) == (2, True, "")
    assert (a["place"], a["ruled_out"].startswith("key rejected")) == (0, True)


def test_what_the_request_needs_is_told() -> None:
    from ccm.model import ModelFacts

    image = {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}
    made = world(facts=lambda m, type: ModelFacts(m, abilities=frozenset({"images"} if type == "b" else {})))
    told = made.explain(request=image)
    assert told["needs"] == ["images"]
    assert [(c["endpoint"], c["ruled_out"]) for c in told["candidates"]] == [
        ("b", ""), ("a", "no images"), ("c", "no images"),
    ]  # fmt: skip


def test_a_refusal_is_told_not_raised_where_everything_is_switched_off() -> None:
    made = world()
    for name in "abc":
        made.router.set_enabled(name, False)
    told = made.explain(request=MAIN)
    assert told["refused"].startswith("503") and told["order"] == []
    assert {c["state"] for c in told["candidates"]} == {"disabled: by ccmctl"}


def test_panic_is_told() -> None:
    made = world()
    for name in "abc":
        made.spoil(name, K.RATE_LIMIT, wait=30)
    told = made.explain(request=MAIN)
    assert (told["panic"], told["wait_s"]) == (True, 30.0)


def test_explaining_keeps_no_conversation_alive() -> None:
    made = world()
    made.end(made.route(session="s").targets[1])
    made.clock.now += 3000
    assert made.explain(session="s")["bound_to"] == "b"
    made.clock.now += 3000
    assert made.explain(session="s")["bound_to"] == ""
