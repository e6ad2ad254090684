"""Whatever a model answers: OpenAI's clients can read it, nothing is lost, and what they send back is what came."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.inbound.free_text import FreeText
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.wire.eventstream import Framer
from ccm.wire.eventstream_encode import encode
from tests.inbound import CREATED, answer, ask, frames, ids, sdk, stream, whole

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)
CALL = st.tuples(
    st.just("call"), st.sampled_from(("f", "n__g", "apply")), st.dictionaries(TEXT, VALUES, max_size=2)
)
STEP = st.one_of(
    st.tuples(st.just("text"), TEXT),
    st.tuples(st.just("thought"), st.one_of(TEXT, st.just("")), TEXT),
    st.tuples(st.just("redacted"), TEXT),
    CALL,
)
STOP = st.sampled_from((None, "max_tokens", "stop_sequence"))
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "function": {"name": "n__g"}},
        {"type": "custom", "custom": {"name": "apply"}},
    ],
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "input": "hi",
    "tools": [
        {"type": "function", "name": "f", "parameters": {}},
        {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "g"}]},
        {"type": "custom", "name": "apply"},
    ],
}


def events_of(steps: list[tuple[Any, ...]], stop: str | None) -> list[Event]:
    """A grammatical answer: what BlockWriter makes of the steps, arguments in two pieces."""
    made: list[tuple[Any, ...]] = []
    for n, (kind, *args) in enumerate(steps):
        if kind == "text":
            made.append(("text", args[0]))
        elif kind == "thought":
            made += [("thinking", args[0]), ("signature", args[1])]
        elif kind == "redacted":
            made.append(("block", {"type": "redacted_thinking", "data": args[0]}))
        else:
            name, input = args
            if name == "apply":
                input = {"input": json.dumps(input, ensure_ascii=False)}
            arguments = json.dumps(input, ensure_ascii=n % 2 == 0)
            half = len(arguments) // 2
            made += [("tool", n, f"toolu_{n}", name), ("tool_json", n, arguments[:half])]
            made += [("tool_json", n, arguments[half:]), ("tool_end", n)]
    return answer(*made, stop=stop)


def texts(message: dict[str, Any]) -> str:
    return "".join(b["text"] for b in message["content"] if b["type"] == "text")


def parsed(call: dict[str, Any]) -> dict[str, Any]:
    """A call or item with its arguments as data: whole answers write the same JSON without spaces."""
    inner = call.get("function", call)
    if "arguments" not in inner:
        return call
    read = {**inner, "arguments": json.loads(inner["arguments"])}
    return {**call, "function": read} if "function" in call else read


def canonical(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as a request can hold them. Text before calls stands before them in Chat Completions; an answer that
    is the last thing said loses the white space at its end, and becomes a turn without blank text."""
    return [b for b in content if b != {"type": "text", "text": ""}]


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=6), STOP)
def test_the_sdk_reads_a_chat_answer_and_sends_it_back(
    steps: list[tuple[Any, ...]], stop: str | None
) -> None:
    events = events_of(steps, stop)
    message = fold(events)
    custom = any(step[0] == "call" and step[1] == "apply" for step in steps)
    *chunks, done = frames(stream("chat", events, CHAT))
    assert done == "[DONE]"
    assert [c["choices"][0]["finish_reason"] for c in chunks].count(None) == len(chunks) - 1
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    indexes = [call["index"] for d in deltas for call in d.get("tool_calls", ())]
    assert indexes == sorted(indexes)
    unstreamed = whole("chat", message, CHAT)["choices"][0]
    assert (unstreamed["message"]["content"] or "") == texts(message)
    if (
        not custom and stop != "max_tokens"
    ):  # at max_tokens the SDK raises, and its accumulator knows no custom calls
        with sdk(stream("chat", events, CHAT)).chat.completions.stream(**CHAT) as s:
            final = s.get_final_completion().choices[0]
        assert final.finish_reason == unstreamed["finish_reason"]
        got = final.message.model_dump(exclude_none=True)
        assert (got.get("content") or "") == texts(message)
        assert got.get("reasoning_details") == unstreamed["message"].get("reasoning_details")
        listed = [
            {k: c[k] for k in ("id", "type")} | {"function": c["function"]} for c in got.get("tool_calls", ())
        ]
        for call in listed:
            call["function"].pop("parsed_arguments", None)
        expected = [parsed(c) for c in unstreamed["message"].get("tool_calls", [])]
        assert [parsed(c) for c in listed] == expected
    history = [*CHAT["messages"], unstreamed["message"], {"role": "user", "content": "go on"}]
    again = ask("chat", {**CHAT, "messages": history})["messages"]
    back = again[1]["content"] if again[1]["role"] == "assistant" else []
    # Chat Completions holds text and calls apart: all of either in their order, and each thought where it stood
    for kind in ("tool_use", "thinking", "redacted_thinking"):
        assert [b for b in back if b["type"] == kind] == [b for b in message["content"] if b["type"] == kind]
    assert texts({"content": back}) == texts(message)
    calls_first = [b["type"] for b in message["content"]]
    if "tool_use" not in calls_first or "text" not in calls_first[calls_first.index("tool_use") :]:
        assert back == canonical(message["content"])


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=6), STOP)
def test_the_sdk_reads_a_responses_answer_and_sends_it_back(
    steps: list[tuple[Any, ...]], stop: str | None
) -> None:
    events = events_of(steps, stop)
    message = fold(events)
    data = stream("responses", events, RESPONSES)
    ladder = frames(data)
    assert [e["sequence_number"] for e in ladder] == list(range(len(ladder)))
    added = [e["output_index"] for e in ladder if e["type"] == "response.output_item.added"]
    finished = [e["output_index"] for e in ladder if e["type"] == "response.output_item.done"]
    assert added == finished == list(range(len(added)))
    output = ladder[-1]["response"]["output"]
    assert [e["item"] for e in ladder if e["type"] == "response.output_item.done"] == output
    unstreamed = whole("responses", message, RESPONSES)["output"]
    assert [parsed(o) for o in unstreamed] == [parsed(o) for o in output]
    if stop != "max_tokens":
        with sdk(data).responses.stream(**RESPONSES) as s:
            final = s.get_final_response()
        assert final.output_text == texts(message)
        assert [o.type for o in final.output] == [o["type"] for o in output]
    history = [{"role": "user", "content": "hi"}, *output, {"role": "user", "content": "go on"}]
    again = ask("responses", {**RESPONSES, "input": history})["messages"]
    back = again[1]["content"] if again[1]["role"] == "assistant" else []
    assert back == message["content"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.booleans(), st.lists(st.integers(0, 80), max_size=8))
