"""The reasoning of an OpenAI-compatible answer on its way through the client and back (DIALECTS 7).

The thinking block shows the text; its signature says in which field the provider sent it, so that the very same field
carries it back. Payload of the signature: {"f": field} and, for OpenRouter, {"d": reasoning_details} as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where providers put reasoning, in the order of preference when a message has several.
FIELDS = ("reasoning_content", "reasoning")
DETAILS = "reasoning_details"
PARTS = "parts"  # Mistral: thinking parts inside `content`
_DETAIL_TEXT = {"reasoning.text": "text", "reasoning.summary": "summary"}


def text_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """(field, text) of the reasoning in a message or delta; ("", "") where it has none."""
    for field in FIELDS:
        value = message.get(field)
        if isinstance(value, str) and value:
            return field, value
        if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
            return field, value["content"]
    details = message.get(DETAILS)
    text = "".join(detail_text(d) for d in details) if isinstance(details, list) else ""
    return (DETAILS, text) if text else ("", "")


def detail_text(detail: Any) -> str:
    """The readable text of one reasoning detail; "" for encrypted ones."""
    if not isinstance(detail, dict):
        return ""
    text = detail.get(_DETAIL_TEXT.get(str(detail.get("type")), "text")) or detail.get("summary")
    return text if isinstance(text, str) else ""


def joined(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The details of a stream put together again: pieces of one text or summary become one, the rest stays as it is."""
    out: list[dict[str, Any]] = []
    for piece in details:
        key = _DETAIL_TEXT.get(str(piece.get("type")))
        last = out[-1] if out else None
        if key is None or last is None or not _continues(last, piece):
            out.append(dict(piece))
            continue
        last[key] = (last.get(key) or "") + (piece.get(key) or "")
        for name, value in piece.items():
            if name != key and value is not None:
                last[name] = value
    return out


def _continues(last: dict[str, Any], piece: dict[str, Any]) -> bool:
    return (
        last.get("type") == piece.get("type")
        and last.get("index") == piece.get("index")
        and (not piece.get("id") or not last.get("id") or piece["id"] == last["id"])
    )
