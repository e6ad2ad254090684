"""Through which door a request came: the API its client speaks, and what the path says of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ccm.dialects.inbound.base import SURFACES


class Entry(NamedTuple):
    """`surface` names a row of `dialects.inbound.base.SURFACES`; `model` and `stream` are the path's ("" and None:
    the body says), `prefix` is the provider pinned by /p/NAME."""

    surface: str = "messages"
    prefix: str = ""
    model: str = ""
    stream: bool | None = None


def envelope(surface: str, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
    """An error in the caller's own form."""
    return SURFACES[surface].error(status, type, message, request_id)
