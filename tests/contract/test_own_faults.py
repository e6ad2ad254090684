"""A bug of ccm's own, anywhere on a connection's way: the log has its trace, redacted, it is counted, and nobody else
notices."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from ccm.proxy.pump import Pump
from tests.gateway import KEY, REPO, Gateway, provider
from tests.http1 import Client, message, post
from tests.upstream import Upstream

# ccm with two bugs: one outside of any request, in the thread that serves a connection; one that ends a thread
PROGRAM = """
import os, sys, threading
from ccm.cli.main import main
from ccm.server.connection import Connection

begin = Connection._begin_body
def begin_with_a_bug(self, head, admit):
    if head.target == "/thread":
        def planted():
            raise KeyError("planted in a thread " + os.environ["PLANTED"])
        threading.Thread(target=planted, name="ccm-planted").start()
    if head.target == "/connection":
        raise ZeroDivisionError("planted in a connection " + os.environ["PLANTED"])
    return begin(self, head, admit)
Connection._begin_body = begin_with_a_bug
sys.exit(main())
"""


def lines(gateway: Gateway, count: int) -> list[dict[str, Any]]:
    end = time.monotonic() + 5
    while True:
        found = [json.loads(line) for line in gateway.log().splitlines() if '"internal error"' in line]
        if len(found) >= count or time.monotonic() > end:
            return found
        time.sleep(0.02)


def test_a_bug_in_a_connection_is_told_and_counted(tmp_path: Path, up: Upstream) -> None:
    (tmp_path / "planted.py").write_text(PROGRAM)
    env = {"PLANTED": KEY, "CCM_LOG_FORMAT": "json"}
    gateway = Gateway(tmp_path / "ccm", provider(up, "a"), env=env)
    gateway.program = [str(tmp_path / "planted.py")]
    gateway.start()
    try:
        for path in ("/connection", "/thread", "/connection"):
            with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                sock.settimeout(2)
                got = sock.recv(100)
                assert got == b"" if path == "/connection" else got.startswith(b"HTTP/1.1 404")
        told = lines(gateway, 3)
        assert sorted(line["where"] for line in told) == ["ccm-planted", "connection", "connection"]
        for line in told:
            assert "planted in a" in line["error"] and "planted.py" in line["traceback"]
        assert KEY not in gateway.log(), "a trace is redacted as everything else"
        for line in gateway.log().splitlines():
            json.loads(line)  # nothing went past the log
        assert post(gateway.base_url, message()).status == 200
        with Client(gateway.base_url) as client:
            figures = client.call("GET", "/metrics", None, {"x-api-key": "ccm-proxy"}).body.decode()
        assert "\nccm_internal_errors_total 3\n" in figures, figures
    finally:
        gateway.stop()


def test_no_listener_keeps_its_faults_to_itself() -> None:
    """One of several workers has a listener of its own."""
    for source in ("app.py", "process/worker.py"):
        text = (REPO / "ccm" / source).read_text()
        assert text.count("= Listener(") == text.count("self.listener.on_fault = ") == 1, source
        assert "log_faults(" in text, source


def test_a_bug_on_the_pumps_clock_ends_no_stream() -> None:
    """One thread drives all of them: what others do on its clock must not end it."""
    told: list[BaseException] = []
    ran: list[str] = []

    def planted() -> None:
        raise ZeroDivisionError("planted")

    pump = Pump(planted, told.append)
    try:
        pump.later(0.0, planted)
        pump.later(0.0, lambda: ran.append("later"))
        pump._tick(1.0)
        assert ran == ["later"] and [str(fault) for fault in told] == ["planted", "planted"]
    finally:
        pump.stop()
