"""Claude on Bedrock: Anthropic's body and events, less what Bedrock does not know."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.bedrock import DIALECT
from ccm.dialects.bedrock.invoke import version_of
from ccm.dialects.bedrock.models import base_model
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, IncompleteStream, Refusal
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.eventstream import Frame

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
OPUS = "global.anthropic.claude-opus-4-6-v1"


def context(model: str = SONNET, betas: str = "", **more: Any) -> Context:
    headers = {"anthropic-beta": betas, "anthropic-version": "2023-06-01"}
    facts = more.pop("facts", ModelFacts(model))
    return Context(
        "p", "bedrock/bedrock", model, "claude-x", facts, lambda p: p + "1", client_headers=headers, **more
    )


def encode(ctx: Context | None = None, **request: Any) -> Encoded:
    given = {
        "model": "claude-x",
        "max_tokens": 5000,
        "messages": [{"role": "user", "content": "hi"}],
        **request,
    }
    return DIALECT.encode(given, ctx or context())


def lost(sent: Encoded) -> set[str]:
    return {loss.feature for loss in sent.losses}


def test_the_plain_request():
    sent = encode(
        stream=True, system="s", metadata={"user_id": "u"}, context_management={"edits": []}, speed="fast"
    )
    assert sent.path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/invoke"
    assert sent.body == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 5000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "system": "s",
        "metadata": {"user_id": "u"},
    }
    assert {"context_management", "speed"} <= lost(sent)
    assert encode(context(stream=True)).path.endswith("/invoke-with-response-stream")


def test_betas_are_those_of_bedrock_and_of_the_model():
    betas = "claude-code-20250219, interleaved-thinking-2025-05-14,context-1m-2025-08-07,effort-2025-11-24,zz"
    assert encode(context(betas=betas)).body["anthropic_beta"] == [
        "interleaved-thinking-2025-05-14",
        "context-1m-2025-08-07",
    ]
    config = {"effort": "low"}
    newer = encode(context(OPUS, betas), output_config=config)
    assert "effort-2025-11-24" in newer.body["anthropic_beta"] and newer.body["output_config"] == config
    older = encode(context("anthropic.claude-3-5-haiku-20241022-v1:0", betas), output_config=config)
    assert not {"anthropic_beta", "output_config"} & older.body.keys()
    assert "beta.interleaved-thinking" in lost(older)


def test_a_beta_leaves_with_its_fields():
    tools = [
        {
            "name": "f",
            "input_schema": {},
            "defer_loading": True,
            "input_examples": [1],
            "cache_control": {"type": "ephemeral", "scope": "org", "ttl": "1h"},
        }
    ]
    sent = encode(tools=tools, thinking={"type": "enabled", "budget_tokens": 2000, "display": "updates"})
    assert sent.body["tools"] == [
        {"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ]
    assert sent.body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert {"tools.defer_loading", "tools.input_examples", "thinking.display"} <= lost(sent)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SONNET, {"type": "enabled", "budget_tokens": 4999}),
        (OPUS, {"type": "adaptive"}),
        ("anthropic.claude-3-haiku-20240307-v1:0", None),
    ],
)
def test_thinking_in_the_form_of_the_model(model: str, expected: Any):
    assert encode(context(model), thinking={"type": "adaptive"}).body.get("thinking") == expected


def test_server_tools_go_with_their_choice_and_typed_ones_stay():
    search = {"type": "web_search_20250305", "name": "web_search"}
    sent = encode(tools=[search], tool_choice={"type": "tool", "name": "web_search"})
    assert not {"tools", "tool_choice"} & sent.body.keys() and "tool_choice" in lost(sent)
    bash = {"type": "bash_20250124", "name": "bash"}
    both = encode(tools=[bash, {"type": "memory_20250818", "name": "memory"}], tool_choice={"type": "any"})
    assert both.body["tools"][0] == bash and both.body["tools"][1]["input_schema"]["required"] == ["command"]
    assert both.body["tool_choice"] == {"type": "any"}


def test_system_messages_become_reminders_that_never_precede_results():
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "system", "content": "first", "output_config": {"effort": "low"}},
        {"role": "assistant", "content": [call]},
        {"role": "system", "content": "second"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, result]},
    ]
    got = encode(messages=messages).body["messages"]
    assert [m["role"] for m in got] == ["user", "assistant", "user"]
    assert all(m.keys() == {"role", "content"} for m in got)
    assert "first" in got[0]["content"][1]["text"]
    assert [b["type"] for b in got[2]["content"]] == ["tool_result", "text", "text"]
    assert "second" in got[2]["content"][1]["text"]


def test_blocks_of_other_services_become_text():
    reference = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "tool_reference", "tool_name": "WebFetch"}],
    }
    call = {"type": "tool_use", "id": "t", "name": "ToolSearch", "input": {}}
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}
    cited = {"type": "text", "text": "c", "citations": [{"type": "web_search_result_location"}]}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [search, cited, call]},
        {"role": "user", "content": [reference]},
    ]
    got = encode(messages=messages).body["messages"]
    assert [b["type"] for b in got[1]["content"]] == ["text", "text", "tool_use"]
    assert "q" in got[1]["content"][0]["text"] and got[1]["content"][1] == {"type": "text", "text": "c"}
    assert "WebFetch" in got[2]["content"][0]["content"][0]["text"]


def test_foreign_thinking_leaves_and_anthropics_own_stays():
    own = {"type": "thinking", "thinking": "x", "signature": "EqQB"}
    hidden = {"type": "redacted_thinking", "data": "d"}
    foreign = {
        "type": "thinking",
        "thinking": "y",
        "signature": wrap("openai_responses/openai", {"enc": "E"}),
    }
    text = {"type": "text", "text": "t"}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [foreign, own, hidden, text]},
    ]
    assert encode(messages=messages).body["messages"][1]["content"] == [own, hidden, text]


def test_media_by_address_or_file():
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
    got = encode(messages=[{"role": "user", "content": [image]}]).body["messages"][0]["content"]
    assert got == [{"type": "text", "text": "[image: https://a/b.png]"}]
    with pytest.raises(Refusal):
        encode(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}])


def test_counting_asks_the_model_itself():
    sent = DIALECT.encode_count({"model": "x", "messages": [{"role": "user", "content": "hi"}]}, context())
    assert sent is not None
    assert sent.path == "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens"
    body = json.loads(base64.b64decode(sent.body["input"]["invokeModel"]["body"]))
    assert body["max_tokens"] == 1024 and body["anthropic_version"] == "bedrock-2023-05-31"
    assert DIALECT.encode_count({"messages": []}, context("us.amazon.nova-pro-v1:0")) is None
    assert DIALECT.decode_count({"inputTokens": 375}) == 375
    with pytest.raises(BadUpstream):
        DIALECT.decode_count({"input_tokens": 1})


@pytest.mark.parametrize(
    ("model", "version"),
    [
        (SONNET, (4, 5)),
        (OPUS, (4, 6)),
        ("anthropic.claude-sonnet-4-20250514-v1:0", (4, 0)),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", (3, 5)),
        ("anthropic.claude-3-sonnet-20240229-v1:0", (3, 0)),
        ("anthropic.claude-v2", (0, 0)),
    ],
)
def test_versions(model: str, version: tuple[int, int]):
    assert version_of(model) == version


@pytest.mark.parametrize(
    "model", ["us.amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", "global.amazon.nova-pro-v1:0"]
)
def test_profiles_name_their_model(model: str):
    assert base_model(model) == "amazon.nova-pro-v1:0"


def chunk(event: dict[str, Any]) -> Frame:
    packed = base64.b64encode(json.dumps(event).encode()).decode()
    headers: dict[str, Any] = {":message-type": "event", ":event-type": "chunk"}
    return Frame(headers, json.dumps({"bytes": packed, "p": "abcdef"}).encode())


EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "msg_bdrk_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 7}},
]  # fmt: skip
STOP = {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5}}


def test_the_stream_is_anthropics_without_amazons_addition():
    decoder = DIALECT.decoder(context(stream=True), encode())
    out = [e for event in (*EVENTS, STOP) for e in decoder.feed(chunk(event))] + decoder.end()
    assert out == [*EVENTS, {"type": "message_stop"}]
    assert decoder.finished and decoder.usage.output == 7
    assert fold(out)["content"] == [{"type": "text", "text": "é"}]


def test_a_broken_stream_is_no_success():
    decoder = DIALECT.decoder(context(stream=True), encode())
    for event in EVENTS[:3]:
        decoder.feed(chunk(event))
    with pytest.raises(IncompleteStream):
        decoder.end()
    with pytest.raises(BadUpstream):
        decoder.feed(Frame({":message-type": "event"}, b'{"bytes":"*"}'))
