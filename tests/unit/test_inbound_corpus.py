"""What real clients sent, through the OpenAI surfaces and out again; what we answer, against OpenAI's own specification.

The recorded requests and the validators are outside the repository (fixture `shared`); without them this is skipped.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ccm.dialects.base import Context
from ccm.dialects.table import DIALECTS
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.proxy.parse import check_messages
from tests.inbound import answer, ask, frames, ids, losses, stream, whole

SURFACE = {"openai.chat": "chat", "openai.responses": "responses"}
# Recorded against other endpoints (embeddings), or with a file that does not say what it is.
NOT_CARRIED = {"openai-responses/openai-lc20", "openai-chat/perplexity-003"}
# Files that only OpenAI and Perplexity read: carried on, for the provider to judge.
NOT_ANTHROPIC = {"openai-responses/openai-011"}


@pytest.fixture(scope="module")
def strict(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("strict", shared / "tools" / "strict.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(shared: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, surface, body) of every recorded request of OpenAI's APIs."""
    corpus = shared / "corpus"
    found = []
    for item in json.loads((corpus / "index.json").read_text()):
        if item["dialect"] in SURFACE and item.get("request") and item["id"] not in NOT_CARRIED:
            body = json.loads((corpus / item["request"]).read_text())
            found.append((item["id"], SURFACE[item["dialect"]], body))
    assert len(found) > 100
    return found


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def said(body: dict[str, Any]) -> Iterator[str]:
    """Everything a person or a tool said in a request, and every argument of a call."""
    for item in [
        *(body.get("messages") or ()),
        *(i for i in (body.get("input") or ()) if isinstance(i, dict)),
    ]:
        content = item.get("content") if item.get("type") != "reasoning" else None
        for part in (content, item.get("output")):
            if isinstance(part, str):
                yield part
            elif isinstance(part, list):
                yield from (p["text"] for p in part if isinstance(p, dict) and isinstance(p.get("text"), str))
        for call in item.get("tool_calls") or ():
            yield from texts(json.loads(call["function"]["arguments"] or "{}"))
        if item.get("type") == "function_call":
            yield from texts(json.loads(item["arguments"] or "{}"))
    if isinstance(body.get("input"), str):
        yield body["input"]
    yield from filter(None, [body.get("instructions")])


@pytest.mark.slow
def test_recorded_requests_are_good_messages_requests(recorded: Any, strict: ModuleType) -> None:
    for id, surface, body in recorded:
        request = ask(surface, body)
        check_messages(request)
        if id not in NOT_ANTHROPIC:
            assert strict.anthropic_request(request) == [], id


@pytest.mark.parametrize(
    ("dialect", "provider", "root"),
    [
        ("openai_chat", "groq", "CreateChatCompletionRequest"),
        ("openai_responses", "openai", "CreateResponse"),
    ],
)
def test_recorded_requests_go_out_whole(
    recorded: Any, strict: ModuleType, dialect: str, provider: str, root: str
) -> None:
    for id, surface, body in recorded:
        request = ask(surface, body)
        ctx = Context(
            "p", f"{dialect}/{provider}", "m", "m", ModelFacts("m"), ids(), stream=request["stream"]
        )
        sent = DIALECTS[dialect].encode(request, ctx).body
        assert strict.openai_request(sent, root) == [], id
        there = "\n".join(texts(sent))
        there += "\n" + "\n".join(  # arguments are JSON inside JSON
            text for value in texts(sent) if value.startswith("{") for text in texts(_json(value))
        )
        for text in said(body):
            assert text.strip() in there, (id, text)


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def test_losses_have_names_of_ours_only(recorded: Any) -> None:
    """A loss may become a label of a counter: never what a client wrote."""
    for id, surface, body in recorded:
        for feature, how in losses(surface, body).items():
            assert how in ("dropped", "approximated"), id
            assert feature.replace(".", "").replace("_", "").isalpha() and len(feature) < 40, (id, feature)


