"""HTTP/1.1 and SSE for the tests themselves: read independently of ccm's own code, so that the two can disagree.

`read_request` serves the scripted upstream; `Client` is a client that shows everything (raw bytes, times, how it ended).
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_BODY = 64 * 1024 * 1024
_numbers = itertools.count(1)


# ------------------------------------------------------------------------------------------------ server side
def read_request(sock: socket.socket, buffer: bytearray) -> tuple[str, str, dict[str, str], bytes] | None:
    """(method, path, headers, body), or None when the peer closed between requests."""
    head = _head(sock, buffer)
    if head is None:
        return None
    first, headers = head
    method, path, _ = first.split(" ", 2)
    if headers.get("expect", "").lower() == "100-continue":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return method, path, headers, b"".join(_chunks(sock, buffer))
    return method, path, headers, _take(sock, buffer, int(headers.get("content-length") or 0))


# ------------------------------------------------------------------------------------------------ client side
@dataclass
class Reply:
    """One answer. `ended` is False when the connection broke before the body's announced end. Times in seconds."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    ended: bool = True
    head_s: float = 0.0  # request sent -> head read
    total_s: float = 0.0
    at: list[tuple[float, bytes]] = field(default_factory=list)  # (since the request, piece of the body)
    interim: list[int] = field(default_factory=list)  # 1xx statuses that came before

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The data of a stream's events. AssertionError where `event:` and the data's type differ (CLIENT 0.1)."""
        out = []
        for name, data in parse_sse(self.body):
            event = json.loads(data)
            assert name == event.get("type"), f"event: {name!r} with data of type {event.get('type')!r}"
            out.append(event)
        return out

    @property
    def text(self) -> str:
        """The text of the answer, stream or JSON."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            deltas = [e["delta"] for e in self.events if e["type"] == "content_block_delta"]
            return "".join(d["text"] for d in deltas if d["type"] == "text_delta")
        return "".join(b["text"] for b in self.json()["content"] if b["type"] == "text")

    @property
    def error(self) -> dict[str, Any]:
        """The `error` object of an error answer or of a stream's one error event."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            errors = [e["error"] for e in self.events if e["type"] == "error"]
            assert len(errors) == 1, f"{len(errors)} error events"
            return errors[0]
        value = self.json()
        assert value["type"] == "error", value
        return value["error"]


class Client:
    """One TCP connection to ccm; `post` may be called again and again. `host_header` may be made wrong on purpose."""

    def __init__(self, base_url: str, timeout: float = 20.0, token: str = "ccm-proxy") -> None:
        parts = urlsplit(base_url)
        assert parts.hostname and parts.port
        self.host_header = f"{parts.hostname}:{parts.port}"
        self.token = token
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def head(self, method: str, path: str, headers: dict[str, str] | None = None) -> bytes:
        """A request head as bytes; `headers` values of "" leave a default out."""
        fields = {"host": self.host_header, "anthropic-version": "2023-06-01"}
        if self.token:
            fields["x-api-key"] = self.token
        fields |= {k.lower(): v for k, v in (headers or {}).items()}
        lines = "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v)
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """Sends a whole request in one write. `body`: dict (as JSON), bytes or None."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = dict(headers or {})
        if body is not None:
            fields = {"content-type": "application/json", "content-length": str(len(raw)), **fields}
        self.sock.sendall(self.head(method, path, fields) + raw)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """Sends and reads to the end."""
        began = time.monotonic()
        self.send(method, path, body, headers)
        return self.read(began, method)

    def post(self, body: Any, path: str = "/v1/messages", headers: dict[str, str] | None = None) -> Reply:
        return self.call("POST", path, body, headers)

    def begin(self, began: float | None = None) -> Reply:
        """Reads the head of the answer only."""
        began = time.monotonic() if began is None else began
        interim = []
        while True:
            got = _head(self.sock, self.buffer)
            if got is None:
                raise ConnectionError("closed before an answer")
            first, headers = got
            status = int(first.split(" ")[1])
            if status >= 200:
                break
            interim.append(status)
        return Reply(status, headers, head_s=time.monotonic() - began, interim=interim)

    def pieces(self, reply: Reply, began: float, method: str = "POST") -> Iterator[bytes]:
        """The rest of the answer as it arrives; fills `reply`."""
        headers = reply.headers
        try:
            if method == "HEAD" or reply.status in (204, 304):
                source: Iterator[bytes] = iter(())
            elif "chunked" in headers.get("transfer-encoding", ""):
                source = _chunks(self.sock, self.buffer)
            elif "content-length" in headers:
                source = iter((_take(self.sock, self.buffer, int(headers["content-length"])),))
            else:
                source = self._rest()
            for piece in source:
                reply.at.append((time.monotonic() - began, piece))
                reply.body += piece
                yield piece
        except (ConnectionError, Closed):
            reply.ended = False
        reply.total_s = time.monotonic() - began

    def read(self, began: float | None = None, method: str = "POST") -> Reply:
        """One whole answer."""
        began = time.monotonic() if began is None else began
        reply = self.begin(began)
        for _ in self.pieces(reply, began, method):
            pass
        return reply

    def closed(self, within: float = 2.0) -> bool:
        """Whether ccm closes the connection within so many seconds (bytes still coming are dropped)."""
        self.sock.settimeout(within)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def _rest(self) -> Iterator[bytes]:
        if self.buffer:
            yield bytes(self.buffer)
            self.buffer.clear()
        while data := self.sock.recv(65536):
            yield data


