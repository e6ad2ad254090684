"""The free text of a custom tool call, read out of the JSON that carries it while that is still arriving.

A custom tool goes to the model as a function with one argument, `{"input": "..."}`. Its client wants the text itself,
and as it comes: a patch of some hundred lines should not wait for its end.
"""

from __future__ import annotations

import json
import re

_BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_CLOSING = re.compile(r'(?:[^"\\]|\\.)*?"', re.DOTALL)
# what may be the first part of an escape: a backslash, a \u with less than four digits, half of a surrogate pair
_UNFINISHED = re.compile(
    r"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?|\\(?:u[0-9a-fA-F]{0,3})?)\Z"
)


class FreeText:
    """Feed it fragments of the JSON; it returns the text that became certain. `end` gives what is missing."""

    def __init__(self) -> None:
        self.text = ""  # everything given out
        self._json: list[str] = []
        self._held = ""
        self._state = "before"  # before | inside | after

    def feed(self, fragment: str) -> str:
        """The text that this fragment completes ("" for none)."""
        self._json.append(fragment)
        if self._state == "after":
            return ""
        self._held += fragment
        if self._state == "before":
            match = _BEGIN.match(self._held)
            if match is None:
                return ""
            self._held = self._held[match.end() :]
            self._state = "inside"
        closing = _CLOSING.match(self._held)
        if closing is not None:
            piece, self._held, self._state = closing[0][:-1], "", "after"
        else:
            piece, self._held = _split(self._held)
        return self._give(piece)

    def end(self) -> tuple[str, str]:
        """(what was not given out yet, the whole text). Arguments of another shape are the text as they are."""
        raw = "".join(self._json)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            whole = self.text or raw
        else:
            given = value.get("input") if isinstance(value, dict) else None
            whole = given if isinstance(given, str) else ("" if value == {} else raw)
        if not whole.startswith(self.text):  # a second "input" in the same object: what was sent stands
            whole = self.text
        rest, self.text = whole[len(self.text) :], whole
        return rest, whole

    def _give(self, piece: str) -> str:
        if not piece:
            return ""
        try:
            text = str(json.loads(f'"{piece}"', strict=False))
        except ValueError:  # no JSON after all: the end decides what it is
            self._state = "after"
            return ""
        self.text += text
        return text


def _split(held: str) -> tuple[str, str]:
    """(what can be decoded already, what may be half an escape). Backslashes pair from the left."""
    match = _UNFINISHED.search(held)
    while match is not None:
        start = match.start()
        run = start - len(held[:start].rstrip("\\"))
        if run % 2 == 0:
            return held[:start], held[start:]
        match = _UNFINISHED.search(held, start + 1)  # that backslash is itself escaped
    return held, ""
