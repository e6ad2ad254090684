"""History to `contents`: turns to parts, tool results to functionResponses, thought signatures back onto their parts.

A signature is only worth something on the part that it came with, unchanged (DIALECTS 7, R14). It travels in thinking
blocks (`state`); the payload's `on` says which part carried it:
  call     the functionCall of the next tool_use block
  text     the part of the next text block
  tail     pieces of the text block before: `at` = [[start, end, signature], ...] in characters
  empty    an empty text part of its own, here
  thought  the thought part that this thinking block is
  part     a part of Google's own (toolCall, toolResponse), kept whole in `part`
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.gemini.model import Generation, is_vertex, state_family
from ccm.dialects.gemini.tools import sent_name
from ccm.dialects.history import Result, Turn
from ccm.dialects.state import unwrap

Part = dict[str, Any]
Content = dict[str, Any]

# Google's documented stand-in for a signature that is lost or was never there (a call that another model made).
NO_SIGNATURE = "skip_thought_signature_validator"
# Ids that Gemini did not make: ours, and those of the other providers a conversation may have passed through. Gemini
# pairs calls and results without ids by name and order; its own id it wants back.
_FOREIGN_ID = re.compile(r"(?:toolu|tooluse|call|fc|srvtoolu|chatcmpl|functions|ctc|tool)[_.-]")
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.S)
_INLINE_IN_RESULT = ("image/", "application/pdf", "text/plain")
_EXACT_INT = 2**53
# What Gemini can look at, by the ending of a URL. A table of our own: `mimetypes` reads the machine's files.
_ENDINGS = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "bmp": "image/bmp", "pdf": "application/pdf", "txt": "text/plain",
    "md": "text/markdown", "html": "text/html", "csv": "text/csv", "json": "application/json",
}  # fmt: skip


def contents(turns: list[Turn], ctx: Context, gen: Generation, out: Encoded) -> list[Content]:
    """The conversation. `turns` hold no system turns any more (`history.fold_system`)."""
    current = _current_turn(turns)
    made: list[Content] = []
    for n, turn in enumerate(turns):
        if turn.role == "assistant":
            parts = _model_parts(turn, ctx, out)
            if gen.is_3 and n > current:
                _sign(parts)
            if parts:
                made.append({"role": "model", "parts": parts})
            continue
        answers, media = _responses(turn.results, ctx, gen, out)
        if answers:
            made.append({"role": "user", "parts": answers})
        parts = media + [part for block in turn.blocks for part in _user_parts(block, ctx, out)]
        if parts:
            made.append({"role": "user", "parts": parts})
    if made and made[0]["role"] == "model":
        out.lose("messages", "approximated")  # "function call turn comes immediately after a user turn"
        made.insert(0, {"role": "user", "parts": [{"text": "(The conversation goes on.)"}]})
    return made


def _current_turn(turns: list[Turn]) -> int:
    """The index of the user turn that began the current turn of the model: signatures are checked only after it."""
    return max((n for n, t in enumerate(turns) if t.role == "user" and not t.results), default=-1)


def _sign(parts: list[Part]) -> None:
    """The first functionCall of a step must carry a signature (Gemini 3 and later)."""
    first = next((p for p in parts if "functionCall" in p), None)
    if first is not None:
        first.setdefault("thoughtSignature", NO_SIGNATURE)


def _model_parts(turn: Turn, ctx: Context, out: Encoded) -> list[Part]:
    parts: list[Part] = []
    text_at: int | None = None  # where the part of the last text block stands
    waiting: dict[str, str] = {}  # signatures for the next part of a kind
    for block in turn.blocks:
        kind = block["type"]
        if block.get("cache_control"):
            out.lose("cache_control")
        if kind in ("thinking", "redacted_thinking"):
            text_at = _restore(block, ctx, parts, text_at, waiting, out)
        elif kind == "text":
            part: Part = {"text": block["text"]}
            text_at = len(parts)
            parts.append(_signed(part, waiting.pop("text", None)))
        else:
            part = {"functionCall": _call(block)}
            text_at = None
            parts.append(_signed(part, waiting.pop("call", None)))
    return parts


def _signed(part: Part, signature: str | None) -> Part:
    return part if signature is None else {**part, "thoughtSignature": signature}


def _restore(
    block: Mapping[str, Any],
    ctx: Context,
    parts: list[Part],
    text_at: int | None,
    waiting: dict[str, str],
    out: Encoded,
) -> int | None:
    """Puts the state of one thinking block where it belongs; returns where the last text part now stands."""
    state = unwrap(block.get("signature"), ctx.family)
    if not isinstance(state, dict) or state.get("m") != state_family(ctx.model, ctx.facts):
        if block.get("thinking") or block.get("data") or state:
            out.lose("thinking")
        return text_at
    on, signature, part = state.get("on"), state.get("sig"), state.get("part")
    if on == "part" and isinstance(part, dict):
        parts.append(part)
        return None
    if on == "tail" and isinstance(state.get("at"), list):
        return _split_tail(parts, text_at, state["at"])
    if not isinstance(signature, str) or not signature:
        return text_at
    if on == "empty":
        parts.append({"text": "", "thoughtSignature": signature})
        return None
    if on == "thought":
        parts.append({"text": block.get("thinking") or "", "thought": True, "thoughtSignature": signature})
        return None
    if on in ("call", "text"):
        waiting[on] = signature
    return text_at


def _split_tail(parts: list[Part], text_at: int | None, marks: list[Any]) -> int | None:
    """Cuts the last text part into the pieces it arrived in, so that each signature sits on its own again."""
    if text_at is None or text_at != len(parts) - 1:
        return text_at
    text = parts[text_at]["text"]
    pieces: list[Part] = []
    done = 0
    for mark in marks:
        if not (isinstance(mark, list) and len(mark) == 3 and isinstance(mark[2], str)):
            return text_at
        start, end = mark[0], mark[1]
        if not (isinstance(start, int) and isinstance(end, int) and done <= start < end <= len(text)):
            return text_at  # the text was changed since: its signature is worth nothing
        if start > done:
            pieces.append({"text": text[done:start]})
        pieces.append({"text": text[start:end], "thoughtSignature": mark[2]})
        done = end
    if done < len(text):
        pieces.append({"text": text[done:]})
    first = parts[text_at].get("thoughtSignature")
    if first and pieces:
        pieces[0].setdefault("thoughtSignature", first)
    parts[text_at:] = pieces
    return None


def _call(block: Mapping[str, Any]) -> Part:
    given = block.get("input")
    call: Part = {
        "name": sent_name(block["name"]),
        "args": given if isinstance(given, dict) else {"input": given},
    }
    return _with_id(call, block["id"])


def _with_id(value: Part, id: str) -> Part:
    return value if _FOREIGN_ID.match(id) else {"id": id, **value}


def _responses(
    results: list[Result], ctx: Context, gen: Generation, out: Encoded
) -> tuple[list[Part], list[Part]]:
    """The functionResponse parts of one step, in the order of its calls, and the media that did not fit into them."""
    answers: list[Part] = []
    media: list[Part] = []
    for result in results:
        response: Part = {"name": sent_name(result.name), "response": _response(result)}
        inside: list[Part] = []
        beside: list[Part] = []
        for block in result.media:
            for part in _user_parts(block, ctx, out):
                data = part.get("inlineData")
                fits = gen.is_3 and data and data["mimeType"].startswith(_INLINE_IN_RESULT)
                (inside if fits else beside).append(part)
        if inside:
            response["parts"] = inside
        if beside:
            media += [{"text": f"[attachment of the result of {result.name}]"}, *beside]
        answers.append({"functionResponse": _with_id(response, result.id)})
    return answers, media


def _response(result: Result) -> dict[str, Any]:
    """`output` or `error`; a JSON object goes as the object it is, where that loses nothing."""
    text = result.text
    if result.is_error:
        return {"error": text}
    found = _exact_object(text) if text.lstrip().startswith("{") else None
    return {"output": text} if found is None or found.keys() & {"output", "error"} else found


def _exact_object(text: str) -> dict[str, Any] | None:
    """The object in `text` if Google's Struct (doubles, unique keys) can hold it without a change."""

    def whole(digits: str) -> int:
        number = int(digits)
        if abs(number) > _EXACT_INT:
            raise ValueError(digits)
        return number

    def real(digits: str) -> float:
        number = float(digits)
        if len(digits.lstrip("-").replace(".", "")) > 15 or number in (float("inf"), float("-inf")):
            raise ValueError(digits)
        return number

    def constant(name: str) -> Any:
        raise ValueError(name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(made := dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return made

    try:
        value = json.loads(
            text, parse_int=whole, parse_float=real, parse_constant=constant, object_pairs_hook=unique
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def _user_parts(block: Mapping[str, Any], ctx: Context, out: Encoded) -> list[Part]:
    if block.get("cache_control"):
        out.lose("cache_control")
    if block.get("type") == "text":
        return [{"text": block["text"]}]
    kind = str(block.get("type"))
    if kind == "image" and ctx.facts.known and "images" not in ctx.facts.abilities:
        out.lose("image")
        return [{"text": f"[image omitted: {ctx.model} is text-only]"}]
    parts = [{"text": str(block["title"])}] if kind == "document" and block.get("title") else []
    source = block.get("source")
    media = _media(source, kind, is_vertex(ctx)) if isinstance(source, Mapping) else None
    if media is None:
        out.lose(f"{kind}.source")
        media = {"text": f"[{kind} omitted: it cannot be sent to {ctx.provider}]"}
    return [*parts, media]


def _media(source: Mapping[str, Any], kind: str, vertex: bool) -> Part | None:
    default = "application/pdf" if kind == "document" else "image/png"
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return {"inlineData": {"mimeType": source.get("media_type") or default, "data": source["data"]}}
    url = source.get("url")
    if source.get("type") != "url" or not isinstance(url, str):
        return None
    inline = _DATA_URL.fullmatch(url)
    if inline:
        if ";base64" not in inline[2]:
            return None
        return {"inlineData": {"mimeType": inline[1] or default, "data": inline[3]}}
    guessed = _ENDINGS.get(re.split(r"[?#]", url, maxsplit=1)[0].rpartition(".")[2].lower())
    if guessed is None and not vertex:  # AI Studio reads the type from the answer; Vertex requires it
        return {"fileData": {"fileUri": url}}
    return {"fileData": {"mimeType": guessed or default, "fileUri": url}}
