"""Stream events of the Messages API: plain dicts as the API documents them, and their bytes on the wire.

An event is `{"type": "message_start" | "content_block_start" | ... , ...}`. Only `BlockWriter` makes the sequence.
"""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]
_quote = json.encoder.encode_basestring_ascii  # what json.dumps uses for one string, without its overhead


def render(event: Event) -> bytes:
    """The event as one SSE frame: `event:` line, one `data:` line, blank line.

    The frequent text-like deltas are put together from constant parts; everything else goes through `json.dumps`.
    """
    if event["type"] == "content_block_delta":
        delta = event["delta"]
        kind = delta["type"]
        field = _DELTA_FIELD.get(kind)
        if field is not None and len(delta) == 2:
            return (
                f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{event["index"]},'
                f'"delta":{{"type":"{kind}","{field}":{_quote(delta[field])}}}}}\n\n'
            ).encode("ascii")
    return b"event: %s\ndata: %s\n\n" % (
        event["type"].encode(),
        json.dumps(event, separators=(",", ":")).encode(),
    )


_DELTA_FIELD = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "signature_delta": "signature",
}


def is_content(event: Event) -> bool:
    """Whether failing over after this event would show: the first such event is the moment to commit.

    `message_start`, pings and empty starts and deltas can still be thrown away. A `message_delta` counts: it ends an
    empty but complete answer.
    """
    kind = event["type"]
    if kind == "content_block_delta":
        delta = event["delta"]
        field = _DELTA_FIELD.get(delta["type"])
        return field is None or delta.get(field) not in (None, "")
    if kind == "content_block_start":
        return event["content_block"].get("type") not in ("text", "thinking")
    return bool(kind == "message_delta")


def error_event(type: str, message: str, request_id: str | None = None) -> Event:
    """The one event that ends a stream that cannot be completed."""
    event: Event = {"type": "error", "error": {"type": type, "message": message}}
    if request_id:
        event["request_id"] = request_id
    return event


PING: Event = {"type": "ping"}
