"""The child's half of a handover: takes over what the ccm before us gives, then the connections that become idle there.

A process that was not started by another ccm finds nothing and starts as usual.
"""

from __future__ import annotations

import os
import selectors
import socket
import stat
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

from ccm.process.channel import Broken, Channel, take
from ccm.process.successor import VARIABLE, names_with

PATIENCE_S = 15.0  # longer than the old one's own: it decides


class Inheritance:
    """What a predecessor gives. In order: `hello` is there, then `ready`, then `serving`, or `refuse` at any time."""

    def __init__(self, channel: Channel, hello: dict[str, Any], things: dict[str, int]) -> None:
        self.channel = channel
        self.hello = hello
        self._things = things

    def listener(self, host: str, port: int) -> socket.socket | None:
        """The listening socket, if it listens where the configuration wants; else None, and it is given back."""
        fd = self._things.pop("listen", -1)
        if fd < 0:
            return None
        if self.hello.get("listen") != [host, port]:
            os.close(fd)
            return None
        return socket.socket(fileno=fd)

    def control(self) -> tuple[int, int] | None:
        """The control socket and its lock; None where there are none."""
        listener, lock = self._things.pop("control", -1), self._things.pop("lock", -1)
        return (listener, lock) if listener >= 0 and lock >= 0 else None

    def ready(self, version: str) -> tuple[dict[str, Any], list[socket.socket]]:
        """Says that we can serve, and waits for our turn: what the old one knows, and the lines to those before it.
        Raises Broken when it has changed its mind."""
        self.channel.send({"ready": os.getpid(), "version": version})
        message, fds = self.channel.receive(PATIENCE_S)
        memory = message.get("memory")
        return memory if isinstance(memory, dict) else {}, [socket.socket(fileno=fd) for fd in fds]

    def serving(self) -> None:
        """We accept. Raises Broken when the old one is gone, which changes nothing any more."""
        self.channel.send({"serving": True})

    def refuse(self, why: str) -> None:
        """We cannot take over; the old one says so to whoever asked."""
        try:
            self.channel.send({"failed": why[:2000]})
        except Broken:
            pass
        self.close()

    def close(self) -> None:
        """Gives everything back that was not taken."""
        for fd in self._things.values():
            os.close(fd)
        self._things.clear()
        self.channel.close()


def find(environ: MutableMapping[str, str]) -> Inheritance | None:
    """What a predecessor gives to this process; None without one. The variable is taken out of the environment."""
    number = environ.pop(VARIABLE, "")
    if not number.isascii() or not number.isdigit():
        return None
    try:
        fd = int(number[:9])
        if fd < 3 or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        os.set_inheritable(fd, False)
        channel = Channel(socket.socket(fileno=fd))
        message, fds = channel.receive(PATIENCE_S)
    except (OSError, Broken):  # somebody's leftover in the environment
        return None
    things = names_with(fds, message.get("fds") or [])
    hello = message.get("hello")
    return Inheritance(channel, hello if isinstance(hello, dict) else {}, things)


class Predecessors:
    """The lines to processes that still drain: one thread takes the connections that they pass on."""

    def __init__(self, adopt: Callable[[socket.socket], None]) -> None:
        self._adopt = adopt
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._lines: list[socket.socket] = []
        self._thread: threading.Thread | None = None
        self._wake_r, self._wake_w = socket.socketpair()

    def add(self, *lines: socket.socket) -> None:
        """Minds these lines; the first call starts the thread."""
        if not lines:
            return
        with self._lock:
            self._lines += lines
            for line in lines:
                line.setblocking(False)
                self._selector.register(line, selectors.EVENT_READ)
            begin = self._thread is None
            if begin:
                self._selector.register(self._wake_r, selectors.EVENT_READ)
                self._thread = threading.Thread(target=self._run, name="ccm-heir", daemon=True)
        if begin and self._thread is not None:
            self._thread.start()

    def filenos(self) -> list[int]:
        """The lines, to be passed on to a successor; reading here and there at once loses nothing."""
        with self._lock:
            return [line.fileno() for line in self._lines]

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                line = key.fileobj
                if line is self._wake_r or not isinstance(line, socket.socket):
                    return
                if not self._read(line):
                    self._forget(line)

    def _read(self, line: socket.socket) -> bool:
        """Takes what is there; False at the end of the line."""
        try:
            while (connection := take(line)) is not None:
                self._adopt(connection)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _forget(self, line: socket.socket) -> None:
        with self._lock:
            self._lines.remove(line)
            self._selector.unregister(line)
            line.close()

    def stop(self) -> None:
        """Closes our ends: if no successor has them too, those who drain learn that nobody is there any more."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake_w.send(b"x")
            thread.join(2.0)
        for line in list(self._lines):
            self._forget(line)
        self._selector.close()
        self._wake_r.close()
        self._wake_w.close()
