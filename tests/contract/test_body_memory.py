"""Large bodies from many clients at once: what the pool has no room for is refused with 503, and everything comes back
(RELIABILITY row 82, in small: 64 bodies of 300 KB against a pool of 2 MB)."""

from __future__ import annotations

import collections
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccm.dialects.inbound.base import SURFACES
from ccm.errors import ClientGone
from ccm.proxy.downstream import Downstream
from ccm.server.bodies import Pool
from ccm.server.connection import Request
from ccm.server.listener import Listener
from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import Client, message, post
from tests.upstream import Upstream

SIZE, CLIENTS = 300_000, 64


@pytest.fixture
def listener() -> Iterator[Listener]:
    gate = threading.Event()

    def handle(request: Request, down: Downstream) -> bool:
        if request.path == "/fault":
            raise ZeroDivisionError
        if request.path == "/gone":
            raise ClientGone
        if request.path == "/kept":  # a stream that may have to be asked for again
            down.keeps_body = True
            made.kept.append(down)  # type: ignore[attr-defined]
            return True
        if request.path == "/kept-fault":
            down.keeps_body = True
            raise ZeroDivisionError
        down.waiting()
        gate.wait(5)
        down.answer_json(200, {"bytes": len(request.body)})
        return False

    made = Listener("127.0.0.1", 0, handle, lambda head, local: None)
    made.bodies = Pool(2_000_000)
    made.on_fault = lambda fault: None
    made.gate = gate  # type: ignore[attr-defined]
    made.kept = []  # type: ignore[attr-defined]
    made.workers.start()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    gate.set()
    made.shutdown()
    made.stop()
    thread.join(5)


def ask(listener: Listener, path: str, size: int) -> bytes:
    with socket.create_connection(listener.server_address[:2], 10) as sock:  # type: ignore[type-var]
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        out = b""
        try:
            sock.sendall(b"x" * size)
            while piece := sock.recv(65536):
                out += piece
        except OSError:
            pass
        return out


def settled(listener: Listener) -> bool:
    end = time.monotonic() + 5
    while (listener.bodies.taken or listener.connections) and time.monotonic() < end:
        time.sleep(0.01)
    return listener.bodies.taken == 0 and listener.connections == 0


