"""The line between a supervisor and one of its workers: messages both ways over a socket pair, in order.

Whoever has something to say appends to a bounded deque and goes on; one thread writes, one reads. What is not urgent is
gathered for a moment, so that a busy worker says fifty things at once instead of waking somebody for each. Messages are
tuples of plain data (marshal: both ends are the same interpreter, and the line is nobody else's).
"""

from __future__ import annotations

import marshal
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Message = tuple[Any, ...]

GATHER_S = 0.02
MOST_WAITING = 20_000
_FRAME_MESSAGES = 2_000
_HEAD = struct.Struct(">I")


class Line:
    """One end. `take` gets the messages of a frame, in the reading thread; `ended` is called there once, when the other
    side is gone; `fault` gets what `take` raises."""

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[list[Message]], None],
        ended: Callable[[], None],
        fault: Callable[[BaseException, str], None],
        name: str = "line",
    ) -> None:
        self._sock = sock
        self._take, self._ended, self._fault = take, ended, fault
        self._out: deque[Message] = deque()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._closing = self._broken = False
        self.dropped = 0  # messages that found no room: the other side has not read for a long time
        self._reader = threading.Thread(target=self._read, name=f"ccm-{name}-in", daemon=True)
        self._writer = threading.Thread(target=self._write, name=f"ccm-{name}-out", daemon=True)

    def start(self) -> None:
        """Starts both threads. What was put before goes out first."""
        self._reader.start()
        self._writer.start()

    def put(self, message: Message, *, urgent: bool = False) -> None:
        """Hands a message over, and never waits. Urgent ones go out at once, with all that waits before them."""
        if self._broken or len(self._out) >= MOST_WAITING:
            self.dropped += 1
            return
        self._out.append(message)
        if urgent and not self._urgent.is_set():
            self._urgent.set()
        if not self._wake.is_set():
            self._wake.set()

    def finish(self, timeout_s: float) -> None:
        """Sends what waits, then ends the line."""
        self._closing = True
        self._urgent.set()
        self._wake.set()
        if self._writer.ident is not None:
            self._writer.join(timeout_s)
        self._shut()
        if self._reader.ident is not None and self._reader is not threading.current_thread():
            self._reader.join(timeout_s)
        self._sock.close()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            pass

    def _write(self) -> None:
        while not self._broken and not (self._closing and not self._out):
            self._wake.wait()
            self._urgent.wait(GATHER_S)
            self._urgent.clear()
            self._wake.clear()
            while self._out:
                batch = [self._out.popleft() for _ in range(min(len(self._out), _FRAME_MESSAGES))]
                try:
                    self._sock.sendall(self._frames(batch))
                except OSError:
                    self._broken = True
                    self._out.clear()
                    return

    def _frames(self, batch: list[Message]) -> bytes:
        """A frame of all; without those that are no plain data, which is a bug, and no reason to lose the others."""
        try:
            return frame(batch)
        except ValueError:
            frames = b""
            for message in batch:
                try:
                    frames += frame([message])
                except ValueError as error:
                    self._fault(error, f"line, {message[0]}")
            return frames

    def _read(self) -> None:
        try:
            while (messages := receive(self._sock)) is not None:
                try:
                    self._take(messages)
                except Exception as error:  # a bug of ours must not cut the line
                    self._fault(error, "line")
        except OSError:
            pass
        self._broken = True
        self._wake.set()
        self._ended()


def frame(messages: list[Message]) -> bytes:
    """A frame: four bytes of length, then the messages. Raises ValueError for what is no plain data."""
    data = marshal.dumps(messages)
    return _HEAD.pack(len(data)) + data


def receive(sock: socket.socket) -> list[Message] | None:
    """The messages of the next frame; waits for it. None at the end of the line. Raises OSError."""
    head = _exactly(sock, _HEAD.size)
    if head is None:
        return None
    data = _exactly(sock, _HEAD.unpack(head)[0])
    if data is None:
        return None
    messages: list[Message] = marshal.loads(data)  # noqa: S302 - from our own process, over a socket pair
    return messages


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        got = sock.recv_into(view[have:])
        if not got:
            return None
        have += got
    return bytes(data)
