"""Requests that two readers could read differently, and answers that could be split: at the port, on raw sockets.

Each probe is followed by a request for a canary path. Whatever ccm makes of the probe, what comes back must be whole,
well-formed HTTP/1.1, one answer per request; a request that was refused for its framing ends the connection, and then
the canary is never answered. No provider sees any of it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway import Gateway, providers
from tests.http1 import message, post
from tests.upstream import Upstream

TOKEN = "token-of-the-smuggler"
CANARY = b"GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n"  # answered with 404 where it is read as a request
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e]*)")
OK, CLOSED = "open", "closed"


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    gw = shared_gateway("smuggling", providers(up, "a"), proxy={"auth_token": TOKEN})
    up.reset()
    return gw


def answers(raw: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Every answer in these bytes. AssertionError for anything that is not strict HTTP/1.1, or left over."""
    found = []
    while raw:
        head, sep, rest = raw.partition(b"\r\n\r\n")
        assert sep, f"an answer without an end of its head: {raw[:200]!r}"
        line, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(line)
        assert status, f"not a status line: {line!r}"
        fields: dict[str, str] = {}
        for text in lines:
            match = _FIELD.fullmatch(text)
            assert match, f"not a header line: {text!r}"
            name = match[1].decode().lower()
            assert name not in fields or name == "set-cookie", f"{name} twice"
            fields[name] = match[2].decode()
        assert not fields.keys() & {"set-cookie", "x-injected"}, fields
        code = int(status[1])
        if code < 200:
            raw = rest
            continue
        assert "transfer-encoding" not in fields, "whole answers have a length"
        length = int(fields["content-length"])
        assert len(rest) >= length, f"{len(rest)} of {length} bytes"
        found.append((code, fields, rest[:length]))
        raw = rest[length:]
        if fields.get("connection", "").lower() == "close":
            assert not raw, f"bytes after the last answer: {raw[:200]!r}"
    return found


def talk(gateway: Gateway, data: bytes) -> tuple[list[tuple[int, dict[str, str], bytes]], bool]:
    """(the answers, whether ccm closed the connection before we did)"""
    raw, closed = b"", False
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
        sock.settimeout(0.25)
        try:
            sock.sendall(data)
            while True:
                piece = sock.recv(65536)
                if not piece:
                    closed = True
                    break
                raw += piece
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            closed = True
    return answers(raw), closed


def head(*lines: str, line: str = "GET /health HTTP/1.1", host: str = "localhost") -> bytes:
    fields = ([f"Host: {host}"] if host else []) + list(lines)
    return ("\r\n".join([line, *fields]) + "\r\n\r\n").encode("latin-1")


def posted(*lines: str, body: bytes = b"", line: str = "POST /v1/messages HTTP/1.1") -> bytes:
    return head(f"x-api-key: {TOKEN}", "content-type: application/json", *lines, line=line) + body


