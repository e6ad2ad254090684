"""The control socket: HTTP/1.1 over AF_UNIX, for `ccmctl` and `curl --unix-socket`.

One thread and one selector serve at most eight clients at a time, each with five seconds and 64 KB; a slow or hostile
one delays nobody, and requests to providers never pass here. Only the user who runs ccm (and root) gets in: the
directory is private, the socket is 0600, and the kernel is asked who called. A lock file beside the socket is held for
life, so that a stale socket can be replaced without a race and a live one never is.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import socket
import stat
import struct
import threading
import time
import urllib.parse
from http import HTTPStatus
from typing import Any

from ccm.control import api
from ccm.control.core import Core
from ccm.errors import BadRequest, ControlError
from ccm.wire import http1

MAX_PATH_BYTES = 100  # sun_path holds 104 (macOS) or 108 (Linux) bytes with its end
MAX_REQUEST_BYTES = 64 * 1024
MAX_CLIENTS = 8
DEADLINE_S = 5.0
LINGER_S = (
    1.0  # after an early answer the rest of a request is read away for so long, or the answer would be lost
)
ACCEPT_PAUSE_S = 0.05  # out of descriptors: do not spin


def serve(core: Core, path: str) -> Server:
    """The server for this core; nothing happens before `start()`."""
    return Server(core, path)


class Server:
    """`start` opens the socket and its thread, `stop` ends both and removes the socket."""

    def __init__(self, core: Core, path: str) -> None:
        self.path = path
        self._core = core
        self._listener: socket.socket | None = None
        self._lock_fd = -1
        self._inode = 0
        self._thread: threading.Thread | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._selector: selectors.BaseSelector  # from `start` on
        self._clients: dict[socket.socket, _Client] = {}
        self._stopping = False
        self._listening = False
        self._resume_at = 0.0

    def start(self) -> None:
        """Raises ControlError where the socket cannot be had: path too long, directory not private, another ccm."""
        check_path(self.path)
        _private_directory(os.path.dirname(self.path))
        self._lock_fd = _lock(self.path)
        try:
            self._listener = _bind(self.path)
        except BaseException:
            self._unlock()
            raise
        self._inode = os.stat(self.path).st_ino
        self._selector = selectors.DefaultSelector()
        self._wake = socket.socketpair()
        self._wake[0].setblocking(False)
        self._selector.register(self._wake[0], selectors.EVENT_READ)
        self._listen(True)
        self._thread = threading.Thread(target=self._run, name="ccm-control", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread, then removes the socket if it is still ours. Safe to call twice, and before `start`."""
        self._stopping = True
        if self._wake is not None:
            try:
                self._wake[1].send(b"x")
            except OSError:  # already stopped
                pass
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        if self._listener is not None:
            try:
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            except OSError:  # somebody removed it before us
                pass
            self._listener.close()
            self._listener = None
        self._unlock()

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
            while not self._stopping:
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._selector.close()
            if self._wake is not None:
                for end in self._wake:
                    end.close()

    def _turn(self) -> None:
        now = time.monotonic()
        deadlines = [client.deadline for client in self._clients.values()]
        if not self._listening and self._resume_at:
            deadlines.append(self._resume_at)
        wait = max(0.0, min(deadlines) - now) if deadlines else None
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._clients:
                self._serve(self._clients[key.fileobj])
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._drop(client)
        if len(self._clients) < MAX_CLIENTS and now >= self._resume_at:
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
        if len(self._clients) >= MAX_CLIENTS:
            self._listen(False)  # the others wait in the backlog
        uid = peer_uid(connection)
        if uid is not None and uid not in (os.geteuid(), 0):
            self._answer(client, api.problem(403, "this ccm belongs to another user", self._core))

    def _serve(self, client: _Client) -> None:
        try:
            if client.out:
                self._send(client)
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
        try:
            request = parse(client.data)
        except BadRequest as error:
            self._answer(client, api.problem(error.status, str(error), self._core))
            return True
        if request is not None:
            client.whole = True
            client.head_only = request.method == "HEAD"
            self._answer(client, api.call(self._core, request.method, request.path, request.args))
        return True

    def _answer(self, client: _Client, reply: api.Reply) -> None:
        client.answered = True
        client.out = render(reply, client.head_only)
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
    """One connection: one request, one answer, then it is closed."""

    __slots__ = ("answered", "connection", "data", "deadline", "head_only", "out", "whole")

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.data = b""
        self.out = b""
        self.answered = self.whole = self.head_only = False


