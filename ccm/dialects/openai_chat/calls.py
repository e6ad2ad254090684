"""Tool calls of an OpenAI-compatible answer: whose delta is it?

The API numbers calls by `index` and names each by `id` once. In the wild the index is missing (Mistral), is 0 for all
(proxies), the id is empty or comes again with every piece, the name comes later or twice, arguments are null, or a
whole call comes in one delta (REQUIREMENTS R2). Nothing is dropped: a call whose name never comes still comes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Encoded
from ccm.dialects.openai_chat.ids import inward
from ccm.messages.blocks import BlockWriter
from ccm.shape import dataclass, field


@dataclass(slots=True, eq=False)
class _Call:
    number: int
    index: int | None
    id: str = ""
    name: str = ""
    opened: bool = False
    extra: dict[str, Any] | None = None  # extra_content: Google's thought signature of this call
    json: list[str] = field(default_factory=list)

    def whole(self) -> bool:
        """Whether the arguments are complete JSON already."""
        try:
            json.loads("".join(self.json))
        except (ValueError, RecursionError):
            return False
        return True


class Calls:
    """Assigns tool-call deltas to calls and writes them; `flush` at the end of the answer."""

    def __init__(
        self,
        writer: BlockWriter,
        sent: Encoded,
        new_id: Callable[[str], str],
        sign: Callable[[dict[str, Any]], str],
    ) -> None:
        self._writer = writer
        self._sign = sign
        self._names = sent.names
        self._only = _only_tool(sent)
        self._new_id = new_id
        self._calls: list[_Call] = []
        self._taken = set(sent.seen_ids)

    def delta(self, delta: Mapping[str, Any], place: int) -> int:
        """Takes one entry of `tool_calls`, the `place`-th of its delta; returns the bytes of arguments in it."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        custom = delta.get("custom")
        if isinstance(custom, dict) and not function:  # a custom tool: free text instead of JSON
            function = {
                "name": custom.get("name"),
                "arguments": json.dumps({"input": custom.get("input") or ""}),
            }
        index = delta.get("index")
        extra = delta.get("extra_content")
        return self._take(
            index if isinstance(index, int) and not isinstance(index, bool) else None,
            _text(delta.get("id")),
            _text(function.get("name")),
            _arguments(function.get("arguments")),
            place,
            extra if isinstance(extra, dict) and extra else None,
        )

    def legacy(self, call: Mapping[str, Any]) -> int:
        """Takes a `function_call` (the API before tools): there is only one per answer."""
        return self._take(-1, "", _text(call.get("name")), _arguments(call.get("arguments")), 0)

    def flush(self) -> None:
        """The answer ended: what still waits for a name goes out under the only one it can have."""
        for call in self._calls:
            if not call.opened and (call.json or call.id):
                call.name = call.name or self._only or "unknown_tool"
                self._open(call)

    def _take(
        self,
        index: int | None,
        id: str,
        name: str,
        arguments: str,
        place: int,
        extra: dict[str, Any] | None = None,
    ) -> int:
        call = self._find(index, id, name, arguments, place)
        if call is None:
            call = _Call(len(self._calls), index, id)
            self._calls.append(call)
        if id and not call.id:
            call.id = id
        if name and not call.name:
            call.name = name
        call.extra = call.extra or extra
        if arguments:
            call.json.append(arguments)
        if call.opened:
            self._writer.tool_json(call.number, arguments)
        elif call.name:
            self._open(call)
        return len(arguments.encode("utf-8", "replace"))

    def _find(self, index: int | None, id: str, name: str, arguments: str, place: int) -> _Call | None:
        """The call that a delta continues; None for a new one."""
        if index is not None:
            same = [c for c in self._calls if c.index == index]
            if id:
                exact = next((c for c in same if c.id == id), None)
                if exact is not None:
                    return exact
                last = same[-1] if same else None
                return last if last is not None and not last.id and not (name and last.name) else None
            last = same[-1] if same else None
            return None if last is None or _another(last, name, arguments) else last
        if id:
            return next((c for c in self._calls if c.id == id), None)
        if not self._calls:
            return None
        if name:  # neither index nor id: a name begins a call, unless it only repeats that of an open one
            last = self._calls[-1]
            return None if last.name and (last.name != name or _another(last, name, arguments)) else last
        return self._calls[place] if place and place < len(self._calls) else self._calls[-1]

    def _open(self, call: _Call) -> None:
        id = inward(call.id, self._taken, self._new_id)
        self._taken.add(id)
        call.opened = True
        if (
            call.extra
        ):  # an empty thinking block directly before the call is what carries it (DIALECTS 7, rule 1)
            self._writer.signature(self._sign({"x": call.extra}))
        self._writer.tool(call.number, id, self._names.get(call.name, call.name))
        for piece in call.json:
            self._writer.tool_json(call.number, piece)


def _another(last: _Call, name: str, arguments: str) -> bool:
    """Whether a named delta under the same number, without an id, must be a new call: the old one is whole."""
    return bool(name and arguments.strip() and last.json and last.whole())


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """Arguments as the text they should be; some proxies send the object itself."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else ""


def _only_tool(sent: Encoded) -> str:
    """The name of the only tool that was offered, or ""."""
    tools = sent.body.get("tools")
    if not isinstance(tools, list) or len(tools) != 1:
        return ""
    function = tools[0].get("function")
    return str(function.get("name") or "") if isinstance(function, dict) else ""
