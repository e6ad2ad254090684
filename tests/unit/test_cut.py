"""Stop sequences cut locally: the shortest tail is held back, the first complete sequence ends the answer."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.cut import Cutter, cut_message, first_stop
from ccm.messages.blocks import BlockWriter
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage
from tests.grammar import check


class Script:
    """A decoder whose frames are calls on a BlockWriter."""

    def __init__(self) -> None:
        self.usage = Usage(output=7)
        self.writer = BlockWriter("msg_1", "m", self.usage)
        self.finished = False

    def feed(self, frame: tuple[Any, ...]) -> list[dict[str, Any]]:
        name, *args = frame
        getattr(self.writer, name)(*args)
        return self.writer.take()

    def end(self) -> list[dict[str, Any]]:
        self.writer.finish("end_turn")
        self.finished = True
        return self.writer.take()


def run(stops: tuple[str, ...], *frames: tuple[Any, ...]) -> tuple[list[dict[str, Any]], Cutter]:
    cutter = Cutter(Script(), stops)
    events: list[dict[str, Any]] = []
    for frame in frames:
        events += cutter.feed(frame)
    events += cutter.end()
    check(events)
    return events, cutter


def test_a_sequence_across_deltas_ends_the_answer() -> None:
    events, cutter = run(
        ("</sev>",), ("text", "a</s"), ("text", "ev"), ("text", ">0 and more"), ("tool", 0, "toolu_1", "T")
    )
    message = fold(events)
    assert message["content"] == [{"type": "text", "text": "a"}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "</sev>")
    assert message["usage"]["output_tokens"] == 7
    assert cutter.finished


def test_only_a_possible_beginning_is_held_back() -> None:
    cutter = Cutter(Script(), ("ab", "xyz"))
    sent = [e["delta"]["text"] for e in cutter.feed(("text", "123x")) if e["type"] == "content_block_delta"]
    assert sent == ["123"]
    sent = [e["delta"]["text"] for e in cutter.feed(("text", "q")) if e["type"] == "content_block_delta"]
    assert sent == ["xq"]


def test_a_held_tail_comes_out_when_the_block_ends() -> None:
    events, _ = run(
        ("STOP",), ("text", "a ST"), ("tool", 0, "toolu_1", "T"), ("tool_json", 0, '{"a":"STOP"}')
    )
    message = fold(events)
    assert message["content"][0] == {"type": "text", "text": "a ST"}
    assert message["content"][1]["input"] == {"a": "STOP"}
    assert message["stop_reason"] == "tool_use"


def test_reasoning_is_not_searched() -> None:
    events, _ = run(("STOP",), ("thinking", "STOP"), ("text", "done"))
    assert fold(events)["stop_reason"] == "end_turn"


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_any_cut_of_the_text_gives_the_same_answer(step: int) -> None:
    text = "one aab two abc three"
    pieces = [("text", text[i : i + step]) for i in range(0, len(text), step)]
    message = fold(run(("abc", "ab "), *pieces)[0])
    assert message["content"] == [{"type": "text", "text": "one a"}]
    assert message["stop_sequence"] == "ab "


def test_the_sequence_that_is_complete_first_wins() -> None:
    assert first_stop("xabcd", ("abcd", "c")) == (3, "c")
    assert first_stop("xabcd", ("cd", "abcd")) == (1, "abcd")
    assert first_stop("x", ("y",)) is None


def test_a_whole_message_is_cut_with_all_that_follows() -> None:
    message = {
        "content": [
            {"type": "thinking", "thinking": "END", "signature": ""},
            {"type": "text", "text": "a END b"},
            {"type": "tool_use", "id": "t", "name": "T", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
    }
    cut = cut_message(message, ("END",))
    assert [b["type"] for b in cut["content"]] == ["thinking", "text"]
    assert cut["content"][1]["text"] == "a "
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", "END")
    assert len(message["content"]) == 3
    assert cut_message(message, ("none",)) is message
