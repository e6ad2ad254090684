"""What comes next after a failure: the plan of one request, as a generator that does nothing itself.

The caller sends in what happened, the plan says what to try or how long to wait; clock and randomness are arguments,
so every course of events is a plain test. The rules (DESIGN 6, RELIABILITY 3.2):
- at most 1 + max_retries attempts; a target that could not be reserved is no attempt;
- waiting belongs to the target that failed: going to another one never waits;
- an overload gets one short wait in place first (R32: leaving costs the warm cache), provided an attempt is left for
  another target. Refused connections and 5xx go to the others first; only when none is left the same target is tried
  again, after a full-jitter wait that doubles;
- an overflow goes to larger windows only, a caller's fault nowhere;
- what was only busy (its in-flight limit) is queued for, up to ten seconds, when no other is left;
- in panic (every candidate is open or cooling) nobody is asked twice;
- every further attempt is paid for out of the retry budget; the first never is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator

from ccm.model import Failure, FailureKind, Target, Timeouts
from ccm.routing.budget import RetryBudget
from ccm.routing.choice import Route
from ccm.routing.failures import POLICY, TIMEOUTS
from ccm.routing.words import overflow_numbers, text_of
from ccm.settings import FailoverSettings
from ccm.shape import dataclass

_BACKOFF_LONGEST_S = 8.0
_IN_PLACE_LONGEST_S = 1.0  # a provider that asks for more than this is left at once
_BUSY_FOR_S = 10.0
_BUSY_STEP_S = 0.25
_LEAST_LIMIT_S = 1.0  # what an attempt gets even where the deadline is nearer
# what speaks of an outage, where further attempts are of no use
_OUTAGE = frozenset(kind for kind, policy in POLICY.items() if policy.penalty == "breaker") | {
    FailureKind.OVERLOADED
}
_TOKENS_PER_LIMIT = 200_000  # an input of this many tokens doubles the first-content limit (R35)


@dataclass(slots=True)
class Try:
    """Reserve `target` and call it; attempt `number` counts from 1. Answer with its Failure, with None where it could
    not be reserved; after success stop (close the generator).

    With `wait_s` every target is busy: wait up to that long in the `queue` for the first that comes free
    (`Router.wait_slot`), and put that one into `target`. Who cannot wait so may answer None at once; then the plan
    asks again from time to time.
    """

    target: Target
    number: int
    limits: Timeouts
    queue: tuple[Target, ...] = ()
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait `seconds`, ended early by the client's leaving or a stop, then ask for the next step. `target` is the one
    waited for."""

    seconds: float
    target: Target


Step = Try | Wait


@dataclass(slots=True)
class _Again:
    """A target that may be tried once more, and when."""

    target: Target
    ready_at: float
    in_place: bool


