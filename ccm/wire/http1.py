"""HTTP/1.1 heads and chunked bodies, parsed strictly (RFC 9112). Pure; the same parser stands at both doors.

Strict means: what two parsers could read differently is refused, never repaired (request smuggling). One regular
expression accepts a well-formed head; only a refused one is looked at again, to say what was wrong.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from ccm.errors import BadRequest, BadUpstream
from ccm.shape import dataclass, field

MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 100
MAX_TARGET_BYTES = 16 * 1024
MAX_RESPONSE_HEAD_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 64 * 1024 * 1024

_TCHAR = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
_REQUEST_LINE = re.compile(rb"([" + _TCHAR + rb"]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_FIELDS = re.compile(rb"(?:[" + _TCHAR + rb"]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")
_FIELD = re.compile(rb"[" + _TCHAR + rb"]+:[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,19}\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_PLAIN_SIZE = re.compile(rb"(?=0*[1-9A-Fa-f])([0-9A-Fa-f]{1,6})\r\n")  # of a chunk that is not the last
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]\Z")


@dataclass(slots=True)
class RequestHead:
    """A request's head. Names in `headers` are lower case; repeated fields are joined with ", " in order; what
    Content-Length says is `length` alone. `notes`: what was found out about heads that differ in nothing else."""

    method: str
    target: str  # path with its query, or an absolute URI, or "*"
    minor: int  # HTTP/1.<minor>
    headers: dict[str, str]
    length: int  # body bytes; 0 where there is none, -1 where chunked
    keep_alive: bool
    expect_continue: bool
    notes: dict[Any, Any] = field(default_factory=dict)

    @property
    def chunked(self) -> bool:
        return self.length < 0


@dataclass(slots=True)
class ResponseHead:
    """A response's head. `length` is None where only the end of the connection ends the body."""

    status: int
    headers: dict[str, str]
    length: int | None  # -1: chunked
    keep_alive: bool


def find_head_end(data: bytes | bytearray, start: int = 0) -> int:
    """The length of the head in `data`, its empty line included; -1 while it is not whole."""
    end = data.find(b"\r\n\r\n", start)
    return end + 4 if end >= 0 else -1


_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.I)
_KEPT = 8
_LONGEST_KEPT = 8192
# (head before the length's digits, after them, bytes of both, what it says)
_kept: tuple[tuple[bytes, bytes, int, RequestHead], ...] = ()


def parse_request_head(head: bytes) -> RequestHead:
    """A whole head (up to and with the empty line). Raises BadRequest with the status that fits the fault.

    A client's heads differ in their Content-Length only: one that was here before is recognised, not parsed again. The
    headers and notes of such heads are one dict each: nobody may change the headers.
    """
    global _kept  # noqa: PLW0603 - one tuple, swapped whole: no lock, a lost update costs one parse
    size = len(head)
    for before, after, rest, k in _kept:
        if 0 < size - rest < 10 and head.startswith(before) and head.endswith(after):
            digits = head[len(before) : size - len(after)]
            if digits.isdigit():
                length = int(digits)
                return RequestHead(
                    k.method, k.target, k.minor, k.headers, length, k.keep_alive, k.expect_continue, k.notes
                )
    found = _parse_request_head(head)
    match = _CONTENT_LENGTH.search(head)
    if match is not None and found.length >= 0 and size < _LONGEST_KEPT:
        kept = (head[: match.start(1)], head[match.end(1) :], size - len(match[1]), found)
        _kept = (kept, *_kept[: _KEPT - 1])
    return found


