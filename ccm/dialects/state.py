"""Opaque provider state, carried in the signature of thinking blocks (DIALECTS 7).

Claude Code returns thinking blocks with their signature byte for byte and drops unknown fields elsewhere, so the
signature is the only carrier. `ccm1.<family>.<base64url(zlib(JSON))>`: only the family that minted it unwraps it.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

PREFIX = "ccm1."
_MAX_STATE_BYTES = 4 * 1024 * 1024  # a signature is client input: no decompression bombs


def wrap(family: str, payload: Any) -> str:
    """A signature that carries `payload` (JSON) for `family`."""
    packed = zlib.compress(
        json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"), 6
    )
    name = base64.urlsafe_b64encode(family.encode()).decode().rstrip("=")
    return f"{PREFIX}{name}.{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def is_wrapped(signature: object) -> bool:
    """Whether ccm made this signature (a native Anthropic one is never wrapped)."""
    return isinstance(signature, str) and signature.startswith(PREFIX)


def unwrap(signature: object, family: str) -> Any | None:
    """The payload, when `family` minted this signature; None for foreign, native, empty or damaged ones."""
    if not isinstance(signature, str) or not signature.startswith(PREFIX):
        return None
    name, _, data = signature[len(PREFIX) :].partition(".")
    try:
        if base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode() != family:
            return None
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)), _MAX_STATE_BYTES)
        if not inflate.eof:
            return None
        return json.loads(raw)
    except (ValueError, RecursionError, binascii.Error, zlib.error):
        return None
