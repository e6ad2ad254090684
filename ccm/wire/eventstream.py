"""AWS event-stream framing (`application/vnd.amazon.eventstream`), as Bedrock streams its answers.

message = total length u32, headers length u32, CRC-32 of those eight bytes, headers, payload, CRC-32 of all before it;
big-endian. A header is its name length u8, name, type u8, value. Source: smithy.io "Amazon Event Stream Specification".
Both checksums are verified before anything is handed out; sizes are bounded before anything is kept.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import NamedTuple

from ccm.errors import BadUpstream, IncompleteStream
from ccm.model import FailureKind, ProviderError

MAX_MESSAGE_BYTES = 24 * 1024 * 1024  # the specification's largest payload
MAX_HEADERS_BYTES = 128 * 1024  # the specification's largest header block
_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")
_OVERHEAD = 16  # prelude 8, its checksum 4, the message's checksum 4

HeaderValue = bool | int | bytes | str
_FIXED = {  # header type -> struct of a value with a fixed size
    2: struct.Struct(">b"),
    3: struct.Struct(">h"),
    4: struct.Struct(">i"),
    5: struct.Struct(">q"),
    8: struct.Struct(">q"),  # a timestamp: milliseconds since 1970
}
_LENGTH = struct.Struct(">H")


_MOST_KNOWN = 16  # header blocks that a framer remembers


class Frame(NamedTuple):
    """One message: its headers (`:message-type`, `:event-type`, `:exception-type` ...; not to be changed, messages with
    the same headers share them) and its payload."""

    headers: dict[str, HeaderValue]
    payload: bytes


class Framer:
    """Push framer: `feed(bytes)` returns the messages that became complete; any cut of the bytes gives the same ones."""

    __slots__ = ("_buffer", "_headers", "_needed", "limit")

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._buffer = bytearray()
        self._headers: dict[
            bytes, dict[str, HeaderValue]
        ] = {}  # seen before: a stream has but a few different ones
        self._needed = 0  # the length of the message being collected; 0 = its prelude is not verified yet
        self.limit = limit

    def feed(self, data: bytes) -> list[Frame]:
        """Messages completed by these bytes. Raises BadUpstream for a wrong checksum, size or header: at once where
        nothing whole came before it, else at the next call, so that what was whole is not lost with it."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start, size = 0, len(buffer)
        while True:
            try:
                if not self._needed:
                    if size - start < 12:
                        break
                    self._needed = self._prelude(start)
                if size - start < self._needed:
                    break
                end = start + self._needed
                frames.append(self._message(bytes(buffer[start:end])))
            except BadUpstream:
                if not frames:
                    raise
                break
            start, self._needed = end, 0
        if start:
            del buffer[:start]
        return frames

    def end(self) -> list[Frame]:
        """The body ended. Raises IncompleteStream when that happened inside a message; else there is nothing left."""
        if not self._buffer:
            return []
        self.feed(b"")  # broken ones that were kept speak first
        wanted = f" of {self._needed}" if self._needed else ""
        raise IncompleteStream(
            ProviderError(
                0,
                "api_error",
                f"the event stream broke off inside a message, after {len(self._buffer)} bytes{wanted}",
                kind=FailureKind.BROKEN,
            )
        )

    def _prelude(self, at: int) -> int:
        """The length of the message that starts at `at`, once its prelude is known to be sound."""
        total, headers = _PRELUDE.unpack_from(self._buffer, at)
        if zlib.crc32(self._buffer[at : at + 8]) != _CRC.unpack_from(self._buffer, at + 8)[0]:
            raise BadUpstream("an event-stream message with a wrong prelude checksum")
        if total < _OVERHEAD or headers > min(total - _OVERHEAD, MAX_HEADERS_BYTES):
            raise BadUpstream(f"an event-stream message of {total} bytes with {headers} bytes of headers")
        if total > self.limit + MAX_HEADERS_BYTES + _OVERHEAD:
            raise BadUpstream(f"an event-stream message of {total} bytes; {self.limit} are allowed")
        return int(total)

    def _message(self, data: bytes) -> Frame:
        if zlib.crc32(data[:-4]) != _CRC.unpack_from(data, len(data) - 4)[0]:
            raise BadUpstream("an event-stream message with a wrong checksum")
        start = 12 + _PRELUDE.unpack_from(data)[1]
        block = data[12:start]
        headers = self._headers.get(block)
        if headers is None:
            headers = _headers(block)
            if len(self._headers) < _MOST_KNOWN and len(block) < 1024:
                self._headers[block] = headers
        return Frame(headers, data[start:-4])


def _headers(data: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(data):
            end = at + 1 + data[at]
            name = data[at + 1 : end].decode("utf-8")
            headers[name], at = _value(data, data[end], end + 1)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BadUpstream(f"an event-stream message with broken headers: {error}") from None
    if at != len(data):
        raise BadUpstream("an event-stream message with broken headers: a value runs over their end")
    return headers


def _value(data: bytes, type: int, at: int) -> tuple[HeaderValue, int]:
    """One header value and the place behind it."""
    if type in (0, 1):
        return type == 0, at  # 0 is true, 1 is false
    fixed = _FIXED.get(type)
    if fixed is not None:
        return int(fixed.unpack_from(data, at)[0]), at + fixed.size
    if type in (6, 7):
        length = int(_LENGTH.unpack_from(data, at)[0])
        raw = data[at + 2 : at + 2 + length]
        return (raw if type == 6 else raw.decode("utf-8")), at + 2 + length
    if type == 9:
        if at + 16 > len(data):
            raise IndexError("a UUID runs over their end")
        return str(uuid.UUID(bytes=data[at : at + 16])), at + 16
    raise BadUpstream(f"an event-stream header of the unknown type {type}")
