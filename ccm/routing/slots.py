"""Waiting for an in-flight slot: first come, first served, bounded, given up at once by those who leave.

Providers that allow one or two requests at a time are asked in order, not by whoever polls at the right moment. A
waiter may stand in the queues of several endpoints and takes the first slot that comes free. The router grants slots
under its lock and only sets an event there; waiting happens outside, in slices, so that the caller can look after its
client in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccm.model import Target
    from ccm.routing.tickets import Ticket

QUEUE_MOST = 64  # waiters per endpoint (RELIABILITY row 63)
SLICE_S = 1.0


class Waiter:
    """One request in the queues. `done`: it has its ticket, or has given up. Changed under the router's lock only."""

    __slots__ = ("done", "event", "targets", "ticket")

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets
        self.done = False
        self.ticket: Ticket | None = None
        self.event = threading.Event()

    def wait(self, deadline: float, clock: Callable[[], float], cancelled: Callable[[], bool]) -> None:
        """Until a slot is granted, the deadline has come or the caller says it is cancelled, whichever is first.
        `cancelled` is asked at least once a second, without any lock, and may raise."""
        while not self.event.is_set() and not cancelled():
            left = deadline - clock()
            if left <= 0:
                return
            self.event.wait(min(SLICE_S, left))
