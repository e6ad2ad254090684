"""Gemini answers of any make: grammar, framing and the way back of signatures (R1, R7, R14)."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.base import Context
from ccm.dialects.gemini import DIALECT
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer
from tests.grammar import check

WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    str.strip
)
SIGNATURE = st.none() | st.text("ABCab+/=09", min_size=4, max_size=20)
ARGS = st.dictionaries(
    st.sampled_from(["path", "n", "ä"]), st.one_of(WORD, st.integers(-9, 9), st.none()), max_size=2
)


def part(kind: str, text: str, args: dict[str, Any], id: str, signature: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "text": {"text": text},
        "empty": {"text": ""},
        "thought": {"text": text, "thought": True},
        "call": {"functionCall": {"name": "read", "args": args, **({"id": id} if id else {})}},
    }[kind]
    return made if signature is None else {**made, "thoughtSignature": signature}


PARTS = st.lists(
    st.builds(
        part,
        st.sampled_from(["text", "text", "empty", "thought", "call"]),
        WORD,
        ARGS,
        st.sampled_from(["", "", "ab12cd34", "zz99"]),
        SIGNATURE,
    ),
    max_size=10,
)


def context() -> Context:
    n = iter(range(10_000))
    return Context(
        provider="google",
        family="gemini/google",
        model="gemini-2.5-pro",
        asked_model="claude-x",
        facts=ModelFacts("gemini-2.5-pro"),
        new_id=lambda prefix: f"{prefix}{next(n):04d}",
        stream=True,
    )


def stream_of(parts: list[dict[str, Any]], sizes: list[int], line_end: bytes) -> bytes:
    """The parts as SSE events of `sizes` parts each, the last with the finishReason."""
    events, at = [], 0
    for size in [*sizes, len(parts)]:
        events.append(parts[at : at + size])
        at += size
    out = b""
    for n, some in enumerate(events):
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": some}}
        if n + 1 == len(events):
            candidate["finishReason"] = "STOP"
        out += b"data: " + json.dumps({"candidates": [candidate]}, ensure_ascii=False).encode() + line_end * 2
    return out


def decode(data: bytes, cut: int) -> list[dict[str, Any]]:
    ctx = context()
    decoder = DIALECT.decoder(ctx, DIALECT.encode({"messages": [{"role": "user", "content": "x"}]}, ctx))
    framer = Framer()
    events = []
    for at in range(0, len(data), cut):
        for frame in framer.feed(data[at : at + cut]):
            events += decoder.feed(frame)
    for frame in framer.end():
        events += decoder.feed(frame)
    return events + decoder.end()


@settings(max_examples=60, deadline=None)
@given(
    PARTS,
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.integers(1, 50),
)
def test_any_cut_gives_the_same_grammatical_events(
    parts: list[dict[str, Any]], sizes: list[int], line_end: bytes, cut: int
) -> None:
    data = stream_of(parts, sizes, line_end)
    whole = decode(data, len(data))
    check(whole)
    assert decode(data, cut) == whole


@settings(max_examples=150, deadline=None)
@given(PARTS, st.lists(st.integers(0, 3), max_size=4))
def test_every_signature_returns_to_its_part(parts: list[dict[str, Any]], sizes: list[int]) -> None:
    message = fold(decode(stream_of(parts, sizes, b"\n"), 10_000))
    history = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": "go on"},
    ]
    sent = DIALECT.encode({"messages": history}, context())
    back = [p for c in sent.body["contents"] if c["role"] == "model" for p in c["parts"]]

    def kind(part: dict[str, Any]) -> str:
        if "functionCall" in part:
            return "call"
        return "thought" if part.get("thought") else "text" if part.get("text") else "empty"

    def signed(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(kind(p), p["thoughtSignature"]) for p in parts if "thoughtSignature" in p]

    def text(parts: list[dict[str, Any]]) -> str:
        return "".join(p["text"] for p in parts if "text" in p and not p.get("thought"))

    assert signed(back) == signed(parts)
    assert text(back) == text(parts)
    calls = [p["functionCall"] for p in back if "functionCall" in p]
    assert [c["args"] for c in calls] == [p["functionCall"]["args"] for p in parts if "functionCall" in p]
    # A signed text is what it was, or its beginning: more text may have joined it.
    began = [p["text"] for p in parts if p.get("thoughtSignature") and kind(p) == "text"]
    came = [p["text"] for p in back if p.get("thoughtSignature") and kind(p) == "text"]
    assert all(now.startswith(then) for then, now in zip(began, came, strict=True))
    # Every call has its answer, in order, in one content.
    answers = [
        p["functionResponse"] for c in sent.body["contents"] for p in c["parts"] if "functionResponse" in p
    ]
    assert [a.get("id") for a in answers] == [c.get("id") for c in calls]
    ids = [b["id"] for b in message["content"] if b["type"] == "tool_use"]
    assert len(set(ids)) == len(ids)
