"""Bedrock Converse and ConverseStream -> Messages (DIALECTS 6.5, 13).

A stream starts only its tool blocks; text and reasoning begin with their first delta, and the usage comes after the
stop. Reasoning state of a Claude model is Anthropic's own and stays as it is; that of other models is wrapped.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Message
from ccm.dialects.bedrock.models import is_claude
from ccm.dialects.errors import error_inside
from ccm.dialects.names import anthropic_id
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.blocks import BlockWriter
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage, count
from ccm.model import FailureKind, ProviderError
from ccm.wire import jsontext
from ccm.wire.eventstream import Frame

_STOPS = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "model_context_window_exceeded": "model_context_window_exceeded",
    "guardrail_intervened": "refusal",
    "content_filtered": "refusal",
}
_BROKEN_ANSWERS = {
    "malformed_model_output": "the model's output was malformed",
    "malformed_tool_use": "the model's tool call was malformed",
}


class Blocks:
    """Writes the content blocks of one answer, whether they come whole or in pieces."""

    def __init__(self, out: BlockWriter, ctx: Context, sent: Encoded) -> None:
        self._out = out
        self._ctx = ctx
        self._claude = is_claude(ctx.model)
        self._names = sent.names
        self._used = set(sent.seen_ids)
        self._index: Any = None  # the block that is open
        self._signature: list[str] = []
        self._redacted: list[bytes] = []
        self._reasoned = False

    def tool(self, index: Any, given: Mapping[str, Any]) -> None:
        """The start of a tool call."""
        self.close()
        self._index = index
        name = str(given.get("name") or "")
        id = anthropic_id(str(given.get("toolUseId") or ""))
        if not id or id in self._used:
            id = self._ctx.new_id("toolu_")
        self._used.add(id)
        self._out.tool(index, id, self._names.get(name, name))

    def delta(self, index: Any, delta: Mapping[str, Any]) -> None:
        """A piece of block `index`."""
        if index != self._index:
            self.close()
            self._index = index
        for kind, add in _DELTAS.items():
            if kind in delta:
                add(self, index, delta[kind])

    def close(self) -> None:
        """The open block is whole."""
        if self._index is None:
            return
        if self._redacted:
            data = base64.b64encode(b"".join(self._redacted)).decode()
            if self._claude:
                self._out.block({"type": "redacted_thinking", "data": data})
            else:
                self._out.signature(wrap(self._ctx.family, {"redacted": data}))
        elif self._reasoned or self._signature:
            signature = "".join(self._signature)
            if not self._claude:
                signature = wrap(self._ctx.family, {"sig": signature} if signature else {})
            if signature:
                self._out.signature(signature)
        self._out.close()
        self._index, self._signature, self._redacted, self._reasoned = None, [], [], False

    def whole(self, index: int, block: Mapping[str, Any]) -> None:
        """A block of an answer that was not streamed."""
        use = block.get("toolUse")
        if isinstance(use, dict):
            self.tool(index, use)
            given = use.get("input")
            text = json.dumps({} if given is None else given, ensure_ascii=False, separators=(",", ":"))
            self._out.tool_json(index, text)
        elif isinstance(block.get("citationsContent"), dict):
            self._cited(index, block["citationsContent"])
        elif isinstance(block.get("reasoningContent"), dict):
            reasoning = block["reasoningContent"]
            text = reasoning.get("reasoningText")
            self.delta(index, {"reasoningContent": text if isinstance(text, dict) else reasoning})
        elif isinstance(block.get("text"), str):
            self.delta(index, {"text": block["text"]})
        self.close()

    def _cited(self, index: int, given: Mapping[str, Any]) -> None:
        for part in _objects(given.get("content")):
            self.delta(index, {"text": part.get("text")})
        for citation in _objects(given.get("citations")):
            self.delta(index, {"citation": citation})

    def _text(self, _: Any, text: Any) -> None:
        if isinstance(text, str):
            self._out.text(text)

    def _json(self, index: Any, use: Any) -> None:
        piece = use.get("input") if isinstance(use, dict) else None
        if isinstance(piece, str):
            self._out.tool_json(index, piece)

    def _reasoning(self, _: Any, given: Any) -> None:
        if not isinstance(given, dict):
            return
        if isinstance(given.get("text"), str) and given["text"]:
            self._reasoned = True
            self._out.thinking(given["text"])
        if isinstance(given.get("signature"), str) and given["signature"]:
            self._signature.append(given["signature"])
        if isinstance(given.get("redactedContent"), str):
            try:
                self._redacted.append(base64.b64decode(given["redactedContent"], validate=True))
            except binascii.Error as error:
                raise BadUpstream("redactedContent that is no base64") from error

    def _cite(self, _: Any, given: Any) -> None:
        if isinstance(given, dict):
            citation = citation_of(given)
            if citation is not None:
                self._out.cite(citation)


_DELTAS: dict[str, Callable[[Blocks, Any, Any], None]] = {
    "text": Blocks._text,
    "toolUse": Blocks._json,
    "reasoningContent": Blocks._reasoning,
    "citation": Blocks._cite,
}


class Decoder:
    """One ConverseStream answer. See `base.Decoder`; its frames are `wire.eventstream.Frame`s."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self.usage = Usage(input=ctx.estimate_tokens, estimated=True)
        self.finished = False
        self._out = BlockWriter(ctx.new_id("msg_"), ctx.asked_model, self.usage)
        self._blocks = Blocks(self._out, ctx, sent)
        self._stop: str | None = None
        self._counted = False

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one message. Raises UpstreamError for an exception in the stream."""
        if self.finished:
            return []
        payload = payload_of(frame)
        kind = frame.headers.get(":event-type")
        index = payload.get("contentBlockIndex", 0)
        if kind == "contentBlockDelta":
            delta = payload.get("delta")
            self._blocks.delta(index, delta if isinstance(delta, dict) else {})
        elif kind == "contentBlockStart":
            start = payload.get("start")
            use = start.get("toolUse") if isinstance(start, dict) else None
            if isinstance(use, dict):
                self._blocks.tool(index, use)
        elif kind == "contentBlockStop":
            self._blocks.close()
        elif kind == "messageStart":
            self._out.start()
        elif kind == "messageStop":
            self._stop = str(payload.get("stopReason") or "end_turn")
            stop_of(self._stop)
        elif kind == "metadata":
            read_usage(self.usage, payload.get("usage"))
            self._counted = True
        if self._stop is not None and self._counted:
            self._finish()
        return self._out.take()

    def end(self) -> list[Event]:
        """The body ended: an answer without its figures is whole all the same, one without its stop is not."""
        if self._stop is None:
            raise IncompleteStream(
                ProviderError(0, "api_error", "the stream ended before messageStop", kind=FailureKind.BROKEN)
            )
        self._finish()
        return self._out.take()

    def _finish(self) -> None:
        if not self.finished:
            self._blocks.close()
            self._out.finish(stop_of(self._stop))
            self.finished = True


def decode(body: Any, ctx: Context, sent: Encoded) -> Message:
    """A whole Converse answer. Raises UpstreamError for malformed model output, BadUpstream for nonsense."""
    output = body.get("output") if isinstance(body, dict) else None
    message = output.get("message") if isinstance(output, dict) else None
    if not isinstance(message, dict):
        raise BadUpstream("the answer has no output.message")
    stop = stop_of(body.get("stopReason"))
    usage = Usage(input=ctx.estimate_tokens, estimated=True)
    read_usage(usage, body.get("usage"))
    out = BlockWriter(ctx.new_id("msg_"), ctx.asked_model, usage)
    blocks = Blocks(out, ctx, sent)
    for index, block in enumerate(_objects(message.get("content"))):
        blocks.whole(index, block)
    out.finish(stop)
    return fold(out.take())


def payload_of(frame: Frame) -> dict[str, Any]:
    """The JSON of an event. Raises UpstreamError for an exception message, BadUpstream for what is no JSON object."""
    try:
        payload = jsontext.event(frame.payload or b"{}")
    except ValueError as error:
        raise BadUpstream(f"an event that is no JSON: {frame.payload[:80]!r}") from error
    if not isinstance(payload, dict):
        raise BadUpstream(f"an event that is no object: {frame.payload[:80]!r}")
    headers = frame.headers
    if headers.get(":message-type") in ("exception", "error"):
        code = _said(headers.get(":exception-type"), headers.get(":error-code"))
        text = _said(payload.get("message"), payload.get("Message"), headers.get(":error-message"))
        origin = _said(payload.get("originalMessage"))
        if origin and origin != text:
            text = f"{text}: {origin}" if text else origin
        raise UpstreamError(error_inside({"error": {"code": code, "message": text or code}}))
    return payload


def stop_of(reason: Any) -> str | None:
    """Anthropic's stop reason; None (what the blocks say) for an unknown one. Raises UpstreamError for an answer that Bedrock itself calls malformed."""
    if not isinstance(reason, str):
        return None
    if reason in _BROKEN_ANSWERS:
        raise UpstreamError(error_inside({"error": {"code": reason, "message": _BROKEN_ANSWERS[reason]}}))
    return _STOPS.get(reason)