def _parse_request_head(head: bytes) -> RequestHead:
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise _bad_request_line(head)
    method = line[1].decode("ascii")
    if len(line[2]) > MAX_TARGET_BYTES:
        raise BadRequest(414, "the request target is too long")
    target = line[2].decode("ascii")
    if not (
        target[0] == "/"
        or target.startswith(("http://", "https://"))
        or (target == "*" and method == "OPTIONS")
    ):
        raise BadRequest(501 if method == "CONNECT" else 400, "the request target must be a path")
    if "#" in target:
        raise BadRequest(400, "a request target has no fragment")
    headers = _fields(head, line.end())
    host = headers.get("host")
    minor = 1 if line[3] == b"1" else 0
    if host is None and minor:
        raise BadRequest(400, "an HTTP/1.1 request needs a Host header")
    coding = headers.get("transfer-encoding")
    length = 0
    if coding is not None:
        if "content-length" in headers:
            raise BadRequest(400, "Content-Length and Transfer-Encoding together")
        if not minor:
            raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
        if coding.lower() != "chunked":
            raise BadRequest(501, "only the transfer coding 'chunked' is understood")
        length = -1
    elif (text := headers.pop("content-length", None)) is not None:
        if not _LENGTH.match(text):
            raise BadRequest(400, "Content-Length is not a number")
        length = int(text)
    expect = headers.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise BadRequest(417, "only Expect: 100-continue is understood")
    return RequestHead(
        method, target, minor, headers, length, _keep_alive(headers, minor), expect is not None and minor == 1
    )


