"""What this ccm has to hand over: its sockets, and what it knows (`successor.Estate`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ccm.control import unix
from ccm.observe.log import Log
from ccm.process.channel import Broken
from ccm.process.heir import Predecessors
from ccm.routing.router import Router
from ccm.server.listener import Listener


class Belongings:
    """The running parts, as a successor gets them. `address` is what the configuration called the listening socket."""

    def __init__(
        self,
        version: str,
        address: tuple[str, int],
        listener: Listener,
        control: unix.Server,
        router: Router,
        predecessors: Predecessors,
        log: Log,
        stopping: Callable[[], bool],
    ) -> None:
        self._version, self._address = version, address
        self._listener, self._control, self._router = listener, control, router
        self._predecessors, self._log = predecessors, log
        self._stopping = stopping

    def things(self) -> dict[str, int]:
        """Descriptors by name."""
        control, lock = self._control.lend()
        return {"listen": self._listener.fileno(), "control": control, "lock": lock}

    def hello(self) -> dict[str, Any]:
        """What the new one must know before it can begin."""
        return {"version": self._version, "pid": os.getpid(), "listen": list(self._address)}

    def hold(self) -> None:
        """Control clients wait: what they decided before is on disk, what they will decide is the successor's. Raises
        Broken when somebody has asked for the end meanwhile."""
        if self._stopping():
            raise Broken("ccm was asked to stop meanwhile")
        self._control.pause()

    def memory(self) -> dict[str, Any]:
        """Health, conversations, and what was set until the next start."""
        return {"router": self._router.tell(), "log_level": self._log.level}

    def lines(self) -> list[int]:
        """Channels to those before us that still drain."""
        return self._predecessors.filenos()

    def resume(self) -> None:
        """There is no successor after all."""
        self._control.resume()
