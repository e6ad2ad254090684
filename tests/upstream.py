"""A scripted provider for contract tests: a threaded HTTP/1.1 server on 127.0.0.1 whose behaviour is a list of steps.

    with Upstream() as up:
        up.always("/a", ("status", 529, {}, {...}))          every request below /a
        up.script("/b", [("head",), ("event", {...}), ("stall", 5), ("cut", "rst")])     the next one below /b
        ...
        up.seen("/a")                                        what arrived, and when the client hung up

A request without a script gets a good answer of its own API. Steps of a script, in order:
    ("status", code[, headers[, body]])   a whole answer; body: dict, str or bytes
    ("answer"[, {"text", "tool", "model"}])   the good answer, stream or JSON as asked
    ("head"[, code[, headers]])           the head of a 200 event stream (or what is given)
    ("framing", "chunked"|"length"|"close"|"gzip")   of what follows; before the head; chunked by default
    ("sse", [event, ...][, delay_s])  ("event", {...})  ("bytes", b"...")
    ("raw", b"...")                       these very bytes, head and framing included
    ("stall", seconds)  ("gate", threading.Event)        both end at once when the client leaves
    ("drip", bytes, seconds)              these bytes one at a time, so many seconds apart
    ("cut", "rst"|"fin"|"chunk")          TCP reset | FIN where we are | FIN inside a chunk
The body ends in order after the last step. Every wait notices the client's close within milliseconds (POLLRDHUP).
"""

from __future__ import annotations

import gzip
import json
import select
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests import answers
from tests.http1 import Closed, read_request

Step = tuple[Any, ...]
MAX_SEEN = 20_000
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class PeerLeft(Exception):
    """The client closed its side while an answer was running."""


