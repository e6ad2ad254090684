"""JSON of requests, read and written with regard to what repeats: Claude Code sends the same 20 to 70 KB of tools with
every turn. Tools that were seen a moment ago are not parsed, translated or written again.

`loads` says what `json.loads` says (but for numbers that are none), `dumps` what `json.dumps` does, for every input; tests hold them against each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
_SHARED_KEY = "tools"
_LEAST = 2_000  # characters below which parsing again costs less than remembering
_MOST = 500_000
_KEPT = 8  # lists of tools at once: main loop, subagents, another client
_KEPT_CHARACTERS = 1_000_000
# Where shared lists stand in a body: tools, tools[0].functionDeclarations, toolConfig.tools.
_DEEP = 3
_FEW = 3
_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")


class NotAnObject(ValueError):
    """A constant that JSON does not have."""


class Shared(list[Any]):
    """A list that many requests have in common: nobody may change it, nor what is in it. What was derived from it is
    kept with it, and so is its JSON."""

    __slots__ = ("_derived", "_json")

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self._derived: dict[Hashable, Any] = {}
        self._json = ""

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned for this key the first time (two threads may both make it, to the same end)."""
        found = self._derived.get(key)
        if found is None:
            if len(self._derived) >= 32:  # so many ways out no configuration has
                self._derived.clear()
            found = self._derived[key] = make()
        return found

    @property
    def json(self) -> str:
        """Compact JSON in ASCII, written once."""
        if not self._json:
            self._json = _encode(list(self))
        return self._json


def derive(value: Any, key: Hashable, make: Callable[[], T]) -> T:
    """`value.derive(...)` where it is shared, else just made."""
    return value.derive(key, make) if isinstance(value, Shared) else make()


def _constant(name: str) -> NoReturn:
    raise NotAnObject(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:
        raise NotAnObject(f"{text[:20]} is beyond what a number can be")  # it would go on as Infinity
    return number


_decoder = json.JSONDecoder(parse_constant=_constant, parse_float=_finite)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]
_string: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]
_encode = json.JSONEncoder(separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii
_kept: tuple[tuple[str, Shared], ...] = ()  # (text, list), the latest first; swapped whole


def loads(text: str) -> Any:
    """The document, as `json.loads` reads it but without NaN and Infinity, however they are written. A long list of tools that was here before
    comes back as the very same `Shared` list. Raises ValueError, RecursionError."""
    at = _SPACE.match(text).end()  # type: ignore[union-attr]  # matches anything
    if text[at : at + 1] != "{":
        return _decoder.decode(text)
    found = _members(text, at + 1)
    return _decoder.decode(text) if found is None else found


def _members(text: str, at: int) -> dict[str, Any] | None:
    """The object's members from `at` on; None where this is not JSON: the decoder finds the words for it."""
    out: dict[str, Any] = {}
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    try:
        while text[at] == '"':
            key, at = _string(text, at + 1, True)
            colon = _COLON.match(text, at)
            if colon is None:
                return None
            at = colon.end()
            out[key], at = _tools(text, at) if key == _SHARED_KEY else _scan(text, at)
            following = _NEXT.match(text, at)
            if following is None:
                return None
            at = following.end()
            if following[1] == "}":
                return out if at == len(text) else None
    except (ValueError, IndexError, StopIteration):
        pass
    return None


def _tools(text: str, at: int) -> tuple[Any, int]:
    global _kept  # noqa: PLW0603 - one tuple, swapped whole: no lock, a lost update costs one parse
    kept = _kept
    for entry in kept:
        known, value = entry
        size = len(known)
        # A list that begins with this text is this list: its last character closes it.
        if text.startswith(known[:64], at) and text[at : at + size] == known:
            if entry is not kept[0]:
                _kept = (entry, *(other for other in kept if other is not entry))
            return value, at + size
    value, end = _scan(text, at)
    if type(value) is not list or not _LEAST <= end - at <= _MOST:
        return value, end
    shared = Shared(value)
    rest = [(text[at:end], shared)]
    size = end - at
    for entry in kept[: _KEPT - 1]:
        size += len(entry[0])
        if size > _KEPT_CHARACTERS:
            break
        rest.append(entry)
    _kept = tuple(rest)
    return shared, end


def dumps(body: Any) -> bytes:
    """Compact JSON in ASCII, as `json.dumps(body, separators=(",", ":"))` writes it. Shared lists near the top are
    written once in their life."""
    return _text(body, _DEEP).encode()


def _text(value: Any, deep: int) -> str:
    kind = type(value)
    if kind is Shared:
        return str(value.json)
    if deep and kind is dict and all(type(key) is str for key in value):
        members = [f"{_quote(key)}:{_text(inner, deep - 1)}" for key, inner in value.items()]
        return f"{{{','.join(members)}}}"
    if deep and kind is list and len(value) <= _FEW:
        return f"[{','.join([_text(inner, deep - 1) for inner in value])}]"
    return _encode(value)


_scan_any: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def event(data: bytes) -> Any:
    """`json.loads(data)` for the small documents of a stream, without its detours (4.0 -> 2.4 us for a chunk of 300
    bytes). Raises ValueError."""
    try:
        try:
            text = str(data, "utf-8")
            value, end = _scan_any(text, 0)
        except (UnicodeDecodeError, StopIteration):
            return json.loads(data)
        return value if end == len(text) else json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
