"""AWS event-stream framing: values of every header type, checksums, bounds and ends."""

from __future__ import annotations

import struct
import uuid
import zlib

import pytest

from ccm.errors import BadUpstream, IncompleteStream
from ccm.model import FailureKind
from ccm.wire.eventstream import MAX_HEADERS_BYTES, Frame, Framer

PLAIN = (("s", ":event-type", "chunk"), ("s", ":message-type", "event"))


def header(kind: str, name: str, value: object) -> bytes:
    out = bytes([len(name)]) + name.encode()
    if kind == "s":
        data = str(value).encode()
        return out + b"\x07" + struct.pack(">H", len(data)) + data
    return out + bytes(value)  # type: ignore[call-overload]


def message(payload: bytes, headers: tuple[tuple[str, str, object], ...] = PLAIN) -> bytes:
    block = b"".join(header(*h) for h in headers)
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return data + struct.pack(">I", zlib.crc32(data))


def test_messages_arrive_in_order_with_their_headers():
    data = message(b"{}") + message(b"") + message(b"\x00" * 300)
    expected = {":event-type": "chunk", ":message-type": "event"}
    assert Framer().feed(data) == [
        Frame(expected, b"{}"),
        Frame(expected, b""),
        Frame(expected, b"\x00" * 300),
    ]


def test_one_byte_at_a_time():
    framer, got = Framer(), []
    for byte in message(b"abc") + message(b"d"):
        got += framer.feed(bytes([byte]))
    assert [f.payload for f in got] == [b"abc", b"d"]
    assert framer.end() == []


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"\x00", True),
        (b"\x01", False),
        (b"\x02\xff", -1),
        (b"\x03\xff\xfe", -2),
        (b"\x04\x00\x00\x01\x00", 256),
        (b"\x05" + struct.pack(">q", -(2**40)), -(2**40)),
        (b"\x06\x00\x02\x00\xff", b"\x00\xff"),
        (b"\x07\x00\x03\xe2\x82\xac", "€"),
        (b"\x08" + struct.pack(">q", 1_700_000_000_000), 1_700_000_000_000),
        (b"\x09" + uuid.UUID(int=5).bytes, str(uuid.UUID(int=5))),
    ],
)
def test_every_header_type(raw: bytes, value: object):
    data = message(b"", (("raw", "h", raw), ("s", "after", "x")))
    assert Framer().feed(data)[0].headers == {"h": value, "after": "x"}


@pytest.mark.parametrize(
    "raw",
    [b"\x0a", b"\x07\x00\x09ab", b"\x07\x00\x01\xff", b"\x04\x00", b"\x09short", b""],
    ids=["unknown type", "string too long", "not UTF-8", "integer cut", "UUID cut", "no type"],
)
def test_broken_headers_are_refused(raw: bytes):
    with pytest.raises(BadUpstream):
        Framer().feed(message(b"", (("raw", "h", raw),)))


@pytest.mark.parametrize("at", [0, 5, 9, 14, -6, -1])
def test_any_flipped_byte_is_noticed(at: int):
    data = bytearray(message(b'{"a":1}'))
    data[at] ^= 0x01
    with pytest.raises(BadUpstream):
        Framer().feed(bytes(data))


def _prelude(total: int, headers: int) -> bytes:
    prelude = struct.pack(">II", total, headers)
    return prelude + struct.pack(">I", zlib.crc32(prelude))


@pytest.mark.parametrize(
    ("total", "headers"), [(15, 0), (16, 1), (2**31, 0), (2**20, MAX_HEADERS_BYTES + 1), (2**32 - 1, 0)]
)
def test_impossible_sizes_are_refused_before_the_body_comes(total: int, headers: int):
    with pytest.raises(BadUpstream):
        Framer().feed(_prelude(total, headers))


def test_the_limit_is_the_callers():
    assert Framer(limit=10).feed(message(b"x" * 10))
    with pytest.raises(BadUpstream, match="allowed"):
        Framer(limit=10).feed(_prelude(10 + MAX_HEADERS_BYTES + 17, 0))


@pytest.mark.parametrize("cut", [1, 11, 12, 40, -1])
def test_an_end_inside_a_message_is_no_end(cut: int):
    framer = Framer()
    assert framer.feed(message(b'{"text":"unfinished"}')[:cut]) == []
    with pytest.raises(IncompleteStream) as caught:
        framer.end()
    assert caught.value.error.kind is FailureKind.BROKEN


def test_html_instead_of_frames_is_refused():
    with pytest.raises(BadUpstream):
        Framer().feed(b"<html><body>502 Bad Gateway</body></html>")