def read_usage(usage: Usage, given: Any) -> None:
    """Converse counts as Anthropic does; only the names differ. An hour's cache writes are told apart."""
    if not isinstance(given, dict):
        return
    usage.input = count(given.get("inputTokens"))
    usage.output = count(given.get("outputTokens"))
    usage.cache_read = count(given.get("cacheReadInputTokens"))
    written = count(given.get("cacheWriteInputTokens"))
    details = _objects(given.get("cacheDetails"))
    hour = sum(count(d.get("inputTokens")) for d in details if d.get("ttl") == "1h")
    usage.cache_write_1h = min(hour, written)
    usage.cache_write_5m = written - usage.cache_write_1h
    usage.estimated = False


# Converse's location -> Anthropic's citation type and the names of its fields
_PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "documentChar": (
        "char_location",
        {"documentIndex": "document_index", "start": "start_char_index", "end": "end_char_index"},
    ),
    "documentPage": (
        "page_location",
        {"documentIndex": "document_index", "start": "start_page_number", "end": "end_page_number"},
    ),
    "documentChunk": (
        "content_block_location",
        {"documentIndex": "document_index", "start": "start_block_index", "end": "end_block_index"},
    ),
    "searchResultLocation": (
        "search_result_location",
        {"searchResultIndex": "search_result_index", "start": "start_block_index", "end": "end_block_index"},
    ),
}


def citation_of(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """A citation as Anthropic writes it, or None for a place that it has no word for."""
    location = given.get("location")
    location = location if isinstance(location, dict) else {}
    cited = "".join(str(part.get("text") or "") for part in _objects(given.get("sourceContent")))
    title = given.get("title") if isinstance(given.get("title"), str) else None
    web = location.get("web")
    if isinstance(web, dict):
        return {
            "type": "web_search_result_location",
            "url": str(web.get("url") or ""),
            "title": title or str(web.get("domain") or web.get("url") or ""),
            "encrypted_index": "",
            "cited_text": cited,
        }
    for name, (kind, fields) in _PLACES.items():
        place = location.get(name)
        if isinstance(place, dict):
            citation: dict[str, Any] = {"type": kind, "cited_text": cited}
            citation.update({field: count(place.get(key)) for key, field in fields.items()})
            if kind == "search_result_location":
                citation.update(title=title, source=str(given.get("source") or ""))
            else:
                citation["document_title"] = title
            return citation
    return None


def _said(*values: Any) -> str:
    return next((v for v in values if isinstance(v, str) and v), "")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
