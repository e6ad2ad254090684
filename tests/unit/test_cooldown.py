"""Waits in every form providers write them, and the clock that keeps them."""

from __future__ import annotations

import json
import random

import pytest

from ccm.model import FailureKind as K
from ccm.routing.cooldown import CAP_S, GARBAGE_S, Cooldown, parse_duration, wait_asked

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
DATE = "Wed, 18 Nov 2026 11:06:40 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("1000000000", CAP_S),
        ("1e9", CAP_S),
        ("-5", GARBAGE_S),
        ("soon", GARBAGE_S),
        ("", GARBAGE_S),
        ("nan", GARBAGE_S),
        ("inf", GARBAGE_S),
        ("1_0", GARBAGE_S),
        ("9" * 400, GARBAGE_S),
        ("Wed, 18 Nov 2026 11:07:10 GMT", 30.0),
        ("Wed, 18 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 18 Nov 2099 11:00:00 GMT", CAP_S),
        ("2m30s", 150.0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert wait_asked({"retry-after": value}, now_wall=NOW) == seconds


def test_a_date_counts_from_the_answers_own_date() -> None:
    headers = {"retry-after": "Wed, 18 Nov 2026 11:07:10 GMT", "date": "Wed, 18 Nov 2026 11:07:00 GMT"}
    assert wait_asked(headers, now_wall=NOW - 86400) == 10.0


def test_milliseconds_come_first() -> None:
    assert wait_asked({"retry-after-ms": "250", "retry-after": "9"}, now_wall=NOW) == 0.25
    assert wait_asked({"retry-after-ms": "x", "retry-after": "9"}, now_wall=NOW) == 9.0
    assert wait_asked({"retry-after-ms": "x"}, now_wall=NOW) == GARBAGE_S


def test_nothing_said_is_none() -> None:
    assert wait_asked({}, now_wall=NOW) is None
    assert wait_asked({"x-ratelimit-reset-requests": "6m0s"}, now_wall=NOW) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-11-18T11:07:40Z"}, 60.0),
        ({"anthropic-ratelimit-tokens-remaining": "5", "anthropic-ratelimit-tokens-reset": "2026-11-18T11:07:40Z"}, None),
        ({"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": str(int(NOW) + 90)}, 90.0),
        ({"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-reset": str(int(NOW) + 90)}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s",
          "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "34.4s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6m0s",
          "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "34.4s"}, 34.4),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW * 1000) + 20_000)}, 20.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "17"}, 17.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "whenever"}, None),
    ],
)  # fmt: skip
def test_exhausted_windows(headers: dict[str, str], seconds: float | None) -> None:
    found = wait_asked({"date": DATE, **headers}, now_wall=NOW + 5000)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_that_is_garbage_falls_back_to_the_windows() -> None:
    headers = {"retry-after": "?", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9s"}
    assert wait_asked(headers, now_wall=NOW) == 9.0


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("34.4s", 34.4),
        ("48s", 48.0),
        ({"seconds": 3, "nanos": 5}, 3.0),
        ("?", None),
        (7, None),
        ("99999s", CAP_S),
    ],
)
def test_googles_retry_delay(delay: object, seconds: float | None) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    for body in ({"error": {"details": [{"a": 1}, info]}}, [{"error": {"details": [info]}}]):
        assert wait_asked({}, json.dumps(body).encode(), NOW) == seconds


def test_bodies_that_are_no_json_are_no_trouble() -> None:
    assert wait_asked({}, b'{"retryDelay": "3s"', NOW) is None
    assert wait_asked({}, b"[" * 60000 + b"retryDelay", NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached. Please try again in 20ms. Visit", 0.02),
        ("Please try again in 6m0s.", 360.0),
        ("Please retry in 48.939935699s.", 48.939935699),
        ("try again after 30 seconds", 30.0),
        ("Please wait for 2 minutes", 120.0),
        ("You will regain access on 2026-11-18 at 11:10 UTC.", 200.0),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", CAP_S),
        ("try again later", None),
    ],
)
def test_times_named_in_the_text(text: str, seconds: float | None) -> None:
    assert wait_asked({}, b"", NOW, text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("120ms", 0.12),
        ("1d", 86400.0),
        ("", None),
        ("5", None),
        ("5x", None),
        ("5s!", None),
        ("x5s", None),
    ],
)
def test_parse_duration(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


def start(
    cool: Cooldown, kind: K, now: float, told: float | None = None, begun: float | None = None
) -> float:
    cool.start(kind, now, now if begun is None else begun, told, "why", random.Random(1))
    return cool.remaining_s(now)


def test_overload_doubles_from_5_to_60_seconds_with_jitter() -> None:
    cool, now, steps = Cooldown(), 0.0, []
    for _ in range(7):
        steps.append(start(cool, K.OVERLOADED, now))
        now += steps[-1] + 1
    for step, nominal in zip(steps, [5, 10, 20, 40, 60, 60, 60], strict=True):
        assert 0.8 * nominal <= step <= 1.2 * nominal


def test_a_wave_of_failures_is_one_step() -> None:
    cool = Cooldown()
    first = start(cool, K.OVERLOADED, 10.0, begun=8.0)
    for _ in range(20):
        start(cool, K.OVERLOADED, 10.5, begun=9.0)
    assert cool.streak == 1
    assert cool.until == 10.0 + first


def test_a_wave_may_be_told_a_longer_wait() -> None:
    cool = Cooldown()
    start(cool, K.RATE_LIMIT, 10.0, told=3, begun=8.0)
    start(cool, K.RATE_LIMIT, 10.5, told=30, begun=9.0)
    assert (cool.until, cool.streak) == (40.5, 1)


def test_a_told_wait_is_kept_to_the_letter_within_bounds() -> None:
    assert start(Cooldown(), K.RATE_LIMIT, 0.0, told=30) == 30.0
    assert start(Cooldown(), K.RATE_LIMIT, 0.0, told=0.0) == 1.0
    assert start(Cooldown(), K.RATE_LIMIT, 0.0, told=1e9) == CAP_S
    assert start(Cooldown(), K.QUOTA, 0.0) == 3600.0
    assert start(Cooldown(), K.CREDENTIAL, 0.0) == 600.0


def test_a_shorter_wait_never_ends_a_longer_one() -> None:
    cool = Cooldown()
    start(cool, K.QUOTA, 0.0)
    start(cool, K.RATE_LIMIT, 1.0, told=2)
    assert (cool.kind, cool.remaining_s(1.0)) == (K.QUOTA, 3599.0)


def test_success_clears_only_what_it_disproves() -> None:
    cool = Cooldown()
    start(cool, K.RATE_LIMIT, 10.0, told=60)
    cool.clear(begun=5.0)  # a stream that was under way long before
    assert cool.active(11.0)
    cool.clear(begun=12.0)
    assert not cool.active(12.0)
    assert cool.kind is None and cool.streak == 0


def test_steps_begin_anew_after_quiet() -> None:
    cool = Cooldown()
    for now in (0.0, 20.0, 60.0):
        start(cool, K.OVERLOADED, now)
    assert cool.streak == 3
    assert start(cool, K.OVERLOADED, cool.until + 301) <= 6.0
