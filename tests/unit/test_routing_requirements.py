"""The users' requirements that routing has to meet, one by one (REQUIREMENTS R31-R42, R57, R58)."""

from __future__ import annotations

import random

import pytest

from ccm.model import (
    Endpoint,
    Failure,
    FailureKind,
    ModelFacts,
    Outcome,
    ProviderError,
    Target,
)
from ccm.model import FailureKind as K
from ccm.routing.budget import RetryBudget
from ccm.routing.failover import Try, Wait, plan
from ccm.routing.failures import classify, final
from ccm.routing.router import Route
from ccm.settings import FailoverSettings
from tests.routing import Clock, World, provider

A, B = provider("a", priority=1), provider("b", priority=2)
WALL = 1_790_000_000.0


def error(
    status: int, message: str = "no", code: str = "", headers: dict[str, str] | None = None
) -> ProviderError:
    return ProviderError(status, "api_error", message, code, headers or {})


def failed(status: int, *args: str, headers: dict[str, str] | None = None) -> Failure:
    return classify(error(status, *args, headers=headers), now_wall=WALL)


def first(world: World, failure: Failure) -> None:
    """The first target of a request fails like this."""
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    world.router.release(ticket, Outcome(failure))


def steps_of(world: World, route: Route) -> list[str]:
    """Whom a plan tries when everybody is overloaded."""
    clock = Clock()
    steps = plan(
        route,
        FailoverSettings(),
        clock=clock,
        rng=random.Random(1),
        deadline=9999.0,
        budget=RetryBudget(clock=clock),
    )
    said = []
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                said.append("wait")
                step = steps.send(None)
            else:
                said.append(step.target.endpoint.id)
                step = steps.send(failed(529))
    except StopIteration:
        return said


def test_r31_the_client_gets_the_most_useful_truth_and_the_attempts() -> None:
    a, b = (Target(Endpoint(p.name, p, p.keys[0]), "m", ModelFacts("m")) for p in (A, B))
    limited = failed(429, headers={"retry-after": "40"})
    shown = final([(a, failed(503)), (b, limited)], soonest_s=7.0)
    assert (shown.status, shown.type, shown.headers["retry-after"]) == (429, "rate_limit_error", "7")
    assert shown.headers["x-ccm-attempts"] == "a=503, b=429"
    assert final([(a, failed(529)), (b, failed(500))]).status == 503, "529 would end Claude Code's patience"
    assert final([(a, failed(401)), (b, failed(500))]).status == 503, (
        "what may pass is told before what will not"
    )
    assert final([(a, failed(401))]).headers["x-should-retry"] == "false"


def test_r32_an_overload_is_tried_again_in_place_and_cools_one_model_only() -> None:
    world = World(A, B)
    route = world.route()
    assert steps_of(world, route) == ["a", "wait", "a", "b"]
    first(world, failed(529))
    assert world.ids() == ["b", "a"], "the last resort behind who is well, not gone"
    assert world.ids("claude-opus-5-5") == ["a", "b"], "its other models are not concerned"


def test_r32_x_should_retry_is_honoured() -> None:
    clock = Clock()
    steps = plan(
        World(A, B).route(), FailoverSettings(), clock=clock, rng=random.Random(1), deadline=9999.0,
        budget=RetryBudget(clock=clock),
    )  # fmt: skip
    assert isinstance(next(steps), Try)
    step = steps.send(failed(529, headers={"x-should-retry": "false"}))
    assert isinstance(step, Try) and step.target.endpoint.id == "b"


def test_r33_waits_concern_what_failed_grow_slowly_are_capped_and_end() -> None:
    world = World(A, B)
    first(world, failed(429))
    left = world.router.soonest_s([t for t in world.route().targets if t.endpoint.id == "a"])
    assert left is not None and 4 <= left <= 6, "no invented minute"
    assert world.ids("claude-opus-5-5") == ["a", "b"]
    world = World(A, B)
    first(world, failed(429, headers={"retry-after": "1555200"}))  # 18 days
    world.clock.now += 3601
    assert world.ids() == ["a", "b"], "an hour is the most"
    world = World(A, B)
    first(world, failed(429, headers={"retry-after": "600"}))
    world.clock.now += 1
    world.end(world.route(pin="a").targets[0])
    assert world.ids() == ["a", "b"], "a success ends it"


def test_r34_one_probe_whose_permit_comes_back_on_every_path() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    world.clock.now += 37
    for outcome in (
        Outcome(cancelled=True),
        Outcome(failed(429, headers={"retry-after": "0"})),
        Outcome(failed(400)),
    ):
        world.clock.now += 2
        routes = [world.route() for _ in range(3)]
        tickets = [world.router.reserve(next(t for t in r.targets if t.endpoint.id == "a")) for r in routes]
        assert [ticket is not None for ticket in tickets] == [True, False, False]
        assert tickets[0] is not None
        world.router.release(tickets[0], outcome)
    world.clock.now += 2
    assert world.ids()[0] == "a"


def test_r34_when_all_are_open_the_least_bad_is_tried() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    world.spoil("b", K.QUOTA)
    route = world.route()
    assert route.panic and route.targets[0].endpoint.id == "a"
    assert world.router.reserve(route.targets[0]) is not None


