"""Single blocks, Messages -> Converse: text, media, documents, tool calls and results, reasoning (DIALECTS 13)."""

from __future__ import annotations

import re
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.bedrock.models import Traits, is_claude
from ccm.dialects.history import Block, Result, block_text
from ccm.dialects.names import bounded_id, short_name
from ccm.dialects.state import is_wrapped, unwrap
from ccm.errors import Refusal

MAX_ID = 64
_IMAGES = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_EMPTY_RESULT = "(no output)"  # content must not be empty, text must not be blank


class Blocks:
    """Makes the content blocks of one request. Document names are unique within it, as Converse wants them."""

    def __init__(self, ctx: Context, traits: Traits, encoded: Encoded) -> None:
        self._ctx = ctx
        self._traits = traits
        self._encoded = encoded
        self._claude = is_claude(ctx.model)
        self._documents: set[str] = set()
        self._late: list[Block] = []

    def user(self, block: Block) -> list[Block]:
        """A block of a user turn."""
        if block["type"] == "text":
            return _text(block["text"])
        return [self._media(block)]

    def assistant(self, block: Block) -> list[Block]:
        """A block of an assistant turn. Reasoning goes back only to the family that made it."""
        kind = block["type"]
        if kind == "text":
            return _text(block["text"])
        if kind == "tool_use":
            call: Block = {
                "toolUseId": bounded_id(block["id"], MAX_ID),
                "name": short_name(block["name"]),
                "input": block["input"] if isinstance(block.get("input"), dict) else {},
            }
            return [{"toolUse": call}]
        if kind == "redacted_thinking":
            data = block.get("data")
            return [{"reasoningContent": {"redactedContent": data}}] if self._claude and data else []
        return self._reasoning(block)

    def result(self, result: Result) -> list[Block]:
        """A tool result. Media that the model takes in no result waits for `late_media`."""
        failed = result.is_error
        content: list[Block] = []
        for block in result.blocks:
            if block["type"] == "text":
                content += _text(block["text"])
            elif self._traits.result_media:
                content.append(self._media(block))
            else:
                note = f"[{block['type']} of tool result {result.id}]"
                content.append({"text": f"{note[:-1]}: see below]"})
                self._late += [{"text": f"{note}:"}, self._media(block)]
                self._encoded.lose("tool_result.media", "approximated")
        if failed and not self._traits.result_status:
            content.insert(0, {"text": "Error:"})
        made: Block = {"toolUseId": bounded_id(result.id, MAX_ID), "content": content or _text(_EMPTY_RESULT)}
        if failed and self._traits.result_status:
            made["status"] = "error"
        return [{"toolResult": made}]

    def late_media(self) -> list[Block]:
        """The media of the results before, for the place after them."""
        late, self._late = self._late, []
        return late

    def with_text(self, content: list[Block]) -> list[Block]:
        """The content of a user turn, with a text block where a document needs one beside it."""
        if any("document" in b for b in content) and not any("text" in b for b in content):
            return [*content, {"text": "See the attached document."}]
        return content

    def _reasoning(self, block: Block) -> list[Block]:
        text, signature = str(block.get("thinking") or ""), block.get("signature")
        if self._claude and isinstance(signature, str) and signature and not is_wrapped(signature):
            return [{"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}]
        state = unwrap(signature, self._ctx.family)
        if not isinstance(state, dict):
            return []
        if isinstance(state.get("redacted"), str):
            return [{"reasoningContent": {"redactedContent": state["redacted"]}}]
        if not isinstance(state.get("sig"), str):
            return []  # reasoning without a signature: the models that make it refuse to be given it
        return [{"reasoningContent": {"reasoningText": {"text": text, "signature": state["sig"]}}}]

    def _media(self, block: Block) -> Block:
        source = block.get("source")
        source = source if isinstance(source, dict) else {}
        kind, is_image = source.get("type"), block["type"] == "image"
        if kind == "file":
            raise Refusal(
                400,
                "invalid_request_error",
                f"a {block['type']} by file_id: {self._ctx.provider} does not know Anthropic's files; send it as base64",
            )
        if is_image and self._ctx.facts.known and "images" not in self._ctx.facts.abilities:
            self._encoded.lose("image")
            return {"text": f"[image omitted: model {self._ctx.model} is text-only]"}
        formats = _IMAGES if is_image else _DOCUMENTS
        format = formats.get(str(source.get("media_type") or ("" if is_image else "application/pdf")).lower())
        if kind != "base64" or format is None or not source.get("data"):
            # Converse takes bytes only (or S3 objects): an address stays an address.
            self._encoded.lose(f"{block['type']}.{kind or 'source'}", "approximated")
            return {"text": block_text(block) or f"[{block['type']}]"}
        made: Block = {"format": format, "source": {"bytes": source["data"]}}
        if is_image:
            return {"image": made}
        return {"document": {"format": format, "name": self._name(block), "source": made["source"]}}

    def _name(self, block: Block) -> str:
        title = block.get("title")
        clean = _NOT_IN_NAMES.sub(" ", title if isinstance(title, str) else "")
        name = base = " ".join(clean.split())[:180] or "document"
        number = 1
        while name in self._documents:
            number += 1
            name = f"{base} {number}"
        self._documents.add(name)
        return name


def _text(text: Any) -> list[Block]:
    return [{"text": text}] if isinstance(text, str) and text.strip() else []
