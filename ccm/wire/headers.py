"""Which headers may cross ccm, in which direction. Allow-lists only: a new header is safe until somebody adds it here."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

# From a provider to the client (RELIABILITY S22, R50). Names are lower case.
_RESPONSE = re.compile(
    r"(?:request-id|retry-after|retry-after-ms|x-should-retry|anthropic-(?!organization)[a-z0-9-]+|x-ratelimit-[a-z0-9-]+)\Z"
)
_LONGEST, _LONGEST_NAME = 1024, 128
_VALUE = re.compile(r"[\x20-\x7e\t]{0,1024}\Z")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


def relayed(headers: Mapping[str, str]) -> dict[str, str]:
    """The provider's headers that the client may see: rate limits, request id, retry hints; values without controls."""
    return {
        name: value
        for name, value in headers.items()
        if len(value) <= _LONGEST and len(name) <= _LONGEST_NAME and _is_relayed(name, value)
    }


@functools.lru_cache(maxsize=1024)
def _is_relayed(name: str, value: str) -> bool:
    return _RESPONSE.match(name) is not None and _VALUE.match(value) is not None


@functools.lru_cache(maxsize=256)
def safe_value(value: str, limit: int = 256) -> str:
    """Text as a header value: printable ASCII only, bounded; anything else becomes "?"."""
    value = value[:limit]
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def is_token(name: str) -> bool:
    """Whether this may be a header name."""
    return bool(_TOKEN.match(name))


def block(headers: Mapping[str, str]) -> bytes:
    """Header lines, each ended by CRLF. Values must be clean already (`safe_value`, `relayed`)."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")
