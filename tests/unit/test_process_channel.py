"""The line between two processes: messages with descriptors, idle connections, and every way it can break."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from ccm.process.channel import MAX_MESSAGE_BYTES, Broken, Channel, pair, take


@pytest.fixture
def line() -> Iterator[tuple[Channel, Channel]]:
    mine, theirs = pair()
    other = Channel(theirs)
    yield mine, other
    mine.close()
    other.close()


def test_a_message_brings_its_descriptors(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    reader, writer = os.pipe()
    mine.send({"hello": {"n": 1}, "text": "é"}, [reader, writer])
    os.close(reader)
    os.close(writer)
    message, fds = other.receive(1.0)
    assert message["hello"] == {"n": 1} and message["text"] == "é"
    assert not any(os.get_inheritable(fd) for fd in fds)
    os.write(fds[1], b"through")
    assert os.read(fds[0], 10) == b"through"
    for fd in fds:
        os.close(fd)


def test_a_long_message_comes_whole(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    value = {"memory": "x" * 3_000_000}
    sender = threading.Thread(target=mine.send, args=(value,))
    sender.start()
    assert other.receive(5.0)[0]["memory"] == value["memory"]
    sender.join()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"hello\n", "broke the line"),
        (b'{"protocol":2}\n', "another protocol"),
        (b"[]\n", "another protocol"),
        (b'{"proto', "ended"),
        (b"", "ended"),
        (b"\xff\n", "broke the line"),
    ],
)
def test_what_is_no_message_is_told(line: tuple[Channel, Channel], raw: bytes, says: str) -> None:
    mine, other = line
    other.sock.sendall(raw)
    other.close()
    with pytest.raises(Broken, match=says):
        mine.receive(1.0)


def test_silence_is_told(line: tuple[Channel, Channel]) -> None:
    with pytest.raises(Broken, match=r"within 0\.01 s"):
        line[0].receive(0.01)


def test_too_much_is_not_read_for_ever(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    other.sock.settimeout(5)

    def flood() -> None:
        try:
            while True:
                other.sock.sendall(b"x" * 65536)
        except OSError:
            pass

    sender = threading.Thread(target=flood, daemon=True)
    sender.start()
    with pytest.raises(Broken, match="too much"):
        mine.receive(5.0)
    mine.close()
    sender.join(5)
    assert not sender.is_alive() and MAX_MESSAGE_BYTES < 64 << 20


def test_a_failed_message_leaves_no_descriptor(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    reader, writer = os.pipe()
    socket.send_fds(other.sock, [b"nonsense\n"], [writer])
    os.close(writer)
    with pytest.raises(Broken):
        mine.receive(1.0)
    assert os.read(reader, 1) == b"", "somebody still holds the other end"
    os.close(reader)


def test_connections_are_passed_on_without_waiting(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    here, there = socket.socketpair()
    mine.hush()
    other.hush()
    given = 0
    while given < 5000 and mine.give(there):
        given += 1
    assert 1 < given < 5000, "a successor that does not read must not stop us"
    taken = take(other.sock)
    assert taken is not None and not taken.get_inheritable()
    here.sendall(b"hi")
    assert taken.recv(2) == b"hi"
    for _ in range(given - 1):
        again = take(other.sock)
        assert again is not None
        again.close()
    with pytest.raises(BlockingIOError):
        take(other.sock)
    mine.close()
    assert take(other.sock) is None
    for one in (here, there, taken):
        one.close()


def test_the_end_of_the_line_is_seen(line: tuple[Channel, Channel]) -> None:
    mine, other = line
    here, there = socket.socketpair()
    mine.hush()
    assert not mine.ended()
    other.close()
    assert mine.ended()
    with pytest.raises(OSError):
        mine.give(here)
    here.close()
    there.close()