class Request:
    """A whole request: method, path without query, and the arguments of query or JSON body."""

    __slots__ = ("args", "method", "path")

    def __init__(self, method: str, path: str, args: dict[str, Any]) -> None:
        self.method, self.path, self.args = method, path, args


def parse(data: bytes) -> Request | None:
    """The request in these bytes, None while it is not whole. Raises BadRequest."""
    end = http1.find_head_end(data)
    if end < 0:
        if len(data) > http1.MAX_HEAD_BYTES:
            raise BadRequest(431, "the request head is too large")
        return None
    head = http1.parse_request_head(data[:end])
    if head.chunked:
        raise BadRequest(411, "send the body with a Content-Length")
    if end + head.length > MAX_REQUEST_BYTES:
        raise BadRequest(413, f"a control request has at most {MAX_REQUEST_BYTES} bytes")
    if len(data) < end + head.length:
        return None
    if len(data) > end + head.length:
        raise BadRequest(400, "one request per connection")
    url = urllib.parse.urlsplit(head.target)
    body = data[end:]
    args = _json_object(body) if body else _query(url.query)
    return Request(head.method, url.path, args)


def _query(query: str) -> dict[str, Any]:
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise BadRequest(400, "too many arguments") from None
    args = dict(pairs)
    if len(args) != len(pairs):
        raise BadRequest(400, "an argument is given twice")
    return args


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise BadRequest(400, "the body must be a JSON object")
    return value


def render(reply: api.Reply, head_only: bool = False) -> bytes:
    """The answer's bytes; every answer ends its connection."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if reply.allow:
        lines.append(f"Allow: {reply.allow}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    return head if head_only else head + reply.body


def check_path(path: str) -> None:
    """Raises ControlError for a path that the system would not take as a socket's."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ControlError(
            f"the control socket's path has {size} bytes, {MAX_PATH_BYTES} is the limit: {path} "
            "(choose a shorter one with --socket or $CCM_SOCKET)"
        )


def peer_uid(connection: socket.socket) -> int | None:
    """The user id of the process at the other end; None where the system does not tell (there the modes of
    directory and socket decide alone)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return int(uid)


def _private_directory(directory: str) -> None:
    """Makes the directory (0700), or makes sure that nobody else can put files there. Raises ControlError."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
    except OSError as error:
        raise ControlError(
            f"the directory of the control socket cannot be used: {directory}: {error.strerror}"
        ) from None
    if found.st_uid not in (os.geteuid(), 0):
        raise ControlError(f"the directory of the control socket belongs to another user: {directory}")
    if found.st_mode & 0o022:
        raise ControlError(
            f"others can write to the directory of the control socket: {directory} "
            f"(mode {stat.S_IMODE(found.st_mode):04o}; do: chmod 700 {directory})"
        )


def _lock(path: str) -> int:
    """The lock beside the socket, held until the descriptor is closed. Raises ControlError while another ccm has it."""
    try:
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ControlError(
            f"the control socket's lock cannot be made: {path}.lock: {error.strerror}"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise _running(path) from None
    return fd


def _running(path: str) -> ControlError:
    return ControlError(
        f"another ccm is running with the control socket {path} (`ccmctl status` asks it)", 409
    )


def _bind(path: str) -> socket.socket:
    """The listening socket, 0600 from its first moment on. A stale one is removed only after a failed connect."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ControlError(f"the control socket cannot be opened: {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlError(f"{path} is there already and is no socket: move it away")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:  # alive but busy, or not ours to judge
        raise ControlError(f"{path} is in use: {error.strerror or 'it does not answer'}", 409) from None
    else:
        raise _running(path)
    finally:
        probe.close()