def parse_response_head(head: bytes) -> ResponseHead:
    """A provider's head (up to and with the empty line). Raises BadUpstream."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadUpstream("the answer does not begin with an HTTP/1.x status line")
    try:
        headers = _fields(head, line.end())
    except BadRequest as error:
        raise BadUpstream(f"bad response head: {error}") from None
    status = int(line[2])
    minor = 1 if line[1] == b"1" else 0
    length: int | None = None
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise BadUpstream("a transfer coding other than chunked")
        length = -1
    elif (text := headers.get("content-length")) is not None:
        if not _LENGTH.match(text):
            raise BadUpstream("Content-Length is not a number")
        length = int(text)
    if status in (204, 304) or status < 200:
        length = 0
    return ResponseHead(status, headers, length, length is not None and _keep_alive(headers, minor))


_UNREPEATED = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "expect",
        "authorization",
        "x-api-key",
        "origin",
    }
)


_KEPT_LINES = 2048
_LONGEST_LINE = 512
_lines: dict[bytes, tuple[str, str]] = {}  # well-formed header lines that were here before: (name, value)


def _fields(head: bytes, start: int) -> dict[str, str]:
    lines = head[start:-4].split(b"\r\n") if len(head) - start > 2 else []
    if len(lines) > MAX_FIELDS:
        if _FIELDS.fullmatch(head, start) is None:
            raise _bad_fields(head[start:])
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    known = _lines
    headers: dict[str, str] = {}
    for line in lines:  # most lines of most heads were here before
        pair = known.get(line)
        if pair is None:
            pair = _field(line, head, start)
        headers[pair[0]] = pair[1]
    if len(headers) == len(lines):
        return headers
    headers = {}
    for line in lines:  # some come more than once
        name, value = _field(line, head, start)
        if name in headers:
            if name in _UNREPEATED:
                raise BadRequest(400, f"repeated header {name}")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _field(line: bytes, head: bytes, start: int) -> tuple[str, str]:
    if _FIELD.fullmatch(line) is None:
        raise _bad_fields(head[start:])
    name, _, value = line.decode("latin-1").partition(":")
    pair = name.lower(), value.strip(" \t")
    if len(line) <= _LONGEST_LINE:
        if len(_lines) >= _KEPT_LINES:
            _lines.clear()
        _lines[line] = pair
    return pair


def _keep_alive(headers: dict[str, str], minor: int) -> bool:
    connection = headers.get("connection")
    if connection is None:
        return minor == 1
    tokens = {token.strip().lower() for token in connection.split(",")}
    return "close" not in tokens and (minor == 1 or "keep-alive" in tokens)


def _bad_request_line(head: bytes) -> BadRequest:
    line = head.split(b"\r\n", 1)[0]
    if len(line) > MAX_TARGET_BYTES:
        return BadRequest(414, "the request line is too long")
    parts = line.split(b" ")
    if len(parts) == 3 and _VERSION.match(parts[2]) and parts[2][:7] != b"HTTP/1.":
        return BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return BadRequest(400, "not an HTTP/1.1 request line")


def _bad_fields(block: bytes) -> BadRequest:
    for line in block.split(b"\r\n"):
        if line and _FIELDS.fullmatch(line + b"\r\n\r\n") is None:
            if line[:1] in b" \t":
                return BadRequest(400, "a folded header line")
            return BadRequest(400, "a malformed header line")
    return BadRequest(400, "a malformed header section")


class Chunks:
    """Push decoder of a chunked body: `feed(bytes)` returns the payload in them; `done` after the last chunk and its
    trailers; what follows is in `rest`. Raises BadUpstream on any deviation (the request side turns it into a 400).

    Extensions and trailers are bounded and dropped; trailer fields never reach the header section (RFC 9110 6.5.1).
    """

    __slots__ = ("_buffer", "_extra", "_left", "_state", "done", "limit", "rest", "total")

    until_close = False

    _SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)
    _MAX_LINE = 4096
    _MAX_EXTRA = 64 * 1024

    def __init__(self, limit: int = MAX_CHUNK_BYTES) -> None:
        self._buffer = b""
        self._left = 0
        self._state = self._SIZE
        self._extra = 0  # bytes of extensions and trailers so far
        self.done = False
        self.rest = b""
        self.limit = limit  # bytes of payload at most; 0 = no limit
        self.total = 0

    def feed(self, data: bytes) -> bytes:
        """The payload bytes that these bytes complete."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        out: list[bytes] = []
        at, size = 0, len(data)
        while True:
            if self._state == self._SIZE:
                at = self._whole_chunks(data, at, out)
            if self._state == self._DATA:
                take = min(self._left, size - at)
                if take:
                    out.append(data[at : at + take])
                    at += take
                    self._left -= take
                if self._left:
                    break
                self._state = self._DATA_END
            if self._state == self._DATA_END:
                if size - at < 2:
                    if data[at:] not in (b"", b"\r"):
                        raise BadUpstream("no CRLF after a chunk")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise BadUpstream("no CRLF after a chunk")
                at += 2
                self._state = self._SIZE
            end = data.find(b"\r\n", at, at + self._MAX_LINE + 2)
            if end < 0:
                if size - at > self._MAX_LINE or b"\n" in data[at:]:
                    raise BadUpstream("a malformed chunk line")
                break
            line = data[at:end]
            at = end + 2
            if self._state == self._SIZE:
                self._size(line)
            elif not line:
                self._state = self._DONE
                self.done = True
                self.rest = data[at:]
                return b"".join(out)
            else:
                self._trailer(line)
        self._buffer = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        """The connection ended: this body is not whole."""

    def _whole_chunks(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Takes the plain chunks that are here from their first byte to their last; where they end."""
        left = self.limit - self.total if self.limit else sys.maxsize
        began = left
        while (match := _PLAIN_SIZE.match(data, at)) is not None:
            start = match.end()
            length = int(match[1], 16)
            end = start + length
            left -= length
            if left < 0 or data[end : end + 2] != b"\r\n":
                left += length
                break
            out.append(data[start:end])
            at = end + 2
        self.total += began - left
        return at

    def _size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.match(line)
        if match is None:
            raise BadUpstream("a malformed chunk size")
        self._left = int(match[1], 16)
        self._bound(len(line) - len(match[1]))
        self.total += self._left
        if self.limit and self.total > self.limit:
            raise BadUpstream("a body that is too large")
        self._state = self._DATA if self._left else self._TRAILER

    def _trailer(self, line: bytes) -> None:
        self._bound(len(line))
        if _FIELDS.fullmatch(line + b"\r\n\r\n") is None:
            raise BadUpstream("a malformed trailer")

    def _bound(self, extra: int) -> None:
        self._extra += extra
        if self._extra > self._MAX_EXTRA:
            raise BadUpstream("too many chunk extensions or trailers")


class Sized:
    """The same interface for a body of known length."""

    __slots__ = ("_left", "done", "rest")

    until_close = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload bytes in these bytes; what follows the body is in `rest`."""
        if len(data) > self._left:
            self.rest = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def close(self) -> None:
        """The connection ended: this body is not whole."""


class UntilClose:
    """The same interface for a body that only the end of the connection ends."""

    __slots__ = ("done", "rest")

    until_close = True

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def close(self) -> None:
        """The connection ended: as far as HTTP can tell, so did the body."""
        self.done = True


def body_decoder(length: int | None, limit: int = 0) -> Chunks | Sized | UntilClose:
    """The decoder for a head's `length` (-1 chunked, None until close)."""
    if length is None:
        return UntilClose()
    return Chunks(limit) if length < 0 else Sized(length)
