"""What is read off a request without parsing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccm.routing.classify import Ask

UUID = "3650ef92-578c-4a67-8eba-f9426cda93b7"


def ask(request: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> Ask:
    raw = json.dumps(request, separators=more.pop("separators", (",", ":"))).encode()
    return Ask(
        request.get("model", "claude-opus-5-5"),
        bool(request.get("stream")),
        headers or {},
        more.pop("size_bytes", len(raw)),
        raw=raw,
        **more,
    )


MAIN: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "system": [{"type": "text", "text": "You are a Claude agent."}],
    "tools": [{"name": "Bash", "description": "runs", "input_schema": {"type": "object"}}],
    "max_tokens": 32000,
    "stream": True,
}


def test_session_from_the_header_comes_first() -> None:
    body = {**MAIN, "metadata": {"user_id": '{"session_id":"other"}'}}
    assert ask(body, {"x-claude-code-session-id": UUID}).session() == UUID


def test_session_header_is_cleaned_and_bounded() -> None:
    assert ask(MAIN, {"x-claude-code-session-id": "a\x1b[31m b" + "c" * 500}).session() == "a31mb" + "c" * 120


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(
    "user_id",
    [
        json.dumps({"device_id": "f6" * 32, "account_uuid": "", "session_id": UUID}),
        json.dumps({"device_id": "f6" * 32, "session_id": UUID}, separators=(",", ":")),
        f"user_{'0a' * 32}_account__session_{UUID}",
    ],
)
def test_session_in_both_forms_of_user_id(user_id: str, separators: tuple[str, str]) -> None:
    body = {**MAIN, "metadata": {"tag": "x", "user_id": user_id}}
    assert ask(body, separators=separators).session() == UUID


def test_session_is_not_taken_from_a_tool_input() -> None:
    tool = {
        "type": "tool_use",
        "id": "t",
        "name": "x",
        "input": {"user_id": f"user_1_account__session_{UUID}"},
    }
    assert ask({**MAIN, "messages": [{"role": "assistant", "content": [tool]}]}).session() == ""


def test_session_from_a_parsed_body_where_there_are_no_bytes() -> None:
    body = {"metadata": {"user_id": f"user_1_account__session_{UUID}"}}
    assert Ask("m", False, body=lambda: body).session() == UUID
    assert Ask("m", False, body=lambda: {"metadata": [1]}).session() == ""


def test_nothing_is_parsed_that_no_rule_asks_for() -> None:
    def body() -> dict[str, Any]:
        raise AssertionError("parsed")

    made = ask(MAIN, {"x-claude-code-session-id": UUID}, body=body)
    assert (made.session(), made.request_class(), made.input_tokens() > 10) == (UUID, "default", True)
    assert made.needs() == {"tools"}


@pytest.mark.parametrize(
    ("changes", "headers", "expected"),
    [
        ({}, {}, "default"),
        ({}, {"x-claude-code-request-class": "main"}, "default"),
        ({}, {"x-claude-code-request-class": "compaction"}, "compaction"),
        ({}, {"x-claude-code-request-class": "subagent"}, "subagent"),
        ({}, {"x-claude-code-request-class": "auxiliary"}, "background"),
        ({}, {"x-claude-code-request-class": "of-the-future"}, "default"),
        ({}, {"x-claude-code-agent-id": "af98"}, "subagent"),
        ({}, {"anthropic-beta": "claude-code-20250219,token-counting-2024-11-01"}, "count_tokens"),
        ({"system": [{"type": "text", "text": "x: cc_is_subagent=true;"}]}, {}, "subagent"),
        (
            {"system": [{"type": "text", "text": "cc_is_subagent=true;"}]},
            {"x-claude-code-session-id": "s"},
            "default",
        ),
        ({"max_tokens": 1}, {}, "probe"),
        ({"max_tokens": 10}, {}, "default"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}, {}, "web_search"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}, {"name": "Bash"}]}, {}, "default"),
        ({"model": "claude-haiku-4-5-20251001", "tools": []}, {}, "background"),
        ({"model": "claude-haiku-4-5-20251001"}, {}, "default"),
        (
            {
                "messages": [
                    {"role": "user", "content": "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools."}
                ]
            },
            {},
            "compaction",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": 'why "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools"?',
                    }
                ]
            },
            {},
            "default",
        ),
        (
            {
                "tools": [],
                "output_config": {
                    "format": {
                        "type": "json_schema",
                        "schema": {"type": "object", "properties": {"title": {"type": "string"}}},
                    }
                },
            },
            {},
            "title",
        ),
    ],
)
def test_request_class(changes: dict[str, Any], headers: dict[str, str], expected: str) -> None:
    assert ask({**MAIN, **changes}, headers).request_class() == expected


def test_a_count_is_known_by_its_surface() -> None:
    assert ask({**MAIN, "max_tokens": 1}, surface="count_tokens").request_class() == "count_tokens"


def test_max_tokens_1_in_a_large_request_is_no_probe() -> None:
    assert ask({**MAIN, "max_tokens": 1, "system": "x" * 5000}).request_class() == "default"


def test_needs_finds_images_inside_tool_results_with_any_spacing() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    body = {**MAIN, "messages": [{"role": "user", "content": [result]}], "thinking": {"type": "adaptive"}}
    assert ask(body).needs() == {"tools", "images", "thinking"}
    assert ask(body, separators=(",   ", " :  ")).needs() == {"tools", "images", "thinking"}
    assert Ask("m", False, body=lambda: body).needs() == {"tools", "thinking"} | {"images"}


def test_needs_does_not_take_a_property_for_a_block() -> None:
    tool = {"name": "Show", "input_schema": {"type": "object", "properties": {"image": {"type": "string"}}}}
    assert ask({**MAIN, "tools": [tool]}).needs() == {"tools"}


@pytest.mark.parametrize(
    ("surface", "block", "ability"),
    [
        ("messages", {"type": "document", "source": {"type": "text", "data": ""}}, "documents"),
        ("chat", {"type": "image_url", "image_url": {"url": "data:"}}, "images"),
        ("chat", {"type": "file", "file": {}}, "documents"),
        ("responses", {"type": "input_image", "image_url": "data:"}, "images"),
        ("responses", {"type": "input_file", "file_data": ""}, "documents"),
    ],
)
def test_needs_in_the_words_of_each_surface(surface: str, block: dict[str, Any], ability: str) -> None:
    body = {"messages": [{"role": "user", "content": [block]}]}
    assert ask(body, surface=surface).needs() == {ability}


def test_needs_looks_only_for_what_is_asked() -> None:
    made = ask({**MAIN, "tools": [{"type": "web_search_20250305", "name": "web_search"}]})
    assert made.needs(("images",)) == frozenset()
    assert made.needs(("web_search", "tools")) == {"web_search", "tools"}
    assert ask({**MAIN, "tools": []}).needs(("tools",)) == frozenset()


EXPECTED = {
    "01_v2.1.330_main_turn1.json": "default",
    "02_v2.1.330_main_parallel_tool_results.json": "default",
    "03_v2.1.330_unknown_model_gpt-5.2.json": "default",
    "05_v2.1.330_title_request.json": "title",
    "06_v2.1.330_count_tokens_tools.json": "count_tokens",
    "06b_v2.1.330_count_tokens_text.json": "count_tokens",
    "07_v2.1.330_subagent.json": "subagent",
    "09_v2.1.330_websearch_server_tool.json": "web_search",
    "12_v2.1.330_nonstreaming_fallback.json": "default",
    "15_v2.1.330_sonnet-4-5_enabled_thinking.json": "default",
    "20_v2.1.197_main_turn1.json": "default",
    "21_v2.0.76_main_turn1.json": "default",
    "23_v2.0.76_count_tokens_startup.json": "count_tokens",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_requests_of_claude_code(name: str, shared: Path) -> None:
    recorded = json.loads((shared / "corpus/clients/claude-code-recorded" / name).read_text())
    body = recorded["body"]
    raw = (body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))).encode()
    headers = {key.lower(): value for key, value in recorded["headers"]}
    parsed = json.loads(raw)
    made = Ask(parsed["model"], False, headers, len(raw), raw=raw)
    assert made.request_class() == EXPECTED[name]
    user = str(parsed.get("metadata", {}).get("user_id", ""))
    if user:
        bare = Ask(parsed["model"], False, {}, len(raw), raw=raw)
        assert bare.session() and bare.session() in user
