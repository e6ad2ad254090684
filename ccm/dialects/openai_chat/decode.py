"""OpenAI-compatible answers -> Messages: one reader for streams and whole bodies (DIALECTS 3, 5, 6.2).

A chunk's delta and a whole body's message have the same fields, so a whole body is one chunk that is also the end.
`message_delta` waits for `[DONE]` or the end of the body, because usage may come after the finish reason and a second
finish chunk may follow; the first finish reason wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Message
from ccm.dialects.errors import error_inside
from ccm.dialects.openai_chat import reasoning_state as thoughts
from ccm.dialects.openai_chat import usage as figures
from ccm.dialects.openai_chat.calls import Calls
from ccm.dialects.openai_chat.search import Search
from ccm.dialects.openai_chat.think_tags import Splitter
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.blocks import BlockWriter
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage
from ccm.model import ProviderError
from ccm.wire import jsontext
from ccm.wire.sse import Frame

# finish_reason -> stop_reason; what is not here ends the turn (DIALECTS 3)
_STOPS = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "model_length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
}
_BYTES_PER_TOKEN = 4  # for answers whose provider counts nothing


class Answer:
    """Reads one answer chunk by chunk and writes Messages events. The heart of both `decode` and `StreamDecoder`."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self.usage = Usage(input=ctx.estimate_tokens, estimated=True)
        self.writer = BlockWriter(ctx.new_id("msg_"), ctx.asked_model, self.usage)
        self.finish: str | None = None
        self.refusal = ""
        self._family = ctx.family
        self._calls = Calls(self.writer, sent, ctx.new_id, lambda payload: wrap(ctx.family, payload))
        self._search = Search(sent, ctx.new_id)
        self._tags = Splitter() if "think_tags" in ctx.quirks else None
        self._stops = tuple(s for s in sent.body.get("stop") or () if isinstance(s, str))
        self._stop_sequence: str | None = None
        self._field = ""  # where the open thinking block's text came from
        self._details: list[dict[str, Any]] = []  # reasoning_details not yet put into a signature
        self._size = 0

    def chunk(self, chunk: Mapping[str, Any], whole: bool = False) -> None:
        """Takes one chunk, or a `whole` body. Perplexity sends `message` and `delta` in both. Raises UpstreamError for an error in it, BadUpstream for nonsense."""
        self._check(chunk)
        said = figures.find(chunk)
        if said is not None:
            figures.take(self.usage, said)
        self._search.chunk(chunk)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._choice(choice, ("message", "delta") if whole else ("delta", "message"))

    def complete(self) -> list[Event]:
        """The end, where the provider has said that this is it."""
        self._text_tail()
        self._calls.flush()
        self._close_thinking()
        if self._details:
            self._sign()
        for query, results in self._search.found():
            self._put_search(query, results)
        if self.usage.estimated:
            self.usage.output = -(-self._size // _BYTES_PER_TOKEN)
        reason: str | None = "refusal" if self.refusal else _STOPS.get(self.finish or "", "end_turn")
        details = None
        if self._stop_sequence is not None and reason == "end_turn" and not self.writer.tools:
            reason = "stop_sequence"
        if reason == "refusal":
            details = {"type": "refusal", "category": None, "explanation": self.refusal or None}
        self.writer.finish(reason, self._stop_sequence if reason == "stop_sequence" else None, details)
        return self.writer.take()

    def _check(self, chunk: Mapping[str, Any]) -> None:
        error = chunk.get("error")
        choices = chunk.get("choices")
        if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
            error = choices[0].get("error")
            if not error and choices[0].get("finish_reason") == "error":
                error = {"message": "the provider ended the answer with an error"}
        if not error and not isinstance(choices, list) and _is_error(chunk):
            error = chunk
        if error:
            raise UpstreamError(
                error_inside(chunk if error is chunk or chunk.get("error") else {"error": error})
            )

    def _choice(self, choice: Mapping[str, Any], places: tuple[str, ...]) -> None:
        delta = next((choice[p] for p in places if isinstance(choice.get(p), dict)), None)
        if delta is not None:
            self._delta(delta)
        elif isinstance(choice.get("text"), str):
            self._text(choice["text"])
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish and self.finish is None:
            self.finish = finish
            matched = choice.get("stop_reason")  # vLLM: which stop string it was
            if isinstance(matched, str) and matched in self._stops:
                self._stop_sequence = matched

    def _delta(self, delta: Mapping[str, Any]) -> None:
        if len(delta) == 1 and isinstance(content := delta.get("content"), str):
            self._text(content)
            return
        field, text = thoughts.text_of(delta)
        details = delta.get(thoughts.DETAILS)
        if isinstance(details, list):
            self._details += [d for d in details if isinstance(d, dict)]
        if text:
            self._think(field, text)
        content = delta.get("content")
        if isinstance(content, str):
            if content:
                self._text(content)
        elif isinstance(content, list):
            for part in content:
                self._part(part)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.refusal += refusal
            self._plain(refusal)
        calls = delta.get("tool_calls")
        if isinstance(calls, list) and calls:
            self._before_calls()
            for place, call in enumerate(calls):
                if isinstance(call, dict):
                    self._size += self._calls.delta(call, place)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            self._before_calls()
            self._size += self._calls.legacy(legacy)
        self._search.delta(delta)

    def _part(self, part: Any) -> None:
        """One part of a `content` list (Mistral)."""
        if not isinstance(part, dict):
            return
        thinking = part.get("thinking")
        if isinstance(thinking, list):
            thinking = "".join(
                p["text"] for p in thinking if isinstance(p, dict) and isinstance(p.get("text"), str)
            )
        if isinstance(thinking, str) and thinking:
            self._think(thoughts.PARTS, thinking)
        elif isinstance(part.get("text"), str):
            self._text(part["text"])

    def _think(self, field: str, text: str) -> None:
        self._size += _bytes(text)
        if not self._field:
            self._field = field
        self.writer.thinking(text)

    def _text(self, text: str) -> None:
        if self._tags is None:
            self._plain(text)
            return
        for kind, piece in self._tags.feed(text):
            if kind == "thinking":
                self._think(thoughts.FIELDS[0], piece)
            else:
                self._plain(piece)

    def _text_tail(self) -> None:
        for kind, piece in self._tags.end() if self._tags is not None else ():
            if kind == "thinking":
                self._think(thoughts.FIELDS[0], piece)
            else:
                self._plain(piece)

    def _plain(self, text: str) -> None:
        if not text:
            return
        self._size += _bytes(text)
        if self._field:
            self._sign()
        self.writer.text(text)

    def _before_calls(self) -> None:
        self._text_tail()
        self._close_thinking()
        if self._details:  # encrypted reasoning that came without any text belongs before the call
            self._sign()

    def _close_thinking(self) -> None:
        if self._field:
            self._sign()

    def _sign(self) -> None:
        """Ends the thinking block (or makes an empty one) with what the provider wants to see again."""
        payload: dict[str, Any] = {"f": thoughts.DETAILS if self._details else self._field}
        if self._details:
            payload["d"] = thoughts.joined(self._details)
        self._field, self._details = "", []
        self.writer.signature(wrap(self._family, payload))

    def _put_search(self, query: str, results: list[dict[str, Any]]) -> None:
        use = self._search.use_id()
        key = ("server", use)
        self.writer.tool(key, use, "web_search", "server_tool_use")
        self.writer.tool_json(key, json.dumps({"query": query}, ensure_ascii=False))
        self.writer.tool_end(key)
        self.writer.block({"type": "web_search_tool_result", "tool_use_id": use, "content": results})
        self.usage.web_searches += 1


class StreamDecoder:
    """A push decoder of `chat.completion.chunk` frames (the Decoder protocol of dialects.base)."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self._answer = Answer(ctx, sent)
        self._provider = ctx.provider
        self._lenient = "lenient_end" in ctx.quirks
        self.usage: Usage = self._answer.usage
        self.finished = False

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one frame. Raises UpstreamError for an error chunk, BadUpstream for what is no JSON object."""
        if self.finished:
            return []
        data = frame.data.strip()
        if not data:
            return []
        if data == b"[DONE]":
            return self._finish()
        try:
            chunk = jsontext.event(data)
        except ValueError as problem:
            if self._answer.finish is not None:
                return []  # a broken tail after the answer was whole (a cut usage chunk)
            raise BadUpstream(f"{self._provider}: a stream chunk is not JSON: {data[:80]!r}") from problem
        if frame.event == "error" and isinstance(chunk, dict) and not chunk.get("error"):
            chunk = {"error": chunk}
        if not isinstance(chunk, dict):
            raise BadUpstream(f"{self._provider}: a stream chunk is not a JSON object: {data[:80]!r}")
        self._answer.chunk(chunk)
        return self._answer.writer.take()

    def end(self) -> list[Event]:
        """The body ended. Without `[DONE]`, only a finish reason makes the answer whole (several providers omit the
        former); quirk `lenient_end` takes the end of the body for one."""
        if self.finished:
            return []
        started = self._answer.writer.started
        if self._answer.finish is None and not (self._lenient and started):
            raise IncompleteStream(
                ProviderError(
                    status=0,
                    type="api_error",
                    message=f"{self._provider} ended the stream before the answer was complete"
                    if started
                    else f"{self._provider} ended the stream without an answer",
                    code="incomplete_stream",
                )
            )
        return self._finish()

    def _finish(self) -> list[Event]:
        self.finished = True
        return self._answer.complete()


def decode(body: Any, ctx: Context, sent: Encoded) -> Message:
    """A whole `chat.completion` body as a message. Raises UpstreamError for an error inside a 200."""
    if not isinstance(body, dict):
        raise BadUpstream(f"{ctx.provider}: the answer is not a JSON object")
    answer = Answer(ctx, sent)
    answer.chunk(body, whole=True)
    if not isinstance(body.get("choices"), list):
        raise BadUpstream(f"{ctx.provider}: the answer has no choices")
    return fold(answer.complete())


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _is_error(chunk: Mapping[str, Any]) -> bool:
    """An error without its envelope: vLLM's `{"object":"error","message"}`, FastAPI's `{"detail"}`."""
    return chunk.get("object") == "error" or chunk.get("type") == "error" or bool(chunk.get("detail"))
