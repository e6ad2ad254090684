"""Drills: faults that people put into a provider's path on purpose, to see what their clients would see.

A drill ends by itself, after a number of requests or a time, and never outlives the process: it is kept in memory
only. A request that has met it meets it in each of its attempts at that provider, so that a repetition does not hide
the fault. While none is on, the hot path reads one attribute.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ccm.errors import ControlError
from ccm.faults import (
    DRILL_MOST_DELAY_S,
    DRILL_MOST_REQUESTS,
    DRILL_MOST_S,
    DRILL_REQUESTS,
    DRILL_S,
    FAULTS,
    Fault,
)
from ccm.model import Target
from ccm.proxy.faulty import FaultyCall
from ccm.shape import dataclass, field
from ccm.upstream.call import Call, Watch
from ccm.upstream.sessions import Pool

_KEPT = 8  # drills that are over, for the report
_MOST_EVENTS = 100_000

Caller = Callable[[Pool, Watch], Call]


@dataclass(slots=True)
class Drill:
    """One drill. `until` is monotonic; `met` has the requests that met it (id -> calls), oldest first."""

    number: int
    provider: str
    fault: Fault
    requests: int  # 0 = no number, only the time
    seconds: float
    until: float
    after: int
    delay_s: float
    begun_at: float  # wall clock
    met: OrderedDict[str, int] = field(default_factory=OrderedDict)
    count: int = 0
    over: str = ""  # why it is over, for people; "" while it is on

    def row(self, now: float) -> dict[str, Any]:
        """Plain data: `on`, `left_s`, `left_requests` (None = unlimited), the ids of `met`."""
        on = not self.over
        return {
            "id": self.number,
            "provider": self.provider,
            "fault": self.fault.name,
            "help": self.fault.help,
            "on": on,
            "over": self.over,
            "left_s": round(max(0.0, self.until - now), 1) if on else 0.0,
            "left_requests": (self.requests - self.count) if self.requests and on else None,
            "requests": self.requests or None,
            "seconds": self.seconds,
            "after_events": self.after if self.fault.after is not None else None,
            "delay_s": self.delay_s or None,
            "begun_at": self.begun_at,
            "count": self.count,
            "met": list(self.met),
        }


class Drills:
    """All drills, at most one on at a time per provider. Thread-safe; the lock is a leaf. `active` is what the hot
    path reads: False says for certain that none is on."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self.active = False
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._on: dict[
            str, Drill
        ] = {}  # by provider; also those used up, for the requests that have met them
        self._past: deque[Drill] = deque(maxlen=_KEPT)
        self._number = 0

    def start(
        self,
        provider: str,
        fault: str,
        requests: int | None = None,
        seconds: float | None = None,
        after: int | None = None,
        delay_s: float | None = None,
    ) -> dict[str, Any]:
        """Begins a drill and returns its row; one that was on for the provider ends. Without `requests` and `seconds`
        it is for one request within a minute; with `seconds` alone for every request in that time. Raises
        ControlError for what cannot be drilled."""
        kind = FAULTS.get(fault)
        if kind is None:
            raise ControlError(f"there is no fault {fault!r}; known: {', '.join(FAULTS)}")
        if requests is not None and not 1 <= requests <= DRILL_MOST_REQUESTS:
            raise ControlError(f"a drill is for 1 to {DRILL_MOST_REQUESTS} requests, not {requests}")
        if seconds is not None and not 0 < seconds <= DRILL_MOST_S:
            raise ControlError(f"a drill lasts {DRILL_MOST_S / 3600:g} h at most")
        if after is not None and (kind.after is None or not 0 <= after <= _MOST_EVENTS):
            able = ", ".join(name for name, one in FAULTS.items() if one.after is not None)
            raise ControlError(f"--after is a number of events, for {able}")
        if delay_s is not None and (not kind.delay_s or not 0 < delay_s <= DRILL_MOST_DELAY_S):
            raise ControlError(f"--delay is for slow: up to {DRILL_MOST_DELAY_S:g}s")
        if requests is None:
            requests = DRILL_REQUESTS if seconds is None else 0
        lasts = DRILL_S if seconds is None else seconds
        now, wall = self._clock(), self._wall()
        with self._lock:
            self._expire(now)
            self._end(provider, "another drill took its place")
            self._number += 1
            drill = self._on[provider] = Drill(
                self._number,
                provider,
                kind,
                requests,
                lasts,
                now + lasts,
                (kind.after or 0) if after is None else after,
                kind.delay_s if delay_s is None else delay_s,
                wall,
            )
            self.active = True
            return drill.row(now)

    def stop(self, provider: str | None = None) -> list[dict[str, Any]]:
        """Ends the drill of a provider, or all; returns the rows of those that were still on."""
        now = self._clock()
        with self._lock:
            self._expire(now)
            names = list(self._on) if provider is None else [provider]
            ended = [drill for name in names if (drill := self._on.get(name)) is not None and not drill.over]
            for name in names:
                self._end(name, "ended by hand")
            self.active = bool(self._on)
            return [drill.row(now) for drill in ended]

    def rows(self) -> list[dict[str, Any]]:
        """Every drill that is known, youngest first: those that are on, and the last ones that are over."""
        now = self._clock()
        with self._lock:
            self._expire(now)
            found = [*self._on.values(), *self._past]
            return [drill.row(now) for drill in sorted(found, key=lambda one: -one.number)]

    def caller(self, target: Target, request_id: str = "") -> Caller:
        """What makes the call of an attempt: `Call` itself, or one that meets the fault. Counts the request."""
        now = self._clock()
        with self._lock:
            self._expire(now)
            drill = self._on.get(target.provider.name)
            if drill is None:
                return Call
            key = request_id or f"call {drill.count + 1}"
            if key in drill.met:
                drill.met[key] += 1
            elif drill.over:
                return Call
            else:
                drill.met[key] = 1
                drill.count += 1
                if len(drill.met) > DRILL_MOST_REQUESTS:
                    drill.met.popitem(last=False)
                if drill.count == drill.requests:
                    many = "" if drill.count == 1 else "s"
                    drill.over = f"after {drill.count} request{many}"
            return partial(FaultyCall, fault=drill.fault, after=drill.after, delay_s=drill.delay_s)

    def _expire(self, now: float) -> None:
        for name, drill in list(self._on.items()):
            if now >= drill.until:
                self._end(name, "its time is over")
        self.active = bool(self._on)

    def _end(self, provider: str, why: str) -> None:
        drill = self._on.pop(provider, None)
        if drill is not None:
            drill.over = drill.over or why
            self._past.append(drill)
