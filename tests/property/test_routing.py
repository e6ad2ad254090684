"""Properties of routing: fair strategies, a breaker that does what a small model says, permits that never get lost."""

from __future__ import annotations

import copy
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccm.model import (
    STRATEGIES,
    Endpoint,
    Failure,
    FailureKind,
    KeySource,
    ModelFacts,
    Outcome,
    Provider,
    ProviderError,
    Secret,
    Snapshot,
    Target,
)
from ccm.routing.breaker import Breaker
from ccm.routing.budget import RetryBudget
from ccm.routing.classify import Ask
from ccm.routing.cooldown import CAP_S, wait_asked
from ccm.routing.failover import Try, plan
from ccm.routing.failures import classify, final
from ccm.routing.router import Route, Router
from ccm.routing.strategies import TABLE, Rival, Turns
from ccm.settings import FailoverSettings

RIVALS = st.lists(
    st.builds(
        Rival,
        id=st.sampled_from("abcdefgh"),
        provider=st.sampled_from("xyz"),
        index=st.integers(0, 9),
        priority=st.integers(0, 3),
        weight=st.integers(0, 5),
        in_flight=st.integers(0, 5),
        latency_s=st.none() | st.floats(0.01, 100),
        price_usd=st.none() | st.floats(0, 100),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda rival: rival.id,
)


@given(RIVALS, st.sampled_from(STRATEGIES), st.integers(0, 99), st.booleans())
def test_a_strategy_returns_everybody_once(rivals: list[Rival], name: str, seed: int, counted: bool) -> None:
    turns, rng = Turns() if counted else None, random.Random(seed)
    for _ in range(5):
        found = TABLE[name](rivals, turns, rng)
        assert sorted(rival.id for rival in found) == sorted(rival.id for rival in rivals)


def test_weights_5_3_2_within_one_percent() -> None:
    rivals = [Rival("a", "a", 0, weight=5), Rival("b", "b", 1, weight=3), Rival("c", "c", 2, weight=2)]
    turns, rng = Turns(), random.Random(0)
    found = Counter(TABLE["weighted"](rivals, turns, rng)[0].id for _ in range(10_000))
    for id, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs(found[id] / 10_000 - share) <= 0.01 * share


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 200))
def test_weighted_is_never_further_off_than_one_round(weights: list[int], picks: int) -> None:
    rivals = [Rival(str(n), str(n), n, weight=weight) for n, weight in enumerate(weights)]
    turns, rng = Turns(), random.Random(0)
    found = Counter(TABLE["weighted"](rivals, turns, rng)[0].id for _ in range(picks))
    for n, weight in enumerate(weights):
        assert abs(found[str(n)] - picks * weight / sum(weights)) <= len(weights)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 30))
def test_round_robin_is_fair_to_providers_whatever_their_keys(keys: list[int], rounds: int) -> None:
    rivals = [Rival(f"{n}#{k}", str(n), n * 9 + k) for n, count in enumerate(keys) for k in range(count)]
    turns, rng = Turns(), random.Random(0)
    picks = rounds * len(keys)
    found = Counter(TABLE["round-robin"](rivals, turns, rng)[0].provider for _ in range(picks))
    assert all(abs(found[str(n)] - rounds) <= 1 for n in range(len(keys)))


# ---- the breaker against a model of what its docstring says


