"""messages.blocks: the rules of single steps."""

from __future__ import annotations

from ccm.messages.blocks import BlockWriter
from ccm.messages.tokens import Usage


def kinds(writer: BlockWriter) -> list[str]:
    out = []
    for event in writer.take():
        kind = event["type"].replace("content_block_", "")
        out.append(kind + (":" + event["delta"]["type"] if kind == "delta" else ""))
    return out


def test_nothing_is_sent_before_something_is_there():
    writer = BlockWriter("m", "x")
    writer.text("")
    writer.thinking("")
    writer.ping()
    assert writer.take() == []


def test_starts_carry_the_empty_fields_clients_need():
    writer = BlockWriter("m", "x")
    writer.thinking("a")
    writer.text("b")
    writer.tool("k", "id", "name")
    starts = [e["content_block"] for e in writer.take() if e["type"] == "content_block_start"]
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "id", "name": "name", "input": {}},
    ]


def test_a_signature_closes_its_thinking_block():
    writer = BlockWriter("m", "x")
    writer.thinking("a")
    writer.signature("s")
    writer.thinking("b")
    assert kinds(writer) == [
        "message_start", "start", "delta:thinking_delta", "delta:signature_delta", "stop", "start", "delta:thinking_delta",
    ]  # fmt: skip


def test_a_tool_without_arguments_has_no_delta():
    writer = BlockWriter("m", "x")
    writer.tool(0, "a", "A")
    writer.finish("tool_use")
    assert kinds(writer) == ["message_start", "start", "stop", "message_delta", "message_stop"]


def test_text_waits_while_a_tool_call_is_half():
    writer = BlockWriter("m", "x")
    writer.tool(0, "a", "A")
    writer.tool_json(0, '{"x":')
    writer.text("later")
    writer.tool_json(0, "1}")
    assert kinds(writer) == [
        "message_start", "start", "delta:input_json_delta", "delta:input_json_delta", "stop", "start", "delta:text_delta",
    ]  # fmt: skip


def test_the_models_own_broken_arguments_pass_through():
    writer = BlockWriter("m", "x")
    writer.tool(0, "a", "A")
    writer.tool_json(0, '{"x": tru')
    writer.finish("max_tokens")
    deltas = [e["delta"]["partial_json"] for e in writer.take() if e["type"] == "content_block_delta"]
    assert deltas == ['{"x": tru']


def test_stop_reasons_follow_what_was_said():
    for given, tool, expected in (
        ("end_turn", True, "tool_use"),
        ("tool_use", False, "end_turn"),
        (None, False, "end_turn"),
        ("max_tokens", True, "max_tokens"),
        ("refusal", False, "refusal"),
    ):
        writer = BlockWriter("m", "x")
        if tool:
            writer.tool(0, "a", "A")
        writer.finish(given)
        assert writer.stop_reason == expected


def test_usage_is_read_when_it_is_needed():
    usage = Usage()
    writer = BlockWriter("m", "x", usage)
    writer.text("a")
    usage.input, usage.output = 7, 3
    writer.finish("end_turn")
    events = writer.take()
    assert events[0]["message"]["usage"]["input_tokens"] == 0
    assert events[-2]["usage"] == {
        "input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 3,
    }  # fmt: skip
