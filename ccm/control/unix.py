"""The control socket: HTTP/1.1 over AF_UNIX, for `ccmctl` and `curl --unix-socket`.

One thread and one selector serve a few clients at a time, each with five seconds and 64 KB (`/explain` more); a slow
or hostile one delays nobody, and requests to providers never pass here. Only the user who runs ccm (and root) gets in: the
directory is private, the socket is 0600, and the kernel is asked who called. A lock file beside the socket is held for
life, so that a stale socket can be replaced without a race and a live one never is.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ccm.control import place
from ccm.control.core import Core
from ccm.control.reading import MAX_REQUEST_BYTES, parse
from ccm.errors import BadRequest
from ccm.late import Late

MAX_CLIENTS = 16
DEADLINE_S = 5.0
LINGER_S = (
    1.0  # after an early answer the rest of a request is read away for so long, or the answer would be lost
)
ACCEPT_PAUSE_S = 0.05  # out of descriptors: do not spin

if TYPE_CHECKING:
    from ccm.control import api

    Call = Callable[[Core, str, str, Mapping[str, Any]], api.Reply]
else:  # everything that can be asked and done: for the first who asks
    api = Late("ccm.control.api")


def _answer(core: Core, method: str, path: str, arguments: Mapping[str, Any]) -> api.Reply:
    return api.call(core, method, path, arguments)


def serve(core: Core, path: str, call: Call = _answer) -> Server:
    """The server for this core; nothing happens before `start()`. `call` answers a request as `api.call` does."""
    return Server(core, path, call)


class Server:
    """`start` opens the socket and its thread, `stop` ends both and removes the socket."""

    def __init__(self, core: Core, path: str, call: Call = _answer) -> None:
        self.path = path
        self._core = core
        self._call = call
        self._listener: socket.socket | None = None
        self._lock_fd = -1
        self._inode = 0
        self._thread: threading.Thread | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._selector: selectors.BaseSelector  # from `start` on
        self._clients: dict[socket.socket, _Client] = {}
        self._stopping = False
        self._listening = False
        self._paused = False
        self._rests = threading.Event()
        self._leaving = False
        self._resume_at = 0.0

    def start(self, inherited: tuple[int, int] | None = None) -> None:
        """Raises ControlError where the socket cannot be had: path too long, directory not private, another ccm.

        `inherited` are the listening socket and its lock, as the ccm before us held them (`lend`); they are ours then.
        """
        if inherited is not None:
            self._listener, self._lock_fd = socket.socket(fileno=inherited[0]), inherited[1]
            self._listener.setblocking(False)
        else:
            place.check_path(self.path)
            place.private_directory(os.path.dirname(self.path))
            self._lock_fd = place.lock(self.path)
            try:
                self._listener = place.bind(self.path)
            except BaseException:
                self._unlock()
                raise
        self._inode = _inode(self.path)
        self._selector = selectors.DefaultSelector()
        self._wake = socket.socketpair()
        self._wake[0].setblocking(False)
        self._selector.register(self._wake[0], selectors.EVENT_READ)
        self._listen(True)
        self._thread = threading.Thread(target=self._run, name="ccm-control", daemon=True)
        self._thread.start()

    def lend(self) -> tuple[int, int]:
        """The descriptors of the listening socket and of its lock, for a successor; they stay ours."""
        assert self._listener is not None
        return self._listener.fileno(), self._lock_fd

    def pause(self, timeout_s: float = 2.0) -> None:
        """Takes no new client until `resume`: they wait in the backlog. Those that are here are answered."""
        self._rests.clear()
        self._paused = True
        self._rouse()
        self._rests.wait(timeout_s)

    def resume(self) -> None:
        """Ends `pause`."""
        self._paused = False
        self._rouse()

    def leave(self) -> None:
        """A successor has the socket: who is here is answered, then the thread ends. The socket is not removed."""
        self._leaving = True
        self.resume()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread, then removes the socket if it is still ours. Safe to call twice, and before `start`."""
        self._stopping = True
        self._rouse()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        if self._listener is not None and not self._leaving and _inode(self.path) == self._inode:
            try:
                os.unlink(self.path)
            except OSError:  # somebody removed it before us
                pass
        self._close()

    def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._unlock()

    def _rouse(self) -> None:
        if self._wake is not None:
            try:
                self._wake[1].send(b"x")
            except OSError:  # already stopped, or awake as it is
                pass

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _listen(self, on: bool) -> None:
        if on != self._listening and self._listener is not None:
            if on:
                self._selector.register(self._listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._listener)
            self._listening = on

    def _run(self) -> None:
        try:
            while not self._stopping and not (self._leaving and not self._clients):
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._selector.close()
            if self._wake is not None:
                for end in self._wake:
                    end.close()
            if (
                self._leaving
            ):  # or the successor's end would leave callers waiting in a backlog that nobody serves
                self._close()

    def _turn(self) -> None:
        if self._paused or self._leaving:
            self._listen(False)
            self._rests.set()
        now = time.monotonic()
        deadlines = [client.deadline for client in self._clients.values()]
        if not self._listening and self._resume_at:
            deadlines.append(self._resume_at)
        wait = max(0.0, min(deadlines) - now) if deadlines else None
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
            elif self._wake is not None and key.fileobj is self._wake[0]:
                self._wake[0].recv(64)
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._clients:
                self._serve(self._clients[key.fileobj])
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._drop(client)
        if (
            len(self._clients) < MAX_CLIENTS
            and now >= self._resume_at
            and not (self._paused or self._leaving)
        ):
            self._resume_at = 0.0
            self._listen(True)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # out of descriptors, or a client that left again
            self._resume_at = time.monotonic() + ACCEPT_PAUSE_S
            self._listen(False)
            return
        connection.setblocking(False)
        client = _Client(connection, time.monotonic() + DEADLINE_S)
        self._clients[connection] = client
        self._selector.register(connection, selectors.EVENT_READ)
        if len(self._clients) > MAX_CLIENTS:
            self._make_room(client)
        uid = peer_uid(connection)
        if uid is not None and uid not in (os.geteuid(), 0):
            self._answer(client, api.problem(403, "this ccm belongs to another user", self._core))

    def _make_room(self, newest: _Client) -> None:
        """Whoever has been here longest without a whole request goes: silent clients must not keep the others out."""
        waiting = [one for one in self._clients.values() if one is not newest and not one.out]
        if waiting:
            self._drop(min(waiting, key=lambda one: one.deadline))
        else:
            self._listen(False)  # all are being answered: the others wait in the backlog

    def _serve(self, client: _Client) -> None:
        try:
            if client.out:
                self._send(client)
                self._take(client)
            elif not self._receive(client):
                self._drop(client)
        except BlockingIOError:
            return
        except OSError:  # the client has left
            self._drop(client)

    def _receive(self, client: _Client) -> bool:
        """Reads what is there and answers a whole request; False when the client is done with."""
        data = client.connection.recv(MAX_REQUEST_BYTES)
        if not data:
            return False
        if client.answered:  # lingering: read away, bounded by the deadline
            return True
        client.data += data
        self._take(client)
        return True

    def _take(self, client: _Client) -> None:
        """Answers what is whole of what came; further requests only while they are here already."""
        while not client.answered and client.data and len(client.data) >= client.needed:
            client.head_only = client.data.startswith(b"HEAD ")
            try:
                request = parse(bytes(client.data))
            except BadRequest as error:
                self._answer(client, api.problem(error.status, str(error), self._core))
                return
            if isinstance(request, int):
                client.needed = request
                return
            del client.data[: request.size]
            client.needed = 0
            client.whole = True
            client.kept = request.keep and bool(client.data)
            self._answer(client, self._call(self._core, request.method, request.path, request.args))

    def _answer(self, client: _Client, reply: api.Reply) -> None:
        client.answered = True
        client.out = render(reply, client.head_only, client.kept)
        client.deadline = (
            time.monotonic() + DEADLINE_S
        )  # an action may have taken its time; the answer gets its own
        self._selector.modify(client.connection, selectors.EVENT_WRITE)
        try:
            self._send(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        sent = client.connection.send(client.out)
        client.out = client.out[sent:]
        if client.out:
            return
        if client.kept:
            client.answered = client.whole = client.kept = False
            self._selector.modify(client.connection, selectors.EVENT_READ)
            return
        if client.whole:
            self._drop(client)
            return
        client.connection.shutdown(socket.SHUT_WR)
        client.deadline = time.monotonic() + LINGER_S
        self._selector.modify(client.connection, selectors.EVENT_READ)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection, None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()


class _Client:
    """One connection: an answer to every request that came at once, then it is closed."""

    __slots__ = ("answered", "connection", "data", "deadline", "head_only", "kept", "needed", "out", "whole")

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.data = bytearray()
        self.needed = 0  # bytes of a whole request, as far as that is known
        self.out = b""
        self.answered = self.whole = self.head_only = False
        self.kept = False  # another request is here already: this answer does not end the connection


def render(reply: api.Reply, head_only: bool = False, kept: bool = False) -> bytes:
    """The answer's bytes; it ends its connection, unless the next request is here already (`kept`)."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store",
        f"Connection: {'keep-alive' if kept else 'close'}",
    ]
    if reply.allow:
        lines.append(f"Allow: {reply.allow}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    return head if head_only else head + reply.body


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0


def peer_uid(connection: socket.socket) -> int | None:
    """The user id of the process at the other end; None where the system does not tell (there the modes of
    directory and socket decide alone)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return int(uid)
