"""A Messages answer as a Chat Completions answer, streamed or whole (DIALECTS 5, 7, 16).

Reasoning goes out twice: live as `reasoning_content`, and at the end of each thinking block as one whole
`reasoning_details` entry with its signature and place, which clients send back and `chat_request` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.inbound import chat_request, finish
from ccm.dialects.inbound.free_text import FreeText
from ccm.dialects.inbound.messages import COMMENT, SSE, NewId, dumps
from ccm.dialects.inbound.parts import Losses
from ccm.dialects.inbound.toolbox import Offer
from ccm.messages.events import Event
from ccm.messages.tokens import Usage

Delta = dict[str, Any]
FORMAT = "anthropic-claude-v1"  # OpenRouter's name for thinking with Anthropic's kind of signature
_DONE = b"data: [DONE]\n\n"
_quote = json.encoder.encode_basestring_ascii
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Answer:
    """Follows the events of one answer and says what each adds, as Chat Completions deltas; at the end it is whole."""

    def __init__(self, original: Mapping[str, Any]) -> None:
        self._offers = chat_request.toolbox(original, Losses()).offers
        # a client that used `functions` reads `function_call` and knows no `tool_calls`
        self.legacy = bool(original.get("functions")) and not original.get("tools")
        self.usage = Usage()
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.details: list[Delta] = []
        self.calls: list[Delta] = []
        self.annotations: list[Delta] = []
        self.refusal: str | None = None
        self.finish_reason = "stop"
        self._length = 0  # characters of content
        self._kind = ""  # of the open block
        self._place: str | None = None
        self._thought: list[str] = []
        self._signature = ""
        self._given: Any = None  # a call's input that came in its start
        self._arguments: list[str] = []
        self._free: FreeText | None = None
        self._citations: list[Any] = []
        self._begun = 0  # where the open text block begins

    def deltas(self, event: Event) -> list[Delta]:
        """What this event adds (none for events that only other clients care about)."""
        handler = _HANDLERS.get(event["type"])
        return handler(self, event) if handler is not None else []

    def text(self, text: str) -> None:
        """Notes answer text (the stream writes it by itself: it is what most events are)."""
        self.content.append(text)
        self._length += len(text)

    def _start(self, event: Event) -> list[Delta]:
        self.usage.update(event["message"].get("usage"))
        return [{"role": "assistant", "content": ""}]

    def _block_start(self, event: Event) -> list[Delta]:
        block = event["content_block"]
        self._kind = block.get("type", "")
        self._begun, self._citations = self._length, []
        if self._kind in ("thinking", "redacted_thinking"):
            self._place = chat_request.place(self._length, len(self.calls))
            self._thought, self._signature = [], str(block.get("signature") or "")
            if self._kind == "redacted_thinking":
                return self._detail({"type": "reasoning.encrypted", "data": str(block.get("data") or "")})
            return self._think(str(block.get("thinking") or ""))
        if self._kind == "text" and block.get("text"):
            self.text(block["text"])
            return [{"content": block["text"]}]
        return self._call(block) if self._kind == "tool_use" else []

    def _call(self, block: Mapping[str, Any]) -> list[Delta]:
        name = str(block.get("name") or "")
        offer = self._offers.get(name, Offer("function", name))
        self._given, self._arguments = block.get("input"), []
        self._free = FreeText() if offer.kind == "custom" else None
        kind, field = ("custom", "input") if self._free else ("function", "arguments")
        call: Delta = {"id": block.get("id"), "type": kind, kind: {"name": offer.name, field: ""}}
        self.calls.append(call)
        if self.legacy:
            return [{"function_call": {"name": offer.name, "arguments": ""}}] if len(self.calls) == 1 else []
        return [{"tool_calls": [{"index": len(self.calls) - 1, **call, kind: dict(call[kind])}]}]

    def _more(self, piece: str) -> list[Delta]:
        """A piece of the open call's arguments, or of its free text."""
        if not piece:
            return []
        call = self.calls[-1]
        kind, field = (call["type"], "input" if self._free else "arguments")
        call[kind][field] += piece
        if self.legacy:
            return [{"function_call": {"arguments": piece}}] if len(self.calls) == 1 else []
        return [{"tool_calls": [{"index": len(self.calls) - 1, kind: {field: piece}}]}]

    def _delta(self, event: Event) -> list[Delta]:
        delta = event["delta"]
        kind = delta["type"]
        if kind == "text_delta":
            self.text(delta["text"])
            return [{"content": delta["text"]}] if delta["text"] else []
        if kind == "thinking_delta":
            return self._think(delta["thinking"])
        if kind == "input_json_delta" and self._kind == "tool_use":
            piece = delta["partial_json"]
            self._arguments.append(piece)
            return self._more(self._free.feed(piece) if self._free else piece)
        if kind == "signature_delta":
            self._signature = delta["signature"]
        elif kind == "citations_delta":
            self._citations.append(delta["citation"])
        return []

    def _think(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._thought.append(text)
        self.reasoning.append(text)
        return [{"reasoning_content": text}]

    def _detail(self, detail: Delta) -> list[Delta]:
        detail = {**detail, "format": FORMAT, "index": len(self.details)}
        if self._place is not None:
            detail["id"] = self._place
        self.details.append(detail)
        return [{"reasoning_details": [dict(detail)]}]

    def _block_stop(self, event: Event) -> list[Delta]:
        kind, self._kind = self._kind, ""
        if kind == "thinking" and (self._thought or self._signature):
            told: Delta = {"type": "reasoning.text", "text": "".join(self._thought)}
            return self._detail({**told, "signature": self._signature} if self._signature else told)
        if kind == "text":
            for found in finish.url_citations(self._citations, self._begun, self._length):
                self.annotations.append({"type": found.pop("type"), "url_citation": found})
        if kind != "tool_use":
            return []
        missing = [] if "".join(self._arguments).strip() else [finish.dumped(self._given or {})]
        if self._free is None:
            return self._more("".join(missing))
        pieces = [self._free.feed(piece) for piece in missing]
        return self._more("".join(pieces) + self._free.end()[0])

    def _end(self, event: Event) -> list[Delta]:
        delta = event["delta"]
        self.usage.update(event.get("usage"))
        self.finish_reason = _FINISH.get(str(delta.get("stop_reason")), "stop")
        if self.legacy and self.finish_reason == "tool_calls":
            self.finish_reason = "function_call"
        last: list[Delta] = [{"annotations": self.annotations}] if self.annotations else []
        details = delta.get("stop_details")
        told = details.get("explanation") if isinstance(details, Mapping) else None
        if self.finish_reason == "content_filter" and not self._length and isinstance(told, str) and told:
            self.refusal = told
            last.append({"refusal": told})
        return last

    def usage_object(self) -> dict[str, Any]:
        """OpenAI's `usage`: inclusive counts."""
        prompt, cached, completion, reasoning = finish.counts(self.usage)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": self.usage.cache_write,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def message(self) -> Delta:
        """The whole `message` of the one choice."""
        content = "".join(self.content)
        said = bool(content) or not (self.calls or self.refusal)
        message: Delta = {"role": "assistant", "content": content if said else None, "refusal": self.refusal}
        if self.annotations:
            message["annotations"] = self.annotations
        if self.calls and self.legacy:
            message["function_call"] = dict(self.calls[0]["function"])
        elif self.calls:
            message["tool_calls"] = self.calls
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.details:
            message["reasoning_details"] = self.details
        return message


_HANDLERS: dict[str, Callable[[Answer, Event], list[Delta]]] = {
    "message_start": Answer._start,
    "content_block_start": Answer._block_start,
    "content_block_delta": Answer._delta,
    "content_block_stop": Answer._block_stop,
    "message_delta": Answer._end,
}


class ChatRenderer:
    """One streamed answer as chat.completion.chunk events. See `base.Renderer`."""

    content_type = SSE

    def __init__(self, asked_model: str, original: Mapping[str, Any], new_id: NewId, created_s: int) -> None:
        self._answer = Answer(original)
        options = original.get("stream_options")
        self._usage = bool(isinstance(options, Mapping) and options.get("include_usage"))
        head = {"id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": created_s}
        self._head = dumps({**head, "model": asked_model})[:-1]
        self._tail = ',"usage":null}\n\n' if self._usage else "}\n\n"
        self._before = f'data: {self._head},"choices":[{{"index":0,"delta":{{"content":'
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{self._tail}'

    def render(self, event: Event) -> bytes:
        """The chunks that this event makes."""
        kind = event["type"]
        if kind == "content_block_delta" and event["delta"]["type"] == "text_delta":
            text = event["delta"]["text"]
            if not text:
                return b""
            self._answer.text(text)
            return f"{self._before}{_quote(text)}{self._after}".encode("ascii")
        if kind == "ping":
            return COMMENT
        if kind == "message_stop":
            return self._stop()
        if kind == "error":
            error = event.get("error") or {}
            return self.fail(str(error.get("type")), str(error.get("message")), "")
        out = [self._chunk(delta, None) for delta in self._answer.deltas(event)]
        if kind == "message_delta":
            out.append(self._chunk({}, self._answer.finish_reason))
        return "".join(out).encode("ascii")

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """An `error` object where the next chunk would be; no [DONE] follows: the answer is not whole."""
        return f"data: {dumps({'error': finish.error_object(type, message)})}\n\n".encode("ascii")

    def alive(self) -> bytes:
        """A comment: this API has no ping."""
        return COMMENT

    def _chunk(self, delta: Delta, reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return f'data: {self._head},"choices":{dumps([choice])}{self._tail}'

    def _stop(self) -> bytes:
        if not self._usage:
            return _DONE
        usage = dumps(self._answer.usage_object())
        return f'data: {self._head},"choices":[],"usage":{usage}}}\n\n'.encode("ascii") + _DONE
