"""Many connections in one thread: an HTTP/1.1 provider and clients on one asyncio loop, for scenarios that need
hundreds of them at once or tens of thousands in a row. Reads independently of ccm's own code.

    listener = Listener()                       its port is known before anything runs
    async with serve(listener, handle): ...     handle(asked, out) writes one answer; False ends the connection
    async with Line(port) as line: got = await line.post(body)
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.http1 import parse_sse

LIMIT = 1 << 20  # of one line or head
Event = dict[str, Any]


@dataclass(slots=True)
class Asked:
    """One request as the provider saw it."""

    path: str
    headers: dict[str, str]
    body: bytes
    fresh: bool  # the first one on its connection
    reader: asyncio.StreamReader

    async def left(self) -> None:
        """Returns when the client has closed its side."""
        while await self.reader.read(4096):
            pass


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[bool]]


class Listener:
    """A listening socket of 127.0.0.1."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port: int = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(listener: Listener, handle: Handler) -> AsyncIterator[None]:
    """Answers at the listener while the body runs."""
    running: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            fresh = True
            while (asked := await _request(reader, fresh)) is not None:
                fresh = False
                if not await handle(asked, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(connection, sock=listener.sock, limit=LIMIT)
    try:
        yield
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.sleep(0)


async def _request(reader: asyncio.StreamReader, fresh: bool) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, headers = _head(head)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split(" ")[1], headers, body, fresh, reader)


def _head(head: bytes) -> tuple[str, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    return lines[0], {name.strip().lower(): value.strip() for name, _, value in fields}


# ---------------------------------------------------------------------------------------------------- answers
def whole(body: bytes, status: int = 200, type: str = "application/json") -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status} Scripted\r\ncontent-type: {type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def stream_head(type: str = "text/event-stream") -> bytes:
    """The head of an answer in chunks."""
    return f"HTTP/1.1 200 Scripted\r\ncontent-type: {type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    """One chunk; b"" is the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(out: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    sock = out.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    out.transport.abort()


# ---------------------------------------------------------------------------------------------------- clients
@dataclass(slots=True)
class Got:
    """One answer. `ended` False: the connection broke inside it."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    ended: bool = True
    seconds: float = 0.0
    done_at: float = 0.0  # monotonic
    kept: bool = False  # the connection can be used again

    @property
    def events(self) -> list[Event]:
        """The data of a stream's events. AssertionError where the name of one is not its type."""
        out = []
        for name, data in parse_sse(self.body):
            event = json.loads(data)
            assert name == event.get("type"), f"event: {name!r} with data of type {event.get('type')!r}"
            out.append(event)
        return out


@dataclass
class Line:
    """One connection to ccm, made when it is needed and used again as long as ccm allows it."""

    base_url: str
    timeout: float = 60.0
    pieces: list[float] = field(default_factory=list)  # when each piece of the last answer came
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request makes another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def send(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends a POST /v1/messages without waiting for its answer."""
        where = urlsplit(self.base_url)
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                where.hostname, where.port, limit=LIMIT
            )
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: {where.netloc}\r\nx-api-key: ccm-proxy\r\n"
            f"anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n{lines}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)

    async def head(self) -> Got:
        """The head of the answer. Raises OSError or IncompleteReadError where there is none."""
        assert self._reader is not None
        while True:
            first, headers = _head(await self._reader.readuntil(b"\r\n\r\n"))
            status = int(first.split(" ")[1])
            if status >= 200:
                return Got(status, headers)

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> Got:
        """One request and its whole answer; on a kept connection that ccm has closed meanwhile, a new one. Raises
        OSError, IncompleteReadError or TimeoutError where there is no answer."""
        kept = self._writer is not None
        try:
            return await asyncio.wait_for(self._post(body, headers), self.timeout)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            if not kept:
                raise
        return await asyncio.wait_for(self._post(body, headers), self.timeout)

    async def _post(self, body: bytes, headers: dict[str, str] | None) -> Got:
        began = time.monotonic()
        await self.send(body, headers)
        got = await self.head()
        await self._body(got)
        got.done_at = time.monotonic()
        got.seconds = got.done_at - began
        got.kept = got.ended and got.headers.get("connection", "").lower() != "close"
        if not got.kept:
            self.close()
        return got

    async def _body(self, got: Got) -> None:
        assert self._reader is not None
        reader, parts = self._reader, []
        self.pieces.clear()
        try:
            if "chunked" in got.headers.get("transfer-encoding", ""):
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    parts.append((await reader.readexactly(size + 2))[:-2])
                    self.pieces.append(time.monotonic())
                await reader.readuntil(b"\r\n")
            elif "content-length" in got.headers:
                parts.append(await reader.readexactly(int(got.headers["content-length"])))
            else:
                parts.append(await reader.read(-1))
        except (OSError, asyncio.IncompleteReadError, ValueError):
            got.ended = False
        got.body = b"".join(parts)


def request(text: str, stream: bool = True, **more: Any) -> bytes:
    """A small Messages request."""
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": text}],
        **more,
    }
    return json.dumps(body | ({"stream": True} if stream else {})).encode()
