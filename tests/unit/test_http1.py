"""wire.http1: what a strict parser takes, what it refuses, and with which status."""

from __future__ import annotations

import pytest

from ccm.errors import BadRequest, BadUpstream
from ccm.wire import http1


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_request_head_is_read_whole():
    parsed = http1.parse_request_head(
        head(
            b"POST /v1/messages?beta=true HTTP/1.1",
            b"Host: a",
            b"X-One: 1",
            b"x-one: 2",
            b"Content-Length: 12",
        )
    )
    assert (parsed.method, parsed.target, parsed.minor) == ("POST", "/v1/messages?beta=true", 1)
    assert parsed.headers == {"host": "a", "x-one": "1, 2"}
    assert (parsed.length, parsed.keep_alive, parsed.expect_continue) == (12, True, False)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.11", 400),
        (b"GET / http/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET\t/\tHTTP/1.1", 400),
        (b"GET /", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"GET foo HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"CONNECT a:443 HTTP/1.1", 501),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1", 414),
    ],
)
def test_bad_request_lines(line, status):
    with pytest.raises(BadRequest) as caught:
        http1.parse_request_head(head(line, b"Host: a"))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([b"X : 1"], 400),
        ([b"X"], 400),
        ([b": 1"], 400),
        ([b"X: a\x00b"], 400),
        ([b"X: a\rb"], 400),
        ([b" X: folded"], 400),
        ([b"Content-Length: +5"], 400),
        ([b"Content-Length: 5, 5"], 400),
        ([b"Content-Length: 5", b"Content-Length: 5"], 400),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400),
        ([b"Host: b"], 400),
        ([b"Expect: 200-ok"], 417),
        ([b"X-%d: y" % n for n in range(101)], 431),
    ],
)
def test_bad_fields(fields, status):
    with pytest.raises(BadRequest) as caught:
        http1.parse_request_head(head(b"POST / HTTP/1.1", b"Host: a", *fields))
    assert caught.value.status == status


def test_http_1_1_needs_a_host_and_1_0_does_not():
    with pytest.raises(BadRequest):
        http1.parse_request_head(head(b"GET / HTTP/1.1"))
    assert http1.parse_request_head(head(b"GET / HTTP/1.0")).keep_alive is False


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive", True),
        (b"1.0", b"keep-alive", True),
        (b"1.1", b"x, Close", False),
    ],
)
def test_keep_alive(version, connection, keeps):
    parsed = http1.parse_request_head(
        head(b"GET / HTTP/" + version, b"Host: a", b"Connection: " + connection)
    )
    assert parsed.keep_alive is keeps


def test_response_heads():
    parsed = http1.parse_response_head(
        head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Set-Cookie: a", b"Set-Cookie: b")
    )
    assert (parsed.status, parsed.length, parsed.keep_alive) == (200, -1, True)
    assert http1.parse_response_head(head(b"HTTP/1.1 200")).length is None
    assert http1.parse_response_head(head(b"HTTP/1.1 204 No Content")).length == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nX: a\rInjected: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: x",
    ],
)
def test_bad_responses(raw):
    with pytest.raises(BadUpstream):
        http1.parse_response_head(raw + b"\r\n\r\n")


def test_chunks_in_any_cut():
    body = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\nNEXT"
    for size in (1, 2, 3, 7, len(body)):
        chunks, out = http1.Chunks(), b""
        rest = body
        while rest and not chunks.done:
            piece, rest = rest[:size], rest[size:]
            out += chunks.feed(piece)
        assert out == b"hello world"
        assert (chunks.rest + rest) == b"NEXT"


@pytest.mark.parametrize(
    "raw",
    [b"0x5\r\nhello", b"+5\r\nhello", b" 5\r\nhello", b"\r\nhello", b"5\nhello\n", b"5\r\nhelloXX", b"f" * 17 + b"\r\n",
     b"0\r\nbad trailer\r\n\r\n", b"1;" + b"x" * 5000, b"0" * 5000],
)  # fmt: skip
def test_malformed_chunks(raw):
    with pytest.raises(BadUpstream):
        http1.Chunks().feed(raw)


def test_chunk_limits():
    with pytest.raises(BadUpstream, match="too large"):
        http1.Chunks(limit=10).feed(b"b\r\n")
    with pytest.raises(BadUpstream, match="too many"):
        http1.Chunks().feed(b"0\r\n" + b"X: yyyyyyyyyyyyyyyyyyyy\r\n" * 5000)


LINES = (b"POST /v1/messages HTTP/1.1", b"Host: a", b"X-One: 1")


@pytest.mark.parametrize(
    "length",
    [b"12", b"13", b"0", b"007", b"123456789", b"1234567890", b"", b"+5", b"5 ", b" 5", b"5,5", b"0x5", b"-1", b"\xb2", b"5\r\nX-Two: 2",
     b"5\r\nContent-Length: 6", b"5\r\nTransfer-Encoding: chunked"],
)  # fmt: skip
@pytest.mark.parametrize("tail", [(), (b"X-Three: 3",), (b"Content-Length: 9",)])
def test_a_head_that_was_here_before_says_the_same_again(length, tail, monkeypatch):
    def read(value):
        raw = head(*LINES, b"Content-Length: " + value, *tail)
        try:
            return http1.parse_request_head(raw)
        except BadRequest as refused:
            return refused.status, str(refused)

    monkeypatch.setattr(http1, "_kept", ())
    fresh = read(length)
    monkeypatch.setattr(http1, "_kept", ())
    for known in (b"12", b"4", b"999", length):
        read(known)
        assert read(length) == fresh
    assert len(http1._kept) <= 4


def test_long_heads_are_not_kept(monkeypatch):
    monkeypatch.setattr(http1, "_kept", ())
    http1.parse_request_head(head(*LINES, b"Content-Length: 1", b"X-Long: " + b"a" * 9000))
    assert http1._kept == ()
