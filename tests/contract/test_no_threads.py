"""Not one more thread is to be had (RELIABILITY row 81): what runs goes on, the door is minded, what would need another
thread is refused, and when there are threads again nobody remembers. The fault is planted: root has no such limit."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccm.errors import Refusal
from ccm.proxy.race import Race
from ccm.server.workers import Workers
from tests import answers
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Upstream

PROGRAM = """
import os, sys, threading
from ccm.cli.main import main

start = threading.Thread.start
def starting(self):
    if os.path.exists(os.environ["NO_THREADS"]):
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = starting
sys.exit(main())
"""


@pytest.fixture
def none_left(tmp_path: Path) -> Path:
    """While this file exists."""
    return tmp_path / "no-threads"


@pytest.fixture
def gateway(tmp_path: Path, none_left: Path, up: Upstream) -> Iterator[Gateway]:
    up.reset()
    (tmp_path / "planted.py").write_text(PROGRAM)
    env = {"NO_THREADS": str(none_left), "CCM_LOG_FORMAT": "json"}
    gateway = Gateway(tmp_path / "ccm", providers(up, "a"), failover={"midstream": "continue"}, env=env)
    gateway.program = [str(tmp_path / "planted.py")]
    gateway.start()
    yield gateway
    none_left.unlink(missing_ok=True)
    assert gateway.stop() == 0, gateway.log()


def health(gateway: Gateway) -> int:
    with Client(gateway.base_url, timeout=2) as client:
        return client.call("GET", "/health").status


def faults(gateway: Gateway) -> list[str]:
    return [line for line in gateway.log().splitlines() if '"internal error"' in line or "Traceback" in line]


def rest(client: Client, reply: Reply) -> None:
    for _ in client.pieces(reply, 0.0, "POST"):
        pass


def test_requests(gateway: Gateway, none_left: Path, up: Upstream) -> None:
    gate = threading.Event()
    events = answers.events("anthropic")
    up.script("/a", [("head",), ("sse", events[:4]), ("gate", gate), ("sse", events[4:])])
    with Client(gateway.base_url) as running:
        running.send("POST", "/v1/messages", message())
        begun = running.begin()
        assert begun.status == 200
        none_left.touch()
        up.script("/a", *[[("stall", 1.0), ("answer",)]] * 12)
        slow: list[Reply] = []
        asking = [
            threading.Thread(target=lambda: slow.append(post(gateway.base_url, message(stream=False))))
            for _ in range(12)
        ]
        for thread in asking:
            thread.start()
        for _ in range(5):  # somebody minds the door all the time
            assert health(gateway) == 200
            time.sleep(0.05)
        for thread in asking:
            thread.join(15)
        assert {reply.status for reply in slow} <= {200, 503} and len(slow) == 12
        refused = [reply for reply in slow if reply.status == 503]
        assert refused, "nothing was short"
        for reply in refused:
            assert reply.error["type"] == "api_error" and "thread" in reply.error["message"]
            assert reply.headers["retry-after"] == "1" and reply.total_s < 1.0
        assert post(gateway.base_url, message()).status == 200, "what needs no other thread is served"
        gate.set()
        rest(running, begun)
        assert begun.events[-1]["type"] == "message_stop", "what was under way ends as it should"
    none_left.unlink()
    up.script("/a", *[[("stall", 0.5), ("answer",)]] * 6)
    again: list[int] = []
    asking = [
        threading.Thread(target=lambda: again.append(post(gateway.base_url, message(stream=False)).status))
        for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(15)
    assert again == [200] * 6
    assert faults(gateway) == []


def test_a_stream_that_would_be_continued_ends_honestly(
    gateway: Gateway, none_left: Path, up: Upstream
) -> None:
    gate = threading.Event()
    text = "It was a bright cold day in April, and the clocks were striking thirteen, and so on and on."
    up.script(
        "/a", [("head",), ("sse", answers.events("anthropic", text)[:4]), ("gate", gate), ("cut", "rst")]
    )
    with Client(gateway.base_url) as running:
        running.send("POST", "/v1/messages", message())
        begun = running.begin()
        none_left.touch()
        gate.set()
        rest(running, begun)
    kinds = [event["type"] for event in begun.events]
    assert kinds.count("error") == 1 and kinds[-1] == "error" and "message_stop" not in kinds
    assert post(gateway.base_url, message()).status == 200, "the pump is dead"
    status = json.loads(gateway.ctl("status", "--json").stdout)
    assert status["in_flight"] == 0
    assert faults(gateway) == []


def test_signals_and_commands(gateway: Gateway, none_left: Path) -> None:
    none_left.touch()
    pid = gateway.pid
    for sign in (signal.SIGHUP, signal.SIGUSR2):
        os.kill(pid, sign)
        time.sleep(0.1)
        assert health(gateway) == 200, "a signal ended ccm"
    for _ in range(2):  # the second one must not find the first one under way for ever
        done = gateway.ctl("handover")
        assert done.returncode and "thread" in done.stderr, done
    assert gateway.ctl("reload").returncode == 0
    assert health(gateway) == 200
    none_left.unlink()
    assert gateway.ctl("handover").returncode == 0
    assert gateway.process is not None
    assert gateway.process.wait(10) == 0, gateway.log()  # it ends by itself; its successor when told
    gateway.process = None
    assert gateway.ctl("stop", "--now").returncode == 0


def test_a_race_without_a_second_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins on the pump's clock: a fault there would end every stream."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    race = Race(None, lambda race: None)  # type: ignore[arg-type]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    race.begin()
    race.wait_second()  # nobody runs: it must not wait for him


def test_workers_cannot_begin_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = Workers(lambda fd: None, 4)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        workers.start()
    with pytest.raises(Refusal) as caught:
        workers.relieve()
    assert (caught.value.status, caught.value.type) == (503, "api_error")
    monkeypatch.undo()
    workers.relieve()  # there is one again
    assert workers.total == 1
    workers.stop()
