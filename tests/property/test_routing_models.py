"""Cool-downs, turns and affinity against small reference models: any course of events, 50 steps each (A18).

The models know nothing of how the real ones work: they keep the whole past and reckon everything anew from it.
CCM_MODEL_RUNS=5000 runs as many courses as the acceptance asks for; by default a few.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccm.model import FailureKind as K
from ccm.routing.affinity import Affinity
from ccm.routing.cooldown import STEPS, Cooldown
from ccm.routing.strategies import TABLE, Rival, Turns

RUNS = settings(
    max_examples=int(os.environ.get("CCM_MODEL_RUNS", "60")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SECONDS = st.sampled_from([0.0, 0.5, 3.0, 6.0, 20.0, 61.0, 301.0, 700.0, 4000.0])


class Middle(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class CooldownMachine(RuleBasedStateMachine):
    """The model keeps every failure and success since the last disproof, and derives the clock from that list."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.clock = Cooldown()
        self.begun: list[float] = []  # attempts under way
        self.until, self.set_at, self.streak = 0.0, 0.0, 0

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(times=st.integers(1, 3))
    def begin(self, times: int) -> None:
        self.begun += [self.now] * times

    @precondition(lambda self: self.begun)
    @rule(
        kind=st.sampled_from(sorted(STEPS, key=str)), told=st.none() | st.sampled_from([0.0, 2.0, 40.0, 1e9])
    )
    def fail(self, kind: K, told: float | None) -> None:
        begun = self.begun.pop(0)
        self.clock.start(kind, self.now, begun, told, "said", Middle())
        quiet = self.now - max(self.until, self.set_at) > 300
        streak = 0 if quiet else self.streak
        same_wave = streak > 0 and begun < self.set_at
        if same_wave and told is None:
            self.streak = streak
            return
        self.streak = streak if same_wave else streak + 1
        if told is not None:
            seconds = min(3600.0, max(1.0, told))
        else:
            first, longest = STEPS[kind]
            seconds = first
            for _ in range(self.streak - 1):
                seconds = min(longest, seconds * 2)
        self.until = max(self.until, self.now + seconds)
        if not same_wave:
            self.set_at = self.now

    @precondition(lambda self: self.begun)
    @rule(newest=st.booleans())
    def succeed(self, newest: bool) -> None:
        begun = self.begun.pop(-1 if newest else 0)
        self.clock.clear(begun)
        if begun >= self.set_at:
            self.until, self.streak = 0.0, 0

    @rule()
    def reset(self) -> None:
        self.clock.clear()
        self.until, self.streak = 0.0, 0

    @invariant()
    def they_agree(self) -> None:
        assert self.clock.active(self.now) == (self.until > self.now)
        assert abs(self.clock.remaining_s(self.now) - max(0.0, self.until - self.now)) < 1e-6
        assert self.clock.streak == self.streak
        assert self.clock.remaining_s(self.now) <= 3600.0


class WeightedMachine(RuleBasedStateMachine):
    """Providers come and go; whoever is there gets what its weight says. The model is nginx's algorithm in its plainest
    form, and beside it the promise itself: within one stay of the same company nobody is a whole round off."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = {"a": 5, "b": 3, "c": 2}
        self.there = ["a", "b", "c"]
        self.turns = Turns()
        self.current = dict.fromkeys("abcd", 0)
        self.stay: list[str] = []

    @rule(name=st.sampled_from("abcd"), weight=st.integers(0, 6))
    def change(self, name: str, weight: int) -> None:
        if name in self.there and len(self.there) > 1:
            self.there.remove(name)
        elif name not in self.there:
            self.weights[name] = weight
            self.there = sorted([*self.there, name])
        self.stay = []

    @rule(times=st.integers(1, 25))
    def pick(self, times: int) -> None:
        for _ in range(times):
            rivals = [Rival(name, name, ord(name), weight=self.weights[name]) for name in self.there]
            order = [r.id for r in TABLE["weighted"](rivals, self.turns, random.Random(0))]
            assert sorted(order) == self.there
            assert order[0] == self._model()
            self.stay.append(order[0])

    def _model(self) -> str:
        weighty = [name for name in self.there if self.weights[name] > 0]
        if not weighty:
            return self.there[0]
        for name in weighty:
            self.current[name] += self.weights[name]
        best = weighty[0]
        for name in weighty:
            if self.current[name] > self.current[best]:
                best = name
        self.current[best] -= sum(self.weights[name] for name in weighty)
        return best

    @invariant()
    def debts_are_bounded(self) -> None:
        """What one stay leaves behind never grows beyond one round of everybody."""
        total = sum(self.weights.values())
        assert all(abs(value) <= 4 * total + 24 for value in self.current.values())


class AffinityMachine(RuleBasedStateMachine):
    """The model keeps every binding and use ever made, and looks through all of it."""

    MOST = 5
    IDLE = 100.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = Affinity(self.MOST, self.IDLE)
        self.past: list[
            tuple[str, str | None, float]
        ] = []  # (conversation, endpoint or None for a use, when)
        self.moves = 0

    def alive(self) -> dict[str, str]:
        """Replays the past: conversation -> endpoint, in order of last use."""
        order: dict[str, tuple[str, float]] = {}
        for key, endpoint, at in self.past:
            if endpoint == "forget":
                order = {k: v for k, v in order.items() if v[0] != key}
                continue
            if endpoint is None:
                if key in order:
                    held, used = order.pop(key)
                    if at - used <= self.IDLE:
                        order[key] = (held, at)
                continue
            order.pop(key, None)
            order[key] = (endpoint, at)
            while len(order) > self.MOST:
                del order[next(iter(order))]
        return {key: endpoint for key, (endpoint, used) in order.items() if self.now - used <= self.IDLE}

    @rule(seconds=st.sampled_from([0.0, 1.0, 40.0, 99.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.sampled_from("stuvwxyz"), endpoint=st.sampled_from("abc"))
    def bind(self, key: str, endpoint: str) -> None:
        self.table.bind((key, "m"), endpoint, self.now)
        self.past.append((key, endpoint, self.now))

    @rule(key=st.sampled_from("stuvwxyz"))
    def find(self, key: str) -> None:
        expected = self.alive().get(key)
        assert self.table.peek((key, "m"), self.now) == expected
        assert self.table.find((key, "m"), self.now) == expected
        self.past.append((key, None, self.now))

    @rule(endpoint=st.sampled_from("abc"))
    def forget(self, endpoint: str) -> None:
        self.table.forget(frozenset({endpoint}))
        self.past.append((endpoint, "forget", self.now))

    @invariant()
    def they_agree(self) -> None:
        expected = self.alive()
        assert {key: self.table.peek((key, "m"), self.now) for key in "stuvwxyz"} == {
            key: expected.get(key) for key in "stuvwxyz"
        }
        assert len(self.table) <= self.MOST


TestCooldown = CooldownMachine.TestCase
TestCooldown.settings = RUNS
TestWeighted = WeightedMachine.TestCase
TestWeighted.settings = RUNS
TestAffinity = AffinityMachine.TestCase
TestAffinity.settings = RUNS
