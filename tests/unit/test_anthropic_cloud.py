"""Claude on Vertex: the path, the body, the betas; and that everybody else is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.anthropic import DIALECT, can_pass
from ccm.dialects.base import Context, Loss
from ccm.dialects.state import wrap
from ccm.model import ModelFacts

VERTEX = {"vertex": True}
TOOL = {"name": "T", "description": "d", "input_schema": {"type": "object"}}
KNOWN = ModelFacts("m", known=True, thinking="adaptive", efforts=("low", "high"))


def context(model: str = "claude-sonnet-4-5@20250929", **more: Any) -> Context:
    fields: dict[str, Any] = {"options": VERTEX, "facts": ModelFacts(model), "stream": True} | more
    return Context(
        provider="v", family="anthropic/vertex", model=model, asked_model="claude-x", new_id=str, **fields
    )


def request(**more: Any) -> dict[str, Any]:
    body = {"model": "claude-x", "max_tokens": 10, "stream": True}
    return body | {"messages": [{"role": "user", "content": "hi"}]} | more


@pytest.mark.parametrize(("stream", "verb"), [(True, "streamRawPredict"), (False, "rawPredict")])
def test_the_model_stands_in_the_path_and_the_version_in_the_body(stream: bool, verb: str) -> None:
    sent = DIALECT.encode(request(stream=stream), context(stream=stream))
    assert sent.path == f"/models/claude-sonnet-4-5@20250929:{verb}"
    assert sent.body == {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 10,
        "stream": stream,
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert sent.headers == {} and sent.losses == []


def test_an_odd_model_name_stays_one_segment_of_the_path() -> None:
    sent = DIALECT.encode(request(), context("a/b?c#d:e"))
    assert sent.path == "/models/a%2Fb%3Fc%23d%3Ae:streamRawPredict"


def test_what_vertex_does_not_know_is_left_out_and_told() -> None:
    sent = DIALECT.encode(
        request(
            context_management={"edits": []},
            speed="fast",
            container=None,
            metadata={"user_id": "u"},
            output_config={"effort": "high", "format": {"type": "json_schema"}},
        ),
        context(),
    )
    assert sorted(sent.body) == [
        "anthropic_version",
        "max_tokens",
        "messages",
        "metadata",
        "output_config",
        "stream",
    ]
    assert sent.losses == [Loss("context_management"), Loss("speed")]


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        (ModelFacts("m"), {"effort": "high"}),
        (KNOWN, {"effort": "high"}),
        (ModelFacts("m", known=True, thinking="adaptive"), None),
    ],
)
def test_effort_goes_to_models_that_have_it(facts: ModelFacts, kept: dict[str, str] | None) -> None:
    body = request(model="m", output_config={"effort": "high"})
    sent = DIALECT.encode(body, context("m", facts=facts))
    assert sent.body.get("output_config") == kept
    assert (Loss("output_config.effort") in sent.losses) == (kept is None)


def test_betas_stay_in_the_header_as_far_as_vertex_knows_them() -> None:
    asked = "claude-code-20250219, context-management-2025-06-27,interleaved-thinking-2025-05-14,claude-code-20250219"
    sent = DIALECT.encode(
        request(), context(client_headers={"anthropic-beta": asked, "anthropic-version": "x"})
    )
    assert sent.headers == {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
    assert sent.losses == [Loss("beta.context-management")]


def test_a_betas_name_cannot_become_any_label() -> None:
    sent = DIALECT.encode(request(), context(client_headers={"anthropic-beta": "X" * 100}))
    assert sent.losses == [Loss("beta.other")]


def test_tools() -> None:
    tools = [
        TOOL | {"defer_loading": True, "strict": False, "cache_control": {"type": "ephemeral", "scope": "o"}},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
    ]
    sent = DIALECT.encode(request(tools=tools, tool_choice={"type": "tool", "name": "web_fetch"}), context())
    assert sent.body["tools"] == [TOOL | {"cache_control": {"type": "ephemeral"}}, tools[1]]
    assert "tool_choice" not in sent.body
    assert [loss.feature for loss in sent.losses] == ["tools.defer_loading", "tools.web_fetch", "tool_choice"]
    kept = DIALECT.encode(request(tools=[TOOL], tool_choice={"type": "any"}), context())
    assert kept.body["tool_choice"] == {"type": "any"} and kept.losses == []


def test_cache_marks_lose_what_is_anthropics_own() -> None:
    mark = {"type": "ephemeral", "ttl": "1h", "scope": "organization"}
    plain = {"type": "ephemeral", "ttl": "1h"}
    inner = {"type": "text", "text": "r", "cache_control": mark}
    body = request(
        system=[{"type": "text", "text": "s", "cache_control": mark}],
        messages=[
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [inner]}]}
        ],
    )
    sent = DIALECT.encode(body, context()).body
    assert sent["system"][0]["cache_control"] == plain
    assert sent["messages"][0]["content"][0]["content"][0]["cache_control"] == plain
    assert inner["cache_control"] == mark, "the request is read only"


def test_system_messages_in_mid_conversation_become_reminders() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    note = {"type": "text", "text": "<system-reminder>\nmind this\n</system-reminder>"}
    system = {"role": "system", "content": "mind this"}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]

    def folded(*messages: Any) -> list[Any]:
        return list(DIALECT.encode(request(messages=list(messages)), context()).body["messages"])

    last = {"role": "user", "content": [{"type": "text", "text": "x"}, result]}
    assert folded(*turns, system, last)[-1]["content"] == [result, note, {"type": "text", "text": "x"}]
    assert folded(*turns, system)[-1] == {"role": "user", "content": [note]}
    assert folded(turns[0], system, turns[1])[0]["content"] == [{"type": "text", "text": "q"}, note]


def test_foreign_and_unsigned_thinking_stays_here() -> None:
    blocks = [
        {"type": "thinking", "thinking": "t", "signature": wrap("gemini/google", {})},
        {"type": "thinking", "thinking": "t", "signature": ""},
        {"type": "thinking", "thinking": "t", "signature": "EqQB"},
    ]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": blocks}]
    sent = DIALECT.encode(request(messages=messages), context())
    assert sent.body["messages"][1]["content"] == [blocks[2]]


def test_counting_has_one_path_for_all_models() -> None:
    sent = DIALECT.encode_count(request(system="s", tools=[TOOL], top_k=3), context())
    assert sent is not None and sent.path == "/models/count-tokens:rawPredict"
    assert sent.body == {
        "model": "claude-sonnet-4-5@20250929",
        "anthropic_version": "vertex-2023-10-16",
        "messages": [{"role": "user", "content": "hi"}],
        "system": "s",
        "tools": [TOOL],
    }


def test_others_are_left_alone() -> None:
    plain = context(options={})
    assert can_pass(plain) and not can_pass(context())
    sent = DIALECT.encode(request(speed="fast"), plain)
    assert sent.path == "/v1/messages" and sent.body["speed"] == "fast" and sent.body["model"] == plain.model
    count = DIALECT.encode_count(request(), plain)
    assert count is not None and count.path == "/v1/messages/count_tokens"


def test_the_requests_have_the_shape_that_the_official_client_sends(shared: Path) -> None:
    path = shared / "corpus" / "clients" / "anthropic-python-2.12.0.bedrock-vertex-foundry.json"
    recorded = json.loads(path.read_text("utf-8"))["requests"]
    seen = 0
    for item in recorded:
        target = str(item.get("path") or item.get("url"))
        if "/publishers/anthropic/models/" not in target:
            continue
        seen += 1
        body = item.get("body") or item.get("json")
        body = json.loads(body) if isinstance(body, str) else body
        mine = {k: v for k, v in body.items() if k != "anthropic_version"}
        ctx = context("claude-opus-4-7", facts=KNOWN, stream=bool(body.get("stream")))
        if "count-tokens" in target:
            sent = DIALECT.encode_count(mine, ctx)
            assert sent is not None
        else:
            sent = DIALECT.encode({**mine, "model": "claude-opus-4-7"}, ctx)
        assert target.endswith("/publishers/anthropic" + sent.path)
        assert set(sent.body) | {"output_config"} == set(body) | {"output_config"}
        assert {k: sent.body[k] for k in mine} == mine
    assert seen == 3
