"""generateContent answers to Messages events: one decoder for streams and for whole answers (DIALECTS 6.3, 7, 11).

Each event of a Gemini stream is a response of its own with new parts; there is no terminal event. The answer is whole
when a finishReason came (or a prompt was blocked) and the body ended. Signatures leave as thinking blocks directly
before the block whose part carried them (see `parts` for the kinds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Message
from ccm.dialects.errors import error_inside
from ccm.dialects.gemini.model import state_family
from ccm.dialects.gemini.partial import PartialCall
from ccm.dialects.gemini.search import search_blocks
from ccm.dialects.names import anthropic_id
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.blocks import BlockWriter
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage, count
from ccm.model import FailureKind, ProviderError
from ccm.wire import jsontext
from ccm.wire.sse import Frame

_STOP = {
    "STOP": "end_turn",
    "MAX_TOKENS": "max_tokens",
    "SAFETY": "refusal",
    "RECITATION": "refusal",
    "BLOCKLIST": "refusal",
    "PROHIBITED_CONTENT": "refusal",
    "SPII": "refusal",
    "MODEL_ARMOR": "refusal",
    "ESCALATION": "refusal",
    "IMAGE_SAFETY": "refusal",
    "IMAGE_PROHIBITED_CONTENT": "refusal",
    "IMAGE_RECITATION": "refusal",
    # LANGUAGE, OTHER, NO_IMAGE, IMAGE_OTHER and what is new: end_turn
}
# The model's own failures: the answer is nothing to show, another try may do better.
_FAILED = frozenset((
    "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE",
    "MISSING_THOUGHT_SIGNATURE",
))  # fmt: skip
_UNSAID = frozenset(("", "FINISH_REASON_UNSPECIFIED"))
_SERVER_PARTS = frozenset(("toolCall", "toolResponse"))
_MAX_PART = 256 * 1024  # characters of a part of Google's own that is worth carrying in a signature


def decode(body: Any, ctx: Context, sent: Encoded) -> Message:
    """A whole answer: one response object, or the JSON array that a stream without alt=sse is.

    Raises UpstreamError for an error inside a 200 and for the model's own failures, BadUpstream for nonsense.
    """
    decoder = GeminiDecoder(ctx, sent)
    events: list[Event] = []
    for document in body if isinstance(body, list) else [body]:
        events += decoder.document(document)
    events += decoder.end()
    return fold(events)


class GeminiDecoder:
    """Push decoder of one answer; the frames are those of an SSE stream."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self.ctx = ctx
        self.names = sent.names
        self.usage = Usage(input=ctx.estimate_tokens, estimated=True)
        self.writer = BlockWriter(ctx.new_id("msg_"), ctx.asked_model, self.usage)
        self.finished = False
        self._model = state_family(ctx.model, ctx.facts)
        self._used = set(sent.seen_ids)
        self._reason = ""
        self._explanation: str | None = None
        self._blocked = ""
        self._grounding: dict[str, Any] = {}
        kinds = {kind for tool in sent.body.get("tools") or () for kind in tool}
        # An answer to a search request (Claude Code's WebSearch) has its results before its text; they come last.
        self._text_waits: list[tuple[str, str]] | None = [] if kinds == {"googleSearch"} else None
        self._thinking = False  # a thinking block is open and has no signature yet
        self._text = 0  # characters of the open text block
        self._tail: list[list[Any]] = []  # signatures inside the open text block
        self._partial: PartialCall | None = None

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame. Raises UpstreamError for an error inside the stream, BadUpstream for nonsense."""
        data = frame.data.strip()
        if not data or data == b"[DONE]":
            return []
        try:
            value = jsontext.event(data)
        except (ValueError, RecursionError) as e:
            raise BadUpstream(f"an event that is no JSON: {data[:80]!r}") from e
        events: list[Event] = []
        for document in value if isinstance(value, list) else [value]:
            events += self.document(document)
        return events

    def document(self, document: Any) -> list[Event]:
        """Events of one response object."""
        if not isinstance(document, dict):
            raise BadUpstream(f"no response object: {str(document)[:80]!r}")
        if document.get("error"):
            raise UpstreamError(error_inside(document))
        self._count(document.get("usageMetadata"))
        feedback = document.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            self._blocked = str(feedback["blockReason"])
            self._explanation = feedback.get("blockReasonMessage") or self._explanation
        candidates = document.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict) and not candidate.get("index"):
                self._candidate(candidate)
                break
        return self.writer.take()

    def end(self) -> list[Event]:
        """The body ended: the last events. Raises IncompleteStream where no finishReason had come, UpstreamError where
        the reason is a failure of the model's."""
        if self.finished:
            return []
        if self._reason in _FAILED:
            raise UpstreamError(self._failure())
        if not self._reason and not self._blocked:
            raise IncompleteStream(
                ProviderError(
                    status=502,
                    type="api_error",
                    message=f"{self.ctx.provider}: the answer ended without a finishReason",
                    code="incomplete_stream",
                    kind=FailureKind.BROKEN,
                )
            )
        if self._partial is not None and self._reason == "STOP":
            self._emit(self._partial)
        stop = _STOP.get(self._reason, "end_turn") if self._reason else "refusal"
        self._search()
        self._seal()
        details = None
        if stop == "refusal":
            text = (
                self._explanation
                or f"{self.ctx.provider} stopped this answer: {self._reason or self._blocked}"
            )
            details = {"type": "refusal", "category": None, "explanation": text}
        self.writer.finish(stop, stop_details=details)
        self.finished = True
        return self.writer.take()

    def _failure(self) -> ProviderError:
        text = self._explanation or "the model's answer was unusable"
        return ProviderError(
            status=502,
            type="api_error",
            message=f"{self.ctx.provider}: {self._reason}: {text}",
            code=self._reason,
        )

    def _count(self, meta: Any) -> None:
        """The last cumulative figures win; Vertex sends objects without any in between."""
        if not isinstance(meta, dict) or not ("promptTokenCount" in meta or "totalTokenCount" in meta):
            return
        usage = self.usage
        cached = count(meta.get("cachedContentTokenCount"))
        given = count(meta.get("promptTokenCount")) + count(meta.get("toolUsePromptTokenCount"))
        thoughts = count(meta.get("thoughtsTokenCount"))
        usage.estimated = False
        usage.input, usage.cache_read = max(0, given - cached), cached
        usage.output = count(meta.get("candidatesTokenCount")) + thoughts
        if "thoughtsTokenCount" in meta:
            usage.thinking = thoughts

    def _candidate(self, candidate: Mapping[str, Any]) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                self._part(part)
        grounding = candidate.get("groundingMetadata")
        if isinstance(grounding, dict):
            self._grounding.update({key: value for key, value in grounding.items() if value})
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason not in _UNSAID:
            self._reason = reason
            self._explanation = candidate.get("finishMessage") or self._explanation

    def _part(self, part: dict[str, Any]) -> None:
        signature = part.get("thoughtSignature") or part.get("thought_signature") or ""
        if not isinstance(signature, str):
            signature = ""
        text = part.get("text")
        if "functionCall" in part:
            self._function_call(part["functionCall"], signature)
        elif part.get("thought"):
            self._thought(text, signature)
        elif isinstance(text, str):
            self._answer(text, signature)
        elif (shown := _shown(part)) is not None:
            self._answer(shown, signature)
        elif (signature or _SERVER_PARTS & part.keys()) and len(json.dumps(part)) <= _MAX_PART:
            self._state({"on": "part", "part": part})

    def _thought(self, text: Any, signature: str) -> None:
        if isinstance(text, str) and text:
            self._seal_text()
            self.writer.thinking(text)
            self._thinking = True
        if signature:
            self._state({"on": "thought", "sig": signature})

    def _answer(self, text: str, signature: str) -> None:
        if self._text_waits is not None:
            self._text_waits.append((text, signature))
            return
        if not text:
            if signature:
                self._state({"on": "empty", "sig": signature})
            return
        if signature and self._text:
            self._tail.append([self._text, self._text + len(text), signature])
        elif signature:
            self._state({"on": "text", "sig": signature})
        else:
            self._seal_thinking()
        self.writer.text(text)
        self._text += len(text)

    def _function_call(self, call: Any, signature: str) -> None:
        if not isinstance(call, dict):
            return
        if self._partial is None or call.get("name"):
            if self._partial is not None:
                self._emit(self._partial)
            self._partial = PartialCall(str(call.get("id") or ""), str(call.get("name") or ""), signature)
        self._partial.add(call)
        if not call.get("willContinue"):
            self._emit(self._partial)

    def _emit(self, call: PartialCall) -> None:
        """A whole call as a tool_use block."""
        self._partial = None
        if not call.name:
            return  # nothing that a client could run
        if call.signature:
            self._state({"on": "call", "sig": call.signature})
        else:
            self._seal()
        id = anthropic_id(call.id) if call.id else ""
        if not id or id in self._used:
            id = self.ctx.new_id("toolu_")
        self._used.add(id)
        self.writer.tool(id, id, self.names.get(call.name, call.name))
        args = call.args if isinstance(call.args, dict) else {"input": call.args}
        self.writer.tool_json(id, json.dumps(args, ensure_ascii=False, separators=(",", ":")))
        self.writer.tool_end(id)

    def _search(self) -> None:
        """What was searched and found, where it was asked for; then the text that waited for it."""
        blocks, queries = search_blocks(self._grounding, self.ctx.new_id)
        waiting, self._text_waits = self._text_waits, None
        if blocks:
            self._seal()
            use, result = blocks
            self.writer.tool(use["id"], use["id"], use["name"], type="server_tool_use")
            self.writer.tool_json(use["id"], json.dumps(use["input"], ensure_ascii=False))
            self.writer.tool_end(use["id"])
            self.writer.block(result)
            self.usage.web_searches = queries
        for text, signature in waiting or ():
            self._answer(text, signature)

    def _state(self, payload: dict[str, Any]) -> None:
        """A signature block: closes an open thinking block, else stands as an empty one."""
        if self._text:
            self._seal_text()
        self.writer.signature(wrap(self.ctx.family, {"m": self._model, **payload}))
        self._thinking = False

    def _seal(self) -> None:
        self._seal_thinking()
        self._seal_text()

    def _seal_thinking(self) -> None:
        """Gives an open thinking block a signature: no client may see one without (DIALECTS 7)."""
        if self._thinking:
            self._thinking = False
            self.writer.signature(wrap(self.ctx.family, {"m": self._model, "on": "thought"}))

    def _seal_text(self) -> None:
        """Ends the text block; signatures of pieces within it follow it."""
        self._text = 0
        if self._tail:
            marks, self._tail = self._tail, []
            self.writer.signature(wrap(self.ctx.family, {"m": self._model, "on": "tail", "at": marks}))


def _shown(part: Mapping[str, Any]) -> str | None:
    """Parts that are neither text nor calls, as text: code that ran on Google's side, media the model made."""
    code, ran = part.get("executableCode"), part.get("codeExecutionResult")
    blob, file = part.get("inlineData"), part.get("fileData")
    if isinstance(code, dict):
        return f"\n```{str(code.get('language') or '').lower()}\n{code.get('code') or ''}\n```\n"
    if isinstance(ran, dict):
        return f"\n```\n{ran.get('output') or ran.get('outcome') or ''}\n```\n"
    if isinstance(blob, dict):
        size = len(str(blob.get("data") or "")) * 3 // 4
        return f"\n[{blob.get('mimeType') or 'data'}, {size} bytes: not shown]\n"
    if isinstance(file, dict):
        return f"\n[{file.get('mimeType') or 'file'}]({file.get('fileUri') or ''})\n"
    return None
