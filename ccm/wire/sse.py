"""Server-sent events on bytes (WHATWG HTML 9.2.6): lines end at LF, CRLF or CR only; comments, BOM, multi-line data.

Bytes all the way: text `splitlines` would cut JSON at U+2028, per-chunk decoding would break characters (R7).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ccm.errors import BadUpstream

MAX_EVENT_BYTES = 16 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Frame(NamedTuple):
    """One dispatched event: its `event:` name ("" when it had none) and its data lines joined by LF."""

    event: str
    data: bytes


class Framer:
    """Push framer: `feed(bytes)` returns the frames that became complete; any cut of the bytes gives the same frames."""

    __slots__ = ("_buffer", "_data", "_event", "_first", "_skip_lf", "limit")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._event = ""
        self._first = True
        self._skip_lf = False
        self.limit = limit

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by these bytes. Raises BadUpstream for an event above `limit` bytes."""
        if (
            data[:6] == b"data: "
            and data.find(b"\n") == len(data) - 2  # one whole event, the most frequent case by far
            and data[-1:] == b"\n"
            and not (self._buffer or self._data or self._event or self._skip_lf or self._first)
            and b"\r" not in data
        ):
            return [Frame("", data[6:-2])]
        if self._skip_lf and data:
            self._skip_lf = False
            if data[:1] == b"\n":
                data = data[1:]
        buffer = self._buffer + data if self._buffer else data
        if self._first:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._buffer = buffer
                return []
            self._first = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                buffer = buffer[3:]
        if b"\r" in buffer:
            lines = _LINE_END.split(buffer)
            # A CR at the very end may be the first half of CRLF: the line is complete either way.
            self._skip_lf = buffer.endswith(b"\r")
        else:
            lines = buffer.split(b"\n")
        self._buffer = lines.pop()
        frames: list[Frame] = []
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                frames.append(
                    Frame(self._event, b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                )
                self._data = []
                self._event = ""
            else:
                self._event = ""
        if len(self._buffer) + sum(map(len, self._data)) > self.limit:
            raise BadUpstream(f"an event of more than {self.limit} bytes")
        return frames

    def end(self) -> list[Frame]:
        """What a provider left without its blank line: dispatched, unlike in browsers, because several omit it."""
        if self._buffer:
            line, self._buffer = self._buffer, b""
            self._line(line)
        if not self._data:
            return []
        frame = Frame(self._event, b"\n".join(self._data))
        self._data, self._event = [], ""
        return [frame]

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
