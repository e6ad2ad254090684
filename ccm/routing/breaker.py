"""A circuit breaker: whether a target that failed may be asked again, and how gently.

CLOSED     every attempt may pass. Five failures in a row, or half of at least ten within 30 s, trip it. Where single
           failures are frequent among many, a row of five is chance and no news: it must be one in a million by what
           went before it. Tripped where no other target could take over, it stays closed and is only `marked`: a
           lone user is never refused.
OPEN       nothing passes for 30 s times the number of openings (at most 300 s), +-20 %. One opening is forgotten per
           five quiet minutes.
HALF_OPEN  one attempt at a time. Two successes in a row close it, one failure opens it again. Whoever gets a permit
           gives it back through exactly one of `succeed`, `fail`, `drop`; the client's leaving is a `drop`.
Every change of state begins a new generation; what attempts of an older one report is no longer news and is ignored.
After closing, `share` grows from 10 % to 100 % within 30 s. Time is an argument, state changes lazily, there is no
lock: the router's guards it. `force` is the panic rule: when everything is open, the least bad is tried all the same.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from random import Random

IN_A_ROW = 5
_CHANCE = 1e-6  # how improbable a row must be, given the failures before it
_JUDGED_FROM = 20  # outcomes before a row; of fewer nothing is concluded
WINDOW_S = 30.0
WINDOW_LEAST = 10
_WINDOW_MOST = 512  # outcomes remembered; a busier window is judged by its newest part
OPEN_S = 30.0
OPEN_LONGEST_S = 300.0
JITTER = 0.2
QUIET_S = 300.0
CLOSES_AFTER = 2
RAMP_S = 30.0
RAMP_FROM = 0.1


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


_CLOSED = State.CLOSED


class Breaker:
    """One breaker. Permits are generation numbers."""

    __slots__ = (
        "_closed_at",
        "_failed",
        "_in_a_row",
        "_log",
        "_probes",
        "_rng",
        "_state",
        "_successes",
        "calm",
        "generation",
        "openings",
        "until",
    )

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._state = _CLOSED
        self.calm = True  # closed, and not just recovered: nothing has to be asked of it
        self.generation = 0
        self.openings = 0  # in short succession
        self.until = 0.0  # when OPEN ends
        self._closed_at = 0.0
        self._in_a_row = 0
        self._failed = 0
        self._log: deque[tuple[float, bool]] = deque(maxlen=_WINDOW_MOST)  # (when, failed)
        self._probes = 0
        self._successes = 0

    def state(self, now: float) -> State:
        """The state at `now`; an open breaker whose time is over becomes half-open by being looked at."""
        if self._state is State.OPEN and now >= self.until:
            self._turn(State.HALF_OPEN)
        return self._state

    def ready(self, now: float) -> bool:
        """Whether `permit` would grant one."""
        if self._state is _CLOSED:
            return True
        return self.state(now) is State.HALF_OPEN and self._probes == 0

    def closed(self) -> bool:
        return self._state is _CLOSED

    def marked(self) -> bool:
        """Whether it fails every time, and is closed only because nobody else could take over."""
        return self._state is _CLOSED and self._in_a_row >= IN_A_ROW

    def permit(self, now: float, *, force: bool = False) -> int | None:
        """A permit for one attempt, or None. With `force` always a permit."""
        if not self.ready(now) and not force:
            return None
        if self._state is State.HALF_OPEN:
            self._probes += 1
        return self.generation

    def succeed(self, permit: int, now: float) -> None:
        """The attempt ended well."""
        if self._state is _CLOSED and permit == self.generation:  # nearly always: as below, in one step
            self._in_a_row = 0
            log, edge = self._log, now - WINDOW_S
            while log and (log[0][0] <= edge or len(log) == _WINDOW_MOST):
                self._failed -= log.popleft()[1]
            log.append((now, False))
            return
        state = self.state(now)
        if permit != self.generation:
            return
        if state is State.OPEN:  # a forced attempt: the first sign of recovery
            self._turn(State.HALF_OPEN)
        else:
            self._probes = max(0, self._probes - 1)
        self._successes += 1
        if self._successes >= CLOSES_AFTER:
            self._turn(_CLOSED)
            self._closed_at = now

    def fail(self, permit: int, now: float, *, may_open: bool = True) -> None:
        """The attempt failed in a way that speaks against the target. `may_open`: another one could take over."""
        state = self.state(now)
        if permit != self.generation:
            return
        if state is State.HALF_OPEN:
            self._open(now)
        elif state is _CLOSED:
            self._in_a_row += 1
            self._note_failure(now)
            if may_open and self._tripped(now):
                self._open(now)

    def drop(self, permit: int) -> None:
        """The attempt says nothing about the target: the permit goes back, nothing else changes."""
        if permit == self.generation and self._state is State.HALF_OPEN:
            self._probes = max(0, self._probes - 1)

    def share(self, now: float) -> float:
        """How much of its normal load the target should get after a recovery: 0.1 .. 1."""
        if not self.openings or self._state is not _CLOSED:
            return 1.0
        return min(1.0, RAMP_FROM + (1 - RAMP_FROM) * max(0.0, now - self._closed_at) / RAMP_S)

    def reset(self) -> None:
        """As new; attempts under way report to an older generation."""
        self.openings = 0
        self._turn(_CLOSED)

    def reopen(self, until: float, openings: int) -> None:
        """Open until then, as the process before us had it."""
        self._turn(State.OPEN)
        self.until, self.openings = until, openings

    def _open(self, now: float) -> None:
        if self._state is _CLOSED and self.openings:
            self.openings = max(0, self.openings - int((now - self._closed_at) // QUIET_S))
        self.openings += 1
        self._turn(State.OPEN)
        seconds = min(OPEN_LONGEST_S, OPEN_S * self.openings)
        self.until = now + seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def _turn(self, state: State) -> None:
        self._state = state
        self.calm = state is _CLOSED and not self.openings
        self.generation += 1
        self._in_a_row = self._failed = self._probes = self._successes = 0
        self._log.clear()

    def _note_failure(self, now: float) -> None:
        self._expire(now)
        if len(self._log) == _WINDOW_MOST:
            self._failed -= self._log.popleft()[1]
        self._log.append((now, True))
        self._failed += 1

    def _expire(self, now: float) -> None:
        log = self._log
        while log and log[0][0] <= now - WINDOW_S:
            self._failed -= log.popleft()[1]

    def _tripped(self, now: float) -> bool:
        self._expire(now)
        if len(self._log) >= WINDOW_LEAST and self._failed * 2 >= len(self._log):
            return True
        return self._in_a_row >= IN_A_ROW and self._in_a_row >= self._limit()

    def _limit(self) -> float:
        """How many failures in a row are more than chance, by the share of failures before them."""
        row = self._in_a_row
        before, failed = len(self._log) - row, self._failed - row
        if before < _JUDGED_FROM or failed <= 0:
            return IN_A_ROW
        return math.log(_CHANCE) / math.log(failed / before)
