"""Subagent tags: `<CCM-SUBAGENT-MODEL>provider,model</CCM-SUBAGENT-MODEL>`, also with CCR, as agent files have them.

A tag in any system block, or in the first two user turns, says which model a subagent wants (R28). It is for us alone:
`strip_tags` removes every tag from every text the model would read. Tags are never looked for in the answers of tools
or in what the model itself wrote: a conversation about tags must not be steered by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ccm.late import regex
from ccm.wire.search import contains

_CORE = b"-SUBAGENT-MODEL"
_SMALL = 8192  # bytes; these are searched as fast without `wire.search`
_TURNS = 2
_TAG = regex(r"<CC([MR])-SUBAGENT-MODEL>\s*([^<>\x00-\x1f]{1,512}?)\s*</CC\1-SUBAGENT-MODEL>[ \t]*\n?")


def may_have_tags(raw: bytes) -> bool:
    """Whether a tag can be in these bytes: one search, about 0.1 ms per MB. `<` and `>` may be escaped there."""
    return raw.find(_CORE) >= 0 if len(raw) < _SMALL else contains(raw, _CORE)


def find_tag(request: Mapping[str, Any]) -> str:
    """What the first tag says ("provider,model", "provider/model" or a model), or "": system blocks first, then the
    first two user turns, in order."""
    for text in _texts(request):
        match = _TAG.search(text)
        if match is not None:
            return match[2].strip()
    return ""


def strip_tags(request: dict[str, Any]) -> dict[str, Any]:
    """The request without tags in its system blocks and user turns; the very same object where there are none.

    Nothing is changed in place: what has to change is copied, the rest is shared. A text block that held nothing but a
    tag goes away, unless it is the only one: an empty text is refused by Anthropic.
    """
    changed: dict[str, Any] = {}
    system = _stripped(request.get("system"))
    if system is not None:
        changed["system"] = system
    messages = request.get("messages")
    if isinstance(messages, list):
        copies = list(messages)
        for n, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") in ("user", "system"):
                content = _stripped(message.get("content"))
                if content is not None:
                    copies[n] = {**message, "content": content}
        if any(copy is not message for copy, message in zip(copies, messages, strict=True)):
            changed["messages"] = copies
    return {**request, **changed} if changed else request


def _texts(request: Mapping[str, Any]) -> Iterator[str]:
    yield from _texts_in(request.get("system"))
    messages = request.get("messages")
    turns = 0
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, Mapping):
            continue
        role = message.get("role")
        if role == "user":
            turns += 1
        if turns > _TURNS:
            return
        if role in ("user", "system"):
            yield from _texts_in(message.get("content"))


def _texts_in(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if (
                isinstance(block, Mapping)
                and block.get("type") == "text"
                and isinstance(block.get("text"), str)
            ):
                yield block["text"]


def _stripped(content: Any) -> Any | None:
    """The content without tags, or None where there are none."""
    if isinstance(content, str):
        without = _TAG.sub("", content)
        return None if without == content else without or " "
    if not isinstance(content, list):
        return None
    out: list[Any] = []
    emptied: list[Any] = []
    for block in content:
        text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
        if isinstance(text, str) and (left := _TAG.sub("", text)) != text:
            if left.strip():
                out.append({**block, "text": left})
            else:
                emptied.append({**block, "text": " "})
                # its cache breakpoint moves to the block before it, so that the cached prefix stays as long
                if "cache_control" in block and out and isinstance(out[-1], dict):
                    out[-1] = {"cache_control": block["cache_control"], **out[-1]}
        else:
            out.append(block)
    if not emptied and all(a is b for a, b in zip(out, content, strict=True)):
        return None
    return out or emptied[:1]
