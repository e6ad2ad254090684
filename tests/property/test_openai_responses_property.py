"""Responses streams: however the items of an answer interleave and however the bytes are cut, the message is the same."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.base import Context, Encoded
from ccm.dialects.openai_responses import DIALECT
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer

TEXT = st.text(min_size=1, max_size=8)
ITEM = st.one_of(
    st.tuples(st.just("message"), st.lists(TEXT, min_size=1, max_size=4)),
    st.tuples(st.just("reasoning"), st.lists(TEXT, max_size=4)),
    st.tuples(st.just("function_call"), st.dictionaries(TEXT, TEXT, max_size=2)),
)


def lane(index: int, kind: str, value: Any) -> list[dict[str, Any]]:
    """The events of one item, in order."""
    place = {"output_index": index}
    item: dict[str, Any] = {"type": kind, "id": f"i{index}"}
    deltas: list[dict[str, Any]] = []
    whole = dict(item)
    if kind == "message":
        deltas = [{"type": "response.output_text.delta", "delta": t} for t in value]
        whole["content"] = [{"type": "output_text", "text": "".join(value)}]
    elif kind == "reasoning":
        deltas = [{"type": "response.reasoning_summary_text.delta", "delta": t} for t in value]
        whole |= {"summary": [{"text": "".join(value)}] if value else [], "encrypted_content": f"E{index}"}
    else:
        item |= {"call_id": f"c{index}", "name": "f"}
        text = json.dumps(value)
        deltas = [
            {"type": "response.function_call_arguments.delta", "delta": text[n : n + 3]}
            for n in range(0, len(text), 3)
        ]
        whole = {**item, "arguments": text}
    return [
        {"type": "response.output_item.added", "item": item, **place},
        *({**d, **place} for d in deltas),
        {"type": "response.output_item.done", "item": whole, **place},
    ]


def expected(items: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for kind, value in items:
        if kind == "function_call":
            out.append(("tool_use", value))
        else:
            out.append(("text" if kind == "message" else "thinking", "".join(value)))
    return out


@settings(deadline=None, max_examples=150)
@given(st.lists(ITEM, min_size=1, max_size=5), st.data())
def test_any_interleaving_and_any_cut(items, data):
    lanes = [lane(n, kind, value) for n, (kind, value) in enumerate(items)]
    events: list[dict[str, Any]] = [{"type": "response.created"}]
    # an item begins after the one before it began; from there on the order is free
    begun = 0
    while any(lanes):
        ready = [n for n, rest in enumerate(lanes) if rest and n <= begun]
        n = data.draw(st.sampled_from(ready))
        events.append(lanes[n].pop(0))
        begun = max(begun, n + 1)
    events.append({"type": "response.completed", "response": {"status": "completed"}})
    raw = b"".join(b"data: " + json.dumps(e, ensure_ascii=False).encode() + b"\n\n" for e in events)
    numbers = itertools.count()
    ctx = Context("p", "openai_responses/x", "m", "m", ModelFacts("m"), lambda p: f"{p}{next(numbers)}")
    framer, decoder, out = Framer(), DIALECT.decoder(ctx, Encoded("", {})), []
    step = data.draw(st.integers(1, len(raw)))
    for at in range(0, len(raw), step):
        for frame in framer.feed(raw[at : at + step]):
            out += decoder.feed(frame)
    content = fold(out + decoder.end())["content"]
    got = [(b["type"], b.get("text", b.get("thinking", b.get("input")))) for b in content]
    assert got == expected(items)
