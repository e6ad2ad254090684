"""The surfaces clients may speak: the contract between `proxy` and this room, and the table of all of them.

A surface turns a client's request into a Messages request and a Messages answer into the client's form. Pure: ids and
the time come in as arguments. What it cannot carry is a Refusal naming the field, what it drops a Loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ccm.dialects.base import Loss
from ccm.late import LateTable
from ccm.messages.events import Event
from ccm.model import EMPTY

NewId = Callable[[str], str]


class Renderer(Protocol):
    """One streamed answer in the client's form; stateful, used by one thread at a time."""

    content_type: str

    def render(self, event: Event) -> bytes:
        """A Messages event as the client's bytes; may be none."""
        ...

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """The honest last bytes of a stream that broke. `type` is one of Anthropic's error types."""
        ...

    def alive(self) -> bytes:
        """Something to send while the provider is silent."""
        ...


class Surface(Protocol):
    """One API that clients may use. `native`: the client speaks Messages, and an Anthropic provider's bytes may pass."""

    name: str
    native: bool

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The Messages request, with `model` and `stream`, and what was lost. `path_model` is the path's model ("" for
        none), `stream` what the path says of it (None: nothing). Raises Refusal (400) naming the field."""
        ...

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """Headers that the body stands for (lower case): they replace the client's own of the same name."""
        ...

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> Renderer:
        """A renderer for one stream; `request` is the Messages request, `original` the client's own body."""
        ...

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """A whole answer in the client's form."""
        ...

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """The error envelope of this API."""
        ...


SURFACES: LateTable[Surface] = LateTable(
    {
        "messages": "ccm.dialects.inbound.messages:SURFACE",
        "chat": "ccm.dialects.inbound.openai:CHAT",
        "responses": "ccm.dialects.inbound.openai:RESPONSES",
        "bedrock": "ccm.dialects.inbound.clouds:BEDROCK",
        "vertex": "ccm.dialects.inbound.clouds:VERTEX",
    }
)
