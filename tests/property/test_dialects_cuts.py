"""One answer in the words of every dialect: however the network cuts it, the events are the same, grammatical, and mean
the same in all of them; an early end is never taken for the end; and what was understood can be said back (R1, R4, R7).

The streams are of our own making, in the providers' documented forms.
"""

from __future__ import annotations

import base64
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
from ccm.wire import eventstream, eventstream_encode, sse
from tests.grammar import check

Block = tuple[str, Any]  # ("text", words) | ("thinking", words) | ("call", (name, arguments))
Frames = list[bytes]
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


def data(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def dumped(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def stop_of(blocks: list[Block], tool: str, end: str) -> str:
    return tool if any(kind == "call" for kind, _ in blocks) else end


# ------------------------------------------------------------------------------------------------ the dialects' words
def anthropic_lanes(blocks: list[Block]) -> list[list[dict[str, Any]]]:
    """The events of each block, in order."""
    lanes = []
    for index, (kind, value) in enumerate(blocks):
        if kind == "text":
            start: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": p} for p in halves(value)]
        elif kind == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": p} for p in halves(value)]
            deltas.append({"type": "signature_delta", "signature": f"c2ln{index:04d}"})
        else:
            start = {"type": "tool_use", "id": f"toolu_{index:06d}", "name": value[0], "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in halves(dumped(value[1]))]
        lanes.append(
            [
                {"type": "content_block_start", "index": index, "content_block": start},
                *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
                {"type": "content_block_stop", "index": index},
            ]
        )
    return lanes


def anthropic_events(blocks: list[Block], inner: list[dict[str, Any]]) -> list[dict[str, Any]]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 21, "output_tokens": 1},
    }  # fmt: skip
    delta = {"stop_reason": stop_of(blocks, "tool_use", "end_turn"), "stop_sequence": None}
    return [
        {"type": "message_start", "message": message},
        *inner,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def anthropic(blocks: list[Block]) -> Frames:
    inner = [event for lane in anthropic_lanes(blocks) for event in lane]
    return [data(event, event["type"]) for event in anthropic_events(blocks, inner)]


def openai_chat(blocks: list[Block]) -> Frames:
    out: list[Any] = [{"role": "assistant", "content": ""}]
    calls = itertools.count()
    for kind, value in blocks:
        if kind == "call":
            index = next(calls)
            function = {"name": value[0], "arguments": ""}
            out.append(
                {
                    "tool_calls": [
                        {"index": index, "id": f"call_{index:06d}", "type": "function", "function": function}
                    ]
                }
            )
            out += [
                {"tool_calls": [{"index": index, "function": {"arguments": p}}]}
                for p in halves(dumped(value[1]))
            ]
        else:
            out += [{"content" if kind == "text" else "reasoning_content": p} for p in halves(value)]
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in out]
    chunks.append(
        {"choices": [{"index": 0, "delta": {}, "finish_reason": stop_of(blocks, "tool_calls", "stop")}]}
    )
    chunks.append({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}})
    return [*map(data, chunks), b"data: [DONE]\n\n"]


def openai_responses(blocks: list[Block]) -> Frames:
    out: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
    ]
    for index, (kind, value) in enumerate(blocks):
        at = {"output_index": index, "item_id": f"i_{index}"}
        if kind == "call":
            item: dict[str, Any] = {
                "type": "function_call",
                "id": f"i_{index}",
                "call_id": f"call_{index:06d}",
                "name": value[0],
            }
            whole = {**item, "arguments": dumped(value[1])}
            name, pieces = "response.function_call_arguments.delta", halves(dumped(value[1]))
        elif kind == "text":
            item = {"type": "message", "id": f"i_{index}", "role": "assistant", "content": []}
            whole = {**item, "content": [{"type": "output_text", "text": value, "annotations": []}]}
            name, pieces = "response.output_text.delta", halves(value)
        else:
            item = {"type": "reasoning", "id": f"i_{index}", "summary": []}
            whole = {
                **item,
                "summary": [{"type": "summary_text", "text": value}],
                "encrypted_content": f"RU5D{index:04d}",
            }
            name, pieces = "response.reasoning_summary_text.delta", halves(value)
        place = {"content_index": 0} if kind == "text" else {"summary_index": 0} if kind == "thinking" else {}
        out.append({"type": "response.output_item.added", "output_index": index, "item": item})
        out += [{"type": name, **at, **place, "delta": p} for p in pieces]
        out.append({"type": "response.output_item.done", "output_index": index, "item": whole})
    usage = {"input_tokens": 21, "output_tokens": 9, "total_tokens": 30}
    out.append(
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "usage": usage}}
    )
    return [data(event, event["type"]) for event in out]


