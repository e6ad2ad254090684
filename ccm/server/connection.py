"""One client connection: reads requests without ever holding a thread for a slow client.

`read` takes what the socket has and returns a whole request, or None while one is incomplete; the connection is then
parked in the selector with an absolute deadline (head 10 s, body 30 s, idle 60 s), not in a thread.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any

from ccm.errors import BadRequest, BadUpstream
from ccm.server.bodies import Pool
from ccm.shape import dataclass
from ccm.wire import http1

HEAD_LIMIT_S = 10.0
BODY_LIMIT_S = 30.0
IDLE_LIMIT_S = 60.0
LINGER_LIMIT_S = 1.0
LINGER_BYTES = 1024 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
_PIECE = 256 * 1024
_STEP = 1024 * 1024  # a chunked body reserves memory by the megabyte
_MAX_EMPTY_LINES = 8
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Closed(Exception):
    """The client closed the connection between requests; nothing is owed."""


@dataclass(slots=True)
class Request:
    """A whole request. `path` is without its query; header names are lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    minor: int
    keep_alive: bool
    notes: dict[Any, Any]  # what was found out about heads like this one


class Connection:
    """A client's socket and the request being read from it. Owned by whoever took it out of the parking lot."""

    __slots__ = (
        "_body",
        "_empty",
        "_head",
        "_held",
        "_left",
        "_meant",
        "_parts",
        "_pool",
        "_size",
        "deadline",
        "fd",
        "idle",
        "lingering",
        "local",
        "rest",
        "sock",
        "tried",
    )

    def __init__(self, sock: socket.socket, pool: Pool) -> None:
        self.sock = sock
        self._pool = pool
        self._held = 0  # bytes of the pool that are ours
        self._meant = (
            0  # bytes that the client of a refused request is still sending, as far as that is known
        )
        self.fd = sock.fileno()
        address = sock.getsockname()
        self.local: tuple[str, int] = (str(address[0]), int(address[1]))
        self.rest = b""  # bytes read and not used yet
        self.deadline = time.monotonic() + HEAD_LIMIT_S
        self.idle = True  # between requests: may be closed without an answer
        self.tried = True  # False: `rest` holds bytes that nobody looked at yet
        self.lingering = 0
        self._empty = 0  # lines without anything, before the head that is awaited
        self._head: http1.RequestHead | None = None
        self._body: http1.Chunks | None = None
        self._left = 0
        self._parts: list[bytes] = []
        self._size = 0

    def read(self, admit: Callable[[http1.RequestHead], None]) -> Request | None:
        """A whole request, or None (what came is kept and was `tried`). `admit` sees the head before the body is read and may raise Refusal.

        Raises BadRequest (answer, then close) and Closed.
        """
        self.tried = True
        while True:
            if self._head is None:
                head = self._read_head()
                if head is None:
                    return None
                self._begin_body(head, admit)
            request = self._read_body()
            if request is not None:
                return request
            if not self._more():
                return None

    def _more(self) -> bool:
        """Reads once; False when the socket has nothing now."""
        try:
            data = self.sock.recv(_PIECE)
        except BlockingIOError:
            return False
        except OSError:
            raise Closed from None
        if not data:
            if self._head is not None:
                raise BadRequest(400, "the connection ended inside the request body")
            if self.rest.strip(b"\r\n"):
                raise BadRequest(400, "the connection ended inside the request head")
            raise Closed
        self.rest = self.rest + data if self.rest else data
        return True

    def _read_head(self) -> http1.RequestHead | None:
        while True:
            rest = self.rest
            while rest[:2] == b"\r\n":  # RFC 9112 2.2: empty lines before a request line are ignored
                self._empty += 1
                if self._empty > _MAX_EMPTY_LINES:
                    raise BadRequest(400, "too many empty lines before the request")
                self.rest = rest = rest[2:]
            end = http1.find_head_end(rest)
            if end >= 0 and end <= http1.MAX_HEAD_BYTES:
                self.rest, self._empty = rest[end:], 0
                return http1.parse_request_head(rest[:end])
            if end > 0 or len(rest) > http1.MAX_HEAD_BYTES:
                raise BadRequest(
                    431 if b"\r\n" in rest[: http1.MAX_TARGET_BYTES] else 414, "the request head is too large"
                )
            if _BARE_LF.search(rest):
                raise BadRequest(400, "a line that ends without CR LF")
            if rest and self.idle:
                self.idle = False
                self.deadline = time.monotonic() + HEAD_LIMIT_S
            if not self._more():
                return None

    def _begin_body(self, head: http1.RequestHead, admit: Callable[[http1.RequestHead], None]) -> None:
        self._head = head
        self.idle = False
        self._meant = min(max(head.length, 0), MAX_BODY_BYTES)
        admit(head)
        if head.length > MAX_BODY_BYTES:
            raise BadRequest(413, f"a request body may have {MAX_BODY_BYTES // 1048576} MB at most")
        self.deadline = time.monotonic() + BODY_LIMIT_S
        self._parts, self._size = [], 0
        if head.chunked:
            self._body = http1.Chunks(MAX_BODY_BYTES)
        else:
            self._left = head.length
            if head.length > self._pool.free_bytes:
                self._reserve(head.length)
        if head.expect_continue and not self.rest and head.length:
            try:
                self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                raise Closed from None

    def _read_body(self) -> Request | None:
        head = self._head
        assert head is not None
        if self._body is not None:
            try:
                self._parts.append(self._body.feed(self.rest))
            except BadUpstream as error:
                status = 413 if "too large" in str(error) else 400
                raise BadRequest(status, f"chunked body: {error}") from None
            self.rest = self._body.rest
            self._size += len(self._parts[-1])
            if self._size > self._held + self._pool.free_bytes:
                self._reserve(_STEP)
            if not self._body.done:
                return None
        elif self._left:
            rest = self.rest
            if len(rest) <= self._left:
                self._left -= len(rest)
                if rest:
                    self._parts.append(rest)
                self.rest = b""
            else:
                self._parts.append(rest[: self._left])
                self.rest = rest[self._left :]
                self._left = 0
            if self._left:
                return None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._head = self._body = None
        self._parts = []
        target = head.target
        if target[0] != "/" and target != "*":  # absolute-form: its authority replaces Host (RFC 9112 3.2.2)
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        return Request(head.method, path, query, head.headers, body, head.minor, head.keep_alive, head.notes)

    def _reserve(self, size: int) -> None:
        self._pool.take(size)
        self._held += size

    @property
    def asked(self) -> str:
        """The target of the request whose body is being read; "" before its head is known."""
        return "" if self._head is None else self._head.target

    def hand_over(self) -> int:
        """The bytes of the pool that the body of the request just read holds; whoever takes the request gives them back."""
        held, self._held = self._held, 0
        return held

    def has_news(self) -> bool:
        """Whether bytes, or the client's end, wait to be read."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def settle(self) -> None:
        """The request was answered: the connection is idle, unless bytes of the next request are there already."""
        self.idle = self.tried = not self.rest
        self.deadline = time.monotonic() + (IDLE_LIMIT_S if self.idle else HEAD_LIMIT_S)

    def linger(self) -> bool:
        """After an early answer: says no more will come, then discards what the client still sends, so that it can
        read the answer (a reset would destroy it). False when there is nothing to wait for."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        self._parts = []
        self._pool.give(self.hand_over())
        self.lingering = LINGER_BYTES + self._meant
        self.deadline = time.monotonic() + LINGER_LIMIT_S
        return True

    def discard(self) -> bool:
        """Drops what came while lingering; False when the connection may be closed."""
        try:
            while self.lingering > 0:
                data = self.sock.recv(_PIECE)
                if not data:
                    return False
                self.lingering -= len(data)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Closes the socket."""
        self._pool.give(self.hand_over())
        try:
            self.sock.close()
        except OSError:
            pass