class Model:
    """The reference: plain lists, everything recomputed from the beginning."""

    def __init__(self) -> None:
        self.state, self.generation, self.openings = "closed", 0, 0
        self.log: list[tuple[float, bool]] = []
        self.row, self.probes, self.good = 0, 0, 0
        self.until = self.closed_at = 0.0

    def turn(self, state: str) -> None:
        self.state, self.generation = state, self.generation + 1
        self.row, self.log, self.probes, self.good = 0, [], 0, 0

    def look(self, now: float) -> str:
        if self.state == "open" and now >= self.until:
            self.turn("half-open")
        return self.state

    def permit(self, now: float, force: bool) -> int | None:
        free = self.look(now) == "closed" or (self.state == "half-open" and not self.probes)
        if not free and not force:
            return None
        self.probes += self.state == "half-open"
        return self.generation

    def tripped(self, now: float) -> bool:
        recent = [bad for at, bad in self.log if at > now - 30]
        before = recent[: -self.row]
        news = len(before) < 20 or (sum(before) / len(before)) ** self.row <= 1e-6
        return (self.row >= 5 and news) or (len(recent) >= 10 and sum(recent) * 2 >= len(recent))

    def opens(self, now: float, until: float) -> None:
        if self.state == "closed" and self.openings:
            self.openings = max(0, self.openings - int((now - self.closed_at) // 300))
        self.openings += 1
        self.turn("open")
        self.until = until

    def succeed(self, permit: int, now: float) -> None:
        self.look(now)
        if permit != self.generation:
            return
        if self.state == "closed":
            self.row = 0
            self.log.append((now, False))
        elif self.state == "open":
            self.turn("half-open")
            self.good = 1
        else:
            self.probes, self.good = self.probes - 1, self.good + 1
            if self.good == 2:
                self.turn("closed")
                self.closed_at = now

    def fail(self, permit: int, now: float, may_open: bool, until: Callable[[], float]) -> None:
        self.look(now)
        if permit != self.generation:
            return
        if self.state == "half-open":
            self.opens(now, until())
        elif self.state == "closed":
            self.row += 1
            self.log.append((now, True))
            if may_open and self.tripped(now):
                self.opens(now, until())

    def drop(self, permit: int) -> None:
        if permit == self.generation and self.state == "half-open":
            self.probes -= 1


class BreakerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.breaker, self.model = Breaker(random.Random(4)), Model()
        self.permits: deque[int] = deque()

    @rule(seconds=st.sampled_from([0.0, 0.1, 5.0, 31.0, 200.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(force=st.booleans(), times=st.integers(1, 6))
    def permit(self, force: bool, times: int) -> None:
        for _ in range(times):
            found = self.breaker.permit(self.now, force=force)
            assert found == self.model.permit(self.now, force)
            if found is not None:
                self.permits.append(found)

    @precondition(lambda self: self.permits)
    @rule(times=st.integers(1, 6), may_open=st.booleans(), oldest=st.booleans())
    def fail(self, times: int, may_open: bool, oldest: bool) -> None:
        for _ in range(min(times, len(self.permits))):
            permit = self.permits.popleft() if oldest else self.permits.pop()
            self.breaker.fail(permit, self.now, may_open=may_open)
            self.model.fail(permit, self.now, may_open, lambda: self.breaker.until)

    @precondition(lambda self: self.permits)
    @rule(times=st.integers(1, 4))
    def succeed(self, times: int) -> None:
        for _ in range(min(times, len(self.permits))):
            permit = self.permits.pop()
            self.breaker.succeed(permit, self.now)
            self.model.succeed(permit, self.now)

    @precondition(lambda self: self.permits)
    @rule()
    def drop(self) -> None:
        permit = self.permits.popleft()
        self.breaker.drop(permit)
        self.model.drop(permit)

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state(self.now).value == self.model.look(self.now)
        assert self.breaker.generation == self.model.generation
        assert self.breaker.openings == self.model.openings
        assert self.breaker.marked() == (self.model.state == "closed" and self.model.row >= 5)
        free = self.model.state == "closed" or (self.model.state == "half-open" and not self.model.probes)
        assert self.breaker.ready(self.now) == free
        if self.model.state == "open":
            nominal = min(300.0, 30.0 * self.model.openings)
            assert self.breaker.until - self.now <= 1.2 * nominal + 1e-6

    @invariant()
    def a_free_permit_can_always_be_had_in_the_end(self) -> None:
        """Nothing lost: with all permits back and time gone by, an attempt may pass."""
        if not self.permits:
            assert copy.deepcopy(self.breaker).ready(self.now + 10_000)


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(
    max_examples=int(os.environ.get("CCM_MODEL_RUNS", "150")), stateful_step_count=50, deadline=None
)


# ---- the router


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


def find_facts(model: str, type: str) -> ModelFacts:
    return ModelFacts(model)


class RouterMachine(RuleBasedStateMachine):
    """Any course of events: someone is always tried, never an unavailable one while another is available."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.router = Router(clock=self.clock, rng=random.Random(9))
        providers = []
        for n, name in enumerate("abc"):
            key = KeySource("env", name, Secret(name, "env"))
            providers.append(
                Provider(
                    name,
                    name,
                    "anthropic",
                    f"https://{name}",
                    keys=(key,),
                    weight=n + 1,
                    tiers={"default": name},
                )
            )
        endpoints = tuple(Endpoint(p.name, p, p.keys[0]) for p in providers)
        self.snapshots = {
            strategy: Snapshot(
                1,
                "",
                "",
                1,
                "",
                (),
                endpoints,
                {p.name: p for p in providers},
                FailoverSettings(),
                strategy,
                {},
            )
            for strategy in STRATEGIES
        }
        self.router.install(self.snapshots["priority"])
        self.tickets: list[Any] = []
        self.targets: tuple[Target, ...] = ()

    @rule(strategy=st.sampled_from(STRATEGIES), session=st.sampled_from(["", "s", "t"]))
    def route(self, strategy: str, session: str) -> None:
        headers = {"x-claude-code-session-id": session}
        before = {row["id"]: row["state"] for row in self.router.board()}
        route = self.router.route(Ask("claude-opus-5-5", True, headers), self.snapshots[strategy], find_facts)
        assert route.targets
        chosen = [target.endpoint.id for target in route.targets]
        assert len(set(chosen)) == len(chosen)
        assert not set(chosen) & {id for id, _ in route.excluded}
        well = {id for id, state in before.items() if state == "ready"}
        if well:
            assert set(chosen) >= well
            for n, id in enumerate(
                chosen
            ):  # who only rests may be the last resort, behind everybody who is well
                assert before[id] in ("ready", "half-open") or (
                    before[id] == "cooling" and not well & set(chosen[n:])
                )
        self.targets = route.targets

    @precondition(lambda self: self.targets)
    @rule(n=st.integers(0, 2))
    def reserve(self, n: int) -> None:
        ticket = self.router.reserve(self.targets[n % len(self.targets)])
        if ticket is not None:
            self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(
        kind=st.none() | st.sampled_from(list(FailureKind)),
        cancelled=st.booleans(),
        wait=st.none() | st.floats(0, 90),
    )
    def release(self, kind: FailureKind | None, cancelled: bool, wait: float | None) -> None:
        ticket = self.tickets.pop(0)
        failure = Failure(kind, ProviderError(0, "x", ""), wait) if kind else None
        self.router.release(
            ticket, Outcome(failure, cancelled=kind is None and cancelled, first_content_s=1.0)
        )

    @rule(kind=st.sampled_from([FailureKind.TRANSIENT, FailureKind.CONNECT]))
    def spoil_the_first(self, kind: FailureKind) -> None:
        for _ in range(5):
            route = self.router.route(Ask("claude-opus-5-5", True), self.snapshots["priority"], find_facts)
            ticket = self.router.reserve(route.targets[0])
            if ticket is not None:
                self.router.release(ticket, Outcome(Failure(kind, ProviderError(0, "x", ""))))

    @rule(seconds=st.sampled_from([0.5, 6.0, 40.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(name=st.none() | st.sampled_from("abc"))
    def switch(self, name: str | None) -> None:
        self.router.set_primary(name)

    @invariant()
    def counts_are_right(self) -> None:
        board = {row["id"]: row["in_flight"] for row in self.router.board()}
        assert board == {**dict.fromkeys("abc", 0), **Counter(t.target.endpoint.id for t in self.tickets)}

    @invariant()
    def not_everybody_is_ejected(self) -> None:
        """Breakers alone never take out all: the last one stays closed."""
        assert any(
            row.breaker.closed() and all(model.breaker.closed() for model in row.models.values())
            for row in self.router._board.rows.values()
        )


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ---- the plan, and errors of any shape

KINDS = st.sampled_from(list(FailureKind))


def targets() -> tuple[Target, ...]:
    made = []
    for n, id in enumerate(("a", "a#2", "b", "c")):
        name = id[0]
        provider = Provider(name, name, "anthropic", "https://x")
        made.append(Target(Endpoint(id, provider), f"m{name}", ModelFacts("m", window=100_000 * (n + 1))))
    return tuple(made)


@given(
    st.lists(st.none() | KINDS, max_size=40),
    st.integers(0, 6),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_plan_keeps_its_promises(
    answers: list[FailureKind | None], retries: int, n: int, panic: bool, seed: int
) -> None:
    clock = Clock()
    start = clock.now
    steps = plan(
        Route(targets()[:n], panic=panic, wait_s=3.0), FailoverSettings(True, retries, 250), clock=clock,
        rng=random.Random(seed), deadline=start + 100, budget=RetryBudget(clock=clock),
    )  # fmt: skip
    reserved, tried, waits, last = 0, [], 0, None
    todo = list(answers)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Try):
                if last is not None and last.provider.name != step.target.provider.name:
                    assert not waits or step.target in tried or None in answers
                tried.append(step.target)
                assert step.number == reserved + 1
                kind = todo.pop(0) if todo else FailureKind.CALLER_FAULT
                clock.now += 0.01
                last, waits = step.target, 0
                reserved += kind is not None
                step = steps.send(Failure(kind, ProviderError(0, "x", "")) if kind else None)
            else:
                assert 0 < step.seconds <= 8
                clock.now += step.seconds
                waits += 1
                step = steps.send(None)
    except StopIteration:
        pass
    assert reserved <= 1 + retries
    assert not panic or len({t.id for t in tried}) == len(tried) or None in answers
    assert clock.now <= start + 100.1


@given(
    st.integers(0, 599),
    st.text(max_size=80),
    st.text(max_size=20),
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "date",
                "x-ratelimit-reset",
                "x-ratelimit-remaining",
                "x-should-retry",
            ]
        ),
        st.text(max_size=30),
    ),
    st.binary(max_size=60),
)
def test_no_error_of_a_provider_breaks_us(
    status: int, message: str, code: str, headers: dict[str, str], body: bytes
) -> None:
    failure = classify(ProviderError(status, "api_error", message, code, headers, body), now_wall=1.8e9)
    assert failure.retry_after_s is None or 0 <= failure.retry_after_s <= CAP_S
    made = final([(targets()[0], failure)])
    assert 400 <= made.status < 600 and made.status != 529
    assert made.message
    assert wait_asked(headers, body, 1.8e9, message) == failure.retry_after_s or message == ""
