"""Answers of OpenAI-compatible providers with all their habits, as grammatical Messages events."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.openai_chat import DIALECT
from ccm.dialects.openai_chat.ids import inward, original
from ccm.dialects.openai_chat.think_tags import Splitter
from ccm.dialects.state import unwrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Frame
from tests.grammar import check

FAMILY = "openai_chat/custom"


def context(*quirks: str) -> Context:
    numbers = itertools.count(1)
    return Context(
        "p",
        FAMILY,
        "m",
        "claude",
        ModelFacts("m"),
        lambda p: f"{p}{next(numbers):08d}",
        True,
        frozenset(quirks),
    )


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def calls(*entries: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return chunk({"tool_calls": list(entries)}, finish)


def entry(arguments: Any = "", name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({"name": name} if name else {})}, **more}


def run(
    *chunks: dict[str, Any],
    done: bool = True,
    sent: Encoded | None = None,
    quirks: tuple[str, ...] = (),
    whole: bool = True,
) -> list[dict[str, Any]]:
    decoder = DIALECT.decoder(context(*quirks), sent or Encoded("", {}))
    events: list[dict[str, Any]] = []
    for item in chunks:
        events += decoder.feed(Frame("", json.dumps(item).encode()))
    if done:
        events += decoder.feed(Frame("", b"[DONE]"))
    events += decoder.end()
    if whole:
        check(events)
    return events


def tools(*chunks: dict[str, Any], sent: Encoded | None = None) -> list[tuple[str, str, Any]]:
    message = fold(run(*chunks, chunk({}, "tool_calls"), sent=sent))
    assert message["stop_reason"] == "tool_use"
    return [(b["id"], b["name"], b["input"]) for b in message["content"] if b["type"] == "tool_use"]


def test_calls_without_index_are_told_apart_by_id() -> None:
    got = tools(calls(entry('{"a":1}', "A", id="call_aaaaa"), entry('{"a":2}', "A", id="call_bbbbb")))
    assert got == [("call_aaaaa", "A", {"a": 1}), ("call_bbbbb", "A", {"a": 2})]


def test_calls_that_all_say_index_0_are_told_apart_by_id() -> None:
    got = tools(
        calls(entry('{"a":1}', "A", id="call_aaaaa", index=0)),
        calls(entry('{"a":2}', "B", id="call_bbbbb", index=0)),
    )
    assert [t[1:] for t in got] == [("A", {"a": 1}), ("B", {"a": 2})]


def test_id_and_name_may_come_with_every_piece() -> None:
    pieces = ['{"a"', ":", "1}"]
    got = tools(*(calls(entry(p, "A", id="call_aaaaa", index=0)) for p in pieces))
    assert got == [("call_aaaaa", "A", {"a": 1})]


def test_empty_ids_on_later_pieces_continue_the_call() -> None:
    got = tools(calls(entry('{"a"', "A", id="call_aaaaa", index=0)), calls(entry(":1}", id="", index=0)))
    assert got == [("call_aaaaa", "A", {"a": 1})]


def test_two_whole_calls_without_any_id_are_two() -> None:
    got = tools(calls(entry('{"a":1}', "A", index=0)), calls(entry('{"a":2}', "A", index=0)))
    assert [t[2] for t in got] == [{"a": 1}, {"a": 2}]
    assert all(t[0].startswith("toolu_") for t in got) and got[0][0] != got[1][0]


def test_a_name_that_comes_late_or_never() -> None:
    assert tools(calls(entry('{"a":', index=0, id="call_aaaaa")), calls(entry("1}", "A", index=0)))[0][
        1:
    ] == ("A", {"a": 1})
    sent = Encoded("", {"tools": [{"type": "function", "function": {"name": "Only"}}]})
    assert tools(calls(entry("{}", index=0, id="call_aaaaa")), sent=sent)[0][1] == "Only"


def test_arguments_may_be_an_object_or_null_or_missing() -> None:
    assert tools(calls(entry({"a": 1}, "A", index=0)))[0][2] == {"a": 1}
    assert tools(calls(entry(None, "A", index=0)))[0][2] == {}
    assert tools(calls({"index": 0, "function": {"name": "A"}}))[0][2] == {}


def test_broken_arguments_pass_as_they_are() -> None:
    events = run(
        calls(entry('{"a": tru', "A", index=0, id="call_aaaaa")), chunk({}, "tool_calls"), whole=False
    )
    assert [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"] == ['{"a": tru']


def test_the_function_call_of_old() -> None:
    got = tools(
        chunk({"function_call": {"name": "A", "arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ":1}"}}),
    )
    assert [t[1:] for t in got] == [("A", {"a": 1})]


def test_ids_of_the_history_are_not_used_again() -> None:
    sent = Encoded("", {}, seen_ids=frozenset({"call_aaaaa"}))
    ((id, _, _),) = tools(calls(entry("{}", "A", id="call_aaaaa", index=0)), sent=sent)
    assert id != "call_aaaaa" and original(id) == "call_aaaaa"


@pytest.mark.parametrize("id", ["0", "call_0", "functions.Bash:0", "ünï"])
def test_an_id_that_cannot_stay_can_be_found_again(id: str) -> None:
    fresh = inward(id, (), lambda p: p + "0123")
    assert fresh.startswith("toolu_0123--") and original(fresh) == id
    assert fresh.replace("-", "").replace("_", "").isalnum() and fresh.isascii()
    assert inward("", (), lambda p: p + "0123") == "toolu_0123"
    assert original("toolu_01ABC--") == "toolu_01ABC--"


def test_names_that_were_shortened_come_back() -> None:
    assert (
        tools(
            calls(entry("{}", "short", id="call_aaaaa", index=0)),
            sent=Encoded("", {}, names={"short": "long"}),
        )[0][1]
        == "long"
    )


def blocks(*chunks: dict[str, Any], quirks: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    content = fold(run(*chunks, chunk({}, "stop"), quirks=quirks))["content"]
    return [(b["type"], b.get("text") or b.get("thinking") or "") for b in content]


def test_reasoning_in_every_field_and_order() -> None:
    both = {"reasoning_content": "r", "reasoning": "r", "content": "t"}
    assert blocks(chunk(both)) == [("thinking", "r"), ("text", "t")]
    assert blocks(chunk({"content": "t"}), chunk({"reasoning": "r"}), chunk({"content": "u"})) == [
        ("text", "t"),
        ("thinking", "r"),
        ("text", "u"),
    ]
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "r"}]}, {"type": "text", "text": "t"}]
    assert blocks(chunk({"content": parts})) == [("thinking", "r"), ("text", "t")]
    assert blocks(chunk({"content": "", "reasoning": None, "role": "assistant"})) == []


def test_signatures_tell_where_reasoning_came_from() -> None:
    message = fold(
        run(chunk({"reasoning": "a"}), chunk({"reasoning": "b", "content": "t"}), chunk({}, "stop"))
    )
    assert message["content"][0]["thinking"] == "ab"
    assert unwrap(message["content"][0]["signature"], FAMILY) == {"f": "reasoning"}


def test_reasoning_details_are_put_together() -> None:
    def piece(**more: Any) -> dict[str, Any]:
        return {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1", **more}

    late = {"type": "reasoning.encrypted", "data": "enc", "index": 1}
    message = fold(
        run(
            chunk({"reasoning": "a", "reasoning_details": [piece(text="a")]}),
            chunk({"reasoning": "b", "reasoning_details": [piece(text="b")]}),
            chunk({"content": "", "reasoning_details": [piece(signature="sig")]}),
            chunk({"content": "t"}),
            chunk({"reasoning_details": [late]}, "stop"),
        )
    )
    first, text, last = message["content"]
    assert unwrap(first["signature"], FAMILY)["d"] == [piece(text="ab", signature="sig")]
    assert text["text"] == "t"
    assert last["thinking"] == "" and unwrap(last["signature"], FAMILY)["d"] == [late]


def test_googles_signature_stands_before_its_call() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    message = fold(
        run(calls(entry("{}", "A", id="call_aaaaa", index=0, extra_content=extra), finish="tool_calls"))
    )
    assert [b["type"] for b in message["content"]] == ["thinking", "tool_use"]
    assert unwrap(message["content"][0]["signature"], FAMILY) == {"x": extra}


def test_think_tags_are_split_only_where_asked() -> None:
    pieces = [chunk({"content": c}) for c in ("\n<th", "ink>\nrea", "son</thi", "nk>\n", "\nanswer <think>")]
    assert blocks(*pieces, quirks=("think_tags",)) == [("thinking", "reason"), ("text", "answer <think>")]
    assert blocks(*pieces)[0][0] == "text"
    splitter = Splitter()
    assert splitter.feed("<thi") == [] and splitter.end() == [("text", "<thi")]


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("eos", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "end_turn")],
)  # fmt: skip
def test_stop_reasons(finish: str, stop: str) -> None:
    assert fold(run(chunk({"content": "t"}, finish)))["stop_reason"] == stop


def test_a_call_with_finish_stop_is_a_tool_use_and_a_cut_one_is_not() -> None:
    assert fold(run(calls(entry("{}", "A", index=0)), chunk({}, "stop")))["stop_reason"] == "tool_use"
    assert (
        fold(run(calls(entry('{"a"', "A", index=0)), chunk({}, "length"), whole=False))["stop_reason"]
        == "max_tokens"
    )


def test_a_refusal_is_text_and_a_reason() -> None:
    message = fold(run(chunk({"refusal": "I can"}), chunk({"refusal": "not"}, "stop")))
    assert message["content"] == [{"type": "text", "text": "I cannot"}]
    assert message["stop_reason"] == "refusal" and message["stop_details"]["explanation"] == "I cannot"


def test_vllm_names_the_stop_sequence() -> None:
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    message = fold(run(chunk({"content": "t"}), last, sent=Encoded("", {"stop": ["END"]})))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}}, (4, 4, 2, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 3}, (7, 3, 0, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "num_cached_tokens": 3}, (7, 3, 0, 5)),
        ({"prompt_tokens": 1, "completion_tokens": 5, "cached_tokens": 3}, (0, 3, 0, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 22, "completion_tokens_details": {"reasoning_tokens": 7}}, (10, 0, 0, 12)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 4}}, (10, 0, 0, 5)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["chunk", "choice", "x_groq", "separate"])
def test_usage(usage: dict[str, Any], expected: tuple[int, ...], place: str) -> None:
    last = chunk({}, "stop")
    more = []
    if place == "chunk":
        last["usage"] = usage
    elif place == "choice":
        last["choices"][0]["usage"] = usage
    elif place == "x_groq":
        last["x_groq"] = {"usage": usage}
    else:
        more = [{"choices": [], "usage": usage}]
    said = fold(run(chunk({"content": "t"}, usage={"prompt_tokens": 1}), last, *more))["usage"]
    keys = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    assert tuple(said[k] for k in keys) == expected


def test_an_answer_that_nobody_counted_is_estimated() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    decoder.feed(Frame("", json.dumps(chunk({"content": "abcdefgh"}, "stop")).encode()))
    decoder.end()
    assert decoder.usage.estimated and decoder.usage.output == 2


def test_the_end_needs_done_or_a_finish_reason() -> None:
    assert fold(run(chunk({"content": "t"}, "stop"), done=False))["stop_reason"] == "end_turn"
    assert fold(run(chunk({"content": "t"})))["stop_reason"] == "end_turn"
    with pytest.raises(IncompleteStream):
        run(chunk({"content": "t"}), done=False)
    with pytest.raises(IncompleteStream):
        run(done=False)
    assert (
        fold(run(chunk({"content": "t"}), done=False, quirks=("lenient_end",)))["stop_reason"] == "end_turn"
    )
    with pytest.raises(IncompleteStream):
        run(done=False, quirks=("lenient_end",))


@pytest.mark.parametrize(
    ("item", "status", "type"),
    [
        ({"error": {"code": 502, "message": "x"}}, 502, "api_error"),
        ({"error": {"type": "overloaded_error", "message": "x"}, "choices": []}, 529, "overloaded_error"),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 429, "message": "x"}}]}, 429, "rate_limit_error"),
        ({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}, 500, "api_error"),
        ({"object": "error", "message": "x", "code": 400}, 400, "invalid_request_error"),
        ({"error": "x"}, 500, "api_error"),
    ],
)  # fmt: skip
def test_errors_inside_a_200(item: dict[str, Any], status: int, type: str) -> None:
    for read in (lambda: run(item), lambda: DIALECT.decode(item, context(), Encoded("", {}))):
        with pytest.raises(UpstreamError) as caught:
            read()
        assert (caught.value.error.status, caught.value.error.type) == (status, type)


def test_an_error_frame_is_an_error() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    with pytest.raises(UpstreamError):
        decoder.feed(Frame("error", b'{"message": "broken"}'))


def test_nonsense_is_named() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    for data in (b"{not json", b"[]", b'"x"'):
        with pytest.raises(BadUpstream):
            decoder.feed(Frame("", data))
    for body in ([], {}, {"choices": None}):
        with pytest.raises(BadUpstream):
            DIALECT.decode(body, context(), Encoded("", {}))


def test_a_broken_tail_after_the_answer_does_no_harm() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    decoder.feed(Frame("", json.dumps(chunk({"content": "t"}, "stop")).encode()))
    assert decoder.feed(Frame("", b'{"usa')) == []
    assert decoder.end()[-1] == {"type": "message_stop"}
    assert decoder.finished and decoder.end() == []


def test_other_choices_are_ignored() -> None:
    second = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}
    assert blocks(chunk({"content": "a"}), second) == [("text", "a")]