def plan(
    route: Route,
    settings: FailoverSettings,
    *,
    clock: Callable[[], float],
    rng: random.Random,
    deadline: float,
    budget: RetryBudget,
    thinking: bool = False,
    input_tokens: int = 0,
) -> Generator[Try | Wait, Failure | None, None]:
    """The steps of one request until it succeeds (the caller closes the generator) or nothing is left (it returns).

    After a Try send its Failure, or None where the target could not be reserved; after a Wait send None. `deadline`
    is absolute, on `clock`. Limits of an attempt end at the deadline and grow with the input and with `thinking`.
    """
    left = list(route.targets)
    again: list[_Again] = []
    busy: list[Target] = []
    now = clock()
    busy_until = now + _BUSY_FOR_S
    polling = False
    most = 1 + max(0, settings.max_retries) if settings.enabled else 1
    attempts, waits, cost = 0, 0, RetryBudget.COST
    budget.begin()
    if route.panic and left and route.wait_s > 0:
        seconds = min(route.wait_s, _jitter(settings, 0, rng))
        if seconds > 0:
            yield Wait(seconds, left[0])
            now = clock()
    while attempts < most and now < deadline:
        queue: tuple[Target, ...] = ()
        same = _pick_again(again, left, attempts_left=most - attempts) if again else None
        if same is not None:
            again.remove(same)
            target, seconds = same.target, same.ready_at - now
        elif left:
            target, seconds = left.pop(0), 0.0
        elif busy and now < busy_until:
            if not polling:
                queue, busy, target, seconds = tuple(busy), [], busy[0], 0.0
            else:
                left, busy = busy, []
                seconds = min(_BUSY_STEP_S * rng.uniform(0.5, 1.0), deadline - now)
                if seconds > 0:
                    yield Wait(seconds, left[0])
                    now = clock()
                continue
        else:
            return
        if seconds > 0 and now + seconds >= deadline:
            return
        paid = attempts > 0
        if paid and not budget.take(cost, same_target=same is not None):
            if same is None or not left or not budget.take(cost):
                return
            # too many wait in place already: going elsewhere adds no load to what failed
            target, seconds, same = left.pop(0), 0.0, None
        # what did not fail, or was never made, is refunded: also when the caller closes us
        failed = useless = False
        try:
            if seconds > 0:
                yield Wait(seconds, target)
                now = clock()
            asked_at = now
            its_limits = limits(target.endpoint.provider.timeouts, deadline - now, thinking, input_tokens)
            patience_s = min(busy_until, deadline) - asked_at if queue else 0.0
            step = Try(target, attempts + 1, its_limits, queue, patience_s)
            failure = yield step
            now = clock()
            target = step.target
            failed = failure is not None
            useless = failure is not None and failure.kind in _OUTAGE
        finally:
            if paid:
                budget.end(cost, same_target=same is not None, failed=failed, useless=useless)
        if failure is None:
            if queue:
                busy = list(queue)
                polling = now - asked_at < _BUSY_STEP_S / 2
            elif same is None:
                busy.append(target)
            continue
        if queue:
            busy = [other for other in queue if other is not target]
        attempts += 1
        policy = POLICY[failure.kind]
        if not policy.onward:
            return
        cost = RetryBudget.TIMEOUT_COST if failure.kind in TIMEOUTS else RetryBudget.COST
        left, busy = (
            _onward(policy.onward, left, target, failure),
            _onward(policy.onward, busy, target, failure),
        )
        again = [entry for entry in again if _onward(policy.onward, [entry.target], target, failure)]
        in_place = policy.again == "first" and (same is None or not same.in_place)
        if policy.again and failure.should_retry is not False and not route.panic:
            wait = _jitter(settings, waits, rng)
            if failure.retry_after_s is not None:
                wait = max(wait, failure.retry_after_s)
            if wait <= _BACKOFF_LONGEST_S:  # a longer one is the client's to wait, who is told how long
                again.append(_Again(target, now + wait, in_place and wait <= _IN_PLACE_LONGEST_S))
                waits += 1


def _pick_again(again: list[_Again], left: list[Target], attempts_left: int) -> _Again | None:
    """The target to try once more now: the one just overloaded, if another attempt remains for the others; else, when
    no other is left, the one that is ready first."""
    if not again:
        return None
    if not left:
        return min(again, key=lambda entry: entry.ready_at)
    last = again[-1]
    return last if last.in_place and attempts_left >= 2 else None


def _onward(onward: str, left: list[Target], failed: Target, failure: Failure) -> list[Target]:
    """The other targets in the order in which they should be tried after this failure; some may drop out."""
    if onward == "window":
        _, maximum = overflow_numbers(text_of(failure.error), failure.error.body)
        window = max(maximum or 0, failed.facts.window)
        return [target for target in left if target.facts.window > window]
    name = failed.provider.name
    if onward == "model":
        return [target for target in left if target.provider.name != name or target.model != failed.model]
    if onward == "key":
        return sorted(left, key=lambda target: target.provider.name != name)
    return sorted(left, key=lambda target: target.provider.name == name)


def _jitter(settings: FailoverSettings, n: int, rng: random.Random) -> float:
    """Full jitter: between nothing and the doubled back-off."""
    return rng.uniform(0.0, min(_BACKOFF_LONGEST_S, settings.backoff_ms / 1000 * 2.0 ** min(n, 16)))


def limits(timeouts: Timeouts, remaining_s: float, thinking: bool, input_tokens: int) -> Timeouts:
    content_s, connect_s, header_s = timeouts.first_content_s, timeouts.connect_s, timeouts.header_s
    if thinking and timeouts.first_content_thinking_s > content_s:
        content_s = timeouts.first_content_thinking_s
    if input_tokens > 0:
        content_s *= 1 + input_tokens / _TOKENS_PER_LIMIT
    longest = remaining_s if remaining_s > _LEAST_LIMIT_S else _LEAST_LIMIT_S
    if content_s > longest:
        content_s = longest
    return Timeouts(
        connect_s if connect_s < longest else longest,
        header_s if header_s < longest else longest,
        content_s,
        content_s,
        timeouts.idle_s,
        timeouts.total_s,
    )