def test_what_has_no_room_is_refused_and_all_of_it_comes_back(listener: Listener) -> None:
    replies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: replies.append(ask(listener, "/", SIZE))) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 5
    while len(replies) < CLIENTS - 2_000_000 // SIZE and time.monotonic() < end:
        time.sleep(0.01)
    assert listener.bodies.taken == 2_000_000 // SIZE * SIZE
    listener.gate.set()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(10)
    counted = collections.Counter(reply.split(b" ", 2)[1] for reply in replies)
    assert counted == {b"200": 2_000_000 // SIZE, b"503": CLIENTS - 2_000_000 // SIZE}
    assert all(
        b"retry-after: 1" in reply and b"api_error" in reply for reply in replies if b" 503 " in reply[:20]
    )
    assert settled(listener)


@pytest.mark.parametrize("path", ["/fault", "/gone", "/kept-fault"])
def test_a_request_that_fails_gives_its_memory_back(listener: Listener, path: str) -> None:
    for _ in range(20):
        ask(listener, path, SIZE)
    assert settled(listener)
    listener.gate.set()  # type: ignore[attr-defined]
    assert b" 200 " in ask(listener, "/", SIZE)[:20], "a fault ended a worker"


def test_a_client_that_leaves_in_the_middle_gives_it_back(listener: Listener) -> None:
    for _ in range(10):
        with socket.create_connection(listener.server_address[:2], 10) as sock:  # type: ignore[type-var]
            sock.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\nxx".encode())
    assert settled(listener)


VERTEX = "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict"
DOORS = {
    "/v1/messages": "messages", "/v1/messages/count_tokens": "messages", "/v1/chat/completions": "chat",
    "/p/a/openai/deployments/m/chat/completions": "chat", "/v1/responses?x=y": "responses",
    "/model/m/invoke": "bedrock", "/model/m/count-tokens": "bedrock", VERTEX: "vertex",
}  # fmt: skip


@pytest.mark.parametrize(("path", "surface"), DOORS.items())
@pytest.mark.parametrize("why", ["no-room", "too-large", "bad-chunk"])
def test_a_refused_body_is_refused_in_the_callers_own_words(
    listener: Listener, path: str, surface: str, why: str
) -> None:
    framing = {
        "no-room": f"Content-Length: {3_000_000}",
        "too-large": "Content-Length: 99000000",
        "bad-chunk": "Transfer-Encoding: chunked",
    }[why]
    with socket.create_connection(listener.server_address[:2], 10) as sock:  # type: ignore[type-var]
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\nzz\r\n".encode())
        sock.settimeout(5)
        out = b""
        while piece := sock.recv(65536):
            out += piece
    head, _, body = out.partition(b"\r\n\r\n")
    status = {"no-room": 503, "too-large": 413, "bad-chunk": 400}[why]
    assert head.startswith(b"HTTP/1.1 %d " % status), out
    told = json.loads(body)
    like = SURFACES[surface].error(status, "api_error", "text", "req_1")
    assert told.keys() == like.keys() and (told.get("type") == like.get("type"))
    if isinstance(like.get("error"), dict):
        assert told["error"].keys() == like["error"].keys()
    assert "ccm holds" in str(told) or why != "no-room"


def test_what_the_request_before_was_says_nothing_of_the_next(listener: Listener) -> None:
    listener.gate.set()  # type: ignore[attr-defined]
    with socket.create_connection(listener.server_address[:2], 10) as sock:  # type: ignore[type-var]
        good = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
        sock.sendall(good + b"nonsense\r\n\r\n")
        sock.settimeout(5)
        out = b""
        while piece := sock.recv(65536):
            out += piece
    assert json.loads(out.rpartition(b"\r\n\r\n")[2])["type"] == "error"


def test_a_stream_that_may_be_asked_for_again_keeps_its_memory(listener: Listener) -> None:
    socks = []
    for _ in range(6):
        sock = socket.create_connection(listener.server_address[:2], 10)  # type: ignore[type-var]
        sock.sendall(f"POST /kept HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        sock.sendall(b"x" * SIZE)
        socks.append(sock)
    end = time.monotonic() + 5
    kept: list[Downstream] = listener.kept  # type: ignore[attr-defined]
    while len(kept) < 6 and time.monotonic() < end:
        time.sleep(0.01)
    assert listener.bodies.taken == 6 * SIZE
    assert b" 503 " in ask(listener, "/", SIZE)[:20]
    for number, down in enumerate(kept):  # a proper end, and a client that left
        down.release() if number % 2 else down.abandon()
    for sock in socks:
        sock.close()
    assert settled(listener)
    listener.gate.set()  # type: ignore[attr-defined]
    assert b" 200 " in ask(listener, "/", SIZE)[:20]


PROGRAM = """
import sys
from ccm.cli.main import main
from ccm.server.bodies import Pool
Pool.__init__.__defaults__ = (2_000_000, 16384)
sys.exit(main())
"""


def test_continuing_streams_are_counted(tmp_path: Path, up: Upstream) -> None:
    """midstream = "continue" keeps the request of every stream."""
    (tmp_path / "small.py").write_text(PROGRAM)
    gateway = Gateway(tmp_path / "ccm", providers(up, "a", "b"), failover={"midstream": "continue"})
    gateway.program = [str(tmp_path / "small.py")]
    gateway.start()
    gate, events = threading.Event(), answers.events("anthropic")
    up.script(
        "/a",
        [
            ("head",),
            ("sse", events[:4]),
            ("gate", gate),
            ("sse", events[4:]),
        ],
    )
    try:
        with Client(gateway.base_url) as first:
            first.send("POST", "/v1/messages", message("x" * 1_500_000))
            assert first.begin().status == 200
            refused = post(gateway.base_url, message("y" * 1_500_000))
            assert refused.status == 503 and refused.headers["retry-after"] == "1"
            assert post(gateway.base_url, message("z" * 100_000)).status == 200
            gate.set()
        end = time.monotonic() + 5
        while (
            last := post(gateway.base_url, message("y" * 1_500_000))
        ).status != 200 and time.monotonic() < end:
            time.sleep(0.02)
        assert last.status == 200
    finally:
        gate.set()
        assert gateway.stop() == 0
