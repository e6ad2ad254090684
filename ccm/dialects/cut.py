"""Stop sequences cut here, for providers that take none or not enough of them (`Encoded.cut`).

The model does not stop by itself, so its text is searched as it streams: what could be the beginning of a stop sequence
is held back, never more; the first sequence that completes ends the answer with stop_reason "stop_sequence". Only
answer text counts, not reasoning and not tool arguments, as at Anthropic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ccm.dialects.base import Decoder, Message
from ccm.messages.events import Event


class Cutter:
    """A Decoder around another one. After the cut `finished` is true: the caller may drop the upstream call."""

    def __init__(self, inner: Decoder, stops: Sequence[str]) -> None:
        self._inner = inner
        self._stops = tuple(s for s in stops if s)
        self.usage = inner.usage
        self.finished = False
        self._index = -1  # of the open text block
        self._held = ""

    def feed(self, frame: Any) -> list[Event]:
        """See `Decoder.feed`."""
        return [] if self.finished else self._pass(self._inner.feed(frame))

    def end(self) -> list[Event]:
        """See `Decoder.end`."""
        return [] if self.finished else self._pass(self._inner.end())

    def _pass(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            kind = event["type"]
            if kind == "content_block_delta" and event["delta"]["type"] == "text_delta":
                if self._text(event["index"], event["delta"]["text"], out):
                    return out
                continue
            if kind not in ("ping", "error"):
                self._flush(out)
            out.append(event)
        self.finished = self._inner.finished
        return out

    def _text(self, index: int, text: str, out: list[Event]) -> bool:
        """Passes text on as far as it is safe; True when a stop sequence is whole and the answer has been ended."""
        self._index = index
        data = self._held + text
        hit = first_stop(data, self._stops)
        if hit is None:
            keep = _overlap(data, self._stops)
            self._held = data[len(data) - keep :]
            self._put(data[: len(data) - keep], out)
            return False
        start, stop = hit
        self._held = ""
        self._put(data[:start], out)
        delta = {"stop_reason": "stop_sequence", "stop_sequence": stop}
        out.append({"type": "content_block_stop", "index": index})
        out.append({"type": "message_delta", "delta": delta, "usage": self.usage.to_dict()})
        out.append({"type": "message_stop"})
        self.finished = True
        return True

    def _flush(self, out: list[Event]) -> None:
        held, self._held = self._held, ""
        self._put(held, out)

    def _put(self, text: str, out: list[Event]) -> None:
        if text:
            delta = {"type": "text_delta", "text": text}
            out.append({"type": "content_block_delta", "index": self._index, "delta": delta})


def cut_message(message: Message, stops: Sequence[str]) -> Message:
    """A whole message cut at its first stop sequence; the message itself where it has none."""
    stops = tuple(s for s in stops if s)
    content = message.get("content") or []
    for n, block in enumerate(content):
        if block.get("type") != "text":
            continue
        hit = first_stop(block.get("text") or "", stops)
        if hit is not None:
            start, stop = hit
            kept = [*content[:n], {**block, "text": block["text"][:start]}]
            if not kept[-1]["text"]:
                kept.pop()
            return {**message, "content": kept, "stop_reason": "stop_sequence", "stop_sequence": stop}
    return message


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """(start, sequence) of the stop sequence that is complete first; of two that end together, the longer one."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        at = text.find(stop)
        if at >= 0 and (best is None or (at + len(stop), at) < best[:2]):
            best = (at + len(stop), at, stop)
    return None if best is None else (best[1], best[2])


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a beginning of some stop sequence."""
    longest = 0
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:n]):
                longest = n
                break
    return longest
