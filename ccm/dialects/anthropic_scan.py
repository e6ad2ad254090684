"""Follows a Messages stream that is relayed as bytes: framing, usage, the end, errors; without decoding each event.

Until the first content event every event is parsed. After it only the few events that are no deltas are; a delta costs
some counts over its bytes. Where the grammar is broken (`irregular`) the bytes before the offending event are released
and `replay()` tells a decoder what it must know to go on, mending, from exactly there.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ccm.dialects.anthropic_stream import DEFAULTS, TOOL_ID, fault_of, is_odd
from ccm.dialects.errors import error_inside
from ccm.errors import BadUpstream
from ccm.messages.events import is_content
from ccm.messages.tokens import Usage
from ccm.model import ProviderError
from ccm.wire import jsontext
from ccm.wire.sse import MAX_EVENT_BYTES, Frame, Framer

_DELTA_START = b"event: content_block_delta\ndata: {"
_HALF = b'"}\n\n'  # a delta closes two braces: here one is missing, or we are in the middle of a string
_DELTA = b"\nevent: content_block_delta\ndata:"
_OTHER = re.compile(rb"\nevent: (?!content_block_delta\n)([a-z_]+)\ndata: ?([^\n]*)")
_BOUNDARY = re.compile(rb"(?:\r\n|\n)(?:\r\n?|\n)|\r\r\n?")  # CRLF is one line end, never two
_BOM = b"\xef\xbb\xbf"
_NO_INPUT = ("tool_use", "server_tool_use", "mcp_tool_use")  # starts that need an `input` (R5)
# What the data of an ordinary delta begin with: written so by Anthropic, and by Python's json.dumps.
_BEGIN = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":"'
_BEGIN_WIDELY = b'{"type": "content_block_delta", "index": %d, "delta": {"type": "%s", "%s": "'
_INPUT = (b"input_json_delta", b"partial_json")
_ORDINARY = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    **dict.fromkeys(_NO_INPUT, _INPUT),
}
_NO_MARKS = (b"\x00", b"\x00")


class Scanner:
    """State of one relayed stream. All attributes are read only for the caller.

    `content`: the first content event was seen (events.is_content). `finished`: message_stop was; what follows it is
    not relayed. `error`: an error event came, or one that is none; its bytes are not relayed. `open_block` (its index),
    `open_kind`, `completed_blocks`: where in the answer we are. `irregular`: the provider breaks the grammar that
    clients rely on; nothing from the offending event on is released any more.
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
        self._marks = _NO_MARKS  # how an ordinary delta of the open block begins
        self._searched = 0  # bytes of the carried payload that are known to hold no boundary
        self._starts: list[Frame] = []  # message_start and the block starts so far
        self._ending: Frame | None = None  # message_delta

    def feed(self, payload: bytes) -> int:
        """How many leading bytes of `payload` end on an event boundary and may be relayed.

        `payload` is what the last call left over plus what has arrived since. Raises BadUpstream for an event above
        the framer's limit.
        """
        if self.irregular or self.finished or self.error is not None:
            return 0
        if (
            self.content
            and payload.startswith(_DELTA_START)
            and payload.find(b"\n\n") == len(payload) - 2  # one event: nothing may hide behind a half one
            and payload.endswith(b"}\n\n")
            and not payload.endswith(_HALF)
            and (self._marks[0] in payload or self._marks[1] in payload)
            and payload.isascii()
        ):
            return len(payload)  # one ordinary delta, the most frequent case by far
        end = self._boundary(payload)
        if end == 0:
            self._searched = len(payload)
            if len(payload) > MAX_EVENT_BYTES:
                raise BadUpstream(f"an event of more than {MAX_EVENT_BYTES} bytes")
            return 0
        self._searched = 0
        if not payload.isascii():
            try:
                payload[:end].decode()
            except UnicodeDecodeError as error:
                end = payload.rfind(b"\n\n", 0, error.start) + 2 if b"\n\n" in payload[: error.start] else 0
                done = self._carefully(payload, end, 0)
                self.error = self.error or _no_event()
                return done
        if not self.started and payload.startswith(_BOM):
            self.irregular = True
            return 0
        if self.content and b"\r" not in payload[:end]:
            return self._quickly(payload, end, 0)
        return self._carefully(payload, end, 0)

    def replay(self) -> list[Frame]:
        """The frames after which a decoder knows what this scanner knows: the start of the message and of each block,
        the stop of all but the open one, and the end. What it makes of them was sent already."""
        frames = self._starts[:1]
        for index, start in enumerate(self._starts[1:]):
            frames.append(start)
            if index < self.completed_blocks:
                stop = json.dumps({"type": "content_block_stop", "index": index}).encode()
                frames.append(Frame("content_block_stop", stop))
        return frames if self._ending is None else [*frames, self._ending]

    def end(self, rest: bytes) -> bytes:
        """The body ended with `rest` still carried: the bytes of it to relay, its missing line ends added. Several
        providers omit the last blank line; what is no whole event yields nothing."""
        if not rest.strip():
            return rest  # the second half of a line end
        whole = rest.rstrip(b"\r\n") + b"\n\n"
        try:
            frames = Framer().feed(whole)
            if not all(isinstance(jsontext.event(frame.data), dict) for frame in frames):
                return b""
        except ValueError:
            return b""
        self._searched = 0
        return whole[: self.feed(whole)]

    def _boundary(self, payload: bytes) -> int:
        """The end of the last whole event in the payload."""
        start = max(0, self._searched - 3)
        if payload.find(b"\r", start) < 0:
            return payload.rfind(b"\n\n", start) + 2 if payload.find(b"\n\n", start) >= 0 else 0
        end = 0
        for match in _BOUNDARY.finditer(payload, start):
            end = match.end()
        return end

    def _quickly(self, payload: bytes, end: int, start: int) -> int:
        """Only the events between deltas are parsed; whatever looks odd is looked at carefully from there on."""
        region = b"\n" + payload[start:end]  # an offset in it is one more than in what follows `start`
        at = 0
        for match in _OTHER.finditer(region):
            name, data = match[1], match[2]
            one_line = data.endswith(b"}") and region.startswith(b"\n\n", match.end())
            if not one_line or not self._ordinary(region[at : match.start() + 1]):
                return self._carefully(payload, end, start + at)
            if not self._event(Frame(name.decode(), data)):
                return start + match.start()
            at = region.index(b"\n\n", match.end()) + 1
            if self.finished:
                return start + at
        return end if self._ordinary(region[at:]) else self._carefully(payload, end, start + at)

    def _ordinary(self, segment: bytes) -> bool:
        """Whether this holds nothing but whole deltas of the open block (and comments)."""
        deltas = segment.count(_DELTA)
        if deltas != segment.count(b"\ndata:"):
            return False
        if not deltas:
            return True
        marked = segment.count(self._marks[0]) + segment.count(self._marks[1])
        return deltas == segment.count(b"}\n\n") == marked and _HALF not in segment

    def _carefully(self, payload: bytes, end: int, start: int) -> int:
        """Event by event, in any framing; once the first content is there, what follows it quickly if it can be."""
        early, done = not self.content, start
        for match in _BOUNDARY.finditer(payload, start, end):
            for frame in Framer().feed(payload[done : match.end()]):
                if not self._event(frame):
                    return done
            done = match.end()
            if self.finished:
                return done
            if early and self.content and payload.find(b"\r", done, end) < 0:
                return self._quickly(payload, end, done)
        return end

    def _event(self, frame: Frame) -> bool:
        """Takes one event; False when it must not be relayed: an error, or something that breaks the grammar."""
        if frame.event == "ping" and frame.data.endswith(b"}"):
            return True
        try:
            event = jsontext.event(frame.data)
            kind = event.get("type")
            if frame.event == "error" or kind == "error":
                self.error = error_inside(event)
                return False
            self.irregular = frame.event != kind or self._breaks(str(kind), event)
            if not self.irregular:
                self._take(str(kind), event, frame)
        except (ValueError, KeyError, TypeError, AttributeError):
            # no JSON object, or without a field that every event of its kind has
            self.irregular = True
            if self.content:  # too late for anything but an honest end
                self.error = _no_event()
        return not self.irregular

    def _breaks(self, kind: str, event: dict[str, Any]) -> bool:
        """Whether a strict reader would stumble over this event here."""
        if kind == "message_start":
            if self.content:
                self.error = ProviderError(
                    502, "api_error", "the provider began a second message in one stream"
                )
            message = event["message"]
            plain = isinstance(message.get("usage"), dict) and message.get("content") == []
            return self.started or not plain
        if not self.started:
            return kind != "ping"
        if kind == "content_block_start":
            block = event["content_block"]
            lacks = any(block.get(k) is None for k in DEFAULTS.get(str(block["type"]), ()))
            lacks = lacks or (block["type"] in _NO_INPUT and block["input"] != {})
            odd = block["type"] == "tool_use" and not TOOL_ID.fullmatch(block.get("id") or "")
            if self.stop_reason is not None:
                self.error = ProviderError(
                    502, "api_error", "the provider began a block after the end of its message"
                )
                return True
            odd = odd or bool(fault_of(block)) or type(event["index"]) is not int
            return self.open_block is not None or event["index"] != self._next or lacks or odd
        if kind in ("content_block_delta", "content_block_stop"):
            if type(event["index"]) is not int or event["index"] != self.open_block:
                return True
            return kind == "content_block_delta" and is_odd(event["delta"], self.open_kind)
        if kind == "message_delta":
            reason = event["delta"].get("stop_reason")
            odd = not isinstance(reason, (str, type(None)))
            return odd or self.open_block is not None or not isinstance(event.get("usage"), dict)
        if kind == "message_stop":
            return self.open_block is not None or self.stop_reason is None
        return False

    def _take(self, kind: str, event: dict[str, Any], frame: Frame) -> None:
        if kind == "message_start":
            self.started = True
            self.usage.update(event["message"].get("usage"))
            self._starts.append(frame)
        elif kind == "content_block_start":
            index = event["index"]
            self.open_block, self.open_kind = index, str(event["content_block"]["type"])
            self._next = index + 1
            field = _ORDINARY.get(self.open_kind)
            if field is not None:
                self._marks = (_BEGIN % (index, *field), _BEGIN_WIDELY % (index, *field))
            self._starts.append(frame)
        elif kind == "content_block_stop":
            self.open_block, self.open_kind, self._marks = None, "", _NO_MARKS
            self.completed_blocks += 1
        elif kind == "message_delta":
            self.usage.update(event.get("usage"))
            if reason := event["delta"].get("stop_reason"):
                self.stop_reason, self._ending = reason, frame
        elif kind == "message_stop":
            self.finished = True
        self.content = self.content or is_content(event)


def _no_event() -> ProviderError:
    return ProviderError(502, "api_error", "the provider's stream holds an event that is not one")
