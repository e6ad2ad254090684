"""Whole days of traffic in simulated time: fair shares, warm caches, a target that degrades, one that dies.

Deterministic: clock and randomness are ours. Nothing here opens a socket or sleeps.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from ccm.model import Failure, Outcome, ProviderError
from ccm.model import FailureKind as K
from ccm.routing.failover import Wait, plan
from ccm.routing.router import Ticket
from ccm.settings import FailoverSettings
from tests.routing import World, provider

GOOD = Outcome(first_content_s=0.5, input_tokens=5000, output_tokens=300)


# ---- shares


def test_5_3_2_within_one_percent_over_10_000_picks() -> None:
    world = World(
        *(provider(n, weight=w) for n, w in zip("abc", (5, 3, 2), strict=True)), strategy="weighted"
    )
    found = Counter(world.ids()[0] for _ in range(10_000))
    for name, share in (("a", 5000), ("b", 3000), ("c", 2000)):
        assert abs(found[name] - share) <= 0.01 * share


@pytest.mark.parametrize("lost", "abc")
def test_also_while_one_is_out_and_after_it_is_back(lost: str) -> None:
    weights = {"a": 5, "b": 3, "c": 2}
    world = World(*(provider(n, weight=w) for n, w in weights.items()), strategy="weighted")
    Counter(world.ids()[0] for _ in range(1234))
    world.router.set_enabled(lost, False)
    found = Counter(world.ids()[0] for _ in range(10_000))
    left = {name: weight for name, weight in weights.items() if name != lost}
    for name, weight in left.items():
        share = 10_000 * weight / sum(left.values())
        assert abs(found[name] - share) <= 0.01 * share
    world.router.set_enabled(lost, True)
    found = Counter(world.ids()[0] for _ in range(10_000))
    for name, weight in weights.items():
        assert abs(found[name] - 1000 * weight) <= 10 * weight


# ---- sessions


def serve(world: World, session: str, dead: set[str], **more: Any) -> str:
    """One whole turn with failover; the endpoint that answered ("" for none)."""
    router, clock = world.router, world.clock
    route = world.route(session=session, **more)
    steps = plan(
        route,
        FailoverSettings(),
        clock=clock,
        rng=router.rng,
        deadline=clock.now + 60,
        budget=router.retry_budget,
    )
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                step = steps.send(None)
                continue
            ticket = router.reserve(step.target, route)
            if ticket is None:
                step = steps.send(None)
                continue
            id = step.target.endpoint.id
            if id not in dead:
                router.release(ticket, GOOD)
                steps.close()
                return id
            failure = Failure(K.CONNECT, ProviderError(0, "api_error", "refused"))
            router.release(ticket, Outcome(failure))
            step = steps.send(failure)
    except StopIteration:
        return ""


def test_200_sessions_of_20_turns_stay_on_their_warm_endpoints_r47() -> None:
    world, rng = World(*map(provider, "abcd"), strategy="round-robin"), random.Random(2)
    turns = [f"session-{n}" for n in range(200) for _ in range(20)]
    rng.shuffle(turns)
    home: dict[str, str] = {}
    load: Counter[str] = Counter()
    stayed = 0
    for session in turns:
        id = serve(world, session, set())
        stayed += home.setdefault(session, id) == id
        home[session] = id
        load[id] += 1
        world.clock.now += 0.2
    assert stayed / len(turns) >= 0.99
    assert all(abs(count - 1000) <= 100 for count in load.values()), load


def test_conversations_without_a_session_stay_as_well_and_first_turns_spread() -> None:
    world = World(*map(provider, "abcd"), strategy="round-robin")
    home: dict[int, str] = {}
    firsts: Counter[str] = Counter()
    for turn in range(20):
        for n in range(40):
            user = {"role": "user", "content": f"question {n}"}
            rest = [{"role": "assistant", "content": "answer"}, {"role": "user", "content": "and?"}] * turn
            request = {
                "system": [{"type": "text", "text": f"x-anthropic-billing-header: cch={turn};"}, {"type": "text", "text": "S"}],
                "messages": [user, *rest],
            }  # fmt: skip
            id = serve(world, "", set(), request=request)
            if turn == 0:
                firsts[id] += 1
            assert home.setdefault(n, id) == id
    assert set(firsts.values()) == {10}


def test_equal_first_turns_are_not_taken_for_one_conversation() -> None:
    world = World(*map(provider, "abcd"), strategy="round-robin")
    request = {"messages": [{"role": "user", "content": "hi"}]}
    found = Counter(serve(world, "", set(), request=request) for _ in range(100))
    assert set(found.values()) == {25}


def test_an_endpoint_dies_and_revives_no_session_moves_twice() -> None:
    world, rng = World(*map(provider, "abcd"), strategy="round-robin"), random.Random(4)
    homes: dict[str, list[str]] = defaultdict(list)
    sessions = [f"s{n}" for n in range(60)]
    dead: set[str] = set()
    for step in range(6000):
        if step == 1500:
            dead = {"b"}
        if step == 3500:
            dead = set()
        session = rng.choice(sessions)
        id = serve(world, session, dead)
        assert id and id not in dead
        if homes[session][-1:] != [id]:
            homes[session].append(id)
        world.clock.now += 0.1
    moves = {session: len(path) - 1 for session, path in homes.items()}
    assert max(moves.values()) <= 1, {s: homes[s] for s, n in moves.items() if n > 1}
    assert all(path[0] == "b" for path in homes.values() if len(path) > 1), "only those who had to move"
    assert sum(moves.values()) == world.router._memory.affinity.moves
    assert any(path[0] == "b" for path in homes.values())


def test_sticky_false_spreads_every_request() -> None:
    world = World(*map(provider, "abcd"), strategy="round-robin", sticky=False)
    found = Counter(serve(world, "one", set()) for _ in range(100))
    assert set(found.values()) == {25}


def test_subagents_follow_their_parent_also_with_another_model() -> None:
    world = World(*map(provider, "abcd"), strategy="round-robin")
    for n in range(20):
        home = serve(world, f"s{n}", set())
        for _ in range(3):
            agent = {"x-claude-code-agent-id": "1"}
            assert serve(world, f"s{n}", set(), model="claude-haiku-5-5", headers=agent) == home
        assert serve(world, f"s{n}", set()) == home


# ---- latency, with requests under way at the same time


class Traffic:
    """Arrivals every `every` seconds; an answer begins after its endpoint's time and ends half a second later."""

    def __init__(self, seed: int, early: bool) -> None:
        self.world = World(*map(provider, "abc"), strategy="latency")
        self.world.router.rng = random.Random(seed)
        self.rng = random.Random(seed + 1)
        self.early = early  # times are told when the answer begins, not when it has ended
        self.times = {"a": 0.1, "b": 0.2, "c": 0.4}
        self.events: list[tuple[float, int, str, Ticket, float]] = []
        self.count = 0

    def run(self, requests: int, every: float = 0.25) -> list[str]:
        found = []
        for _ in range(requests):
            self.settle(self.world.clock.now + every)
            target = self.world.route().targets[0]
            ticket = self.world.router.reserve(target)
            assert ticket is not None
            id = target.endpoint.id
            found.append(id)
            seconds = self.times[id] * self.rng.uniform(0.9, 1.1)
            self.count += 1
            now = self.world.clock.now
            heapq.heappush(self.events, (now + seconds, self.count, "first", ticket, seconds))
            self.count += 1
            heapq.heappush(self.events, (now + seconds + 0.5, self.count, "end", ticket, seconds))
        return found

    def settle(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            at, _, what, ticket, seconds = heapq.heappop(self.events)
            self.world.clock.now = at
            if what == "end":
                self.world.router.release(ticket, Outcome(first_content_s=seconds, output_tokens=50))
            elif self.early:
                self.world.router.first_content(ticket, seconds)
        self.world.clock.now = until


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_traffic_leaves_a_target_that_degrades_and_finds_it_again(seed: int, early: bool) -> None:
    traffic = Traffic(seed, early)
    traffic.run(200)
    before = Counter(traffic.run(200))
    assert before["a"] > before["b"] > before["c"]
    traffic.times["a"] = 2.0
    traffic.run(20)
    after = Counter(traffic.run(300))
    assert after["a"] <= 0.1 * 300, after
    traffic.times["a"] = 0.1
    traffic.run(100)
    again = Counter(traffic.run(200))
    assert again["a"] >= 0.4 * 200, again


def test_cold_targets_get_their_chance_without_a_rush() -> None:
    traffic = Traffic(3, True)
    found = Counter(traffic.run(30))
    assert min(found[name] for name in "abc") >= 1
