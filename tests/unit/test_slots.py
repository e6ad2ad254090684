"""Waiting for a slot: first come first served, bounded, given up at once by those who leave (R38)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ccm.model import Failure, Outcome, ProviderError
from ccm.model import FailureKind as K
from ccm.routing.router import Ticket
from ccm.routing.slots import QUEUE_MOST
from tests.routing import OK, World, provider

LONG = 30.0


def capped(*names: str, most: int = 1, **more: Any) -> World:
    return World(*(provider(name, priority=n, max_in_flight=most) for n, name in enumerate(names)), **more)


class Queue:
    """Requests that wait in threads; results in the order in which slots were granted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.granted: list[tuple[int, Ticket | None]] = []
        self.threads: list[threading.Thread] = []
        self.gone: set[int] = set()

    def wait(self, n: int, targets: Any = None, seconds: float = LONG) -> None:
        before = sum(row["waiting"] for row in self.world.router.board())
        route = self.world.route()

        def work() -> None:
            deadline = self.world.clock.now + seconds
            found = self.world.router.wait_slot(
                targets or route.targets[:1], deadline, lambda: n in self.gone
            )
            self.granted.append((n, found))

        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()
        self.until(
            lambda: sum(row["waiting"] for row in self.world.router.board()) > before or not thread.is_alive()
        )

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < end, "it never came about"
            time.sleep(0.001)

    def next(self, count: int) -> tuple[int, Ticket | None]:
        self.until(lambda: len(self.granted) >= count)
        return self.granted[count - 1]


def take(world: World, n: int = 0) -> Ticket:
    ticket = world.router.reserve(world.route().targets[n])
    assert ticket is not None
    return ticket


def test_first_come_first_served_and_nobody_overtakes() -> None:
    world = capped("a")
    held, queue = take(world), Queue(world)
    for n in range(5):
        queue.wait(n)
    assert world.router.reserve(world.route().targets[0]) is None
    for n in range(5):
        world.router.release(held, OK)
        # whoever comes now finds the slot taken by who waited
        assert world.router.reserve(world.route().targets[0]) is None
        who, ticket = queue.next(n + 1)
        assert who == n and ticket is not None
        held = ticket
    world.router.release(held, OK)
    assert world.row("a")["in_flight"] == world.row("a")["waiting"] == 0
    assert world.router.reserve(world.route().targets[0]) is not None


def test_a_free_slot_is_taken_without_waiting() -> None:
    world = capped("a")
    ticket = world.router.wait_slot(world.route().targets, world.clock.now)
    assert ticket is not None


def test_the_first_of_several_that_comes_free() -> None:
    world = capped("a", "b")
    held = take(world, 0), take(world, 0)
    assert {ticket.target.endpoint.id for ticket in held} == {"a", "b"}
    queue = Queue(world)
    queue.wait(0, targets=world.route().targets)
    b = next(ticket for ticket in held if ticket.target.endpoint.id == "b")
    world.router.release(b, OK)
    _, ticket = queue.next(1)
    assert ticket is not None and ticket.target.endpoint.id == "b"
    assert world.row("a")["waiting"] == 0, "it no longer stands in the other queue"


def test_who_leaves_gives_up_his_place() -> None:
    world = capped("a")
    held, queue = take(world), Queue(world)
    for n in range(3):
        queue.wait(n)
    queue.gone.add(0)
    assert queue.next(1) == (0, None)
    world.router.release(held, OK)
    who, ticket = queue.next(2)
    assert (who, ticket is not None) == (1, True)
    queue.gone.add(2)
    queue.next(3)


def test_who_leaves_with_an_exception_leaks_nothing() -> None:
    world = capped("a")
    held = take(world)

    def cancelled() -> bool:
        world.router.release(
            held, OK
        )  # the slot comes free at the very moment the client is found to be gone
        raise ConnectionError

    with pytest.raises(ConnectionError):
        world.router.wait_slot(world.route().targets, world.clock.now + LONG, cancelled)
    assert (world.row("a")["in_flight"], world.row("a")["waiting"]) == (0, 0)


def test_the_deadline_ends_a_wait() -> None:
    world = capped("a")
    take(world)
    assert world.router.wait_slot(world.route().targets, world.clock.now) is None
    assert world.row("a")["waiting"] == 0


def test_the_queue_is_bounded() -> None:
    world = capped("a")
    held, queue = take(world), Queue(world)
    for n in range(QUEUE_MOST):
        queue.wait(n)
    assert world.row("a")["waiting"] == QUEUE_MOST
    assert world.router.wait_slot(world.route().targets, world.clock.now + LONG) is None
    queue.gone.update(range(QUEUE_MOST))
    queue.until(lambda: len(queue.granted) == QUEUE_MOST)
    world.router.release(held, OK)


def test_a_breaker_that_opens_sends_the_waiters_away() -> None:
    world = capped("a", most=2)
    first, second, queue = take(world), take(world), Queue(world)
    queue.wait(0)
    world.router.set_enabled("a", False)
    world.router.release(first, OK)
    assert queue.next(1) == (0, None)
    world.router.release(second, OK)
    assert world.row("a")["in_flight"] == 0


def test_a_full_endpoint_keeps_its_conversations_r47() -> None:
    """One request of a session makes a detour; the others must not follow it to a cold cache."""
    world = capped("a", "b", most=1)
    world.end(world.route(session="s").targets[0])
    held = world.router.reserve(world.route(session="s").targets[0])
    assert held is not None
    detour = world.route(session="s")
    assert detour.targets[0].endpoint.id == "b"
    world.end(detour.targets[0])
    world.router.release(held, Outcome(cancelled=True))
    assert world.ids(session="s") == ["a", "b"]


def test_many_threads_share_two_slots_and_none_is_lost() -> None:
    world = capped("a", most=2)
    now, most, done = [0], [0], []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(20):
            ticket = world.router.wait_slot(world.route().targets, world.clock.now + LONG)
            assert ticket is not None
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            with lock:
                now[0] -= 1
            world.router.release(ticket, Outcome(cancelled=True))
        done.append(1)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 12 and most[0] <= 2
    assert (world.row("a")["in_flight"], world.row("a")["waiting"]) == (0, 0)


def test_a_failure_frees_a_slot_as_well() -> None:
    world = capped("a", "b")
    held, queue = take(world), Queue(world)
    queue.wait(0, targets=[held.target])
    world.router.release(held, Outcome(Failure(K.TRANSIENT, ProviderError(500, "x", ""))))
    _, ticket = queue.next(1)
    assert ticket is not None
