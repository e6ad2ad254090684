"""No web page may use ccm, through whatever door: what browsers say of where a request comes from (RELIABILITY S13)."""

from __future__ import annotations

from collections.abc import Mapping

from ccm.errors import Refusal


def check_browser(headers: Mapping[str, str]) -> None:
    """A foreign or null Origin, or a cross-site fetch, is refused. Raises Refusal 403."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers.get('host', '')}".lower():
        raise Refusal(403, "permission_error", "Requests from web pages of another origin are refused.")
    if headers.get("sec-fetch-site", "none").lower() not in ("none", "same-origin"):
        raise Refusal(403, "permission_error", "Cross-site requests from web pages are refused.")
