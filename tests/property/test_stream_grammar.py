"""Whatever order a provider sends things in, what leaves BlockWriter is one grammatical stream (R1)."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ccm.messages.blocks import BlockWriter
from ccm.messages.events import render
from ccm.messages.fold import fold, unfold
from ccm.wire.sse import Framer

TEXT = st.text(max_size=8)
STEP = st.one_of(
    st.tuples(st.just("text"), TEXT),
    st.tuples(st.just("thinking"), TEXT),
    st.tuples(st.just("signature"), TEXT),
    st.tuples(st.just("tool"), st.integers(0, 3)),
    st.tuples(st.just("json"), st.integers(0, 3)),
    st.tuples(st.just("end"), st.integers(0, 3)),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("block"), st.none()),
)
ARGUMENTS = ['{"a"', ":[1,", "2]", ',"b":{}', "}"]


def play(steps):
    """Drives a writer; every tool gets its whole arguments in the end, in interleaved pieces."""
    writer = BlockWriter("msg_1", "m")
    sent: dict[int, int] = {}
    texts = {"text": "", "thinking": ""}
    for name, value in steps:
        if name in texts:
            getattr(writer, name)(value)
            texts[name] += value
        elif name == "signature":
            writer.signature(value)
        elif name == "tool" and value not in sent:
            sent[value] = 0
            writer.tool(value, f"toolu_{value}", f"tool{value}")
        elif name == "json" and sent.get(value, len(ARGUMENTS)) < len(ARGUMENTS):
            writer.tool_json(value, ARGUMENTS[sent[value]])
            sent[value] += 1
        elif name == "block":
            writer.block({"type": "redacted_thinking", "data": "x"})
    for key, done in sent.items():
        for piece in ARGUMENTS[done:]:
            writer.tool_json(key, piece)
        writer.tool_end(key)
    writer.finish("end_turn")
    return writer.take(), sent, texts


def check_grammar(events):
    assert events[0]["type"] == "message_start"
    assert [e["type"] for e in events[-2:]] == ["message_delta", "message_stop"]
    open_block, following = None, 0
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert open_block is None
            assert event["index"] == following
            open_block, following = event["index"], following + 1
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
        else:
            assert event == {"type": "content_block_stop", "index": open_block}
            open_block = None
    assert open_block is None


@given(st.lists(STEP, max_size=40))
def test_any_interleaving_keeps_the_grammar_and_loses_nothing(steps):
    events, sent, texts = play(steps)
    check_grammar(events)
    message = fold(events)
    calls = {b["name"]: b["input"] for b in message["content"] if b["type"] == "tool_use"}
    assert calls == {f"tool{key}": {"a": [1, 2], "b": {}} for key in sent}
    for kind, text in texts.items():
        assert "".join(b[kind] for b in message["content"] if b["type"] == kind) == text
    assert message["stop_reason"] == ("tool_use" if sent else "end_turn")


@given(st.lists(STEP, max_size=20))
def test_a_message_unfolds_into_the_events_it_folds_from(steps):
    message = fold(play(steps)[0])
    events = list(unfold(message))
    check_grammar(events)
    assert fold(events)["content"] == message["content"]


@given(st.lists(STEP, max_size=12), st.integers(1, 9))
def test_rendered_events_survive_any_cut(steps, size):
    events = play(steps)[0]
    raw = b"".join(render(event) for event in events)
    framer = Framer()
    frames = [f for i in range(0, len(raw), size) for f in framer.feed(raw[i : i + size])]
    assert [json.loads(f.data) for f in frames] == events
    assert [f.event for f in frames] == [e["type"] for e in events]
