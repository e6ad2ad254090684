"""OpenAI Responses -> Messages: the stream decoder, and whole answers through the same path (DIALECTS 4, 5).

`Decoder` reads the events and keeps the items apart; `items.ItemWriter` says what one item becomes. Items may
interleave, Anthropic blocks may not: events of a later item wait until the item before it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Message
from ccm.dialects.errors import error_inside
from ccm.dialects.openai_responses.items import HANDLERS, TOOL_TYPES, Item, ItemWriter
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.blocks import BlockWriter
from ccm.messages.events import Event
from ccm.messages.fold import fold
from ccm.messages.tokens import Usage, count
from ccm.model import FailureKind, ProviderError
from ccm.wire import jsontext
from ccm.wire.sse import Frame

# Events that end the answer. `response.done` is what some relays make of `completed`.
_ENDS = frozenset(("response.completed", "response.incomplete", "response.done"))
_FAILURES = frozenset(("response.failed", "response.cancelled", "error"))
_ALIVE = frozenset(("response.in_progress", "response.queued", "keepalive", "ping"))


class Decoder:
    """One streamed answer. See `base.Decoder`."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self.usage = Usage(input=ctx.estimate_tokens, estimated=True)
        self.finished = False
        self._out = BlockWriter(ctx.new_id("msg_"), ctx.asked_model, self.usage)
        self._items = ItemWriter(self._out, ctx, sent)
        self._open: Item | None = None
        self._by_key: dict[Any, Item] = {}
        self._ids: dict[str, Any] = {}  # item id -> key: some events name only one of both
        self._waiting: deque[tuple[Item, str, dict[str, Any]]] = deque()

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one SSE frame. Raises UpstreamError for a failed response, BadUpstream for what is no JSON."""
        data = frame.data.strip()
        if self.finished or not data or data == b"[DONE]":
            return []
        try:
            event = jsontext.event(data)
        except ValueError as error:
            raise BadUpstream(f"an event that is no JSON: {data[:80]!r}") from error
        if not isinstance(event, dict):
            raise BadUpstream(f"an event that is no object: {data[:80]!r}")
        kind = event.get("type")
        if not isinstance(kind, str):
            if event.get("error"):
                raise UpstreamError(error_inside(event))
            kind = frame.event
        self.take(kind, event)
        return self._out.take()

    def end(self) -> list[Event]:
        """The body ended: nothing more after a terminal event, IncompleteStream without one."""
        if not self.finished:
            raise IncompleteStream(
                ProviderError(
                    0,
                    "api_error",
                    "the stream ended before response.completed",
                    kind=FailureKind.BROKEN,
                )
            )
        return []

    def take(self, kind: str, event: dict[str, Any]) -> None:
        """One event, already parsed."""
        if kind in _ENDS:
            self._end(event)
        elif kind in _FAILURES:
            raise UpstreamError(failure(event))
        elif kind == "response.created":
            self._out.start()
        elif kind in _ALIVE:
            self._out.ping()
        elif kind in HANDLERS or isinstance(event.get("item"), dict):
            self._route(kind, event)

    def _route(self, kind: str, event: dict[str, Any]) -> None:
        """Gives an item's event to the item whose turn it is, or lets it wait."""
        item = self._item(kind, event)
        if item.done:
            return
        if item is self._open or item.aside:
            self._items.take(item, kind, event)
        else:
            self._waiting.append((item, kind, event))
        self._drain()

    def _drain(self) -> None:
        """Writes what waited: item by item, in the order in which they began, up to one that is not done yet."""
        while True:
            if self._open is not None and (self._open.done or (self._open.may_close and self._waiting)):
                self._items.close(self._open)
                self._open = None
            if self._open is not None or not self._waiting:
                return
            item = self._open = self._waiting[0][0]
            mine = [entry for entry in self._waiting if entry[0] is item]
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not item)
            for _, kind, event in mine:
                self._items.take(item, kind, event)
            if item.aside:  # it only now said what it is: nothing that others have to wait for
                self._open = None

    def _item(self, kind: str, event: Mapping[str, Any]) -> Item:
        """The item an event belongs to. By output_index where there is one: relays change item ids under way. An item
        that is added at the place of one that is done is a new one: some servers count no indices."""
        inner = event.get("item")
        id = event.get("item_id") or (inner.get("id") if isinstance(inner, dict) else None)
        key: Any = event.get("output_index")
        if not isinstance(key, int):
            key = self._ids.get(id, id) if isinstance(id, str) else None
        elif isinstance(id, str):
            self._ids[id] = key
        found = self._by_key.get(key)
        if found is None or (found.done and kind == "response.output_item.added"):
            found = self._by_key[key] = Item(key)
        return found

    def _end(self, event: dict[str, Any]) -> None:
        response = event.get("response")
        response = response if isinstance(response, dict) else {}
        if response.get("status") in ("failed", "cancelled") or (
            response.get("error") and not self._by_key and not response.get("output")
        ):
            raise UpstreamError(failure(event))
        self._all_done(response.get("output"))
        read_usage(self.usage, response.get("usage"))
        self._items.finish(response)
        self.finished = True

    def _all_done(self, output: Any) -> None:
        """Closes what was never said to be done, and takes from the last event what no other one told."""
        self._drain()
        while self._open is not None:
            self._items.close(self._open)
            self._drain()
        kinds = {item.kind for item in self._by_key.values()}
        for n, item in enumerate(output if isinstance(output, list) else ()):
            kind = str(item.get("type")) if isinstance(item, dict) else ""
            untold = not kinds or (kind == "message" and kind not in kinds)
            if untold or (kind in TOOL_TYPES and not self._items.has_call(str(item.get("call_id")))):
                self._items.whole(Item(("whole", n)), item if isinstance(item, dict) else {})


