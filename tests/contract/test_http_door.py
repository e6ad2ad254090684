"""The HTTP port itself: keep-alive, bodies, paths that clients really use, refusals, and who may come in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Upstream

TOKEN = "local-token-of-this-test"
PROXY = {"auth_token": TOKEN}


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    gw = shared_gateway("door", providers(up, "a"), proxy=PROXY)
    up.reset()
    return gw


@pytest.fixture
def client(gateway: Gateway) -> Any:
    with Client(gateway.base_url, token=TOKEN) as connection:
        yield connection


def check_refused(reply: Reply, status: int, type: str) -> None:
    assert reply.status == status, (reply.status, reply.body[:300])
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.json()["type"] == "error"
    assert reply.error["type"] == type
    assert reply.error["message"]
    assert not [name for name in reply.headers if name.startswith("access-control-")]


class TestConnections:
    def test_one_connection_serves_many_requests(self, up: Upstream, client: Client) -> None:
        began = time.monotonic()
        for n in range(10):
            assert client.post(message(f"{n}", stream=False)).status == 200
            assert client.post(message(f"{n}")).status == 200
            assert client.call("GET", "/health").status == 200
        assert time.monotonic() - began < 1.0, "44 ms each would mean Nagle"
        assert len(up.seen("/a")) == 20

    def test_the_provider_connection_is_reused(self, up: Upstream, client: Client) -> None:
        for _ in range(5):
            client.post(message())
            client.post(message(stream=False))
        assert len({seen.connection for seen in up.seen("/a")}) == 1

    def test_pipelined_requests_are_answered_in_order(self, client: Client) -> None:
        request = client.head("GET", "/health")
        client.sock.sendall(request * 3)
        assert [client.read().status for _ in range(3)] == [200] * 3

    def test_connection_close_is_obeyed(self, client: Client) -> None:
        reply = client.call("GET", "/health", headers={"connection": "close"})
        assert reply.status == 200
        assert client.closed(1)

    def test_http_1_0_gets_a_body_that_ends_with_the_connection(self, client: Client) -> None:
        raw = json.dumps(message()).encode()
        head = client.head(
            "POST", "/v1/messages", {"content-type": "application/json", "content-length": str(len(raw))}
        )
        client.sock.sendall(head.replace(b"HTTP/1.1", b"HTTP/1.0") + raw)
        reply = client.read()
        assert reply.status == 200
        assert "transfer-encoding" not in reply.headers
        assert reply.events[-1]["type"] == "message_stop"

    def test_an_error_leaves_the_connection_usable(self, client: Client) -> None:
        assert client.post(b"{}").status == 400
        assert client.post(message()).status == 200


class TestBodies:
    def test_chunked(self, up: Upstream, client: Client) -> None:
        raw = json.dumps(message("in pieces")).encode()
        head = client.head(
            "POST", "/v1/messages", {"content-type": "application/json", "transfer-encoding": "chunked"}
        )
        client.sock.sendall(head)
        for i in range(0, len(raw), 10):
            piece = raw[i : i + 10]
            client.sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.sock.sendall(b"0\r\n\r\n")
        assert client.read().status == 200
        assert up.seen("/a")[0].json["messages"][0]["content"] == "in pieces"
        assert client.post(message()).status == 200, "and the next request on the connection"

    def test_expect_100_continue(self, up: Upstream, client: Client) -> None:
        raw = json.dumps(message("patient")).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(raw)),
            "expect": "100-continue",
        }
        client.sock.sendall(client.head("POST", "/v1/messages", headers))
        client.sock.settimeout(2)
        assert client.sock.recv(1000).startswith(b"HTTP/1.1 100")
        client.sock.sendall(raw)
        assert client.read().status == 200
        assert len(up.seen("/a")) == 1

    def test_no_100_for_a_body_that_is_refused(self, client: Client) -> None:
        headers = {"content-type": "application/json", "content-length": str(10**9), "expect": "100-continue"}
        client.sock.sendall(client.head("POST", "/v1/messages", headers))
        reply = client.read()
        assert reply.interim == []
        check_refused(reply, 413, "request_too_large")

    def test_thirty_megabytes_are_fine(self, up: Upstream, gateway: Gateway) -> None:
        reply = post(gateway.base_url, message("x" * 30_000_000, stream=False), token=TOKEN, timeout=30)
        assert reply.status == 200
        assert len(up.seen("/a")[0].json["messages"][0]["content"]) == 30_000_000

    @pytest.mark.parametrize("size", [33 * 1024 * 1024, 10**12])
    def test_too_large_is_413_before_it_is_read(self, up: Upstream, client: Client, size: int) -> None:
        headers = {"content-type": "application/json", "content-length": str(size)}
        client.sock.sendall(client.head("POST", "/v1/messages", headers))
        check_refused(client.read(), 413, "request_too_large")
        assert up.seen() == []

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"text"',
            b"\xff\xfe{}",
            b'{"model": "m", "messages": [}',
            b"[" * 100_000,
        ],
        ids=["empty", "open", "list", "null", "string", "not-utf8", "broken", "deep"],
    )
    def test_bad_json_is_400(self, up: Upstream, client: Client, raw: bytes) -> None:
        check_refused(client.post(raw), 400, "invalid_request_error")
        assert up.seen() == []

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"model": "m"},
            {"messages": []},
            {"model": 7, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
        ],
        ids=["empty", "no-messages", "no-model", "model-no-string"],
    )
    def test_a_body_without_the_essentials_is_400(self, client: Client, body: dict[str, Any]) -> None:
        check_refused(client.post(body), 400, "invalid_request_error")

    def test_text_plain_is_refused(self, up: Upstream, client: Client) -> None:
        """What a web page can send without asking first."""
        reply = client.post(message(), headers={"content-type": "text/plain"})
        assert reply.status in (403, 415)
        assert up.seen() == []


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/v1/messages", "/v1/messages?beta=true", "/v1/v1/messages", "/v1/v1/messages?beta=true"]
    )
    def test_messages(self, up: Upstream, client: Client, path: str) -> None:
        assert client.post(message(), path).status == 200
        assert up.seen("/a")[0].path.partition("?")[0] == "/a/v1/messages"

    @pytest.mark.parametrize("path", ["/", "/api/hello"])
    def test_head_probes_of_claude_code(self, client: Client, path: str) -> None:
        reply = client.call("HEAD", path, headers={"x-api-key": ""})
        assert reply.status in (200, 204, 404)
        assert reply.body == b""
        assert client.call("GET", "/health").status == 200, "no body left on the connection"

    def test_health_needs_no_token_and_says_little(self, client: Client) -> None:
        reply = client.call("GET", "/health", headers={"x-api-key": ""})
        assert reply.status == 200
        assert reply.json()["status"] == "ok"
        assert TOKEN.encode() not in reply.body

    def test_telemetry_is_swallowed(self, up: Upstream, client: Client) -> None:
        reply = client.post({"events": [{"secret": "stays here"}] * 500}, "/api/event_logging/batch")
        assert reply.status in (200, 204)
        assert up.ledger == []

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/nothing"), ("POST", "/v1/nothing"), ("GET", "/v1/messages/x"), ("GET", "/../etc")],
    )
    def test_unknown_paths(self, client: Client, method: str, path: str) -> None:
        check_refused(client.call(method, path, {} if method == "POST" else None), 404, "not_found_error")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_wrong_methods(self, up: Upstream, client: Client, method: str) -> None:
        assert client.call(method, "/v1/messages").status in (404, 405)
        assert up.seen() == []


class TestWhoMayComeIn:
    @pytest.mark.parametrize(
        "headers",
        [
            {"x-api-key": TOKEN},
            {"x-api-key": "", "authorization": f"Bearer {TOKEN}"},
            {"x-api-key": "", "authorization": f"bearer {TOKEN}"},
            {"x-api-key": TOKEN, "authorization": f"Bearer {TOKEN}"},
        ],
        ids=["x-api-key", "bearer", "lower-case", "both"],
    )
    def test_the_token_in_either_header(self, client: Client, headers: dict[str, str]) -> None:
        assert client.post(message(), headers=headers).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-api-key": ""},
            {"x-api-key": "wrong"},
            {"x-api-key": TOKEN[:-1]},
            {"x-api-key": "", "authorization": "Bearer wrong"},
            {"x-api-key": "", "authorization": f"Basic {TOKEN}"},
            {"x-api-key": "", "authorization": TOKEN},
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
    def test_a_wrong_token_is_401_for_good(
        self, up: Upstream, client: Client, path: str, headers: dict[str, str]
    ) -> None:
        reply = client.post(message(), path, headers)
        check_refused(reply, 401, "authentication_error")
        assert reply.headers["x-should-retry"] == "false", "else Claude Code tries seven times"
        assert up.ledger == []

    def test_models_need_the_token_too(self, client: Client) -> None:
        check_refused(
            client.call("GET", "/v1/models", headers={"x-api-key": "no"}), 401, "authentication_error"
        )

    def test_the_clients_token_never_reaches_the_provider(self, up: Upstream, client: Client) -> None:
        client.post(
            message(),
            headers={"authorization": f"Bearer {TOKEN}", "cookie": "a=b", "x-forwarded-for": "1.2.3.4"},
        )
        seen = up.seen("/a")[0]
        assert TOKEN not in str(seen.headers)
        assert not seen.headers.keys() & {"cookie", "x-forwarded-for", "origin"}

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "169.254.169.254"]
    )
    def test_a_foreign_host_is_403(self, up: Upstream, client: Client, host: str) -> None:
        check_refused(client.post(message(), headers={"host": host}), 403, "permission_error")
        assert up.ledger == []

    @pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST"])
    def test_this_machine_by_its_names(self, gateway: Gateway, client: Client, host: str) -> None:
        assert client.post(message(), headers={"host": host.format(port=gateway.port)}).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "cross-site"},
            {"origin": "https://evil.example", "content-type": "text/plain"},
        ],
    )
    def test_web_pages_are_403(self, up: Upstream, client: Client, headers: dict[str, str]) -> None:
        check_refused(client.post(message(), headers=headers), 403, "permission_error")
        assert up.ledger == []

    def test_no_preflight_is_granted(self, client: Client) -> None:
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        reply = client.call("OPTIONS", "/v1/messages", headers=asked)
        assert reply.status >= 400
        assert not [name for name in reply.headers if name.startswith("access-control-")]


class TestHeaders:
    def test_anthropics_headers_go_out_and_come_back(self, up: Upstream, client: Client) -> None:
        limits = {
            "anthropic-ratelimit-requests-remaining": "41",
            "request-id": "req_up_1",
            "set-cookie": "a=b",
            "server": "up",
        }
        up.script("/a", [("head", 200, limits), ("sse", answers.events("anthropic"))])
        sent = {
            "anthropic-beta": "x-2025-01-01,new-2030-01-01",
            "anthropic-version": "2023-06-01",
            "x-stainless-lang": "js",
        }
        reply = client.post(message(), headers=sent)
        seen = up.seen("/a")[0].headers
        assert seen["anthropic-beta"] == sent["anthropic-beta"]
        assert seen["anthropic-version"] == "2023-06-01"
        assert "x-stainless-lang" not in seen
        assert reply.headers["anthropic-ratelimit-requests-remaining"] == "41"
        assert "set-cookie" not in reply.headers and reply.headers.get("server") != "up"
        assert reply.headers["x-ccm-provider"] == "a"
        assert reply.headers["x-ccm-model"]

    def test_the_upstream_is_asked_for_plain_bytes(self, up: Upstream, client: Client) -> None:
        client.post(message(), headers={"accept-encoding": "gzip, deflate, br, zstd"})
        assert up.seen("/a")[0].headers.get("accept-encoding", "identity") == "identity"

    def test_every_answer_has_an_id(self, client: Client) -> None:
        ids = {client.post(message(stream=False)).headers["request-id"] for _ in range(3)}
        assert len(ids) == 3