@dataclass
class Seen:
    """One request. Times are monotonic seconds; header names are lower-case."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    json: Any
    connection: int  # 1, 2 ...: which TCP connection
    nth: int  # which request on it
    gone_at: float | None = None  # when the client was seen to leave before the end of the answer
    answered: threading.Event = field(default_factory=threading.Event)  # the script has ended, either way


Script = list[Step] | Callable[[Seen], list[Step]]


class Upstream:
    """The server; use it as a context manager, or `start()` and `stop()`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._ledger: list[Seen] = []
        self._queues: dict[str, deque[list[Step]]] = {}
        self._always: dict[str, Script] = {}
        self._asides: dict[str, Script] = {}
        self._open: dict[socket.socket, int] = {}
        self.connections = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="upstream", daemon=True)

    def __enter__(self) -> Upstream:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> Upstream:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        with self._lock:
            open_now = list(self._open)
        for sock in open_now:
            _shut(sock)
        self._thread.join(2)

    # ------------------------------------------------------------------ what it does
    def script(self, prefix: str, *scripts: Sequence[Step] | Step) -> None:
        """Queues one script per request to come below `prefix`; a single step may stand for its list."""
        with self._lock:
            self._queues.setdefault(prefix, deque()).extend(_steps(s) for s in scripts)

    def always(self, prefix: str, script: Sequence[Step] | Step | Callable[[Seen], list[Step]]) -> None:
        """What every request below `prefix` gets once the queue is empty. A function gets the request."""
        with self._lock:
            self._always[prefix] = script if callable(script) else _steps(script)

    def aside(self, prefix: str, script: Sequence[Step] | Step | Callable[[Seen], list[Step]]) -> None:
        """The same for token counting and GET requests."""
        with self._lock:
            self._asides[prefix] = script if callable(script) else _steps(script)

    def reset(self) -> None:
        """Forgets scripts and ledger; connections stay."""
        with self._lock:
            self._queues.clear()
            self._always.clear()
            self._asides.clear()
            self._ledger.clear()

    # ------------------------------------------------------------------ what it saw
    def seen(self, prefix: str = "/") -> list[Seen]:
        """The requests below `prefix`, in order of arrival, without token counting and model lists."""
        with self._lock:
            return [s for s in self._ledger if _below(s.path, prefix) and s.method == "POST"]

    @property
    def ledger(self) -> list[Seen]:
        with self._lock:
            return list(self._ledger)

    def wait(self, prefix: str = "/", count: int = 1, timeout: float = 5.0) -> list[Seen]:
        """The requests below `prefix` once there are `count`. AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._arrived:
            while True:
                found = [s for s in self._ledger if _below(s.path, prefix) and s.method == "POST"]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"{len(found)} requests below {prefix} in {timeout} s, {count} expected"
                    )
                self._arrived.wait(left)

    # ------------------------------------------------------------------ connections
    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                number = self._open[sock] = self.connections
            threading.Thread(
                target=self._serve, args=(sock, number), name=f"upstream-{number}", daemon=True
            ).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        nth = 0
        buffer = bytearray()
        try:
            while not self._stopping.is_set():
                request = read_request(sock, buffer)
                if request is None:
                    return
                nth += 1
                method, path, headers, raw = request
                seen = Seen(time.monotonic(), method, path, headers, raw, _json(raw), number, nth)
                with self._arrived:
                    if len(self._ledger) < MAX_SEEN:
                        self._ledger.append(seen)
                    script = self._script_for(seen)
                    self._arrived.notify_all()
                reply = _Reply(sock, seen, self._stopping)
                try:
                    alive = reply.play(script(seen) if callable(script) else script)
                except (PeerLeft, OSError):
                    seen.gone_at = time.monotonic()
                    return
                finally:
                    seen.answered.set()
                if not alive or headers.get("connection", "").lower() == "close":
                    return
        except (OSError, ValueError, Closed):
            pass  # the client left inside a request, or sent what is no HTTP
        finally:
            with self._lock:
                self._open.pop(sock, None)
            sock.close()

    def _script_for(self, seen: Seen) -> Script:
        """Called under the lock. Token counting and GET have scripts of their own, so that they disturb nobody's."""
        aside = seen.method != "POST" or answers.dialect_of(seen.path).startswith("count:")
        queues, always = ({}, self._asides) if aside else (self._queues, self._always)
        for prefix in sorted(queues.keys() | always.keys(), key=len, reverse=True):
            if _below(seen.path, prefix):
                if queues.get(prefix):
                    return queues[prefix].popleft()
                if prefix in always:
                    return always[prefix]
        return [("answer",)]


