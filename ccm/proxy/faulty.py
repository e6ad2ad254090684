"""A call that meets a drilled fault: everything around the fault is the real thing.

The fault is made of what a provider's connection can do: answer bytes on a socket, silence, a broken connection. So
deadlines, the client's watch, the classification of the failure and what health and breaker learn of it are exactly
those of a provider that really fails. Nothing of it is kept for another request: its connection is never pooled.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from ccm.errors import UpstreamError
from ccm.faults import Fault
from ccm.model import FailureKind
from ccm.upstream.call import Call, Watch, failure
from ccm.upstream.poller import READ
from ccm.upstream.sessions import Pool
from ccm.wire import http1
from ccm.wire.inflate import Inflated

GARBAGE = b'data: {"drill": \x00\xff\xfe} this is no answer\n\n'
_EVENT_END = re.compile(rb"\n\r?\n|\r\r")
_PRELUDE = 4  # the length that begins a frame of AWS's event stream
_REASONS = {
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    529: "Overloaded",
}
_TYPES = {429: "rate_limit_error", 500: "api_error", 503: "api_error", 529: "overloaded_error"}
_GOOGLE = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 529: "UNAVAILABLE"}
_AWS = {
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
    529: "ModelNotReadyException",
}


def answer(dialect: str, status: int) -> bytes:
    """A whole HTTP answer with an error as providers of this dialect write it."""
    text = f"drill: a {status} made by ccm"
    headers: dict[str, str] = {}
    body: dict[str, Any] = {"error": {"message": text, "type": _TYPES[status], "code": str(status)}}
    if dialect == "anthropic":
        body = {"type": "error", "error": {"type": _TYPES[status], "message": text}}
    elif dialect == "gemini":
        body = {"error": {"code": status, "message": text, "status": _GOOGLE[status]}}
    elif dialect == "bedrock":
        body, headers = {"message": text}, {"x-amzn-errortype": _AWS[status]}
    data = json.dumps(body).encode()
    headers |= {"content-type": "application/json", "content-length": str(len(data)), "connection": "close"}
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{fields}\r\n".encode("latin-1") + data


class FaultyCall(Call):
    """The call of one attempt that meets the fault. `after` and `delay_s` as in `ccm.faults.Fault`."""

    __slots__ = ("_after", "_delay_s", "_fault", "_peer", "_played")

    def __init__(self, pool: Pool, watch: Watch | None, fault: Fault, after: int, delay_s: float) -> None:
        super().__init__(pool, watch)
        self._fault = fault
        self._after = after
        self._delay_s = delay_s
        self._played = bool(fault.status) or (
            fault.name == "hang" and after == 0
        )  # the provider is not called
        self._peer: socket.socket | None = None

    def send(
        self, path: str, headers: Mapping[str, str], body: bytes, deadline: float, method: str = "POST"
    ) -> None:
        """As a real call; its body carries the fault from here on."""
        super().send(path, headers, body, deadline, method)
        if self._fault.after is not None and not self._played:
            self.body = Spoiled(self, self.body, self._fault.name, self._after)  # type: ignore[assignment]

    def _open(self) -> None:
        if self._fault.name == "refuse":
            pool = self.pool
            raise failure(
                FailureKind.CONNECT,
                f"cannot reach {pool.provider.name} ({pool.authority}): Connection refused (drill)",
            )
        if not self._played:
            super()._open()
            return
        self.sock, self._peer = socket.socketpair()
        self.sock.setblocking(False)
        if self._fault.status:
            self._peer.sendall(answer(self.pool.provider.dialect, self._fault.status))
        self.fresh = True
        self._data = b""

    def _write(self, head: bytes, body: bytes, deadline: float) -> None:
        if not self._played:
            super()._write(head, body, deadline)

    def payload(self, deadline: float, kind: FailureKind, what: str) -> bytes | None:
        """The next piece; the first one comes late where that is the fault."""
        if self._delay_s:
            delay_s, self._delay_s = self._delay_s, 0.0
            self._pause(time.monotonic() + delay_s, deadline, kind, what)
        return super().payload(deadline, kind, what)

    def _pause(self, until: float, deadline: float, kind: FailureKind, what: str) -> None:
        """Waits at a silent socket, as it would wait for a silent provider."""
        real = self.sock
        silent, peer = socket.socketpair()
        self.sock = silent
        try:
            self._wait(READ, min(until, deadline), kind, what)
        except UpstreamError:
            if until > deadline:
                raise
        finally:
            self.sock = real
            silent.close()
            peer.close()

    def fall_silent(self) -> None:
        """Puts a silent socket in the connection's place, under the same descriptor: whoever waits there waits in
        vain. The provider sees its connection close and stops generating."""
        silent, self._peer = socket.socketpair()
        silent.setblocking(False)
        os.dup2(silent.fileno(), self.sock.fileno(), inheritable=False)
        silent.close()

    def break_off(self) -> None:
        """Ends the connection: what is read from now on is its end."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the provider was faster

    def release(self) -> None:
        """Nothing that met a fault is used again."""
        self.close()

    def close(self) -> None:
        """Ends the exchange, and what played the provider."""
        super().close()
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()
            if self._played:
                self.sock.close()


