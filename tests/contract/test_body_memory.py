"""Large bodies from many clients at once: what the pool has no room for is refused with 503, and everything comes back
(RELIABILITY row 82, in small: 64 bodies of 300 KB against a pool of 2 MB)."""

from __future__ import annotations

import collections
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ccm.errors import ClientGone
from ccm.proxy.downstream import Downstream
from ccm.server.bodies import Pool
from ccm.server.connection import Request
from ccm.server.listener import Listener

SIZE, CLIENTS = 300_000, 64


@pytest.fixture
def listener() -> Iterator[Listener]:
    gate = threading.Event()

    def handle(request: Request, down: Downstream) -> bool:
        if request.path == "/fault":
            raise ZeroDivisionError
        if request.path == "/gone":
            raise ClientGone
        down.waiting()
        gate.wait(5)
        down.answer_json(200, {"bytes": len(request.body)})
        return False

    made = Listener("127.0.0.1", 0, handle, lambda head, local: None)
    made.bodies = Pool(2_000_000)
    made.on_fault = lambda fault: None
    made.gate = gate  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("path", ["/fault", "/gone"])
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