def post(base_url: str, body: Any, headers: dict[str, str] | None = None, **options: Any) -> Reply:
    """One POST /v1/messages on a connection of its own."""
    path = options.pop("path", "/v1/messages")
    with Client(base_url, **options) as client:
        return client.post(body, path, headers)


def parse_sse(raw: bytes) -> list[tuple[str, str]]:
    """(event name, data) of each event of a stream; comments are dropped."""
    out = []
    for block in re.split(r"\n\n", raw.decode("utf-8").replace("\r\n", "\n")):
        name, data = "", []
        for line in block.split("\n"):
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
        if data:
            out.append((name, "\n".join(data)))
    return out


def message(text: str = "", stream: bool = True, **fields: Any) -> dict[str, Any]:
    """A small Messages request; without `text` unlike any other, so that ccm sees no retry of an earlier one in it."""
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": text or f"Say something, for the {next(_numbers)}th time."}],
        **fields,
    }
    return body | {"stream": True} if stream else body


# ------------------------------------------------------------------------------------------------ both
class Closed(Exception):
    """The peer closed inside a message."""


def _head(sock: socket.socket, buffer: bytearray) -> tuple[str, dict[str, str]] | None:
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not _fill(sock, buffer):
            return None
    lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    del buffer[: end + 4]
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return lines[0], headers


def _chunks(sock: socket.socket, buffer: bytearray) -> Iterator[bytes]:
    while size := int(_line(sock, buffer).split(b";")[0], 16):
        yield _take(sock, buffer, size)
        _line(sock, buffer)
    while _line(sock, buffer):
        pass


def _line(sock: socket.socket, buffer: bytearray) -> bytes:
    while (end := buffer.find(b"\r\n")) < 0:
        if not _fill(sock, buffer):
            raise Closed
    line = bytes(buffer[:end])
    del buffer[: end + 2]
    return line


def _take(sock: socket.socket, buffer: bytearray, size: int) -> bytes:
    while len(buffer) < size:
        if not _fill(sock, buffer):
            raise Closed
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def _fill(sock: socket.socket, buffer: bytearray) -> bool:
    data = sock.recv(65536)
    buffer += data
    if len(buffer) > MAX_BODY:
        raise Closed
    return bool(data)
