"""Targets at what providers answer: streams and whole bodies of every dialect, through the relay and every client form.

Allowed: an error that the relay reports (UpstreamError, BadUpstream). Otherwise the events must keep the grammar, and
whatever the client's form is, its renderer must be able to say them.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccm.dialects import cut
from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Context, Encoded
from ccm.dialects.errors import error_of
from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.openai_chat.search import Sent
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream, UpstreamError
from ccm.messages.events import Event
from ccm.messages.fold import Fold, unfold
from ccm.messages.tokens import Usage
from ccm.model import ModelFacts
from ccm.proxy.relay import PassRelay, TranslateRelay
from ccm.routing import failures
from ccm.routing.cooldown import wait_asked
from ccm.wire import eventstream, sse
from ccm.wire.eventstream_encode import encode
from tests.fuzz.dice import Dice, bent, dumps, spoil, value
from tests.grammar import check
from tests.property.streams import MAKERS, Block

DATA = Path(__file__).resolve().parents[1] / "data"
_BLOCKS: tuple[list[Block], ...] = (
    [("text", "Hello, wörld")],
    [("thinking", "Hm. "), ("text", "Yes."), ("call", ("read", {"path": "a.py"}))],
    [("call", ("read", {})), ("call", ("bash", {"cmd": "ls", "n": [1, None]})), ("text", "x")],
)
_SURFACES = ("messages", "chat", "responses", "bedrock", "vertex")


def context(way: str, stream: bool) -> Context:
    """A context for one of `MAKERS`' ways of speaking."""
    _, dialect, model = MAKERS[way]
    numbers = itertools.count(1)
    new_id = lambda prefix: f"{prefix}{next(numbers):08d}"  # noqa: E731
    return Context("p", f"{dialect}/custom", model, "claude-x", ModelFacts(model), new_id, stream)


@functools.cache
def streams(way: str) -> list[list[tuple[Any, Any]]]:
    """Sound streams as (event name or headers, JSON) pairs."""
    dialect = DIALECTS[MAKERS[way][1]]
    found = []
    raws = [b"".join(MAKERS[way][0](blocks)) for blocks in _BLOCKS]
    if dialect.framing == "sse":
        raws += [path.read_bytes() for path in sorted((DATA / dialect.name).rglob("*.sse"))]
    for raw in raws:
        framer: Any = eventstream.Framer() if dialect.framing == "eventstream" else sse.Framer()
        frames = [*framer.feed(raw), *framer.end()]
        found.append([(head, _parsed(payload)) for head, payload in frames])
    return found


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode()


def _payload(document: Any) -> bytes:
    return document.encode() if document == "[DONE]" else dumps(document)


def _raw(frame: tuple[Any, Any]) -> bytes:
    head, document = frame
    payload = _payload(document)
    if isinstance(head, dict):
        return encode(head, payload)
    return (f"event: {head}\n" if head else "").encode() + b"data: " + payload + b"\n\n"


@functools.cache
def _written(way: str) -> dict[int, list[bytes]]:
    """The frames of each sound stream as bytes, by the identity of its first one: most are sent as they are."""
    return {id(frames[0]): [_raw(frame) for frame in frames] for frames in streams(way)}


def spoiled_stream(way: str, dice: Dice) -> bytes:
    """A stream with frames dropped, doubled, swapped, and their documents spoiled."""
    frames = list(dice.of(streams(way)))
    sound = {id(frame): raw for frame, raw in zip(frames, _written(way)[id(frames[0])], strict=True)}
    for _ in range(dice.below(4)):
        at = dice.below(len(frames) or 1)
        move = dice.below(8)
        if not frames:
            break
        if move == 0:
            del frames[at]
        elif move == 1:
            frames.insert(dice.below(len(frames) + 1), frames[at])
        elif move == 2:
            frames[at], frames[0] = frames[0], frames[at]
        elif move == 3:
            del frames[at:]
        elif move == 4:
            frames[at] = (frames[at][0], value(dice))
        else:
            frames[at] = (frames[at][0], spoil(frames[at][1], dice))
    out = [sound.get(id(frame)) or _raw(frame) for frame in frames]
    raw = b"".join(out)
    return bent(raw, dice) if dice.byte() % 8 == 0 else raw


