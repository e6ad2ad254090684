"""The retry budget: what keeps retries from multiplying an outage. One object for all requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable


class RetryBudget:
    """Keeps retries from multiplying an outage: shared by all requests, thread-safe.

    A bucket of 100: a further attempt costs 5, after a timeout 10; it is refunded when that attempt did not fail, and
    every success adds 1 (the shape of AWS's retry quota), as does every six seconds. So 20 % of failing requests can
    go on for ever, while at 100 % about 20 further attempts are made in all. Waits at the *same* target are also
    limited in number at one time: 3, or 20 % of the requests in flight; going elsewhere adds no load to what failed.

    The bucket alone would allow twenty useless attempts to the first few requests of an outage. So further attempts
    that failed are counted until something is answered again, or for five minutes: beyond 4, or 15 % of the requests in
    that time, no more are made. Attempts still under way do not count: when one provider dies under many requests at
    once, all of them may go elsewhere.
    """

    MOST = 100.0
    COST = 5.0
    TIMEOUT_COST = 10.0
    _REFILL_S = 6.0
    _LEAST_TOGETHER = 3
    _SHARE = 0.2
    _USELESS_LEAST = 4
    _USELESS_SHARE = 0.15  # below the 20 % that may be, for requests that fail at the same time
    _USELESS_S = 300.0
    _STORM_S = 30.0  # an attempt that has run this long is a stream, not part of a storm

    def __init__(
        self, in_flight: Callable[[], int] = lambda: 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._in_flight = in_flight
        self._clock = clock
        self._tokens = self.MOST
        self._at = clock()
        self._waiting: deque[float] = deque()  # when attempts at the same target began
        self._requests: deque[float] = deque(maxlen=10_000)  # begun since something was answered
        self._useless: deque[float] = deque(maxlen=10_000)  # further attempts that failed since then
        self.refused = 0  # further attempts that were not made

    @property
    def tokens(self) -> float:
        with self._lock:
            self._refill()
            return self._tokens

    def begin(self) -> None:
        """A request begins its first attempt."""
        self._requests.append(
            self._clock()
        )  # without the lock: nobody who holds it minds one more at the end

    def take(self, cost: float, *, same_target: bool = False) -> bool:
        """Pays for one further attempt. True obliges to one `end`."""
        together = max(self._LEAST_TOGETHER, int(self._SHARE * self._in_flight()))
        with self._lock:
            self._refill()
            while self._waiting and self._waiting[0] < self._at - self._STORM_S:
                self._waiting.popleft()
            if self._is_useless() or self._tokens < cost or (same_target and len(self._waiting) >= together):
                self.refused += 1
                return False
            self._tokens -= cost
            if same_target:
                self._waiting.append(self._at)
            return True

    def end(self, cost: float, *, same_target: bool = False, failed: bool, useless: bool = False) -> None:
        """The attempt is over; what did not fail is refunded. `useless`: it failed as in an outage."""
        with self._lock:
            if useless:
                self._useless.append(self._clock())
            if same_target and self._waiting:
                self._waiting.popleft()
            if not failed:
                self._tokens = min(self.MOST, self._tokens + cost)

    def answered(self) -> None:
        """Somebody answers: this is no outage (any more)."""
        with self._lock:
            self._useless.clear()
            self._requests.clear()

    def success(self) -> None:
        """A request succeeded."""
        if self._tokens >= self.MOST and not self._requests and not self._useless:
            return  # as new: nothing to be learnt
        with self._lock:
            self._useless.clear()
            self._requests.clear()
            self._tokens = min(self.MOST, self._tokens + 1)

    def reset(self) -> None:
        """As new."""
        with self._lock:
            self._tokens, self._at = self.MOST, self._clock()
            self._useless.clear()
            self._requests.clear()

    def _is_useless(self) -> bool:
        """Called after `_refill`, which has taken the time."""
        before = self._at - self._USELESS_S
        for times in (self._useless, self._requests):
            while times and times[0] < before:
                times.popleft()
        return len(self._useless) >= max(self._USELESS_LEAST, int(self._USELESS_SHARE * len(self._requests)))

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self.MOST, self._tokens + max(0.0, now - self._at) / self._REFILL_S)
        self._at = now
