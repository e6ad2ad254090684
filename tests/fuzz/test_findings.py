"""What fuzzing found, each as the smallest case that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ccm.dialects.base import Encoded
from ccm.dialects.errors import error_of
from ccm.dialects.openai_chat.ids import inward
from ccm.dialects.state import unwrap, wrap
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream
from ccm.messages.fold import unfold
from ccm.messages.tokens import MOST, Usage, count
from ccm.wire import jsontext
from ccm.wire.sse import Frame
from tests.fuzz.answers import context

HALF = "\ud800"
START = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}


def decoded(*events: Any) -> list[dict[str, Any]]:
    decoder = DIALECTS["anthropic"].decoder(context("anthropic", True), Encoded("", {}))
    return [made for event in events for made in decoder.feed(Frame("", json.dumps(event).encode()))]


@pytest.mark.parametrize(
    "events",
    [
        [{"type": []}],
        [{"type": HALF}],
        [{"type": "a\n\ndata: b"}],
        [START, {**TEXT, "content_block": {"type": 5}}],
        [START, {**TEXT, "content_block": {"type": "text", "text": 5}}],
        [START, TEXT, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}}],
        [START, TEXT, {"type": "content_block_delta", "index": 0, "delta": {"text": "x"}}],
        [START, TEXT, {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "x"}}],
        [START, END, TEXT],
    ],
)  # fmt: skip
def test_an_event_that_is_none_is_the_providers_fault(events: list[Any]) -> None:
    with pytest.raises(BadUpstream):
        decoded(*events)


def test_what_names_no_block_belongs_to_none() -> None:
    made = decoded(
        START,
        {"type": "content_block_stop"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": ""}},
    )
    assert [event["type"] for event in made] == ["message_start"]


def test_figures_that_are_none_are_replaced() -> None:
    made = decoded(
        {**START, "message": {"id": "m", "usage": {"input_tokens": "many"}}},
        {**END, "usage": {"output_tokens": -3}},
    )
    assert made[0]["message"]["usage"]["input_tokens"] == 0 and made[1]["usage"]["output_tokens"] == 0


@pytest.mark.parametrize(
    ("value", "wanted"), [(float("inf"), MOST), (float("nan"), 7), (-1, 0), (10**400, MOST), (2.9, 2)]
)
def test_token_counts_are_numbers(value: float, wanted: int) -> None:
    assert count(value, 7) == wanted
    usage = Usage()
    usage.update("none")  # type: ignore[arg-type]
    assert usage == Usage()


@pytest.mark.parametrize(
    "body",
    [
        {"content": [None]}, {"content": [{"type": []}]}, {"content": [{"type": "text", "text": True}]}, {"content": [{"type": "text"}]},
        {"content": [{"type": "tool_use", "id": 5, "name": "f", "input": {}}]},
    ],
)  # fmt: skip
def test_a_whole_answer_with_a_block_that_is_none(body: dict[str, Any]) -> None:
    with pytest.raises(BadUpstream):
        DIALECTS["anthropic"].decode(body, context("anthropic", False), Encoded("", {}))


def test_a_whole_answer_without_an_end_or_figures_can_be_streamed() -> None:
    events = list(unfold({"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}))
    assert events[0]["message"]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "call",
    [
        lambda: inward(HALF, (), lambda prefix: f"{prefix}1"),
        lambda: (
            error_of(
                500, {}, json.dumps({"error": {"message": "m", "metadata": {"raw": HALF}}}).encode()
            ).message
        ),
        lambda: wrap("f", {"sig": HALF}),
    ],
)
def test_half_a_surrogate_breaks_nothing(call: Callable[[], str]) -> None:
    assert call().encode()


def test_half_a_surrogate_in_a_state_comes_back_as_a_mark() -> None:
    assert unwrap(wrap("f", {"sig": HALF}), "f") == {"sig": "?"}


def test_deep_nesting_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="deep"):
        jsontext.event(b"[" * 100_000)


@pytest.mark.parametrize("key", ["candidates", "groundingMetadata"])
def test_gemini_lists_that_are_none(key: str) -> None:
    dialect = DIALECTS["gemini"]
    decoder = dialect.decoder(context("gemini", True), Encoded("", {"tools": [{"googleSearch": {}}]}))
    candidate = {
        "content": {"parts": [{"text": "x", "thoughtSignature": 5}]},
        "finishReason": "STOP",
        "groundingMetadata": {"webSearchQueries": 5, "groundingChunks": 7},
    }
    document = {"candidates": 5} if key == "candidates" else {"candidates": [candidate]}
    events = decoder.feed(Frame("", json.dumps(document).encode()))
    if key != "candidates":
        events += decoder.end()
        assert re.search("message_stop", json.dumps(events))
