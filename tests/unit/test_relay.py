"""proxy.relay: what stands between a provider's bytes and the client's; the end is the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Context, Encoded
from ccm.dialects.inbound.messages import MessagesRenderer
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream
from ccm.messages.events import Event
from ccm.messages.tokens import Usage
from ccm.model import ModelFacts
from ccm.proxy.relay import PassRelay, TranslateRelay
from ccm.wire import eventstream, sse
from ccm.wire.eventstream_encode import encode
from tests import answers

NAMES = ("anthropic", "openai_chat", "openai_responses")  # those with a terminal event of their own
# what a provider may still say when all has been said: an error, more of the answer, nonsense
AFTER = {
    "error": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"late"}}\n\n',
    "bare-error": b'data: {"error":{"message":"late","code":500}}\n\n',
    "nonsense": b"data: {]\n\n",
    "not-utf8": b'data: {"\xff\n\n',
}


def relay(dialect: str) -> TranslateRelay:
    ctx = Context(
        "p",
        f"{dialect}/custom",
        "m",
        "m",
        ModelFacts("m", True, 1000, 100),
        lambda prefix: prefix + "1",
        True,
    )
    return TranslateRelay(sse.Framer(), DIALECTS[dialect].decoder(ctx, Encoded("", {})), MessagesRenderer())


def whole(dialect: str) -> bytes:
    return b"".join(answers.frame(dialect, event) for event in answers.events(dialect, "hello"))


def kinds(raw: bytes) -> list[str]:
    return [json.loads(line[6:])["type"] for line in raw.split(b"\n") if line.startswith(b"data: ")]


@pytest.mark.parametrize("dialect", NAMES)
@pytest.mark.parametrize("after", [*AFTER, "again"])
def test_nothing_comes_after_the_last_event(dialect: str, after: str) -> None:
    raw = whole(dialect)
    more = raw if after == "again" else AFTER[after]
    plain = relay(dialect)
    wanted = plain.feed(raw)
    assert plain.finished
    together = relay(dialect)
    assert together.feed(raw + more) == wanted
    assert together.feed(more) == together.end() == b""
    assert together.finished and together.error is None and together.usage == plain.usage
    assert kinds(wanted).count("message_stop") == 1 and kinds(wanted)[-1] == "message_stop"


def test_one_frame_that_says_more_than_the_end_is_cut_there() -> None:
    class Decoder:
        usage = Usage()
        finished = False

        def feed(self, frame: Any) -> list[Event]:
            return [
                {"type": "message_stop"},
                {"type": "error", "error": {"type": "api_error", "message": "x"}},
            ]

        def end(self) -> list[Event]:
            raise AssertionError("an end that was told is not asked for")

    made = TranslateRelay(sse.Framer(), Decoder(), MessagesRenderer())
    assert kinds(made.feed(b"data: 1\n\ndata: 2\n\n")) == ["message_stop"]
    assert made.finished and made.end() == b""


def test_an_untouched_stream_ends_there_too() -> None:
    raw = whole("anthropic")
    made = PassRelay(Scanner(), lambda: pytest.fail("nothing is to be mended"))
    out = made.feed(raw + AFTER["error"])
    assert made.finished and made.error is None
    assert kinds(out)[-1] == "message_stop"


@pytest.mark.parametrize(
    "after", [b"nonsense of sixteen bytes", encode({":event-type": "x"}, b"{}")[:-1] + b"!"]
)
def test_broken_framing_behind_the_last_event_spoils_nothing(after: bytes) -> None:
    """Bedrock's frames: one piece of the network may hold the end and what must not come after it."""

    class Decoder:
        usage = Usage()
        finished = False

        def feed(self, frame: Any) -> list[Event]:
            return [{"type": "message_stop"}]

        def end(self) -> list[Event]:
            return []

    made = TranslateRelay(eventstream.Framer(), Decoder(), MessagesRenderer())
    out = made.feed(encode({":event-type": "messageStop"}, b"{}") + after)
    assert kinds(out) == ["message_stop"] and made.finished and made.error is None


@pytest.mark.parametrize("cut", [0, 3, 30])
def test_broken_framing_in_the_middle_is_an_error_behind_what_was_whole(cut: int) -> None:
    one = encode({":event-type": "x"}, b"{}")
    bad = one[:-1] + bytes([one[-1] ^ 1])
    framer = eventstream.Framer()
    assert len(framer.feed(one + one + bad[: len(bad) - cut])) == 2
    with pytest.raises(BadUpstream):
        framer.feed(bad[len(bad) - cut :] if cut else one)
    framer = eventstream.Framer()
    assert len(framer.feed(one + bad)) == 1
    with pytest.raises(BadUpstream):
        framer.end()
