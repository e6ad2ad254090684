"""What each output item of a response becomes: text, thinking with its state, a tool call, a web search (DIALECTS 4).

An item is told three times over: in its deltas, in the `.done` of its parts, and whole in `output_item.done`. Whatever
comes first is written, the later tellings only add what was missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.names import anthropic_id
from ccm.dialects.state import wrap
from ccm.messages.blocks import BlockWriter

TOOL_TYPES = frozenset(("function_call", "custom_tool_call"))
_TOLD = ("message", "reasoning", *TOOL_TYPES)  # items that come in pieces


class Item:
    """One output item under way. `done`: nothing more is to come. `may_close`: its content is whole, though its end was
    not told, so what follows need not wait for that."""

    __slots__ = ("cited", "done", "id", "key", "kind", "may_close", "parts", "started")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.id: Any = None
        self.kind = ""
        self.started = False
        self.done = False
        self.may_close = False
        self.parts: dict[tuple[str, int], list[str]] = {}  # what was written of each part
        self.cited: set[tuple[Any, ...]] = set()  # citations written: they are told twice

    @property
    def aside(self) -> bool:
        """Whether it has no text of its own (searches, hosted tools): nothing has to wait for it."""
        return self.kind not in ("", *_TOLD)

    def text(self, part: tuple[str, int]) -> str:
        """What was written of a part."""
        return "".join(self.parts.get(part, ()))


class ItemWriter:
    """Writes items into the blocks of one message."""

    def __init__(self, out: BlockWriter, ctx: Context, sent: Encoded) -> None:
        self._out = out
        self._ctx = ctx
        self._names = sent.names
        self._used = set(sent.seen_ids)  # tool ids that an answer must not use again
        self._calls: set[str] = set()
        # A phase is worth carrying where the conversation goes on: in one with tools.
        self._agentic = bool(sent.body.get("tools"))
        # State of the last reasoning item: its signature waits for the phase of the message behind it.
        self._state: dict[str, Any] | None = None
        self._refusal = ""
        self._searches: list[dict[str, Any]] = []  # searches whose sources only the citations will tell
        self._cited: dict[str, str] = {}  # url -> title

    def has_call(self, call_id: str) -> bool:
        """Whether this tool call was written."""
        return call_id in self._calls

    def take(self, item: Item, kind: str, event: Mapping[str, Any]) -> None:
        """One event of an item."""
        if kind == "response.output_item.added":
            self._start(item, _object(event.get("item")))
        elif kind == "response.output_item.done":
            self.whole(item, _object(event.get("item")))
        else:
            handler = HANDLERS.get(kind)
            if handler is not None:
                handler(self, item, event)

    def whole(self, item: Item, given: Mapping[str, Any]) -> None:
        """`output_item.done`, or an item of an answer that was not streamed: adds what is missing and closes it."""
        if item.done:
            return
        if not item.kind:
            item.kind = str(given.get("type") or "")
        finish = _WHOLE.get(item.kind)
        if finish is not None:
            finish(self, item, given)
        self.close(item)

    def close(self, item: Item) -> None:
        """Nothing more comes of this item."""
        if item.done:
            return
        item.done = True
        if item.kind in TOOL_TYPES and item.started:
            if item.kind == "custom_tool_call":
                self._out.tool_json(item.key, '"}')
            self._out.tool_end(item.key)
        elif item.kind == "message":
            self._out.close()
        elif item.kind == "reasoning" and item.started and self._state is None:
            self._state = _state_of(item, {"id": item.id})

    def finish(self, response: Mapping[str, Any]) -> None:
        """The end of the answer."""
        from_response = stop_of(response)
        self._flush()
        for search in self._searches:
            self._search_blocks(search, [{"url": url} for url in self._cited])
        if self._refusal:
            details = {"type": "refusal", "category": None, "explanation": self._refusal}
            self._out.finish("refusal", None, details)
        else:
            self._out.finish(from_response)

    # ---------------------------------------------------------------- start

    def _start(self, item: Item, given: Mapping[str, Any]) -> None:
        item.kind = str(given.get("type") or "")
        item.id = given.get("id")
        if item.kind == "message":
            self._message(item, given)
        elif item.kind in TOOL_TYPES and given.get("call_id") and given.get("name"):
            self._tool(item, given)

    def _message(self, item: Item, given: Mapping[str, Any]) -> None:
        """The first word of a message: its phase goes into the state before it."""
        item.kind = "message"
        if item.started:
            return
        item.started = True
        phase = given.get("phase")
        if isinstance(phase, str) and phase:
            if self._state is None and self._agentic:
                self._state = {}
            if self._state is not None:
                self._state["phase"] = phase
        self._flush()

    def _tool(self, item: Item, given: Mapping[str, Any]) -> None:
        if item.started:
            return
        self._flush()
        item.started = True
        call_id = str(given.get("call_id") or given.get("id") or "")
        self._calls.add(call_id)
        name = str(given.get("name") or "")
        self._out.tool(item.key, self._id(call_id), self._names.get(name, name))
        if item.kind == "custom_tool_call":
            self._out.tool_json(item.key, '{"input":"')

    def _id(self, call_id: str) -> str:
        """The call's id as the client gets it: the provider's own, unless this conversation has had it already."""
        id = anthropic_id(call_id) if call_id else ""
        if not id or id in self._used:
            id = self._ctx.new_id("toolu_")
        self._used.add(id)
        return id

    def _flush(self) -> None:
        """Writes the state that waits."""
        state, self._state = self._state, None
        if state is not None:
            self._out.signature(wrap(self._ctx.family, state))

    # ---------------------------------------------------------------- parts

    def _grow(self, item: Item, part: tuple[str, int], text: Any, write: Callable[[str], None]) -> None:
        """A delta."""
        if isinstance(text, str) and text:
            item.parts.setdefault(part, []).append(text)
            write(text)

    def _fill(self, item: Item, part: tuple[str, int], text: Any, write: Callable[[str], None]) -> None:
        """A part told whole: what its deltas left out. Where both differ, the deltas stand: they were sent."""
        if not isinstance(text, str):
            return
        had = item.text(part)
        if len(text) > len(had) and text.startswith(had):
            item.parts.setdefault(part, []).append(text[len(had) :])
            write(text[len(had) :])

    def _text(self, item: Item, event: Mapping[str, Any]) -> None:
        self._message(item, {})
        self._grow(item, ("text", _index(event)), event.get("delta"), self._out.text)

    def _text_done(self, item: Item, event: Mapping[str, Any]) -> None:
        self._message(item, {})
        self._fill(item, ("text", _index(event)), event.get("text"), self._out.text)

    def _refused(self, item: Item, event: Mapping[str, Any]) -> None:
        self._message(item, {})
        self._grow(item, ("refusal", _index(event)), event.get("delta"), self._refuse)

    def _refused_done(self, item: Item, event: Mapping[str, Any]) -> None:
        self._message(item, {})
        self._fill(item, ("refusal", _index(event)), event.get("refusal"), self._refuse)

    def _refuse(self, text: str) -> None:
        self._refusal += text
        self._out.text(text)

    def _annotation(self, item: Item, event: Mapping[str, Any]) -> None:
        self._cite(item, _object(event.get("annotation")), item.text(("text", _index(event))))

    def _cite(self, item: Item, given: Mapping[str, Any], text: str) -> None:
        url = given.get("url")
        if given.get("type") != "url_citation" or not isinstance(url, str) or not url:
            return
        start, end = given.get("start_index"), given.get("end_index")
        mark = (url, str(start), str(end))
        if mark in item.cited:
            return
        item.cited.add(mark)
        title = given.get("title")
        self._cited.setdefault(url, title if isinstance(title, str) and title else url)
        cited = (
            text[start:end] if isinstance(start, int) and isinstance(end, int) and 0 <= start < end else ""
        )
        self._out.cite(
            {
                "type": "web_search_result_location",
                "url": url,
                "title": self._cited[url],
                "encrypted_index": "",
                "cited_text": cited,
            }
        )

    def _reason(self, item: Item, event: Mapping[str, Any], part: str) -> None:
        self._reasoning_part(item, (part, _index(event)), event.get("delta"), self._grow)

    def _reason_done(self, item: Item, event: Mapping[str, Any], part: str) -> None:
        self._reasoning_part(item, (part, _index(event)), event.get("text"), self._fill)
        # The reasoning of open models has no encrypted copy to wait for; OpenRouter ends such items after the message.
        item.may_close = part == "content"

    def _reasoning_part(
        self,
        item: Item,
        part: tuple[str, int],
        text: Any,
        add: Callable[[Item, tuple[str, int], Any, Callable[[str], None]], None],
    ) -> None:
        """A piece of a summary or of the reasoning itself. Where an item has both, the one that came first is shown."""
        item.kind = "reasoning"
        if not isinstance(text, str) or not text:
            return
        if any(kind != part[0] for kind, _ in item.parts):
            return
        if not item.started:
            self._flush()
            item.started = True
        elif part not in item.parts:
            self._out.thinking("\n\n")
        item.may_close = False
        add(item, part, text, self._out.thinking)

    def _arguments(self, item: Item, event: Mapping[str, Any]) -> None:
        if self._named(item, event):
            self._grow(item, ("json", 0), event.get("delta"), self._json(item))

    def _arguments_done(self, item: Item, event: Mapping[str, Any]) -> None:
        if self._named(item, event):
            self._fill(item, ("json", 0), event.get("arguments", event.get("input")), self._json(item))
            item.may_close = True

    def _named(self, item: Item, event: Mapping[str, Any]) -> bool:
        """Whether the call has its name. Without one the whole item at the end tells everything."""
        if not item.started and item.kind in TOOL_TYPES and event.get("name") and event.get("call_id"):
            self._tool(item, event)
        return item.started and item.kind in TOOL_TYPES

    def _json(self, item: Item) -> Callable[[str], None]:
        if item.kind == "custom_tool_call":  # free text, which a tool_use carries as {"input": "..."}
            return lambda text: self._out.tool_json(item.key, json.dumps(text, ensure_ascii=False)[1:-1])
        return lambda text: self._out.tool_json(item.key, text)

    # ---------------------------------------------------------------- whole items

    def _message_whole(self, item: Item, given: Mapping[str, Any]) -> None:
        self._message(item, given)
        for n, part in enumerate(_list(given.get("content"))):
            if part.get("type") == "refusal":
                self._fill(item, ("refusal", n), part.get("refusal"), self._refuse)
                continue
            self._fill(item, ("text", n), part.get("text"), self._out.text)
            for annotation in _list(part.get("annotations")):
                self._cite(item, annotation, str(part.get("text") or ""))

    def _tool_whole(self, item: Item, given: Mapping[str, Any]) -> None:
        self._tool(item, given)
        whole = given.get("arguments") if item.kind == "function_call" else given.get("input")
        if isinstance(whole, (dict, list)):  # some relays parse the arguments
            whole = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        self._fill(item, ("json", 0), whole, self._json(item))

    def _reasoning_whole(self, item: Item, given: Mapping[str, Any]) -> None:
        parts = [("summary", n, p) for n, p in enumerate(_list(given.get("summary")))]
        parts += [("content", n, p) for n, p in enumerate(_list(given.get("content")))]
        for kind, n, part in parts:
            self._reasoning_part(item, (kind, n), part.get("text"), self._fill)
        state = _state_of(item, given)
        if item.started or "enc" in state:
            if not item.started:
                self._flush()
            self._state = state
            item.started = True

    def _web_search(self, item: Item, given: Mapping[str, Any]) -> None:
        action = _object(given.get("action"))
        if action.get("type", "search") != "search" or given.get("status") == "failed":
            return
        queries = [q for q in (action.get("query"), *_strings(action.get("queries"))) if isinstance(q, str)]
        search = {"query": next((q for q in queries if q), "")}
        self._out.usage.web_searches += 1
        sources = [s for s in _list(action.get("sources")) if isinstance(s.get("url"), str)]
        if sources:
            self._flush()
            self._search_blocks(search, sources)
        else:
            self._searches.append(search)

    def _search_blocks(self, search: dict[str, Any], sources: list[Any]) -> None:
        """A search and what it found, as Anthropic's own server tool shows them."""
        id = self._ctx.new_id("srvtoolu_")
        self._out.block({"type": "server_tool_use", "id": id, "name": "web_search", "input": search})
        found = [
            {
                "type": "web_search_result",
                "url": source["url"],
                "title": source.get("title") or self._cited.get(source["url"]) or source["url"],
                "encrypted_content": "",
                "page_age": None,
            }
            for source in sources
        ]
        self._out.block({"type": "web_search_tool_result", "tool_use_id": id, "content": found})


