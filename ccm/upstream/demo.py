"""The demo upstream: a scripted provider on 127.0.0.1, so that a newcomer sees ccm work without a key.

It speaks Anthropic Messages under `/anthropic` and OpenAI Chat Completions under `/openai/v1`, stream and JSON. The
answer is fixed text about the request itself; no model is asked and nothing is spent. Paths under `/anthropic` are the
flaky provider: every third question fails (529, then 500, then an error as the first event of a 200), and so does its
immediate retry, which makes failover visible; `/openai/v1` never fails. It must never reach for the network.
"""

from __future__ import annotations

import hashlib
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast

from ccm.messages.blocks import BlockWriter
from ccm.messages.events import error_event, render
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage

WORD_S = 0.02  # between two words of a stream
FAIL_EVERY = 3  # every third question to the flaky provider fails
RETRY_WINDOW_S = 3.0  # the same body within this time is a retry of the failed question, and fails as well
MAX_BODY_BYTES = 32 * 1024 * 1024
MODELS = ("claude-demo-opus", "claude-demo-sonnet", "claude-demo-haiku")
FAULTS = ("529", "500", "event")


class DemoProvider(NamedTuple):
    """A row of the demo configuration: `path` is to be put behind `DemoUpstream.start()`'s base URL."""

    name: str
    dialect: str
    path: str
    priority: int


PROVIDERS = (
    DemoProvider("demo-flaky", "anthropic", "/anthropic", 1),
    DemoProvider("demo-steady", "openai_chat", "/openai/v1", 2),
)


class DemoUpstream:
    """The server. `port` 0 takes a free one; `word_s` is the pause between words of a stream, in seconds."""

    def __init__(self, port: int = 0, word_s: float = WORD_S, steady: bool = False) -> None:
        """`steady`: nothing fails, for `ccm test --demo`."""
        self._port = port
        self._word_s = word_s
        self._steady = steady
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Opens the port and returns the base URL, `http://127.0.0.1:<port>`. Raises OSError if the port is taken."""
        server = _Server(self._port, self._word_s, self._steady)
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="ccm-demo-upstream", daemon=True
        )
        self._thread.start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    def stop(self) -> None:
        """Ends running answers and closes the port; a second call does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        server.stopping.set()
        server.shutdown()
        server.server_close()
        if self._thread is not None:
            self._thread.join(5)


