"""An Anthropic history for Bedrock's Claude: same blocks, less those that only Anthropic's own service takes.

Mid-conversation system messages become reminders in user text (R20), server tools, tool references and unknown blocks
become text (R21, R25), and media has to come as bytes.
"""

from __future__ import annotations

from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.history import Block, block_text, reminder
from ccm.errors import Refusal

_KEPT = {
    "assistant": frozenset(("text", "thinking", "redacted_thinking", "tool_use")),
    "user": frozenset(("text", "image", "document", "tool_result", "search_result")),
    "result": frozenset(("text", "image", "document", "search_result")),
}


def messages(given: Any, ctx: Context, encoded: Encoded, hours: bool) -> list[dict[str, Any]]:
    """The messages. `hours`: whether the model takes a cache of one hour. Raises Refusal for Files API references."""
    out: list[dict[str, Any]] = []
    waiting: list[Block] = []  # reminders that must not stand before tool results
    for message in given if isinstance(given, list) else ():
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        blocks = _blocks(message.get("content"))
        if role == "system":
            text = "\n\n".join(filter(None, (block_text(b) for b in blocks)))
            if text.strip():
                waiting.append({"type": "text", "text": reminder(text)})
            continue
        place = "assistant" if role == "assistant" else "user"
        content = [b for block in blocks for b in _kept(block, place, ctx, encoded, hours)]
        if waiting and place == "assistant":
            _add(out, "user", waiting)
            waiting = []
        elif waiting:
            results = [b for b in content if b["type"] == "tool_result"]
            content = [*results, *waiting, *(b for b in content if b["type"] != "tool_result")]
            waiting = []
        _add(out, place, content)
    _add(out, "user", waiting)
    return out


def without_cache_extras(block: Any, hours: bool) -> Any:
    """The block with `cache_control` as Bedrock knows it: no `scope`, and a `ttl` only for models that have one."""
    control = block.get("cache_control") if isinstance(block, dict) else None
    if not isinstance(control, dict) or not control.keys() - {"type"}:
        return block
    kept = {k: v for k, v in control.items() if k == "type" or (k == "ttl" and hours)}
    return {**block, "cache_control": kept}


def _add(out: list[dict[str, Any]], role: str, content: list[Block]) -> None:
    """Appends to the last turn of the same role, or begins one."""
    if not content:
        return
    if out and out[-1]["role"] == role:
        out[-1]["content"] = [*out[-1]["content"], *content]
    else:
        out.append({"role": role, "content": content})


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def _kept(block: Block, place: str, ctx: Context, encoded: Encoded, hours: bool) -> list[Block]:
    kind = str(block.get("type"))
    if kind in ("image", "document"):
        block = _media(block, ctx, encoded)
    elif kind == "tool_result" and place == "user" and isinstance(block.get("content"), list):
        inner = [b for part in _blocks(block["content"]) for b in _kept(part, "result", ctx, encoded, hours)]
        block = {**block, "content": inner}
    elif kind not in _KEPT[place]:
        encoded.lose(f"content.{kind}", "approximated")
        block = {"type": "text", "text": block_text(block)}
    if block["type"] == "text":
        if not str(block.get("text") or "").strip():
            return []
        if "citations" in block:  # of searches and documents that Bedrock never saw
            block = {k: v for k, v in block.items() if k != "citations"}
    return [without_cache_extras(block, hours)]


def _media(block: Block, ctx: Context, encoded: Encoded) -> Block:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "file":
        raise Refusal(
            400,
            "invalid_request_error",
            f"a {block['type']} by file_id: {ctx.provider} does not know Anthropic's files; send it as base64",
        )
    if kind != "url":
        return block
    encoded.lose(f"{block['type']}.url", "approximated")
    return {"type": "text", "text": block_text(block)}
