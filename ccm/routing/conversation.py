"""Which conversation a request belongs to when its client does not say: a fingerprint of how the conversation began.

Prompt caches hold what a request begins with: the system prompt and the first turns. Two requests that agree in the
system prompt (without Claude Code's billing line, which changes) and in the first user turn are taken for turns of one
conversation (R47). Only the two values needed are decoded, not the whole document; positions of cache_control, which
move from turn to turn, do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from ccm.wire.search import contains

BILLING = "x-anthropic-billing-header:"
_MESSAGES = re.compile(rb'"(?:messages|input)"\s*:\s*\[')
_SYSTEM = re.compile(rb'"(?:system|instructions)"\s*:\s*')
_ANSWERED = re.compile(rb'"role"\s*:\s*"assistant"|"type"\s*:\s*"function_call"')
_PIECE = 65536  # no more of a value is looked at: a longer beginning tells conversations apart as well
_DECODER = json.JSONDecoder()


def continues(raw: bytes) -> bool:
    """Whether the request has an answer of the model in it: then there may be a warm cache somewhere. A first turn
    has none: taking it for the continuation of an equal one would send all equal first turns to one endpoint."""
    likely = any(contains(raw, word) for word in (b'"assistant"', b'"function_call"'))
    return likely and _ANSWERED.search(raw) is not None


def fingerprint(raw: bytes, body: Callable[[], Mapping[str, Any]]) -> str:
    """24 hexadecimal digits, the same for every turn of a conversation; "" for a request without messages.

    Without `raw`, or where the keys do not stand in it exactly once, the parsed `body` is asked.
    """
    system = _value(raw, _SYSTEM) if raw else None
    first = _value(raw, _MESSAGES, element=True) if raw else None
    if first is None or (system is None and _SYSTEM.search(raw) is not None):
        document = body()
        system = document.get("system", document.get("instructions"))
        messages = document.get("messages", document.get("input"))
        first = messages
        if isinstance(messages, list):
            users = (m for m in messages if isinstance(m, Mapping) and m.get("role") == "user")
            first = next(users, None)
    if first is None:
        return ""
    digest = blake2b(digest_size=12)
    for text in (*_texts(system), "\0", *_texts(first)):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _value(raw: bytes, key: re.Pattern[bytes], element: bool = False) -> Any:
    """The value after the only occurrence of a key, or (element) its first element; None where that is not certain."""
    match = key.search(raw)
    if match is None or key.search(raw, match.end()) is not None:
        return None
    text = raw[match.end() : match.end() + _PIECE].decode("utf-8", "ignore")
    at = len(text) - len(text.lstrip()) if element else 0
    try:
        value, _ = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        # longer than the piece: its beginning is what conversations differ in
        return text if len(raw) - match.end() > _PIECE else None
    if element and not (isinstance(value, Mapping) and value.get("role") == "user"):
        return None
    return value


def _texts(value: Any) -> list[str]:
    """The texts of a system prompt or message, without the billing block."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        text = value.get("text")
        if isinstance(text, str):
            return [] if text.startswith(BILLING) else [text]
        if "content" in value:
            return _texts(value["content"])
        return [json.dumps({k: v for k, v in value.items() if k != "cache_control"}, sort_keys=True)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []
