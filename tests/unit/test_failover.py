"""The plan of one request, step by step. Reads like a transcript: what happened -> what comes next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from ccm.model import (
    Endpoint,
    Failure,
    FailureKind,
    ModelFacts,
    Provider,
    ProviderError,
    Target,
    Timeouts,
)
from ccm.model import FailureKind as K
from ccm.routing.budget import RetryBudget
from ccm.routing.failover import Try, Wait, plan
from ccm.routing.router import Route
from ccm.settings import FailoverSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Most(random.Random):
    """Jitter at its longest."""

    def uniform(self, a: float, b: float) -> float:
        return b


def target(id: str, model: str = "m", window: int = 200_000, **provider: Any) -> Target:
    name = id.partition("#")[0]
    return Target(
        Endpoint(id, Provider(name, name, "anthropic", "https://x", **provider)),
        model,
        ModelFacts(model, window=window),
    )


A, B, C = target("a"), target("b"), target("c")
A2 = target("a#2")


def fail(kind: K, wait: float | None = None, **more: Any) -> Failure:
    message = more.pop("message", "")
    return Failure(kind, ProviderError(0, "x", message), wait, more.pop("should_retry", None))


def run(
    targets: Sequence[Target],
    answers: Sequence[FailureKind | Failure | str | None],
    *,
    retries: int = 2,
    backoff_ms: int = 250,
    enabled: bool = True,
    panic: bool = False,
    wait_s: float = 0.0,
    deadline: float = 240.0,
    seconds_each: float = 0.0,
    budget: RetryBudget | None = None,
) -> list[str]:
    """The transcript: "a" a try, "a+0.25" a wait for a. Answers go to tries in order; "busy" = could not be reserved;
    running out of answers means success."""
    clock = Clock()
    budget = budget or RetryBudget(clock=clock)
    steps = plan(
        Route(tuple(targets), panic=panic, wait_s=wait_s),
        FailoverSettings(enabled, retries, backoff_ms),
        clock=clock,
        rng=Most(),
        deadline=clock.now + deadline,
        budget=budget,
    )
    said, todo = [], list(answers)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                said.append(f"{step.target.endpoint.id}+{step.seconds:g}")
                clock.now += step.seconds
                step = steps.send(None)
                continue
            said.append(step.target.endpoint.id)
            if not todo:
                steps.close()
                return [*said, "ok"]
            clock.now += seconds_each
            answer = todo.pop(0)
            step = steps.send(
                None
                if answer == "busy" or isinstance(answer, str)
                else fail(answer)
                if isinstance(answer, K)
                else answer
            )
    except StopIteration:
        return said


def test_success_is_the_end() -> None:
    assert run([A, B], []) == ["a", "ok"]


@pytest.mark.parametrize(
    "kind",
    [K.CONNECT, K.TRANSIENT, K.HEAD_TIMEOUT, K.FIRST_CONTENT_TIMEOUT, K.BROKEN, K.PROTOCOL, K.RATE_LIMIT, K.QUOTA,
     K.CREDENTIAL, K.REGION, K.MODEL_ACCESS],
)  # fmt: skip
def test_switching_never_waits(kind: K) -> None:
    assert run([A, B], [kind]) == ["a", "b", "ok"]
    assert run([A, B, C], [kind, kind]) == ["a", "b", "c", "ok"]


@pytest.mark.parametrize("kind", [K.CALLER_FAULT, K.REFUSED, K.INTERNAL])
def test_what_is_nobody_elses_business_stops_at_once(kind: K) -> None:
    assert run([A, B, C], [kind]) == ["a"]
    assert run([A, B, C], [K.TRANSIENT, kind]) == ["a", "b"]


def test_an_overload_gets_one_short_wait_in_place() -> None:
    assert run([A, B, C], [K.OVERLOADED]) == ["a", "a+0.25", "a", "ok"]
    assert run([A, B, C], [K.OVERLOADED] * 2) == ["a", "a+0.25", "a", "b", "ok"]


def test_but_not_at_the_cost_of_the_only_other_attempt() -> None:
    assert run([A, B], [K.OVERLOADED], retries=1) == ["a", "b", "ok"]


def test_nor_when_told_to_stay_away_for_longer() -> None:
    assert run([A, B], [fail(K.OVERLOADED, wait=5.0)]) == ["a", "b", "ok"]
    assert run([A, B], [fail(K.OVERLOADED, wait=0.5)]) == ["a", "a+0.5", "a", "ok"]
    assert run([A, B], [fail(K.OVERLOADED, should_retry=False)]) == ["a", "b", "ok"]


def test_the_same_target_only_when_no_other_is_left() -> None:
    assert run([A, B], [K.TRANSIENT] * 2) == ["a", "b", "a+0.25", "a", "ok"]
    assert run([A, B], [K.CONNECT] * 9, retries=4) == ["a", "b", "a+0.25", "a", "b+0.25", "b", "a+0.75", "a"]


def test_backoff_doubles_and_has_an_end() -> None:
    assert run([A], [K.TRANSIENT] * 9, retries=3, backoff_ms=1000) == [
        "a",
        "a+1",
        "a",
        "a+2",
        "a",
        "a+4",
        "a",
    ]
    found = run([A], [K.TRANSIENT] * 9, retries=6, backoff_ms=1000)
    assert found[-2:] == ["a+8", "a"]


@pytest.mark.parametrize(
    "kind", [K.RATE_LIMIT, K.QUOTA, K.CREDENTIAL, K.MODEL_GONE, K.HEAD_TIMEOUT, K.BROKEN]
)
def test_a_lone_target_is_not_asked_again_for_these(kind: K) -> None:
    assert run([A], [kind] * 3) == ["a"]


def test_a_long_wait_is_the_clients() -> None:
    assert run([A], [fail(K.OVERLOADED, wait=20.0)]) == ["a"]
    assert run([A], [fail(K.TRANSIENT, wait=6.0)]) == ["a", "a+6", "a", "ok"]


def test_attempts_are_bounded() -> None:
    four = [A, B, C, target("d")]
    assert run(four, [K.CONNECT] * 9) == ["a", "b", "c"]
    assert run(four, [K.CONNECT] * 9, retries=0) == ["a"]
    assert run(four, [K.CONNECT] * 9, retries=9)[:4] == ["a", "b", "c", "d"]
    assert run(four, [K.CONNECT] * 9, enabled=False) == ["a"]


def test_a_rejected_key_goes_to_the_providers_other_keys_first() -> None:
    assert run([A, B, A2], [K.CREDENTIAL]) == ["a", "a#2", "ok"]
    assert run([A, B, A2], [K.RATE_LIMIT] * 2) == ["a", "a#2", "b", "ok"]


def test_a_dead_host_goes_to_other_providers_first() -> None:
    assert run([A, A2, B], [K.CONNECT]) == ["a", "b", "ok"]
    assert run([A, A2, B], [K.CONNECT] * 2) == ["a", "b", "a#2", "ok"]


def test_a_model_that_is_gone_is_gone_for_all_keys() -> None:
    assert run([A, A2, B], [K.MODEL_GONE]) == ["a", "b", "ok"]
    assert run([A, A2], [K.MODEL_GONE]) == ["a"]
    assert run([A, target("a#2", "other")], [K.MODEL_GONE]) == ["a", "a#2", "ok"]
    assert run([A, A2], [K.MODEL_ACCESS]) == ["a", "a#2", "ok"]


def test_an_overflow_goes_to_larger_windows_only() -> None:
    large, larger = target("l", window=400_000), target("x", window=1_000_000)
    assert run([A, B, large], [K.CONTEXT_TOO_LONG]) == ["a", "l", "ok"]
    assert run([A, large, larger, B], [K.CONTEXT_TOO_LONG] * 2) == ["a", "l", "x", "ok"]
    assert run([large, A, B], [K.CONTEXT_TOO_LONG]) == ["l"]


def test_an_overflow_that_names_a_window_is_believed() -> None:
    large, larger = target("l", window=400_000), target("x", window=1_000_000)
    said = fail(K.CONTEXT_TOO_LONG, message="prompt is too long: 600000 tokens > 500000 maximum")
    assert run([A, large, larger], [said]) == ["a", "x", "ok"]


def test_an_overflow_ends_hopes_for_smaller_windows_too() -> None:
    large = target("l", window=400_000)
    assert run([A, large], [K.TRANSIENT, K.CONTEXT_TOO_LONG]) == ["a", "l"]


def test_what_cannot_be_reserved_is_no_attempt() -> None:
    assert run([A, B], ["busy", K.TRANSIENT, K.TRANSIENT, K.TRANSIENT], retries=0) == ["a", "b"]


def test_what_is_only_busy_is_asked_again_for_ten_seconds() -> None:
    assert run([A], ["busy"] * 3) == ["a", "a", "a+0.25", "a", "a+0.25", "a", "ok"]
    found = run([A, B], ["busy"] * 200)
    assert found[:6] == ["a", "b", "a", "a+0.25", "a", "b"]
    waited = sum(float(step.partition("+")[2]) for step in found if "+" in step)
    assert 9.75 <= waited <= 10.25


def test_after_a_failure_the_busy_one_gets_its_turn() -> None:
    assert run([A, B], ["busy", K.CREDENTIAL]) == ["a", "b", "a", "ok"]
    assert run([A, B], ["busy", K.CREDENTIAL, "busy"]) == ["a", "b", "a", "a+0.25", "a", "ok"]


def queued(targets: Sequence[Target], seconds: float, grants: Sequence[Target | None]) -> list[str]:
    """The transcript of a caller that waits in queues: "a b?10" = it waited for a or b, up to 10 s."""
    clock = Clock()
    steps = plan(
        Route(tuple(targets)), FailoverSettings(True, 2, 250), clock=clock, rng=Most(),
        deadline=clock.now + 240, budget=RetryBudget(clock=clock),
    )  # fmt: skip
    said, todo = [], list(grants)
    try:
        step = next(steps)
        while isinstance(step, Try):
            if not step.queue:
                step = steps.send(None)
                continue
            said.append(" ".join(t.endpoint.id for t in step.queue) + f"?{step.wait_s:g}")
            clock.now += seconds
            granted = todo.pop(0)
            if granted is None:
                step = steps.send(None)
                continue
            step.target = granted
            said.append(granted.endpoint.id)
            step = steps.send(fail(K.BROKEN) if todo else fail(K.CALLER_FAULT))
    except StopIteration:
        return said
    return [*said, "polls"]


def test_who_can_wait_in_a_queue_takes_what_comes_free_first_r38() -> None:
    assert queued([A, B], 3.0, [B]) == ["a b?10", "b"]
    assert queued([A, B], 3.0, [B, A]) == ["a b?10", "b", "a?7", "a"]
    assert queued([A], 10.0, [None]) == ["a?10"]
    assert queued([A], 0.0, [None]) == ["a?10", "polls"]


def test_panic_asks_nobody_twice_and_waits_shortly_at_first() -> None:
    assert run([A], [K.TRANSIENT] * 3, panic=True) == ["a"]
    assert run([A], [K.OVERLOADED] * 3, panic=True, wait_s=30.0) == ["a+0.25", "a"]
    assert run([A, B], [K.OVERLOADED] * 3, panic=True) == ["a", "b"]
    assert run([A], [], panic=True, wait_s=0.1) == ["a+0.1", "a", "ok"]


def test_the_deadline_ends_everything() -> None:
    assert run([A, B, C], [K.HEAD_TIMEOUT] * 3, seconds_each=60.0, deadline=100.0) == ["a", "b"]
    assert run([A], [K.TRANSIENT] * 3, deadline=0.2) == ["a"]
    assert run([A], [], deadline=-1.0) == []


def test_no_targets_no_steps() -> None:
    assert run([], []) == []


def limits(seconds: float = 240.0, *, thinking: bool = False, tokens: int = 0) -> Timeouts:
    clock = Clock()
    steps = plan(
        Route((A,)), FailoverSettings(), clock=clock, rng=Most(), deadline=clock.now + seconds,
        budget=RetryBudget(clock=clock), thinking=thinking, input_tokens=tokens,
    )  # fmt: skip
    step = next(steps)
    assert isinstance(step, Try)
    return step.limits


def test_limits_grow_with_thinking_and_input_and_end_at_the_deadline() -> None:
    assert limits().first_content_s == 120.0
    assert limits(thinking=True).first_content_s == 240.0
    assert limits(tokens=100_000).first_content_s == 180.0
    assert limits(30.0, thinking=True).first_content_s == 30.0
    short = limits(3.0)
    assert (short.connect_s, short.header_s, short.idle_s) == (3.0, 3.0, 90.0)
    assert limits(0.1).header_s == 1.0


# ---- the budget


def test_the_first_attempt_is_free_and_later_ones_are_paid() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    run([A, B, C], [K.TRANSIENT] * 3, budget=budget)
    assert budget.tokens == pytest.approx(90.0, abs=0.2)


def test_what_succeeds_is_refunded() -> None:
    budget = RetryBudget(clock=Clock())
    run([A, B, C], [K.TRANSIENT], budget=budget)
    assert budget.tokens == pytest.approx(100.0, abs=0.2)


def test_timeouts_cost_double() -> None:
    budget = RetryBudget(clock=Clock())
    run([A, B, C], [K.HEAD_TIMEOUT] * 2, retries=1, budget=budget)
    assert budget.tokens == pytest.approx(90.0)


def test_an_empty_budget_ends_it_with_the_first_error() -> None:
    budget = RetryBudget(clock=Clock())
    calls = sum(len(run([A, B, C], [K.TRANSIENT] * 3, budget=budget)) for _ in range(200))
    assert calls <= 200 * 1.2
    assert run([A, B, C], [K.TRANSIENT] * 3, budget=budget) == ["a"]
    assert budget.refused > 0


def test_a_fifth_of_failing_requests_can_go_on_for_ever() -> None:
    budget, rng = RetryBudget(clock=Clock()), random.Random(5)
    lost = 0
    for _ in range(5000):
        answers: list[K] = []
        while len(answers) < 3 and rng.random() < 0.2:
            answers.append(K.TRANSIENT)
        if run([A, B, C], answers, budget=budget)[-1] == "ok":
            budget.success()
        elif len(answers) < 3:
            lost += 1
    assert lost == 0


def test_successes_and_time_fill_it_again() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    while budget.take(5):
        budget.end(5, failed=True)
    assert budget.tokens < 5
    for _ in range(5):
        budget.success()
    assert budget.take(5)
    clock.now += 3600
    assert budget.tokens == 100.0


def test_retries_in_place_are_few_at_a_time_switches_are_not() -> None:
    clock = Clock()
    budget = RetryBudget(lambda: 10, clock)
    assert [budget.take(5, same_target=True) for _ in range(4)] == [True, True, True, False]
    assert budget.take(5)
    budget.end(5, same_target=True, failed=True)
    assert budget.take(5, same_target=True)
    busy = RetryBudget(lambda: 50, clock)
    assert [busy.take(1, same_target=True) for _ in range(11)] == [True] * 10 + [False]
    clock.now += 31  # what runs this long is a stream
    assert busy.take(1, same_target=True)


def test_closing_the_plan_during_a_wait_gives_the_budget_back() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    steps = plan(
        Route((A,)), FailoverSettings(), clock=clock, rng=Most(), deadline=clock.now + 9, budget=budget
    )
    next(steps)
    assert isinstance(steps.send(fail(K.TRANSIENT)), Wait)
    assert budget.tokens == 95.0
    steps.close()
    assert budget.tokens == 100.0


def test_when_too_many_wait_in_place_a_request_goes_elsewhere() -> None:
    budget = RetryBudget(clock=Clock())
    for _ in range(3):
        assert budget.take(1, same_target=True)
    assert run([A, B], [K.OVERLOADED], budget=budget) == ["a", "b", "ok"]
    assert run([A], [K.OVERLOADED], budget=budget) == ["a"]
