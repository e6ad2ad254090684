"""Events folded into a message: what a client that did not ask for a stream gets from one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ccm.errors import BadUpstream
from ccm.messages.events import Event


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
        value = json.loads(text)
    except ValueError:
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
