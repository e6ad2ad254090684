"""One HTTP/1.1 exchange with a provider, on a connection of the provider's pool. Bytes only: no JSON, no dialect.

A worker drives it until the answer is committed; then the pump does. Every failure leaves here as one UpstreamError
(status 0, `kind` set): the one exception map of this boundary. While it waits it watches the client, so a client that
leaves is noticed at once, in every phase (R37).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ccm.errors import BadUpstream, UpstreamError
from ccm.late import Late
from ccm.model import FailureKind, ProviderError
from ccm.upstream import tls
from ccm.upstream.poller import BROKEN, READ, WRITE, wait_for
from ccm.upstream.sessions import Plain, Pool
from ccm.wire import http1
from ccm.wire.headers import block
from ccm.wire.inflate import Inflated

if TYPE_CHECKING:
    from urllib3 import exceptions
    from urllib3.connection import HTTPConnection
else:  # named only where one of them is on its way already
    exceptions = Late("urllib3.exceptions")

_PIECE = 64 * 1024
_SHORT_WAIT_S = 0.002


class Watch(Protocol):
    """The client, as a waiting call sees it."""

    @property
    def fd(self) -> int:
        """The client's socket; -1: nothing to watch."""

    @property
    def events(self) -> int:
        """What to watch it for."""

    def hangup(self, events: int) -> None:
        """Something happened on the client's socket. Raises ClientGone when it has left."""

    def waiting(self) -> None:
        """The wait is getting long: somebody else should mind the door."""

    def calling(self, call: Call) -> None:
        """A connection is there, the request goes out now. Raises ClientGone where nobody wants it any more."""


def failure(kind: FailureKind, message: str, type: str = "api_error") -> UpstreamError:
    """A failure that no provider answer describes."""
    return UpstreamError(ProviderError(0, type, message, kind=kind))


def request_head(
    pool: Pool, path: str, headers: Mapping[str, str], method: str = "POST"
) -> tuple[bytes, bytes]:
    """A request's head up to the body's length, and what follows it."""
    line = f"{method} {pool.absolute}{pool.path}{path} HTTP/1.1\r\nhost: {pool.authority}\r\ncontent-length: "
    return line.encode("latin-1"), b"\r\n%b\r\n" % block(headers)


