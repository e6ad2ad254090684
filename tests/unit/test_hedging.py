"""Hedges: opt-in, late, rarely, never under pressure."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.model import FailureKind as K
from ccm.model import Outcome
from ccm.routing.hedging import HedgeBudget, hedge_after_s
from tests.routing import World, provider


def test_not_before_five_seconds_nor_before_its_own_p95() -> None:
    assert hedge_after_s(None) is None
    assert hedge_after_s(0.4) == 5.0
    assert hedge_after_s(12.0) == 12.0


def test_one_request_in_twenty() -> None:
    budget = HedgeBudget()
    taken = 0
    for _ in range(1000):
        budget.request()
        taken += budget.take()
    assert taken == 50
    for _ in range(5000):
        budget.request()
        taken += budget.take()
    assert taken <= 6000 * 0.05
    assert budget.requests < 2000


def world(**more: Any) -> World:
    """Two providers that have each answered often enough."""
    made = World(provider("a", priority=1), provider("b", priority=2), **{"hedge": True, **more})
    for _ in range(30):
        for target in made.route().targets:
            made.end(
                target, Outcome(first_content_s=8.0 if target.endpoint.id == "a" else 1.0, output_tokens=9)
            )
    return made


def after(made: World, n: int = 0, **more: Any) -> float | None:
    route = made.route()
    return made.router.hedge_after_s(route.targets[n], route, **more)


def test_a_hedge_comes_when_the_target_is_slower_than_it_ever_is() -> None:
    made = world()
    assert after(made) == 8.0
    assert after(made, input_tokens=50_000) == 16.0
    assert after(made, 1) == 5.0


def test_only_where_it_is_switched_on_and_somebody_else_is_there() -> None:
    assert after(world(hedge=False)) is None
    lone = World(provider("a"), hedge=True)
    for _ in range(30):
        lone.end(lone.route().targets[0])
    assert after(lone) is None
    new = World(provider("a"), provider("b"), hedge=True)
    assert after(new) is None, "too little is known"


@pytest.mark.parametrize("kind", [K.RATE_LIMIT, K.OVERLOADED])
def test_never_under_pressure(kind: K) -> None:
    made = world()
    made.spoil("b", kind, wait=10.0)
    assert after(made) is None
    made.clock.now += 11
    assert after(made) is None, "nor just after it"
    made.clock.now += 61
    assert after(made) == 8.0


def test_the_hedge_takes_another_endpoint_and_is_counted() -> None:
    made = world()
    route = made.route()
    ticket = made.router.hedge(route.targets[0], route)
    assert ticket is not None and ticket.target.endpoint.id == "b"
    made.router.release(ticket, Outcome(cancelled=True))
    assert made.row("b")["in_flight"] == 0
    found = [made.router.hedge(route.targets[0], route) for _ in range(5)]
    assert sum(ticket is not None for ticket in found) <= 1
    assert after(made) is None, "the share is used up"
