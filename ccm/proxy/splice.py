"""Going on with an answer that another provider began (`midstream = "continue"`, RELIABILITY 3.7). Events only, no I/O.

A broken answer may be continued when the client has been given at least 40 characters of text, nothing but text is
open, and no tool was called: only then can the second answer be joined to the first without anything half being
closed. The second provider is shown what was said, is asked to repeat its last words and to go on; what it repeats is
found and cut away. Where the seam cannot be found the stream ends with the error it would have ended with anyway.
"""

from __future__ import annotations

import re
from typing import Any

from ccm.dialects.inbound.base import Renderer
from ccm.errors import UpstreamError
from ccm.messages.events import Event
from ccm.model import FailureKind, ProviderError

LEAST_CHARS = 40
_QUOTED = 40  # of the text, for the second provider to repeat
_TAILS = (40, 32, 24, 16, 12)  # how much of it must be found again, the most first
_START_MOST = 8  # characters that may stand before the repetition ("Sure: ")
_LEAST_OVERLAP = 6
_HELD_MOST = 240
_CHARS_PER_TOKEN = 4
# What providers write differently when they repeat: kinds of quotes, dashes, spaces.
_ALIKE = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "«": '"', "»": '"', "\u00a0": " ", "–": "-", "—": "-"}
)
_SPACE = re.compile(r"\s+")
_ASK = (
    "Your last message was cut off in transit. It ended with these characters:\n\n{tail}\n\n"
    "Repeat exactly these characters first, then go on from there as if nothing had happened. "
    "Do not comment on the interruption, and do not repeat anything else."
)


