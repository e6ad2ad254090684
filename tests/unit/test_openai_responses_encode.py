"""Messages -> Responses: items, tools, efforts, and what only some providers get."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.openai_responses import DIALECT
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, Refusal
from ccm.model import ModelFacts

OPENAI = "openai_responses/openai"
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}


def context(model: str = "gpt-5.2", family: str = OPENAI, **more: Any) -> Context:
    facts = more.pop("facts", ModelFacts(model))
    return Context("p", family, model, "claude-x", facts, lambda prefix: prefix + "1", **more)


def encode(ctx: Context | None = None, **request: Any) -> Encoded:
    given = {
        "model": "claude-x",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "hi"}],
        **request,
    }
    return DIALECT.encode(given, ctx or context())


def items(*messages: tuple[str, Any], ctx: Context | None = None) -> list[dict[str, Any]]:
    return encode(ctx, messages=[{"role": r, "content": c} for r, c in messages]).body["input"]


def thinking(payload: Any, text: str = "", family: str = OPENAI) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": wrap(family, payload)}


def test_the_plain_request():
    sent = encode(system="Be brief.", stream=True)
    assert sent.path == "/responses"
    assert sent.body == {
        "model": "gpt-5.2",
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "max_output_tokens": 1000,
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "stream": False,
    }


def test_a_turn_with_a_call_and_its_result():
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "é"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "text", "is_error": True}
    got = items(("user", "go"), ("assistant", [call]), ("user", [{"type": "text", "text": "and?"}, result]))
    assert got[1:] == [
        {"type": "function_call", "call_id": "toolu_1", "name": "Read", "arguments": '{"path":"é"}'},
        {"type": "function_call_output", "call_id": "toolu_1", "output": "Error: text"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and?"}]},
    ]


def test_media_stays_inside_a_tool_result():
    call = {"type": "tool_use", "id": "t", "name": "Read", "input": {}}
    content = [
        {"type": "text", "text": "a page"},
        {"type": "image", "source": PNG},
        {"type": "document", "source": PDF},
    ]
    got = items(
        ("assistant", [call]), ("user", [{"type": "tool_result", "tool_use_id": "t", "content": content}])
    )
    assert got[1]["output"] == [
        {"type": "input_text", "text": "a page"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_file", "filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBE"},
    ]


def test_addresses_of_media_are_passed_on_and_file_ids_refused():
    image = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
    page = {"type": "document", "title": "T", "source": {"type": "url", "url": "https://a/b.pdf"}}
    assert items(("user", [image, page]))[0]["content"] == [
        {"type": "input_image", "image_url": "https://a/b.png", "detail": "auto"},
        {"type": "input_file", "file_url": "https://a/b.pdf"},
    ]
    with pytest.raises(Refusal) as caught:
        items(("user", [{"type": "image", "source": {"type": "file", "file_id": "f"}}]))
    assert caught.value.status == 400


def test_a_model_that_sees_nothing_gets_a_note():
    facts = ModelFacts("m", known=True, abilities=frozenset({"tools"}))
    got = items(("user", [{"type": "image", "source": PNG}]), ctx=context("m", facts=facts))
    assert got[0]["content"] == [{"type": "input_text", "text": "[image omitted: model m is text-only]"}]


def test_reasoning_goes_back_with_its_cuts_and_phase():
    state = {"enc": "E", "cuts": [3, 4], "phase": "commentary"}
    got = items(("user", "a"), ("assistant", [thinking(state, "one\n\nfour"), {"type": "text", "text": "t"}]))
    assert got[1] == {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "one"}, {"type": "summary_text", "text": "four"}],
        "encrypted_content": "E",
    }
    assert got[2] == {"type": "message", "role": "assistant", "content": "t", "phase": "commentary"}


def test_reasoning_of_open_models_goes_back_as_text():
    state = {"id": "r1", "in": "content"}
    got = items(("user", "a"), ("assistant", [thinking(state, "hm"), {"type": "text", "text": "t"}]))
    assert got[1] == {
        "type": "reasoning",
        "id": "r1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }


@pytest.mark.parametrize(
    "block",
    [
        thinking({"enc": "E"}, "x", family="openai_responses/azure"),
        thinking({}, "x"),
        {"type": "thinking", "thinking": "x", "signature": "EqQBCkYIBxgC"},
        {"type": "thinking", "thinking": "x", "signature": ""},
        {"type": "redacted_thinking", "data": "zz"},
    ],
    ids=["another provider's", "stateless", "Anthropic's", "unsigned", "redacted"],
)
def test_foreign_reasoning_stays_behind(block: dict[str, Any]):
    got = items(("user", "a"), ("assistant", [block, {"type": "text", "text": "t"}]))
    assert [i["type"] for i in got] == ["message", "message"]


def test_reasoning_never_stands_last_in_a_turn():
    got = items(
        ("user", "a"), ("assistant", [{"type": "text", "text": "t"}, thinking({"enc": "E"})]), ("user", "b")
    )
    assert [i["type"] for i in got] == ["message"] * 3


@pytest.mark.parametrize(("family", "role"), [(OPENAI, "developer"), ("openai_responses/xai", "system")])
def test_a_system_message_keeps_its_place(family: str, role: str):
    got = items(
        ("user", "a"), ("system", "now"), ("assistant", "b"), ("user", "c"), ctx=context(family=family)
    )
    assert got[1] == {"type": "message", "role": role, "content": [{"type": "input_text", "text": "now"}]}


def test_strict_is_always_said():
    schema = {"$schema": "s", "type": "object", "properties": {"a": {"type": "string"}}}
    tools = [
        {"name": "loose", "input_schema": schema},
        {"name": "tight", "input_schema": schema, "strict": True},
    ]
    loose, tight = encode(tools=tools).body["tools"]
    assert loose == {
        "type": "function",
        "name": "loose",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
        "strict": False,
    }
    assert tight["strict"] is True and tight["parameters"]["required"] == ["a"]


def test_long_names_are_shortened_everywhere_alike():
    name = "mcp__" + "x" * 80
    sent = encode(
        tools=[{"name": name, "input_schema": {}}],
        tool_choice={"type": "tool", "name": name},
        messages=[
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t" * 90, "name": name, "input": {}}],
            }
        ],
    )
    short = sent.body["tools"][0]["name"]
    assert len(short) == 64 and sent.names == {short: name}
    assert sent.body["tool_choice"] == {"type": "function", "name": short}
    call, result = sent.body["input"][:2]
    assert call["name"] == short and call["call_id"] == result["call_id"] and len(call["call_id"]) == 64


@pytest.mark.parametrize(
    ("choice", "expected"),
    [({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none"), (None, None)],
)
def test_tool_choice(choice: Any, expected: Any):
    tools = [{"name": "f", "input_schema": {}}]
    assert encode(tools=tools, tool_choice=choice).body.get("tool_choice") == expected
    assert "tool_choice" not in encode(tool_choice=choice).body


def test_one_call_at_a_time():
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert (
        encode(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice).body["parallel_tool_calls"]
        is False
    )


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("gpt-5.2", "max", "xhigh"),
        ("gpt-5.2", "off", "none"),
        ("gpt-5.1", "xhigh", "high"),
        ("gpt-5-mini", "off", "minimal"),
        ("gpt-5.1-codex-max", "max", "xhigh"),
        ("gpt-5-codex", "off", "low"),
        ("openai/o4-mini", "xhigh", "high"),
        ("openai.gpt-oss-20b", "low", "low"),
        ("gpt-5-pro", "low", "high"),
        ("gpt-6-astra", "medium", "medium"),
        ("gpt-4o", "high", None),
        ("gpt-5-chat-latest", "high", None),
        ("grok-4.3", "high", None),
    ],
)
def test_the_effort_in_the_models_own_words(model: str, effort: str, expected: str | None):
    wish: dict[str, Any] = {"thinking": {"type": "disabled"}}
    if effort != "off":
        wish = {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    assert encode(context(model), **wish).body.get("reasoning", {}).get("effort") == expected


def test_the_catalogue_knows_the_efforts_better():
    facts = ModelFacts("grok-9", known=True, efforts=("low", "high"))
    sent = encode(context("grok-9", facts=facts), thinking={"type": "enabled", "budget_tokens": 8000})
    assert sent.body["reasoning"] == {"effort": "low", "summary": "auto"}


def test_nothing_about_reasoning_for_models_without():
    body = encode(context("gpt-4o"), thinking={"type": "adaptive"}, temperature=0.5).body
    assert "reasoning" not in body and "include" not in body and body["temperature"] == 0.5


def test_sampling_is_dropped_for_reasoning_models():
    sent = encode(temperature=0.5, top_p=0.9, top_k=4)
    assert not {"temperature", "top_p", "top_k"} & sent.body.keys()
    assert {loss.feature for loss in sent.losses} == {"temperature", "top_p", "top_k"}


def test_limits_and_stops():
    assert encode(max_tokens=1).body["max_output_tokens"] == 16
    capped = context(facts=ModelFacts("gpt-5.2", output_cap=500))
    assert encode(capped, max_tokens=64000).body["max_output_tokens"] == 500
    sent = encode(stop_sequences=["</x>", ""])
    assert sent.cut == ("</x>",) and "stop" not in sent.body


def test_only_openai_hears_who_asks():
    request = {"metadata": {"user_id": "u" * 200}, "speed": "fast"}
    body = encode(context(session="s" * 100), **request).body
    assert len(body["prompt_cache_key"]) == 64 and len(body["safety_identifier"]) == 64
    assert body["service_tier"] == "priority"
    other = encode(context(family="openai_responses/custom", session="s"), **request).body
    assert not {"prompt_cache_key", "safety_identifier", "service_tier"} & other.keys()


def test_structured_output_is_strict_where_it_can_be():
    def sent(schema: Any) -> Any:
        return encode(output_config={"format": {"type": "json_schema", "schema": schema}}).body["text"][
            "format"
        ]

    closed = {
        "type": "object",
        "properties": {"t": {"type": "string"}},
        "required": ["t"],
        "additionalProperties": False,
    }
    assert sent(closed)["strict"] is True
    open_map = {"type": "object", "properties": {"t": {}}}
    assert sent(open_map) == {"type": "json_schema", "name": "output", "schema": open_map, "strict": False}


SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8, "allowed_domains": ["a.org"]}


def test_the_web_search_of_those_who_have_one():
    body = encode(tools=[SEARCH], tool_choice={"type": "tool", "name": "web_search"}).body
    assert body["tools"] == [{"type": "web_search", "filters": {"allowed_domains": ["a.org"]}}]
    assert body["tool_choice"] == "required" and "web_search_call.action.sources" in body["include"]


def test_without_a_search_the_choice_goes_too():
    sent = encode(
        context(family="openai_responses/custom"),
        tools=[SEARCH],
        tool_choice={"type": "tool", "name": "web_search"},
    )
    assert not {"tools", "tool_choice"} & sent.body.keys()
    assert "tools.web_search_20250305" in {loss.feature for loss in sent.losses}


def test_counting():
    request = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "system": "s", "max_tokens": 5}
    sent = DIALECT.encode_count(request, context())
    assert sent is not None and sent.path == "/responses/input_tokens"
    assert sent.body.keys() == {"model", "input", "instructions"}
    assert DIALECT.encode_count(request, context(family="openai_responses/xai")) is None
    assert DIALECT.decode_count({"object": "response.input_tokens", "input_tokens": 16}) == 16
    with pytest.raises(BadUpstream):
        DIALECT.decode_count({"total": 1})


def test_the_ids_of_the_history_are_remembered():
    call = {"type": "tool_use", "id": "call_0", "name": "f", "input": {}}
    assert encode(messages=[{"role": "assistant", "content": [call]}]).seen_ids == {"call_0"}


def test_a_provider_that_takes_no_documents_gets_a_note():
    ctx = context(family="openai_responses/xai", abilities=frozenset({"tools", "images"}))
    got = items(("user", [{"type": "document", "source": PDF}]), ctx=ctx)
    assert got[0]["content"] == [{"type": "input_text", "text": "[document omitted: p takes no documents]"}]
