"""Content parts of OpenAI clients (both their APIs) as Messages blocks: text, images, files.

Chat Completions and Responses name the same things differently (`image_url` / `input_image`), never ambiguously, so one
table reads both. What Messages has no block for is refused with the place where it stands, never dropped silently.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from ccm.dialects.base import Loss
from ccm.errors import Refusal
from ccm.late import regex

Block = dict[str, Any]
Part = Mapping[str, Any]

_DATA_URL = regex(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
# How the base64 of a file begins, for data URLs and files that do not say what they are.
_MAGIC = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi": "application/pdf",
}
_BASE64 = regex(r"[A-Za-z0-9+/]{64}")  # no URL begins like this
_SPELLINGS = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "application/x-pdf": "application/pdf"}
_TEXTS = frozenset(
    ("application/json", "application/xml", "application/javascript", "application/x-yaml", "application/toml",
     "application/x-sh", "application/sql")
)  # fmt: skip


class Losses:
    """What a translation dropped or approximated, each thing once, in the order of its first appearance."""

    def __init__(self) -> None:
        self.found: list[Loss] = []

    def __call__(self, feature: str, how: str = "dropped") -> None:
        """Notes a loss. `feature` is the client's field; it may become a label, so it is never client input itself."""
        loss = Loss(feature, how)
        if loss not in self.found:
            self.found.append(loss)


def refuse(where: str, what: str) -> NoReturn:
    """The answer to a field that cannot be carried: 400, naming it."""
    raise Refusal(400, "invalid_request_error", f"{where}: {what}")


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects, nothing else. Raises Refusal naming the place."""
    if not isinstance(value, list):
        refuse(where, "a list is required")
    for n, entry in enumerate(value):
        if not isinstance(entry, dict):
            refuse(f"{where}.{n}", "an object is required")
    return value


def text(value: str) -> Block:
    """A text block."""
    return {"type": "text", "text": value}


def blocks(content: Any, where: str, lose: Losses) -> list[Block]:
    """The blocks of a message's `content`: a string, null, or a list of parts. Empty texts are left out.

    Raises Refusal for parts without a Messages counterpart (audio, video, ids of OpenAI's files).
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [text(content)] if content else []
    if not isinstance(content, list):
        refuse(where, "text or a list of parts is required")
    out: list[Block] = []
    for n, part in enumerate(content):
        here = f"{where}.{n}"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict):
            refuse(here, "a part with a type is required")
        block = _block(part, here, lose)
        if block is not None:
            out.append(_marked(block, part))
    return out


def _block(part: Part, where: str, lose: Losses) -> Block | None:
    kind = part.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is not None:
        return reader(part, where, lose)
    if isinstance(part.get("text"), str):  # a kind of text that came after this was written
        return text(part["text"]) if part["text"] else None
    refuse(where, f"content of type {str(kind)[:40]!r} cannot be carried to other providers")


def _marked(block: Block, part: Part) -> Block:
    """The block with the client's own wish for a cache mark: OpenAI's explicit one, or Anthropic's as relays take it."""
    if isinstance(part.get("cache_control"), dict):
        block["cache_control"] = part["cache_control"]
    elif part.get("prompt_cache_breakpoint"):
        block["cache_control"] = {"type": "ephemeral"}
    return block


def _text(part: Part, where: str, lose: Losses) -> Block | None:
    value = part.get("text", part.get("refusal"))
    if not isinstance(value, str):
        refuse(f"{where}.text", "text is required")
    return text(value) if value else None


def _thinking(part: Part, where: str, lose: Losses) -> Block | None:
    """Mistral's clients send reasoning back as a part of its own."""
    inner = part.get("thinking")
    pieces = inner if isinstance(inner, list) else [inner]
    found = "".join(p if isinstance(p, str) else str(p.get("text") or "") for p in pieces if p)
    return {"type": "thinking", "thinking": found, "signature": ""} if found else None


def _image(part: Part, where: str, lose: Losses) -> Block:
    given = part.get("image_url")
    detail = part.get("detail")
    if isinstance(given, Mapping):
        detail = given.get("detail", detail)
        given = given.get("url")
    if detail not in (None, "auto"):
        lose("image.detail")
    if isinstance(given, str) and given:
        return {"type": "image", "source": _source(given, where, "image/")}
    if part.get("file_id"):
        _refuse_file_id(where)
    refuse(f"{where}.image_url", "a URL is required")