class Call:
    """Sends one request and reads its answer. Owned by one thread at a time; `close` and `release` end it."""

    __slots__ = ("_connection", "_data", "body", "fresh", "head", "pool", "sock", "watch")

    def __init__(self, pool: Pool, watch: Watch | None = None) -> None:
        self.pool = pool
        self.watch = watch
        self.head: http1.ResponseHead | None = None
        self.body: http1.Chunks | http1.Sized | http1.UntilClose | Inflated = http1.Sized(0)
        self._data = b""
        self._connection: HTTPConnection | Plain | None = None

    def send(
        self, path: str, headers: Mapping[str, str], body: bytes, deadline: float, method: str = "POST"
    ) -> None:
        """`exchange` with a head made of these."""
        before, after = request_head(self.pool, path, headers, method)
        self.exchange(b"%b%d%b" % (before, len(body), after), body, deadline)

    def exchange(self, request: bytes, body: bytes, deadline: float) -> None:
        """Connects if need be and sends the request; reads the head. A connection that turns out to have been closed
        by the provider meanwhile is replaced once, silently: nothing was processed (RELIABILITY row 6)."""
        for again in (True, False):
            self._open()
            try:
                if self.watch is not None:
                    self.watch.calling(self)
                self._write(request, body, deadline)
                self._read_head(deadline)
                return
            except UpstreamError as error:
                self.close()
                stale = not self.fresh and error.error.kind is FailureKind.BROKEN and not self._data
                if not (stale and again):
                    raise
            except BaseException:  # the client left: the provider must not go on for nobody
                self.close()
                raise

    def _open(self) -> None:
        name = self.pool.provider.name
        try:
            watch = self.watch
            connection, reused = self.pool.take() if watch is None else self.pool.take(watch.waiting)
        except TimeoutError:
            raise failure(
                FailureKind.CONNECT, f"no connection to {name} ({self.pool.authority}) in time"
            ) from None
        except tls.FAILED as error:
            raise failure(
                FailureKind.CONNECT, f"TLS to {name} ({self.pool.authority}) failed: {_short(error)}"
            ) from None
        except (
            OSError
        ) as error:  # before urllib3's: a plain connection has only these, and urllib3 may not be imported
            raise failure(
                FailureKind.CONNECT, f"cannot reach {name} ({self.pool.authority}): {_short(error)}"
            ) from None
        except exceptions.NewConnectionError as error:  # refused, no such host: a subclass of the next one
            raise failure(
                FailureKind.CONNECT, f"cannot reach {name} ({self.pool.authority}): {_short(error)}"
            ) from None
        except exceptions.ConnectTimeoutError:
            raise failure(
                FailureKind.CONNECT, f"no connection to {name} ({self.pool.authority}) in time"
            ) from None
        except exceptions.SSLError as error:
            raise failure(
                FailureKind.CONNECT, f"TLS to {name} ({self.pool.authority}) failed: {_short(error)}"
            ) from None
        except exceptions.HTTPError as error:
            raise failure(
                FailureKind.CONNECT, f"cannot reach {name} ({self.pool.authority}): {_short(error)}"
            ) from None
        self._connection = connection
        self.fresh = not reused
        sock = connection.sock
        assert sock is not None
        self.sock = sock
        self._data = b""

    def _write(self, head: bytes, body: bytes, deadline: float) -> None:
        sock = self.sock
        try:
            if self.pool.secure:
                pieces = [head + body] if len(body) < _PIECE else [head, body]
            else:
                sent = sock.sendmsg((head, body))
                if sent == len(head) + len(body):
                    return
                pieces = [head[sent:], body] if sent < len(head) else [body[sent - len(head) :]]
        except tls.NOT_NOW:
            pieces = [head, body]
        except OSError as error:
            raise failure(
                FailureKind.BROKEN, f"{self.pool.provider.name} broke the connection: {_short(error)}"
            ) from None
        for piece in pieces:
            view = memoryview(piece)
            while view:
                try:
                    view = view[sock.send(view) :]
                except tls.NOT_NOW as error:
                    events = READ if isinstance(error, tls.WANTS_READ) else WRITE
                    self._wait(events, deadline, FailureKind.HEAD_TIMEOUT, "did not take the request in time")
                except OSError as error:
                    if self._answered_early():
                        return
                    raise failure(
                        FailureKind.BROKEN, f"{self.pool.provider.name} broke the connection: {_short(error)}"
                    ) from None

    def _answered_early(self) -> bool:
        """A provider may refuse before it has read everything (413): its answer is worth more than the broken pipe."""
        try:
            self._data = self.sock.recv(_PIECE)
        except OSError:
            return False
        return bool(self._data)

    def _read_head(self, deadline: float) -> None:
        data = self._data
        while True:
            end = http1.find_head_end(data)
            if end >= 0:
                try:
                    head = http1.parse_response_head(data[:end])
                except BadUpstream as error:
                    raise failure(FailureKind.PROTOCOL, f"{self.pool.provider.name}: {error}") from None
                data = data[end:]
                if head.status >= 200:
                    break
                continue  # 100, 102, 103: the answer is still to come
            if len(data) > http1.MAX_RESPONSE_HEAD_BYTES:
                raise failure(
                    FailureKind.PROTOCOL, f"{self.pool.provider.name} sent an endless response head"
                )
            piece = self.receive(deadline, FailureKind.HEAD_TIMEOUT, "sent no response head in time")
            if not piece:
                raise failure(
                    FailureKind.BROKEN, f"{self.pool.provider.name} closed the connection without an answer"
                )
            data += piece
            self._data = data
        self.head = head
        body = http1.body_decoder(head.length)
        coding = head.headers.get("content-encoding", "identity").lower()
        if coding == "identity":
            self.body = body
        else:
            try:
                self.body = Inflated(body, coding)
            except BadUpstream as error:
                raise failure(FailureKind.PROTOCOL, f"{self.pool.provider.name}: {error}") from None
        self._data = data

    def receive(self, deadline: float, kind: FailureKind, what: str) -> bytes:
        """Raw bytes as they come; b"" at the end of the connection. Raises `kind` at the deadline."""
        while True:
            try:
                return self.sock.recv(_PIECE)
            except tls.NOT_NOW as error:
                self._wait(WRITE if isinstance(error, tls.WANTS_WRITE) else READ, deadline, kind, what)
            except OSError as error:
                raise failure(
                    FailureKind.BROKEN, f"{self.pool.provider.name} broke the connection: {_short(error)}"
                ) from None

    def payload(self, deadline: float, kind: FailureKind, what: str) -> bytes | None:
        """The next piece of the body, framing removed; None at its proper end. A body that ends before its framing
        says so is BROKEN; one that only the connection ends is whole as far as HTTP can tell."""
        while not self.body.done:
            if self._data:
                raw, self._data = self._data, b""
            else:
                raw = self.receive(deadline, kind, what)
                if not raw:
                    if self.body.until_close:
                        self.body.close()
                        return None
                    raise failure(FailureKind.BROKEN, f"{self.pool.provider.name} ended its answer too early")
            try:
                piece = self.body.feed(raw)
            except BadUpstream as error:
                raise failure(FailureKind.PROTOCOL, f"{self.pool.provider.name}: {error}") from None
            if piece:
                return piece
        return None

    def read_all(self, deadline: float, limit: int, kind: FailureKind = FailureKind.IDLE_TIMEOUT) -> bytes:
        """The whole body. Raises PROTOCOL above `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while (piece := self.payload(deadline, kind, "did not finish its answer in time")) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise failure(FailureKind.PROTOCOL, f"{self.pool.provider.name} sent more than {limit} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_buffered(self) -> bytes:
        """Raw bytes that were read but not decoded yet; the pump decodes them first."""
        data, self._data = self._data, b""
        return data

    def _wait(self, events: int, deadline: float, kind: FailureKind, what: str) -> None:
        fd = self.sock.fileno()
        if events == READ and tls.has_more(self.sock):
            return
        watch = self.watch
        short = True
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise failure(kind, f"{self.pool.provider.name} {what}", "timeout_error")
            if watch is None:
                mine, theirs = wait_for(fd, events, left)
            else:
                mine, theirs = wait_for(
                    fd, events, min(left, _SHORT_WAIT_S) if short else left, watch.fd, watch.events
                )
                if theirs:
                    watch.hangup(theirs)
            if mine & (events | BROKEN):
                return
            if short and watch is not None and not theirs:
                short = False
                watch.waiting()

    @property
    def held(self) -> bool:
        """Whether the connection is still this call's: neither given back nor closed."""
        return self._connection is not None

    def release(self) -> None:
        """The answer was read to its end: the connection goes back to the pool if it may be used again."""
        head = self.head
        reusable = (
            head is not None and head.keep_alive and self.body.done and not self.body.rest and not self._data
        )
        if reusable and self._connection is not None:
            connection, self._connection = self._connection, None
            self.pool.give(connection)
        else:
            self.close()

    def close(self) -> None:
        """Ends the exchange at once; the provider sees the connection close and stops generating."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):
            pass  # gone already
        connection.close()


def _short(error: BaseException) -> str:
    """An exception for people: its innermost reason, without object addresses."""
    cause = getattr(error, "reason", None)
    for each in (error, cause, *error.args):
        if isinstance(each, tls.UNTRUSTED):
            return f"its certificate is not trusted: {getattr(each, 'verify_message', each)}"
    reason = cause
    text = str(reason or error)
    if ": " in text and " object at 0x" in text:
        text = text.split(": ", 1)[1]
    return text[:200]