ZERO = b"0\r\n\r\n"
TE = "Transfer-Encoding: chunked"
# (name, bytes, statuses of the answers to the probe itself, what becomes of the connection)
PROBES: list[tuple[str, bytes, tuple[int, ...], str]] = [
    # --- two framings
    ("cl-te", posted("Content-Length: 5", TE, body=ZERO), (400,), CLOSED),
    ("te-cl", posted(TE, "Content-Length: 0", body=ZERO), (400,), CLOSED),
    ("cl-cl-same", posted("Content-Length: 2", "Content-Length: 2", body=b"{}"), (400,), CLOSED),
    ("cl-cl-other", posted("Content-Length: 2", "Content-Length: 0", body=b"{}"), (400,), CLOSED),
    ("cl-list", posted("Content-Length: 2, 2", body=b"{}"), (400,), CLOSED),
    *((f"cl-{n}", posted(f"Content-Length: {value}", body=b"{}"), (400,), CLOSED)
      for n, value in enumerate(("+2", "-1", "0x2", "2_0", "2.0", "2 2", "\xb2", "2\t", "", " ", "99999999999999999999", "1e1", "2;", "\"2\""))
      if value != "2\t"),
    *((f"te-{n}", posted(f"Transfer-Encoding: {value}", body=ZERO), (status,), CLOSED)
      for n, (value, status) in enumerate((
          ("chunked, chunked", 501), ("identity", 501), ("gzip, chunked", 501), ("chunked, identity", 501), ("xchunked", 501),
          ("chunked;q=1", 501), ("\x0bchunked", 400), ('"chunked"', 501), (", chunked", 501), ("chunked,", 501), ("", 501)))),
    ("te-te", posted(TE, "Transfer-Encoding: identity", body=ZERO), (400,), CLOSED),
    ("te-space-name", posted("Transfer-Encoding : chunked", body=ZERO), (400,), CLOSED),
    ("te-tab-name", posted("Transfer-Encoding\t: chunked", body=ZERO), (400,), CLOSED),
    ("te-folded", posted("Transfer-Encoding:\r\n chunked", body=ZERO), (400,), CLOSED),
    ("te-after-fold", posted("X: a\r\n Transfer-Encoding: chunked", body=ZERO), (400,), CLOSED),
    ("te-underscore", posted("Transfer_Encoding: chunked", "Content-Length: 2", body=b"{}"), (400,), OK),
    ("te-http10", posted(TE, body=ZERO, line="POST /v1/messages HTTP/1.0"), (400,), CLOSED),
    ("te-upper", posted("TRANSFER-ENCODING: CHUNKED", body=b"2\r\n{}\r\n" + ZERO), (400,), OK),
    ("cl-get-body", head("Content-Length: 3", line="GET /health HTTP/1.1") + b"abc", (200,), OK),
    ("connection-cl", posted("Connection: content-length", "Content-Length: 2", body=b"{}"), (400,), OK),
    # --- chunks
    *((f"chunk-{n}", posted(TE, body=body), (400,), CLOSED)
      for n, body in enumerate((
          b"-1\r\n" + ZERO, b"0x2\r\n{}\r\n" + ZERO, b"+2\r\n{}\r\n" + ZERO, b" 2\r\n{}\r\n" + ZERO, b"2\n{}\n0\n\n", b"2\r\n{}0\r\n\r\n",
          b"2\r\n{}\n0\r\n\r\n", b"3\r\n{}\r\n" + ZERO, b"G\r\n", b"\r\n" + ZERO, b"2;a\x00=b\r\n{}\r\n" + ZERO, b"2;a=b\nX\r\n{}\r\n" + ZERO,
          b"11111111111111111\r\n{}", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n", b"2\r\n{}\r\n0\r\nx: \x00\r\n\r\n",
          b"2;" + b"a" * 5000 + b"\r\n{}\r\n" + ZERO, b"2\r\r\n{}\r\n" + ZERO, b"\xef\xbc\x92\r\n{}\r\n" + ZERO))),
    ("chunk-huge", posted(TE, body=b"ffffffffffffffff\r\n"), (413,), CLOSED),
    ("chunk-over", posted(TE, body=b"2000001\r\n"), (413,), CLOSED),
    ("chunk-extension", posted(TE, body=b'2;a="b";c\r\n{}\r\n' + ZERO), (400,), OK),
    ("chunk-trailer", posted(TE, body=b"2\r\n{}\r\n0\r\nContent-Length: 9\r\nx-api-key: other\r\n\r\n"), (400,), OK),
    ("chunk-many-trailers", posted(TE, body=b"0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n"), (400,), CLOSED),
    # --- lines
    ("bare-lf", b"GET /health HTTP/1.1\nHost: localhost\n\n", (400,), CLOSED),
    ("bare-lf-header", b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", (400,), CLOSED),
    ("bare-cr", b"GET /health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", (400,), CLOSED),
    ("nul-value", head("X: a\x00b"), (400,), CLOSED),
    ("nul-name", head("X\x00: a"), (400,), CLOSED),
    ("nul-target", head(line="GET /health\x00 HTTP/1.1"), (400,), CLOSED),
    ("no-colon", head("nonsense"), (400,), CLOSED),
    ("no-name", head(": a"), (400,), CLOSED),
    ("first-folded", b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n", (400,), CLOSED),
    ("two-spaces", head(line="GET  /health HTTP/1.1"), (400,), CLOSED),
    ("tab", head(line="GET\t/health\tHTTP/1.1"), (400,), CLOSED),
    ("http09", b"GET /health\r\n\r\n", (400,), CLOSED),
    ("http2", head(line="GET /health HTTP/2.0"), (505,), CLOSED),
    ("http12", head(line="GET /health HTTP/1.2"), (400,), CLOSED),
    ("http0101", head(line="GET /health HTTP/01.01"), (400,), CLOSED),
    ("preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,), CLOSED),
    ("lower-http", head(line="GET /health http/1.1"), (400,), CLOSED),
    ("space-after", head(line="GET /health HTTP/1.1 "), (400,), CLOSED),
    ("method-space", head(line="GE T /health HTTP/1.1"), (400,), CLOSED),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,), CLOSED),
    # --- targets and hosts
    ("absolute", head(line="GET http://127.0.0.1:PORT/health HTTP/1.1"), (200,), OK),
    ("absolute-foreign", head(line="GET http://evil.example/health HTTP/1.1"), (403,), CLOSED),
    ("absolute-other-port", head(line="GET http://127.0.0.1:1/health HTTP/1.1"), (403,), CLOSED),
    ("absolute-login", head(line="GET http://u:p@127.0.0.1:PORT/health HTTP/1.1"), (400,), CLOSED),
    ("absolute-query", head(line="GET http://127.0.0.1:PORT?/health HTTP/1.1"), (400,), CLOSED),
    *((f"absolute-broken-{n}", head(line=f"GET http://{host}/health HTTP/1.1"), (400,), CLOSED)
      for n, host in enumerate(("[", "[::1", "]", "[]", "[::1]]", "", ":80", "[v1.a]", "a:b", "127.0.0.1:99999", "%00", "[::1]x"))),
    ("authority", head(line="CONNECT evil.example:443 HTTP/1.1"), (501,), CLOSED),
    ("asterisk-get", head(line="GET * HTTP/1.1"), (400,), CLOSED),
    ("no-slash", head(line="GET health HTTP/1.1"), (400,), CLOSED),
    ("fragment", head(line="GET /health#x HTTP/1.1"), (400,), CLOSED),
    ("no-host", head(host=""), (400,), CLOSED),
    ("two-hosts", head("Host: localhost"), (400,), CLOSED),
    ("host-list", head(host="localhost, localhost"), (400,), CLOSED),
    ("host-path", head(host="localhost/x"), (400,), CLOSED),
    ("host-empty", head("Host:", host=""), (400,), CLOSED),
    ("trace", head(line="TRACE / HTTP/1.1"), (405,), CLOSED),
    ("options", head(line="OPTIONS * HTTP/1.1"), (405,), CLOSED),
    ("upgrade", head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), (200,), OK),
    ("websocket", head("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"), (200,), OK),
    # --- limits
    ("long-target", head(line=f"GET /{'a' * 20_000} HTTP/1.1"), (414,), CLOSED),
    ("long-line", b"GET /" + b"a" * 100_000, (414,), CLOSED),
    ("long-head", head(*(f"X-{n}: {'a' * 900}" for n in range(60))), (431,), CLOSED),
    ("many-fields", head(*(f"X-{n}: a" for n in range(120))), (431,), CLOSED),
    ("long-method", head(line=f"{'A' * 40} / HTTP/1.1"), (400,), CLOSED),
    ("huge-body", posted("Content-Length: 99999999999"), (413,), CLOSED),
    ("expect-other", posted("Expect: 200-ok", "Content-Length: 2"), (417,), CLOSED),
    ("expect-huge", posted("Expect: 100-continue", "Content-Length: 99999999999"), (413,), CLOSED),
    ("compressed", posted("Content-Encoding: gzip", "Content-Length: 2", body=b"{}"), (415,), CLOSED),
    # --- keep-alive and pipelines
    ("http10", b"GET /health HTTP/1.0\r\n\r\n", (200,), CLOSED),
    ("http10-keep", b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", (200,), OK),
    ("close", head("Connection: close"), (200,), CLOSED),
    ("close-list", head("Connection: foo, CLOSE"), (200,), CLOSED),
    ("pipeline", head() * 3, (200, 200, 200), OK),
    ("pipeline-error", head() + head(line="GET /no HTTP/1.1") + head(), (200, 404), CLOSED),
    ("pipeline-broken", head() + b"x\r\n\r\n" + head(), (200, 400), CLOSED),
    ("empty-lines", b"\r\n\r\n" + head(), (200,), OK),
    ("many-empty-lines", b"\r\n" * 40 + head(), (400,), CLOSED),
    ("head-request", head(line="HEAD /nothing HTTP/1.1"), (404,), CLOSED),
    # --- splitting through what is echoed
    ("split-path", head(line="GET /v1/models/%0d%0aX-Injected:%20a HTTP/1.1"), (401,), CLOSED),
    ("split-model", head(f"x-api-key: {TOKEN}", line="GET /v1/models/a%0d%0aX-Injected:%201 HTTP/1.1"), (404,), OK),
    ("split-provider", posted("x-ccm-provider: a%0d%0aX-Injected: 1", "Content-Length: 2", body=b"{}"), (400,), OK),
    ("split-prefix", posted("Content-Length: 2", body=b"{}", line="POST /p/a%0d%0aX-Injected:1/v1/messages HTTP/1.1"), (404,), CLOSED),
]  # fmt: skip


def prepared(data: bytes, gateway: Gateway) -> bytes:
    return data.replace(b"PORT", str(gateway.port).encode())


@pytest.mark.parametrize(("data", "statuses", "ending"), [p[1:] for p in PROBES], ids=[p[0] for p in PROBES])
def test_probe(gateway: Gateway, up: Upstream, data: bytes, statuses: tuple[int, ...], ending: str) -> None:
    got, closed = talk(gateway, prepared(data, gateway) + CANARY)
    wanted = [*statuses, *([404] if ending == OK else [])]  # the canary: a path that does not exist
    if data.startswith(b"HEAD "):  # its 404 has a length but no body: the reader above cannot know
        return
    assert [code for code, _, _ in got] == wanted, got
    assert closed, "the canary's 404 closes, too"
    assert up.ledger == []
    assert talk(gateway, head("Connection: close"))[0][0][0] == 200


NAMES = (
    "m\r\nX-Injected: 1", "m\nX-Injected: 1", "m\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "m\x00", "m\u2028X", "\x1b[31mm", "m" * 3000,
    "m\u560d\u560aX-Injected: 1", "m%0d%0aX-Injected: 1",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("status", [200, 404])
def test_a_models_name_splits_no_answer(gateway: Gateway, up: Upstream, name: str, status: int) -> None:
    """What a client names comes back in headers (x-ccm-model) and errors, and goes into provider's requests."""
    if status != 200:
        error = {"type": "error", "error": {"type": "not_found_error", "message": f"model {name}"}}
        up.always("/a", ("status", status, {"request-id": "r\tX"}, error))
    reply = post(gateway.base_url, {**message(stream=False), "model": name}, token=TOKEN)
    assert reply.status in (200, 400, 404)
    assert "x-injected" not in reply.headers
    for seen in up.ledger:
        assert "x-injected" not in seen.headers and len(seen.headers) < 20


def test_a_providers_head_splits_no_answer(gateway: Gateway, up: Upstream) -> None:
    """CR alone, controls and 8-bit characters in a provider's headers are not relayed."""
    body = b'{"type":"message","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
    for value in (
        b"a\rX-Injected: 1",
        b"a\x00b",
        b"a\nX-Injected: 1",
        b"\xe5\x98\x8d\xe5\x98\x8aX-Injected: 1",
    ):
        up.reset()
        raw = (
            b"HTTP/1.1 200 OK\r\nrequest-id: %s\r\ncontent-length: %d\r\nset-cookie: a=b\r\naccess-control-allow-origin: *\r\n\r\n%s"
            % (value, len(body), body)
        )
        up.always("/a", ("raw", raw))
        reply = post(gateway.base_url, message(stream=False), token=TOKEN)
        assert not reply.headers.keys() & {"x-injected", "set-cookie", "access-control-allow-origin"}
        assert reply.status in (200, 502, 503)
    up.reset()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_probes_in_small_pieces(gateway: Gateway, size: int) -> None:
    """The framing is judged alike when bytes arrive one by one."""
    for name, data, statuses, ending in PROBES:
        if len(data) > 400 or not statuses or name == "head-request" or len(name) % 3:
            continue
        data = prepared(data, gateway) + CANARY
        with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(2)
            raw = b""
            try:
                for at in range(0, len(data), size):
                    sock.sendall(data[at : at + size])
                sock.shutdown(socket.SHUT_WR)
                while piece := sock.recv(65536):
                    raw += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
        if raw:  # a reset may have destroyed an early answer
            wanted: list[Any] = [*statuses, *([404] if ending == OK else [])]
            assert [code for code, _, _ in answers(raw)] == wanted, name
