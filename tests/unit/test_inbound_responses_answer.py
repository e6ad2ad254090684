"""Messages answers as Responses answers: the ladder of events, and what the official SDK makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.dialects.inbound.base import SURFACES
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage
from tests.inbound import CREATED, answer, ask, frames, ids, sdk, stream, whole

ASK: dict[str, Any] = {"model": "asked", "input": "hi"}
CITATION = {"type": "web_search_result_location", "url": "https://a", "title": "A", "cited_text": "x", "encrypted_index": ""}  # fmt: skip
FOUND = [{"type": "web_search_result", "url": "https://a", "title": "A", "encrypted_content": ""}]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The event types, runs of one as one, without "response."."""
    out: list[str] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if out[-1:] != [kind]:
            out.append(kind)
    return out


def test_the_ladder_of_a_text() -> None:
    data = stream("responses", answer(("text", "He"), ("text", "llo")), ASK)
    events = frames(data)
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert data.count(b"event: ") == len(events) and b"[DONE]" not in data
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert events[-2]["item"]["content"][0]["text"] == "Hello"
    assert events[-1]["response"]["created_at"] == CREATED


def test_the_sdk_reads_reasoning_calls_and_usage() -> None:
    usage = Usage(input=7, cache_read=20, output=9, thinking=4)
    events = answer(
        ("thinking", "why"),
        ("signature", "SIG"),
        ("text", "ok"),
        ("tool", 0, "toolu_a", "f"),
        ("tool_json", 0, '{"x"'),
        ("tool_json", 0, ":1}"),
        ("tool", 1, "toolu_b", "g"),
        usage=usage,
    )
    body = {**ASK, "tools": [{"type": "function", "name": "f", "parameters": {}}]}
    data = stream("responses", events, body)
    with sdk(data).responses.stream(**body) as s:
        final = s.get_final_response()
    assert [o.type for o in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output_text == "ok"
    reasoning, _, first, second = (o.model_dump() for o in final.output)
    assert (reasoning["encrypted_content"], reasoning["summary"][0]["text"]) == ("SIG", "why")
    assert (first["call_id"], first["arguments"], first["status"]) == ("toolu_a", '{"x":1}', "completed")
    assert second["arguments"] == "{}"
    assert final.usage is not None and final.usage.input_tokens == 27
    assert final.usage.input_tokens_details.cached_tokens == 20
    assert final.usage.output_tokens_details.reasoning_tokens == 4
    assert whole("responses", fold(events), body)["output"] == frames(data)[-1]["response"]["output"]


def test_what_came_goes_back_as_the_model_made_it() -> None:
    events = answer(
        ("thinking", "one"),
        ("signature", "S1"),
        ("text", "Hello"),
        ("block", {"type": "redacted_thinking", "data": "D"}),
        ("signature", "S2"),
        ("tool", 0, "toolu_a", "f"),
        ("tool_json", 0, '{"x": 1}'),
    )
    output = frames(stream("responses", events, ASK))[-1]["response"]["output"]
    request = ask("responses", {**ASK, "input": [{"role": "user", "content": "hi"}, *output]})
    assert request["messages"][1]["content"] == fold(events)["content"]


@pytest.mark.parametrize(
    ("stop", "status", "reason"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("max_tokens", "incomplete", "max_output_tokens"),
        ("model_context_window_exceeded", "incomplete", "max_output_tokens"),
        ("refusal", "incomplete", "content_filter"),
    ],
)
def test_how_it_ends(stop: str, status: str, reason: str | None) -> None:
    events = frames(stream("responses", answer(("text", "x"), stop=stop), ASK))
    assert events[-1]["type"] == f"response.{status}" and events[-1]["response"]["status"] == status
    assert (events[-1]["response"]["incomplete_details"] or {}).get("reason") == reason
    assert events[-2]["item"]["status"] == status


def test_a_refusal_without_text() -> None:
    events = answer(stop="refusal")
    events[-2]["delta"]["stop_details"] = {"type": "refusal", "category": None, "explanation": "No."}
    made = frames(stream("responses", events, ASK))
    assert "refusal.done" in kinds(made)
    assert made[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_text_cut_by_citations_is_one_message() -> None:
    events = answer(("text", "Before. "), ("close",), ("text", "Cited"), ("cite", CITATION), ("close",), ("text", "."))  # fmt: skip
    made = frames(stream("responses", events, ASK))
    note = {"type": "url_citation", "start_index": 8, "end_index": 13, "url": "https://a", "title": "A"}
    assert [e["annotation"] for e in made if e["type"].endswith("annotation.added")] == [note]
    assert [o["type"] for o in made[-1]["response"]["output"]] == ["message"]
    part = made[-1]["response"]["output"][0]["content"][0]
    assert part["text"] == "Before. Cited." and part["annotations"] == [note]


@pytest.mark.parametrize("sources", [True, False])
def test_web_search(sources: bool) -> None:
    body = {**ASK, "tools": [{"type": "web_search"}]}
    if sources:
        body["include"] = ["web_search_call.action.sources"]
    events = answer(
        ("text", "Let me look."),
        ("tool", 0, "s1", "web_search", "server_tool_use"),
        ("tool_json", 0, '{"query": "q"}'),
        ("tool_end", 0),
        ("block", {"type": "web_search_tool_result", "tool_use_id": "s1", "content": FOUND}),
        ("text", "x"),
    )
    made = frames(stream("responses", events, body))
    assert [k for k in kinds(made) if "search" in k] == ["web_search_call.in_progress", "web_search_call.searching", "web_search_call.completed"]  # fmt: skip
    with sdk(stream("responses", events, body)).responses.stream(**body) as s:
        final = s.get_final_response().model_dump(exclude_unset=True)
    assert [o["type"] for o in final["output"]] == ["message", "web_search_call", "message"]
    call = final["output"][1]
    assert (call["status"], call["action"]["query"]) == ("completed", "q")
    assert call["action"].get("sources") == ([{"type": "url", "url": "https://a"}] if sources else None)


def test_custom_and_namespaced_tools_come_back_as_they_were_offered() -> None:
    tools = [
        {"type": "custom", "name": "apply_patch"},
        {
            "type": "namespace",
            "name": "mcp__git__",
            "description": "d",
            "tools": [{"type": "function", "name": "log"}],
        },
    ]
    body = {**ASK, "tools": tools}
    text = '*** Begin Patch\n+"é😀"\\'
    events = answer(
        ("tool", 0, "t1", "apply_patch"),
        *(("tool_json", 0, c) for c in json.dumps({"input": text})),
        ("tool", 1, "t2", "mcp__git__log"),
        ("tool_json", 1, "{}"),
    )
    made = frames(stream("responses", events, body))
    deltas = [e["delta"] for e in made if e["type"] == "response.custom_tool_call_input.delta"]
    assert len(deltas) > 10 and "".join(deltas) == text
    custom, function = made[-1]["response"]["output"]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", text)
    assert (function["type"], function["namespace"], function["name"]) == (
        "function_call",
        "mcp__git__",
        "log",
    )
    again = ask("responses", {**body, "input": [{"role": "user", "content": "hi"}, custom, function]})
    assert again["messages"][1]["content"] == fold(events)["content"]


@pytest.mark.parametrize(
    ("tool", "given", "made"),
    [
        (
            "local_shell",
            {"command": ["ls", "-l"], "working_directory": "/tmp"},
            {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": None, "working_directory": "/tmp"}},
        ),
        (
            "shell",
            {"commands": ["pwd"], "timeout_ms": 5},
            {"type": "shell_call", "action": {"commands": ["pwd"], "timeout_ms": 5, "max_output_length": None}, "environment": {"type": "local"}},
        ),
        (
            "apply_patch",
            {"operation": {"type": "update_file", "path": "a", "diff": "@@"}},
            {"type": "apply_patch_call", "operation": {"type": "update_file", "path": "a", "diff": "@@"}},
        ),
        ("tool_search", {"query": "x"}, {"type": "tool_search_call", "execution": "client", "arguments": {"query": "x"}}),
        ("local_shell", {"cmd": 1}, {"type": "function_call", "name": "local_shell", "arguments": '{"cmd": 1}'}),
    ],
)  # fmt: skip
def test_typed_calls(tool: str, given: dict[str, Any], made: dict[str, Any]) -> None:
    body = {**ASK, "tools": [{"type": tool, "execution": "client"}]}
    events = answer(("tool", 0, "t1", tool), ("tool_json", 0, json.dumps(given)))
    got = frames(stream("responses", events, body))
    item = got[-1]["response"]["output"][0]
    assert {k: v for k, v in item.items() if k not in ("id", "call_id", "status")} == made
    assert (item["call_id"], item["status"]) == ("t1", "completed")
    assert kinds(got)[2:4] == ["output_item.added", "output_item.done"]


def test_a_stream_that_breaks() -> None:
    renderer = SURFACES["responses"].renderer("asked", {}, ASK, ids(), CREATED)
    data = b"".join(renderer.render(e) for e in answer(("text", "half"))[:3]) + renderer.alive()
    data += renderer.fail("rate_limit_error", "p: slow down", "req_1")
    last = frames(data)[-1]
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "rate_limit_exceeded", "message": "p: slow down"}
    with pytest.raises(RuntimeError, match="completed"), sdk(data).responses.stream(**ASK) as s:
        s.get_final_response()


def test_a_failure_before_anything_was_sent_still_begins_with_created() -> None:
    data = SURFACES["responses"].renderer("asked", {}, ASK, ids(), CREATED).fail("api_error", "x", "r")
    assert kinds(frames(data)) == ["created", "in_progress", "failed"]


def test_the_request_is_echoed() -> None:
    body = {
        **ASK,
        "instructions": "I",
        "tools": [{"type": "function", "name": "f"}],
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "reasoning": {"effort": "low"},
    }
    made = whole("responses", fold(answer(("text", "x"))), body)
    assert (made["model"], made["instructions"], made["temperature"], made["top_p"]) == (
        "asked",
        "I",
        0.5,
        1.0,
    )
    assert made["tools"] == [{"type": "function", "name": "f", "strict": False, "parameters": None}]
    assert made["text"]["format"]["name"] == "n" and made["reasoning"] == {"effort": "low", "summary": None}
    assert (made["metadata"], made["tool_choice"]) == ({"a": "b"}, "auto")
