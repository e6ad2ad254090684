"""Drills that several processes carry out together: the next request meets the fault whoever gets it, and only that one.

Each process counts, and tells the others whom it has met; within the millisecond that takes, two requests in two
processes may both be the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ccm.faults import DRILL_MOST_REQUESTS
from ccm.model import Target
from ccm.proxy.drill import Caller, Drills

News = tuple[Any, ...]


class SharedDrills(Drills):
    """`tell` must neither wait nor raise."""

    def __init__(self, tell: Callable[[News], None] = lambda news: None) -> None:
        super().__init__()
        self._tell = tell

    def caller(self, target: Target, request_id: str = "") -> Caller:
        drill = self._on.get(target.provider.name)
        known = drill is None or request_id in drill.met
        found = super().caller(target, request_id)
        if drill is not None and not known and request_id in drill.met:
            self._tell(("met", drill.provider, request_id))
        return found

    def apply(self, news: News) -> bool:
        """Counts a request that met its drill elsewhere; False for other news."""
        if not news or news[0] != "met":
            return False
        _, provider, request_id = news
        with self._lock:
            drill = self._on.get(provider)
            if drill is None or request_id in drill.met:
                return True
            drill.met[request_id] = 1
            drill.count += 1
            if len(drill.met) > DRILL_MOST_REQUESTS:
                drill.met.popitem(last=False)
            if drill.requests and drill.count >= drill.requests and not drill.over:
                drill.over = f"after {drill.count} request{'' if drill.count == 1 else 's'}"
        return True
