"""A Messages answer as a Responses answer: the whole ladder of events, or the response object it ends in.

response.created, in_progress, then per item output_item.added ... deltas ... output_item.done, then completed or
incomplete. Neighbouring text blocks make one message with one text part, because citations cut Anthropic's text into
many blocks; so a message stays open until something else begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.inbound import finish, knobs, responses_items, responses_request
from ccm.dialects.inbound.free_text import FreeText
from ccm.dialects.inbound.messages import COMMENT, SSE, NewId, dumps
from ccm.dialects.inbound.parts import Losses
from ccm.dialects.inbound.responses_items import Item
from ccm.dialects.inbound.toolbox import Offer
from ccm.messages.events import Event
from ccm.messages.tokens import Usage

_quote = json.encoder.encode_basestring_ascii
_INCOMPLETE = {
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "content_filter",
}
_GROWING = ("function", "custom")  # kinds of calls whose arguments are told while they arrive


class ResponsesRenderer:
    """One answer, streamed. See `base.Renderer`. `response` is the response object as it stands."""

    content_type = SSE

    def __init__(self, asked_model: str, original: Mapping[str, Any], new_id: NewId, created_s: int) -> None:
        self.response = responses_items.response_object(original, asked_model, new_id("resp_"), created_s)
        self._offers = responses_request.toolbox(original, Losses()).offers
        include = original.get("include")
        self._sources = isinstance(include, list) and "web_search_call.action.sources" in include
        self._new_id = new_id
        self._usage = Usage()
        self._sequence = 0
        self._out: list[str] = []
        self._begun = False
        self._items: list[Item] = []  # all of the output, done or not
        self._kind = ""  # of the open block
        # the open message, across text blocks
        self._message: Item | None = None
        self._at = 0  # its output_index, or that of the open item
        self._text: list[str] = []
        self._length = 0
        self._block_from = 0
        self._citations: list[Any] = []
        self._annotations: list[Item] = []
        # the open reasoning, call or search
        self._item: Item | None = None
        self._pieces: list[str] = []
        self._sealed: str | None = None
        self._offer = Offer("function", "")
        self._call: Mapping[str, Any] = {}
        self._free: FreeText | None = None
        self._searches: dict[str, tuple[int, Any]] = {}  # tool id -> output_index, input

    # ---- the renderer

    def render(self, event: Event) -> bytes:
        """The events that this one makes."""
        kind = event["type"]
        if kind == "ping":
            return COMMENT
        if kind == "error":
            error = event.get("error") or {}
            return self.fail(str(error.get("type")), str(error.get("message")), "")
        self.take(event)
        out, self._out = self._out, []
        return "".join(out).encode("ascii")

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """response.failed, after response.created where that was not sent yet."""
        self._create()
        error = finish.error_object(type, message)
        self.response["status"] = "failed"
        self.response["error"] = {"code": error["code"] or "invalid_prompt", "message": message}
        self.response["output"] = [item for item in self._items if item.get("status") != "in_progress"]
        self._emit("response.failed", response=self.response)
        out, self._out = self._out, []
        return "".join(out).encode("ascii")

    def alive(self) -> bytes:
        """A comment: this API has no ping."""
        return COMMENT

    def take(self, event: Event) -> None:
        """Follows one event of the answer."""
        handler = _HANDLERS.get(event["type"])
        if handler is not None:
            handler(self, event)

    def _emit(self, type: str, **fields: Any) -> None:
        data = dumps({"type": type, **fields, "sequence_number": self._sequence})
        self._out.append(f"event: {type}\ndata: {data}\n\n")
        self._sequence += 1

    def _create(self) -> None:
        if not self._begun:
            self._begun = True
            self._emit("response.created", response=self.response)
            self._emit("response.in_progress", response=self.response)

    def _added(self, item: Item) -> int:
        """Puts an item into the output and tells so; its output_index."""
        self._items.append(item)
        self._emit("response.output_item.added", output_index=len(self._items) - 1, item=item)
        return len(self._items) - 1

    def _done(self, at: int, item: Item) -> None:
        self._items[at] = item
        self._emit("response.output_item.done", output_index=at, item=item)

    # ---- the answer's events

    def _start(self, event: Event) -> None:
        self._usage.update(event["message"].get("usage"))
        self._create()

    def _block_start(self, event: Event) -> None:
        block = event["content_block"]
        self._kind = kind = block.get("type", "")
        if kind == "text":
            self._block_from, self._citations = self._length if self._message else 0, []
            self._say(str(block.get("text") or ""))
            return
        if kind in ("thinking", "redacted_thinking", "tool_use") or block.get("name") == "web_search":
            self._close_message("completed")
        self._pieces, self._item, self._sealed = [], None, None
        if kind == "thinking":
            self._sealed = responses_request.thinking_seal(block)
            self._think(str(block.get("thinking") or ""))
        elif kind == "redacted_thinking":
            self._sealed = responses_request.thinking_seal(block)
        elif kind == "tool_use":
            self._begin_call(block)
        elif kind == "server_tool_use" and block.get("name") == "web_search":
            self._begin_search(block)
        elif kind == "web_search_tool_result":
            self._end_search(str(block.get("tool_use_id")), block.get("content"))

    def _delta(self, event: Event) -> None:
        delta = event["delta"]
        kind = delta["type"]
        if kind == "text_delta":
            self._say(delta["text"])
        elif kind == "input_json_delta":
            self._argue(delta["partial_json"])
        elif kind == "thinking_delta":
            self._think(delta["thinking"])
        elif kind == "signature_delta":
            self._sealed = delta["signature"] or self._sealed
        elif kind == "citations_delta":
            self._citations.append(delta["citation"])

    def _block_stop(self, event: Event) -> None:
        kind, self._kind = self._kind, ""
        if kind == "text":
            for found in finish.url_citations(self._citations, self._block_from, self._length):
                self._annotate(found)
        elif kind in ("thinking", "redacted_thinking"):
            self._end_thought()
        elif kind == "tool_use":
            self._end_call()
        elif kind == "server_tool_use" and self._item is not None:
            at, given = self._searches[self._call["id"]]
            self._searches[self._call["id"]] = (
                at,
                knobs.arguments("".join(self._pieces))[0] or given,
            )

    # ---- text

    def _say(self, text: str) -> None:
        if not text:
            return
        message = self._message or self._open_message()
        self._text.append(text)
        self._length += len(text)
        self._out.append(
            f'event: response.output_text.delta\ndata: {{"type":"response.output_text.delta","item_id":"{message["id"]}"'
            f',"output_index":{self._at},"content_index":0,"delta":{_quote(text)},"logprobs":[]'
            f',"sequence_number":{self._sequence}}}\n\n'
        )
        self._sequence += 1

    def _open_message(self, part: Item | None = None) -> Item:
        self._text, self._length, self._annotations, self._block_from = [], 0, [], 0
        message = {"id": self._new_id("msg_"), "type": "message", "role": "assistant"}
        self._message = {**message, "status": "in_progress", "content": []}
        self._at = self._added(self._message)
        place = {"item_id": self._message["id"], "output_index": self._at, "content_index": 0}
        first = part or {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._emit("response.content_part.added", **place, part=first)
        return self._message

    def _annotate(self, annotation: Item) -> None:
        if self._message is None:
            return
        self._annotations.append(annotation)
        self._emit(
            "response.output_text.annotation.added",
            item_id=self._message["id"],
            output_index=self._at,
            content_index=0,
            annotation_index=len(self._annotations) - 1,
            annotation=annotation,
        )

    def _close_message(self, status: str) -> None:
        message, self._message = self._message, None
        if message is None:
            return
        text = "".join(self._text)
        place = {"item_id": message["id"], "output_index": self._at, "content_index": 0}
        part = {"type": "output_text", "text": text, "annotations": self._annotations, "logprobs": []}
        self._emit("response.output_text.done", **place, text=text, logprobs=[])
        self._emit("response.content_part.done", **place, part=part)
        self._done(self._at, {**message, "status": status, "content": [part]})

    def _refuse(self, explanation: str) -> None:
        """A refusal without any text of the model: the provider's explanation as a refusal part."""
        message = self._open_message({"type": "refusal", "refusal": ""})
        place = {"item_id": message["id"], "output_index": self._at, "content_index": 0}
        part = {"type": "refusal", "refusal": explanation}
        self._emit("response.refusal.delta", **place, delta=explanation)
        self._emit("response.refusal.done", **place, refusal=explanation)
        self._emit("response.content_part.done", **place, part=part)
        self._message = None
        self._done(self._at, {**message, "status": "completed", "content": [part]})

    # ---- reasoning

    def _open_thought(self) -> Item:
        self._item = {"id": self._new_id("rs_"), "type": "reasoning", "summary": []}
        self._at = self._added(self._item)
        return self._item

    def _think(self, text: str) -> None:
        if not text:
            return
        item = self._item or self._open_thought()
        place = {"item_id": item["id"], "output_index": self._at, "summary_index": 0}
        if not self._pieces:
            part = {"type": "summary_text", "text": ""}
            self._emit("response.reasoning_summary_part.added", **place, part=part)
        self._pieces.append(text)
        self._emit("response.reasoning_summary_text.delta", **place, delta=text)

    def _end_thought(self) -> None:
        if not self._pieces and not self._sealed:
            return
        item = self._item or self._open_thought()
        summary: list[Item] = []
        if self._pieces:
            text = "".join(self._pieces)
            part = {"type": "summary_text", "text": text}
            place = {"item_id": item["id"], "output_index": self._at, "summary_index": 0}
            self._emit("response.reasoning_summary_text.done", **place, text=text)
            self._emit("response.reasoning_summary_part.done", **place, part=part)
            summary.append(part)
        sealed = {"encrypted_content": self._sealed} if self._sealed else {}
        self._done(self._at, {**item, "summary": summary, **sealed})

    # ---- calls

    def _begin_call(self, block: Mapping[str, Any]) -> None:
        name = str(block.get("name") or "")
        self._call = block
        self._offer = offer = self._offers.get(name, Offer("function", name))
        self._free = FreeText() if offer.kind == "custom" else None
        if offer.kind in _GROWING:
            id = self._new_id(responses_items.PREFIXES[offer.kind])
            self._item = responses_items.call_item(offer, id, str(block.get("id")))
            self._at = self._added(self._item)

    def _argue(self, piece: str) -> None:
        if not piece:
            return
        self._pieces.append(piece)
        if self._kind == "tool_use" and self._item is not None:
            self._grow(self._free.feed(piece) if self._free else piece)

    def _grow(self, piece: str) -> None:
        if piece and self._item is not None:
            kind = "custom_tool_call_input" if self._free else "function_call_arguments"
            self._emit(f"response.{kind}.delta", item_id=self._item["id"], output_index=self._at, delta=piece)

    def _end_call(self) -> None:
        if not "".join(self._pieces).strip():
            self._argue(responses_items.arguments_of(self._call))
        whole = "".join(self._pieces)
        item = self._item
        if item is None:
            id = self._new_id(responses_items.PREFIXES[self._offer.kind])
            typed = responses_items.typed_item(self._offer, id, str(self._call.get("id")), whole)
            self._done(self._added({**typed, "status": "in_progress"}), typed)
            return
        place = {"item_id": item["id"], "output_index": self._at}
        if self._free:
            rest, text = self._free.end()
            self._grow(rest)
            self._emit("response.custom_tool_call_input.done", **place, input=text)
            self._done(self._at, {**item, "input": text})
            return
        self._emit("response.function_call_arguments.done", **place, name=self._offer.name, arguments=whole)
        self._done(self._at, {**item, "arguments": whole, "status": "completed"})

    # ---- web search

    def _begin_search(self, block: Mapping[str, Any]) -> None:
        self._call = {**block, "id": str(block.get("id"))}
        action = {"type": "search", "query": "", "queries": []}
        item = {
            "id": self._new_id("ws_"),
            "type": "web_search_call",
            "status": "in_progress",
            "action": action,
        }
        self._item = item
        at = self._added(item)
        self._searches[self._call["id"]] = at, block.get("input")
        place = {"item_id": item["id"], "output_index": at}
        self._emit("response.web_search_call.in_progress", **place)
        self._emit("response.web_search_call.searching", **place)

    def _end_search(self, id: str, results: Any) -> None:
        found = self._searches.pop(id, None)
        if found is None:
            return
        at, given = found
        item = responses_items.search_item(self._items[at]["id"], given, results, self._sources)
        self._emit("response.web_search_call.completed", item_id=item["id"], output_index=at)
        self._done(at, item)

    # ---- the end

    def _end(self, event: Event) -> None:
        delta = event["delta"]
        self._usage.update(event.get("usage"))
        reason = _INCOMPLETE.get(str(delta.get("stop_reason")))
        for id in list(self._searches):
            self._end_search(id, None)
        details = delta.get("stop_details")
        told = details.get("explanation") if isinstance(details, Mapping) else None
        if reason == "content_filter" and not self._items and isinstance(told, str) and told:
            self._refuse(told)
        self._close_message("incomplete" if reason else "completed")
        self.response["status"] = "incomplete" if reason else "completed"
        self.response["incomplete_details"] = {"reason": reason} if reason else None

    def _stop(self, event: Event) -> None:
        total, cached, output, reasoning = finish.counts(self._usage)
        self.response["output"] = self._items
        self.response["usage"] = {
            "input_tokens": total,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": self._usage.cache_write,
            },
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": total + output,
        }
        self._emit(f"response.{self.response['status']}", response=self.response)


_HANDLERS: dict[str, Callable[[ResponsesRenderer, Event], None]] = {
    "message_start": ResponsesRenderer._start,
    "content_block_start": ResponsesRenderer._block_start,
    "content_block_delta": ResponsesRenderer._delta,
    "content_block_stop": ResponsesRenderer._block_stop,
    "message_delta": ResponsesRenderer._end,
    "message_stop": ResponsesRenderer._stop,
}
