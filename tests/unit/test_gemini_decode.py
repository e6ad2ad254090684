"""Answers: ends, failures, ids, usage, Google's own parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.gemini import DIALECT
from ccm.dialects.gemini.search import search_blocks
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Frame
from tests.grammar import check


def context() -> Context:
    n = iter(range(1, 1000))
    return Context(
        provider="google", family="gemini/google", model="gemini-3.8-flash", asked_model="c",
        facts=ModelFacts("gemini-3.8-flash"), new_id=lambda prefix: f"{prefix}{next(n)}", estimate_tokens=77,
    )  # fmt: skip


def reply(*parts: dict[str, Any], reason: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, **more}
    return {"candidates": [{**candidate, "finishReason": reason} if reason else candidate]}


def decode(*documents: Any, sent: Encoded | None = None) -> dict[str, Any]:
    """The message, made of a stream and checked against the whole form."""
    decoder = DIALECT.decoder(context(), sent or Encoded("", {}))
    events = [e for d in documents for e in decoder.feed(Frame("", json.dumps(d).encode()))]
    assert not decoder.finished
    events += decoder.end()
    assert decoder.finished and decoder.end() == []
    check(events)
    message = fold(events)
    assert DIALECT.decode(list(documents), context(), sent or Encoded("", {})) == message
    return message


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", "end_turn"), ("MAX_TOKENS", "max_tokens"), ("SAFETY", "refusal"), ("RECITATION", "refusal"),
        ("MODEL_ARMOR", "refusal"), ("ESCALATION", "refusal"), ("LANGUAGE", "end_turn"), ("OTHER", "end_turn"),
        ("SOMETHING_NEW", "end_turn"),
    ],
)  # fmt: skip
def test_ends(reason: str, stop: str) -> None:
    message = decode(reply({"text": "a"}, reason=reason))
    assert message["stop_reason"] == stop
    assert (message.get("stop_details") is not None) == (stop == "refusal")


def test_a_call_ends_the_turn_whatever_the_reason_says() -> None:
    assert decode(reply({"functionCall": {"name": "f", "args": {}}}))["stop_reason"] == "tool_use"
    assert decode(reply({"functionCall": {"name": "f"}}, reason="MAX_TOKENS"))["stop_reason"] == "max_tokens"


def test_a_refusal_says_why() -> None:
    message = decode(reply(reason="PROHIBITED_CONTENT", finishMessage="No."))
    assert message["stop_details"] == {"type": "refusal", "category": None, "explanation": "No."}
    blocked = decode({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "Not this."}})
    assert (blocked["stop_reason"], blocked["stop_details"]["explanation"]) == ("refusal", "Not this.")


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"]
)
def test_failures_of_the_model_are_errors(reason: str) -> None:
    with pytest.raises(UpstreamError) as e:
        DIALECT.decode(reply(reason=reason, finishMessage="call:f{"), context(), Encoded("", {}))
    error = e.value.error
    assert (error.status, error.type, error.code) == (502, "api_error", reason)
    assert "call:f{" in error.message


def test_an_end_without_a_reason_is_no_end() -> None:
    for documents in ([], [reply({"text": "a"}, reason=None)], [{"usageMetadata": {"promptTokenCount": 1}}]):
        with pytest.raises(IncompleteStream):
            DIALECT.decode(documents, context(), Encoded("", {}))


def test_errors_inside_and_nonsense() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    body = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}
    with pytest.raises(UpstreamError) as e:
        decoder.feed(Frame("", json.dumps(body).encode()))
    assert (e.value.error.status, e.value.error.type, e.value.error.message) == (
        429,
        "rate_limit_error",
        "slow down",
    )
    for data in (b"{", b'"text"', b"[1]"):
        with pytest.raises(BadUpstream):
            decoder.feed(Frame("", data))
    assert decoder.feed(Frame("", b"[DONE]")) == [] == decoder.feed(Frame("", b" "))


def test_ids() -> None:
    sent = Encoded("", {}, seen_ids=frozenset({"old1"}), names={"t_x": "1st"})
    calls = [{"name": "f", "id": i} for i in ("new1", "new1", "old1", "a b", "")] + [{"name": "t_x"}]
    message = decode(reply(*({"functionCall": c} for c in calls)), sent=sent)
    ids = [block["id"] for block in message["content"]]
    assert ids[0] == "new1" and ids[1].startswith("toolu_") and ids[2].startswith("toolu_")
    assert ids[3].startswith("a_b_") and ids[4].startswith("toolu_")
    assert len(set(ids)) == 6
    assert message["content"][5]["name"] == "1st"


def test_arguments_that_are_no_object_are_wrapped() -> None:
    message = decode(reply({"functionCall": {"name": "f", "args": [1]}}))
    assert message["content"][0]["input"] == {"input": [1]}


def test_usage() -> None:
    first = {"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 5, "totalTokenCount": 14}}
    last = {"usageMetadata": {"promptTokenCount": 100, "toolUsePromptTokenCount": 20, "cachedContentTokenCount": 30,
                              "candidatesTokenCount": 7, "thoughtsTokenCount": 3, "totalTokenCount": 130}}  # fmt: skip
    usage = decode(
        {**reply({"text": "a"}, reason=None), **first},
        {**reply(), **last},
        {"usageMetadata": {"trafficType": "x"}},
    )["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (90, 30, 10)
    assert usage["output_tokens_details"] == {"thinking_tokens": 3}
    assert decode(reply({"text": "a"}))["usage"]["input_tokens"] == 77  # nothing was said: our estimate


def test_the_estimate_is_marked_until_the_provider_counts() -> None:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    assert decoder.usage.estimated
    decoder.feed(Frame("", json.dumps({"usageMetadata": {"promptTokenCount": 3}}).encode()))
    assert not decoder.usage.estimated and decoder.usage.input == 3


def test_calls_in_pieces_are_handed_on_whole() -> None:
    pieces = [
        {"functionCall": {"name": "f", "willContinue": True}, "thoughtSignature": "S"},
        {
            "functionCall": {
                "partialArgs": [{"jsonPath": "$.a", "stringValue": "x", "willContinue": True}],
                "willContinue": True,
            }
        },
        {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "stringValue": "y"}]}},
    ]
    message = decode(*(reply(p, reason=None) for p in pieces), reply({"text": ""}))
    assert [b["type"] for b in message["content"]] == ["thinking", "tool_use"]
    assert message["content"][1]["input"] == {"a": "xy"}
    with pytest.raises(IncompleteStream):
        DIALECT.decode([reply(p, reason=None) for p in pieces[:2]], context(), Encoded("", {}))


def test_googles_own_parts_are_shown() -> None:
    message = decode(
        reply(
            {"text": "Look:"},
            {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
            {"fileData": {"mimeType": "image/png", "fileUri": "gs://x"}},
        )
    )
    (block,) = message["content"]
    for text in (
        "```python\nprint(1)\n```",
        "```\n1\n```",
        "[image/png, 3 bytes: not shown]",
        "[image/png](gs://x)",
    ):
        assert text in block["text"]


def test_other_candidates_are_left_out() -> None:
    two = {
        "candidates": [
            {"index": 1, **reply({"text": "b"})["candidates"][0]},
            reply({"text": "a"})["candidates"][0],
        ]
    }
    assert decode(two)["content"] == [{"type": "text", "text": "a"}]


def test_no_thinking_block_without_a_signature() -> None:
    content = decode(reply({"text": "a", "thought": True}, {"text": "b"}, {"text": "c", "thought": True}))[
        "content"
    ]
    assert [b["type"] for b in content] == ["thinking", "text", "thinking"]
    assert all(b["signature"] for b in content if b["type"] == "thinking")


def test_search_beside_functions_comes_after_the_text_and_without_a_search_nothing_comes() -> None:
    grounding = {
        "webSearchQueries": ["q", " "],
        "groundingChunks": [{"web": {"uri": "https://a", "title": "A"}}, {"x": 1}],
    }
    both = Encoded("", {"tools": [{"googleSearch": {}}, {"functionDeclarations": []}]})
    message = decode(reply({"text": "a"}, groundingMetadata=grounding), sent=both)
    assert [b["type"] for b in message["content"]] == ["text", "server_tool_use", "web_search_tool_result"]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["server_tool_use"]["web_search_requests"] == 1
    alone = Encoded("", {"tools": [{"googleSearch": {}}]})
    assert [b["type"] for b in decode(reply({"text": "a"}), sent=alone)["content"]] == ["text"]


def test_search_blocks() -> None:
    web = [
        {"web": {"uri": "https://a", "title": "A"}},
        {"web": {"uri": "https://a"}},
        {"web": {"uri": ""}},
        "junk",
    ]
    blocks, searches = search_blocks(
        {"webSearchQueries": ["x", "y"], "groundingChunks": web}, lambda p: p + "9"
    )
    assert blocks is not None
    use, result = blocks
    assert use["input"] == {"query": "x; y"} and searches == 2
    assert result["tool_use_id"] == use["id"] == "srvtoolu_9"
    assert [r["url"] for r in result["content"]] == ["https://a"]
    assert search_blocks({"groundingChunks": [{"retrievedContext": {}}]}, lambda p: p) == (None, 0)


def test_errors_of_google() -> None:
    body = b'[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]'
    assert DIALECT.explain(400, {}, body).type == "authentication_error"
    overflow = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    error = DIALECT.explain(
        400, {}, json.dumps({"error": {"message": overflow, "status": "INVALID_ARGUMENT"}}).encode()
    )
    assert (error.type, error.message) == ("invalid_request_error", overflow)
