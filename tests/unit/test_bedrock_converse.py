"""Messages <-> Bedrock Converse."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.bedrock import DIALECT
from ccm.dialects.state import unwrap, wrap
from ccm.errors import BadUpstream, IncompleteStream, Refusal, UpstreamError
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.eventstream import Frame

DATA = Path(__file__).resolve().parents[1] / "data/bedrock"
NOVA = "us.amazon.nova-pro-v1:0"
LLAMA = "us.meta.llama4-scout-17b-instruct-v1:0"
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
FAMILY = "bedrock/bedrock"
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def context(model: str = NOVA, **more: Any) -> Context:
    numbers = itertools.count(1)
    facts = more.pop("facts", ModelFacts(model))
    return Context("p", FAMILY, model, "claude-x", facts, lambda prefix: f"{prefix}{next(numbers)}", **more)


def through_converse() -> Context:
    return context(CLAUDE, quirks=frozenset({"bedrock_converse"}))


def encode(ctx: Context | None = None, **request: Any) -> Encoded:
    given = {
        "model": "claude-x",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        **request,
    }
    return DIALECT.encode(given, ctx or context())


def turns(*messages: tuple[str, Any], ctx: Context | None = None) -> list[dict[str, Any]]:
    return encode(ctx, messages=[{"role": r, "content": c} for r, c in messages]).body["messages"]


def frame(event: dict[str, Any]) -> Frame:
    ((kind, payload),) = event.items()
    return Frame({":message-type": "event", ":event-type": kind}, json.dumps(payload).encode())


def message(*given: dict[str, Any], ctx: Context | None = None, to: Encoded | None = None) -> dict[str, Any]:
    decoder = DIALECT.decoder(ctx or context(), to or Encoded("", {}))
    out: list[dict[str, Any]] = []
    for event in given:
        out += decoder.feed(frame(event))
    out += decoder.end()
    assert decoder.finished
    return fold(out)


def call(id: str = "t1", name: str = "f") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {"a": 1}}


def test_the_plain_request():
    sent = encode(system="s", temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["x"])
    assert sent.path == "/model/us.amazon.nova-pro-v1%3A0/converse"
    assert sent.body == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "system": [{"text": "s"}],
        "inferenceConfig": {"maxTokens": 100, "temperature": 0.5, "topP": 0.9, "stopSequences": ["x"]},
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 3}},
    }


def test_streams_and_arns_have_their_own_paths():
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"
    assert encode(context(arn, stream=True)).path == (
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fabc/converse-stream"
    )


def test_turns_alternate_and_begin_with_the_user():
    got = turns(("assistant", "a"), ("system", "note"), ("user", "b"), ("user", " "), ("assistant", "c"))
    assert [t["role"] for t in got] == ["user", "assistant", "user", "assistant"]
    assert [b["text"] for b in got[2]["content"]] == ["<system-reminder>\nnote\n</system-reminder>", "b"]


def test_calls_and_results():
    failed = {"type": "tool_result", "tool_use_id": "t1", "content": "no such file", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "t2", "content": ""}
    history = (("user", "go"), ("assistant", [call(), call("t2")]), ("user", [empty, failed]))
    got = turns(*history)
    assert got[1]["content"][0] == {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}}
    assert got[2]["content"] == [
        {"toolResult": {"toolUseId": "t1", "content": [{"text": "no such file"}], "status": "error"}},
        {"toolResult": {"toolUseId": "t2", "content": [{"text": "(no output)"}]}},
    ]
    other = turns(*history, ctx=context(LLAMA))[2]["content"][0]["toolResult"]
    assert "status" not in other and other["content"] == [{"text": "Error:"}, {"text": "no such file"}]


def test_media_in_results_where_the_model_takes_it_else_behind_them():
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [PNG]}
    history = (("user", "go"), ("assistant", [call()]), ("user", [result]))
    image = {"image": {"format": "png", "source": {"bytes": "AAAA"}}}
    assert turns(*history)[2]["content"] == [{"toolResult": {"toolUseId": "t1", "content": [image]}}]
    moved = turns(*history, ctx=context(LLAMA))[2]["content"]
    assert "toolResult" in moved[0] and moved[1:] == [{"text": "[image of tool result t1]:"}, image]


def test_documents_have_clean_distinct_names_and_text_beside_them():
    page = {
        "type": "document",
        "title": "a/b_c.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
    }
    got = turns(("user", [page, page]))[0]["content"]
    assert [b["document"]["name"] for b in got[:2]] == ["a b c pdf", "a b c pdf 2"]
    assert "text" in got[2]


def test_what_cannot_be_fetched_stays_an_address():
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
    assert turns(("user", [image]))[0]["content"] == [{"text": "[image: https://a/b.png]"}]
    with pytest.raises(Refusal):
        turns(("user", [{"type": "image", "source": {"type": "file", "file_id": "f"}}]))


def test_tools_and_choice():
    tools = [
        {
            "name": "f",
            "description": "",
            "input_schema": {"$schema": "s", "$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        }
    ]
    config = encode(tools=tools, tool_choice={"type": "any"}).body["toolConfig"]
    spec = config["tools"][0]["toolSpec"]
    assert "description" not in spec and spec["inputSchema"]["json"] == {"type": "object", "properties": {}}
    assert config["toolChoice"] == {"any": {}}
    named = encode(tools=tools, tool_choice={"type": "tool", "name": "f"}).body["toolConfig"]
    assert named["toolChoice"] == {"tool": {"name": "f"}}
    assert "toolChoice" not in encode(tools=tools, tool_choice={"type": "auto"}).body["toolConfig"]
    llama = encode(context(LLAMA), tools=tools, tool_choice={"type": "any"})
    assert "toolChoice" not in llama.body["toolConfig"] and ("tool_choice", "dropped") in llama.losses
    assert "toolConfig" not in encode(tools=tools, tool_choice={"type": "none"}).body


def test_a_history_with_calls_keeps_its_tool_config():
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": [call(name="gone")]}]
    tools = encode(messages=messages).body["toolConfig"]["tools"]
    assert [t["toolSpec"]["name"] for t in tools] == ["gone"]


def test_cache_points_for_those_who_cache():
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    system = [{"type": "text", "text": "s", **mark}]
    content = [{"type": "text", "text": str(n), **mark} for n in range(5)]
    sent = encode(system=system, messages=[{"role": "user", "content": content}])
    assert sent.body["system"][1] == {"cachePoint": {"type": "default"}}
    assert sum("cachePoint" in b for b in sent.body["messages"][0]["content"]) == 3  # four in all
    assert ("cache_control", "dropped") in sent.losses
    assert encode(through_converse(), system=system).body["system"][1]["cachePoint"]["ttl"] == "1h"
    assert len(encode(context(LLAMA), system=system).body["system"]) == 1


def test_reasoning_settings_by_model():
    wish = {"thinking": {"type": "enabled", "budget_tokens": 20000}, "max_tokens": 30000}

    def more(ctx: Context) -> Any:
        return encode(ctx, **wish).body.get("additionalModelRequestFields")

    assert more(through_converse()) == {"thinking": {"type": "enabled", "budget_tokens": 20000}}
    assert more(context("us.amazon.nova-2-lite-v1:0")) == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}
    }
    assert more(context("openai.gpt-oss-120b-1:0")) == {"reasoning_effort": "high"}
    assert more(context()) is None


def test_structured_output():
    wish = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    formatted = encode(through_converse(), **wish).body["outputConfig"]["textFormat"]
    assert json.loads(formatted["structure"]["jsonSchema"]["schema"]) == {"type": "object"}
    told = encode(**wish).body
    assert "outputConfig" not in told and '{"type": "object"}' in told["system"][-1]["text"]


def test_reasoning_goes_back_to_its_maker_only():
    def replay(block: dict[str, Any], ctx: Context) -> list[dict[str, Any]]:
        return turns(("user", "a"), ("assistant", [block, {"type": "text", "text": "t"}]), ctx=ctx)[1][
            "content"
        ][:-1]

    ours = {"type": "thinking", "thinking": "x", "signature": wrap(FAMILY, {"sig": "S"})}
    native = {"type": "thinking", "thinking": "x", "signature": "EqQB"}
    restored = [{"reasoningContent": {"reasoningText": {"text": "x", "signature": "S"}}}]
    assert replay(ours, context()) == restored and replay(native, context()) == []
    assert replay(native, through_converse())[0]["reasoningContent"]["reasoningText"]["signature"] == "EqQB"
    hidden = {"type": "thinking", "thinking": "", "signature": wrap(FAMILY, {"redacted": "Zm9v"})}
    assert replay(hidden, context()) == [{"reasoningContent": {"redactedContent": "Zm9v"}}]
    assert replay({"type": "thinking", "thinking": "x", "signature": wrap(FAMILY, {})}, context()) == []


def test_a_recorded_like_stream():
    events = [json.loads(line) for line in (DATA / "tool_turn.events.jsonl").read_text().splitlines()]
    got = message(*events)
    thinking, text, use = got["content"]
    assert thinking["thinking"] == "Paris, then." and unwrap(thinking["signature"], FAMILY) == {
        "sig": "SIG-1"
    }
    assert text == {"type": "text", "text": "Let me look."}
    assert use == {"type": "tool_use", "id": "tooluse_1", "name": "weather", "input": {"city": "Paris"}}
    assert got["stop_reason"] == "tool_use"
    assert got["usage"] == {
        "input_tokens": 20,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 2,
        "output_tokens": 9,
    }
    native = message(*events, ctx=through_converse())["content"][0]
    assert native["signature"] == "SIG-1"


def test_figures_may_come_before_the_stop_or_not_at_all():
    text = {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "x"}}}
    stop, figures = {"messageStop": {"stopReason": "end_turn"}}, {"metadata": {"usage": {"inputTokens": 3}}}
    assert message(text, figures, stop)["usage"]["input_tokens"] == 3
    assert message(text, stop, ctx=context(estimate_tokens=7))["usage"]["input_tokens"] == 7


def test_no_stop_is_no_end():
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    decoder.feed(frame({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "x"}}}))
    with pytest.raises(IncompleteStream):
        decoder.end()


def test_redacted_reasoning_in_pieces_is_joined_as_bytes():
    pieces = [base64.b64encode(b).decode() for b in (b"a", b"bc")]
    events = [
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"redactedContent": p}}}}
        for p in pieces
    ]
    ends = [{"contentBlockStop": {"contentBlockIndex": 0}}, {"messageStop": {"stopReason": "end_turn"}}]
    whole = base64.b64encode(b"abc").decode()
    assert unwrap(message(*events, *ends)["content"][0]["signature"], FAMILY) == {"redacted": whole}
    native = message(*events, *ends, ctx=through_converse())["content"]
    assert native == [{"type": "redacted_thinking", "data": whole}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("throttlingException", "rate_limit_error"),
        ("modelStreamErrorException", "api_error"),
        ("validationException", "invalid_request_error"),
        ("internalServerException", "api_error"),
        ("modelTimeoutException", "timeout_error"),
        ("serviceUnavailableException", "overloaded_error"),
    ],
)
@pytest.mark.parametrize("model", [NOVA, CLAUDE])
def test_exceptions_in_the_stream(kind: str, expected: str, model: str):
    bad = Frame({":message-type": "exception", ":exception-type": kind}, b'{"message":"said so"}')
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decoder(context(model), Encoded("", {})).feed(bad)
    assert (caught.value.error.type, caught.value.error.message) == (expected, "said so")


def test_errors_without_a_payload_are_errors_too():
    bad = Frame({":message-type": "error", ":error-code": "500", ":error-message": "gone"}, b"")
    with pytest.raises(UpstreamError, match="gone"):
        DIALECT.decoder(context(), Encoded("", {})).feed(bad)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("guardrail_intervened", "refusal"),
        ("content_filtered", "refusal"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
        ("max_tokens", "max_tokens"),
        ("something_new", "end_turn"),
    ],
)
def test_stop_reasons(reason: str, expected: str):
    body = {"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": reason}
    assert DIALECT.decode(body, context(), Encoded("", {}))["stop_reason"] == expected


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_malformed_output_is_a_failure(reason: str):
    body = {"output": {"message": {"content": []}}, "stopReason": reason}
    with pytest.raises(UpstreamError):
        DIALECT.decode(body, context(), Encoded("", {}))
    with pytest.raises(BadUpstream):
        DIALECT.decode({"output": None}, context(), Encoded("", {}))


def test_citations():
    place = {"searchResultIndex": 1, "start": 2, "end": 3}
    given = {
        "title": "T",
        "source": "S",
        "sourceContent": [{"text": "c"}],
        "location": {"searchResultLocation": place},
    }
    web = {"location": {"web": {"url": "https://a", "domain": "a"}}}
    block = {"citationsContent": {"content": [{"text": "x"}], "citations": [given, web, {"location": {}}]}}
    body = {"output": {"message": {"content": [block]}}, "stopReason": "end_turn"}
    (text,) = DIALECT.decode(body, context(), Encoded("", {}))["content"]
    assert text["text"] == "x"
    assert text["citations"] == [
        {
            "type": "search_result_location",
            "cited_text": "c",
            "search_result_index": 1,
            "start_block_index": 2,
            "end_block_index": 3,
            "title": "T",
            "source": "S",
        },
        {
            "type": "web_search_result_location",
            "url": "https://a",
            "title": "a",
            "encrypted_index": "",
            "cited_text": "",
        },
    ]


def test_ids_and_names_of_calls():
    block = {"toolUse": {"toolUseId": "a.b:c", "name": "short", "input": {}}}
    body = {"output": {"message": {"content": [block, block]}}, "stopReason": "tool_use"}
    one, two = DIALECT.decode(body, context(), Encoded("", {}, names={"short": "long"}))["content"]
    assert one["name"] == "long" and one["id"].startswith("a_b_c_") and two["id"] == "toolu_2"


def test_errors_are_read_from_the_header():
    error = DIALECT.explain(
        400, {"x-amzn-ErrorType": "ThrottlingException:http://x"}, b'{"message":"slow down"}'
    )
    assert (error.type, error.message, error.code) == ("rate_limit_error", "slow down", "ThrottlingException")
