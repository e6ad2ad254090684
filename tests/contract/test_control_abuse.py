"""The control socket under the checker that abuses HTTP servers: no violation. It speaks TCP, so a plain forwarder
carries its bytes to the Unix socket and back, half-closes and resets included."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ccm.control import client, unix
from tests.conftest import FakeCore

_RST = struct.pack("ii", 1, 0)


class Forwarder:
    """A TCP port of 127.0.0.1 behind which a Unix socket answers."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="forward", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                return
            inside = socket.socket(socket.AF_UNIX)
            try:
                inside.connect(self._path)
            except OSError:
                outside.close()
                continue
            ends = [threading.Lock(), [2]]
            for source, sink in ((outside, inside), (inside, outside)):
                threading.Thread(target=self._carry, args=(source, sink, ends), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, ends: list) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side broke: so does the other
            for end in (source, sink):
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    end.shutdown(socket.SHUT_RDWR)
        with ends[0]:
            ends[1][0] -= 1
            if ends[1][0] == 0:
                source.close()
                sink.close()


@pytest.fixture
def server(fake_core: FakeCore) -> Iterator[unix.Server]:
    directory = tempfile.mkdtemp(prefix="ccm-")  # short: a socket's path has 100 bytes at most
    running = unix.serve(fake_core, f"{directory}/ccm.sock")
    running.start()
    yield running
    running.stop()
    shutil.rmtree(directory)


def test_no_violation(server: unix.Server, shared: Path, tmp_path: Path) -> None:
    tool = shared / "tools" / "http_abuse.py"
    if not tool.exists():
        pytest.skip(f"there is no {tool}")
    forwarder = Forwarder(server.path)
    report = tmp_path / "report.json"
    command = [
        sys.executable, str(tool), "127.0.0.1", str(forwarder.port), "--path", "/health", "--post", "/log-level",
        "--body", '{"level": "info"}', "--no-browser", "--no-slow", "--no-load", "--timeout", "1", "--linger", "0.02", "--budget", "60",
        "--json", str(report), "-q",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    forwarder.close()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert (told["get_status"], told["post_status"]) == (200, 200) and told["counts"]["ok"] > 200, told[
        "counts"
    ]
    assert client.ask(server.path, "GET", "/health")["status"] == "ok"