def test_r35_the_limit_to_the_first_content_grows_with_prompt_and_thinking() -> None:
    def limit(tokens: int, thinking: bool) -> float:
        clock = Clock()
        steps = plan(
            World(A).route(), FailoverSettings(), clock=clock, rng=random.Random(1), deadline=9999.0,
            budget=RetryBudget(clock=clock), thinking=thinking, input_tokens=tokens,
        )  # fmt: skip
        step = next(steps)
        assert isinstance(step, Try)
        return step.limits.first_content_s

    assert limit(0, False) < limit(150_000, False) < limit(150_000, True)


@pytest.mark.parametrize(
    "failure", [failed(401), failed(403), failed(429, headers={"retry-after": "60"}), failed(402)]
)
def test_r39_the_next_key_serves_and_the_bad_one_is_shown(failure: Failure) -> None:
    world = World(provider("x", 3, priority=1), B)
    first(world, failure)
    assert [id for id in world.ids() if id != "x"] == ["x#2", "x#3", "b"]
    state = world.row("x")
    assert state["state"] in ("key rejected", "cooling") or "cooling" in state["reason"]
    if failure.kind is FailureKind.CREDENTIAL:
        assert state["state"] == "key rejected"


def test_r40_a_spent_subscription_comes_back_at_its_reset_by_itself() -> None:
    """The plan first, the metered key while its window is spent, and back at the time the headers named."""
    world = World(provider("plan", priority=1), provider("metered", priority=2))
    headers = {
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": str(int(WALL + 1800)),
    }
    first(world, failed(429, headers=headers))
    assert world.ids() == ["metered"]
    assert world.ids("claude-opus-5-5")[0] == "metered", "the window is the key's, not the model's"
    assert world.row("plan")["until_s"] == pytest.approx(1800, abs=1)
    world.clock.now += 1801
    assert world.ids() == ["plan", "metered"]


@pytest.mark.parametrize(
    ("raw", "headers"),
    [(b'{"max_tokens":1,"messages":[]}', {}), (b"{}", {"anthropic-beta": "token-counting-2024-11-01"})],
)
def test_r41_probes_never_move_health_turns_or_conversations(raw: bytes, headers: dict[str, str]) -> None:
    world = World(A, B, strategy="round-robin")
    more = {"raw": raw, "size_bytes": len(raw), "headers": headers, "session": "s"}
    for _ in range(20):
        for target in world.route(**more).targets:
            world.end(target, K.TRANSIENT)
            world.end(target, K.RATE_LIMIT, 60.0)
            world.end(target)
    assert [world.ids()[0] for _ in range(4)] == ["a", "b", "a", "b"]


def test_r42_an_overflow_goes_to_larger_windows_or_to_the_client_in_the_words_it_knows() -> None:
    facts = {"a": ModelFacts("a", window=200_000), "b": ModelFacts("b", window=1_000_000)}
    world = World(A, B, facts=lambda m, type: facts[type])
    texts = (
        "This model's maximum context length is 200000 tokens. However, your messages resulted in 210000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (210000) exceeds the maximum number of tokens allowed (200000).",
    )
    for text in texts:
        failure = failed(400, text)
        assert failure.kind is K.CONTEXT_TOO_LONG
        route = world.route()
        clock = Clock()
        steps = plan(
            route,
            FailoverSettings(),
            clock=clock,
            rng=random.Random(1),
            deadline=9999.0,
            budget=RetryBudget(clock=clock),
        )
        next(steps)
        step = steps.send(failure)
        assert isinstance(step, Try) and step.target.endpoint.id == "b"
        shown = final([(route.targets[0], failure)])
        assert (shown.status, shown.message) == (400, "prompt is too long: 210000 tokens > 200000 maximum")
        for _ in range(10):
            first(world, failure)
    assert world.ids() == ["a", "b"], "never the breaker"


def test_r57_every_wait_ends_with_the_client() -> None:
    budget = RetryBudget(clock=Clock())
    lone = World(A)
    steps = plan(
        lone.route(),
        FailoverSettings(),
        clock=lone.clock,
        rng=random.Random(1),
        deadline=9999.0,
        budget=budget,
    )
    next(steps)
    assert isinstance(steps.send(failed(500)), Wait)
    steps.close()  # what the flow does when the client leaves
    assert budget.tokens == 100.0
    capped = World(provider("a", max_in_flight=1))
    held = capped.router.reserve(capped.route().targets[0])
    assert held is not None
    assert capped.router.wait_slot(capped.route().targets, capped.clock.now + 60, lambda: True) is None


def test_r58_an_empty_answer_is_an_answer() -> None:
    """`end_turn` without content after tool results: no health event, and the conversation stays."""
    world = World(A, B)
    for _ in range(66):
        world.end(
            world.route(session="s").targets[0],
            Outcome(first_content_s=0.2, input_tokens=9000, output_tokens=0),
        )
    assert world.ids(session="s")[0] == "a"
    assert world.row("a")["failures"] == world.row("b")["failures"] == world.row("b")["requests"] == 0
