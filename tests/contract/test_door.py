"""The worker at the door: one is enough, and nobody stays outside because it is stuck."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from ccm.server.workers import Workers


class Stuck:
    """Workers whose first request never says that it waits."""

    def __init__(self) -> None:
        self.release, self.inside = threading.Event(), threading.Event()
        self.served: list[int] = []
        self.somebody = threading.Event()
        self.pairs = [socket.socketpair() for _ in range(2)]
        self.workers = Workers(self._serve, 4)
        for ours, _ in self.pairs:
            self.workers.door.add(ours.fileno())
        self.workers.start()

    def _serve(self, fd: int) -> None:
        if fd == self.pairs[0][0].fileno():
            self.inside.set()
            self.release.wait(10)
        self.served.append(fd)
        self.somebody.set()

    def close(self) -> None:
        self.release.set()
        self.workers.stop()
        for pair in self.pairs:
            for one in pair:
                one.close()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    made.pairs[0][1].send(b"x")
    assert made.inside.wait(5)
    made.pairs[1][1].send(b"x")
    yield made
    made.close()


def test_the_sweep_finds_a_door_without_anybody(stuck: Stuck) -> None:
    assert not stuck.somebody.wait(0.1)
    stuck.workers.mind()
    assert stuck.somebody.wait(5)
    assert stuck.served == [stuck.pairs[1][0].fileno()]


def test_who_says_that_he_waits_is_relieved_at_once(stuck: Stuck) -> None:
    stuck.workers.relieve()
    assert stuck.somebody.wait(5)
    assert stuck.workers.total == 2
    stuck.workers.mind()  # somebody is there: nothing to do
    assert stuck.workers.total == 2
