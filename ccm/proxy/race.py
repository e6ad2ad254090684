"""A hedge: two attempts of one request at two targets, and the first content wins (opt-in, RELIABILITY 3.6).

The first lane is the request's own worker. When it has waited for longer than is usual at its target, the pump's clock
starts the second lane in a thread of its own. Whoever has content first is the winner; the loser's connection is shut
at once, which ends its wait. A lane that fails just leaves the race: the other one goes on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ccm.model import FailureKind, Target
from ccm.routing.router import Ticket
from ccm.upstream.call import Call, failure
from ccm.upstream.poller import wait_for

if TYPE_CHECKING:
    from ccm.proxy.answer import Answer
    from ccm.proxy.downstream import Downstream

OWN, HEDGE = 0, 1
_ASK_EVERY_S = 0.1  # how soon a worker that only waits for the other lane notices a client that leaves


class Lane:
    """What a waiting call sees of the client (upstream.call.Watch) in one lane of a race."""

    __slots__ = ("_down", "_race", "number")

    def __init__(self, race: Race, number: int, down: Downstream | None) -> None:
        self._race = race
        self._down = down  # only the worker's own lane may speak to the client
        self.number = number

    @property
    def fd(self) -> int:
        return self._down.fd if self._down is not None else -1

    @property
    def events(self) -> int:
        return self._down.events if self._down is not None else 0

    def hangup(self, events: int) -> None:
        """The client moved. Raises ClientGone when it has left."""
        if self._down is not None:
            self._down.hangup(events)

    def waiting(self) -> None:
        """The wait is getting long."""
        if self._down is not None:
            self._down.waiting()

    def calling(self, call: Call) -> None:
        """A call has been connected in this lane. Raises UpstreamError where the race is over."""
        if not self._race.enter(self.number, call):
            raise failure(FailureKind.BROKEN, "another attempt was faster")


class Race:
    """Two lanes; `begin` may start the second one once. Thread-safe; the lock is a leaf."""

    def __init__(self, down: Downstream, second: Callable[[Race], None]) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._calls: list[Call | None] = [None, None]
        self._second = second
        self._down = down
        self._running = False  # the second lane
        self._over = False
        self._begun: list[tuple[Target, float] | None] = [None, None]
        self.winner: tuple[int, Answer, Ticket, float] | None = None  # lane, ..., when it began
        self.beaten: tuple[Target, float] | None = None  # the lane that was cut, and when it had begun
        self.own = Lane(self, OWN, down)
        self.hedge = Lane(self, HEDGE, None)

    def begin(self) -> None:
        """Starts the second lane, unless the race is over. Called from the pump's clock; returns at once."""
        with self._condition:
            if self._over or self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run_second, name="ccm-hedge", daemon=True).start()
        except RuntimeError:  # no thread to be had: then nobody runs beside the first
            self._second_is_over()

    def _run_second(self) -> None:
        try:
            self._second(self)
        finally:
            self._second_is_over()

    def _second_is_over(self) -> None:
        with self._condition:
            self._running = False
            self._condition.notify_all()

    def start(self, lane: int, target: Target, began: float) -> None:
        """This lane's attempt begins (`began` on the monotonic clock)."""
        with self._condition:
            self._begun[lane] = (target, began)

    def enter(self, lane: int, call: Call) -> bool:
        """Registers the lane's call; False when the race is over."""
        with self._condition:
            if self._over:
                return False
            self._calls[lane] = call
            return True

    def win(self, lane: int, answer: Answer, ticket: Ticket) -> bool:
        """This lane has content. True: it is the first, and the other one is being cut."""
        with self._condition:
            if self._over:
                return False
            self._over = True
            begun = self._begun[lane]
            self.winner = (lane, answer, ticket, begun[1] if begun is not None else 0.0)
            self.beaten = self._begun[1 - lane]
            other = self._calls[1 - lane]
            self._condition.notify_all()
        _cut(other)
        return True

    def fail(self, lane: int) -> bool:
        """This lane's attempt failed by itself. False: it was cut, for the race is over."""
        with self._condition:
            if not self._over:
                self._begun[lane] = None
                self._calls[lane] = None  # its connection may be somebody else's by now
            return not self._over

    def close(self) -> None:
        """The client has left, or the worker gives up: nobody wins any more."""
        with self._condition:
            if self._over:
                return
            self._over = True
            self.beaten = self._begun[HEDGE]
            calls = list(self._calls)
        for call in calls:
            _cut(call)

    def wait_second(self) -> None:
        """Waits until the second lane has ended, if it runs. Raises ClientGone when the client leaves meanwhile."""
        with self._condition:
            while not self._condition.wait_for(self._settled, _ASK_EVERY_S):
                events, _ = wait_for(self._down.fd, self._down.events, 0.0)
                if events:
                    self._down.hangup(events)

    def _settled(self) -> bool:
        return not self._running or self.winner is not None


def _cut(call: Call | None) -> None:
    """Ends the waits of a call that another thread drives: that thread closes it. The plain socket's shutdown, for
    that of a TLS socket would take its state away under the other thread's feet."""
    if call is not None and call.held:
        try:
            socket.socket.shutdown(call.sock, socket.SHUT_RDWR)
        except (OSError, ValueError):
            pass  # closed already