def test_free_text_whatever_the_cuts(text: str, ascii: bool, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii)
    free, seen = FreeText(), ""
    places = sorted({min(c, len(arguments)) for c in cuts} | {0, len(arguments)})
    for start, end in itertools.pairwise(places):
        seen += free.feed(arguments[start:end])
    rest, whole_text = free.end()
    assert whole_text == text and seen + rest == text
    assert rest == ""  # all of it came while it was arriving


@given(st.text(max_size=20), st.lists(st.integers(0, 20), max_size=4))
def test_free_text_of_anything_else_is_the_thing_itself(junk: str, cuts: list[int]) -> None:
    free = FreeText()
    places = sorted({min(c, len(junk)) for c in cuts} | {0, len(junk)})
    seen = "".join(free.feed(junk[a:b]) for a, b in itertools.pairwise(places))
    rest, whole_text = free.end()
    assert seen + rest == whole_text


HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=20),
    st.text(max_size=20),
    max_size=3,
)


@given(HEADERS, st.binary(max_size=200), st.integers(1, 40))
def test_event_stream_round_trip(headers: dict[str, str], payload: bytes, step: int) -> None:
    clean = {k: v.encode("utf-8", "replace").decode() for k, v in headers.items()}
    data = encode(clean, payload)
    framer = Framer()
    got = [f for at in range(0, len(data), step) for f in framer.feed(data[at : at + step])]
    assert [(f.headers, f.payload) for f in got] == [(clean, payload)]
    assert framer.end() == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(STEP, max_size=5),
    st.integers(0, 40),
    st.sampled_from(("chat", "responses", "bedrock", "vertex")),
)
def test_a_break_anywhere_leaves_whole_frames_and_one_honest_end(
    steps: list[tuple[Any, ...]], cut: int, surface: str
) -> None:
    original = {"chat": CHAT, "responses": RESPONSES}.get(surface, {})
    events = events_of(steps, None)[:-1][:cut]
    renderer = SURFACES[surface].renderer("asked", {}, original, ids(), CREATED)
    data = b"".join(renderer.render(event) for event in events)
    data += renderer.fail("api_error", "it broke", "req_1")
    if surface == "bedrock":
        last = Framer().feed(data)[-1]
        assert last.headers[":message-type"] == "exception" and json.loads(last.payload) == {
            "message": "it broke"
        }
        return
    last_event = frames(data)[-1]
    assert b"[DONE]" not in data and b"response.completed" not in data and b"message_stop" not in data
    found = last_event["response"]["error"] if surface == "responses" else last_event["error"]
    assert found["message"] == "it broke"
