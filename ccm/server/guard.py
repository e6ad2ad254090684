"""Who may come in: Host, Origin, content type and token, decided from the head alone, before a body is read.

Loopback is not a boundary: every web page and every user of the machine can reach the port (R54, RELIABILITY S11-S15).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ccm.errors import Refusal
from ccm.wire.digest import compare_digest
from ccm.wire.origin import check_browser as check_browser

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?\Z")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def check_host(
    headers: Mapping[str, str], target: str, local: tuple[str, int], allowed: Sequence[str]
) -> None:
    """The Host (or an absolute target's authority) must be this machine by a name no foreign DNS can claim:
    loopback, the very address the connection came in on (`local`: its address and port), or one of `allowed_hosts`.
    An absolute target must name our own port too: ccm is no open proxy. Raises Refusal 400/403."""
    host = headers.get("host")
    absolute = target[0] not in "/*"
    if absolute:
        host = target.partition("://")[2].partition("/")[0]  # with a query or a login in it, it is no Host
    if host is None:
        return  # HTTP/1.0 without Host: no browser sends that
    match = _HOST.match(host)
    if match is None or int(match[2] or 1) > 65535:
        raise Refusal(400, "invalid_request_error", "The Host header is malformed.")
    name = match[1].lower()
    known = name in _LOOPBACK or name.strip("[]") == local[0] or name in allowed or host.lower() in allowed
    if known and (not absolute or int(match[2] or 80) == local[1]):
        return
    raise Refusal(
        403,
        "permission_error",
        "This Host is not served here. Add it to allowed_hosts in [proxy] if it is a name of this machine.",
    )


def check_body(headers: Mapping[str, str]) -> None:
    """A POST carries plain JSON. Raises Refusal 415."""
    type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if type != "application/json":
        raise Refusal(415, "invalid_request_error", "Send the body as content-type: application/json.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "invalid_request_error", "Compressed request bodies are not accepted.")


def check_token(headers: Mapping[str, str], token: str) -> None:
    """The proxy's own token, as x-api-key or as a bearer token; both may be there, one must fit. Raises Refusal 401."""
    wanted = token.encode()
    given = [headers.get("x-api-key", "")]
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given.append(bearer.strip())
    fits = [compare_digest(value.encode("latin-1", "replace"), wanted) for value in given]
    if not any(fits):
        raise Refusal(
            401,
            "authentication_error",
            "This is not ccm's token. Set ANTHROPIC_API_KEY to the auth_token of [proxy] (default: ccm-proxy).",
            {"x-should-retry": "false"},
        )
