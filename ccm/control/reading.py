"""The bytes of a control request, read as strictly as those at the other door: the same parser of heads and bodies. Pure."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from ccm.errors import BadRequest, BadUpstream, Refusal
from ccm.late import regex
from ccm.wire import http1
from ccm.wire.origin import check_browser

MAX_REQUEST_BYTES = 64 * 1024
_LARGE = {"/explain": 8 * 1024 * 1024}  # these take a whole Messages request
_OURS = ("ccm", "localhost", "127.0.0.1", "[::1]")  # people write http://ccm/status for curl
_HOST = regex(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BARE_LF = regex(rb"(?<!\r)\n")
_MAX_EMPTY_BYTES = 16


class Request:
    """A whole request: method, path without query, and the arguments of query or JSON body. `size` is what it takes
    of the bytes that came; `keep` whether the caller would send another one."""

    __slots__ = ("args", "keep", "method", "path", "size")

    def __init__(self, method: str, path: str, args: dict[str, Any], size: int, keep: bool) -> None:
        self.method, self.path, self.args, self.size, self.keep = method, path, args, size, keep


def parse(data: bytes) -> Request | int:
    """The request in these bytes; while it is not whole, how many bytes it takes to look again. Raises BadRequest."""
    empty = 0
    while empty < _MAX_EMPTY_BYTES and data.startswith(b"\r\n", empty):
        empty += 2  # RFC 9112 2.2: empty lines before a request line are ignored
    end = http1.find_head_end(data, empty)
    if end < 0:
        if _BARE_LF.search(data):
            raise BadRequest(400, "a line that ends without CR LF")
        if len(data) > http1.MAX_HEAD_BYTES:
            raise BadRequest(431, "the request head is too large")
        return len(data) + 1
    head = http1.parse_request_head(data[empty:end])
    host = head.headers.get("host", "ccm")
    name = _HOST.fullmatch(host)
    if name is None:
        raise BadRequest(400, "a malformed Host header")
    try:
        url = urllib.parse.urlsplit(head.target)
        check_browser(head.headers)  # who forwards a port to this socket opens no door to web pages
    except ValueError:
        raise BadRequest(400, "a malformed target") from None
    except Refusal as refusal:
        raise BadRequest(refusal.status, refusal.message) from None
    if name[1].lower() not in _OURS or (url.netloc and url.netloc != host):
        raise BadRequest(421, "nothing but ccm is served here: write http://ccm/")
    most = _LARGE.get(url.path, MAX_REQUEST_BYTES)
    if end + head.length > most:
        raise BadRequest(413, f"a control request has at most {most} bytes")
    if head.chunked:
        chunks = http1.Chunks(most)
        try:
            body = chunks.feed(data[end:])
        except BadUpstream as error:
            raise BadRequest(413 if "too large" in str(error) else 400, f"chunked body: {error}") from None
        if not chunks.done:
            if len(data) > 2 * most:
                raise BadRequest(413, f"a control request has at most {most} bytes")
            return len(data) + 1
        size = len(data) - len(chunks.rest)
    else:
        size = end + head.length
        if len(data) < size:
            return size
        body = data[end:size]
    args = _json_object(body) if body else _query(url.query)
    return Request(head.method, url.path, args, size, head.keep_alive)


def _query(query: str) -> dict[str, Any]:
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise BadRequest(400, "too many arguments") from None
    args = dict(pairs)
    if len(args) != len(pairs):
        raise BadRequest(400, "an argument is given twice")
    return args


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise BadRequest(400, "the body must be a JSON object")
    return value