class _Tap:
    """A renderer that also keeps the events."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.content_type = inner.content_type
        self.events: list[Event] = []

    def render(self, event: Event) -> bytes:
        self.events.append(event)
        return bytes(self.inner.render(event))

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        self.events.append({"type": "error", "error": {"type": type, "message": message}})
        return bytes(self.inner.fail(type, message, request_id))

    def alive(self) -> bytes:
        return bytes(self.inner.alive())


def _sent(way: str, searching: bool) -> Encoded:
    """What was sent before: a web search was asked for, or not."""
    if searching and way == "openai_chat":
        return Sent("", {}, search="q")
    return Encoded("", {"tools": [{"googleSearch": {}}]} if searching and way == "gemini" else {})


def _relay(
    way: str, surface: str, cuts: tuple[str, ...], searching: bool = False
) -> tuple[TranslateRelay, _Tap]:
    dialect = DIALECTS[MAKERS[way][1]]
    ctx = context(way, True)
    tap = _Tap(SURFACES[surface].renderer("claude-x", {}, {}, ctx.new_id, 1_790_000_000))
    decoder: Any = dialect.decoder(ctx, _sent(way, searching))
    if cuts:
        decoder = cut.Cutter(decoder, cuts)
    framer = eventstream.Framer() if dialect.framing == "eventstream" else sse.Framer()
    return TranslateRelay(framer, decoder, tap), tap


def _drive(relay: Any, pieces: list[bytes]) -> bytes:
    out = b""
    for piece in pieces:
        out += relay.feed(piece)
        if relay.error is not None or relay.finished:
            break
        relay.alive(99.0)
    else:
        out += relay.end()
    return out


def streamed(way: str) -> Callable[[bytes], None]:
    """The target for one way of streaming."""

    def run(data: bytes) -> None:
        dice = Dice(data)
        surface = dice.of(_SURFACES)
        cuts = dice.of(((), (), ("ll",)))
        relay, tap = _relay(way, surface, cuts, bool(dice.byte() % 2))
        raw = spoiled_stream(way, dice) if dice.byte() % 8 else dice.rest()
        _drive(relay, dice.cuts(raw))
        if relay.error is not None and not relay.finished:
            failure = failures.classify(relay.error, now_wall=1.0)
            if not tap.events:
                return  # nothing was sent: another target is asked
            tap.fail(*failures.error_type_for_stream(failure), "req_1")
        _grammatical(tap.events)
        _counted(relay.usage)

    return run


def _grammatical(events: list[Event]) -> None:
    known = [e for e in events if e["type"] in _KNOWN]
    plain = []
    for event in known:  # blocks that the checker does not know by name hold what their provider says
        if event["type"] == "content_block_delta":
            if event["delta"].get("type") not in _DELTAS:
                continue
            if event["delta"]["type"] == "input_json_delta":  # what a model writes there is its own affair
                event = {**event, "delta": {"type": "input_json_delta", "partial_json": ""}}
        elif event["type"] == "message_start":  # some leave out figures
            message = event["message"]
            event = {
                **event,
                "message": {
                    **message,
                    "usage": {**message["usage"], "input_tokens": message["usage"].get("input_tokens") or 0},
                },
            }
        elif event["type"] == "message_delta" and "stop_reason" not in event["delta"]:
            continue  # figures only; the reason comes with another one
        elif event["type"] == "message_delta":
            event = {**event, "usage": {"output_tokens": event["usage"].get("output_tokens") or 0}}
        plain.append(event)
    odd = [
        e
        for e in plain
        if e["type"] == "content_block_start" and e["content_block"].get("type") not in _BLOCK_KINDS
    ]
    if not odd:
        check(plain)


_KNOWN = frozenset(
    {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop", "ping", "error"}
)  # fmt: skip
_DELTAS = frozenset(
    {"text_delta", "citations_delta", "thinking_delta", "signature_delta", "input_json_delta"}
)
_BLOCK_KINDS = frozenset({"text", "thinking", "tool_use", "server_tool_use"})


def _counted(usage: Usage) -> None:
    figures = (usage.input, usage.output, usage.cache_read, usage.cache_write, usage.web_searches)
    assert all(type(n) is int and n >= 0 for n in figures), usage


@functools.cache
def wholes(way: str) -> list[Any]:
    """Whole answers: those in tests/data, and a small one of our own."""
    dialect = MAKERS[way][1]
    found = [json.loads(path.read_text()) for path in sorted((DATA / dialect).rglob("response.json"))]
    return [*found, _WHOLE[way]]


_CLAUDE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}  # fmt: skip
_WHOLE: dict[str, Any] = {
    "anthropic": _CLAUDE,
    "bedrock_invoke": _CLAUDE,
    "openai_chat": {
        "id": "c", "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": "a", "reasoning_content": "r",
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        }}], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}},
    },
    "openai_responses": {
        "id": "r", "status": "completed", "output": [
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "E"},
            {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            {"type": "function_call", "id": "f", "call_id": "call_1", "name": "f", "arguments": "{}"},
        ], "usage": {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 1}},
    },
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [
            {"text": "t", "thought": True, "thoughtSignature": "c2ln"}, {"text": "a"}, {"functionCall": {"name": "f", "args": {}}},
        ]}, "finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["q"], "groundingChunks": [{"web": {"uri": "u", "title": "t"}}]}}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 1},
    },
    "bedrock": {
        "output": {"message": {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}}, {"text": "a"},
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}},
        ]}}, "stopReason": "tool_use", "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    },
}  # fmt: skip


def whole(way: str) -> Callable[[bytes], None]:
    """The target for one way of answering whole, its errors and its token counts."""

    def run(data: bytes) -> None:
        dice = Dice(data)
        dialect = DIALECTS[MAKERS[way][1]]
        kind = dice.below(8)
        document = spoil(dice.of(wholes(way)), dice) if kind > 2 else value(dice)
        raw = dumps(document) if kind != 1 else dice.rest()
        if kind == 0:
            _explained(dialect, raw, dice)
            return
        try:
            document = json.loads(raw)  # through JSON, as it comes: big numbers, no tuples
        except (ValueError, RecursionError):
            _explained(dialect, raw, dice)
            return
        if kind == 2:
            try:
                count = dialect.decode_count(document)
            except (BadUpstream, UpstreamError):
                return
            assert type(count) is int and count >= 0
            return
        try:
            message = dialect.decode(document, context(way, False), _sent(way, bool(dice.byte() % 2)))
        except (BadUpstream, UpstreamError):
            return
        message = cut.cut_message(message, ("ll",))
        usage = message.get("usage")
        figures = Usage()
        figures.update(usage if isinstance(usage, dict) else None)
        _counted(figures)
        surface = SURFACES[dice.of(_SURFACES)]
        ctx = context(way, True)
        if surface.name != "messages":
            dumps(surface.message(message, "claude-x", {}, ctx.new_id, 1))
        renderer = surface.renderer("claude-x", {}, {}, ctx.new_id, 1)
        events = list(unfold(message))
        for event in events:
            renderer.render(event)
        _grammatical(events)

    return run


def _explained(dialect: Any, raw: bytes, dice: Dice) -> None:
    status = dice.of((400, 401, 404, 413, 429, 500, 503, 529, 599))
    headers = {"retry-after": dice.of(("", "3", "x", "-1", "1e9")), "x-amzn-errortype": "a:b"}
    error = dialect.explain(status, headers, raw)
    failure = failures.classify(error, now_wall=1.0)
    failures.error_type_for_stream(failure)
    failures.summary(failure)
    asked = wait_asked(error.headers, error.body, 1.0, error.message)
    assert asked is None or 0 <= asked <= 3600
    assert error_of(status, headers, raw).message
    str(error)


def scan(data: bytes) -> None:
    """`PassRelay` with its scanner: the same bytes in any cut; and, where it finds no fault, what decoding says."""
    dice = Dice(data)
    raw = spoiled_stream("anthropic", dice)
    pieces = dice.cuts(raw)
    results = []
    for cut_ in ([raw], pieces):
        taps: list[_Tap] = []

        def mend(taps: list[_Tap] = taps) -> TranslateRelay:
            relay, tap = _relay("anthropic", "messages", ())
            taps.append(tap)
            return relay

        relay = PassRelay(Scanner(), mend)
        out = _drive(relay, cut_)
        results.append((_understood(out, raw), relay.error is None, relay.stop_reason))
    try:
        raw.decode()
    except UnicodeDecodeError:
        return  # whether a line of nonsense is noticed, or left out by who reads it, may depend on the cut
    (events, sound, reason), (others, also, _) = results
    if events is None or others is None:
        return  # whether that is noticed may depend on the cut: the client gets what the provider wrote, or an error
    assert sound == also, results
    if not sound:
        return
    assert events and events[-1]["type"] == "message_stop"
    slow, tap = _relay("anthropic", "messages", ())
    _drive(slow, [raw])
    if slow.error is None:
        assert slow.stop_reason == reason
        try:
            fast = _folded(events)
            assert fast == _folded(others), results
        except (TypeError, KeyError, AttributeError, IndexError):
            return  # a delta that is none: the client got the bytes of an Anthropic provider as they were
        assert fast == _folded(tap.events), (fast, tap.events)


def _understood(out: bytes, raw: bytes) -> list[Event] | None:
    """The relayed events; None where a delta is none: deltas pass as they came, and are not looked into."""
    events = []
    for frame in sse.Framer().feed(out):
        try:
            events += [json.loads(frame.data)] if frame.data else []
        except ValueError:
            assert frame.event == "content_block_delta" and frame.data in raw, frame
            return None
    return events


def _folded(events: list[Event]) -> str:
    fold = Fold()
    for event in events:
        fold.add(event)
    return json.dumps([fold.message["content"], fold.message["stop_reason"]], sort_keys=True)