class FaultPlan:
    """Which questions to the flaky provider fail, and how. Pure but for its lock; the clock is an argument."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._failed = 0
        self._last = (b"", 0.0, "")  # digest of the body that failed last, when, and how

    def decide(self, body: bytes, now: float) -> str:
        """One of FAULTS, or "" for a good answer. `now` is monotonic seconds."""
        digest = hashlib.sha256(body).digest()
        with self._lock:
            last, at, fault = self._last
            if digest == last and now - at < RETRY_WINDOW_S:
                return fault
            self._asked += 1
            if self._asked % FAIL_EVERY:
                return ""
            fault = FAULTS[self._failed % len(FAULTS)]
            self._failed += 1
            self._last = (digest, now, fault)
            return fault


class Answer(NamedTuple):
    """What the demo says to one request, before it has the shape of a dialect."""

    id: str
    model: str
    words: tuple[str, ...]  # joined by "" they are the text
    input_tokens: int
    output_tokens: int
    stop: str  # end_turn | max_tokens | tool_use
    call: tuple[str, str] = ("", "")  # the name of the tool it calls ("" none), its arguments as JSON


def compose(body: dict[str, Any], size: int, id: str) -> Answer:
    """The friendly answer to a request of either dialect. `size` is its length in bytes, the base of its usage."""
    model = str(body.get("model") or "(no model)")
    tools = len(_list(body.get("tools")))
    turns = len(_list(body.get("messages")))
    question = " ".join(_last_user_text(body).split())
    if len(question) > 160:
        question = question[:157] + "..."
    text = (
        f"Hello from ccm's demo provider. This answer is scripted: no model was asked and nothing was spent.\n\n"
        f"You asked for the model `{model}` with {turns} message{_s(turns)} and {tools} tool{_s(tools)}."
        + (f" Your last words were: “{question}”" if question else "")
        + "\n\nAsk a few times and watch `ccmctl status`: the first demo provider fails now and then, "
        "ccm moves the request to the second one before you notice, and counts tokens and time for both. "
        "To use a real provider, run `ccm-quickstart`."
    )
    words = tuple(_words(text))
    if call := _wanted_call(body, question):
        words = tuple(_words("The one tool that was offered was asked for by name, so it is called."))
        return Answer(id, model, words, max(1, size // 4), _tokens(words), "tool_use", call)
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    stop = "end_turn"
    if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < _tokens(words):
        words, stop = words[: max(1, limit * 3 // 4)], "max_tokens"
    return Answer(id, model, words, max(1, size // 4), _tokens(words), stop)


def anthropic_frames(answer: Answer) -> Iterator[bytes]:
    """The answer as SSE frames of the Messages API, one write each."""
    for event in _anthropic_events(answer):
        yield render(event)


def anthropic_message(answer: Answer) -> dict[str, Any]:
    """The answer as one message."""
    return fold(_anthropic_events(answer))


def chat_frames(answer: Answer, with_usage: bool) -> Iterator[bytes]:
    """The answer as chunks of Chat Completions; `with_usage` is the client's stream_options.include_usage."""
    base = _chat_base(answer, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _data(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for word in answer.words:
        yield chunk({"content": word})
    if answer.call[0]:
        yield chunk({"tool_calls": [{"index": 0, **_chat_call(answer)}]})
    yield chunk({}, _CHAT_STOP[answer.stop])
    if with_usage:
        yield _data(base | {"choices": [], "usage": _chat_usage(answer)})
    yield b"data: [DONE]\n\n"


def chat_message(answer: Answer) -> dict[str, Any]:
    """The answer as one chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.words)}
    if answer.call[0]:
        message["tool_calls"] = [_chat_call(answer)]
    choice = {"index": 0, "message": message, "finish_reason": _CHAT_STOP[answer.stop]}
    return _chat_base(answer, "chat.completion") | {"choices": [choice], "usage": _chat_usage(answer)}


_CHAT_STOP = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def _anthropic_events(answer: Answer) -> Iterator[dict[str, Any]]:
    writer = BlockWriter(f"msg_{answer.id}", answer.model, Usage(input=answer.input_tokens, output=1))
    for word in answer.words:
        writer.text(word)
        yield from writer.take()
    name, arguments = answer.call
    if name:
        writer.tool(0, f"toolu_{answer.id}", name)
        writer.tool_json(0, arguments)
        writer.tool_end(0)
    writer.usage.output = answer.output_tokens
    writer.finish(answer.stop)
    yield from writer.take()


def _wanted_call(body: dict[str, Any], question: str) -> tuple[str, str] | None:
    """The call of the one tool offered, where the question names it: (name, arguments made of its schema)."""
    offered = _list(body.get("tools"))
    tool = offered[0] if len(offered) == 1 and isinstance(offered[0], dict) else {}
    tool = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name, schema = tool.get("name"), tool.get("input_schema") or tool.get("parameters")
    if not isinstance(name, str) or not name or name not in question or not isinstance(schema, dict):
        return None
    properties = schema.get("properties")
    given = {
        key: _SAMPLES.get(str(value.get("type")), "demo")
        for key, value in (properties if isinstance(properties, dict) else {}).items()
        if isinstance(value, dict)
    }
    return name, json.dumps(given)


_SAMPLES: dict[str, Any] = {
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def _chat_call(answer: Answer) -> dict[str, Any]:
    name, arguments = answer.call
    return {
        "id": f"call_{answer.id}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _chat_base(answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": int(time.time()), "model": answer.model}


def _chat_usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _s(n: int) -> str:
    return "" if n == 1 else "s"


def _words(text: str) -> Iterator[str]:
    start = 0
    for n, character in enumerate(text):
        if character == " ":
            yield text[start : n + 1]
            start = n + 1
    yield text[start:]


def _tokens(words: tuple[str, ...]) -> int:
    return max(1, len(words) * 4 // 3)  # about three words to four tokens, as English goes


def _last_user_text(body: dict[str, Any]) -> str:
    for message in reversed(_list(body.get("messages"))):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        blocks = [{"text": content}] if isinstance(content, str) else _list(content)
        for block in reversed(blocks):
            text = block.get("text") if isinstance(block, dict) else None
            if isinstance(text, str) and text.strip() and not text.lstrip().startswith("<system-reminder>"):
                return text
    return ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a handler may wait on an idle connection; daemon threads end with the process
    request_queue_size = 64

    def __init__(self, port: int, word_s: float, steady: bool) -> None:
        self.stopping = threading.Event()
        self.steady = steady
        self.plan = FaultPlan()
        self.word_s = word_s
        self._lock = threading.Lock()
        self._made = 0
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own would ask the resolver for our name
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def next_id(self) -> str:
        with self._lock:
            self._made += 1
            return f"demo{int(time.time()):x}{self._made:06x}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news; nothing of the demo belongs on the user's terminal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ccm-demo"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = 75.0  # an idle kept-alive connection

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: ccm's own log tells the story."""

    def do_GET(self) -> None:
        """The model lists, each in the shape of its dialect."""
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/anthropic/v1/models":
            rows = [
                {"type": "model", "id": m, "display_name": m, "created_at": "2026-01-01T00:00:00Z"}
                for m in MODELS
            ]
            self._json(200, {"data": rows, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
        elif path == "/openai/v1/models":
            models = [
                {"id": m, "object": "model", "created": 1767225600, "owned_by": "ccm-demo"} for m in MODELS
            ]
            self._json(200, {"object": "list", "data": models})
        else:
            self._refuse(404, "not_found_error", f"The demo has nothing at {path}")

    def do_POST(self) -> None:
        """The two message endpoints and count_tokens."""
        length = self.headers.get("Content-Length") or ""
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._refuse(411, "invalid_request_error", "The demo wants a Content-Length of at most 32 MB")
            return
        raw = self.rfile.read(int(length))
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._refuse(400, "invalid_request_error", "The request body is not a JSON object")
            return
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/anthropic/v1/messages":
            self._anthropic(body, raw)
        elif path == "/anthropic/v1/messages/count_tokens":
            self._json(200, {"input_tokens": max(1, len(raw) // 4)})
        elif path == "/openai/v1/chat/completions":
            answer = compose(body, len(raw), self._demo.next_id())
            options = body.get("stream_options")
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            if body.get("stream"):
                self._stream(chat_frames(answer, usage))
            else:
                self._json(200, chat_message(answer))
        else:
            self._refuse(404, "not_found_error", f"The demo has nothing at {path}")

    @property
    def _demo(self) -> _Server:
        return cast(_Server, self.server)

    def _anthropic(self, body: dict[str, Any], raw: bytes) -> None:
        fault = "" if self._demo.steady else self._demo.plan.decide(raw, time.monotonic())
        error = error_event("overloaded_error", "The demo provider is pretending to be overloaded")
        if fault == "500":
            self._refuse(500, "api_error", "The demo provider is pretending to have crashed")
        elif fault == "529" or (fault == "event" and not body.get("stream")):
            self._json(529, error)
        elif fault == "event":
            self._stream(iter((render(error),)))
        else:
            answer = compose(body, len(raw), self._demo.next_id())
            if body.get("stream"):
                self._stream(anthropic_frames(answer))
            else:
                self._json(200, anthropic_message(answer))

    def _refuse(self, status: int, type: str, message: str) -> None:
        self._json(status, error_event(type, message))

    def _json(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self._head(status, "application/json", f"Content-Length: {len(data)}", data)

    def _stream(self, frames: Iterator[bytes]) -> None:
        self._head(200, "text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
        for frame in frames:
            if self._demo.stopping.wait(self._demo.word_s):
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, content_type: str, framing: str, body: bytes = b"") -> None:
        # One write for head and body: two would wait for the peer's delayed acknowledgement.
        close = "Connection: close\r\n" if self.close_connection else ""
        head = (
            f"HTTP/1.1 {status} {self.responses.get(status, ('Overloaded',))[0]}\r\nContent-Type: {content_type}\r\n"
            f"{framing}\r\nrequest-id: req_{self._demo.next_id()}\r\n{close}\r\n"
        )
        self.wfile.write(head.encode("ascii") + body)
