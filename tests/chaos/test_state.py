"""Small cases of RELIABILITY's table about process and state that no other test shows: see the table in `suite`."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ccm.errors import Refusal
from ccm.observe.record import Attempt, RequestRecord
from ccm.server.workers import AT_DOOR, Workers
from ccm.usage.store import Store
from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Step, Upstream

STREAMS = 12


def slow_stream(seconds: float, pieces: int = 10) -> list[Step]:
    """A good stream that takes so long."""
    events = answers.events("anthropic", "word " * 20)
    step = max(1, len(events) // pieces)
    parts = [events[:4], *(events[at : at + step] for at in range(4, len(events), step))]  # content at once
    return [item for part in parts for item in (("sse", part), ("stall", seconds / len(parts)))]


def ask_many(gateway: Gateway, count: int) -> Callable[[], list[Reply]]:
    """So many streams, begun; the returned function waits for their ends."""
    replies: list[Reply] = []
    clients = [Client(gateway.base_url, timeout=30) for _ in range(count)]
    for number, client in enumerate(clients):
        client.send("POST", "/v1/messages", message(f"stream {number}"))

    def read(client: Client) -> None:
        with client:
            replies.append(client.read())

    threads = [threading.Thread(target=read, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()

    def ended() -> list[Reply]:
        for thread in threads:
            thread.join(30)
        return replies

    return ended


@pytest.mark.slow
def test_a_stop_leaves_no_stream_without_an_end(tmp_path: Path) -> None:
    """Row 64: what can end within the drain time does, the rest is told an error; exit 0."""
    with Upstream() as up:
        up.script("/a", *([slow_stream(0.8)] * (STREAMS // 2) + [slow_stream(20.0)] * (STREAMS // 2)))
        gateway = Gateway(tmp_path, providers(up, "a"), proxy={"drain_timeout_s": 1.5}).start()
        ended = ask_many(gateway, STREAMS)
        up.wait("/a", STREAMS)
        time.sleep(0.2)
        assert gateway.stop() == 0, gateway.log()[-2000:]
        replies = ended()
    assert len(replies) == STREAMS
    for reply in replies:
        assert reply.status == 200 and reply.ended, "a bare end"
        grammar.check(reply.events)
    whole = sum(reply.events[-1]["type"] == "message_stop" for reply in replies)
    assert whole == STREAMS // 2


@pytest.mark.slow
def test_a_stop_is_not_held_up_by_providers_that_say_nothing(tmp_path: Path) -> None:
    """Row 64: requests without any content yet hold the end up for seconds, however many they are."""
    with Upstream() as up:
        up.always("/a", ("stall", 30))
        limits = {"header_s": 60, "first_content_s": 60}
        gateway = Gateway(
            tmp_path, providers(up, "a", timeouts=limits), proxy={"drain_timeout_s": 0.2}
        ).start()
        clients = [Client(gateway.base_url, timeout=30) for _ in range(STREAMS)]
        for number, client in enumerate(clients):
            client.send("POST", "/v1/messages", message(f"stream {number}"))
        up.wait("/a", STREAMS)
        began = time.monotonic()
        assert gateway.stop() == 0, gateway.log()[-2000:]
        assert time.monotonic() - began < 8.0
        for client in clients:
            client.close()


@pytest.mark.slow
def test_a_process_that_slept_goes_on(tmp_path: Path) -> None:
    """Row 84: stopped for longer than a stream may be silent, then continued: what came meanwhile is read first."""
    with Upstream() as up:
        up.always("/a", slow_stream(1.0))
        gateway = Gateway(tmp_path, providers(up, "a", timeouts={"idle_s": 1.5})).start()
        ended = ask_many(gateway, STREAMS)
        up.wait("/a", STREAMS)
        time.sleep(0.3)
        os.kill(gateway.pid, signal.SIGSTOP)
        time.sleep(2.2)
        os.kill(gateway.pid, signal.SIGCONT)
        replies = ended()
        late = post(gateway.base_url, message("after it"))  # over a connection that slept, too
        assert gateway.stop() == 0
    assert late.status == 200
    ends = [reply.events[-1] for reply in replies]
    assert [end["type"] for end in ends] == ["message_stop"] * STREAMS, ends


def test_any_damage_to_the_usage_database_costs_at_most_its_rows(tmp_path: Path) -> None:
    """Row 77: random bytes flipped; the store starts every time, keeps new rows, and says what it set aside."""

    def record(number: int) -> RequestRecord:
        attempts = [Attempt("a", "m", "200", 0.1)]
        return RequestRecord(f"req_{number}", time.time(), provider="a", endpoint="a", model="m", attempts=attempts, status=200, ending="complete")  # fmt: skip

    source = tmp_path / "source.db"
    store = Store(str(source), 90, lambda text: None)
    store.start()
    for number in range(300):
        store.put(record(number))
    assert store.flush() and store.stop()
    sound, aside = source.read_bytes(), 0
    rng = random.Random(77)
    for turn in range(24):
        folder = tmp_path / f"turn-{turn}"
        folder.mkdir()
        damaged = bytearray(sound)
        for _ in range(rng.choice((1, 8, 512))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path = folder / "usage.db"
        path.write_bytes(damaged)
        told: list[str] = []
        store = Store(str(path), 90, told.append)
        store.start()
        store.put(record(9999))
        assert store.flush(10), (turn, store.status())
        status = store.status()
        assert store.stop() and status["dropped"] == 0 and not status["problem"], (turn, status, told)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",), (turn, told)
            assert db.execute("SELECT count(*) FROM requests WHERE id = 'req_9999'").fetchone() == (1,)
        left = [
            name for name in os.listdir(folder) if ".corrupt-" in name and not name.endswith(("-wal", "-shm"))
        ]
        assert bool(left) == bool(told), (turn, left, told)
        aside += bool(left)
    assert aside >= 8, "hardly anything was damaged"


def test_where_no_thread_can_be_had_those_that_run_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 81."""
    served: list[int] = []
    happened = threading.Event()

    def serve(fd: int) -> None:
        with pytest.raises(Refusal):
            workers.relieve()  # "I shall be blocked": wants another thread
        served.append(os.read(fd, 1)[0])
        happened.set()

    workers = Workers(serve, cap=8)
    workers.start()
    reading, writing = os.pipe()
    try:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        for number in range(5):
            happened.clear()
            os.write(writing, bytes([number]))
            (workers.door.arm if number else workers.door.add)(reading)
            assert happened.wait(5), f"request {number} is not served"
        assert served == [0, 1, 2, 3, 4]
        assert workers.total == AT_DOOR
    finally:
        monkeypatch.undo()
        workers.stop()
        os.close(reading)
        os.close(writing)
