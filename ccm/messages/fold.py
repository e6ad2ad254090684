"""Events folded into a message: what a client that did not ask for a stream gets from one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ccm.errors import BadUpstream
from ccm.messages.events import Event
from ccm.wire import jsontext


class Fold:
    """Accumulates events; `message` is whole after `message_stop` (`complete`)."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}
        self.complete = False
        self._json: dict[int, list[str]] = {}

    def add(self, event: Event) -> None:
        """Takes one event. Raises BadUpstream for arguments that are no JSON object only where they are whole."""
        kind = event["type"]
        if kind == "content_block_delta":
            self._delta(self.message["content"][event["index"]], event)
        elif kind == "content_block_start":
            self.message["content"].append(dict(event["content_block"]))
        elif kind == "content_block_stop":
            parts = self._json.pop(event["index"], None)
            if parts is not None:
                self.message["content"][event["index"]]["input"] = _arguments("".join(parts))
        elif kind == "message_start":
            self.message = dict(event["message"], content=list(event["message"].get("content") or ()))
        elif kind == "message_delta":
            self.message.update(event["delta"])
            usage = self.message.setdefault("usage", {})
            usage.update({k: v for k, v in (event.get("usage") or {}).items() if v is not None})
            for key in event.keys() - {"type", "delta", "usage"}:
                self.message[key] = event[key]
        elif kind == "message_stop":
            self.complete = True

    def _delta(self, block: dict[str, Any], event: Event) -> None:
        delta = event["delta"]
        kind = delta["type"]
        if kind == "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        elif kind == "input_json_delta":
            self._json.setdefault(event["index"], []).append(delta["partial_json"])
        elif kind == "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "citations_delta":
            block.setdefault("citations", [])
            block["citations"] = [*(block["citations"] or ()), delta["citation"]]


def _arguments(text: str) -> Any:
    if not text.strip():
        return {}
    try:
        value = jsontext.loads(text)  # no NaN: the client could not read it
    except (ValueError, RecursionError):
        # A model's own broken JSON. Claude Code names it so when it replays such a call (CLIENT 5): the model, not
        # the gateway, has to mend it.
        return {"__unparsedToolInput": {"raw": text, "len": len(text)}}
    return value if isinstance(value, dict) else {"input": value}


def fold(events: Iterable[Event]) -> dict[str, Any]:
    """The message that a complete event sequence makes. Raises BadUpstream when the sequence does not end."""
    folded = Fold()
    for event in events:
        folded.add(event)
    if not folded.complete:
        raise BadUpstream("the stream ended before its last event")
    return folded.message


def unfold(message: dict[str, Any]) -> Iterator[Event]:
    """The event sequence of a whole message: for a client that asked for a stream and a provider that sent none."""
    start = {
        k: v
        for k, v in message.items()
        if k not in ("content", "stop_reason", "stop_sequence", "stop_details")
    }
    if not isinstance(start.get("usage"), dict):  # readers of streams rely on it
        start["usage"] = {"input_tokens": 0, "output_tokens": 0}
    yield {
        "type": "message_start",
        "message": {**start, "content": [], "stop_reason": None, "stop_sequence": None},
    }
    for index, block in enumerate(message.get("content") or ()):
        first, deltas = _unfold_block(block)
        yield {"type": "content_block_start", "index": index, "content_block": first}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {k: message.get(k) for k in ("stop_reason", "stop_sequence")}
    if delta["stop_reason"] is None:  # some whole answers lack it; a stream without one would not end
        tools = any(block.get("type") == "tool_use" for block in message.get("content") or ())
        delta["stop_reason"] = "tool_use" if tools else "end_turn"
    if message.get("stop_details") is not None:
        delta["stop_details"] = message["stop_details"]
    usage = {k: v for k, v in (message.get("usage") or {}).items() if k in _DELTA_USAGE}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0, **usage}}
    yield {"type": "message_stop"}


# The fields that `message_delta.usage` may carry (official SDK: BetaMessageDeltaUsage).
_DELTA_USAGE = frozenset(
    {
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "server_tool_use",
        "output_tokens_details",
    }
)


def _unfold_block(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block's empty start and the deltas that fill it."""
    kind = block.get("type")
    if kind == "text":
        deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": block.get("text", "")}]
        citations = block.get("citations")
        deltas += [{"type": "citations_delta", "citation": c} for c in citations or ()]
        return {**block, "text": "", **({"citations": []} if citations else {})}, deltas
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": block.get("thinking") or ""}]
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
        text = json.dumps(block.get("input") or {}, separators=(",", ":"))
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return dict(block), []