def decode(body: Any, ctx: Context, sent: Encoded) -> Message:
    """A whole answer. Raises UpstreamError for a failed one, BadUpstream for a body without `output`."""
    if not isinstance(body, dict):
        raise BadUpstream("the answer is no JSON object")
    output = body.get("output")
    if body.get("status") in ("failed", "cancelled") or (body.get("error") and not output):
        raise UpstreamError(failure(body))
    if not isinstance(output, list):
        raise BadUpstream("the answer has no `output`")
    decoder = Decoder(ctx, sent)
    decoder.take("response.completed", {"response": body})
    return fold(decoder._out.take())


def failure(event: Mapping[str, Any]) -> ProviderError:
    """The error of `response.failed`, of an `error` event in either of its forms, or of a failed body."""
    response = event.get("response")
    inner = response if isinstance(response, dict) else event
    error = inner.get("error")
    if isinstance(error, (dict, str)) and error:
        return error_inside({"error": error})
    if event.get("message") or event.get("code"):  # {"type":"error","code","message","param"}
        return error_inside({"error": {k: event.get(k) for k in ("code", "message", "param")}})
    return error_inside({"error": {"message": f"the response was {inner.get('status') or 'not completed'}"}})


def read_usage(usage: Usage, given: Any) -> None:
    """OpenAI's inclusive counts as Anthropic's exclusive ones (DIALECTS 5); keeps the estimate where none are given."""
    if not isinstance(given, dict):
        return
    inputs = given.get("input_tokens_details")
    inputs = inputs if isinstance(inputs, dict) else {}
    outputs = given.get("output_tokens_details")
    outputs = outputs if isinstance(outputs, dict) else {}
    total = given.get("input_tokens", given.get("prompt_tokens"))
    output = given.get("output_tokens", given.get("completion_tokens"))
    if total is None and output is None:
        return
    usage.cache_read = count(inputs.get("cached_tokens"))
    usage.cache_write_5m = count(inputs.get("cache_write_tokens"))
    usage.input = max(0, count(total) - usage.cache_read - usage.cache_write_5m)
    usage.output = count(output)
    if outputs.get("reasoning_tokens") is not None:
        usage.thinking = count(outputs.get("reasoning_tokens"))
    cost = given.get("cost")
    if isinstance(cost, (int, float)) and not isinstance(cost, bool):
        usage.cost_usd = float(cost)
    usage.estimated = False
