"""Tool names and tool ids under other APIs' rules: pure, deterministic, reversible within one request (R17)."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NOT_ANTHROPIC_ID = re.compile(r"[^a-zA-Z0-9_-]")


def digest62(text: str, length: int) -> str:
    """`length` base-62 characters of a hash of `text`."""
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    out = []
    for _ in range(length):
        number, rest = divmod(number, 62)
        out.append(_BASE62[rest])
    return "".join(out)


@functools.lru_cache(maxsize=8)
def _foreign(allowed: str) -> re.Pattern[str]:
    return re.compile(f"[^{allowed}]")


def short_name(name: str, limit: int = 64, allowed: str = "a-zA-Z0-9_-") -> str:
    """`name` itself where it fits, else its start and a hash: the same in every request of a conversation."""
    foreign = _foreign(allowed)
    if len(name) <= limit and foreign.search(name) is None:
        return name
    clean = foreign.sub("_", name)
    return f"{clean[: limit - 9]}_{digest62(name, 8)}"


def name_map(names: Iterable[str], limit: int = 64, allowed: str = "a-zA-Z0-9_-") -> dict[str, str]:
    """Sent name -> the client's own, only for names that had to change."""
    return {short: name for name in names if (short := short_name(name, limit, allowed)) != name}


def anthropic_id(id: str) -> str:
    """A provider's tool id as the Messages API allows it (`^[a-zA-Z0-9_-]+$`): other characters replaced, hash added."""
    clean = _NOT_ANTHROPIC_ID.sub("_", id)
    return id if clean == id else f"{clean[:48]}_{digest62(id, 8)}"


def bounded_id(id: str, limit: int) -> str:
    """The id for a provider with a length limit; a pure function, so call and result agree without state."""
    return id if len(id) <= limit else f"{id[: limit - 13]}_{digest62(id, 12)}"


def exact_id(id: str, length: int) -> str:
    """The id for a provider that wants exactly `length` letters and digits (Mistral: 9)."""
    return id if len(id) == length and id.isascii() and id.isalnum() else digest62(id, length)
