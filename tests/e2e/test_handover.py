"""A new process takes over: connections, streams, the control socket, decisions and health; or nothing changes."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccm.control.client import NotRunning, Unanswered, ask
from ccm.errors import ControlError
from tests import answers
from tests.chaos.lifecycle import BUILD, alive, hand_over, install, pid_of
from tests.gateway import Gateway, free_port, providers
from tests.http1 import Client, message
from tests.upstream import Upstream


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def gateway(tmp_path: Path, up: Upstream) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path / "ccm", providers(up, "a", "b", "c"))
    gateway.program = [str(tmp_path / "ccm-build.py")]
    install(gateway, BUILD)
    gateway.start()
    first, last = gateway.pid, 0
    try:
        yield gateway
        last = pid_of(gateway)
        ask(gateway.env["CCM_SOCKET"], "POST", "/stop", {"drain": False})
    except NotRunning:
        pass
    finally:
        for pid in {first, last} - {0}:
            gone(gateway, pid)


def gone(gateway: Gateway, pid: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while alive(pid):
        if gateway.process is not None:
            gateway.process.poll()
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            pytest.fail(f"process {pid} is still there:\n{gateway.log()[-2000:]}")
        time.sleep(0.02)


def test_a_stream_a_kept_connection_and_what_is_known_live_on(gateway: Gateway, up: Upstream) -> None:
    path, first = gateway.env["CCM_SOCKET"], gateway.pid
    events, gate = answers.events("anthropic"), threading.Event()
    up.script("/a", ("status", 429, {"retry-after": "600"}, answers.error("anthropic", 429, "slow down")))
    with (
        Client(gateway.base_url) as streaming,
        Client(gateway.base_url) as kept,
        Client(gateway.base_url) as new,
    ):
        assert kept.post(message()).status == 200, "b answered: a is cooling down"
        ask(path, "POST", "/disable", {"name": "c"})
        ask(path, "POST", "/log-level", {"level": "debug"})
        up.script("/b", [("sse", events[:4]), ("gate", gate), ("sse", events[4:])])
        began = time.monotonic()
        streaming.send("POST", "/v1/messages", message())
        reply = streaming.begin(began)
        answer = hand_over(gateway)
        assert answer["pid"] == pid_of(gateway) != first and answer["from_pid"] == first
        assert alive(first), "its stream is not over"
        status = ask(path, "GET", "/status")
        rows = {row["name"]: row for row in status["providers"]}
        assert rows["c"]["state"] == "disabled" and status["log_level"] == "debug"
        assert rows["a"]["endpoints"][0]["cooldown_s"] > 500, "the cool-down was told"
        assert kept.post(message()).status == 200, "the very same connection"
        assert new.post(message()).status == 200, "accepted before, used after"
        gate.set()
        for _ in streaming.pieces(reply, began):
            pass
        assert reply.ended and reply.events[-1]["type"] == "message_stop"
        again = streaming.post(message())
        assert again.status == 200 and "close" not in again.headers.get("connection", "")
        gone(gateway, first)
        assert gateway.process is not None and gateway.process.wait() == 0
        assert streaming.post(message()).status == 200
    assert "Traceback" not in gateway.log()


def test_the_last_one_takes_the_connections_of_all_before_it(gateway: Gateway, up: Upstream) -> None:
    events, gate, first = answers.events("anthropic"), threading.Event(), gateway.pid
    up.script("/a", [("sse", events[:4]), ("gate", gate), ("sse", events[4:])])
    with Client(gateway.base_url) as client:
        began = time.monotonic()
        client.send("POST", "/v1/messages", message())
        reply = client.begin(began)
        hand_over(gateway)
        second = pid_of(gateway)
        hand_over(gateway)
        gone(gateway, second)
        assert alive(first)
        gate.set()
        for _ in client.pieces(reply, began):
            pass
        assert reply.ended
        assert client.post(message()).status == 200
        gone(gateway, first)
        assert client.post(message()).status == 200
    assert pid_of(gateway) not in (first, second)


def test_a_stop_reaches_those_who_still_drain(gateway: Gateway, up: Upstream) -> None:
    gateway.proxy["drain_timeout_s"] = 0.3
    gateway.write(providers(up, "a", "b"))
    ask(gateway.env["CCM_SOCKET"], "POST", "/reload")
    events, gate, first = answers.events("anthropic"), threading.Event(), gateway.pid
    up.script("/a", [("sse", events[:4]), ("gate", gate)])
    with Client(gateway.base_url) as client:
        began = time.monotonic()
        client.send("POST", "/v1/messages", message())
        reply = client.begin(began)
        hand_over(gateway)
        second = pid_of(gateway)
        ask(gateway.env["CCM_SOCKET"], "POST", "/stop")
        gone(gateway, second)
        end = time.monotonic() + 2
        while Path(
            f"/proc/{second}"
        ).exists():  # its parent, which drains, reaps it: who waits for its end sees it
            assert time.monotonic() < end
            time.sleep(0.01)
        gone(gateway, first)
        for _ in client.pieces(reply, began):
            pass
        assert reply.error["type"] == "api_error" and "stopping" in reply.error["message"], "an honest end"
    with pytest.raises(NotRunning):
        pid_of(gateway)
    gate.set()


def test_another_address_and_an_invalid_configuration(gateway: Gateway, up: Upstream) -> None:
    path, first, old = gateway.env["CCM_SOCKET"], gateway.pid, gateway.base_url
    gateway.proxy["watch"] = False
    gateway.config_path.write_text("[providers.a\n")
    with pytest.raises(ControlError, match=r"ccm-config\.toml"):
        hand_over(gateway)
    assert pid_of(gateway) == first and ask(path, "GET", "/status")["handover"]["state"] == "failed"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.proxy["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        gateway.write(providers(up, "a"))
        with pytest.raises(ControlError, match="in use"):
            hand_over(gateway)
    port = free_port()
    gateway.proxy["listen"] = f"127.0.0.1:{port}"
    gateway.write(providers(up, "a"))
    hand_over(gateway)
    gone(gateway, first)
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.post(message()).status == 200
    with pytest.raises(ConnectionRefusedError):
        Client(old)


def test_the_environment_reaches_the_successor_only_through_exec(gateway: Gateway) -> None:
    """Keys leave os.environ after the start, so a successor must get them from what was kept."""
    first = gateway.pid
    hand_over(gateway)
    if os.geteuid() == 0:  # a process that holds keys shows its environment to nobody else
        assert b"CCM_TEST_KEY=" in Path(f"/proc/{pid_of(gateway)}/environ").read_bytes()
    with Client(gateway.base_url) as client:
        assert client.post(message()).status == 200
    gone(gateway, first)
    hand_over(gateway)  # and once more, from what the successor kept


def test_service_managers_are_told(tmp_path: Path, up: Upstream) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        gateway = Gateway(
            tmp_path / "ccm", providers(up, "a"), env={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        gateway.start()
        first = gateway.pid
        assert manager.recv(500).startswith(f"READY=1\nMAINPID={first}\n".encode())
        hand_over(gateway)
        second = pid_of(gateway)
        told = {manager.recv(500) for _ in range(2)}
        assert f"MAINPID={second}".encode() in told
        assert any(line.startswith(b"READY=1\n") for line in told)
        gone(gateway, first)
        os.kill(second, signal.SIGTERM)
        assert manager.recv(500) == b"STOPPING=1", "and not from the one that handed over"
        gone(gateway, second)


def test_a_stop_in_the_middle_of_a_handover_holds(gateway: Gateway, up: Upstream) -> None:
    for wait_s in (0.0, 0.15, 0.3):
        if gateway.process is None:
            gateway.start()
        pid = gateway.pid
        ask(gateway.env["CCM_SOCKET"], "POST", "/handover")
        time.sleep(wait_s)
        os.kill(pid, signal.SIGTERM)
        gone(gateway, pid)
        end = time.monotonic() + 10
        while (
            time.monotonic() < end
        ):  # whoever has taken over before the signal goes on; nobody may be half there
            try:
                os.kill(pid_of(gateway), signal.SIGTERM)
            except (NotRunning, Unanswered):
                break
            time.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            Client(gateway.base_url)
        gateway.process = None


def test_a_second_sigterm_ends_at_once(tmp_path: Path, up: Upstream) -> None:
    gateway = Gateway(tmp_path / "ccm", providers(up, "a"))
    gateway.start()
    gate = threading.Event()
    up.script("/a", [("sse", answers.events("anthropic")[:4]), ("gate", gate)])
    with Client(gateway.base_url) as client:
        client.send("POST", "/v1/messages", message())
        client.begin()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert gateway.process.poll() is None, "it waits for the stream"
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(2) == 143
        assert client.closed()
    gate.set()
    gateway.start()  # what it left behind is no obstacle
    assert gateway.stop() == 0
