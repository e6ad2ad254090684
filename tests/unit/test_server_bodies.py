"""server.bodies and the connection that reserves from it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ccm.errors import Refusal
from ccm.server.bodies import Pool
from ccm.server.connection import Connection


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    listener = socket.create_server(("127.0.0.1", 0))
    theirs.close()
    ours.close()
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    ours.setblocking(False)
    yield ours, theirs
    for sock in (ours, theirs, listener):
        sock.close()


def admit(head: object) -> None:
    pass


def head(*fields: str) -> bytes:
    return ("POST / HTTP/1.1\r\nHost: a\r\n" + "".join(f"{f}\r\n" for f in fields) + "\r\n").encode()


def test_a_pool_gives_what_it_has_and_no_more() -> None:
    pool = Pool(100)
    pool.take(60)
    pool.take(40)
    with pytest.raises(Refusal) as caught:
        pool.take(1)
    assert (caught.value.status, caught.value.type) == (
        503,
        "api_error",
    )  # overloaded_error would end Claude Code's tries
    assert caught.value.headers == {"retry-after": "1"}
    pool.give(60)
    pool.take(1)
    assert pool.taken == 41


def test_a_body_is_reserved_before_it_is_read_and_handed_over_with_its_request(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pool = Pool(100_000, free_bytes=10)
    conn = Connection(pair[0], pool)
    pair[1].sendall(head("Content-Length: 60000"))
    while conn.read(admit) is None and not pool.taken:
        pass
    assert pool.taken == 60_000
    pair[1].sendall(b"x" * 60_000)
    while (request := conn.read(admit)) is None:
        pass
    assert len(request.body) == 60_000
    assert (conn.hand_over(), conn.hand_over(), pool.taken) == (60_000, 0, 60_000)
    pool.give(60_000)
    conn.close()
    assert pool.taken == 0


def test_what_does_not_fit_is_refused_before_it_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    conn = Connection(pair[0], Pool(50_000, free_bytes=10))
    pair[1].sendall(head("Content-Length: 60000"))
    with pytest.raises(Refusal):
        while conn.read(admit) is None:
            pass


def test_a_small_body_costs_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    pool = Pool(0, free_bytes=10)
    conn = Connection(pair[0], pool)
    pair[1].sendall(
        head("Content-Length: 10")
        + b"x" * 10
        + head("Transfer-Encoding: chunked")
        + b"a\r\n0123456789\r\n0\r\n\r\n"
    )
    bodies = []
    while len(bodies) < 2:
        if (request := conn.read(admit)) is not None:
            bodies.append(request.body)
    assert bodies == [b"x" * 10, b"0123456789"] and pool.taken == 0


def test_a_chunked_body_reserves_as_it_grows_and_a_closed_connection_gives_back(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pool = Pool(3 * 1024 * 1024, free_bytes=10)
    conn = Connection(pair[0], pool)
    pair[1].sendall(head("Transfer-Encoding: chunked"))
    seen = set()
    piece = b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000)
    with pytest.raises(Refusal):
        for _ in range(60):
            pair[1].sendall(piece)
            conn.read(admit)
            seen.add(pool.taken)
    assert max(seen) == pool.limit and len(seen) >= 3
    conn.close()
    assert pool.taken == 0