class Witness:
    """A Renderer that knows what the client has been shown."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.content_type = renderer.content_type
        self._texts: list[str] = []
        self._chars = 0
        self._started = self._tools = self._finished = False
        self.open = ""  # the kind of the open block
        self.index = -1  # of the last block that was begun
        self.usage: dict[str, Any] = {}  # of message_start

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0] if self._texts else ""

    @property
    def tokens(self) -> int:
        """About how many tokens of text the client has been given."""
        return self._chars // _CHARS_PER_TOKEN

    @property
    def resumable(self) -> bool:
        """Whether another answer may be joined to this one."""
        whole = self._started and not self._finished and not self._tools
        return whole and self.open in ("", "text") and self._chars >= LEAST_CHARS

    def render(self, event: Event) -> bytes:
        """Takes note of the event, and has it written."""
        kind = event["type"]
        if kind == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                self._texts.append(delta["text"])
                self._chars += len(delta["text"])
        elif kind == "content_block_start":
            self.open, self.index = event["content_block"]["type"], event["index"]
            self._tools = self._tools or self.open not in ("text", "thinking", "redacted_thinking")
        elif kind == "content_block_stop":
            self.open = ""
        elif kind == "message_start":
            self._started = True
            self.usage = event["message"].get("usage") or {}
        elif kind in ("message_delta", "message_stop"):
            self._finished = True
        return self._renderer.render(event)

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """The last bytes of a stream that broke."""
        return self._renderer.fail(type, message, request_id)

    def alive(self) -> bytes:
        """Something to send while the provider is silent."""
        return self._renderer.alive()


def resumption(body: dict[str, Any], shown: Witness) -> dict[str, Any]:
    """The request that asks for the rest: what was said as the assistant's, and a user's turn that asks to go on (a
    prefilled answer is refused by Claude 4.6 and later). No tool may be forced, and what was said counts."""
    text = shown.text
    tail = text[-_QUOTED:]
    out = {key: value for key, value in body.items() if key != "tool_choice"}
    out["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
        {"role": "user", "content": [{"type": "text", "text": _ASK.format(tail=tail)}]},
    ]
    left = int(body.get("max_tokens") or 0) - shown.tokens
    thinking = body.get("thinking")
    budget = int(thinking.get("budget_tokens") or 0) if isinstance(thinking, dict) else 0
    if left > budget:
        out["max_tokens"] = left
    return out


def seam(before: str, after: str, *, last: bool) -> int | None:
    """Where in `after` the continuation of `before` begins; None: not to be seen (yet, unless `last`).

    First the last characters of `before` are looked for near the beginning of `after`, without minding spaces and kinds
    of quotes; at the end the longest exact overlap of at least six characters will do.
    """
    flat_before, _ = _flatten(before)
    flat, places = _flatten(after)
    for length in _TAILS:
        tail = flat_before[-length:].lstrip()
        if len(tail) < _LEAST_OVERLAP:
            continue
        at = flat.find(tail)
        if 0 <= at <= _START_MOST:
            return places[at + len(tail)]
    if not last:
        return None
    for length in range(min(len(before), len(after)), _LEAST_OVERLAP - 1, -1):
        if before.endswith(after[:length]):
            return length
    return None


def _flatten(text: str) -> tuple[str, list[int]]:
    """The text with runs of white space as one space and quotes alike, and where each character (and the end) was."""
    out: list[str] = []
    places: list[int] = []
    end = 0
    for match in re.finditer(r"\s+|\S", text):
        out.append(" " if match[0].isspace() else match[0].translate(_ALIKE))
        places.append(match.start())
        end = match.end()
    return "".join(out), [*places, end]


class Splice:
    """A Renderer for the second answer: what goes on with the first one is written, the rest is left out.

    Raises UpstreamError where the seam is not found: nothing was written then.
    """

    def __init__(self, shown: Witness, note: bytes, spent: dict[str, int]) -> None:
        self._shown = shown
        self._note = note  # a comment at the seam
        self._spent = spent  # tokens of the first answer, by their names in `usage`
        self._before = shown.text[-_HELD_MOST:]
        self._held = ""
        self._joined = False
        self._map: dict[int, int] = {}
        self._skipped: set[int] = set()
        self._text_index: int | None = None  # the block in which the seam is looked for
        self.content_type = shown.content_type

    def render(self, event: Event) -> bytes:
        """The client's bytes of one event of the second answer; mostly none before the seam."""
        kind = event["type"]
        if kind == "message_start":
            return b""
        if kind == "content_block_start":
            return self._start(event)
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "content_block_stop":
            return self._stop(event)
        if kind == "message_delta":
            if not self._joined:
                raise _lost()
            usage = dict(event.get("usage") or {})
            for name, count in self._spent.items():
                usage[name] = int(usage.get(name) or 0) + count
            return self._shown.render({**event, "usage": usage})
        return self._shown.render(event)

    def _start(self, event: Event) -> bytes:
        index, block = event["index"], event["content_block"]
        if block["type"] in ("thinking", "redacted_thinking"):
            self._skipped.add(index)
            return b""
        if not self._joined:
            if block["type"] != "text" or self._text_index is not None:
                raise _lost()
            self._text_index = index
            self._held = block.get("text") or ""
            return b""
        self._map[index] = self._shown.index + 1
        return self._shown.render({**event, "index": self._map[index]})

    def _delta(self, event: Event) -> bytes:
        index = event["index"]
        if index in self._skipped:
            return b""
        if self._joined or index != self._text_index:
            return self._shown.render({**event, "index": self._map[index]}) if index in self._map else b""
        self._held += event["delta"].get("text") or ""
        return self._join(last=len(self._held) >= _HELD_MOST)

    def _stop(self, event: Event) -> bytes:
        index = event["index"]
        if index in self._skipped:
            return b""
        out = b"" if self._joined else self._join(last=True)
        mapped = self._map.get(index)
        return out if mapped is None else out + self._shown.render({**event, "index": mapped})

    def _join(self, last: bool) -> bytes:
        at = seam(self._before, self._held, last=last)
        if at is None:
            if last:
                raise _lost()
            return b""
        self._joined = True
        shown, out = self._shown, [self._note]
        if shown.open != "text":
            start = {"type": "content_block_start", "index": shown.index + 1}
            out.append(shown.render({**start, "content_block": {"type": "text", "text": ""}}))
        assert self._text_index is not None
        self._map[self._text_index] = shown.index
        rest, self._held = self._held[at:], ""
        if rest:
            delta = {"type": "text_delta", "text": rest}
            out.append(shown.render({"type": "content_block_delta", "index": shown.index, "delta": delta}))
        return b"".join(out)

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """The last bytes of a stream that broke twice."""
        return self._shown.fail(type, message, request_id)

    def alive(self) -> bytes:
        """Something to send while the provider is silent."""
        return self._shown.alive()


def _lost() -> UpstreamError:
    text = "the answer could not be continued: the second provider did not go on where the first had ended"
    return UpstreamError(ProviderError(0, "api_error", text, kind=FailureKind.BROKEN))
