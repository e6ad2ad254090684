"""How a process ends its work: with a successor that takes what becomes idle, or alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ccm.process.successor import Successor
from ccm.server.listener import Listener

SUCCEEDED_DRAIN_S = 3600.0  # a successor serves: the old process may wait for the longest stream there is
_LOOK_S = 0.02


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Waits until something is done, so many seconds at most; False when it is not by then."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        pause.wait(_LOOK_S)
    return True


def drain_alone(listener: Listener, in_flight: Callable[[], int], seconds: float) -> None:
    """Accepts nothing more; returns when every request has its answer, or the time is over."""
    listener.shutdown()
    listener.drain()
    wait_for(lambda: not in_flight(), seconds)


def drain_behind(
    listener: Listener,
    in_flight: Callable[[], int],
    successor: Successor,
    hurry: Callable[[], bool],
    seconds: Callable[[], float],
) -> None:
    """The successor accepts: connections go to it as they become idle, streams are left to end by themselves. Only
    when the successor ends too, or somebody asks for the end (`hurry`), the drain time (`seconds`) begins."""

    channel = successor.channel

    def done() -> bool:
        successor.process.poll()  # if it ends, it is reaped at once: somebody may be waiting for that
        return not in_flight() and not listener.connections

    listener.leave(channel.give)
    asked = wait_for(lambda: done() or hurry() or channel.ended(), SUCCEEDED_DRAIN_S)
    if asked and not done():
        wait_for(done, seconds())