class _Reply:
    """Plays the steps of one answer on one socket."""

    def __init__(self, sock: socket.socket, seen: Seen, stopping: threading.Event) -> None:
        self.sock, self.seen, self.stopping = sock, seen, stopping
        self.dialect = answers.dialect_of(seen.path)
        self.framing = "chunked"
        self.begun = False
        self.zip: Any = None

    def play(self, steps: list[Step]) -> bool:
        """True while the connection can take another request."""
        for n, (name, *args) in enumerate(steps):
            if name == "cut":
                self._cut(*args)
                return False
            if name == "head" and self.framing == "length":
                args = [*args, *([200, {}][len(args) :]), sum(map(self._size, steps[n + 1 :]))]
            getattr(self, f"_{name}")(*args)
        if self.begun and self.framing in ("chunked", "gzip"):
            if self.zip:
                self._chunk(self.zip.flush(zlib.Z_FINISH))
            self.sock.sendall(b"0\r\n\r\n")
        return self.framing != "close"

    def _framing(self, name: str) -> None:
        self.framing = name

    def _status(self, code: int, headers: dict[str, str] | None = None, body: Any = b"") -> None:
        data = (
            body
            if isinstance(body, bytes)
            else (body if isinstance(body, str) else json.dumps(body)).encode()
        )
        head = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        if self.framing == "gzip":
            data = gzip.compress(data)
            head |= {"content-encoding": "gzip", "content-length": str(len(data))}
        self.sock.sendall(_head(code, head) + data)

    def _answer(self, more: dict[str, Any] | None = None) -> None:
        body = self.seen.json if isinstance(self.seen.json, dict) else {}
        if self.seen.method != "POST":
            self._status(200, {}, _models(self.seen))
        elif self.dialect.startswith("count:"):
            n = max(1, len(self.seen.raw) // 4)
            self._status(200, {}, {"input_tokens": n, "totalTokens": n, "object": "response.input_tokens"})
        elif not self.dialect:
            self._status(404, {}, answers.error("anthropic", 404, f"nothing at {self.seen.path}"))
        else:
            fields = {"model": body.get("model", "m"), **(more or {})}
            if answers.wants_stream(self.seen.path, body):
                self._sse(answers.events(self.dialect, **fields))
            else:
                self._status(200, {}, answers.whole(self.dialect, **fields))

    def _head(
        self, code: int = 200, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        if self.framing == "length":
            fields["content-length"] = str(length or 0)
        elif self.framing in ("chunked", "gzip"):
            fields["transfer-encoding"] = "chunked"
        else:
            fields["connection"] = "close"
        if self.framing == "gzip":
            fields["content-encoding"] = "gzip"
            self.zip = zlib.compressobj(6, zlib.DEFLATED, 31)
        fields |= headers or {}
        self.begun = True
        self.sock.sendall(_head(code, fields))

    def _sse(self, events: Sequence[Any], delay: float = 0.0) -> None:
        for event in events:
            if delay:
                self._stall(delay)
            self._bytes(answers.frame(self.dialect, event))

    def _event(self, event: Any) -> None:
        self._sse([event])

    def _bytes(self, data: bytes) -> None:
        if not self.begun:
            self._head()
        if self.zip:
            data = self.zip.compress(data) + self.zip.flush(zlib.Z_SYNC_FLUSH)
        if self.framing in ("chunked", "gzip"):
            self._chunk(data)
        else:
            self.sock.sendall(data)

    def _raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _chunk(self, data: bytes) -> None:
        if data:
            self.sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def _stall(self, seconds: float) -> None:
        self._hold(time.monotonic() + seconds, None)

    def _gate(self, gate: threading.Event) -> None:
        self._hold(time.monotonic() + 30, gate)

    def _drip(self, data: bytes, seconds: float) -> None:
        for n in range(len(data)):
            self.sock.sendall(data[n : n + 1])
            self._stall(seconds)

    def _cut(self, how: str) -> None:
        if how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "chunk":
            self.sock.sendall(b"400\r\ndata: ")
        # "fin": the caller closes; in chunked framing the last chunk is missing

    def _hold(self, until: float, gate: threading.Event | None) -> None:
        poll = select.poll()
        poll.register(self.sock, _GONE)
        while (left := until - time.monotonic()) > 0:
            if (gate is not None and gate.is_set()) or self.stopping.is_set():
                return
            if poll.poll(min(left, 0.02) * 1000):
                raise PeerLeft

    def _size(self, step: Step) -> int:
        name, *args = step
        if name == "bytes":
            return len(args[0])
        items = args[0] if name == "sse" else args[:1] if name == "event" else ()
        return sum(len(answers.frame(self.dialect, e)) for e in items)


def _steps(script: Sequence[Step] | Step) -> list[Step]:
    return [script] if script and isinstance(script[0], str) else list(script)  # type: ignore[list-item]


def _below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] in "/?:")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _head(code: int, fields: dict[str, str]) -> bytes:
    lines = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    return f"HTTP/1.1 {code} Scripted\r\n{lines}\r\n".encode("latin-1")


def _models(seen: Seen) -> Any:
    if "v1beta" in seen.path:
        return {"models": [{"name": "models/gemini-x", "displayName": "gemini-x"}]}
    row = {"id": "gpt-x", "object": "model", "created": 1700000000, "owned_by": "upstream"}
    return {
        "object": "list",
        "data": [row | {"type": "model", "display_name": "x", "created_at": "2026-01-01T00:00:00Z"}],
    }


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
