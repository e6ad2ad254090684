"""When a second target may be asked although the first has not failed: opt-in, late, rarely, never under pressure.

A hedge begins after the time in which 95 % of this target's answers of that size have begun, and not before five
seconds; at most one request in twenty gets one; where anybody involved is rate limited or overloaded nobody does,
because a second call is the last thing such a provider needs (RELIABILITY 3.6). Pure but for two counters; no lock of
its own: the router's guards it.
"""

from __future__ import annotations

from ccm.model import FailureKind as K
from ccm.routing.choice import Runner

LEAST_S = 5.0
SHARE = 0.05
_PRESSED_S = 60.0
_FORGET = 2000  # requests after which the counters are halved: an old day does not buy today's hedges


class HedgeBudget:
    """How many requests there were, and how many of them were hedged."""

    __slots__ = ("hedges", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.hedges = 0

    def request(self) -> None:
        """One more request that may be hedged."""
        self.requests += 1
        if self.requests >= _FORGET:
            self.requests //= 2
            self.hedges //= 2

    def allows(self) -> bool:
        """Whether one more hedge stays within the share."""
        return self.hedges + 1 <= self.requests * SHARE

    def take(self) -> bool:
        """Counts a hedge in, if it is allowed."""
        if not self.allows():
            return False
        self.hedges += 1
        return True


def hedge_after_s(p95_s: float | None) -> float | None:
    """Seconds of waiting for a first content before a second target is asked; None where too little is known."""
    return None if p95_s is None else max(LEAST_S, p95_s)


def pressed(runner: Runner, now: float) -> bool:
    """Whether a target is, or was within the last minute, rate limited or overloaded."""
    model, key = runner.model.cool, runner.row.cool
    own = model.kind in (K.RATE_LIMIT, K.OVERLOADED) and now - model.until < _PRESSED_S
    return own or (key.kind is K.RATE_LIMIT and now - key.until < _PRESSED_S)
