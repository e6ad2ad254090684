"""Chat Completions requests as Messages requests."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.errors import Refusal
from tests.inbound import ask, losses

HI = {"role": "user", "content": "hi"}
PNG = "iVBORw0KGgoAAAANSUhEUg=="
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages or (HI,)), **fields}


def call(id: str, name: str = "weather", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_smallest() -> None:
    assert ask("chat", chat()) == {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 32_000,
        "stream": False,
    }
    assert losses("chat", chat()) == {}


def test_system_at_the_head_and_later() -> None:
    request = ask(
        "chat",
        chat(
            {"role": "system", "content": "A"},
            {"role": "developer", "content": [{"type": "text", "text": "B"}]},
            HI,
            {"role": "system", "content": "C"},
        ),
    )
    assert request["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert [m["role"] for m in request["messages"]] == ["user", "system"]


def test_a_system_message_alone_is_what_the_model_answers() -> None:
    request = ask("chat", chat({"role": "system", "content": "A"}, {"role": "system", "content": "Say hi"}))
    assert request["system"] == [{"type": "text", "text": "A"}]
    assert request["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}]


def test_calls_and_results_whatever_their_order() -> None:
    request = ask(
        "chat",
        chat(
            HI,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call("a", arguments='{"x": 1}'), call("b")],
            },
            {"role": "system", "content": "between"},
            {"role": "tool", "tool_call_id": "b", "content": "B"},
            {"role": "user", "content": "more"},
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "A"}]},
            tools=[WEATHER],
        ),
    )
    assert [m["role"] for m in request["messages"]] == ["user", "assistant", "user", "system", "user"]
    assert [b["input"] for b in request["messages"][1]["content"]] == [{"x": 1}, {}]
    results = request["messages"][2]["content"]
    assert [(r["tool_use_id"], r["content"][0]["text"]) for r in results] == [("a", "A"), ("b", "B")]
    assert request["messages"][4]["content"] == [{"type": "text", "text": "more"}]


def test_a_missing_result_is_made_up_and_a_stray_one_is_told() -> None:
    body = chat(
        HI,
        {"role": "assistant", "content": "", "tool_calls": [call("a")]},
        {"role": "tool", "tool_call_id": "zzz", "content": "stray"},
    )
    messages = ask("chat", body)["messages"]
    assert messages[2]["content"][0]["is_error"] is True
    assert messages[2]["content"][-1] == {"type": "text", "text": "stray"}
    assert losses("chat", body) == {
        "tool_result.orphan": "approximated",
        "tool_result.missing": "approximated",
    }


def test_ids_used_twice_are_told_apart() -> None:
    """Servers that count calls per answer give every turn a `call_0`; Messages wants them unique."""
    request = ask(
        "chat",
        chat(
            HI,
            {"role": "assistant", "tool_calls": [call("call_0")]},
            {"role": "tool", "tool_call_id": "call_0", "content": "one"},
            {"role": "assistant", "tool_calls": [call("call_0")]},
            {"role": "tool", "tool_call_id": "call_0", "content": "two"},
        ),
    )
    blocks = [b for m in request["messages"] for b in m["content"]]
    uses = [b["id"] for b in blocks if b["type"] == "tool_use"]
    assert len(set(uses)) == 2
    told = {b["tool_use_id"]: b["content"][0]["text"] for b in blocks if b["type"] == "tool_result"}
    assert told == dict(zip(uses, ["one", "two"], strict=True))


def test_ids_and_arguments_that_messages_does_not_take() -> None:
    body = chat(
        HI,
        {"role": "assistant", "tool_calls": [call("c:1|x", arguments='{"a"'), call("", arguments="[1]")]},
        {"role": "tool", "tool_call_id": "c:1|x", "content": "r"},
        {"role": "tool", "content": "s"},
    )
    made = ask("chat", body)["messages"]
    first, second = made[1]["content"]
    assert first["id"].replace("_", "").isalnum() and second["id"]
    assert first["input"] == {"__unparsedToolInput": {"raw": '{"a"', "len": 4}}
    assert second["input"] == {"input": [1]}
    assert [r["content"][0]["text"] for r in made[2]["content"]] == ["r", "s"]


def test_old_functions() -> None:
    request = ask(
        "chat",
        chat(
            HI,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "42"},
            functions=[{"name": "f", "parameters": {"type": "object"}}],
            function_call={"name": "f"},
        ),
    )
    assert request["tool_choice"] == {"type": "tool", "name": "f"}
    use, result = request["messages"][1]["content"][0], request["messages"][2]["content"][0]
    assert use["id"] == result["tool_use_id"] and result["content"][0]["text"] == "42"


def test_images_and_files() -> None:
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.jpg"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "file", "file": {"filename": "b.txt", "file_data": "data:text/plain;base64,aMOp"}},
        {"type": "file", "file": {"filename": "c.pdf", "file_data": "JVBERi0="}},
    ]
    body = chat({"role": "user", "content": parts})
    text, png, sniffed, url, pdf, plain, bare = ask("chat", body)["messages"][0]["content"]
    assert text == {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}
    assert png["source"] == sniffed["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert url["source"] == {"type": "url", "url": "https://x/y.jpg"}
    assert (pdf["title"], pdf["source"]["media_type"]) == ("a.pdf", "application/pdf")
    assert plain["source"] == {"type": "text", "media_type": "text/plain", "data": "hé"}
    assert bare["source"] == pdf["source"]
    assert losses("chat", body) == {"image.detail": "dropped"}


@pytest.mark.parametrize(
    ("given", "made", "lost"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}, {}),
        ({"max_tokens": 5, "max_completion_tokens": 9}, {"max_tokens": 9}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}, {}),
        ({"stop": ["a", "\n", "b"]}, {"stop_sequences": ["a", "b"]}, {"stop": "dropped"}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, {}),
        ({"temperature": 1.7}, {"temperature": 1}, {"temperature": "approximated"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, {}),
        (
            {"reasoning_effort": "minimal"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            {"reasoning_effort": "approximated"},
        ),
        (
            {"reasoning_effort": "xhigh", "temperature": 0.2},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
            {"temperature": "dropped"},
        ),
        ({"reasoning": {"max_tokens": 2000}}, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, {}),
        ({"reasoning": {"enabled": False}}, {"thinking": {"type": "disabled"}}, {}),
        ({"enable_thinking": True}, {"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "enabled", "clear_thinking": False}}, {"thinking": {"type": "adaptive"}}, {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9000}, "max_tokens": 4000},
            {"thinking": {"type": "enabled", "budget_tokens": 3999}, "max_tokens": 4000},
            {},
        ),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}, {}),
        ({"n": 1, "store": True, "service_tier": "auto", "logprobs": False, "seed": None}, {}, {}),
        (
            {"seed": 7, "logprobs": True, "service_tier": "priority", "made_up": 1},
            {},
            {"seed": "dropped", "logprobs": "dropped", "service_tier": "dropped", "unknown_field": "dropped"},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "o", "schema": {"type": "object"}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {},
        ),
        ({"response_format": {"type": "text"}}, {}, {}),
    ],
)  # fmt: skip
def test_settings(given: dict[str, Any], made: dict[str, Any], lost: dict[str, str]) -> None:
    plain = ask("chat", chat())
    assert ask("chat", chat(**given)) == {**plain, **made}
    assert losses("chat", chat(**given)) == lost


def test_json_object_is_said_in_words() -> None:
    body = chat(response_format={"type": "json_object"})
    assert "JSON object" in ask("chat", body)["system"][0]["text"]
    assert losses("chat", body) == {"response_format": "approximated"}


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
    ],
)  # fmt: skip
def test_tool_choice(given: dict[str, Any], choice: dict[str, Any] | None) -> None:
    assert ask("chat", chat(tools=[WEATHER], **given)).get("tool_choice") == choice


def test_a_forced_tool_takes_the_thinking_out_but_not_the_effort() -> None:
    body = chat(tools=[WEATHER], tool_choice="required", reasoning_effort="high")
    request = ask("chat", body)
    assert "thinking" not in request and request["output_config"] == {"effort": "high"}
    assert losses("chat", body) == {"thinking": "dropped"}


def test_allowed_tools_leave_only_those() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": "other"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    request = ask("chat", chat(tools=[WEATHER, other], tool_choice=choice))
    assert [tool["name"] for tool in request["tools"]] == ["other"]
    assert request["tool_choice"] == {"type": "any"}


def test_custom_tools_and_web_search() -> None:
    tools = [
        {"type": "custom", "custom": {"name": "patch", "description": "Patches.", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}}}},
        WEATHER,
        WEATHER,
    ]  # fmt: skip
    place = {"type": "approximate", "approximate": {"city": "Bern", "region": None}}
    body = chat(tools=tools, web_search_options={"user_location": place})
    patch, weather, search = ask("chat", body)["tools"]
    assert patch["input_schema"]["required"] == ["input"] and "start: X" in patch["description"]
    assert weather == {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
    assert search["type"] == "web_search_20250305"
    assert search["user_location"] == {"type": "approximate", "city": "Bern"}
    assert losses("chat", body) == {"tools.format": "approximated", "tools.duplicate": "dropped"}


def test_reasoning_comes_back_where_it_stood() -> None:
    details = [
        {"type": "reasoning.text", "text": "first", "signature": "S1", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "D", "format": "anthropic-claude-v1", "index": 1, "id": "at-2-0"},
        {"type": "reasoning.text", "text": "", "signature": "S2", "format": "x", "index": 2, "id": "at-5-1"},
    ]  # fmt: skip
    message = {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "first",
        "reasoning_details": details,
        "tool_calls": [call("a"), call("b")],
    }
    made = ask("chat", chat(HI, message))["messages"][1]["content"]
    assert [
        (b["type"], b.get("text") or b.get("signature") or b.get("id") or b.get("data")) for b in made
    ] == [
        ("thinking", "S1"),
        ("text", "He"),
        ("redacted_thinking", "D"),
        ("text", "llo"),
        ("tool_use", "a"),
        ("thinking", "S2"),
        ("tool_use", "b"),
    ]


def test_reasoning_in_pieces_and_without_signature() -> None:
    pieces = [
        {"type": "reasoning.text", "text": "a", "index": 0, "format": "anthropic-claude-v1"},
        {"type": "reasoning.text", "text": "b", "index": 0, "format": None},
        {"type": "reasoning.text", "signature": "S", "index": 0},
    ]
    made = ask("chat", chat(HI, {"role": "assistant", "content": "x", "reasoning_details": pieces}))
    assert made["messages"][1]["content"][0] == {"type": "thinking", "thinking": "ab", "signature": "S"}
    made = ask("chat", chat(HI, {"role": "assistant", "content": "x", "reasoning": "why"}))
    assert made["messages"][1]["content"][0] == {"type": "thinking", "thinking": "why", "signature": ""}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"messages": [HI]}, "model: "),
        (chat(stream="yes"), "stream: "),
        ({"model": "m", "messages": []}, "messages: "),
        ({"model": "m", "messages": "hi"}, "messages: "),
        (chat({"role": "user", "content": ""}), "messages: "),
        (chat({"role": "robot", "content": "x"}), "messages.0.role: "),
        (chat({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}), "messages.0.content.0: "),
        (chat({"role": "user", "content": [{"type": "video_url"}]}), "messages.0.content.0: "),
        (chat({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}), "messages.0.content.0.file_id: "),
        (chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}), "messages.0.content.0: "),
        (chat(HI, {"role": "assistant", "tool_calls": [{"id": "a"}]}), "messages.1.tool_calls.0.function.name: "),
        (chat(n=2), "n: "),
        (chat(modalities=["text", "audio"]), "modalities: "),
        (chat(max_tokens=0), "max_tokens: "),
        (chat(temperature="warm"), "temperature: "),
        (chat(stop=[1]), "stop: "),
        (chat(reasoning_effort="huge"), "reasoning_effort: "),
        (chat(tools=[{"type": "function"}]), "tools.0.function: "),
        (chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "nope"}}), "tool_choice: "),
        (chat(response_format={"type": "json_schema"}), "response_format.json_schema.schema: "),
    ],
)  # fmt: skip
def test_refusals_name_the_field(body: dict[str, Any], where: str) -> None:
    with pytest.raises(Refusal) as caught:
        ask("chat", body)
    assert caught.value.status == 400 and caught.value.message.startswith(where)


def test_the_client_s_body_is_left_alone() -> None:
    body = chat(HI, {"role": "assistant", "content": "a "}, tools=[WEATHER])
    before = repr(body)
    made = ask("chat", body)
    assert repr(body) == before
    assert made["messages"][-1]["content"] == [
        {"type": "text", "text": "a"}
    ]  # a prefill ends in no white space