def _state_of(item: Item, given: Mapping[str, Any]) -> dict[str, Any]:
    """What has to come back of a reasoning item. The text itself comes back in the thinking block: only its cuts are kept."""
    state: dict[str, Any] = {}
    encrypted = given.get("encrypted_content")
    shown = [(kind, sum(map(len, texts))) for (kind, _), texts in item.parts.items()]
    if isinstance(encrypted, str) and encrypted:
        state["enc"] = encrypted
    elif shown and shown[0][0] == "content" and isinstance(given.get("id"), str):
        state["id"] = given["id"]
    if shown and shown[0][0] == "content":
        state["in"] = "content"
    if len(shown) > 1:
        state["cuts"] = [length for _, length in shown]
    return state


def stop_of(response: Mapping[str, Any]) -> str | None:
    """Anthropic's stop reason where the response names one; None = what the blocks say."""
    details = _object(response.get("incomplete_details"))
    reason = details.get("reason")
    if isinstance(reason, str):
        return _STOPS.get(reason, "max_tokens")
    return "max_tokens" if response.get("status") == "incomplete" else None


_STOPS = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}
HANDLERS: dict[str, Callable[[ItemWriter, Item, Mapping[str, Any]], None]] = {
    "response.output_text.delta": ItemWriter._text,
    "response.output_text.done": ItemWriter._text_done,
    "response.refusal.delta": ItemWriter._refused,
    "response.refusal.done": ItemWriter._refused_done,
    "response.output_text.annotation.added": ItemWriter._annotation,
    "response.reasoning_summary_text.delta": lambda w, i, e: w._reason(i, e, "summary"),
    "response.reasoning_summary_text.done": lambda w, i, e: w._reason_done(i, e, "summary"),
    "response.reasoning_text.delta": lambda w, i, e: w._reason(i, e, "content"),
    "response.reasoning_text.done": lambda w, i, e: w._reason_done(i, e, "content"),
    "response.function_call_arguments.delta": ItemWriter._arguments,
    "response.function_call_arguments.done": ItemWriter._arguments_done,
    "response.custom_tool_call_input.delta": ItemWriter._arguments,
    "response.custom_tool_call_input.done": ItemWriter._arguments_done,
}
_WHOLE: dict[str, Callable[[ItemWriter, Item, Mapping[str, Any]], None]] = {
    "message": ItemWriter._message_whole,
    "reasoning": ItemWriter._reasoning_whole,
    "function_call": ItemWriter._tool_whole,
    "custom_tool_call": ItemWriter._tool_whole,
    "web_search_call": ItemWriter._web_search,
}


def _index(event: Mapping[str, Any]) -> int:
    for key in ("summary_index", "content_index"):
        if isinstance(event.get(key), int):
            return int(event[key])
    return 0


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _strings(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
