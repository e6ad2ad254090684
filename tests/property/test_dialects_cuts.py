"""One answer in the words of every dialect: however the network cuts it, the events are the same, grammatical, and mean
the same in all of them; an early end is never taken for the end; and what was understood can be said back (R1, R4, R7).

The streams are of our own making, in the providers' documented forms.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Context, Encoded
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream, IncompleteStream
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.proxy.relay import PassRelay
from ccm.wire import eventstream, sse
from tests.grammar import check
from tests.property.streams import (
    MAKERS,
    Block,
    anthropic,
    anthropic_events,
    anthropic_lanes,
    data,
    halves,
    stop_of,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=9).filter(
    str.strip
)
ARGUMENTS = st.dictionaries(
    TEXT, st.one_of(TEXT, st.integers(-99, 99), st.none(), st.lists(TEXT, max_size=2)), max_size=2
)
BLOCKS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), TEXT),
        st.tuples(st.just("thinking"), TEXT),
        st.tuples(st.just("call"), st.tuples(st.sampled_from(["read", "bash"]), ARGUMENTS)),
    ),
    min_size=1,
    max_size=5,
)
CUTS = st.lists(st.integers(0, 20_000), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


EVERY = pytest.mark.parametrize("name", MAKERS)


# ------------------------------------------------------------------------------------------------ reading
def context(name: str, stream: bool = True) -> Context:
    _, dialect, model = MAKERS[name]
    numbers = itertools.count(1)
    return Context(
        "p",
        f"{dialect}/custom",
        model,
        "claude-x",
        ModelFacts(model),
        lambda p: f"{p}{next(numbers):08d}",
        stream,
    )


def play(name: str, raw: bytes, cuts: list[int] | None = None) -> list[dict[str, Any]]:
    """The events of these bytes, arriving in pieces that end at `cuts`. IncompleteStream where they are not whole."""
    dialect = DIALECTS[MAKERS[name][1]]
    framer: Any = eventstream.Framer() if dialect.framing == "eventstream" else sse.Framer()
    decoder, events = dialect.decoder(context(name), Encoded("", {})), []
    edges = sorted({0, len(raw), *(c % (len(raw) + 1) for c in cuts or ())})
    for a, b in itertools.pairwise(edges):
        for frame in framer.feed(raw[a:b]):
            events += decoder.feed(frame)
    for frame in framer.end():
        events += decoder.feed(frame)
    return [*events, *decoder.end()]


def meaning(message: dict[str, Any]) -> tuple[str, str, list[Any]]:
    blocks = message["content"]
    return (
        "".join(b["text"] for b in blocks if b["type"] == "text"),
        "".join(b["thinking"] for b in blocks if b["type"] == "thinking"),
        [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"],
    )


def meant(blocks: list[Block]) -> tuple[str, str, list[Any]]:
    return (
        "".join(v for k, v in blocks if k == "text"),
        "".join(v for k, v in blocks if k == "thinking"),
        [(v[0], v[1]) for k, v in blocks if k == "call"],
    )


# ------------------------------------------------------------------------------------------------ the properties
@EVERY
@settings(max_examples=60, deadline=None)
@given(blocks=BLOCKS, cuts=CUTS, end=ENDS)
def test_any_cut_gives_the_same_events_and_the_same_meaning(
    name: str, blocks: list[Block], cuts: list[int], end: bytes
) -> None:
    raw = b"".join(MAKERS[name][0](blocks))
    if DIALECTS[MAKERS[name][1]].framing == "sse":
        raw = raw.replace(b"\n", end)
    whole = play(name, raw)
    check(whole)
    assert play(name, raw, cuts) == whole
    message = fold(whole)
    assert meaning(message) == meant(blocks)
    assert message["stop_reason"] == stop_of(blocks, "tool_use", "end_turn")
    assert message["usage"]["input_tokens"] == 21 and message["usage"]["output_tokens"] == 9


@EVERY
def test_byte_by_byte(name: str) -> None:
    blocks: list[Block] = [
        ("thinking", "思考 — 🎉"), ("text", "ünï\u2028cödé"), ("call", ("read", {"ä": ["🎉", None, 1]})), ("call", ("bash", {})),
    ]  # fmt: skip
    raw = b"".join(MAKERS[name][0](blocks))
    events = play(name, raw, list(range(len(raw))))
    assert events == play(name, raw)
    assert meaning(fold(events)) == meant(blocks)


@EVERY
@settings(max_examples=60, deadline=None)
@given(blocks=BLOCKS, at=st.integers(0, 20_000))
def test_an_early_end_is_not_the_end(name: str, blocks: list[Block], at: int) -> None:
    """Either it is said that something is missing, or nothing is (what follows may be usage, or a marker)."""
    raw = b"".join(MAKERS[name][0](blocks))
    at %= len(raw)
    try:
        events = play(name, raw[:at])
    except (IncompleteStream, BadUpstream):  # the second: half an event
        return
    check(events)
    assert meaning(fold(events)) == meant(blocks)


def merged(lanes: list[list[Any]], draw: Callable[[list[int]], int]) -> list[Any]:
    """The lanes' events in a random order that keeps each lane's own; lanes begin one after the other."""
    lanes, out, begun = [list(lane) for lane in lanes], [], 0
    while any(lanes):
        n = draw([n for n, lane in enumerate(lanes) if lane and n <= begun])
        out.append(lanes[n].pop(0))
        begun = max(begun, n + 1)
    return out


@settings(max_examples=150, deadline=None)
@given(blocks=BLOCKS, cuts=CUTS, choices=st.data())
def test_overlapping_blocks_of_anthropic_look_alikes_are_put_in_order(
    blocks: list[Block], cuts: list[int], choices: st.DataObject
) -> None:
    inner = merged(anthropic_lanes(blocks), lambda ready: choices.draw(st.sampled_from(ready)))
    raw = b"".join(data(e, e["type"]) for e in anthropic_events(blocks, inner))
    events = play("anthropic", raw, cuts)
    check(events)
    message = fold(events)
    assert sorted(meaning(message)[0]) == sorted(meant(blocks)[0]), "pieces of two texts may change places"
    assert sorted(meaning(message)[1]) == sorted(meant(blocks)[1])
    assert meaning(message)[2] == meant(blocks)[2], "arguments may not"


@settings(max_examples=100, deadline=None)
@given(blocks=BLOCKS, cuts=CUTS, end=ENDS)
def test_a_relayed_stream_is_the_same_bytes_however_it_came(
    blocks: list[Block], cuts: list[int], end: bytes
) -> None:
    raw = b"".join(anthropic(blocks)).replace(b"\n", end)
    relay = PassRelay(Scanner(), lambda: pytest.fail("nothing is to be mended"))
    edges = sorted({0, len(raw), *(c % (len(raw) + 1) for c in cuts)})
    sent = b"".join(relay.feed(raw[a:b]) for a, b in itertools.pairwise(edges)) + relay.end()
    assert relay.error is None and relay.finished and not relay.scanner.irregular
    assert sent.strip(b"\r\n") == raw.strip(b"\r\n")
    assert (relay.usage.input, relay.usage.output) == (21, 9)
    assert relay.stop_reason == stop_of(blocks, "tool_use", "end_turn")


# ------------------------------------------------------------------------------------------------ said back
def said_anthropic(body: Any) -> tuple[list[Any], list[Any]]:
    blocks = [b for m in body["messages"] if isinstance(m["content"], list) for b in m["content"]]
    calls = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    return calls, [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]


def said_chat(body: Any) -> tuple[list[Any], list[Any]]:
    calls = [c for m in body["messages"] for c in m.get("tool_calls") or ()]
    named = [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]
    return named, [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]


def said_responses(body: Any) -> tuple[list[Any], list[Any]]:
    items = body["input"]
    calls = [
        (i["call_id"], i["name"], json.loads(i["arguments"]))
        for i in items
        if i.get("type") == "function_call"
    ]
    return calls, [i["call_id"] for i in items if i.get("type") == "function_call_output"]


def said_gemini(body: Any) -> tuple[list[Any], list[Any]]:
    """Without ids here: calls and responses pair by their order."""
    parts = [p for c in body["contents"] for p in c["parts"]]
    calls = [p["functionCall"] for p in parts if "functionCall" in p]
    named = [(n, c["name"], c["args"]) for n, c in enumerate(calls)]
    responses = [p["functionResponse"]["name"] for p in parts if "functionResponse" in p]
    assert responses == [c["name"] for c in calls]
    return named, list(range(len(responses)))


def said_bedrock(body: Any) -> tuple[list[Any], list[Any]]:
    blocks = [b for m in body["messages"] for b in m["content"]]
    uses = [b["toolUse"] for b in blocks if "toolUse" in b]
    results = [b["toolResult"]["toolUseId"] for b in blocks if "toolResult" in b]
    return [(u["toolUseId"], u["name"], u["input"]) for u in uses], results


SAID: dict[str, Callable[[Any], tuple[list[Any], list[Any]]]] = {
    "anthropic": said_anthropic,
    "openai_chat": said_chat,
    "openai_responses": said_responses,
    "gemini": said_gemini,
    "bedrock": said_bedrock,
    "bedrock_invoke": said_anthropic,
}


@EVERY
@settings(max_examples=60, deadline=None)
@given(blocks=BLOCKS)
def test_what_was_understood_is_said_back(name: str, blocks: list[Block]) -> None:
    """decode, then encode as history: calls with their arguments, each with its result, words and own state."""
    message = fold(play(name, b"".join(MAKERS[name][0](blocks))))
    calls = [b for b in message["content"] if b["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": c["id"], "content": "done"} for c in calls]
    history = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [*results, {"type": "text", "text": "and on"}]},
    ]
    tools = [{"name": n, "input_schema": {"type": "object", "properties": {}}} for n in ("read", "bash")]
    request = {"model": "claude-x", "max_tokens": 4000, "messages": history, "tools": tools}
    sent = DIALECTS[MAKERS[name][1]].encode(request, context(name)).body
    named, answered = SAID[name](sent)
    assert [(n, a) for _, n, a in named] == meant(blocks)[2]
    assert answered == [id for id, *_ in named]
    wire = json.dumps(sent, ensure_ascii=False)
    for kind, value in blocks:
        if kind == "text":
            assert all(json.dumps(p, ensure_ascii=False)[1:-1] in wire for p in halves(value)), value
    for mark in (f"{prefix}{n:04d}" for prefix in ("c2ln", "RU5D") for n in range(len(blocks))):
        issued = mark in b"".join(MAKERS[name][0](blocks)).decode("utf-8", "replace")
        followed = name != "openai_responses" or any(k != "thinking" for k, _ in blocks[int(mark[4:]) + 1 :])
        if issued and followed:
            assert mark in wire, "state that was issued goes back"
    if not any("ccm1." in value for kind, value in blocks if kind == "text"):
        assert "ccm1." not in wire
