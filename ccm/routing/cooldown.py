"""How long a target asked to be left alone, and the clock that holds us to it.

`wait_asked` reads every form of "come back later" that providers use (RELIABILITY 1a rows 13-14); it never raises and
never returns more than an hour: an invented or absurd wait must not stall everybody (R33). `Cooldown` is one such
clock, for whatever the error concerned: a key or a (key, model). It opens no breaker, grows only in small steps where
the provider named no time, and ends with the first success of an attempt that was begun under it. No lock of its own:
the router's guards it. Times are the caller's: wall seconds for parsing, monotonic seconds for the clock.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

from ccm.late import regex
from ccm.model import FailureKind

CAP_S = 3600.0  # no wait is longer, whatever a header says
GARBAGE_S = 5.0  # a wait was asked for, but unreadably
_BODY_BYTES = 65536  # no more of an error body is looked at

_DURATION = regex(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|s|m|h|d)")
_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SAID = regex(r"(?:try again|retry)(?: after| in)?:? ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)\b", re.IGNORECASE)
_SAID_WORDS = regex(
    r"(?:try again|retry|wait)(?: after| in| for)?:? (\d+(?:\.\d+)?) ?(second|minute|hour)", re.IGNORECASE
)
_SAID_DATE = regex(r"regain access on (\d{4}-\d\d-\d\d)(?: at (\d\d:\d\d))?", re.IGNORECASE)
_WORD_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_ANTHROPIC = "anthropic-ratelimit-"


def wait_asked(
    headers: Mapping[str, str], body: bytes = b"", now_wall: float = 0.0, message: str = ""
) -> float | None:
    """Seconds until the provider wants to hear from us again, 0 to CAP_S; None where it said nothing.

    `headers` have lower-case names, `now_wall` is epoch seconds. In this order: retry-after-ms; retry-after (seconds,
    a fraction, an HTTP date, which counts from the answer's own Date); Gemini's retryDelay; exhausted rate-limit
    windows (the later reset); a time named in the text. An unreadable or negative retry-after is GARBAGE_S.
    """
    at = server_time(headers, now_wall)
    asked = headers.get("retry-after-ms")
    given = asked is not None
    if asked is not None and (amount := number(asked)) is not None:
        return min(amount / 1000, CAP_S)
    asked = headers.get("retry-after")
    if asked is not None:
        given = True
        seconds = number(asked)
        if seconds is None:
            seconds = _until_date(asked, at)
        if seconds is None:
            seconds = parse_duration(asked)
        if seconds is not None:
            return min(seconds, CAP_S)
    found = _retry_delay(body)
    if found is None:
        found = max(_exhausted(headers, at), default=None)
    if found is None:
        found = _said(message, at)
    if found is None:
        return GARBAGE_S if given else None
    return min(max(found, 0.0), CAP_S)


def parse_duration(text: str) -> float | None:
    """Seconds of "6m0s", "34.4s", "120ms", "1h2m3s"; None for anything else."""
    text = text.strip()
    if len(text) > 64:  # the pattern below takes its time over digits without an end
        return None
    total, end = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            return None
        total += float(match[1]) * _UNIT_S[match[2]]
        end = match.end()
    return total if end and end == len(text) else None


def number(text: str) -> float | None:
    """A finite number >= 0, written plainly; None otherwise."""
    text = text.strip()
    if len(text) > 32 or not text[:1].isdigit():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 and "_" not in text else None


def server_time(headers: Mapping[str, str], now_wall: float) -> float:
    stamp = _http_date(headers.get("date", ""))
    return now_wall if stamp is None else stamp


def _http_date(text: str) -> float | None:
    if not text or len(text) > 64:
        return None
    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _until_date(text: str, at: float) -> float | None:
    stamp = _http_date(text)
    if stamp is None:
        stamp = _rfc3339(text)
    return None if stamp is None else max(0.0, stamp - at)


def _rfc3339(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text.strip().replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def until_reset(text: str, at: float) -> float | None:
    """Seconds until a reset, written as RFC 3339, a duration, seconds, or epoch seconds or milliseconds."""
    seconds = number(text)
    if seconds is not None:
        if seconds > 1e11:
            seconds /= 1000
        return max(0.0, seconds - at) if seconds > 1e8 else seconds
    duration = parse_duration(text)
    if duration is not None:
        return duration
    stamp = _rfc3339(text)
    return None if stamp is None else max(0.0, stamp - at)


def _exhausted(headers: Mapping[str, str], at: float) -> Iterator[float]:
    """The resets of all windows of which nothing is left."""
    for name, value in headers.items():
        if name.startswith(_ANTHROPIC) and name.endswith("-reset"):
            window = name[: -len("-reset")]
            left, status = headers.get(f"{window}-remaining"), headers.get(f"{window}-status")
            spent = number(left) == 0 if left is not None else status == "rejected"
        elif name.startswith("x-ratelimit-reset"):
            left = headers.get("x-ratelimit-remaining" + name[len("x-ratelimit-reset") :])
            spent = left is not None and number(left) == 0
        else:
            continue
        if spent and (seconds := until_reset(value, at)) is not None:
            yield seconds


def _retry_delay(body: bytes) -> float | None:
    """Google's RetryInfo, wherever it stands in the error body; the longest where there are several."""
    if b"retryDelay" not in body and b"retry_delay" not in body:
        return None
    try:
        pending: list[Any] = [json.loads(body[:_BODY_BYTES])]
    except (ValueError, RecursionError):
        return None
    found: float | None = None
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            pending.extend(node.values())
            delay = node.get("retryDelay", node.get("retry_delay"))
            if isinstance(delay, dict):  # the long form of a protobuf Duration
                seconds = delay.get("seconds", 0)
                delay = f"{seconds}s" if isinstance(seconds, (int, str)) else None
            if isinstance(delay, str) and (seconds := parse_duration(delay)) is not None:
                found = max(found or 0.0, seconds)
    return found


def _said(message: str, at: float) -> float | None:
    message = message[:2000]
    if match := _SAID.search(message):
        return parse_duration(match[1].lower())
    if match := _SAID_WORDS.search(message):
        return float(match[1]) * _WORD_S[match[2].lower()]
    if match := _SAID_DATE.search(message):
        stamp = _rfc3339(f"{match[1]}T{match[2] or '00:00'}:00+00:00")
        return None if stamp is None else max(0.0, stamp - at)
    return None


# kind -> (first wait, longest wait), seconds: the step doubles from one to the other while failures go on
STEPS: Mapping[FailureKind, tuple[float, float]] = {
    FailureKind.OVERLOADED: (5.0, 60.0),
    FailureKind.RATE_LIMIT: (5.0, 60.0),
    FailureKind.QUOTA: (3600.0, 3600.0),
    FailureKind.CREDENTIAL: (600.0, 600.0),
    FailureKind.REGION: (600.0, 600.0),
    FailureKind.MODEL_GONE: (600.0, 600.0),
    FailureKind.MODEL_ACCESS: (600.0, 600.0),
}
# ended by a reload as well: what the user may just have put right
UNTIL_RELOAD = frozenset(STEPS) - {FailureKind.OVERLOADED, FailureKind.RATE_LIMIT}
_JITTER = 0.2  # of an invented wait, so that several clients do not return together
_FORGET_S = 300.0  # a quiet time after which the steps begin anew


class Cooldown:
    """One clock: until when, why, and how often in a row. Active while `until > now`."""

    __slots__ = ("kind", "reason", "set_at", "streak", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.set_at = 0.0
        self.streak = 0
        self.kind: FailureKind | None = None
        self.reason = ""

    def active(self, now: float) -> bool:
        return self.until > now

    def remaining_s(self, now: float) -> float:
        return max(0.0, self.until - now)

    def start(
        self, kind: FailureKind, now: float, begun: float, told_s: float | None, reason: str, rng: Random
    ) -> None:
        """Cools down after a failure of `kind` of an attempt that was begun at `begun`.

        `told_s` is what the provider asked for: kept to the letter for a rate limit or quota (at least 1 s), and a
        lower bound for an overload. Failures of attempts that were already under way when the clock was set are the
        same wave: they may lengthen the wait by what they were told, never raise the step.
        """
        first, longest = STEPS[kind]
        if self.streak and now - max(self.until, self.set_at) > _FORGET_S:
            self.streak = 0
        wave = self.streak > 0 and begun < self.set_at
        if wave and told_s is None:
            return
        if not wave:
            self.streak += 1
        if told_s is not None:
            seconds = min(max(told_s, 1.0), CAP_S)
        else:
            step = min(longest, first * 2.0 ** min(self.streak - 1, 16))
            # long waits are times of the provider's plan, not guesses of ours: nothing to spread
            seconds = step if step > 60.0 else step * rng.uniform(1 - _JITTER, 1 + _JITTER)
        until = now + seconds
        if until >= self.until:
            self.until, self.kind, self.reason = until, kind, reason
        if not wave:
            self.set_at = now

    def clear(self, begun: float | None = None) -> None:
        """Ends the wait: at once, or only if the successful attempt was `begun` after it was set (an old stream that
        happens to end well proves nothing)."""
        if begun is None or begun >= self.set_at:
            self.until, self.streak, self.kind, self.reason = 0.0, 0, None, ""
