"""The breaker, by moving the clock."""

from __future__ import annotations

import random

from ccm.routing.breaker import IN_A_ROW, OPEN_LONGEST_S, Breaker, State


def made() -> Breaker:
    return Breaker(random.Random(7))


def fail(breaker: Breaker, now: float, times: int = 1, **more: bool) -> None:
    for _ in range(times):
        permit = breaker.permit(now)
        assert permit is not None
        breaker.fail(permit, now, **more)


def opened(now: float = 0.0) -> Breaker:
    breaker = made()
    fail(breaker, now, IN_A_ROW)
    return breaker


def test_five_in_a_row_open_it() -> None:
    breaker = made()
    fail(breaker, 0.0, IN_A_ROW - 1)
    assert breaker.state(0.0) is State.CLOSED
    fail(breaker, 0.0)
    assert breaker.state(0.0) is State.OPEN
    assert breaker.permit(1.0) is None
    assert 24.0 <= breaker.until <= 36.0


def test_a_success_between_begins_the_count_anew() -> None:
    breaker = made()
    fail(breaker, 0.0, IN_A_ROW - 1)
    breaker.succeed(breaker.permit(0.0) or 0, 0.0)
    fail(breaker, 0.0, IN_A_ROW - 1)
    assert breaker.state(0.0) is State.CLOSED


def test_half_of_ten_within_the_window_opens_it() -> None:
    breaker = made()
    for _ in range(4):
        fail(breaker, 1.0)
        breaker.succeed(breaker.permit(1.0) or 0, 1.0)
    breaker.succeed(breaker.permit(1.0) or 0, 1.0)
    assert breaker.state(1.0) is State.CLOSED
    fail(breaker, 2.0)
    assert breaker.state(2.0) is State.OPEN


def test_where_every_fifth_fails_five_in_a_row_are_chance() -> None:
    breaker = made()
    for _ in range(40):
        fail(breaker, 1.0)
        for _ in range(4):
            breaker.succeed(breaker.permit(1.0) or 0, 1.0)
    fail(breaker, 2.0, 8)
    assert breaker.state(2.0) is State.CLOSED
    fail(breaker, 2.0)
    assert breaker.state(2.0) is State.OPEN


def test_where_hardly_any_fails_five_in_a_row_are_news() -> None:
    for every in (20, 100, 999):
        breaker = made()
        for n in range(200):
            breaker.succeed(breaker.permit(1.0) or 0, 1.0)
            if n % every == every - 1:
                fail(breaker, 1.0)
                breaker.succeed(breaker.permit(1.0) or 0, 1.0)
        fail(breaker, 2.0, IN_A_ROW - 1)
        assert breaker.state(2.0) is State.CLOSED
        fail(breaker, 2.0)
        assert breaker.state(2.0) is State.OPEN


def test_old_outcomes_do_not_count() -> None:
    breaker = made()
    for _ in range(4):
        fail(breaker, 0.0)
        breaker.succeed(breaker.permit(0.0) or 0, 0.0)
    breaker.succeed(breaker.permit(0.0) or 0, 0.0)
    fail(breaker, 30.0)
    assert breaker.state(30.0) is State.CLOSED


def test_where_nobody_could_take_over_it_is_only_marked() -> None:
    breaker = made()
    fail(breaker, 0.0, 50, may_open=False)
    assert breaker.state(0.0) is State.CLOSED
    assert breaker.marked()
    breaker.succeed(breaker.permit(1.0) or 0, 1.0)
    assert not breaker.marked()
    fail(breaker, 1000.0, 50, may_open=False)
    fail(breaker, 1000.0)  # another target is back
    assert breaker.state(1000.0) is State.OPEN


def test_half_open_gives_one_permit_and_closes_after_two_successes() -> None:
    breaker = opened()
    now = breaker.until
    permit = breaker.permit(now)
    assert permit is not None
    assert breaker.state(now) is State.HALF_OPEN
    assert breaker.permit(now) is None
    breaker.succeed(permit, now)
    assert breaker.state(now) is State.HALF_OPEN
    breaker.succeed(breaker.permit(now) or 0, now)
    assert breaker.state(now) is State.CLOSED


def test_a_failing_probe_opens_it_for_longer() -> None:
    breaker = opened()
    now = breaker.until
    fail(breaker, now)
    assert breaker.state(now) is State.OPEN
    assert 48.0 <= breaker.until - now <= 72.0


def test_the_time_is_bounded() -> None:
    breaker = opened()
    for _ in range(30):
        now = breaker.until
        fail(breaker, now)
    assert breaker.until - now <= OPEN_LONGEST_S * 1.2


def test_a_dropped_probe_gives_its_permit_back() -> None:
    breaker = opened()
    now = breaker.until
    for _ in range(5):
        permit = breaker.permit(now)
        assert permit is not None
        breaker.drop(permit)
    assert breaker.state(now) is State.HALF_OPEN


def test_reports_of_older_generations_are_no_news() -> None:
    breaker = made()
    old = breaker.permit(0.0)
    assert old is not None
    fail(breaker, 0.0, IN_A_ROW)
    now = breaker.until
    probe = breaker.permit(now)
    assert probe is not None
    breaker.fail(old, now)
    breaker.succeed(old, now)
    breaker.drop(old)
    assert breaker.state(now) is State.HALF_OPEN
    assert breaker.permit(now) is None  # the probe still holds the only permit
    breaker.succeed(probe, now)
    breaker.succeed(breaker.permit(now) or 0, now)
    breaker.fail(old, now)
    assert not breaker.marked()


def test_a_forced_success_is_the_first_sign_of_recovery() -> None:
    breaker = opened()
    permit = breaker.permit(1.0, force=True)
    assert permit is not None
    breaker.succeed(permit, 2.0)
    assert breaker.state(2.0) is State.HALF_OPEN
    breaker.succeed(breaker.permit(2.0) or 0, 2.0)
    assert breaker.state(2.0) is State.CLOSED


def test_a_forced_failure_does_not_prolong_the_time() -> None:
    breaker = opened()
    until = breaker.until
    permit = breaker.permit(1.0, force=True)
    assert permit is not None
    breaker.fail(permit, 2.0)
    assert (breaker.until, breaker.openings) == (until, 1)


def closed_again(breaker: Breaker) -> float:
    now = breaker.until
    for _ in range(2):
        breaker.succeed(breaker.permit(now) or 0, now)
    return now


def test_slow_start() -> None:
    breaker = opened()
    assert made().share(0.0) == 1.0
    now = closed_again(breaker)
    shares = [round(breaker.share(now + after), 3) for after in (0, 15, 30, 300)]
    assert shares == [0.1, 0.55, 1.0, 1.0]


def test_openings_are_forgotten_one_per_five_quiet_minutes() -> None:
    breaker = opened()
    now = breaker.until
    fail(breaker, now)
    assert breaker.openings == 2
    now = closed_again(breaker)
    fail(breaker, now + 299, IN_A_ROW)
    assert breaker.openings == 3
    now = closed_again(breaker)
    fail(breaker, now + 900, IN_A_ROW)
    assert breaker.openings == 1


def test_reset() -> None:
    breaker = opened()
    breaker.reset()
    assert breaker.state(0.0) is State.CLOSED
    assert breaker.share(0.0) == 1.0
    assert not breaker.marked()
