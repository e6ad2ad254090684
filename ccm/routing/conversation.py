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
from typing import Any

from ccm.late import regex
from ccm.wire.digest import blake2b
from ccm.wire.search import find

BILLING = "x-anthropic-billing-header:"
_MESSAGES = regex(rb'"(?:messages|input)"\s*:\s*\[')
_SYSTEM = regex(rb'"(?:system|instructions)"\s*:\s*')
_MESSAGES_WORDS = (b'"messages"', b'"input"')
_SYSTEM_WORDS = (b'"system"', b'"instructions"')
_ABSENT = object()
_ANSWERED = regex(rb'"role"\s*:\s*"assistant"|"type"\s*:\s*"function_call"')
_SMALL = 8192  # bytes; these are searched as fast without `wire.search`
_PIECE = 65536  # no more of a value is looked at: a longer beginning tells conversations apart as well
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def continues(raw: bytes) -> bool:
    """Whether the request has an answer of the model in it: then there may be a warm cache somewhere. A first turn
    has none: taking it for the continuation of an equal one would send all equal first turns to one endpoint."""
    if len(raw) < _SMALL:
        likely = raw.find(b'"assistant"') >= 0 or raw.find(b'"function_call"') >= 0  # faster than `in`
    else:
        likely = find(raw, b'"assistant"') >= 0 or find(raw, b'"function_call"') >= 0
    return likely and _ANSWERED.search(raw) is not None


def fingerprint(raw: bytes, body: Callable[[], Mapping[str, Any]]) -> str:
    """24 hexadecimal digits, the same for every turn of a conversation; "" for a request without messages.

    Without `raw`, or where the keys do not stand in it exactly once, the parsed `body` is asked.
    """
    system = _value(raw, _SYSTEM, _SYSTEM_WORDS) if raw else _ABSENT
    first = _value(raw, _MESSAGES, _MESSAGES_WORDS, element=True) if raw else None
    if first is _ABSENT:
        first = None
    if system is _ABSENT:
        system = None
        unsure = first is None
    else:
        unsure = first is None or system is None
    if unsure:
        document = body()
        system = document.get("system", document.get("instructions"))
        messages = document.get("messages", document.get("input"))
        first = messages
        if isinstance(messages, list):
            users = (m for m in messages if isinstance(m, dict) and m.get("role") == "user")
            first = next(users, None)
    if first is None:
        return ""
    texts: list[str] = []
    if system is not None:
        _add_texts(system, texts)
    texts.append("\0")
    content = first.get("content") if isinstance(first, dict) and "text" not in first else None
    if isinstance(content, str):
        texts.append(content)
    else:
        _add_texts(first, texts)
    return blake2b("".join(texts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _value(raw: bytes, key: re.Pattern[bytes], words: tuple[bytes, ...], element: bool = False) -> Any:
    """The value after the only occurrence of a key, or (element) its first element; None where that is not certain,
    _ABSENT where there is no such key. `words` are what the key's pattern begins with."""
    match = None
    small = len(raw) < _SMALL
    for word in words:
        at = raw.find(word) if small else find(raw, word)
        while at >= 0:
            found = key.match(raw, at)
            if found is not None:
                if match is not None:
                    return None
                match = found
            at = raw.find(word, at + 1) if small else find(raw, word, at + 1)
    if match is None:
        return _ABSENT
    text = raw[match.end() : match.end() + _PIECE].decode("utf-8", "ignore")
    at = len(text) - len(text.lstrip()) if element and text[:1] != "{" else 0
    try:
        value, _ = _SCAN(text, at)
    except (ValueError, RecursionError, StopIteration):
        # longer than the piece: its beginning is what conversations differ in
        return text if len(raw) - match.end() > _PIECE else None
    if element and not (isinstance(value, dict) and value.get("role") == "user"):
        return None
    return value


def _add_texts(value: Any, to: list[str]) -> None:
    """The texts of a system prompt or message, without the billing block."""
    if isinstance(value, str):
        to.append(value)
    elif isinstance(value, dict):
        text = value.get("text")
        if isinstance(text, str):
            if not text.startswith(BILLING):
                to.append(text)
        elif "content" in value:
            _add_texts(value["content"], to)
        else:
            to.append(json.dumps({k: v for k, v in value.items() if k != "cache_control"}, sort_keys=True))
    elif isinstance(value, list):
        for item in value:
            _add_texts(item, to)
