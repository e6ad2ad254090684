"""Every fuzz target by its name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import answers, asks, wire
from tests.property.streams import MAKERS

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    "request-head": wire.request_head,
    "connection": wire.connection,
    "response-head": wire.response_head,
    "chunks": wire.chunks,
    "inflate": wire.inflate,
    "sse": wire.sse_frames,
    "event-stream": wire.event_stream,
    **{f"stream-{way}": answers.streamed(way) for way in MAKERS},
    **{f"whole-{way}": answers.whole(way) for way in MAKERS},
    "scan": answers.scan,
    **{
        f"inbound-{name}": asks.inbound(name)
        for name in ("messages", "chat", "responses", "bedrock", "vertex")
    },
    "schemas": asks.schemas,
    "configuration": asks.configuration,
    "control": asks.control,
    "json-text": asks.json_text,
    "limits": asks.limits,
    "usage-rows": asks.usage_rows,
    "redact": asks.redact,
}