_Body = http1.Chunks | http1.Sized | http1.UntilClose | Inflated


class Spoiled:
    """A body decoder that passes so many events and then strikes: cut, garbage or hang."""

    def __init__(self, call: FaultyCall, inner: _Body, fault: str, after: int) -> None:
        self._call = call
        self._inner = inner
        self._fault = fault
        self._events = _Events(call.head.headers.get("content-type", "") if call.head else "", after)
        self._struck = False

    @property
    def done(self) -> bool:
        """A body that was cut, or has fallen silent, never comes to its end."""
        return self._inner.done and not (self._struck and self._fault != "garbage")

    @property
    def until_close(self) -> bool:
        return self._inner.until_close and not self._struck

    @property
    def rest(self) -> bytes:
        return self._inner.rest

    def close(self) -> None:
        self._inner.close()

    def feed(self, data: bytes) -> bytes:
        """The payload as far as the provider may still send it."""
        payload = self._inner.feed(data)
        if self._struck:
            return b""
        at = self._events.end(payload)
        if at is None:
            return payload
        self._struck = True
        if self._fault == "garbage":
            return payload[:at] + GARBAGE
        if self._fault == "cut":
            self._call.break_off()
        else:
            self._call.fall_silent()
        return payload[:at]


class _Events:
    """Where the n-th event of a body ends: by blank lines, by AWS's frame lengths, or halfway where there are none."""

    def __init__(self, content_type: str, after: int) -> None:
        self._left = after
        self._binary = "eventstream" in content_type
        self._whole = "json" in content_type
        self._held = b""  # of SSE the last two bytes, of AWS what belongs to an unfinished prelude
        self._skip = 0  # bytes of an AWS frame that are still to come

    def end(self, payload: bytes) -> int | None:
        """The offset in this piece behind the last event that may pass; None: not in this piece."""
        if not payload:
            return None
        if self._left <= 0:
            return 0
        if self._whole:
            return len(payload) // 2
        return self._frames(payload) if self._binary else self._lines(payload)

    def _lines(self, payload: bytes) -> int | None:
        held = len(self._held)
        data = self._held + payload
        for match in _EVENT_END.finditer(data):
            if match.end() > held:
                self._left -= 1
                if self._left == 0:
                    return match.end() - held
        self._held = data[-2:]
        return None

    def _frames(self, payload: bytes) -> int | None:
        at, size = 0, len(payload)
        while at < size:
            if self._skip:
                take = min(self._skip, size - at)
                self._skip -= take
                at += take
                if self._skip == 0:
                    self._left -= 1
                    if self._left == 0:
                        return at
                continue
            take = min(_PRELUDE - len(self._held), size - at)
            self._held += payload[at : at + take]
            at += take
            if len(self._held) == _PRELUDE:
                self._skip = max(1, int.from_bytes(self._held, "big") - _PRELUDE)
                self._held = b""
        return None
