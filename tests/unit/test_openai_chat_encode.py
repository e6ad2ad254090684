"""What each family of OpenAI-compatible providers gets to see."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.openai_chat import DIALECT
from ccm.dialects.openai_chat.knobs import KNOBS
from ccm.dialects.openai_chat.policy import MODELS, PROVIDERS, QUIRKS, Policy, policy_of
from ccm.dialects.state import wrap
from ccm.errors import Refusal
from ccm.model import ModelFacts

TOOL = {"name": "T", "description": "d", "input_schema": {"type": "object", "properties": {}}}


def context(kind: str = "custom", model: str = "m", **more: Any) -> Context:
    numbers = itertools.count()
    more.setdefault("facts", ModelFacts(model))
    return Context(
        "p", f"openai_chat/{kind}", model, "claude", new_id=lambda p: f"{p}{next(numbers)}", **more
    )


def encode(request: dict[str, Any], kind: str = "custom", model: str = "m", **more: Any) -> Encoded:
    request = {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "q"}],
        **request,
    }
    return DIALECT.encode(request, context(kind, model, **more))


def messages(history: list[dict[str, Any]], kind: str = "custom", **more: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = encode({"messages": history}, kind, **more).body["messages"]
    return out


def turn(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation with one assistant turn of these blocks, its calls answered."""
    results = [
        {"type": "tool_result", "tool_use_id": b["id"], "content": "r"}
        for b in blocks
        if b["type"] == "tool_use"
    ]
    return [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": list(blocks)},
        {"role": "user", "content": [*results, {"type": "text", "text": "t"}]},
    ]


def call(id: str = "toolu_01AAAAAAAA", name: str = "T") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {"a": 1}}


