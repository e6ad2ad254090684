"""The retry budget in an outage: at most 1.2 calls per request, also for few requests (RELIABILITY A8)."""

from __future__ import annotations

import random

import pytest

from ccm.model import Failure, Outcome, ProviderError
from ccm.model import FailureKind as K
from ccm.routing.budget import RetryBudget
from ccm.routing.failover import Try, Wait, plan
from ccm.settings import FailoverSettings
from tests.routing import Clock, World, provider


def request(world: World, fails: set[str], kind: K = K.TRANSIENT) -> int:
    """One whole request against targets that fail or not; the number of upstream calls."""
    router, clock = world.router, world.clock
    route = world.route()
    steps = plan(
        route,
        FailoverSettings(),
        clock=clock,
        rng=router.rng,
        deadline=clock.now + 240,
        budget=router.retry_budget,
    )
    calls = 0
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                clock.now += step.seconds
                step = steps.send(None)
                continue
            ticket = router.reserve(step.target, route)
            if ticket is None:
                step = steps.send(None)
                continue
            calls += 1
            if step.target.endpoint.id not in fails:
                router.release(ticket, Outcome(first_content_s=0.1))
                steps.close()
                return calls
            failure = Failure(kind, ProviderError(0, "x", ""))
            router.release(ticket, Outcome(failure))
            step = steps.send(failure)
    except StopIteration:
        return calls


def world(providers: int = 3) -> World:
    return World(*(provider(name, priority=n) for n, name in enumerate("abcdef"[:providers])))


@pytest.mark.parametrize("kind", [K.TRANSIENT, K.CONNECT, K.OVERLOADED, K.HEAD_TIMEOUT, K.BROKEN])
@pytest.mark.parametrize("requests", [20, 60, 300])
@pytest.mark.parametrize("providers", [1, 2, 3, 5])
def test_a_full_outage_is_not_multiplied(kind: K, requests: int, providers: int) -> None:
    made = world(providers)
    calls = 0
    for _ in range(requests):
        calls += request(made, set("abcdef"), kind)
        made.clock.now += 60 / requests
    assert requests <= calls <= 1.2 * requests


def test_the_first_failing_request_may_try_everybody() -> None:
    assert request(world(), set("abc")) == 3
    made = world()
    assert [request(made, {"a"}) for _ in range(4)] == [2, 2, 2, 2]


def test_after_recovery_service_is_back_within_35_s() -> None:
    made = world()
    for _ in range(60):
        request(made, set("abc"))
        made.clock.now += 1
    recovered = made.clock.now
    while not any(made.row(name)["successes"] for name in "abc"):
        request(made, set())
        made.clock.now += 1
    assert made.clock.now - recovered <= 35


def test_where_only_one_recovers_it_is_found_when_its_breaker_lets_it() -> None:
    made = world()
    for _ in range(20):
        request(made, set("abc"))
        made.clock.now += 1
    recovered = made.clock.now
    while not made.row("b")["successes"]:
        request(made, {"a", "c"})
        made.clock.now += 1
    assert made.clock.now - recovered <= 36


def test_one_answer_ends_the_restraint() -> None:
    budget = RetryBudget(clock=Clock())
    for _ in range(4):
        budget.begin()
        assert budget.take(5)
        budget.end(5, failed=True, useless=True)
    assert not budget.take(5)
    budget.answered()
    assert budget.take(5)


def test_so_do_five_minutes_and_a_reset() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    for _ in range(4):
        budget.take(5)
        budget.end(5, failed=True, useless=True)
    clock.now += 299
    assert not budget.take(5)
    clock.now += 2
    assert budget.take(5)
    for _ in range(4):
        budget.end(5, failed=True, useless=True)
    assert not budget.take(5)
    budget.reset()
    assert budget.take(5) and budget.tokens == 95.0


def test_attempts_under_way_do_not_count() -> None:
    """A provider dies under fifteen requests at once: all of them may go elsewhere."""
    budget = RetryBudget(clock=Clock())
    for _ in range(15):
        budget.begin()
    assert all(budget.take(5) for _ in range(15))


def test_what_is_no_outage_does_not_count() -> None:
    budget, clock = RetryBudget(clock=Clock()), Clock()
    made = world()
    for kind in (K.RATE_LIMIT, K.CREDENTIAL, K.QUOTA) * 2:
        steps = plan(
            made.route(),
            FailoverSettings(),
            clock=clock,
            rng=random.Random(1),
            deadline=2000.0,
            budget=budget,
        )
        assert isinstance(next(steps), Try)
        for _ in range(2):
            steps.send(Failure(kind, ProviderError(0, "x", "")))
        steps.close()
        budget.success()
    assert budget.refused == 0
