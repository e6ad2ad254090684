"""The control socket over real sockets: curl-like callers, slow and hostile ones, other users, stale files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccm.control import client, unix
from ccm.errors import ControlError
from tests.conftest import ROOT, FakeCore


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private directory: a socket's path has 100 bytes at most."""
    path = Path(tempfile.mkdtemp(prefix="ccm-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(place: Path, fake_core: FakeCore) -> Iterator[unix.Server]:
    running = unix.serve(fake_core, str(place / "ccm.sock"))
    running.start()
    yield running
    running.stop()


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(path)
    return connection


def exchange(path: str, data: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    with connect(path) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_ask_and_act(server: unix.Server, fake_core: FakeCore) -> None:
    assert client.ask(server.path, "GET", "/status")["address"] == "127.0.0.1:13456"
    assert client.ask(server.path, "POST", "/switch", {"name": "openai", "for": "30m"})["primary"] == "openai"
    assert fake_core.router.primary == "openai"
    assert client.ask(server.path, "GET", "/requests", {"limit": 3})["requests"] == []
    assert "# TYPE ccm_requests_total counter" in client.ask(server.path, "GET", "/metrics.prom")
    with pytest.raises(ControlError, match="did you mean openai"):
        client.ask(server.path, "POST", "/switch", {"name": "opnai"})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: unix.Server) -> None:
    def curl(*args: str) -> str:
        command = ["curl", "-sS", "--max-time", "5", "--unix-socket", server.path, *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert json.loads(curl("http://ccm/health"))["status"] == "ok"
    assert json.loads(curl("http://ccm/switch", "-d", '{"name": "openai"}'))["primary"] == "openai"
    assert curl("-I", "http://ccm/status").startswith("HTTP/1.1 200 OK")
    assert "405" in curl("-i", "-X", "PUT", "http://ccm/status") and "Allow: GET" in curl(
        "-i", "-X", "PUT", "http://ccm/status"
    )


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: ccm\r\n\r\n", 200),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET http://ccm/health HTTP/1.1\r\nHost: ccm\r\n\r\n", 200),
        (b"GET http://ccm/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        (b"GET http://evil.example/health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: ccm\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (b"POST /auto HTTP/1.1\r\nHost: ccm\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: ccm\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
        (b"GET http://[/ HTTP/1.1\r\nHost: ccm\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: \r\n\r\n", 400),
        (b"GET /health HTTP/1.1\nHost: ccm\n\n", 400),
        (b"POST /explain HTTP/1.1\r\nHost: ccm\r\nContent-Length: 9000000\r\n\r\n", 413),
        (b"\x00\x01\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\nHost: ccm\r\n\r\n", 505),
        (b"GET /requests?limit=1&limit=2 HTTP/1.1\r\nHost: ccm\r\n\r\n", 400),
        (b"GET /nothing HTTP/1.1\r\nHost: ccm\r\n\r\n", 404),
        (b"POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 1\r\n\r\n{", 400),
        (b"POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000, 400),
        (b"POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 70000\r\n\r\n", 413),
        (b"POST /switch HTTP/1.1\r\nHost: ccm\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /" + b"a" * 40000, 431),
    ],
)  # fmt: skip
def test_every_request_is_answered_and_closed(server: unix.Server, request_bytes: bytes, status: int) -> None:
    answer = exchange(server.path, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert "error" in json.loads(body) or status == 200
    assert client.ask(server.path, "GET", "/health")["status"] == "ok"


def test_requests_that_come_together_are_all_answered(server: unix.Server) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: ccm\r\n\r\n"
    act = b'POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 18\r\n\r\n{"name": "openai"}'
    answer = exchange(server.path, one * 2000 + act + one)
    assert answer.count(b"HTTP/1.1 200 OK") == 2002 and answer.count(b"Connection: close") == 1
    assert (
        exchange(server.path, one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + one).count(
            b"HTTP/1.1"
        )
        == 1
    )


def test_a_head_request_has_no_body_whatever_it_says(server: unix.Server) -> None:
    data = b"HEAD /status HTTP/1.1\r\nHost: ccm\r\nContent-Length: 1\r\n\r\n{"
    assert exchange(server.path, data).endswith(b"\r\n\r\n")


def test_a_whole_request_of_a_client_can_be_explained(server: unix.Server, fake_core: FakeCore) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    began = time.monotonic()
    assert client.ask(server.path, "POST", "/explain", body, 5.0)["order"] == ["anthropic/m"]
    assert time.monotonic() - began < 2 and fake_core.asked == [(body, {})]


def test_a_request_in_single_bytes(server: unix.Server) -> None:
    data = b'POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 18\r\n\r\n{"name": "openai"}'
    with connect(server.path) as connection:
        for byte in data:
            connection.sendall(bytes([byte]))
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_large_refused_body_still_gets_its_answer(server: unix.Server) -> None:
    body = b"x" * 500_000
    with connect(server.path) as connection:
        try:
            connection.sendall(
                b"POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert read_all(connection).startswith(b"HTTP/1.1 413")


def test_slow_clients_do_not_delay_others_and_are_dropped(
    server: unix.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "DEADLINE_S", 0.6)
    slow = [connect(server.path) for _ in range(unix.MAX_CLIENTS - 1)]
    for connection in slow:
        connection.sendall(b"GET /hea")
    began = time.monotonic()
    assert client.ask(server.path, "GET", "/health")["status"] == "ok"
    assert time.monotonic() - began < 0.4
    slow += [
        connect(server.path) for _ in range(3)
    ]  # beyond the limit: they wait, and so does the next one ...
    assert (
        client.ask(server.path, "GET", "/health", timeout_s=5)["status"] == "ok"
    )  # ... until the slow ones are dropped
    for connection in slow:
        assert read_all(connection) == b""
        connection.close()


def test_a_client_that_leaves_is_no_trouble(server: unix.Server) -> None:
    for _ in range(50):
        with connect(server.path) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: ccm\r\n\r\n")
    assert client.ask(server.path, "GET", "/health", timeout_s=5)["status"] == "ok"


def test_nobody_else_gets_in(server: unix.Server, place: Path) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.chmod(place, 0o755)
    os.chmod(server.path, 0o666)  # even if the modes were wrong, the kernel says who calls
    script = (
        "import os, socket, sys\nos.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        "s.sendall(b'GET /status HTTP/1.1\\r\\nHost: ccm\\r\\n\\r\\n')\nout = b''\n"
        "while True:\n    part = s.recv(65536)\n    if not part: break\n    out += part\nprint(out.decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, server.path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("HTTP/1.1 403") and "another user" in done.stdout
    assert "openai" not in done.stdout


def test_start_and_stop_leave_nothing_behind(place: Path, fake_core: FakeCore) -> None:
    path = str(place / "deep" / "ccm.sock")
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        server = unix.serve(fake_core, path)
        server.start()
        assert client.ask(path, "GET", "/health")["status"] == "ok"
        server.stop()
        server.stop()
        assert not os.path.exists(path)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (fds, threads)
    assert stat.S_IMODE(os.stat(place / "deep").st_mode) == 0o700


def test_a_live_socket_is_never_taken(server: unix.Server, fake_core: FakeCore) -> None:
    with pytest.raises(ControlError, match="another ccm is running"):
        unix.serve(fake_core, server.path).start()
    assert client.ask(server.path, "GET", "/health")["status"] == "ok"
    os.unlink(server.path + ".lock")  # without the lock file the probe still finds it
    with pytest.raises(ControlError, match="another ccm is running"):
        unix.serve(fake_core, server.path).start()
    assert client.ask(server.path, "GET", "/health")["status"] == "ok"


def test_a_stale_socket_is_replaced(place: Path, fake_core: FakeCore) -> None:
    path = str(place / "ccm.sock")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    with pytest.raises(client.NotRunning):
        client.ask(path, "GET", "/health")
    server = unix.serve(fake_core, path)
    server.start()
    assert client.ask(path, "GET", "/health")["status"] == "ok"
    server.stop()


def bad_file(place: Path) -> str:
    (place / "ccm.sock").write_text("mine")
    return "no socket"


def bad_modes(place: Path) -> str:
    os.chmod(place, 0o770)
    return "chmod 700"


@pytest.mark.parametrize("spoil", [bad_file, bad_modes])
def test_unsafe_places_are_refused(place: Path, fake_core: FakeCore, spoil: Callable[[Path], str]) -> None:
    says = spoil(place)
    before = sorted(p.name for p in place.iterdir())
    with pytest.raises(ControlError) as caught:
        unix.serve(fake_core, str(place / "ccm.sock")).start()
    assert says in str(caught.value)
    assert [name for name in sorted(p.name for p in place.iterdir()) if name != "ccm.sock.lock"] == before


def test_a_path_that_is_too_long_is_said_so(place: Path, fake_core: FakeCore) -> None:
    path = str(place / ("x" * 100) / "ccm.sock")
    with pytest.raises(ControlError, match="--socket"):
        unix.serve(fake_core, path).start()
    assert list(place.iterdir()) == []


def test_the_client_says_what_is_wrong(place: Path) -> None:
    with pytest.raises(client.NotRunning):
        client.ask(str(place / "none.sock"), "GET", "/health")
    path = str(place / "mute.sock")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen(1)
        with pytest.raises(client.Unanswered, match="within"):
            client.ask(path, "GET", "/health", timeout_s=0.2)


def ctl(path: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CCM_SOCKET": path}
    command = [sys.executable, "-m", "ccm.cli.ctl", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=20)


def test_ccmctl_end_to_end(server: unix.Server, fake_core: FakeCore) -> None:
    assert "anthropic" in ctl(server.path, "providers").stdout
    assert ctl(server.path, "switch", "openai").stdout == "openai is primary now\n"
    assert json.loads(ctl(server.path, "status", "--json").stdout)["primary"] == "openai"
    assert "primary    openai" in ctl(server.path, "status").stdout
    refused = ctl(server.path, "switch", "nobody")
    assert refused.returncode == 1 and "configured: anthropic, openai" in refused.stderr
    assert ctl(server.path, "metrics", "--prometheus").stdout.startswith("# HELP ccm_")
    assert "ccm 1.0.0 is running" in ctl(server.path, "version").stdout
    assert ctl(server.path, "stop", "--now").returncode == 0 and fake_core.stops == [False]


def test_ccmctl_without_ccm(place: Path) -> None:
    done = ctl(str(place / "ccm.sock"), "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert "not running" in done.stderr and "ccm start" in done.stderr
    assert ctl(str(place / "ccm.sock"), "version").returncode == 0


def test_silent_clients_do_not_keep_the_others_out(server: unix.Server) -> None:
    silent = [connect(server.path) for _ in range(unix.MAX_CLIENTS * 4)]
    began = time.monotonic()
    for _ in range(5):
        assert client.ask(server.path, "GET", "/health")["status"] == "ok"
    assert time.monotonic() - began < 1.0  # not the seconds that a silent one is given
    for connection in silent:
        connection.close()
