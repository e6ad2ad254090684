"""A Messages stream put in order: for providers that speak the Messages API but not its grammar (DIALECTS 6.1, 15).

Events of a well-formed stream pass unchanged, unknown ones too. Mended are: blocks that overlap (llama.cpp ends a text
block after the next one began), starts without `input`, `text` or `signature`, tool input in the start instead of in
deltas, a missing message_start, message_delta or message_stop. Never mended: an end in the middle of a block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ccm.dialects.base import Context
from ccm.dialects.errors import error_inside
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.events import Event
from ccm.messages.tokens import Usage
from ccm.model import ProviderError
from ccm.wire import jsontext
from ccm.wire.sse import Frame

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # of an event: it becomes a line of its own
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")  # what the Messages API takes back as a tool id
DEFAULTS: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "server_tool_use": {"input": {}},
    "mcp_tool_use": {"input": {}},
}
# What a delta for a block that never started must belong to.
_KIND_OF_DELTA = {
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}


_FIELD_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
_FITTING: dict[str, tuple[str, ...]] = {
    "text": ("text_delta",),
    "thinking": ("thinking_delta", "signature_delta"),
    "tool_use": ("input_json_delta",),
}
_TEXTS = ("text", "thinking", "signature", "data", "id", "name")
_OURS = frozenset((*DEFAULTS, "redacted_thinking"))
_FIGURES = (
    "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
)  # fmt: skip


def fault_of(block: dict[str, Any]) -> str:
    """What is wrong with a content block that claims to be one, or "": its type and its texts must be texts."""
    if not isinstance(block.get("type", "text"), str):
        return "of no type"
    for name in _TEXTS if block.get("type", "text") in _OURS else ():
        if not isinstance(block.get(name, ""), (str, type(None))):
            return f"whose {name} is no text"
    return ""


def is_odd(delta: Any, kind: str) -> bool:
    """Whether a delta is none, or does not belong into a block of this kind."""
    name = delta.get("type") if isinstance(delta, dict) else None
    if not isinstance(name, str):
        return True
    field = _FIELD_OF_DELTA.get(name)
    if field is None:
        return False
    return not isinstance(delta.get(field), str) or name not in _FITTING.get(kind, (name,))


def figures(usage: Any, known: Usage) -> Any:
    """The `usage` object as it came, or what is `known` where its figures are none."""
    if not usage or not isinstance(usage, dict):
        return known.to_dict()
    for name in _FIGURES:
        figure = usage.get(name)
        if figure is not None and (type(figure) is not int or figure < 0):
            return known.to_dict()
    return usage


class StreamDecoder:
    """See `dialects.base.Decoder`. The message's `model` and ids stay as the provider sent them."""

    def __init__(self, ctx: Context) -> None:
        self.usage = Usage()
        self.finished = False
        self._ctx = ctx
        self._out: list[Event] = []
        self._started = False
        self._stop_reason: str | None = None
        self._tools = 0
        self._next = 0  # index of the next block we give out
        self._open: int | None = None  # the provider's index of the open block
        self._kind = ""
        self._given: Any = None  # tool input that came in the start of the open block
        self._held: list[Event] = []  # events of blocks that began while a tool call was open
        self._told = False  # message_delta was given out: no block may follow
        self._ended_early: dict[int, str] = {}  # provider's index -> kind, of blocks we closed before it did

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame. Raises UpstreamError for an error event, BadUpstream for what is no JSON object."""
        data = frame.data.strip()
        if self.finished or not data or data == b"[DONE]":
            return []
        try:
            event = jsontext.event(data)
        except (ValueError, RecursionError) as problem:
            raise BadUpstream(f"{self._ctx.provider}: a stream event is not JSON: {data[:80]!r}") from problem
        if not isinstance(event, dict):
            raise BadUpstream(f"{self._ctx.provider}: a stream event is not a JSON object: {data[:80]!r}")
        kind = event.get("type") or frame.event
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise BadUpstream(f"{self._ctx.provider}: a stream event of no type: {data[:80]!r}")
        if kind == "error" or frame.event == "error" or (event.get("error") and not event.get("type")):
            raise UpstreamError(error_inside(event))
        if event.get("type") != kind:
            event = {**event, "type": kind}
        self._event(event)
        out, self._out = self._out, []
        return out

    def end(self) -> list[Event]:
        """The body ended. An end after a stop reason is one without message_stop; any other is IncompleteStream."""
        if self.finished:
            return []
        if self._stop_reason is None or self._open is not None:
            message = f"{self._ctx.provider} ended the stream before message_stop"
            raise IncompleteStream(ProviderError(0, "api_error", message, "incomplete_stream"))
        self._event({"type": "message_stop"})
        out, self._out = self._out, []
        return out

    def _event(self, event: Event) -> None:
        kind = event["type"]
        if kind == "message_start":
            self._start(event)
            return
        if not self._started and kind != "ping":
            self._start({"type": "message_start", "message": {}})
        handler: Callable[[Event], None] = {
            "content_block_start": self._block_start,
            "content_block_delta": self._delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
        }.get(kind, self._out.append)
        handler(event)

    def _start(self, event: Event) -> None:
        if self._started:
            return
        self._started = True
        message = event.get("message")
        message = dict(message) if isinstance(message, dict) else {}
        self.usage.update(message.get("usage"))
        wanted: dict[str, Any] = {
            "id": message.get("id") or self._ctx.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": message.get("model") or self._ctx.asked_model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": figures(message.get("usage"), self.usage),
        }
        if any(k not in message or message[k] != v for k, v in wanted.items()):
            event = {**event, "message": {**message, **wanted}}
        self._out.append(event)

    def _block_start(self, event: Event) -> None:
        index, block = event.get("index"), event.get("content_block")
        if not isinstance(index, int) or not isinstance(block, dict):
            raise BadUpstream(f"{self._ctx.provider}: content_block_start without index or block")
        if (fault := fault_of(block)) or self._told:
            raise BadUpstream(f"{self._ctx.provider}: a block {fault or 'after the end of the message'}")
        if self._open is not None:
            if self._kind not in ("text", "thinking"):
                self._held.append(event)  # a tool call must be whole before the next block
                return
            self._ended_early[self._open] = self._kind
            self._close({"type": "content_block_stop", "index": self._open})
        self._begin(event, index, block)

    def _begin(self, event: Event, index: int, block: dict[str, Any]) -> None:
        kind = str(block.get("type") or "text")
        defaults = DEFAULTS.get(kind, {})
        missing = {k: v for k, v in defaults.items() if block.get(k) is None}
        given = block.get("input") if "input" in defaults else None
        if kind == "tool_use" and not TOOL_ID.fullmatch(block.get("id") or ""):
            # such ids are refused when they come back, and mostly repeat: the client would ask for ever (CLIENT 0.4)
            missing["id"] = self._ctx.new_id("toolu_")
        if missing or given or "type" not in block:
            block = {"type": kind, **block, **missing}
            if given:
                block["input"] = {}
        self._given = given or None
        self._open, self._kind = index, kind
        self._tools += kind == "tool_use"
        if index != self._next or type(index) is not int or block is not event.get("content_block"):
            event = {**event, "index": self._next, "content_block": block}
        self._out.append(event)
        self._next += 1

    def _delta(self, event: Event) -> None:
        index, delta = event.get("index"), event.get("delta")
        if not isinstance(delta, dict):
            return
        field = _FIELD_OF_DELTA.get(str(delta.get("type")), "type")
        if not isinstance(delta.get(field), str):
            if field == "type" or delta.get(field) is not None:
                raise BadUpstream(f"{self._ctx.provider}: a delta without {field}")
            delta = {**delta, field: ""}
            event = {**event, "delta": delta}
        if index != self._open or index is None:
            if self._open is not None and self._kind not in ("text", "thinking"):
                self._held.append(event)
                return
            # late text of a block we closed, or of one that never began: a block of its own
            kind = self._ended_early.get(index if isinstance(index, int) else -1) or _KIND_OF_DELTA.get(
                str(delta.get("type"))
            )
            if kind is None or not isinstance(index, int):
                return
            if not any(delta.get(k) for k in ("text", "thinking", "signature", "citation")):
                return
            self._block_start(
                {"type": "content_block_start", "index": index, "content_block": {"type": kind}}
            )
        if (
            self._kind in _FITTING
            and delta["type"] in _FIELD_OF_DELTA
            and delta["type"] not in _FITTING[self._kind]
        ):
            raise BadUpstream(f"{self._ctx.provider}: a {delta['type']} in a {self._kind} block")
        if delta.get("type") == "input_json_delta" and delta.get("partial_json"):
            self._given = None
        if index != self._next - 1 or type(index) is not int:  # false == 0
            event = {**event, "index": self._next - 1}
        self._out.append(event)

    def _block_stop(self, event: Event) -> None:
        if self._open is not None and event.get("index") == self._open:
            self._close(event)
            self._release()
        elif self._held:
            self._held.append(event)

    def _close(self, event: Event) -> None:
        place = self._next - 1
        if self._given is not None:
            text = json.dumps(self._given, ensure_ascii=False)
            delta = {"type": "input_json_delta", "partial_json": text}
            self._out.append({"type": "content_block_delta", "index": place, "delta": delta})
            self._given = None
        index = event.get("index")
        named = index == place and type(index) is int
        self._out.append(event if named else {**event, "index": place})
        self._open, self._kind = None, ""

    def _release(self) -> None:
        held, self._held = self._held, []
        for event in held:
            self._event(event)

    def _message_delta(self, event: Event) -> None:
        while self._open is not None:  # blocks the provider forgot to end
            self._close({"type": "content_block_stop", "index": self._open})
            self._release()
        self.usage.update(event.get("usage"))
        delta = event.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if reason := delta.get("stop_reason"):
            self._stop_reason = str(reason)
            if not isinstance(reason, str):
                delta = {**delta, "stop_reason": self._stop_reason}
        elif "stop_reason" in delta:  # none yet: the one that counts is still to come
            delta = {k: v for k, v in delta.items() if k != "stop_reason"}
        usage = figures(event.get("usage"), self.usage)
        if usage is not event.get("usage") or delta is not event.get("delta"):
            event = {**event, "delta": delta, "usage": usage}
        self._told = True
        self._out.append(event)

    def _message_stop(self, event: Event) -> None:
        if self._stop_reason is None:
            reason = "tool_use" if self._tools else "end_turn"
            self._message_delta(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": None},
                    "usage": self.usage.to_dict(),
                }
            )
        self.finished = True
        self._out.append(event)
