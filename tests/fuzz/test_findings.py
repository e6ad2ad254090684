"""What fuzzing found, each as the smallest case that shows it."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from ccm.dialects.anthropic import splice
from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Encoded
from ccm.dialects.errors import error_of, redact
from ccm.dialects.inbound import knobs
from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.inbound.free_text import FreeText
from ccm.dialects.inbound.responses_items import typed_item
from ccm.dialects.inbound.toolbox import Offer
from ccm.dialects.openai_chat.ids import inward
from ccm.dialects.state import PREFIX, unwrap, wrap
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream, Refusal
from ccm.messages.fold import Fold, unfold
from ccm.messages.tokens import MOST, Usage, count
from ccm.proxy.relay import PassRelay
from ccm.wire import jsontext
from ccm.wire.sse import Frame
from tests.fuzz.answers import _relay, context
from tests.fuzz.wire import _requests

HALF = "\ud800"
START: dict[str, Any] = {
    "type": "message_start",
    "message": {"id": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}},
}
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


@pytest.mark.parametrize("before", [b"", b" ", b"\xef\xbb\xbf"])
def test_deep_nesting_is_a_value_error(before: bytes) -> None:
    with pytest.raises(ValueError, match="deep"):
        jsontext.event(before + b"[" * 100_000)


def test_a_relayed_event_that_is_too_deep_is_no_event() -> None:
    scanner = Scanner()
    deep = b"data: " + b"[" * 100_000 + b"\n\n"
    assert scanner.feed(deep) == 0 and scanner.irregular
    assert Scanner().end(deep) == b""


def test_a_relayed_stop_reason_that_is_none_is_mended() -> None:
    raw = b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in (START, {**END, "delta": {"stop_reason": 9}}, {"type": "message_stop"})
    )
    scanner = Scanner()
    assert scanner.feed(raw) == raw.index(b"event: message_delta") and scanner.irregular


def test_a_whole_answer_without_figures_has_some() -> None:
    message = {"content": [{"type": "text", "text": "a"}], "usage": None}
    assert next(unfold(message))["message"]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    decoded = DIALECTS["anthropic"].decode(message, context("anthropic", False), Encoded("", {}))
    assert decoded["usage"]["output_tokens"] == 0


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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": 1e999}'])
def test_arguments_that_nobody_can_read_are_told_as_text(text: str) -> None:
    wrapped = {"__unparsedToolInput": {"raw": text, "len": len(text)}}
    assert knobs.arguments(text) == (wrapped, False)
    fold = Fold()
    fold.add(START)
    fold.add({**TEXT, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}})
    delta = {"type": "input_json_delta", "partial_json": text}
    fold.add({"type": "content_block_delta", "index": 0, "delta": delta})
    fold.add({"type": "content_block_stop", "index": 0})
    assert fold.message["content"][0]["input"] == wrapped


def test_text_in_a_text_may_be_nested_too_deeply() -> None:
    deep = "[" * 100_000
    packed = base64.b64encode(deep.encode()).decode()
    with pytest.raises(Refusal):
        SURFACES["bedrock"].counting({"input": {"invokeModel": {"body": packed}}}, "m")  # type: ignore[attr-defined]
    assert typed_item(Offer("local_shell", "shell"), "i", "c", deep)["arguments"] == deep
    free = FreeText()
    free.feed(deep)
    assert free.end()[1] == deep
    state = base64.urlsafe_b64encode(zlib.compress(deep.encode())).decode()
    assert unwrap(f"{PREFIX}{base64.urlsafe_b64encode(b'f').decode()}.{state}", "f") is None
    assert splice(f'{{"model": "a", "model": {deep}'.encode(), "b") is None


def test_an_item_whose_type_is_none_is_left_out() -> None:
    body = {"model": "m", "input": [{"type": {"a": 1}}, {"role": "user", "content": "x"}]}
    request, losses = SURFACES["responses"].request(body, "", None, {}, str)
    assert len(request["messages"]) == 1 and losses


def test_an_index_that_is_no_number_is_one_afterwards() -> None:
    raw = [
        START,
        {**TEXT, "index": False},
        {"type": "content_block_delta", "index": 0.0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_stop", "index": False},
        END,
    ]
    made = decoded(*raw)
    assert all(type(event["index"]) is int for event in made if "index" in event)
    named = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in raw]
    scanner = Scanner()
    assert scanner.feed(b"".join(named)) == len(named[0]) and scanner.irregular


@pytest.mark.parametrize(
    "unit", ["a", "<", "*", "eyJ", "sk-a.", "**a", "<title>", "<script>", "security token "]
)
@pytest.mark.parametrize("before", ["", "<html>", '{"error": {"message": "'])
def test_a_long_error_is_read_in_a_moment(unit: str, before: str) -> None:
    """Whatever a provider says in a megabyte: a pattern that begins again at each letter needs a quarter of an hour."""
    body = before + unit * (300_000 // len(unit)) + ('"}}' if before[:1] == "{" else "")
    began = time.process_time()
    assert error_of(500, {}, body.encode()).message
    assert time.process_time() - began < 3.0  # 0.1 s here
    quick = redact("sk-ant-abc123def456. sk-abc...wxyz url-sk-abcdefgh.sk-12345678 abc***def hf_abcdefghij")
    assert quick == "[key]. sk-abc...wxyz url-[key] [key] [key]"


@pytest.mark.parametrize("reason", ["", None, 0])
def test_an_empty_stop_reason_is_none(reason: Any) -> None:
    made = decoded(
        START, {**END, "delta": {"stop_reason": reason, "stop_sequence": None}}, {"type": "message_stop"}
    )
    assert [event["delta"].get("stop_reason", "-") for event in made if "delta" in event] == ["-", "end_turn"]


def test_half_a_delta_and_another_one_are_not_relayed_as_one() -> None:
    whole = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    raws = [
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in (START, TEXT, whole)
    ]
    text = json.dumps(whole)
    garbage = f"event: content_block_delta\ndata: {text[:60]}{text[30:]}\n\n".encode()
    scanner = Scanner()
    assert scanner.feed(b"".join(raws)) == len(b"".join(raws))
    assert scanner.feed(garbage) == 0 and scanner.error is not None


@pytest.mark.parametrize("required", [5, [["a"]], {"a": 1}, "a", [None, "a"]])
def test_a_schema_whose_required_is_none_is_not_strict(required: Any) -> None:
    tool = {
        "name": "f",
        "strict": True,
        "input_schema": {
            "type": "object", "properties": {"a": {"type": "string"}}, "required": required, "additionalProperties": False,
        },
    }  # fmt: skip
    request = {"model": "m", "max_tokens": 9, "tools": [tool], "messages": [{"role": "user", "content": "x"}]}
    sent = DIALECTS["openai_chat"].encode(request, context("openai_chat", False))
    assert sent.body["tools"][0]["function"].get("strict") is not True


def test_a_stream_that_is_mended_after_its_stop_reason_keeps_it() -> None:
    stop = {"type": "content_block_stop", "index": 0}
    late = {
        "type": "content_block_delta",
        "index": 5,
        "delta": {"type": "input_json_delta", "partial_json": "{"},
    }
    end = {**END, "delta": {"stop_reason": "max_tokens"}}
    events = (START, TEXT, stop, end, late, {"type": "message_stop"})
    raw = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)
    relay = PassRelay(Scanner(), lambda: _relay("anthropic", "messages", ())[0])
    out = relay.feed(raw)
    assert relay.finished and relay.error is None and relay.usage.output == 2
    assert out.count(b"event: message_delta") == 1 and b"max_tokens" in out


def lines(*events: Any) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def test_a_block_after_the_end_is_not_relayed() -> None:
    stop = {"type": "content_block_stop", "index": 0}
    before = lines(START, TEXT, stop, END)
    scanner = Scanner()
    assert scanner.feed(
        before + lines({**TEXT, "index": 1}, {**stop, "index": 1}, {"type": "message_stop"})
    ) == len(before)
    assert scanner.error is not None


def test_a_second_data_line_is_not_overlooked() -> None:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
    scanner = Scanner()
    before = lines(START, TEXT, delta)
    assert scanner.feed(before) == len(before)
    stop = lines({"type": "content_block_stop", "index": 0})
    assert scanner.feed(stop[:-1] + b"data: x\n\n") == 0 and scanner.error is not None


@pytest.mark.parametrize(
    "block",
    [{"type": "text"}, {"type": "thinking", "signature": ""}, {"type": "tool_use", "id": "a", "name": "f"}],
)
def test_a_block_without_its_first_text_is_mended(block: dict[str, Any]) -> None:
    scanner = Scanner()
    raw = lines(START, {"type": "content_block_start", "index": 0, "content_block": block})
    assert scanner.feed(raw) == len(lines(START)) and scanner.irregular


@pytest.mark.parametrize(
    "delta",
    [{"type": "signature_delta", "signature": None}, {"type": "text_delta", "text": "x"}, {"type": []}, 5],
)
def test_a_delta_that_does_not_belong_is_not_relayed(delta: Any) -> None:
    before = lines(START, {**TEXT, "content_block": {"type": "thinking", "thinking": "", "signature": ""}})
    scanner = Scanner()
    assert scanner.feed(before + lines({"type": "content_block_delta", "index": 0, "delta": delta})) == len(
        before
    )
    assert scanner.irregular


def test_a_message_that_begins_with_content_is_mended() -> None:
    scanner = Scanner()
    assert (
        scanner.feed(lines({**START, "message": {**START["message"], "content": [{}]}})) == 0
        and scanner.irregular
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\nGET http://127.0.0.1:1/v1/models/a HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n",
        b"\r\n\rGET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 9 + b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_empty_lines_before_a_request_are_read_the_same_in_any_cut(raw: bytes) -> None:
    whole, how = _requests([raw])
    for at in range(len(raw)):
        pieces, end = _requests([raw[:at], raw[at:]])
        assert (pieces, end == "closed") == (whole, how == "closed"), at
