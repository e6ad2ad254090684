"""Targets at the wire: heads, bodies, framings. Each holds the fast way against a slow one, and every cut against the
whole. Only the module's own exceptions may come out."""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Callable
from typing import Any, cast

from ccm.errors import BadRequest, BadUpstream, IncompleteStream, Refusal
from ccm.server import guard, routes
from ccm.server.bodies import Pool
from ccm.server.connection import Closed, Connection, Request
from ccm.wire import eventstream, http1, sse
from ccm.wire.eventstream_encode import encode
from ccm.wire.headers import block, relayed, safe_value
from ccm.wire.inflate import Inflated
from tests.fuzz.dice import Dice, bent

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
HEADS = [
    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
    b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\nx-api-key: k\r\n\r\n{}",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
    b"GET http://127.0.0.1:1/v1/models/a HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nOrigin: null\r\nSec-Fetch-Site: cross-site\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nA: 1\r\nA: 2\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip


def request_head(data: bytes) -> None:
    """`parse_request_head`: BadRequest or a head in which nothing can be read two ways; then the door's rules."""
    dice = Dice(data)
    raw = bent(dice.of(HEADS), dice) if dice.byte() % 2 else dice.rest() + b"\r\n\r\n"
    end = http1.find_head_end(raw)
    if end < 0:
        return
    try:
        slow = http1._parse_request_head(raw[:end])
    except BadRequest as error:
        assert 400 <= error.status <= 505
        _raises(BadRequest, lambda: http1.parse_request_head(raw[:end]))
        return
    for _ in range(2):  # the second time it may be one that was kept
        fast = http1.parse_request_head(raw[:end])
        assert fast == slow, (fast, slow)
    for name, text in slow.headers.items():
        assert name == name.lower() and not _CONTROLS.search(name + text), (name, text)
    assert not ("transfer-encoding" in slow.headers and "content-length" in slow.headers)
    assert slow.length >= -1 and slow.target.isascii() and not _CONTROLS.search(slow.target)
    path = routes._path(slow.target)
    route, entry, _ = routes.find(path)
    assert path.startswith(("/", "*")) and (route is None or entry.surface)
    for check in (
        lambda: guard.check_host(slow.headers, slow.target, ("127.0.0.1", 1), ("name",)),
        lambda: guard.check_browser(slow.headers),
        lambda: guard.check_body(slow.headers),
        lambda: guard.check_token(slow.headers, "tokén"),
    ):
        try:
            check()
        except Refusal as refusal:
            assert 400 <= refusal.status < 500


class _Socket:
    """A client that sent these pieces and closed its side."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""

    def recv(self, size: int, flags: int = 0) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def fileno(self) -> int:
        return -1

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 1


_POOL = Pool()


def _requests(pieces: list[bytes]) -> tuple[list[Request], str]:
    conn = Connection(cast(socket.socket, _Socket(pieces)), _POOL)
    out: list[Request] = []
    try:
        while (request := conn.read(lambda head: None)) is not None:
            out.append(request)
            conn.settle()
    except BadRequest as error:
        return out, str(error.status)
    except Closed:
        return out, "closed"
    return out, "more"


def connection(data: bytes) -> None:
    """A connection's requests are the same however the network cut them."""
    dice = Dice(data)
    raw = b"".join(bent(dice.of(HEADS), dice) for _ in range(1 + dice.below(3)))
    if dice.byte() % 4 == 0:
        raw += dice.rest()
    whole, how = _requests([raw])
    pieces, end = _requests(dice.cuts(raw))
    assert pieces == whole, (pieces, whole)
    assert (end == "closed") == (how == "closed"), (end, how)
    single, last = _requests([raw[at : at + 1] for at in range(len(raw))])
    assert single == whole and (last == "closed") == (how == "closed"), (single, whole, last, how)


RESPONSES = [
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nrequest-id: r\r\n\r\n",
    b"HTTP/1.0 200\r\nretry-after: 3\r\n\r\n",
    b"HTTP/1.1 429 Too Many\r\ncontent-length: 12\r\nanthropic-ratelimit-requests-reset: 2026-01-01T00:00:00Z\r\nSet-Cookie: a\r\n\r\n",
    b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n",
]  # fmt: skip


def response_head(data: bytes) -> None:
    """`parse_response_head`: BadUpstream or a head; what is relayed of it can be written as headers."""
    dice = Dice(data)
    raw = bent(dice.of(RESPONSES), dice) if dice.byte() % 2 else dice.rest() + b"\r\n\r\n"
    end = http1.find_head_end(raw)
    if end < 0:
        return
    try:
        head = http1.parse_response_head(raw[:end])
    except BadUpstream:
        return
    assert 100 <= head.status <= 999 and (head.length is None or head.length >= -1)
    assert head.keep_alive is False or head.length is not None
    kept = relayed(head.headers)
    assert "set-cookie" not in kept and not any(name.startswith("access-control") for name in kept)
    lines = block({name: safe_value(text) for name, text in kept.items()})
    assert lines.count(b"\r\n") == len(kept) == lines.count(b"\n")
    block(kept)


def _chunked(raw: bytes, limit: int) -> tuple[bytes, bytes] | None:
    """(payload, what follows) of a whole chunked body, read slowly; None where it is none, or not whole."""
    out, at, extra, total = b"", 0, 0, 0
    size_line = re.compile(rb"([0-9A-Fa-f]{1,16})([\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?)")
    while True:
        end = raw.find(b"\r\n", at)
        if end < 0 or end - at > 4096 or b"\n" in raw[at:end]:
            return None
        match = size_line.fullmatch(raw[at:end])
        if match is None:
            return None
        size, at = int(match[1], 16), end + 2
        extra, total = extra + len(match[2]), total + size
        if extra > 65536 or (limit and total > limit):
            return None
        if not size:
            break
        out += raw[at : at + size]
        at += size
        if raw[at : at + 2] != b"\r\n":
            return None
        at += 2
    while True:
        end = raw.find(b"\r\n", at)
        if end < 0 or end - at > 4096:
            return None
        line, at = raw[at:end], end + 2
        if not line:
            return out, raw[at:]
        extra += len(line)
        if extra > 65536 or not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*", line):
            return None


CHUNKED = [
    b"5\r\nhello\r\n0\r\n\r\nrest",
    b"1;a=b\r\nx\r\nA\r\n0123456789\r\n000\r\nx-t: 1\r\n\r\n",
    b"1 \r\nx\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"0\r\nhost: a\r\n\r\n",
]  # fmt: skip


def chunks(data: bytes) -> None:
    """`Chunks`: the payload of a slow reading, in any cut; BadUpstream where that finds fault."""
    dice = Dice(data)
    limit = dice.of((0, 20, 1000))
    raw = bent(dice.of(CHUNKED), dice) if dice.byte() % 2 else b""
    pieces = dice.cuts(raw)
    if not raw:
        raw = dice.rest()
        pieces = [raw[at : at + 3] for at in range(0, len(raw), 3)]
    wanted = _chunked(raw, limit)
    for cut in ([raw], pieces, [raw[at : at + 1] for at in range(len(raw))]):
        got = _decoded(http1.Chunks(limit), cut)
        assert got == wanted, (raw, got, wanted)


def _decoded(decoder: Any, pieces: list[bytes]) -> tuple[bytes, bytes] | None:
    out, rest = b"", b""
    try:
        for at, piece in enumerate(pieces):
            out += decoder.feed(piece)
            if decoder.done:
                rest = decoder.rest + b"".join(pieces[at + 1 :])
                return out, rest
    except BadUpstream:
        return None
    return None


def inflate(data: bytes) -> None:
    """`Inflated`: bounded, BadUpstream for anything that cannot be read."""
    dice = Dice(data)
    packer = zlib.compressobj(6, zlib.DEFLATED, dice.of((31, 15, -15)))
    packed = bent(packer.compress(b"some text, " * dice.below(50)) + packer.flush(), dice)
    try:
        body = Inflated(http1.Sized(len(packed)), dice.of(("gzip", "deflate", "br", "gzip, gzip", "")))
        for piece in dice.cuts(packed):
            body.feed(piece)
        body.close()
    except BadUpstream:
        pass


STREAMS = [
    b"event: a\ndata: {}\n\n", b"data: 1\r\ndata: 2\r\n\r\n: c\r\n\r\n", b"\xef\xbb\xbfdata:x\r\rdata: y", b"id: 1\nretry: 3\n\n",
]  # fmt: skip


def _events(raw: bytes) -> list[tuple[str, bytes]]:
    """WHATWG's algorithm, line by line on the whole; an event without its blank line at the end counts."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
    lines = re.split(rb"\r\n|\n|\r", raw)
    if lines[-1] == b"":
        lines.pop()
    out: list[tuple[str, bytes]] = []
    name, found = "", []
    for line in [*lines, b""]:
        if not line:
            if found:
                out.append((name, b"\n".join(found)))
            name, found = "", []
            continue
        field, _, text = line.partition(b":")
        text = text[1:] if text.startswith(b" ") else text
        if field == b"data":
            found.append(text)
        elif field == b"event":
            name = text.decode("utf-8", "replace")
    return out


def sse_frames(data: bytes) -> None:
    """`sse.Framer`: the events of the slow reading, in any cut; its limit is kept."""
    dice = Dice(data)
    raw = b"".join(bent(dice.of(STREAMS), dice) for _ in range(dice.below(5)))
    pieces = dice.cuts(raw)
    if not raw:
        raw = dice.rest()
        pieces = [raw[at : at + 2] for at in range(0, len(raw), 2)]
    wanted = _events(raw)
    for cut in ([raw], pieces, [raw[at : at + 1] for at in range(len(raw))]):
        framer = sse.Framer()
        frames = [frame for piece in cut for frame in framer.feed(piece)] + framer.end()
        assert [tuple(frame) for frame in frames] == wanted, (raw, frames, wanted)
    try:
        sse.Framer(limit=16).feed(raw)
    except BadUpstream:
        assert len(raw) > 16


MESSAGES = [
    encode({":event-type": "chunk", ":message-type": "event"}, b'{"bytes": "e30="}'),
    encode({":exception-type": "throttlingException", ":message-type": "exception"}, b'{"message": "slow"}'),
]


def _signed(message: bytes) -> bytes:
    """The message with checksums that fit."""
    body = message[:8] + zlib.crc32(message[:8]).to_bytes(4, "big") + message[12:-4]
    return body + zlib.crc32(body).to_bytes(4, "big")


def event_stream(data: bytes) -> None:
    """`eventstream.Framer`: BadUpstream, IncompleteStream, or the same messages in any cut."""
    dice = Dice(data)
    raw = b""
    for _ in range(dice.below(4)):
        message = bent(dice.of(MESSAGES), dice)
        raw += _signed(message) if dice.byte() % 4 and len(message) > 16 else message
    pieces = dice.cuts(raw)
    if not raw:
        raw = dice.rest()
        pieces = [raw[at : at + 5] for at in range(0, len(raw), 5)]
    results = []
    for cut in ([raw], pieces):
        framer, frames, how = eventstream.Framer(), [], "whole"
        try:
            for piece in cut:
                frames += framer.feed(piece)
            frames += framer.end()
        except BadUpstream:
            how = "bad"
            frames = []
        except IncompleteStream:
            how = "incomplete"
        results.append((frames, how))
    assert repr(results[0]) == repr(results[1]), results


def _raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")
