"""AWS Signature Version 4, as Bedrock wants it. Pure: the clock and the credentials are arguments.

Source: AWS General Reference, "Signature Version 4 signing process"; the result equals botocore's `SigV4Auth`. The path
is signed as it is sent, encoded once more: a sent `%3A` is signed as `%253A`, a sent raw `:` as `%3A`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import format_datetime
from urllib.parse import SplitResult, quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
# Headers that a proxy or the transport may change under way: never signed.
_UNSIGNED = frozenset(
    [
        "authorization",
        "baggage",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    ]
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    access_key: str,
    secret_key: str,
    session_token: str = "",
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """The headers to set on the request: `Authorization`, `X-Amz-Date` and, with a token, `X-Amz-Security-Token`.

    `url` and `headers` are those that will be sent, byte for byte; every header is signed but the hop-by-hop ones,
    so add none afterwards that is in `headers` already. `now` is aware, or naive UTC. Where `headers` carry a `Date`,
    that one is renewed instead of `X-Amz-Date`.
    """
    moment = now.astimezone(timezone.utc) if now.tzinfo else now.replace(tzinfo=timezone.utc)
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    added: dict[str, str] = {}
    lower = {name.lower().strip(): value for name, value in headers.items()}
    if "date" in lower:
        added["Date"] = format_datetime(moment.replace(microsecond=0)).replace("+0000", "-0000")
        lower.pop("x-amz-date", None)
    else:
        added["X-Amz-Date"] = stamp
    if session_token:
        added["X-Amz-Security-Token"] = session_token
    lower.update((name.lower(), value) for name, value in added.items())

    parts = urlsplit(url)
    signed = {name: value for name, value in lower.items() if name not in _UNSIGNED}
    signed.setdefault("host", _host(parts))
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method.upper(),
            quote(_without_dots(parts.path), safe="/~"),
            "&".join(f"{name}={value}" for name, value in sorted(_pairs(parts.query))),
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)),
            "",
            names,
            lower.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def _host(parts: SplitResult) -> str:
    """What the client will send as `Host`: lower case, without user information and default port."""
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = parts.port
    return host if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f"{host}:{port}"


def _pairs(query: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in query.split("&")) if query else ()
    return [(name, value) for name, _, value in pairs]


def _without_dots(path: str) -> str:
    """The path without dot segments (RFC 3986 5.2.4) and, as AWS wants it, without empty ones."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return f"{'/' if path.startswith('/') or not path else ''}{'/'.join(kept)}{end}"
