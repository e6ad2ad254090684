"""Tool-call ids both ways.

A client needs ids that are unique in the whole conversation (CLIENT 0.4), providers send `call_0`, `functions.Bash:0`
or nothing. Where an id cannot stay, the new one carries the provider's own inside, so that the provider gets back what
it sent (Kimi derives meaning from it) without any state here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable

from ccm.dialects.names import bounded_id, exact_id

_ALLOWED = re.compile(r"[a-zA-Z0-9_-]{8,}")
_MARK = "--"
_CARRIER = re.compile(r"toolu_[0-9A-Za-z_]+--([A-Za-z0-9_-]+)")
_LONGEST_CARRIED = 200


def inward(id: str, taken: Iterable[str], new_id: Callable[[str], str]) -> str:
    """The id the client gets: the provider's own where it is allowed, long enough to be no mere counter, and unused."""
    if _ALLOWED.fullmatch(id) and id not in taken:
        return id
    fresh = new_id("toolu_")
    if not id or len(id) > _LONGEST_CARRIED:
        return fresh
    carried = (
        base64.urlsafe_b64encode(id.encode("utf-8", "replace")).decode().rstrip("=")
    )  # half a surrogate is no id
    return f"{fresh}{_MARK}{carried}"


def original(id: str) -> str:
    """The provider's own id inside one that `inward` made, else the id itself."""
    match = _CARRIER.fullmatch(id)
    if match is None:
        return id
    data = match.group(1)
    try:
        return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)).decode() or id
    except (binascii.Error, UnicodeDecodeError):
        return id


def outward(ids: Iterable[str], rule: str) -> dict[str, str]:
    """The client's id -> the one to send, for all calls of a history: the provider's own again where that is unique,
    then cut to `rule`: "" any, "exact9" nine letters and digits (Mistral), "max40" at most 40 characters."""
    fit = _RULES[rule]
    sent: dict[str, str] = {}
    used: set[str] = set()
    for id in ids:
        if id in sent:
            continue
        wanted = fit(original(id))
        if wanted in used:
            wanted = fit(id)
        used.add(wanted)
        sent[id] = wanted
    return sent


_RULES: dict[str, Callable[[str], str]] = {
    "": lambda id: id,
    "exact9": lambda id: exact_id(id, 9),
    "max40": lambda id: bounded_id(id, 40),
}
