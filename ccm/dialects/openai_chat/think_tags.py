"""Splits `<think>...</think>` at the start of answer text off as reasoning: for servers without a reasoning parser.

Only for routes with the quirk `think_tags`: elsewhere such text is the model's own words.
"""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


class Splitter:
    """Push splitter: text in, (kind, text) pieces out; any cut of the text gives the same joined pieces.

    States: "start" (nothing but white space so far) -> "thinking" -> "text"; only the start may hold the tag.
    """

    def __init__(self) -> None:
        self._state = "start"
        self._held = ""

    def feed(self, text: str) -> list[tuple[str, str]]:
        """The pieces that are certain; kind is "thinking" or "text"."""
        data, self._held = self._held + text, ""
        out: list[tuple[str, str]] = []
        if self._state == "start":
            body = data.lstrip()
            if body.startswith(_OPEN):
                self._state, data = "thinking", body[len(_OPEN) :].lstrip("\n")
            elif _OPEN.startswith(body):
                self._held = data
                return out
            else:
                self._state = "text"
        if self._state == "thinking":
            thought, found, rest = data.partition(_CLOSE)
            if not found:
                keep = _overlap(data)
                self._held = data[len(data) - keep :]
                thought = data[: len(data) - keep]
            if thought:
                out.append(("thinking", thought))
            if not found:
                return out
            self._state, data = "after", rest
        if self._state == "after":  # the blank lines between reasoning and answer belong to neither
            data = data.lstrip()
            if not data:
                return out
            self._state = "text"
        if data:
            out.append(("text", data))
        return out

    def end(self) -> list[tuple[str, str]]:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [("thinking" if self._state == "thinking" else "text", held)]


def _overlap(text: str) -> int:
    """Length of the longest end of `text` that begins the closing tag."""
    return next((n for n in range(min(len(_CLOSE) - 1, len(text)), 0, -1) if text.endswith(_CLOSE[:n])), 0)
