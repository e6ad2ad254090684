"""proxy.stream: the bounds of one committed stream, without sockets."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ccm.dialects.anthropic_scan import Scanner
from ccm.model import FailureKind, ProviderError, Timeouts
from ccm.proxy import stream
from ccm.proxy.downstream import Downstream
from ccm.proxy.relay import PassRelay, Relay
from ccm.proxy.stream import Stream
from ccm.upstream.call import Call
from ccm.wire import http1
from tests import answers
from tests.unit.test_relay import relay

LIMIT = 5_000


class Sock:
    """A provider that never stops: `start`, then `more` for ever."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self.pieces = [start]
        self.more = more
        self.sent = 0

    def fileno(self) -> int:
        return 7

    def recv(self, size: int) -> bytes:
        piece = self.pieces.pop() if self.pieces else self.more
        self.sent += len(piece)
        return piece


class FakeCall:
    def __init__(self, sock: Sock) -> None:
        self.sock = sock
        self.body = http1.UntilClose()
        self.closed = False
        self.pool = SimpleNamespace(provider=SimpleNamespace(name="p"))

    def take_buffered(self) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True


class FakeDown:
    backlog = 0

    def __init__(self) -> None:
        self.out = b""
        self.ends = 0

    def push(self, data: bytes) -> None:
        self.out += data

    def finish(self, data: bytes) -> None:
        self.out += data
        self.ends += 1


def endless(kind: str) -> tuple[Relay, Sock]:
    dialect = "anthropic" if kind == "passed" else kind
    events = answers.events(dialect, "qqqqqqqq")
    texts = [n for n, e in enumerate(events) if "qq" in json.dumps(e)]
    start = b"".join(answers.frame(dialect, e) for e in events[: texts[0] + 1])
    made: Relay = (
        PassRelay(Scanner(), lambda: pytest.fail("nothing to mend")) if kind == "passed" else relay(dialect)
    )
    return made, Sock(start, answers.frame(dialect, events[texts[0]]))


def made_of(kind: str, rescue: Any = None) -> tuple[Stream, FakeCall, FakeDown, list[ProviderError]]:
    through, sock = endless(kind)
    call, down = FakeCall(sock), FakeDown()
    errors: list[ProviderError] = []

    def event(error: ProviderError) -> bytes:
        errors.append(error)
        return b"event: error\n\n"

    made = Stream(
        cast(Call, call), cast(Downstream, down), through, Timeouts(), event, lambda stream: None, rescue
    )
    return made, call, down, errors


@pytest.mark.parametrize("kind", ["passed", "anthropic", "openai_chat"])
def test_an_endless_answer_ends_in_one_error(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(stream, "MAX_STREAM_BYTES", LIMIT)
    made, call, down, errors = made_of(kind, lambda stream, error: pytest.fail("nobody else is to go on"))
    steps = 0
    while not made.step():
        steps += 1
        assert steps < 10_000
    assert [error.kind for error in errors] == [FailureKind.PROTOCOL] and str(LIMIT) in errors[0].message
    assert down.ends == 1 and down.out.endswith(b"event: error\n\n")
    assert LIMIT < call.sock.sent <= LIMIT + max(len(call.sock.more), 64 * 1024)
    assert len(down.out) > LIMIT // 4, "what came before is relayed"
    assert made.drained() and call.closed, "the provider must stop generating"


def test_a_stream_within_the_bound_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"".join(answers.frame("anthropic", event) for event in answers.events("anthropic", "hello"))
    monkeypatch.setattr(stream, "MAX_STREAM_BYTES", len(raw))
    made, call, down, errors = made_of("passed")
    call.sock.pieces = [raw]
    assert made.step() and not errors and down.out == raw


def test_the_bound_is_far_above_any_honest_answer() -> None:
    assert stream.MAX_STREAM_BYTES == 256 * 1024 * 1024


def test_a_stream_older_than_its_limit_ends() -> None:
    """Whatever still comes: nothing is in flight for ever."""
    made, _, down, errors = made_of("passed")
    made.heard_at = made.content_at = made.started_at + 4_000.0
    assert not made.over_time(made.started_at + made.timeouts.total_s - 1.0) and not errors
    assert made.over_time(made.started_at + made.timeouts.total_s + 1.0)
    assert [error.kind for error in errors] == [FailureKind.IDLE_TIMEOUT] and down.ends == 1
