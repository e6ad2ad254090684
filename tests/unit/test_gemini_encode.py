"""The frame of a request: paths, configuration, counting, losses."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.gemini import DIALECT
from ccm.dialects.gemini.encode import model_path
from ccm.errors import BadUpstream, Refusal
from ccm.model import ModelFacts

MESSAGES = [{"role": "user", "content": "x"}]
TOOL = {"name": "Read", "description": "", "input_schema": {"type": "object", "properties": {}}}


def context(model: str = "gemini-3.8-flash", **changes: Any) -> Context:
    values: dict[str, Any] = {
        "provider": "google", "family": "gemini/google", "model": model, "asked_model": "c", "facts": ModelFacts(model),
        "new_id": lambda prefix: prefix + "1", **changes,
    }  # fmt: skip
    return Context(**values)


def encode(model: str = "gemini-3.8-flash", **request: Any) -> Encoded:
    return DIALECT.encode({"messages": MESSAGES, **request}, context(model))


def test_paths() -> None:
    assert encode().path == "/models/gemini-3.8-flash:generateContent"
    stream = DIALECT.encode({"messages": MESSAGES}, context(stream=True))
    assert stream.path == "/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
    assert model_path("models/x") == "/models/x"
    assert model_path("tunedModels/my tune") == "/tunedModels/my%20tune"
    assert model_path("a?b#c") == "/models/a%3Fb%23c"


def test_sampling_and_stops() -> None:
    out = encode(
        temperature=0.5, top_p=1, top_k=40, stop_sequences=["1", "2", "3", "4", "5", "6", "7"], max_tokens=10
    )
    config = out.body["generationConfig"]
    assert (config["temperature"], config["topP"], config["topK"]) == (0.5, 1, 40)
    assert config["stopSequences"] == ["1", "2", "3", "4", "5"]
    assert out.cut == ("6", "7")
    assert out.losses == []


def test_system_without_the_billing_line() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: a"},
        {"type": "text", "text": "one"},
        {"type": "text", "text": "two"},
    ]
    assert encode(system=system).body["systemInstruction"] == {"parts": [{"text": "one"}, {"text": "two"}]}
    assert "systemInstruction" not in encode(system=[]).body


def test_structured_output() -> None:
    form = {
        "type": "json_schema",
        "schema": {"$schema": "x", "type": "object", "properties": {"t": {"type": "string"}}},
    }
    config = encode(output_config={"format": form}).body["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"] == {"type": "object", "properties": {"t": {"type": "string"}}}
    old = encode("gemini-2.5-flash", output_config={"format": form}, tools=[TOOL])
    assert "responseMimeType" not in old.body.get("generationConfig", {})
    assert '"t"' in old.body["systemInstruction"]["parts"][-1]["text"]
    assert Loss("output_config.format", "approximated") in old.losses


def test_losses_are_named_by_their_field() -> None:
    request = {
        "metadata": {"user_id": "u"}, "context_management": {"edits": [1]}, "mcp_servers": [1], "speed": "fast",
        "max_tokens": 10**6, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    }  # fmt: skip
    features = {loss.feature for loss in encode(**request).losses}
    assert features == {
        "metadata",
        "context_management",
        "mcp_servers",
        "speed",
        "max_tokens",
        "cache_control",
    }
    assert Loss("thinking") in encode("gemini-2.0-flash", thinking={"type": "adaptive"}).losses


def test_safety_by_configuration() -> None:
    out = DIALECT.encode({"messages": MESSAGES}, context(options={"safety": "block_none"}))
    assert {s["threshold"] for s in out.body["safetySettings"]} == {"BLOCK_NONE"}
    assert (
        "safetySettings" not in DIALECT.encode({"messages": MESSAGES}, context(options={"safety": "x"})).body
    )


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(Refusal) as e:
        DIALECT.encode({"messages": [{"role": "user", "content": " "}]}, context())
    assert e.value.status == 400


def test_counting() -> None:
    request = {
        "messages": MESSAGES,
        "system": "s",
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "max_tokens": 5,
    }
    out = DIALECT.encode_count(request, context())
    assert out is not None and out.path == "/models/gemini-3.8-flash:countTokens"
    inner = out.body["generateContentRequest"]
    assert inner["model"] == "models/gemini-3.8-flash"
    assert inner.keys() == {"model", "contents", "systemInstruction", "tools"}
    vertex = DIALECT.encode_count(request, context(options={"vertex": True}))
    assert vertex is not None and vertex.body.keys() == {"contents", "systemInstruction", "tools"}
    assert DIALECT.decode_count({"totalTokens": 61}) == 61
    with pytest.raises(BadUpstream):
        DIALECT.decode_count({"totalTokens": None})


def test_the_request_is_left_alone() -> None:
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [TOOL],
    }
    before = repr(request)
    DIALECT.encode(request, context())
    assert repr(request) == before
