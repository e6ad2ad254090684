"""Event-stream framing under any cut of the bytes and any damage."""

from __future__ import annotations

import struct
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.errors import BadUpstream, IncompleteStream
from ccm.wire.eventstream import Framer


def message(name: str, payload: bytes) -> bytes:
    value = name.encode()
    block = b"\x0b:event-type\x07" + struct.pack(">H", len(value)) + value
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return data + struct.pack(">I", zlib.crc32(data))


MESSAGES = st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=40)), max_size=6)


@settings(deadline=None)
@given(MESSAGES, st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_messages(messages, cuts):
    data = b"".join(message(*m) for m in messages)
    framer, got, at = Framer(), [], 0
    for cut in [*sorted(c for c in cuts if c <= len(data)), len(data)]:
        got += framer.feed(data[at:cut])
        at = cut
    assert [(f.headers[":event-type"], f.payload) for f in got] == messages
    assert framer.end() == []


@settings(deadline=None)
@given(MESSAGES.filter(bool), st.data())
def test_damage_never_passes_for_a_message(messages, data):
    raw = bytearray(b"".join(message(*m) for m in messages))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    framer, got = Framer(), []
    try:
        got = framer.feed(bytes(raw))
        framer.end()
    except (BadUpstream, IncompleteStream):
        return
    raise AssertionError(f"accepted: {got}")
