"""The line between a ccm and the one that takes over from it: a socket pair that the new process inherits.

First messages in turn: one JSON object a line, with descriptors. Then, for as long as the old process drains, one byte
per client connection that has become idle there, with the connection itself. The end of the line means: the successor
is gone, or about to stop.
"""

from __future__ import annotations

import array
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ccm.errors import CcmError

PROTOCOL = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_MAX_FDS = 64
_PIECE = 256 * 1024
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_CONNECTION = b"c"


class Broken(CcmError):
    """The other side is gone, silent for too long, or speaks another protocol. The text says which; `told` that it is
    the other side's own."""

    def __init__(self, message: str, *, told: bool = False) -> None:
        self.told = told
        super().__init__(message)


class Channel:
    """One end of the line. It belongs to one thread at a time, but for `give`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def close(self) -> None:
        """Ends the line; the other side sees it at once."""
        self.sock.close()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = (), timeout_s: float = 10.0) -> None:
        """One message with descriptors (copies: the caller keeps his own). Raises Broken."""
        data = json.dumps({"protocol": PROTOCOL, **message}, separators=(",", ":")).encode("ascii") + b"\n"
        self.sock.settimeout(timeout_s)
        try:
            sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
            self.sock.sendall(data[sent:])
        except OSError as error:
            raise Broken(f"it took no message: {error.strerror or error}") from None

    def receive(self, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        """One message and its descriptors, which are the caller's to close. Raises Broken."""
        deadline = time.monotonic() + timeout_s
        data, fds = b"", list[int]()
        try:
            while not data.endswith(b"\n"):
                self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                piece, more = _receive(self.sock, _PIECE, _MAX_FDS)
                fds += more
                if not piece:
                    raise Broken("it ended")
                data += piece
                if len(data) > MAX_MESSAGE_BYTES:
                    raise Broken("it sent too much")
            message = json.loads(data)
            if not isinstance(message, dict) or message.get("protocol") != PROTOCOL:
                raise Broken("it speaks another protocol")
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, TimeoutError):
                raise Broken(f"it did not answer within {timeout_s:.3g} s") from None
            if isinstance(error, (OSError, ValueError)):
                raise Broken(f"it broke the line: {error}") from None
            raise
        return message, fds

    def hush(self) -> None:
        """The messages are over: from here on nothing waits on this line."""
        self.sock.setblocking(False)

    def give(self, connection: socket.socket) -> bool:
        """Passes an idle client connection on; the caller closes his copy then. Never waits (`hush`): False means not
        now.

        Raises OSError when nobody takes them any more.
        """
        fds = array.array("i", [connection.fileno()])
        try:
            sent = self.sock.sendmsg([_CONNECTION], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except BlockingIOError:
            return False
        return sent == 1

    def ended(self) -> bool:
        """Whether the successor is gone or stops. It says nothing else on this line, so any news is that."""
        try:
            return not self.sock.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True


def take(sock: socket.socket) -> socket.socket | None:
    """The next connection that the old process passed on; None at the end of the line. Raises BlockingIOError when
    there is none now (the socket must not be a waiting one)."""
    piece, fds = _receive(sock, 1, 1)
    if not piece:
        return None
    if not fds:  # out of descriptors: the kernel dropped it, and the client saw a close
        raise BlockingIOError
    return socket.socket(fileno=fds[0])


def _receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Bytes and descriptors, which no child inherits. (`socket.recv_fds` forgets its flags.)"""
    found = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_LEN(most * found.itemsize), _CLOEXEC)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(value[: len(value) - len(value) % found.itemsize])
    for fd in found:
        os.set_inheritable(fd, False)
    return data, list(found)


def pair() -> tuple[Channel, socket.socket]:
    """Our end, and the one to be inherited."""
    mine, theirs = socket.socketpair()
    return Channel(mine), theirs
