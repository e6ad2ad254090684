"""What refusals teach: kept per provider and model, for an hour, bounded, and only what lasts."""

from __future__ import annotations

import threading

from ccm.dialects.repair import Repair
from ccm.proxy.repairs import LIFETIME_S, MOST_MODELS, MOST_REPAIRS, Repairs

TEMPERATURE = Repair("drop", ("temperature",))
CAP = Repair("cap", ("8192",))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_lesson_is_for_one_provider_and_model() -> None:
    repairs = Repairs(Clock())
    assert repairs.known("a", "m") == ()
    assert repairs.remember("a", "m", TEMPERATURE) and repairs.remember("a", "m", CAP)
    assert repairs.known("a", "m") == (TEMPERATURE, CAP)
    assert repairs.known("a", "n") == repairs.known("b", "m") == ()


def test_what_is_this_conversations_is_not_kept() -> None:
    repairs = Repairs(Clock())
    assert not repairs.remember("a", "m", Repair("strip_thinking", lasting=False))
    assert repairs.known("a", "m") == () and len(repairs) == 0


def test_each_lesson_lasts_an_hour_from_when_it_was_learned() -> None:
    clock = Clock()
    repairs = Repairs(clock)
    repairs.remember("a", "m", TEMPERATURE)
    clock.now += LIFETIME_S / 2
    repairs.remember("a", "m", CAP)
    clock.now += LIFETIME_S / 2 - 0.001
    assert repairs.known("a", "m") == (TEMPERATURE, CAP), "asking does not prolong, nor shorten"
    clock.now += 0.001
    assert repairs.known("a", "m") == (CAP,)
    clock.now += LIFETIME_S / 2
    assert repairs.known("a", "m") == () and len(repairs) == 0


def test_the_least_recently_used_models_are_forgotten() -> None:
    repairs = Repairs(Clock())
    for n in range(MOST_MODELS):
        repairs.remember("a", str(n), CAP)
    assert repairs.known("a", "0") == (CAP,)  # used: now the youngest
    repairs.remember("a", "new", CAP)
    assert len(repairs) == MOST_MODELS
    assert repairs.known("a", "1") == () and repairs.known("a", "0") == (CAP,)


def test_a_model_has_a_bounded_number_of_lessons_and_none_twice() -> None:
    repairs = Repairs(Clock())
    for n in range(MOST_REPAIRS + 1):
        repairs.remember("a", "m", Repair("drop", (str(n),)))
        repairs.remember("a", "m", Repair("drop", (str(n),)))
    known = repairs.known("a", "m")
    assert len(known) == MOST_REPAIRS == len(set(known))
    assert known[-1] == Repair("drop", (str(MOST_REPAIRS),)) and Repair("drop", ("0",)) not in known


def test_clear() -> None:
    repairs = Repairs(Clock())
    repairs.remember("a", "m", CAP)
    repairs.clear()
    assert repairs.known("a", "m") == ()


def test_many_threads_lose_nothing() -> None:
    repairs = Repairs(Clock())

    def learn(thread: int) -> None:
        for n in range(200):
            repairs.remember("p", str(n % 20), Repair("drop", (str(thread),)))
            repairs.known("p", str((n + thread) % 20))

    threads = [threading.Thread(target=learn, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {Repair("drop", (str(n),)) for n in range(8)}
    assert all(set(repairs.known("p", str(n))) == expected for n in range(20))
