"""Messages answers as Chat Completions answers, read by the official SDK."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from ccm.dialects.inbound.base import SURFACES
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage
from tests.inbound import CREATED, answer, ask, frames, ids, sdk, stream, whole

ASK: dict[str, Any] = {"model": "asked", "messages": [{"role": "user", "content": "hi"}]}
CUSTOM = {"type": "custom", "custom": {"name": "patch"}}
CITATION = {"type": "web_search_result_location", "url": "https://a", "title": "A", "cited_text": "x", "encrypted_index": ""}  # fmt: skip


def test_text_chunk_by_chunk() -> None:
    chunks = frames(stream("chat", answer(("text", "Hé"), ("text", "!")), ASK))
    assert chunks[-1] == "[DONE]"
    assert {c["id"] for c in chunks[:-1]} == {"chatcmpl-0001"}
    assert all(c["object"] == "chat.completion.chunk" and c["created"] == CREATED for c in chunks[:-1])
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hé"},
        {"content": "!"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "stop"]
    assert all("usage" not in c for c in chunks[:-1])


def test_usage_only_when_asked_for_and_inclusive() -> None:
    usage = Usage(input=7, cache_read=20, cache_write_5m=3, output=9, thinking=4)
    body = {**ASK, "stream_options": {"include_usage": True}}
    *chunks, last, done = frames(stream("chat", answer(("text", "x"), usage=usage), body))
    assert done == "[DONE]" and last["choices"] == []
    assert all(c["usage"] is None for c in chunks)
    assert (last["usage"]["prompt_tokens"], last["usage"]["total_tokens"]) == (30, 39)
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 20
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), ("something_new", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons(stop: str, reason: str) -> None:
    events = answer(("text", "x"), stop=stop)
    assert frames(stream("chat", events, ASK))[-2]["choices"][0]["finish_reason"] == reason
    assert whole("chat", fold(events), ASK)["choices"][0]["finish_reason"] == reason


def test_parallel_calls_keep_their_index() -> None:
    events = answer(
        ("thinking", "why"),
        ("signature", "SIG"),
        ("text", "ok"),
        ("tool", 0, "toolu_a", "f"),
        ("tool_json", 0, '{"x"'),
        ("tool_json", 0, ":1}"),
        ("tool", 1, "toolu_b", "g"),
    )
    with sdk(stream("chat", events, ASK)).chat.completions.stream(**ASK) as s:
        final = s.get_final_completion()
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls" and message.content == "ok"
    assert message.tool_calls is not None
    got = [(c.id, c.type, c.function.name, c.function.arguments) for c in message.tool_calls]
    assert got == [("toolu_a", "function", "f", '{"x":1}'), ("toolu_b", "function", "g", "{}")]
    extra = message.model_extra or {}
    assert extra["reasoning_content"] == "why"
    assert extra["reasoning_details"][0]["signature"] == "SIG"


def test_what_the_sdk_collected_comes_back_as_the_model_made_it() -> None:
    events = answer(
        ("thinking", "one"),
        ("signature", "S1"),
        ("text", "Hello "),
        ("thinking", "two"),
        ("signature", "S2"),
        ("text", "world"),
        ("block", {"type": "redacted_thinking", "data": "D"}),
        ("tool", 0, "toolu_a", "f"),
        ("tool_json", 0, '{"x": 1}'),
        ("signature", "S3"),
        ("tool", 1, "toolu_b", "f"),
    )
    with sdk(stream("chat", events, ASK)).chat.completions.stream(**ASK) as s:
        message = s.get_final_completion().choices[0].message.model_dump(exclude_none=True)
    request = ask("chat", {**ASK, "messages": [*ASK["messages"], message]})
    assert request["messages"][1]["content"] == fold(events)["content"]
    unstreamed = whole("chat", fold(events), ASK)["choices"][0]["message"]
    request = ask("chat", {**ASK, "messages": [*ASK["messages"], unstreamed]})
    assert request["messages"][1]["content"] == fold(events)["content"]


def test_custom_tools_get_their_text_as_it_comes() -> None:
    body = {**ASK, "tools": [CUSTOM]}
    text = 'one "two"\n\\three é 😀'
    arguments = json.dumps({"input": text})
    events = answer(("tool", 0, "t1", "patch"), *(("tool_json", 0, c) for c in arguments))
    deltas = [c["choices"][0]["delta"] for c in frames(stream("chat", events, body))[:-1]]
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert calls[0] == {"index": 0, "id": "t1", "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert len(calls) > 10 and "".join(c["custom"]["input"] for c in calls) == text
    made = whole("chat", fold(events), body)["choices"][0]["message"]["tool_calls"]
    assert made == [{"id": "t1", "type": "custom", "custom": {"name": "patch", "input": text}}]


def test_old_functions_get_a_function_call() -> None:
    body = {**ASK, "functions": [{"name": "f"}]}
    events = answer(("tool", 0, "t1", "f"), ("tool_json", 0, '{"a":1}'))
    made = whole("chat", fold(events), body)["choices"][0]
    assert made["finish_reason"] == "function_call" and "tool_calls" not in made["message"]
    assert made["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    final = sdk(stream("chat", events, body)).chat.completions.create(**body, stream=True)
    assert [c.choices[0].finish_reason for c in final][-1] == "function_call"


def test_arguments_that_were_no_json_go_out_as_they_came() -> None:
    events = answer(("tool", 0, "t1", "f"), ("tool_json", 0, '{"a": '))
    made = whole("chat", fold(events), ASK)["choices"][0]["message"]["tool_calls"][0]
    assert made["function"]["arguments"] == '{"a": '


def test_citations() -> None:
    events = answer(("text", "Before. "), ("close",), ("text", "Cited"), ("cite", CITATION))
    note = {"type": "url_citation", "url_citation": {"start_index": 8, "end_index": 13, "url": "https://a", "title": "A"}}  # fmt: skip
    with sdk(stream("chat", events, ASK)).chat.completions.stream(**ASK) as s:
        message = s.get_final_completion().choices[0].message
    assert [a.model_dump() for a in message.annotations or []] == [note]
    assert whole("chat", fold(events), ASK)["choices"][0]["message"]["annotations"] == [note]


def test_server_tools_do_not_show() -> None:
    found = [{"type": "web_search_result", "url": "https://a", "title": "A", "encrypted_content": ""}]
    events = answer(
        ("block", {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}),
        ("block", {"type": "web_search_tool_result", "tool_use_id": "s1", "content": found}),
        ("text", "x"),
    )
    made = whole("chat", fold(events), ASK)["choices"][0]["message"]
    assert made == {"role": "assistant", "content": "x", "refusal": None}


def test_a_refusal_without_text_is_told() -> None:
    events = answer(stop="refusal")
    events[-2]["delta"]["stop_details"] = {"type": "refusal", "category": None, "explanation": "No."}
    made = whole("chat", fold(events), ASK)["choices"][0]
    assert (made["finish_reason"], made["message"]["refusal"]) == ("content_filter", "No.")
    deltas = [c["choices"][0]["delta"] for c in frames(stream("chat", events, ASK))[:-1]]
    assert {"refusal": "No."} in deltas


def test_a_stream_that_breaks_raises_in_the_sdk() -> None:
    renderer = SURFACES["chat"].renderer("asked", {}, ASK, ids(), CREATED)
    data = b"".join(renderer.render(e) for e in answer(("text", "half"))[:3])
    data += renderer.alive() + renderer.fail("overloaded_error", "p: busy", "req_1")
    assert b"[DONE]" not in data
    seen = []
    with pytest.raises(openai.APIError, match="p: busy") as caught:
        for chunk in sdk(data).chat.completions.create(**ASK, stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert "".join(filter(None, seen)) == "half" and caught.value.code == "server_is_overloaded"


@pytest.mark.parametrize(
    ("status", "type", "message", "raised", "code"),
    [
        (400, "invalid_request_error", "messages.0.content: no", openai.BadRequestError, None),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", openai.BadRequestError, "context_length_exceeded"),
        (401, "authentication_error", "x", openai.AuthenticationError, "invalid_api_key"),
        (403, "permission_error", "x", openai.PermissionDeniedError, "permission_denied"),
        (404, "not_found_error", "x", openai.NotFoundError, "model_not_found"),
        (429, "rate_limit_error", "x", openai.RateLimitError, "rate_limit_exceeded"),
        (503, "api_error", "x", openai.InternalServerError, "server_error"),
    ],
)  # fmt: skip
def test_errors(status: int, type: str, message: str, raised: Any, code: str | None) -> None:
    for name in ("chat", "responses"):
        body = SURFACES[name].error(status, type, message, "req_1")
        assert set(body["error"]) == {"message", "type", "param", "code"}
        with pytest.raises(raised) as caught:
            sdk(json.dumps(body).encode(), "application/json", status).chat.completions.create(**ASK)
        assert caught.value.code == code and caught.value.body["message"] == message
    assert caught.value.param == ("messages.0.content" if message.startswith("messages.0") else None)
