"""The Messages API itself as a surface: nothing to translate (Claude Code, Anthropic's SDKs)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Loss
from ccm.messages.events import PING, Event, error_event, render
from ccm.model import EMPTY

SSE = "text/event-stream; charset=utf-8"
COMMENT = b": ping\n\n"  # for APIs without a ping of their own
NewId = Callable[[str], str]
_PING_BYTES = render(PING)


def envelope(type: str, message: str, request_id: str) -> dict[str, Any]:
    """The Messages API's error envelope."""
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": request_id}


class MessagesRenderer:
    """Events as they are, as server-sent events."""

    content_type = SSE

    def render(self, event: Event) -> bytes:
        """One SSE frame."""
        return render(event)

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """The one `error` event that ends a broken stream."""
        return render(error_event(type, message, request_id))

    def alive(self) -> bytes:
        """A ping event."""
        return _PING_BYTES


class Messages:
    """See `base.Surface`."""

    name = "messages"
    native = True

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The body itself."""
        return body, []

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """None: the client's own headers say everything."""
        return {}

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> MessagesRenderer:
        """A renderer of one stream."""
        return MessagesRenderer()

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """The message itself."""
        return message

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """The API's error envelope."""
        return envelope(type, message, request_id)


def dumps(value: Any) -> str:
    """Compact JSON in ASCII: what every surface puts on the wire."""
    return json.dumps(value, separators=(",", ":"))


SURFACE = Messages()
