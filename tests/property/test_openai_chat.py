"""Whatever a provider interleaves and however the network cuts it, clients get one grammar and nothing is lost."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.base import Context, Encoded
from ccm.dialects.cut import Cutter, first_stop
from ccm.dialects.openai_chat import DIALECT
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer
from tests.grammar import check

Step = tuple[str, Any]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
PIECE = st.one_of(
    st.tuples(st.just("content"), TEXT),
    st.tuples(st.just("reasoning"), TEXT),
    st.tuples(st.just("reasoning_content"), TEXT),
    st.tuples(st.just("call"), st.tuples(st.integers(0, 2), st.lists(TEXT, max_size=3))),
)


def context() -> Context:
    numbers = itertools.count(1)
    return Context(
        "p", "openai_chat/custom", "m", "claude", ModelFacts("m"), lambda p: f"{p}{next(numbers):08d}", True
    )


def body(steps: list[Step], end: bytes, done: bool) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a stream, and what is in it: text, thinking, arguments by call."""
    said: dict[str, Any] = {"text": "", "thinking": "", "calls": {}}
    lines = [b": keep-alive"]
    number = 0
    for kind, value in steps:
        if kind == "call":
            tool, parts = value
            index, number = number, number + 1
            arguments = json.dumps({"tool": tool, "parts": parts}, ensure_ascii=False)
            said["calls"][f"call_{index:06d}"] = (f"T{tool}", json.loads(arguments))
            half = len(arguments) // 2
            for piece, name in ((arguments[:half], f"T{tool}"), (arguments[half:], None)):
                function = {"arguments": piece, **({"name": name} if name else {})}
                id = {"id": f"call_{index:06d}"} if name else {}
                lines.append(_line({"tool_calls": [{"index": index, **id, "function": function}]}))
        else:
            said["text" if kind == "content" else "thinking"] += value
            lines.append(_line({kind: value, "role": "assistant"}))
    lines.append(_line({}, "stop"))
    if done:
        lines.append(b"data: [DONE]")
    return b"".join(line + end + end for line in lines), said


def _line(delta: dict[str, Any], finish: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode()


def play(raw: bytes, cuts: list[int], stops: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    decoder: Any = DIALECT.decoder(context(), Encoded("", {}))
    if stops:
        decoder = Cutter(decoder, stops)
    framer, events = Framer(), []
    edges = sorted({0, len(raw), *(c % (len(raw) + 1) for c in cuts)})
    for a, b in itertools.pairwise(edges):
        for frame in framer.feed(raw[a:b]):
            events += decoder.feed(frame)
    for frame in framer.end():
        events += decoder.feed(frame)
    return [*events, *decoder.end()]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PIECE, max_size=12),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_any_interleaving_and_any_cut(steps: list[Step], end: bytes, done: bool, cuts: list[int]) -> None:
    raw, said = body(steps, end, done)
    events = play(raw, cuts)
    check(events)
    assert events == play(raw, [])
    content = fold(events)["content"]
    assert "".join(b["text"] for b in content if b["type"] == "text") == said["text"]
    assert "".join(b["thinking"] for b in content if b["type"] == "thinking") == said["thinking"]
    assert {b["id"]: (b["name"], b["input"]) for b in content if b["type"] == "tool_use"} == said["calls"]
    assert all(b["signature"] for b in content if b["type"] == "thinking")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("ab<x", max_size=5), max_size=8),
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 5_000), max_size=10),
)
def test_the_cutter_cuts_where_a_search_of_the_whole_text_would(
    texts: list[str], stops: list[str], cuts: list[int]
) -> None:
    raw, said = body([("content", t) for t in texts], b"\n", True)
    message = fold(play(raw, cuts, tuple(stops)))
    text = "".join(b["text"] for b in message["content"])
    hit = first_stop(said["text"], stops)
    if hit is None:
        assert text == said["text"] and message["stop_reason"] == "end_turn"
    else:
        assert text == said["text"][: hit[0]] and message["stop_sequence"] == hit[1]


CONTENT = st.one_of(
    TEXT,
    st.lists(
        st.one_of(
            st.builds(lambda t: {"type": "text", "text": t}, TEXT),
            st.builds(
                lambda n: {"type": "tool_use", "id": f"toolu_{n}", "name": "T", "input": {}},
                st.integers(0, 4),
            ),
            st.builds(
                lambda n, t: {"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": t},
                st.integers(0, 4),
                TEXT,
            ),
            st.builds(lambda t: {"type": "thinking", "thinking": t, "signature": ""}, TEXT),
            st.just({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}),
            st.just({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
            st.just({"type": "never_seen", "x": [1]}),
        ),
        max_size=5,
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda r, c: {"role": r, "content": c}, st.sampled_from(["user", "assistant", "system"]), CONTENT
        ),
        max_size=8,
    ),
    st.sampled_from(["custom", "openai", "mistral", "deepseek", "perplexity"]),
)
def test_any_history_becomes_one_that_providers_take(messages: list[dict[str, Any]], kind: str) -> None:
    ctx = Context("p", f"openai_chat/{kind}", "m", "claude", ModelFacts("m"), lambda p: p)
    sent = DIALECT.encode({"model": "c", "max_tokens": 5, "messages": messages}, ctx).body["messages"]
    json.dumps(sent)
    open_calls: list[str] = []
    for message in sent:
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
            continue
        assert not open_calls, "a call without its result"
        open_calls = [c["id"] for c in message.get("tool_calls") or ()]
        assert message["content"] is not None or open_calls
        assert message["content"] != []
    assert not open_calls
    assert any(m["role"] in ("user", "tool") for m in sent)
