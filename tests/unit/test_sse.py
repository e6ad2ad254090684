"""wire.sse: WHATWG framing on bytes."""

from __future__ import annotations

import pytest

from ccm.errors import BadUpstream
from ccm.wire.sse import Frame, Framer


def frames(*pieces: bytes) -> list[Frame]:
    framer = Framer()
    out = [frame for piece in pieces for frame in framer.feed(piece)]
    return out + framer.end()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"event: x\ndata: a\ndata: b\n\n", [("x", b"a\nb")]),
        (b"data:a\r\n\r\ndata:b\r\rdata:c\n\n", [("", b"a"), ("", b"b"), ("", b"c")]),
        (b"\xef\xbb\xbfdata: bom\n\n", [("", b"bom")]),
        (b": comment\n\ndata: a\n\n", [("", b"a")]),
        (b"event: lost\n\ndata: a\n\n", [("", b"a")]),
        (b"id: 1\nretry: 5\ndata: a\n\n", [("", b"a")]),
        ("data: \u2028 stays\n\n".encode(), [("", "\u2028 stays".encode())]),
        (b"data: no blank line at the end", [("", b"no blank line at the end")]),
        (b"data\n\n", [("", b"")]),
    ],
)
def test_frames(raw, expected):
    assert frames(raw) == [Frame(*e) for e in expected]
    assert frames(*[raw[i : i + 1] for i in range(len(raw))]) == [Frame(*e) for e in expected]


def test_a_crlf_cut_in_two_is_one_line_end():
    assert frames(b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n") == [Frame("", b"a"), Frame("", b"b")]


def test_an_endless_event_is_refused():
    framer = Framer(limit=100)
    with pytest.raises(BadUpstream):
        for _ in range(20):
            framer.feed(b"data: " + b"x" * 10)
