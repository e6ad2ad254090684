"""Joining two halves of an answer: the seam, the witness, the request for the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccm.dialects.inbound.messages import MessagesRenderer
from ccm.errors import UpstreamError
from ccm.messages.events import Event
from ccm.proxy.splice import Splice, Witness, resumption, seam

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen"
PROSE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=60, max_size=200)


@given(PROSE, st.text(max_size=80), st.sampled_from([40, 32, 24, 16]), st.sampled_from(["", "Sure: ", "…"]))
def test_what_was_repeated_is_cut_off(before: str, rest: str, length: int, preamble: str) -> None:
    tail = before[-length:]
    at = seam(before, preamble + tail + rest, last=True)
    flat = " ".join(tail.split())
    if len(set(flat)) > 8 and flat.count(flat[-12:]) == 1:  # monotonous text has many seams
        assert at is not None
        assert (preamble + tail + rest)[at:].lstrip().startswith(rest.strip()[:1])
        if not (tail[-1:].isspace() or rest[:1].isspace()):
            assert (preamble + tail + rest)[at:] == rest


@pytest.mark.parametrize(
    ("after", "rest"),
    [
        (TEXT[-40:] + ". Winston", ". Winston"),
        ("Sure! " + TEXT[-24:] + ", he", ", he"),
        ("striking thirteen. And", ". And"),  # the longest overlap
        (TEXT[-40:].replace(" ", "  ") + "!", "!"),
        ("the clocks were\nstriking thirteen…", "…"),
    ],
)
def test_seams(after: str, rest: str) -> None:
    at = seam(TEXT, after, last=True)
    assert at is not None and after[at:] == rest


@pytest.mark.parametrize("after", ["", "Something else altogether.", "teen", "I was told that " + TEXT[-40:]])
def test_no_seam(after: str) -> None:
    assert seam(TEXT, after, last=True) is None


def test_quotes_may_change_their_kind() -> None:
    before = "and she said: “don’t you ever — ever — do that again”"
    after = 'said: "don\'t you ever - ever - do that again" twice'
    at = seam(before, after, last=False)
    assert at is not None and after[at:] == " twice"


def test_an_unfinished_repetition_is_waited_for() -> None:
    assert seam(TEXT, TEXT[-40:-20], last=False) is None
    assert seam(TEXT, TEXT[-40:] + " x", last=False) == 40


def start(index: int, type: str = "text", **more: Any) -> Event:
    block = {"type": type, **({"text": ""} if type == "text" else {}), **more}
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, text: str) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def stop(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


BEGIN: Event = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}


def witness(*events: Event) -> Witness:
    made = Witness(MessagesRenderer())
    for event in (BEGIN, *events):
        made.render(event)
    return made


@pytest.mark.parametrize(
    ("events", "resumable"),
    [
        ([start(0), delta(0, TEXT)], True),
        ([start(0), delta(0, TEXT), stop(0)], True),
        ([start(0, "thinking"), stop(0), start(1), delta(1, TEXT)], True),
        ([start(0), delta(0, TEXT[:39])], False),
        ([start(0), delta(0, TEXT), stop(0), start(1, "thinking")], False),
        ([start(0), delta(0, TEXT), stop(0), start(1, "tool_use")], False),
        ([start(0), delta(0, TEXT), stop(0), start(1, "server_tool_use"), stop(1)], False),
        ([start(0), delta(0, TEXT), stop(0), {"type": "message_delta", "delta": {}}], False),
    ],
)
def test_what_may_be_continued(events: list[Event], resumable: bool) -> None:
    assert witness(*events).resumable is resumable


def test_the_request_for_the_rest() -> None:
    shown = witness(start(0), delta(0, TEXT))
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": 100,
        "tool_choice": {},
    }
    made = resumption(body, shown)
    assert "tool_choice" not in made and made["max_tokens"] == 100 - len(TEXT) // 4
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "user"]
    assert TEXT[-40:] in made["messages"][2]["content"][0]["text"]
    assert len(body["messages"]) == 1 and "tool_choice" in body, "the original is another attempt's"
    thinks = resumption({**body, "thinking": {"type": "enabled", "budget_tokens": 90}}, shown)
    assert thinks["max_tokens"] == 100, "never below what it may think"


def test_blocks_after_the_seam_are_numbered_on() -> None:
    shown = witness(start(0, "thinking"), stop(0), start(1), delta(1, TEXT))
    splice = Splice(shown, b": here\n\n", {"output_tokens": 5})
    out = [
        splice.render(e)
        for e in (
            BEGIN, start(0, "thinking"), stop(0), start(1), delta(1, TEXT[-40:] + "!"), stop(1),
            start(2, "tool_use", id="x", name="n", input={}), stop(2),
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        )
    ]  # fmt: skip
    assert out[:4] == [b"", b"", b"", b""]
    assert (
        out[4].startswith(b": here\n\nevent: content_block_delta")
        and b'"index":1' in out[4]
        and b'"!"' in out[4]
    )
    assert b'"index":1' in out[5] and b'"index":2' in out[6] and b'"index":2' in out[7]
    assert b'"output_tokens":12' in out[8]


def test_without_a_seam_nothing_is_written() -> None:
    splice = Splice(witness(start(0), delta(0, TEXT)), b"", {})
    assert splice.render(start(0)) == b""
    assert splice.render(delta(0, "As I was saying, ")) == b""
    with pytest.raises(UpstreamError, match="could not be continued"):
        splice.render(stop(0))
    with pytest.raises(UpstreamError):
        Splice(witness(start(0), delta(0, TEXT)), b"", {}).render(start(0, "tool_use"))
