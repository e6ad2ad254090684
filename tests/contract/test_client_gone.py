"""R37: the client leaves, and the provider is told within two seconds, whatever phase the request is in (RELIABILITY 54, 55)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import Client, message, post
from tests.upstream import Step, Upstream

DIALECTS = ("anthropic", "openai_chat")
WITHIN_S = 2.0


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    dialect = request.node.callspec.params["dialect"]
    config = providers(
        up, "a", "b", dialect=dialect, timeouts={"header_s": 20, "first_content_s": 20, "idle_s": 20}
    )
    gw = shared_gateway(dialect, config)
    up.reset()
    gw.reset()
    return gw


def leave(client: Client, how: str) -> float:
    """Closes the client's connection by FIN or RST; when that was."""
    if how == "rst":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return time.monotonic()


def check_cancelled(up: Upstream, gateway: Gateway, left_at: float) -> None:
    (seen,) = up.seen("/a")
    assert seen.answered.wait(WITHIN_S + 1), "the provider goes on for nobody"
    assert seen.gone_at is not None and seen.gone_at - left_at < WITHIN_S
    assert up.seen("/b") == [], "nobody is left to fail over for"
    up.reset()
    assert post(gateway.base_url, message()).headers["x-ccm-provider"] == "a", "no failure of the provider"


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("dialect", DIALECTS)
class TestLeaving:
    def test_before_the_head(self, up: Upstream, gateway: Gateway, dialect: str, how: str) -> None:
        up.always("/a", ("stall", 15))
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message())
            up.wait("/a")
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)

    def test_before_the_first_content(self, up: Upstream, gateway: Gateway, dialect: str, how: str) -> None:
        up.always("/a", [("sse", answers.events(dialect)[:1]), ("stall", 15)])
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message())
            up.wait("/a")
            time.sleep(0.1)
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)

    def test_in_the_middle_of_a_quiet_stream(
        self, up: Upstream, gateway: Gateway, dialect: str, how: str
    ) -> None:
        events = answers.events(dialect)
        up.always("/a", [("sse", events[: len(events) // 2]), ("stall", 15)])
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message())
            reply = client.begin()
            assert reply.status == 200
            next(client.pieces(reply, 0))
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)

    def test_in_the_middle_of_a_busy_stream(
        self, up: Upstream, gateway: Gateway, dialect: str, how: str
    ) -> None:
        events = answers.events(dialect, "word " * 2000)
        up.always("/a", ("sse", events, 0.01))
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message())
            reply = client.begin()
            next(client.pieces(reply, 0))
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)

    def test_while_waiting_for_json(self, up: Upstream, gateway: Gateway, dialect: str, how: str) -> None:
        up.always("/a", ("stall", 15))
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message(stream=False))
            up.wait("/a")
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)

    def test_in_the_middle_of_a_json_body(
        self, up: Upstream, gateway: Gateway, dialect: str, how: str
    ) -> None:
        script: list[Step] = [
            ("head", 200, {"content-type": "application/json"}),
            ("bytes", b'{"id": "x",'),
            ("stall", 15),
        ]
        up.always("/a", script)
        with Client(gateway.base_url) as client:
            client.send("POST", "/v1/messages", message(stream=False))
            up.wait("/a")
            time.sleep(0.1)
            left_at = leave(client, how)
        check_cancelled(up, gateway, left_at)


@pytest.mark.parametrize("dialect", ["anthropic"])
def test_leaving_during_a_wait_ends_the_wait(
    up: Upstream, shared_gateway: Callable[..., Gateway], dialect: str
) -> None:
    """One provider that asks for patience: the client leaves, and no second attempt is made."""
    gw = shared_gateway("alone", providers(up, "a"), failover={"backoff_ms": 4000, "max_retries": 3})
    up.reset()
    gw.reset()
    up.always("/a", ("status", 529, {}, answers.error("anthropic", 529, "Overloaded")))
    with Client(gw.base_url) as client:
        client.send("POST", "/v1/messages", message())
        up.wait("/a")
    time.sleep(0.3)
    count = len(up.seen("/a"))
    time.sleep(1.0)
    assert len(up.seen("/a")) == count


@pytest.mark.parametrize("dialect", ["anthropic"])
def test_a_client_that_half_closes_still_gets_its_answer(
    up: Upstream, gateway: Gateway, dialect: str
) -> None:
    up.always("/a", [("stall", 0.3), ("answer", {"text": "still here"})])
    with Client(gateway.base_url) as client:
        client.send("POST", "/v1/messages", message(stream=False))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read().text == "still here"
