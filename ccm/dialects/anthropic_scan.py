"""Follows a Messages stream that is relayed as bytes: framing, usage, the end, errors; without decoding each event.

Until the first content event every event is parsed: there the caller can still fall back to the decoder when the
grammar is `irregular`. After it only the few events that are no deltas are looked at; a delta costs two counts and a
regular-expression step over its bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ccm.dialects.errors import error_inside
from ccm.errors import BadUpstream
from ccm.messages.events import is_content
from ccm.messages.tokens import Usage
from ccm.model import ProviderError
from ccm.wire.sse import MAX_EVENT_BYTES, Frame, Framer

_DELTA_START = b"event: content_block_delta\ndata: {"
_DELTA = b"\nevent: content_block_delta\ndata:"
_OTHER = re.compile(rb"\nevent: (?!content_block_delta\n)([a-z_]+)\ndata: ?([^\n]*)")
_BOUNDARY = re.compile(rb"(?:\r\n|\n)(?:\r\n?|\n)|\r\r\n?")  # CRLF is one line end, never two
_NO_INPUT = ("tool_use", "server_tool_use", "mcp_tool_use")  # starts that need an `input` (R5)


class Scanner:
    """State of one relayed stream. All attributes are read only for the caller.

    `content`: the first content event was seen (events.is_content). `finished`: message_stop was. `error`: an error
    event came; its bytes are not relayed. `open_block` (its index), `open_kind`, `completed_blocks`: where in the answer we are.
    `irregular`: the provider breaks the grammar that clients rely on.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.started = False
        self.content = False
        self.finished = False
        self.irregular = False
        self.error: ProviderError | None = None
        self.stop_reason: str | None = None
        self.open_block: int | None = None
        self.open_kind = ""
        self.completed_blocks = 0
        self._next = 0
        self._searched = 0  # bytes of the carried payload that are known to hold no boundary

    def feed(self, payload: bytes) -> int:
        """How many leading bytes of `payload` end on an event boundary and may be relayed.

        `payload` is what the last call left over plus what has arrived since. Raises BadUpstream for an event above
        the framer's limit.
        """
        if (
            self.open_block is not None
            and self.content
            and payload.startswith(_DELTA_START)
            and payload.find(b"}\n\n") == len(payload) - 3
            and self.error is None
        ):
            return len(payload)  # one ordinary delta, the most frequent case by far
        end = self._boundary(payload)
        if end == 0:
            self._searched = len(payload)
            if len(payload) > MAX_EVENT_BYTES:
                raise BadUpstream(f"an event of more than {MAX_EVENT_BYTES} bytes")
            return 0
        self._searched = 0
        if self.error is not None:
            return 0
        region = b"\n" + payload[:end]
        if self.content and b"\r" not in region:
            others = _OTHER.findall(region)
            events = len(others) + region.count(_DELTA)
            # every data line belongs to a delta or to one of the others, and ends as an object: nothing was overlooked
            if events == region.count(b"\ndata:") == region.count(b"}\n\n"):
                for name, data in others:
                    if not self._event(Frame(name.decode(), data)):
                        return region.index(b"\nevent: error\n")
                if not others and self.open_block is None and not self.finished:
                    self.irregular = True
                return end
        return self._carefully(payload, end)

    def _boundary(self, payload: bytes) -> int:
        """The end of the last whole event in the payload."""
        start = max(0, self._searched - 3)
        if payload.find(b"\r", start) < 0:
            return payload.rfind(b"\n\n", start) + 2 if payload.find(b"\n\n", start) >= 0 else 0
        end = 0
        for match in _BOUNDARY.finditer(payload, start):
            end = match.end()
        return end

    def _carefully(self, payload: bytes, end: int) -> int:
        """Event by event, in any framing."""
        done = 0
        for match in _BOUNDARY.finditer(payload, 0, end):
            for frame in Framer().feed(payload[done : match.end()]):
                if not self._event(frame):
                    return done
            done = match.end()
        return end

    def end(self, rest: bytes) -> bytes:
        """The body ended with `rest` still carried: the bytes of it to relay, its missing line ends added. Several
        providers omit the last blank line; what is no whole event yields nothing."""
        if not rest.strip():
            return rest  # the second half of a line end
        whole = rest.rstrip(b"\r\n") + b"\n\n"
        try:
            frames = Framer().feed(whole)
            if not all(isinstance(json.loads(frame.data), dict) for frame in frames):
                return b""
        except ValueError:
            return b""
        self._searched = 0
        return whole[: self.feed(whole)]

    def _event(self, frame: Frame) -> bool:
        """Takes one event; False when it is the error that ends the stream."""
        if self.finished or frame.event == "ping":
            return True
        try:
            event = json.loads(frame.data)
            kind = event.get("type")
            if frame.event == "error" or kind == "error":
                self.error = error_inside(event)
                return False
            if frame.event != kind or not (self.started or kind == "message_start"):
                self.irregular = True
            else:
                self._take(str(kind), event)
        except (ValueError, KeyError, TypeError, AttributeError):
            # no JSON object, or without a field that every event of its kind has
            self.irregular = True
            if self.content:  # too late for the decoder: an honest end
                self.error = ProviderError(
                    502, "api_error", "the provider's stream holds an event that is not one"
                )
                return False
        return True

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "message_start":
            self.irregular |= self.started
            self.started = True
            self.usage.update(event["message"].get("usage"))
        elif kind == "content_block_start":
            self._start(event["index"], event["content_block"])
        elif kind == "content_block_delta":
            self.irregular |= event["index"] != self.open_block
        elif kind == "content_block_stop":
            self.irregular |= event["index"] != self.open_block
            self.open_block = None
            self.open_kind = ""
            self.completed_blocks += 1
        elif kind == "message_delta":
            self.irregular |= self.open_block is not None
            self.usage.update(event.get("usage"))
            self.stop_reason = event["delta"].get("stop_reason") or self.stop_reason
        elif kind == "message_stop":
            self.irregular |= self.open_block is not None or self.stop_reason is None
            self.finished = True
        self.content = self.content or is_content(event)

    def _start(self, index: int, block: dict[str, Any]) -> None:
        lacks = block["type"] in _NO_INPUT and block.get("input") != {}
        self.irregular |= self.open_block is not None or index != self._next or lacks
        self.open_block, self.open_kind = index, str(block["type"])
        self._next = index + 1