def _file(part: Part, where: str, lose: Losses) -> Block:
    """`file` of Chat Completions (nested) and `input_file` of Responses (flat)."""
    nested = part.get("file")
    given: Mapping[str, Any] = nested if isinstance(nested, Mapping) else part
    name = given.get("filename")
    title = name if isinstance(name, str) and name else None
    data = given.get("file_data")
    url = given.get("file_url")
    if isinstance(data, str) and data:
        return _document(data, title, where)
    if isinstance(url, Mapping):
        url = url.get("url")
    if isinstance(url, str) and url:
        return _linked(url, title, where)
    if given.get("file_id"):
        _refuse_file_id(where)
    refuse(where, "file_data or file_url is required")


def _file_url(part: Part, where: str, lose: Losses) -> Block:
    """`{"type": "file_url" | "document_url", ...}` of Z.ai's and Mistral's clients."""
    given = part.get("file_url", part.get("document_url"))
    if isinstance(given, Mapping):
        given = given.get("url")
    if not isinstance(given, str) or not given:
        refuse(where, "a URL is required")
    name = part.get("document_name", part.get("file_name"))
    title = name if isinstance(name, str) and name else None
    if _BASE64.match(given):  # Perplexity's clients put the data where a URL would be
        return _document(given, title, where)
    return _linked(given, title, where)


def _linked(url: str, title: str | None, where: str) -> Block:
    if url[:5].lower() == "data:":
        return _document(url, title, where)
    block: Block = {"type": "document", "source": _source(url, where, "application/pdf")}
    return {**block, "title": title} if title else block


def _document(data: str, title: str | None, where: str) -> Block:
    """File data (a data URL, or bare base64 with a file name) as the block of its kind."""
    if data[:5].lower() == "data:":
        media_type, packed = _data_url(data, where)
    else:
        guessed = mimetypes.guess_type(title or "")[0] or ""
        media_type, packed = guessed, data
    if media_type in ("", "application/octet-stream"):
        media_type = _sniffed(packed) or mimetypes.guess_type(title or "")[0] or ""
    if media_type.startswith("image/"):
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": packed}}
    source: dict[str, Any] = {"type": "base64", "media_type": media_type, "data": packed}
    if media_type.startswith("text/") or media_type in _TEXTS:
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(packed, where)}
    elif not media_type:
        refuse(where, "the file does not say what it is: send a data URL, or a filename with its ending")
    # PDF is what all providers take; of other types the provider itself says whether it does
    block: Block = {"type": "document", "source": source}
    return {**block, "title": title} if title else block


def _source(url: str, where: str, default: str) -> dict[str, Any]:
    """A media source: base64 for data URLs, url for http(s). `default` is the kind where the data does not tell."""
    if url[:5].lower() == "data:":
        media_type, packed = _data_url(url, where)
        if media_type in ("", "application/octet-stream", "image/*"):
            media_type = _sniffed(packed) or ("image/png" if default == "image/" else default)
        return {"type": "base64", "media_type": media_type, "data": packed}
    if url[:7].lower() == "http://" or url[:8].lower() == "https://":
        return {"type": "url", "url": url}
    refuse(where, "only data: and http(s) URLs can be carried")


def _data_url(url: str, where: str) -> tuple[str, str]:
    """(media type in lower case, base64 data)."""
    match = _DATA_URL.match(url)
    if match is None:
        refuse(where, "a data URL without a comma")
    media_type = match[1].strip().lower()
    data = url[match.end() :]
    if ";base64" not in match[2].lower():
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    elif "%" in data:  # base64 that went through URL encoding
        data = unquote_to_bytes(data).decode("ascii", "replace")
    return _SPELLINGS.get(media_type, media_type), data


def _sniffed(packed: str) -> str:
    return next((kind for start, kind in _MAGIC.items() if packed.startswith(start)), "")


def _decoded(packed: str, where: str) -> str:
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4)).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        refuse(where, "file data that is no base64")


def _refuse_file_id(where: str) -> NoReturn:
    refuse(
        f"{where}.file_id",
        "files uploaded to OpenAI cannot be read by other providers; send their data instead",
    )


def _refuse_audio(part: Part, where: str, lose: Losses) -> NoReturn:
    refuse(where, "audio input cannot be carried to other providers")


_READERS: dict[str, Callable[[Part, str, Losses], Block | None]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "summary_text": _text,
    "reasoning_text": _text,
    "refusal": _text,
    "thinking": _thinking,
    "image_url": _image,
    "input_image": _image,
    "file": _file,
    "input_file": _file,
    "file_url": _file_url,
    "document_url": _file_url,
    "input_audio": _refuse_audio,
}
