"""Failures that no other test has for its subject: `tests/unit/test_reliability_rows.py` says which row is held where."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from ccm.proxy.downstream import Downstream
from ccm.server.connection import Request
from ccm.server.listener import Listener
from tests import answers
from tests.gateway import Gateway, provider, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Upstream

FROM_B = "from the other one"


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    gw = shared_gateway("two", providers(up, "a", "b"))
    up.reset()
    gw.reset()
    up.always("/b", ("answer", {"text": FROM_B}))
    return gw


def test_a_name_that_nobody_knows_costs_no_client_anything(
    up: Upstream, fresh: Callable[..., Gateway]
) -> None:
    gw = fresh(provider("https://ccm-test.invalid", "gone", priority=1) + provider(up, "b", priority=2))
    reply = post(gw.base_url, message())
    assert reply.status == 200 and reply.headers["x-ccm-provider"] == "b"
    assert reply.headers["x-ccm-attempts"] == "gone=connect,b=200"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("head", b"HTTP/1.1 200 OK\r\n" + b"x-filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 5_000 + b"\r\n"),
        ("bomb", zlib.compress(b" " * 70_000_000, 9)),
        ("bomb-of-a-stream", zlib.compress(b": x\n" * 17_000_000, 9)),
    ],
)
def test_what_is_too_large_is_given_up_and_another_is_asked(
    up: Upstream, gateway: Gateway, name: str, raw: bytes
) -> None:
    if name != "head":
        kind = "text/event-stream" if "stream" in name else "application/json"
        top = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: deflate\r\ncontent-length: {len(raw)}\r\n\r\n"
        raw = top.encode() + raw
    up.script("/a", ("raw", raw))
    reply = post(gateway.base_url, message(stream="stream" in name))
    assert reply.status == 200 and reply.text == FROM_B, (reply.status, reply.body[:300])


def test_what_comes_after_the_last_event_ends_the_providers_connection(
    up: Upstream, gateway: Gateway
) -> None:
    events = answers.events("anthropic", "whole")
    up.script("/a", [("head",), ("sse", events), ("stall", 0.1), ("sse", events[1:4])], ("answer",))
    reply = post(gateway.base_url, message())
    assert reply.text == "whole" and reply.ended
    assert [event["type"] for event in reply.events][-1] == "message_stop"
    time.sleep(0.2)
    post(gateway.base_url, message())
    first, second = up.wait("/a", 2)
    assert first.connection != second.connection, "a connection with something left on it is used again"


def test_two_equal_requests_are_two_requests(up: Upstream, gateway: Gateway) -> None:
    gate = threading.Event()
    up.script(
        "/a", [("gate", gate), ("answer", {"text": "one"})], [("gate", gate), ("answer", {"text": "two"})]
    )
    body = message("the very same")
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(post(gateway.base_url, body))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    up.wait("/a", 2)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert sorted(reply.text for reply in replies) == ["one", "two"]


def test_a_client_that_stops_reading_stops_its_provider(up: Upstream, gateway: Gateway) -> None:
    """What is kept for it stays small, and the others notice nothing."""
    events = answers.events("anthropic", "x" * 40_000)
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    up.script("/a", [("head",), ("sse", events[: events.index(deltas[0])]), ("sse", deltas * 600)])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", gateway.port))
    with Client(gateway.base_url) as slow:
        slow.sock.close()
        slow.sock = sock
        before = memory(gateway.pid)
        slow.send("POST", "/v1/messages", message())
        assert slow.begin().status == 200
        time.sleep(0.5)
        (seen,) = up.seen("/a")
        assert not seen.answered.is_set(), "24 MB went somewhere"
        assert memory(gateway.pid) - before < 8_000, "kB more for a client that takes nothing"
        assert post(gateway.base_url, message()).status == 200
    assert seen.answered.wait(5) and seen.gone_at is not None, "its provider goes on for nobody"


def memory(pid: int) -> int:
    """kB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_more_than_may_be_in_flight_is_told_to_come_back(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    gw = fresh(providers(up, "full"), proxy={"max_in_flight": 2})
    gate = threading.Event()
    up.script("/full", *[[("gate", gate), ("answer",)]] * 2)
    replies: list[Reply] = []
    running = [
        threading.Thread(target=lambda: replies.append(post(gw.base_url, message()))) for _ in range(2)
    ]
    for thread in running:
        thread.start()
    up.wait("/full", 2)
    refused = post(gw.base_url, message())
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.error["type"] == "api_error"
    gate.set()
    for thread in running:
        thread.join(10)
    assert [reply.status for reply in replies] == [200, 200]
    assert post(gw.base_url, message()).status == 200


# ------------------------------------------------------------------------------------------------ many connections


@pytest.fixture
def listener() -> Iterator[Listener]:
    def handle(request: Request, down: Downstream) -> bool:
        down.answer_json(200, {})
        return False

    made = Listener("127.0.0.1", 0, handle, lambda head, local: None)
    made.workers.start()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.stop()
    thread.join(5)


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.server_address[:2], 5)  # type: ignore[type-var]


def ask(sock: socket.socket) -> bytes:
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    return sock.recv(1000)


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    assert what()


def test_one_connection_too_many_is_told_and_the_others_go_on(listener: Listener) -> None:
    listener._cap = 10
    inside = [connect(listener) for _ in range(10)]
    until(lambda: listener.connections == 10)
    for _ in range(20):
        with connect(listener) as outside:
            told = outside.recv(1000)
        assert told.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in told
    assert all(b" 200 " in ask(sock) for sock in inside)
    for sock in inside:
        sock.close()
    until(lambda: listener.connections == 0)
    with connect(listener) as again:
        assert b" 200 " in ask(again)


def test_hoarded_connections_make_room_oldest_first(listener: Listener) -> None:
    listener._cap = 10
    idle = []
    for _ in range(10):
        idle.append(connect(listener))
        assert b" 200 " in ask(idle[-1])
        time.sleep(0.002)
    until(lambda: len(listener._parked) == 10)
    listener.sweep()
    until(lambda: listener.connections == 8)
    assert [sock.recv(10) for sock in idle[:2]] == [b"", b""], "the oldest were not the ones"
    assert all(b" 200 " in ask(sock) for sock in idle[2:])
    for sock in idle:
        sock.close()


def test_a_burst_of_connects_waits_for_nothing(listener: Listener) -> None:
    began = time.monotonic()
    socks, slowest = [], 0.0
    for _ in range(300):
        at = time.monotonic()
        socks.append(connect(listener))
        slowest = max(slowest, time.monotonic() - at)
    assert slowest < 0.9, "a SYN was dropped: the queue of the listening socket is too short"
    assert b" 200 " in ask(socks[-1]) and time.monotonic() - began < 5
    for sock in socks:
        sock.close()
