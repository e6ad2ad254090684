"""Responses -> Messages: interleaved items, state, ends and errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.openai_responses import DIALECT
from ccm.dialects.state import unwrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.fold import fold
from ccm.model import FailureKind, ModelFacts
from ccm.wire.sse import Frame, Framer

DATA = Path(__file__).resolve().parents[1] / "data/openai_responses"
FAMILY = "openai_responses/openai"


def context(**more: Any) -> Context:
    numbers = itertools.count(1)
    facts = ModelFacts("gpt-5.2")
    given = {"provider": "p", "family": FAMILY, "model": "gpt-5.2", "asked_model": "claude-x", "facts": facts}
    return Context(**{**given, "new_id": lambda prefix: f"{prefix}{next(numbers)}", **more})


def sent(**more: Any) -> Encoded:
    return Encoded("/responses", {"tools": [{}]}, **more)


def events(
    *given: dict[str, Any], ctx: Context | None = None, to: Encoded | None = None
) -> list[dict[str, Any]]:
    decoder = DIALECT.decoder(ctx or context(), to or sent())
    out: list[dict[str, Any]] = []
    for event in given:
        out += decoder.feed(Frame("", json.dumps(event).encode()))
    return out + decoder.end()


def message(*given: dict[str, Any], **more: Any) -> dict[str, Any]:
    return fold(events(*given, **more))


def added(index: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def completed(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"status": "completed", "output": list(output), **more}}


def say(index: int, text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "output_index": index, "delta": text}


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_turn_with_reasoning_text_and_an_interleaved_call(step: int):
    raw = (DATA / "tool_turn.sse").read_bytes()
    expected = json.loads((DATA / "tool_turn.message.json").read_text())
    framer, decoder, out = Framer(), DIALECT.decoder(context(), sent()), []
    for at in range(0, len(raw), step):
        for frame in framer.feed(raw[at : at + step]):
            out += decoder.feed(frame)
    got = fold(out + decoder.end())
    signature = got["content"][0].pop("signature")
    assert {key: got[key] for key in expected} == expected
    # the encrypted content of `done`, not of `added`; the cuts of the summary; the phase of the message behind it
    assert unwrap(signature, FAMILY) == {"enc": "ENC-whole", "cuts": [17, 12], "phase": "commentary"}
    assert got["model"] == "claude-x" and got["id"] == "msg_1"
    assert decoder.finished and decoder.usage.thinking == 12 and not decoder.usage.estimated


def test_the_whole_answer_reads_like_its_stream():
    output = [
        {"type": "reasoning", "summary": [{"text": "A"}, {"text": "B"}], "encrypted_content": "E"},
        {"type": "message", "content": [{"type": "output_text", "text": "hi", "annotations": []}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'},
    ]
    whole = DIALECT.decode({"status": "completed", "output": output}, context(), sent())
    streamed = message(*(done(n, **item) for n, item in enumerate(output)), completed())
    assert whole == streamed
    assert [b["type"] for b in whole["content"]] == ["thinking", "text", "tool_use"]


def test_reasoning_that_is_only_encrypted_is_an_empty_block_with_state():
    got = message(
        added(0, type="reasoning", id="rs"),
        done(0, type="reasoning", summary=[], encrypted_content="E"),
        completed(),
    )
    assert got["content"][0]["thinking"] == ""
    assert unwrap(got["content"][0]["signature"], FAMILY) == {"enc": "E"}


def test_reasoning_that_says_nothing_leaves_no_block():
    assert message(done(0, type="reasoning", summary=[]), say(1, "x"), completed())["content"] == [
        {"type": "text", "text": "x"}
    ]


def test_reasoning_text_of_open_models_carries_its_id():
    item = {
        "type": "reasoning",
        "id": "r1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    delta = {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "h"}
    got = message(delta, done(0, **item), completed())
    assert got["content"][0]["thinking"] == "hm"
    assert unwrap(got["content"][0]["signature"], FAMILY) == {"id": "r1", "in": "content"}


def test_a_phase_without_reasoning_is_carried_only_where_tools_are():
    item = {"type": "message", "phase": "final_answer", "content": [{"type": "output_text", "text": "x"}]}
    assert [b["type"] for b in message(done(0, **item), completed())["content"]] == ["thinking", "text"]
    plain = message(done(0, **item), completed(), to=Encoded("/responses", {}))
    assert [b["type"] for b in plain["content"]] == ["text"]


def test_interleaved_items_keep_their_own_text():
    got = message(
        added(0, type="message"),
        say(0, "a1 "),
        added(1, type="function_call", call_id="c1", name="f"),
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"x":'},
        added(2, type="function_call", call_id="c2", name="g"),
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"y":2}'},
        say(0, "a2"),
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "1}"},
        done(2, type="function_call", call_id="c2", name="g", arguments='{"y":2}'),
        done(0, type="message", content=[]),
        done(1, type="function_call", call_id="c1", name="f", arguments='{"x":1}'),
        completed(),
    )
    assert got["content"][0] == {"type": "text", "text": "a1 a2"}
    assert [(b["name"], b["input"]) for b in got["content"][1:]] == [("f", {"x": 1}), ("g", {"y": 2})]


def test_item_ids_may_change_under_way():
    got = message(
        added(0, type="message", id="one"),
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "two", "delta": "a"},
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "three", "delta": "b"},
        done(0, type="message", id="four", content=[{"type": "output_text", "text": "ab"}]),
        completed(),
    )
    assert got["content"] == [{"type": "text", "text": "ab"}]


def test_events_that_name_only_the_item_id_find_their_item():
    got = message(
        added(3, type="function_call", id="fc", call_id="c", name="f"),
        {"type": "response.function_call_arguments.delta", "item_id": "fc", "delta": '{"a":'},
        {"type": "response.function_call_arguments.delta", "item_id": "fc", "delta": "1}"},
        completed(),
    )
    assert got["content"] == [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]
    assert got["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "given",
    [
        [{"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"a":1}'}],
        [{"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'}],
        [],
    ],
    ids=["only done", "half a delta", "nothing"],
)
def test_arguments_that_the_deltas_left_out_come_from_the_item(given: list[dict[str, Any]]):
    call = {"type": "function_call", "call_id": "c", "name": "f"}
    got = message(added(0, **call), *given, done(0, **call, arguments='{"a":1}'), completed())
    assert got["content"][0]["input"] == {"a": 1}


def test_what_only_the_last_event_tells_is_not_lost():
    text = {"type": "message", "content": [{"type": "output_text", "text": "late"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert [b["type"] for b in message(completed(text, call))["content"]] == ["text", "tool_use"]
    assert message(done(0, **call), completed(text, call))["content"][1] == {"type": "text", "text": "late"}


def test_a_call_id_seen_before_is_replaced():
    call = {"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"}
    got = message(done(0, **call), done(1, **call), completed(), to=sent(seen_ids=frozenset({"call_0"})))
    assert [b["id"] for b in got["content"]] == ["toolu_2", "toolu_3"]


def test_a_free_text_call_is_json_for_the_client():
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch"}
    got = message(
        added(0, **call),
        {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": 'a "quoted"\n'},
        done(0, **call, input='a "quoted"\nline \\ 😀'),
        completed(),
    )
    assert got["content"][0]["input"] == {"input": 'a "quoted"\nline \\ 😀'}


def test_short_names_become_the_clients_again():
    call = {"type": "function_call", "call_id": "c", "name": "short", "arguments": "{}"}
    assert (
        message(done(0, **call), completed(), to=sent(names={"short": "mcp__long"}))["content"][0]["name"]
        == "mcp__long"
    )


def test_a_refusal_is_text_and_says_so():
    got = message(
        added(0, type="message"),
        {"type": "response.refusal.delta", "output_index": 0, "delta": "I can't"},
        done(0, type="message", content=[{"type": "refusal", "refusal": "I can't help."}]),
        completed(),
    )
    assert got["content"] == [{"type": "text", "text": "I can't help."}]
    assert got["stop_reason"] == "refusal" and got["stop_details"]["explanation"] == "I can't help."


@pytest.mark.parametrize(
    ("reason", "stop"),
    [("max_output_tokens", "max_tokens"), ("content_filter", "refusal"), (None, "max_tokens")],
)
def test_incomplete_answers(reason: str | None, stop: str):
    end = {"status": "incomplete", "incomplete_details": reason and {"reason": reason}, "output": []}
    assert message(say(0, "x"), {"type": "response.incomplete", "response": end})["stop_reason"] == stop


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "m"}}},
            "api_error",
        ),
        (
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}},
            "rate_limit_error",
        ),
        ({"type": "error", "code": "insufficient_quota", "message": "m", "param": None}, "billing_error"),
        (
            {"type": "error", "error": {"type": "invalid_request_error", "code": "model_not_found"}},
            "not_found_error",
        ),
        ({"error": {"message": "x", "code": 429}}, "rate_limit_error"),
        ({"type": "response.cancelled", "response": {"status": "cancelled"}}, "api_error"),
    ],
)
def test_failures_in_the_stream_are_errors(event: dict[str, Any], kind: str):
    with pytest.raises(UpstreamError) as caught:
        events(say(0, "x"), event)
    assert caught.value.error.type == kind


def test_an_end_without_the_last_event_is_no_success():
    with pytest.raises(IncompleteStream) as caught:
        events({"type": "response.created"}, say(0, "half"))
    assert caught.value.error.kind is FailureKind.BROKEN


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"x"'])
def test_nonsense_is_no_event(data: bytes):
    with pytest.raises(BadUpstream):
        DIALECT.decoder(context(), sent()).feed(Frame("", data))


def test_a_body_without_output_is_no_answer():
    with pytest.raises(BadUpstream):
        DIALECT.decode({"choices": []}, context(), sent())
    with pytest.raises(UpstreamError):
        DIALECT.decode(
            {"status": "failed", "output": [], "error": {"code": "server_error"}}, context(), sent()
        )


def test_a_web_search_is_told_in_anthropics_blocks():
    action = {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://a"}]}
    note = {"type": "url_citation", "url": "https://b", "title": "B", "start_index": 0, "end_index": 3}
    got = message(
        done(0, type="web_search_call", id="ws", status="completed", action=action),
        done(
            1,
            type="web_search_call",
            id="ws2",
            status="completed",
            action={"type": "search", "queries": ["r"]},
        ),
        say(2, "see this"),
        {"type": "response.output_text.annotation.added", "output_index": 2, "annotation": note},
        done(2, type="message", content=[{"type": "output_text", "text": "see this", "annotations": [note]}]),
        completed(),
    )
    kinds = [b["type"] for b in got["content"]]
    assert kinds == [
        "server_tool_use",
        "web_search_tool_result",
        "text",
        "server_tool_use",
        "web_search_tool_result",
    ]
    assert got["content"][0]["input"] == {"query": "q"} and got["content"][3]["input"] == {"query": "r"}
    assert [r["url"] for r in got["content"][1]["content"]] == ["https://a"]
    assert [(r["url"], r["title"]) for r in got["content"][4]["content"]] == [("https://b", "B")]
    assert [c["cited_text"] for c in got["content"][2]["citations"]] == ["see"]
    assert got["usage"]["server_tool_use"] == {"web_search_requests": 2, "web_fetch_requests": 0}


def test_without_figures_the_estimate_stands():
    got = message(say(0, "x"), completed(), ctx=context(estimate_tokens=123))
    assert got["usage"]["input_tokens"] == 123


def test_counts_never_go_below_zero():
    usage = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": 1}
    assert message(say(0, "x"), completed(usage=usage))["usage"]["input_tokens"] == 0


def test_servers_that_count_no_indices():
    got = message(
        added(0, type="message"),
        say(0, "a"),
        done(0, type="message", content=[{"type": "output_text", "text": "a"}]),
        added(0, type="function_call", call_id="c", name="f"),
        done(0, type="function_call", call_id="c", name="f", arguments="{}"),
        say(0, "stray"),
        completed(),
    )
    assert [b["type"] for b in got["content"]] == ["text", "tool_use"]


def test_a_call_that_is_whole_does_not_hold_up_the_next_one():
    decoder = DIALECT.decoder(context(), sent())
    out: list[dict[str, Any]] = []
    for event in (
        added(0, type="function_call", call_id="c1", name="f"),
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": "{}"},
        added(1, type="function_call", call_id="c2", name="g"),
    ):
        out += decoder.feed(Frame("", json.dumps(event).encode()))
    assert [e["content_block"]["name"] for e in out if e["type"] == "content_block_start"] == ["f", "g"]


def streamed(*given: dict[str, Any]) -> str:
    """The text that was given out by these events, without the end."""
    decoder = DIALECT.decoder(context(), sent())
    out = [e for event in given for e in decoder.feed(Frame("", json.dumps(event).encode()))]
    return "".join(e["delta"].get("text", "") for e in out if e["type"] == "content_block_delta")


def test_items_without_text_hold_nothing_up():
    assert streamed(added(0, type="mcp_list_tools"), added(1, type="message"), say(1, "now")) == "now"


def test_reasoning_of_open_models_is_over_when_its_text_is():
    begin = added(0, type="reasoning", id="r")
    delta = {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "hm"}
    end = {"type": "response.reasoning_text.done", "output_index": 0, "content_index": 0, "text": "hm"}
    assert streamed(begin, delta, say(1, "a")) == ""
    assert streamed(begin, delta, say(1, "a"), end) == "a"
    got = message(begin, delta, end, say(1, "a"), done(0, type="reasoning", id="r", summary=[]), completed())
    assert unwrap(got["content"][0]["signature"], FAMILY) == {"id": "r", "in": "content"}
