"""The board: candidates, order, reserve, release."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ccm.errors import ControlError, Refusal
from ccm.model import (
    Failure,
    KeySource,
    ModelFacts,
    Outcome,
    Price,
    Provider,
    ProviderError,
    Secret,
    Target,
)
from ccm.model import FailureKind as K
from ccm.routing.classify import Ask
from tests.routing import OK, SONNET, World, find_facts, provider, snapshot

A, B, C = provider("a", priority=1), provider("b", priority=2), provider("c", priority=3)


def test_one_candidate_per_key_in_order_of_priority() -> None:
    world = World(provider("x", 2, priority=5), A)
    route = world.route()
    assert [(t.endpoint.id, t.model) for t in route.targets] == [
        ("a", "a-mid"),
        ("x", "x-mid"),
        ("x#2", "x-mid"),
    ]
    assert (route.reason, route.strategy, route.panic, route.excluded) == ("priority", "priority", False, ())
    assert [t.model for t in world.route("claude-opus-5-5").targets] == ["a-big", "x-big", "x-big"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"pin": "b"}, "x-ccm-provider"),
        ({"path_prefix": "b"}, "the path"),
        ({"model": "b/claude-sonnet-5-5"}, "model name"),
        ({"model": "b,claude-sonnet-5-5"}, "model name"),
    ],
)
def test_pins(more: dict[str, Any], reason: str) -> None:
    route = World(A, B).route(**more)
    assert [(t.endpoint.id, t.model) for t in route.targets] == [("b", "b-mid")]
    assert route.reason == reason


def test_a_pin_may_name_an_endpoint_and_comes_before_the_models_prefix() -> None:
    assert World(provider("x", 2), A).ids(pin="x#2") == ["x#2"]
    world = World(A, provider("b", tiers={"default": "a/b-9"}))
    assert [t.model for t in world.route("a/b-7", pin="b").targets] == ["a/b-7"]


def test_a_pin_that_is_unknown_or_unusable_is_refused_with_the_names() -> None:
    off = provider("off", enabled=False)
    world = World(A, B, off, provider("bare", keys=0))
    for pin, said in (
        ("nope", "'nope', which is not configured"),
        ("off", "disabled"),
        ("bare", "no usable key"),
    ):
        with pytest.raises(Refusal) as caught:
            world.route(pin=pin)
        assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
        assert said in caught.value.message and "a, b" in caught.value.message
    with pytest.raises(Refusal):
        world.route(path_prefix="nope")


def test_no_provider_at_all_is_refused_with_the_fix() -> None:
    missing = Provider(
        "groq", "groq", "openai_chat", "https://g", keys=(KeySource("env", "G", None, "G is not set"),)
    )
    with pytest.raises(Refusal) as caught:
        World(missing).route()
    assert (caught.value.status, caught.value.headers["x-should-retry"]) == (403, "false")
    assert "G is not set" in caught.value.message
    with pytest.raises(Refusal, match="ANTHROPIC_API_KEY"):
        World().route()


def test_a_model_name_of_absurd_length_is_refused() -> None:
    with pytest.raises(Refusal):
        World(A).route("x" * 600)


def test_the_models_table_renames_and_restricts() -> None:
    models = {
        "claude-haiku-*": {"b": "tiny"},
        "my-model": "claude-opus-5-5",
        "gone": {"zzz": "x"},
        "to-b": "b/claude-opus-5-5",
    }
    world = World(A, B, models=models)
    assert [t.id for t in world.route("claude-haiku-4-5").targets] == ["b/tiny"]
    assert [t.model for t in world.route("my-model").targets] == ["a-big", "b-big"]
    assert [t.id for t in world.route("to-b").targets] == ["b/b-big"]
    assert [t.id for t in world.route("claude-haiku-4-5", pin="a").targets] == ["a/a-small"]
    with pytest.raises(Refusal) as caught:
        world.route("gone")
    assert (caught.value.status, caught.value.type) == (404, "not_found_error")


def test_who_does_not_speak_a_name_stands_in_after_those_who_do() -> None:
    world = World(A, provider("openai", priority=9, tiers={"default": "gpt-5.6"}))
    assert [t.id for t in world.route("gpt-5.2").targets] == ["openai/gpt-5.2", "a/a-mid"]
    assert [t.id for t in world.route("o9").targets] == ["a/o9", "openai/o9"]


def test_candidates_that_lack_what_the_request_needs_are_left_out() -> None:
    def facts(model: str, type: str) -> ModelFacts:
        return ModelFacts(model, abilities=frozenset({"tools"} if type == "a" else {"tools", "images"}))

    raw = b'{"messages":[{"role":"user","content":[{"type":"image","source":{}}]}]}'
    world = World(A, B, facts=facts)
    assert world.ids(raw=raw, size_bytes=len(raw)) == ["b"]
    assert world.route(raw=raw, size_bytes=len(raw)).excluded == (("a", "no images"),)
    assert world.ids(raw=b'{"messages":[]}') == ["a", "b"]
    assert World(A, facts=facts).ids(raw=raw) == ["a"]  # nobody can: better with a marker than not at all


def test_the_request_is_not_searched_when_all_can_do_the_same() -> None:
    class Untouched(Ask):
        def needs(self, *args: Any) -> frozenset[str]:
            raise AssertionError("searched")

    world = World(A, B)
    assert world.router.route(Untouched(SONNET, True), world.snapshot, find_facts).targets


# ---- health


def test_breaker_opens_on_a_model_and_half_open_lets_one_through() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    assert world.ids() == ["b"]
    assert world.ids("claude-opus-5-5") == ["a", "b"]  # another model of the same endpoint is well
    assert world.row("a")["state"] == "ready"
    assert "a-mid keeps failing" in world.row("a")["reason"]
    world.clock.now += 40
    route, other = world.route(), world.route()
    probe = world.router.reserve(route.targets[0])
    assert probe is not None and route.targets[0].endpoint.id == "a"
    assert world.router.reserve(other.targets[0]) is None
    assert world.ids() == ["b"]
    world.router.release(probe, Outcome(cancelled=True))  # the client left: the permit is free again
    assert world.ids() == ["a", "b"]
    for _ in range(2):
        world.end(next(t for t in world.route().targets if t.endpoint.id == "a"))
    world.clock.now += 31
    assert world.ids() == ["a", "b"]


def test_failing_to_connect_concerns_the_whole_endpoint() -> None:
    world = World(A, B)
    world.spoil("a", K.CONNECT, 5)
    assert world.ids("claude-opus-5-5") == ["b"]
    assert world.row("a")["state"] == "open"
    assert world.row("a")["reason"] == "cannot connect"
    assert 24 <= world.row("a")["until_s"] <= 36


def test_an_answer_with_a_status_proves_that_the_host_is_there() -> None:
    world = World(A, B)
    world.spoil("a", K.CONNECT, 4)
    world.end(world.route().targets[0], K.CALLER_FAULT, status=400)
    world.spoil("a", K.CONNECT, 4)
    assert world.ids() == ["a", "b"]


def test_the_last_target_is_never_ejected_only_marked() -> None:
    world = World(A)
    for _ in range(20):
        route = world.route()
        world.end(route.targets[0], K.TRANSIENT)
    route = world.route()
    assert [t.endpoint.id for t in route.targets] == ["a"]
    assert route.panic  # one attempt, no retries, while it keeps failing
    world.end(route.targets[0])
    assert not world.route().panic


def test_of_two_the_second_is_kept_when_the_first_is_out() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    world.spoil("b", K.TRANSIENT, 20)
    assert world.ids() == ["b"]
    assert world.route().panic


def test_pinned_requests_never_open_the_breaker() -> None:
    world = World(A, B)
    for _ in range(10):
        world.end(world.route(pin="a").targets[0], K.TRANSIENT)
    assert world.ids() == ["a", "b"]
    world.end(world.route().targets[0], K.TRANSIENT)
    assert world.ids() == ["b"]


@pytest.mark.parametrize("kind", [K.RATE_LIMIT, K.OVERLOADED])
def test_cool_downs_concern_the_model_and_open_no_breaker(kind: K) -> None:
    world = World(A, B)
    world.spoil("a", kind, wait=30.0)
    assert world.ids() == ["b", "a"]
    assert world.ids("claude-opus-5-5") == ["a", "b"]
    assert (world.row("a")["state"], world.row("a")["until_s"]) == ("ready", None)
    assert world.row("a")["reason"].startswith("cooling: a-mid: ")
    world.clock.now += 30.1
    assert world.ids() == ["a", "b"]


def test_what_only_cools_down_is_the_last_resort() -> None:
    world = World(A, B, C)
    world.spoil("a", K.OVERLOADED)
    world.spoil("b", K.QUOTA)
    assert world.ids() == ["c", "a"]
    assert [id for id, _ in world.route().excluded] == ["b"]
    assert not world.route().panic


def test_a_rejected_key_is_out_and_the_next_key_serves() -> None:
    world = World(provider("x", 2, priority=1), B)
    world.spoil("x", K.CREDENTIAL)
    assert world.ids() == ["x#2", "b"]
    assert world.ids("claude-opus-5-5") == ["x#2", "b"]
    assert world.row("x")["state"] == "key rejected"


def test_a_success_clears_the_cool_down() -> None:
    world = World(A, B)
    world.spoil("a", K.RATE_LIMIT, wait=600.0)
    world.clock.now += 1
    world.end(world.route(pin="a").targets[0])
    assert world.ids() == ["a", "b"]


def test_a_stream_that_began_before_does_not() -> None:
    world = World(A, B)
    old = world.router.reserve(world.route().targets[0])
    assert old is not None
    world.clock.now += 5
    world.spoil("a", K.RATE_LIMIT, wait=600.0)
    world.clock.now += 5
    world.router.release(old, OK)
    assert world.ids() == ["b", "a"]


@pytest.mark.parametrize("outcome", [Outcome(cancelled=True), K.INTERNAL])
def test_what_says_nothing_changes_nothing(outcome: Outcome | K) -> None:
    world = World(A, B)
    for _ in range(20):
        world.end(world.route().targets[0], outcome)
    assert world.ids() == ["a", "b"]
    assert (world.row("a")["failures"], world.row("a")["in_flight"]) == (0, 0)


def test_probes_never_move_health() -> None:
    world = World(A, B)
    headers = {"anthropic-beta": "token-counting-2024-11-01"}
    for _ in range(20):
        world.end(world.route(headers=headers).targets[0], K.TRANSIENT)
        world.end(world.route(headers=headers).targets[0], K.RATE_LIMIT, wait=60)
    assert world.ids() == ["a", "b"]
    world.end(world.route(headers=headers, session="s").targets[1])
    assert world.ids(session="s") == ["a", "b"]


def test_release_twice_is_once() -> None:
    world = World(A, B)
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    world.router.release(ticket, OK)
    world.router.release(ticket, Outcome(Failure(K.TRANSIENT, ProviderError(500, "x", ""))))
    row = world.row("a")
    assert (row["in_flight"], row["successes"], row["failures"]) == (0, 1, 0)


def test_the_in_flight_limit_is_kept_and_full_ones_go_behind() -> None:
    world = World(provider("x", priority=1, max_in_flight=1), B)
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    assert world.ids() == ["b", "x"]
    assert world.router.reserve(world.route().targets[1]) is None
    world.router.release(ticket, OK)
    assert world.ids() == ["x", "b"]


# ---- panic


def test_when_all_are_out_the_least_bad_is_tried() -> None:
    world = World(A, B, C)
    world.spoil("a", K.RATE_LIMIT, wait=50)
    world.spoil("b", K.RATE_LIMIT, wait=20)
    world.spoil("c", K.CREDENTIAL)
    route = world.route()
    assert [t.endpoint.id for t in route.targets] == ["b", "a"]
    assert route.panic and route.wait_s == 20.0
    assert route.reason.startswith("panic: cooling for 20 s")
    assert {id for id, _ in route.excluded} == {"c"}
    assert world.router.soonest_s(route.targets) == 20.0
    world.end(route.targets[0])
    assert world.ids() == ["b", "a"] and not world.route().panic


def test_panic_passes_an_open_breaker() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    world.spoil("b", K.RATE_LIMIT, wait=600)
    route = world.route()
    assert [t.endpoint.id for t in route.targets] == ["a", "b"]
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    assert world.router.reserve(world.route().targets[0]) is None, "one probe at a time, whoever asks"
    world.router.release(ticket, Outcome(cancelled=True))
    second = world.router.reserve(world.route().targets[0])
    assert second is not None
    world.router.first_content(second, 0.1)
    assert world.router.reserve(world.route().targets[0]) is not None, "it answers: the next may follow"
    assert world.router.reserve(Target(world.snapshot.endpoints[0], "a-mid", ModelFacts("a-mid"))) is None


def test_soonest() -> None:
    world = World(A, B)
    targets = world.route().targets
    assert world.router.soonest_s(targets) == 0.0
    assert world.router.soonest_s(()) is None


# ---- steering


def test_a_switch_goes_before_strategy_and_affinity_never_before_health_or_pin() -> None:
    world = World(A, B)
    world.end(world.route(session="s").targets[0])
    world.router.set_primary("b")
    assert world.router.primary == "b"
    assert world.ids(session="s") == ["b", "a"]
    assert world.route().reason == "primary"
    assert world.ids(pin="a") == ["a"]
    world.spoil("b", K.RATE_LIMIT, wait=60)
    assert world.ids() == ["a", "b"]
    assert world.route().reason == "priority (primary b cannot take it)"
    world.router.set_primary(None)
    assert world.router.primary is None


def test_a_switch_for_a_time_ends() -> None:
    world = World(A, B)
    world.router.set_primary("b", world.clock.now + 60)
    assert world.ids() == ["b", "a"]
    world.clock.now += 60
    assert (world.router.primary, world.ids()) == (None, ["a", "b"])


def test_disable_drain_and_reset() -> None:
    world = World(A, B)
    world.router.set_enabled("a", False)
    assert world.ids() == ["b"]
    assert world.row("a")["state"] == "disabled"
    world.router.set_enabled("a", True)
    world.router.drain("a")
    assert (world.ids(), world.row("a")["state"]) == (["b"], "draining")
    world.router.drain("b")
    assert world.ids() == ["a", "b"]  # no other is left
    assert not world.route().panic
    world.router.drain("a", False)
    assert world.ids() == ["a"]
    world.router.drain("b", False)
    world.spoil("a", K.TRANSIENT, 5)
    world.router.reset("a")
    assert world.ids() == ["a", "b"]
    world.spoil("a", K.CREDENTIAL)
    world.router.reset()
    assert world.ids() == ["a", "b"]


def test_everything_switched_off_is_refused_with_the_fix() -> None:
    world = World(A)
    world.router.set_enabled("a", False)
    with pytest.raises(Refusal) as caught:
        world.route()
    assert (caught.value.status, caught.value.type) == (503, "api_error")
    assert "ccmctl enable" in caught.value.message


def test_names_that_do_not_exist_are_refused() -> None:
    world = World(A)
    steering: list[Callable[[], None]] = [
        lambda: world.router.set_primary("z"),
        lambda: world.router.set_enabled("z", True),
        lambda: world.router.drain("z"),
        lambda: world.router.reset("z"),
    ]
    for call in steering:
        with pytest.raises(ControlError, match="there are: a"):
            call()


# ---- affinity, strategies


def test_a_conversation_stays_where_it_was_answered() -> None:
    world = World(provider("a"), provider("b"), strategy="round-robin")
    first: dict[str, str] = {}
    for n in range(10):
        route = world.route(session=str(n))
        first[str(n)] = route.targets[0].endpoint.id
        world.end(route.targets[0])
    assert Counter(first.values()) == {"a": 5, "b": 5}
    for n in range(30):
        session = str(n % 10)
        route = world.route(session=session)
        assert (route.targets[0].endpoint.id, route.reason) == (first[session], "affinity hit")


def test_it_moves_on_failover_and_is_kept_there() -> None:
    world = World(A, B)
    world.end(world.route(session="s").targets[0])
    route = world.route(session="s")
    world.end(route.targets[0], K.TRANSIENT)
    world.end(route.targets[1])
    assert world.ids(session="s") == ["b", "a"]
    assert world.ids(session="other") == ["a", "b"]
    assert world.ids("claude-opus-5-5", session="s") == ["a", "b"]


def test_it_never_overrides_health() -> None:
    world = World(A, B)
    world.end(world.route(session="s").targets[1])
    assert world.ids(session="s") == ["b", "a"]
    world.spoil("b", K.QUOTA)
    assert world.ids(session="s") == ["a"]


def test_cancelled_and_failed_attempts_bind_nothing() -> None:
    world = World(A, B)
    world.end(world.route(session="s").targets[1], Outcome(cancelled=True))
    world.end(world.route(session="s").targets[1], K.CALLER_FAULT)
    assert world.ids(session="s") == ["a", "b"]


def test_weights_hold_for_sessions() -> None:
    world = World(
        provider("a", weight=5), provider("b", weight=3), provider("c", weight=2), strategy="weighted"
    )
    found: Counter[object] = Counter()
    for n in range(100):
        route = world.route(session=str(n))
        found[route.targets[0].endpoint.id] += 1
        for _ in range(3):
            world.end(world.route(session=str(n)).targets[0] if _ else route.targets[0])
    assert found == {"a": 50, "b": 30, "c": 20}


def test_two_models_in_turn_do_not_disturb_the_round() -> None:
    world = World(provider("a"), provider("b"), strategy="round-robin")
    found: Counter[object] = Counter()
    for _ in range(50):
        found["opus", world.ids("claude-opus-5-5")[0]] += 1
        found["haiku", world.ids("claude-haiku-5-5")[0]] += 1
    assert set(found.values()) == {25}


def test_latency_learns_from_first_content_normalised_by_input() -> None:
    world = World(A, B, strategy="latency")
    for _ in range(3):
        targets = {t.endpoint.id: t for t in world.route().targets}
        world.end(targets["a"], Outcome(first_content_s=6.0, input_tokens=500_000, output_tokens=9))
        world.end(targets["b"], Outcome(first_content_s=2.0, output_tokens=9))
    assert [world.ids()[0] for _ in range(10)] == ["a"] * 10


def test_cost_uses_the_catalogues_prices_and_says_what_it_does_not_know() -> None:
    prices = {"a": Price(3.0, 15.0), "b": Price(1.0, 5.0), "c": Price()}

    def facts(model: str, type: str) -> ModelFacts:
        return ModelFacts(model, price=prices[type])

    world = World(A, B, C, strategy="cost", facts=facts)
    assert world.ids(size_bytes=4000) == ["b", "a", "c"]
    assert world.route().reason == "cost (price unknown: c)"


def test_least_busy() -> None:
    world = World(A, B, strategy="least-busy")
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    assert world.ids() == ["b", "a"]


def test_slow_start_after_recovery() -> None:
    world = World(A, B)
    world.spoil("a", K.TRANSIENT, 5)
    world.clock.now += 40
    for _ in range(2):
        world.end(next(t for t in world.route().targets if t.endpoint.id == "a"))
    early = Counter(world.ids()[0] for _ in range(400))
    assert 15 <= early["a"] <= 80
    world.clock.now += 15
    half = Counter(world.ids()[0] for _ in range(400))
    assert 170 <= half["a"] <= 270
    world.clock.now += 15
    assert Counter(world.ids()[0] for _ in range(50)) == {"a": 50}


def test_a_target_whose_stream_broke_is_tried_last_for_a_minute() -> None:
    world = World(A, B)
    world.router.set_primary("a")
    world.router.avoid(77, "a")
    world.router.avoid(0, "a")
    assert world.ids(body_key=77) == ["b", "a"]
    assert world.ids(body_key=78) == ["a", "b"]
    assert world.ids() == ["a", "b"]
    world.clock.now += 61
    assert world.ids(body_key=77) == ["a", "b"]


# ---- configurations


def test_health_outlives_a_reload_for_what_stays_the_same() -> None:
    world = World(A, B, C)
    world.spoil("a", K.TRANSIENT, 5)
    world.spoil("b", K.CREDENTIAL)
    world.spoil("c", K.RATE_LIMIT, wait=500)
    world.router.set_primary("c")
    moved = provider("b", priority=2, type="b2")
    world.snapshot = snapshot(provider("a", priority=1, weight=7), moved, C)
    world.router.install(world.snapshot)
    assert world.router.primary == "c"
    route = world.route()
    assert [t.endpoint.id for t in route.targets] == ["b", "c"]  # c only rests
    assert [id for id, _ in route.excluded] == ["a"]


def test_a_reload_gives_a_rejected_key_another_chance() -> None:
    world = World(A, B)
    world.spoil("a", K.CREDENTIAL)
    assert world.ids() == ["b"]
    world.snapshot = snapshot(A, B)
    world.router.install(world.snapshot)
    assert world.ids() == ["a", "b"]


def test_a_new_key_is_a_new_endpoint_and_old_tickets_do_no_harm() -> None:
    world = World(A, B)
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    changed = Provider(
        "a",
        "a",
        "openai_chat",
        "https://a",
        keys=(KeySource("env", "a_0", Secret("new", "env")),),
        priority=1,
    )
    world.snapshot = snapshot(changed, B)
    world.router.install(world.snapshot)
    world.router.release(ticket, OK)
    assert (world.row("a")["requests"], world.row("a")["in_flight"]) == (0, 0)


def test_a_removed_provider_is_forgotten() -> None:
    world = World(A, B)
    world.router.set_primary("a")
    world.router.set_enabled("a", False)
    world.snapshot = snapshot(B)
    world.router.install(world.snapshot)
    assert (world.router.primary, [row["id"] for row in world.router.board()]) == (None, ["b"])
    world.snapshot = snapshot(A, B)
    world.router.install(world.snapshot)
    assert world.ids() == ["a", "b"]


def test_a_slate_is_computed_once_per_configuration_and_bounded() -> None:
    asked: list[str] = []

    def facts(model: str, type: str) -> ModelFacts:
        asked.append(model)
        return ModelFacts(model)

    world = World(A, facts=facts)
    for _ in range(5):
        world.route()
    assert asked == ["a-mid"]
    for n in range(2000):
        world.route(f"name-{n}")
    row = world.router._board.rows["a"]
    assert len(row.models) <= 64
    assert len(world.router._slates.kept[1]) <= 512
    assert len(world.router._turns._table) <= 256


def test_the_board_is_plain_data() -> None:
    world = World(A, B)
    ticket = world.router.reserve(world.route().targets[0])
    assert ticket is not None
    world.clock.now += 2.5
    world.router.release(ticket, Outcome(first_content_s=0.5, output_tokens=100))
    world.spoil("b", K.RATE_LIMIT, wait=30)
    world.clock.now += 10
    a, b = world.router.board()
    assert (a["state"], a["requests"], a["successes"], a["first_content_ms"], a["tokens_per_s"]) == (
        "ready",
        1,
        1,
        500,
        50.0,
    )
    assert (b["state"], b["until_s"], b["failures"], b["last_error_ago_s"]) == ("cooling", 20.0, 1, 10.0)
    assert b["reason"] == "b-mid: rate limit: said"


def test_many_threads_leave_nothing_behind() -> None:
    world = World(provider("a", max_in_flight=3), provider("b"), strategy="round-robin")
    kinds = [None, None, K.TRANSIENT, K.RATE_LIMIT, K.CONNECT]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for n in range(300):
            for target in world.route(session=str(n % 7)).targets:
                ticket = world.router.reserve(target)
                if ticket is None:
                    continue
                kind = rng.choice(kinds)
                failure = Failure(kind, ProviderError(0, "x", ""), 0.0) if kind else None
                world.router.release(ticket, Outcome(failure, cancelled=not kind and rng.random() < 0.3))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [row["in_flight"] for row in world.router.board()] == [0, 0]
    assert world.router._in_flight == 0


def test_parallel_first_requests_of_a_conversation_go_the_same_way() -> None:
    world = World(provider("a"), provider("b"), strategy="round-robin")
    tickets = [world.router.reserve(world.route(session="s").targets[0]) for _ in range(4)]
    assert {ticket.target.endpoint.id for ticket in tickets if ticket} == {"a"}
    assert world.ids(session="t") == ["b", "a"]
    for ticket in tickets:
        assert ticket is not None
        world.router.release(ticket, Outcome(cancelled=True))
    assert world.router._memory._heading == {}


def test_the_first_content_binds_and_times_long_before_the_end() -> None:
    world = World(provider("a"), provider("b"), strategy="round-robin")
    ticket = world.router.reserve(world.route(session="s").targets[0])
    assert ticket is not None
    world.router.first_content(ticket, 0.4)
    world.router.first_content(ticket, 9.9)
    assert world.router._memory.affinity.peek(("s", SONNET), world.clock.now) == "a"
    assert world.row("a")["first_content_ms"] == 400
    world.router.release(ticket, Outcome(first_content_s=0.4, output_tokens=5))
    assert (world.row("a")["first_content_ms"], world.row("a")["successes"]) == (400, 1)
    late = world.router.reserve(world.route().targets[0])
    assert late is not None
    world.router.release(late, OK)
    world.router.first_content(late, 77.0)
    assert world.row(late.target.endpoint.id)["first_content_ms"] < 600


def test_a_switch_for_one_class() -> None:
    world = World(A, B, C)
    world.router.set_primary("c", request_class="think")
    world.router.set_primary("b", until=world.clock.now + 60, request_class="image")
    thinks = {
        "messages": [{"role": "user", "content": "x"}],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
    sees = {"messages": [{"role": "user", "content": [picture]}]}
    assert world.ids()[0] == "a" and world.router.primary is None
    assert world.ids(request=thinks)[0] == "c"
    assert world.ids(request=sees)[0] == "b"
    world.clock.now += 61
    assert world.ids(request=sees)[0] == "a", "only for so long"
    world.router.set_primary("b")
    assert world.ids()[0] == "b" and world.ids(request=thinks)[0] == "c", "the class goes before the rest"
    world.router.set_primary(None, request_class="think")
    assert world.ids(request=thinks)[0] == "b"
