"""A Messages history as Responses input items, in order (DIALECTS 4).

Reasoning goes back only to the family that made it, from the signature of its thinking block, and only with the item it
was made for behind it: the API refuses a reasoning item that stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.history import Block, Result, Turn
from ccm.dialects.names import bounded_id, short_name
from ccm.dialects.state import unwrap
from ccm.errors import Refusal

Item = dict[str, Any]
MAX_ID = 64  # characters of a call_id (OpenAI's specification)


def input_items(turns: list[Turn], ctx: Context, encoded: Encoded) -> list[Item]:
    """The input items of all turns. Raises Refusal for media that only Anthropic's Files API knows."""
    items: list[Item] = []
    for turn in turns:
        if turn.role == "assistant":
            items += _assistant(turn, ctx)
        elif turn.role == "system":
            content = [{"type": "input_text", "text": b["text"]} for b in turn.blocks]
            items.append({"type": "message", "role": system_role(ctx), "content": content})
        else:
            items += [_result(result, ctx, encoded) for result in turn.results]
            content = _parts(turn.blocks, ctx, encoded)
            if content:
                items.append({"type": "message", "role": "user", "content": content})
    return items


def system_role(ctx: Context) -> str:
    """The role of a system message within the conversation: `developer` is OpenAI's own word, others know `system`."""
    kind = ctx.family.partition("/")[2]
    return "developer" if kind.startswith(("openai", "azure")) else "system"


def _assistant(turn: Turn, ctx: Context) -> list[Item]:
    items: list[Item] = []
    phase: str | None = None
    for block in turn.blocks:
        kind = block["type"]
        if kind == "thinking":
            state = unwrap(block.get("signature"), ctx.family)
            if isinstance(state, dict):
                reasoning = _reasoning(str(block.get("thinking") or ""), state)
                if reasoning is not None:
                    items.append(reasoning)
                phase = state["phase"] if isinstance(state.get("phase"), str) else None
        elif kind == "text":
            message: Item = {"type": "message", "role": "assistant", "content": block["text"]}
            if phase is not None:
                message["phase"] = phase
            items.append(message)
        elif kind == "tool_use":
            items.append(
                {
                    "type": "function_call",
                    "call_id": bounded_id(block["id"], MAX_ID),
                    "name": short_name(block["name"]),
                    "arguments": json.dumps(
                        block.get("input") or {}, ensure_ascii=False, separators=(",", ":")
                    ),
                }
            )
    while items and items[-1]["type"] == "reasoning":
        items.pop()
    return items


def _reasoning(text: str, state: Mapping[str, Any]) -> Item | None:
    """The reasoning item of a thinking block, or None where it held none that can go back."""
    encrypted = state.get("enc")
    from_content = state.get("in") == "content"
    parts = _cut(text, state.get("cuts")) if text else []
    if isinstance(encrypted, str) and encrypted:
        item: Item = {"type": "reasoning", "summary": [], "encrypted_content": encrypted}
    elif from_content and parts:
        # Open models: their server keeps no encrypted copy, the text itself is the state (DeepSeek, LM Studio, vLLM).
        item = {"type": "reasoning", "summary": []}
        if isinstance(state.get("id"), str):
            item["id"] = state["id"]
    else:
        return None
    if from_content:
        if parts:
            item["content"] = [{"type": "reasoning_text", "text": part} for part in parts]
    else:
        item["summary"] = [{"type": "summary_text", "text": part} for part in parts]
    return item


def _cut(text: str, cuts: Any) -> list[str]:
    """The text in the parts it came in (blank lines between), or whole where the cuts do not fit it."""
    if not isinstance(cuts, list) or not all(isinstance(n, int) and n >= 0 for n in cuts):
        return [text]
    if sum(cuts) + 2 * (len(cuts) - 1) != len(text):
        return [text]
    parts, at = [], 0
    for length in cuts:
        parts.append(text[at : at + length])
        at += length + 2
    return parts


def _result(result: Result, ctx: Context, encoded: Encoded) -> Item:
    """A tool result: text as a string, with media as a list of parts, which this API takes here too."""
    output: Any = result.text
    if result.is_error:
        output = f"Error: {output}"
    if result.media:
        parts = _parts(result.blocks, ctx, encoded)
        if result.is_error:
            parts.insert(0, {"type": "input_text", "text": "Error:"})
        output = parts
    return {"type": "function_call_output", "call_id": bounded_id(result.id, MAX_ID), "output": output}


def _parts(blocks: list[Block], ctx: Context, encoded: Encoded) -> list[Item]:
    return [part for block in blocks if (part := _part(block, ctx, encoded)) is not None]


def _part(block: Block, ctx: Context, encoded: Encoded) -> Item | None:
    if block["type"] == "text":
        return {"type": "input_text", "text": block["text"]}
    image = block["type"] == "image"
    if image and ctx.facts.known and "images" not in ctx.facts.abilities:
        encoded.lose("image", "dropped")
        return {"type": "input_text", "text": f"[image omitted: model {ctx.model} is text-only]"}
    if not image and ctx.abilities and "documents" not in ctx.abilities:
        encoded.lose("document", "dropped")
        return {"type": "input_text", "text": f"[document omitted: {ctx.provider} takes no documents]"}
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    kind = source.get("type")
    if kind == "file":
        raise Refusal(
            400,
            "invalid_request_error",
            f"a {block['type']} by file_id: {ctx.provider} does not know Anthropic's files; send it as base64 or URL",
        )
    if kind == "url":
        url = str(source.get("url") or "")
        return (
            {"type": "input_image", "image_url": url, "detail": "auto"}
            if image
            else {"type": "input_file", "file_url": url}
        )
    data = f"data:{source.get('media_type') or 'application/octet-stream'};base64,{source.get('data') or ''}"
    if image:
        return {"type": "input_image", "image_url": data, "detail": "auto"}
    return {"type": "input_file", "filename": _filename(block), "file_data": data}


def _filename(block: Block) -> str:
    title = block.get("title")
    name = title.strip() if isinstance(title, str) else ""
    if not name:
        return "document.pdf"
    return name if name.lower().endswith(".pdf") else f"{name}.pdf"