CITATION = {"type": "web_search_result_location", "url": "https://a", "title": "A", "cited_text": "x", "encrypted_index": ""}  # fmt: skip
FOUND = [{"type": "web_search_result", "url": "https://a", "title": "A", "encrypted_content": ""}]
TOOLS = {
    "chat": [{"type": "function", "function": {"name": "f"}}],
    "responses": [
        {"type": "function", "name": "f", "parameters": {}},
        {"type": "custom", "name": "apply"},
        {"type": "local_shell"},
        {"type": "shell"},
        {"type": "apply_patch"},
        {"type": "tool_search", "execution": "client"},
        {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "g"}]},
    ],
}


def everything(surface: str, stop: str | None) -> list[Event]:
    """An answer with every kind of block."""
    steps: list[tuple[Any, ...]] = [
        ("thinking", "why"),
        ("signature", "SIG"),
        ("block", {"type": "redacted_thinking", "data": "D"}),
        ("text", "one "),
        ("tool", "s", "s1", "web_search", "server_tool_use"),
        ("tool_json", "s", '{"query": "q"}'),
        ("tool_end", "s"),
        ("block", {"type": "web_search_tool_result", "tool_use_id": "s1", "content": FOUND}),
        ("text", "two"),
        ("cite", CITATION),
        ("tool", 0, "t0", "f"),
        ("tool_json", 0, '{"x": 1}'),
    ]
    if surface == "responses":
        steps += [
            ("tool", 1, "t1", "apply"),
            ("tool_json", 1, '{"input": "text"}'),
            ("tool", 2, "t2", "local_shell"),
            ("tool_json", 2, '{"command": ["ls"]}'),
            ("tool", 3, "t3", "shell"),
            ("tool_json", 3, '{"commands": ["ls"]}'),
            ("tool", 4, "t4", "apply_patch"),
            ("tool_json", 4, '{"operation": {"type": "delete_file", "path": "a"}}'),
            ("tool", 5, "t5", "tool_search"),
            ("tool_json", 5, '{"query": "x"}'),
            ("tool", 6, "t6", "n__g"),
        ]
    return answer(*steps, stop=stop)


def plain(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice without the fields that OpenAI's specification does not have: reasoning, and annotations in deltas."""
    inner = "message" if "message" in choice else "delta"
    extra = {"reasoning_content", "reasoning_details"} | ({"annotations"} if inner == "delta" else set())
    return {**choice, inner: {k: v for k, v in choice[inner].items() if k not in extra}}


@pytest.mark.parametrize("stop", [None, "max_tokens", "refusal"])
def test_chat_answers_keep_the_specification(strict: ModuleType, stop: str | None) -> None:
    body = {
        "model": "m",
        "messages": [],
        "tools": TOOLS["chat"],
        "stream_options": {"include_usage": True},
    }
    events = everything("chat", stop)
    made = whole("chat", fold(events), body)
    made["choices"] = [plain(c) for c in made["choices"]]
    assert strict.openai_request(made, "CreateChatCompletionResponse") == []
    *chunks, done = frames(stream("chat", events, body))
    assert done == "[DONE]" and len(chunks) > 8
    for chunk in chunks:
        chunk["choices"] = [plain(c) for c in chunk["choices"]]
        if chunk["usage"] is None:
            del chunk["usage"]  # documented as null on all chunks but the last, not nullable in the document
        assert strict.openai_request(chunk, "CreateChatCompletionStreamResponse") == [], chunk


@pytest.mark.parametrize("stop", [None, "max_tokens", "refusal"])
def test_responses_answers_keep_the_specification(strict: ModuleType, stop: str | None) -> None:
    body = {"model": "gpt-5", "input": "hi", "tools": TOOLS["responses"], "instructions": "I"}
    events = everything("responses", stop)
    made = whole("responses", fold(events), body)
    assert strict.openai_request(made, "Response") == []
    for event in frames(stream("responses", events, body)):
        assert strict.openai_request(event, "ResponseStreamEvent") == [], event["type"]