def thinking(text: str, family: str = "openai_chat/custom", **state: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": wrap(family, state)}


def test_every_row_of_the_tables_can_be_used() -> None:
    fields = set(Policy.__dataclass_fields__)
    changes = [*PROVIDERS.values(), *QUIRKS.values(), *(row[2] for row in MODELS)]
    assert all(set(change) <= fields for change in changes)
    for kind in PROVIDERS:
        policy = policy_of(context(kind))
        assert policy.effort in KNOBS
        assert encode({"thinking": {"type": "adaptive"}}, kind).body["messages"]


@pytest.mark.parametrize(
    ("kind", "model", "field", "role", "sampling"),
    [
        ("openai", "gpt-5.2", "max_completion_tokens", "developer", False),
        ("openai", "o3-mini", "max_completion_tokens", "developer", False),
        ("azure", "gpt-5-mini", "max_completion_tokens", "developer", False),
        ("openai", "o1-mini", "max_completion_tokens", "user", False),
        ("openai", "gpt-4o", "max_tokens", "system", True),
        ("custom", "gpt-5.2", "max_completion_tokens", "system", False),
        ("custom", "llama", "max_tokens", "system", True),
        ("openrouter", "openai/gpt-5.2", "max_tokens", "system", False),
    ],
)
def test_reasoning_models_of_openai(kind: str, model: str, field: str, role: str, sampling: bool) -> None:
    sent = encode({"system": "S", "temperature": 0.5, "stop_sequences": ["x"]}, kind, model)
    assert sent.body[field] == 100
    assert sent.body["messages"][0]["role"] == role
    assert ("temperature" in sent.body) is sampling
    assert ("stop" in sent.body) is sampling and (sent.cut == ("x",)) is not sampling


def test_max_tokens_stays_within_what_the_model_gives() -> None:
    assert encode({}, facts=ModelFacts("m", output_cap=50)).body["max_tokens"] == 50


@pytest.mark.parametrize(
    ("kind", "model", "request_", "fields"),
    [
        ("custom", "m", {"thinking": {"type": "adaptive"}}, {}),
        ("deepseek", "deepseek-v4-pro", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("deepseek", "deepseek-v4-pro", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        ("deepseek", "deepseek-v4-pro", {}, {}),
        ("zai", "glm-5", {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "enabled", "clear_thinking": False}}),
        ("kimi", "kimi-k3", {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "enabled"}}),
        ("openrouter", "x/y", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning": {"effort": "xhigh"}}),
        ("openrouter", "x/y", {"thinking": {"type": "disabled"}}, {"reasoning": {"enabled": False}}),
        ("groq", "openai/gpt-oss-120b", {"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "high"}),
        ("groq", "qwen/qwen3-32b", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ("groq", "llama-3.3-70b", {"thinking": {"type": "adaptive"}}, {}),
        ("openai", "gpt-5.1", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ("openai", "gpt-5", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "minimal"}),
        ("openai", "gpt-4o", {"thinking": {"type": "adaptive"}}, {}),
        ("openai", "gpt-5.6", {"tools": [TOOL], "thinking": {"type": "adaptive"}}, {"reasoning_effort": "none"}),
        ("openai", "gpt-5.6", {"tools": [TOOL]}, {"reasoning_effort": "none"}),
        ("alibaba", "qwen3", {"thinking": {"type": "enabled", "budget_tokens": 5000}}, {"enable_thinking": True, "thinking_budget": 5000}),
        ("vllm", "qwen3", {"thinking": {"type": "disabled"}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("cerebras", "zai-glm-4.7", {"thinking": {"type": "disabled"}}, {"disable_reasoning": True}),
    ],
)  # fmt: skip
def test_how_hard_to_think(kind: str, model: str, request_: dict[str, Any], fields: dict[str, Any]) -> None:
    body = encode(request_, kind, model).body
    knobs = ("thinking", "reasoning_effort", "reasoning", "enable_thinking", "thinking_budget", "chat_template_kwargs", "disable_reasoning", "reasoning_format")  # fmt: skip
    assert {k: body[k] for k in knobs if k in body} == fields


def test_effort_by_the_facts_of_the_model() -> None:
    facts = ModelFacts("m", known=True, thinking="effort", efforts=("low", "high"))
    assert encode({"output_config": {"effort": "max"}}, facts=facts).body["reasoning_effort"] == "high"


def test_reasoning_goes_back_in_the_field_it_came_from() -> None:
    def sent(block: dict[str, Any], kind: str = "custom") -> dict[str, Any]:
        return messages(turn(block, call()), kind)[1]

    assert sent(thinking("t", f="reasoning"))["reasoning"] == "t"
    assert sent(thinking("t", f="reasoning_content"))["reasoning_content"] == "t"
    assert sent(thinking("t", f="parts"))["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}
    ]
    details = [{"type": "reasoning.text", "text": "t", "signature": "s", "index": 0}]
    assert sent(thinking("t", f="reasoning_details", d=details))["reasoning_details"] == details
    glm = thinking("t", "openai_chat/cerebras", f="reasoning")
    assert (
        messages(turn(glm, {"type": "text", "text": "x"}), "cerebras", model="zai-glm-4.7")[1]["content"]
        == "<think>t</think>x"
    )


def test_reasoning_of_others_is_kept_only_where_it_is_wanted() -> None:
    native = {"type": "thinking", "thinking": "t", "signature": "EqQB"}
    assert set(messages(turn(native, call()))[1]) == {"role", "content", "tool_calls"}
    assert messages(turn(native, call()), "deepseek")[1]["reasoning_content"] == "t"
    other = thinking("t", "openai_chat/groq", f="reasoning")
    sent = encode({"messages": turn(other, call())})
    assert "reasoning" not in sent.body["messages"][1] and Loss("thinking") in sent.losses


def test_missing_reasoning_is_filled_in_for_those_who_insist() -> None:
    assert messages(turn(call()), "deepseek")[1]["reasoning_content"] == ""
    assert messages(turn(call()), "moonshot")[1]["reasoning_content"] == " "
    off = encode({"messages": turn(call()), "thinking": {"type": "disabled"}}, "deepseek")
    assert "reasoning_content" not in off.body["messages"][1]
    history = turn(thinking("t", f="reasoning_content"), call()) + turn(call("toolu_01BBBBBBBB"))
    filled = [m.get("reasoning_content") for m in messages(history) if m["role"] == "assistant"]
    assert filled == ["t", ""]


def test_googles_signature_returns_with_its_call() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    calls = messages(turn(call("toolu_01BBBBBBBB"), thinking("", x=extra), call()))[1]["tool_calls"]
    assert [c.get("extra_content") for c in calls] == [None, extra]


def test_ids_by_the_providers_rule() -> None:
    odd = "toolu_000001--ZnVuY3Rpb25zLkJhc2g6MA"  # what we made of functions.Bash:0
    sent = messages(turn(call(odd), call("call_" + "x" * 60)))
    ids = [c["id"] for c in sent[1]["tool_calls"]]
    assert ids == ["functions.Bash:0", "call_" + "x" * 60]
    assert [m["tool_call_id"] for m in sent if m["role"] == "tool"] == ids
    short = messages(turn(call("call_" + "x" * 60)), "openai")
    assert (
        len(short[1]["tool_calls"][0]["id"]) == 40
        and short[2]["tool_call_id"] == short[1]["tool_calls"][0]["id"]
    )
    nine = messages(turn(call()), "mistral")[1]["tool_calls"][0]["id"]
    assert len(nine) == 9 and nine.isalnum()


def test_two_calls_never_get_one_id() -> None:
    first, second = "toolu_000001--Y2FsbF8w", "toolu_000002--Y2FsbF8w"  # call_0, twice
    ids = [
        c["id"] for m in messages(turn(call(first)) + turn(call(second))) for c in m.get("tool_calls") or ()
    ]
    assert ids == ["call_0", second]


def test_long_tool_names_are_short_everywhere() -> None:
    name = "mcp__" + "x" * 90
    request = {
        "tools": [{**TOOL, "name": name}],
        "tool_choice": {"type": "tool", "name": name},
        "messages": turn(call(name=name)),
    }
    sent = encode(request)
    short = sent.body["tools"][0]["function"]["name"]
    assert len(short) == 64 and sent.names == {short: name}
    assert sent.body["tool_choice"]["function"]["name"] == short
    assert sent.body["messages"][1]["tool_calls"][0]["function"]["name"] == short


@pytest.mark.parametrize(
    ("kind", "choice", "expected"),
    [
        ("custom", {"type": "auto"}, "auto"),
        ("custom", {"type": "any"}, "required"),
        ("mistral", {"type": "any"}, "any"),
        ("custom", {"type": "none"}, "none"),
        ("custom", {"type": "tool", "name": "T"}, {"type": "function", "function": {"name": "T"}}),
        ("custom", {"type": "tool", "name": "gone"}, None),
        ("deepseek", {"type": "any"}, "auto"),
    ],
)
def test_tool_choice(kind: str, choice: dict[str, Any], expected: Any) -> None:
    request = {"tools": [TOOL], "tool_choice": choice, "thinking": {"type": "adaptive"}}
    assert encode(request, kind).body.get("tool_choice") == expected


def test_parallel_calls_are_mentioned_only_with_tools() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert encode({"tools": [TOOL], "tool_choice": choice}).body["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in encode({"tools": [], "tool_choice": choice}).body
    assert "tools" not in encode({"tools": []}).body


def test_media() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    pdf = {
        "type": "document",
        "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "BB"},
    }
    history = [{"role": "user", "content": [image, pdf]}]
    parts = messages(history, "openrouter")[0]["content"]
    assert parts[0]["image_url"]["url"] == "data:image/png;base64,AA"
    assert parts[1]["file"] == {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BB"}
    blind = encode({"messages": history}, facts=ModelFacts("m", abilities=frozenset({"tools"})))
    text = blind.body["messages"][0]["content"]
    assert "image omitted" in text and "a.pdf" in text
    assert {Loss("image"), Loss("document")} <= set(blind.losses)
    with pytest.raises(Refusal) as refused:
        messages(
            [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]
        )
    assert refused.value.status == 400


def test_a_mid_conversation_system_message() -> None:
    history = [
        {"role": "user", "content": "q"},
        {"role": "system", "content": "S"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    assert [m["role"] for m in messages(history, "openai")] == ["user", "system", "assistant", "user"]
    folded = messages(history)
    assert [m["role"] for m in folded] == ["user", "assistant", "user"]
    assert folded[0]["content"] == "q\n\n<system-reminder>\nS\n</system-reminder>"


def test_a_provider_without_tools_is_told_about_them() -> None:
    sent = encode({"messages": turn(call()), "tools": [TOOL]}, "perplexity")
    assert "tools" not in sent.body and Loss("tools") in sent.losses
    roles = [m["role"] for m in sent.body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert '[T: {"a": 1}]' in sent.body["messages"][1]["content"]


def test_prefill() -> None:
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "{"}]
    assert messages(history, "mistral")[-1] == {"role": "assistant", "content": "{", "prefix": True}
    assert messages(history)[-1] == {"role": "assistant", "content": "{"}
    assert messages(history, "perplexity")[-1]["role"] == "user"


def test_structured_output() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    request = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    form = encode(request).body["response_format"]
    assert form["json_schema"] == {"name": "output", "schema": schema, "strict": True}
    loose = {"output_config": {"format": {"type": "json_schema", "schema": {**schema, "required": []}}}}
    assert encode(loose).body["response_format"]["json_schema"]["strict"] is False
    plain = encode(request, "deepseek").body
    assert (
        plain["response_format"] == {"type": "json_object"}
        and '"additionalProperties"' in plain["messages"][0]["content"]
    )


def test_identity_and_cache_keys() -> None:
    request = {"metadata": {"user_id": "u" * 200}}
    body = encode(request, "openai", session="s" * 80).body
    assert len(body["safety_identifier"]) == 64 and len(body["prompt_cache_key"]) == 64
    routed = encode(request, "openrouter", session="abc")
    assert routed.headers == {"x-session-id": "abc"} and "prompt_cache_key" not in routed.body
    assert Loss("metadata.user_id") in routed.losses


def test_web_search_by_the_providers_means_or_not_at_all() -> None:
    request = {
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        "tool_choice": {"type": "tool", "name": "web_search"},
        "messages": [{"role": "user", "content": "Perform a web search for the query: ccm 1.0"}],
    }
    without = encode(request)
    assert "tools" not in without.body and "tool_choice" not in without.body
    assert Loss("tools.web_search_20250305") in without.losses
    ctx = context("openrouter", abilities=frozenset({"web_search_openrouter"}))
    sent = DIALECT.encode({"model": "c", "max_tokens": 9, **request}, ctx)
    assert sent.body["plugins"] == [{"id": "web", "max_results": 8}] and sent.losses == []
    note = {"type": "url_citation", "url_citation": {"url": "https://e.org", "title": "E", "content": "x"}}
    answer = {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"content": "found", "annotations": [note]}}
        ]
    }
    message = DIALECT.decode(answer, ctx, sent)
    assert [b["type"] for b in message["content"]] == ["text", "server_tool_use", "web_search_tool_result"]
    assert message["content"][1]["input"] == {"query": "ccm 1.0"}
    assert message["content"][2]["content"][0]["url"] == "https://e.org"
    assert message["usage"]["server_tool_use"]["web_search_requests"] == 1


def test_azures_version_goes_into_the_path() -> None:
    assert (
        encode({}, "azure", options={"api_version": "2024-10-21"}).path
        == "/chat/completions?api-version=2024-10-21"
    )


def test_quirks_change_the_policy() -> None:
    sent = encode({"system": "S", "tools": [TOOL], "stop_sequences": ["x"]}, quirks=frozenset({"no_stop", "no_tools", "no_system_role"}), stream=True)  # fmt: skip
    assert sent.cut == ("x",) and "tools" not in sent.body and sent.body["messages"][0]["role"] == "user"
    assert "stream_options" not in encode({}, quirks=frozenset({"no_stream_options"}), stream=True).body


def test_a_limit_on_the_number_of_tools() -> None:
    many = {"tools": [{**TOOL, "name": f"T{n}"} for n in range(130)]}
    assert len(encode(many, "openai", "gpt-4o").body["tools"]) == 128
    assert len(encode(many).body["tools"]) == 130
