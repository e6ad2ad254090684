"""Bytes as decisions: what the fuzzer mutates is a program that spoils sound documents, so that most inputs get past
the JSON parser and into the code behind it. The same bytes always make the same document."""

from __future__ import annotations

import json
import marshal
from typing import Any

DEEP = 1200  # beyond the interpreter's recursion limit
_WORDS = (
    "", " ", "a", "x" * 3000, "\x00", "\ud800", "é\u2028", "data: x\n\n", "\r\nset-cookie: a", "claude-x", "user", "assistant",
    "tool", "system", "text", "image", "tool_use", "tool_result", "thinking", "function", "object", "array", "string",
    "null", "[DONE]", "{", "{}", "[1", '{"a": 1}', "ccm1.YQ.YQ", "data:image/png;base64,AAAA", "https://x/y", "-1", "1e999",
    "NaN", "#/$defs/a", "#", "#/properties/a", "call_1", "toolu_1", "stop", "end_turn", "length", "STOP", "type", "id",
    "name", "index", "content", "error",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 2**31, 2**53, -(2**63), 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"))


class Dice:
    """Reads bytes as numbers; past their end every number is 0."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return max(0, len(self.data) - self.at)

    def byte(self) -> int:
        """0..255."""
        at, self.at = self.at, self.at + 1
        return self.data[at] if at < len(self.data) else 0

    def below(self, bound: int) -> int:
        """0..bound-1."""
        number = self.byte() if bound <= 256 else self.byte() << 8 | self.byte()
        return number % bound if bound else 0

    def of(self, things: Any) -> Any:
        """One of a sequence."""
        return things[self.below(len(things))]

    def rest(self) -> bytes:
        """All that was not read."""
        at, self.at = self.at, len(self.data)
        return self.data[at:]

    def cuts(self, data: bytes) -> list[bytes]:
        """The bytes in pieces; the sizes are read first."""
        pieces, at = [], 0
        for _ in range(self.below(9)):
            size = self.below(40) or self.below(len(data) + 1)
            pieces.append(data[at : at + size])
            at += size
        return [*pieces, data[at:]]


def value(dice: Dice, depth: int = 0) -> Any:
    """An odd value."""
    kind = dice.below(12)
    if kind < 4:
        return dice.of(_WORDS)
    if kind < 6:
        return dice.of(_NUMBERS)
    if kind == 6:
        return dice.of((None, True, False))
    if kind == 7:
        return dice.below(65536)
    if kind == 8 and depth < 3:
        return [value(dice, depth + 1) for _ in range(dice.below(4))]
    if kind == 9 and depth < 3:
        return {dice.of(_WORDS): value(dice, depth + 1) for _ in range(dice.below(4))}
    if kind == 10:
        return dice.of(({}, [], [[]], [{}], {"type": "text"}, {"type": 1}, [None]))
    if dice.byte() == 255:  # rarely: it is slow
        deep: Any = "x"
        for _ in range(DEEP):
            deep = [deep] if kind % 2 else {"a": deep}
        return deep
    return dice.of(_WORDS)


def _places(document: Any, found: list[tuple[Any, Any]], most: int = 400) -> None:
    todo = [document]
    while todo and len(found) < most:
        node = todo.pop()
        if type(node) is dict:
            found += [(node, key) for key in node]
            todo += [inner for inner in node.values() if type(inner) is dict or type(inner) is list]
        elif type(node) is list:
            found += [(node, key) for key in range(len(node))]
            todo += [inner for inner in node if type(inner) is dict or type(inner) is list]


def _copied(document: Any) -> Any:
    """A deep copy, ten times as fast as `copy.deepcopy`. Raises ValueError for a deep value."""
    return marshal.loads(marshal.dumps(document))


def spoil(document: Any, dice: Dice) -> Any:
    """A changed copy of the document: values replaced, dropped, doubled, moved to another place, keys renamed."""
    try:
        return _spoiled(_copied(document), dice)
    except (RecursionError, ValueError):  # a deep value was to be copied
        return document


def _spoiled(document: Any, dice: Dice) -> Any:
    for _ in range(dice.below(5)):
        found: list[tuple[Any, Any]] = []
        _places(document, found)
        if not found:
            return value(dice)
        holder, key = found[dice.below(len(found))]
        move = dice.below(8)
        if move < 4:
            holder[key] = value(dice)
        elif move == 4:
            del holder[key]
        elif move == 5 and isinstance(holder, list):
            holder.insert(dice.below(len(holder) + 1), _copied(holder[key]))
        elif move == 6:
            other, name = found[dice.below(len(found))]
            inner = _copied(holder[key])
            other[name if isinstance(other, dict) else min(name, len(other) - 1)] = inner
        elif isinstance(holder, dict):
            holder[dice.of(_WORDS)] = holder.pop(key)
    return document


def dumps(document: Any) -> bytes:
    """JSON as a careless peer writes it: NaN, lone surrogates and all. Too deep a document becomes brackets."""
    try:
        return json.dumps(document, separators=(",", ":")).replace("Infinity", "1e999").encode()
    except RecursionError:
        return b"[" * 20_000


def bent(data: bytes, dice: Dice) -> bytes:
    """The bytes with a few of them changed."""
    out = bytearray(data)
    for _ in range(dice.below(4)):
        at = dice.below(len(out) + 1)
        how = dice.below(4)
        if how == 0:
            out[at : at + 1] = bytes([dice.byte()])
        elif how == 1:
            del out[at : at + 1 + dice.below(30)]
        elif how == 2:
            out[at:at] = out[at : at + 1 + dice.below(60)]
        else:
            out[at:at] = dice.of(
                (
                    b"\r\n",
                    b"\n",
                    b"\r",
                    b"\x00",
                    b" ",
                    b":",
                    b"0",
                    b"\xff",
                    b"\r\n\r\n",
                    b"\t",
                    b"\xe2\x80\xa8",
                )
            )
    return bytes(out)
