"""The answer to one request: whole (JSON) or a committed event stream. The only writer on a client's socket.

A worker writes whole answers and waits for the socket if it must. A committed stream never waits: what the client does
not take yet is buffered (`backlog`), and the pump stops reading from the provider until it has.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccm.errors import ClientGone, Refusal
from ccm.upstream.poller import BROKEN, HANGUP, WRITE, wait_for
from ccm.wire.headers import block

WRITE_LIMIT_S = 30.0
REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 417: "Expectation Failed", 421: "Misdirected Request", 422: "Unprocessable Content",
    429: "Too Many Requests", 431: "Request Header Fields Too Large", 499: "Client Closed Request",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 529: "Overloaded",
}  # fmt: skip


class Downstream:
    """One answer. `keep_alive` says whether the connection may serve another request after it."""

    __slots__ = (
        "_half_closed", "_out", "_relieve", "bytes_out", "chunked", "committed", "events", "fd", "head_only", "http11",
        "keep_alive", "keeps_body", "on_release", "sock",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        *,
        http11: bool,
        keep_alive: bool,
        head_only: bool,
        relieve: Callable[[], None],
        on_release: Callable[[bool], None],
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.events = HANGUP
        self.http11 = http11
        self.keep_alive = keep_alive
        self.head_only = head_only
        self.committed = False  # the status line is out: nothing can be undone
        self.chunked = False
        self.keeps_body = False  # the request is kept until the release: its memory is not free before
        self.bytes_out = 0
        self.on_release = on_release  # gives the connection back to the server; told whether it may live on
        self._relieve = relieve
        self._half_closed = False
        self._out = b""

    # ---- what a waiting call sees of the client (upstream.call.Watch)

    def hangup(self, events: int) -> None:
        """The client's side moved. A FIN may be a half-close that still wants its answer: an interim response shows
        which (a closed peer answers it with a reset). Raises ClientGone."""
        if events & BROKEN or not self.http11:
            raise ClientGone
        if not self._half_closed:
            self._half_closed = True
            self.events = 0  # the FIN stays visible for ever; from now on only a break counts
            try:
                self.sock.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            except OSError:
                raise ClientGone from None

    def waiting(self) -> None:
        """This request's worker will be busy waiting: another one is to mind the door."""
        self._relieve()

    def calling(self, call: object) -> None:
        """A call goes out for this client."""

    # ---- whole answers

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        type: str = "application/json",
    ) -> None:
        """The whole answer in one write. Raises ClientGone."""
        self.committed = True
        head = self._head(status, headers, f"content-type: {type}\r\ncontent-length: {len(body)}\r\n")
        self._send(head if self.head_only else head + body)

    def answer_json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """The whole answer from plain data."""
        self.answer(status, json.dumps(body, separators=(",", ":")).encode(), headers)

    def _head(self, status: int, headers: Mapping[str, str] | None, own: str) -> bytes:
        connection = "" if self.keep_alive and self.http11 else "connection: close\r\n"
        if self.keep_alive and not self.http11:
            connection = "connection: keep-alive\r\n"
        line = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\ndate: {_date()}\r\n{own}{connection}"
        return line.encode("latin-1") + (block(headers) if headers else b"") + b"\r\n"

    def _send(self, data: bytes) -> None:
        deadline = time.monotonic() + WRITE_LIMIT_S
        view = memoryview(data)
        try:
            while view:
                try:
                    sent = self.sock.send(view)
                    self.bytes_out += sent
                    view = view[sent:]
                except BlockingIOError:
                    self._relieve_or_leave()
                    mine, _ = wait_for(self.fd, WRITE, deadline - time.monotonic())
                    if not mine:
                        raise ClientGone from None
        except OSError:
            raise ClientGone from None

    def _relieve_or_leave(self) -> None:
        try:
            self._relieve()
        except Refusal:  # no thread for those who come meanwhile: they are more than one who reads slowly
            raise ClientGone from None

    # ---- streams

    def commit(self, headers: Mapping[str, str], first: bytes, type: str, last: bool = False) -> None:
        """200 and the first events (all of them: `last`) in one write. From here on a failure can only be one
        `event: error`."""
        self.committed = True
        self.chunked = self.http11
        framing = "transfer-encoding: chunked\r\n" if self.chunked else ""
        if not self.chunked:
            self.keep_alive = False
        own = f"content-type: {type}\r\ncache-control: no-cache\r\n{framing}"
        head = self._head(200, headers, own)
        if self.head_only:
            self._push(head)
        else:
            end = b"0\r\n\r\n" if last and self.chunked else b""
            self._push(head + self._framed(first) + end)

    def push(self, data: bytes) -> None:
        """More events. Never waits; raises ClientGone when the client has left."""
        if data and not self.head_only:
            self._push(self._framed(data))

    def finish(self, last: bytes) -> None:
        """The last events and the end of the stream, in one write."""
        if self.head_only:
            return
        self._push(self._framed(last) + b"0\r\n\r\n" if self.chunked else last)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked and data else data

    def _push(self, data: bytes) -> None:
        if self._out:
            self._out += data
        else:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise ClientGone from None
            self.bytes_out += sent
            if sent < len(data):
                self._out = data[sent:]

    @property
    def backlog(self) -> int:
        """Bytes the client has not taken yet."""
        return len(self._out)

    def flush(self) -> bool:
        """Writes what the client takes now; True when nothing is left."""
        if self._out:
            data, self._out = self._out, b""
            self._push(data)
        return not self._out

    def release(self) -> None:
        """The connection goes back to the server (or is closed, after anything that broke its framing)."""
        self.on_release(self.keep_alive and not self._out and not self._half_closed)

    def abandon(self) -> None:
        """The connection cannot be used any more."""
        self.keep_alive = False
        self.on_release(False)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_date_cache: tuple[int, str] = (0, "")


def _date() -> str:
    """IMF-fixdate of now, made once a second. A label for people: nothing here measures with the wall clock."""
    global _date_cache  # noqa: PLW0603 - one tuple, swapped whole
    now = int(time.time())
    second, text = _date_cache
    if second != now:
        t = time.gmtime(now)
        text = (
            f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
            f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
        )
        _date_cache = (now, text)
    return text
