"""What strangers write costs no time and runs nothing: patterns over long input, and what the source may not contain."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ccm.errors import CcmError
from ccm.model import ProviderError
from ccm.observe.redact import Redactor
from ccm.proxy import parse
from ccm.proxy.engine import new_id
from ccm.routing import cooldown, failures, tags
from ccm.routing.classify import Ask
from ccm.server import guard, routes
from ccm.wire import http1, sse
from ccm.wire.headers import safe_value

CCM = Path(__file__).resolve().parents[2] / "ccm"
LONG = 64 * 1024
LIMIT_S = 0.3  # of CPU; a pattern that backtracks needs minutes

PIECES = (
    "a", " ", "\t ", "\r\n", "\n", "\\", '"', '\\"', "{", "[", ",", ":", "/", "//", "..", "%2e", "=", "-", "sk-", "sk-ant-",
    "Bearer ", "eyJ", "eyJhbGci.", "0", "9.", "1h", "x: ", '"model":"', '"stream":', "<", "@@", "@ccm:", "data:", ": ",
    "/p/", "/v1", "session_", '"user_id"', '{"type":"text"', "\\u006d", "A=", "http://", "é", "\u2028",
)  # fmt: skip


def head_of(text: str) -> bytes:
    return b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nX-Y: " + text.encode()[:30_000] + b"\r\n\r\n"


def ask_of(text: str) -> Ask:
    body = {
        "model": text[:200] or "m",
        "messages": [{"role": "user", "content": text}],
        "metadata": {"user_id": text},
    }
    return Ask("m", True, {"x-session-id": text}, len(text), "", body=lambda: body, raw=text.encode())


def everything_of(ask: Ask) -> None:
    ask.session()
    ask.input_tokens()
    ask.tagged()
    ask.request_class()


def judged(text: str, status: int) -> None:
    headers = {"retry-after": text, "x-ratelimit-reset-tokens": text, "x-ratelimit-remaining-tokens": "0"}
    error = ProviderError(status, "api_error", text, code=text, headers=headers, body=text.encode())
    failures.classify(error, now_wall=1e9)
    cooldown.wait_asked(headers, error.body, 1e9, text)


READERS: dict[str, Callable[[str], object]] = {
    "peek": lambda text: parse.peek(b'{"model":"m",' + text.encode()),
    "peek-model": lambda text: parse.peek(b'{"model":"' + text.encode()),
    "json": lambda text: parse.parse(text.encode()),
    "head": lambda text: http1.parse_request_head(head_of(text)),
    "head-line": lambda text: http1.parse_request_head(text.encode()[:30_000] + b"\r\n\r\n"),
    "head-end": lambda text: http1.find_head_end(text.encode()),
    "answer-head": lambda text: http1.parse_response_head(b"HTTP/1.1 200 OK\r\nx: " + text.encode() + b"\r\n\r\n"),
    "chunks": lambda text: http1.Chunks().feed(text.encode()),
    "sse": lambda text: sse.Framer().feed(text.encode()),
    "path": lambda text: routes.find("/" + text),
    "path-in-a-prefix": lambda text: routes.find("/p/a/model/" + text),
    "host": lambda text: guard.check_host({"host": text}, "/", ("127.0.0.1", 1), ()),
    "browser": lambda text: guard.check_browser({"origin": text, "sec-fetch-site": text}),
    "type": lambda text: guard.check_body({"content-type": text}),
    "redactor": lambda text: Redactor().clean(text),
    "wait": cooldown.parse_duration,
    "failure": lambda text: judged(text, 400 if text[0] == '"' else 429),
    "ask": lambda text: everything_of(ask_of(text)),
    "tags": lambda text: tags.strip_tags({"system": text, "messages": [{"role": "user", "content": text}]}),
    "header-value": safe_value,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_long_input_takes_no_time(name: str) -> None:
    for piece in PIECES:
        text = (piece * (LONG // len(piece) + 1))[:LONG]
        for tried in (text + "!", '"' + text):
            began = time.thread_time()
            try:
                READERS[name](tried)
            except (CcmError, ValueError):
                pass  # refused: that is an answer
            assert time.thread_time() - began < LIMIT_S, f"{name} on {piece!r}"


RUNS = re.compile(
    r"(?<![\w.])(eval|exec|__import__)\(|^\s*(?:from|import) (pickle|marshal|shelve|yaml|dill)\b", re.M
)
GUESSES = re.compile(r"^\s*(?:from|import) random\b", re.M)


def sources() -> list[tuple[str, str]]:
    return [(path.relative_to(CCM).as_posix(), path.read_text()) for path in sorted(CCM.rglob("*.py"))]


def test_nothing_that_runs_text_is_used() -> None:
    """`shape` compiles its own text; ccm's own processes speak marshal and pickle over a socket pair."""
    found = {(name, match[1] or match[2]) for name, text in sources() for match in RUNS.finditer(text)}
    assert found == {
        ("shape.py", "exec"),
        ("process/line.py", "marshal"),
        ("process/parcel.py", "pickle"),
        ("process/crew.py", "__import__"),
    }


def test_ids_cannot_be_guessed() -> None:
    """`random` is for jitter and balancing: no room but routing may know it, and ids come from somewhere else."""
    users = {name.split("/")[0] for name, text in sources() if GUESSES.search(text)}
    assert users == {"routing"}
    made = {new_id("req_") for _ in range(10_000)}
    assert len(made) == 10_000 and all(re.fullmatch(r"req_[0-9a-zA-Z_-]{20,}", one) for one in made)