def gemini(blocks: list[Block]) -> Frames:
    parts: list[dict[str, Any]] = []
    for index, (kind, value) in enumerate(blocks):
        if kind == "call":
            parts.append(
                {"functionCall": {"name": value[0], "args": value[1]}, "thoughtSignature": f"c2ln{index:04d}"}
            )
        else:
            parts += [{"text": p, **({"thought": True} if kind == "thinking" else {})} for p in halves(value)]
    chunks: list[Any] = [
        {"candidates": [{"content": {"role": "model", "parts": [p]}, "index": 0}]} for p in parts
    ]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    chunks[-1]["usageMetadata"] = {"promptTokenCount": 21, "candidatesTokenCount": 9, "totalTokenCount": 30}
    return [data(chunk) for chunk in chunks]


def message(name: str, payload: Any) -> bytes:
    head = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return eventstream_encode.encode(head, json.dumps(payload, ensure_ascii=False).encode())


def bedrock(blocks: list[Block]) -> Frames:
    out = [("messageStart", {"role": "assistant"}), *(e for lane in bedrock_lanes(blocks) for e in lane)]
    return [message(*event) for event in [*out, *bedrock_tail(blocks)]]


def bedrock_lanes(blocks: list[Block]) -> list[list[tuple[str, dict[str, Any]]]]:
    lanes = []
    for index, (kind, value) in enumerate(blocks):
        place = {"contentBlockIndex": index}
        lane: list[tuple[str, dict[str, Any]]] = []
        if kind == "call":
            start = {"toolUse": {"toolUseId": f"tooluse_{index}", "name": value[0]}}
            lane.append(("contentBlockStart", {**place, "start": start}))
            deltas: list[Any] = [{"toolUse": {"input": p}} for p in halves(dumped(value[1]))]
        elif kind == "text":
            deltas = [{"text": p} for p in halves(value)]
        else:
            deltas = [{"reasoningContent": {"text": p}} for p in halves(value)]
            deltas.append({"reasoningContent": {"signature": f"c2ln{index:04d}"}})
        lane += [("contentBlockDelta", {**place, "delta": d}) for d in deltas]
        lanes.append([*lane, ("contentBlockStop", place)])
    return lanes


def bedrock_tail(blocks: list[Block]) -> list[tuple[str, dict[str, Any]]]:
    usage = {"inputTokens": 21, "outputTokens": 9, "totalTokens": 30}
    return [
        ("messageStop", {"stopReason": stop_of(blocks, "tool_use", "end_turn")}),
        ("metadata", {"usage": usage}),
    ]


def bedrock_invoke(blocks: list[Block]) -> Frames:
    inner = [event for lane in anthropic_lanes(blocks) for event in lane]
    events = anthropic_events(blocks, inner)
    return [message("chunk", {"bytes": base64.b64encode(json.dumps(e).encode()).decode()}) for e in events]


MAKERS: dict[
    str, tuple[Callable[[list[Block]], Frames], str, str]
] = {  # how it speaks, ccm's dialect, the model
    "anthropic": (anthropic, "anthropic", "claude-sonnet-4-5"),
    "openai_chat": (openai_chat, "openai_chat", "m"),
    "openai_responses": (openai_responses, "openai_responses", "m"),
    "gemini": (gemini, "gemini", "gemini-2.5-pro"),
    "bedrock": (bedrock, "bedrock", "us.amazon.nova-pro-v1:0"),
    "bedrock_invoke": (bedrock_invoke, "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
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
    assert "ccm1." not in wire
