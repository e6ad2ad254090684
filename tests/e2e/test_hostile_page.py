"""A real browser on a hostile page: from another origin, and under a name that was bound anew to this machine (DNS
rebinding), it can neither read from ccm nor spend through it, though it knows ccm's default token.

The same page plays against a careless server, too: there it does get in, so the attempts are real ones.
"""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway, providers
from tests.upstream import Upstream

PAGE = Path(__file__).resolve().parents[1] / "data" / "hostile" / "page.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (on Debian: apt-get install chromium)"),
]


class Hostile:
    """Serves the page, and takes its report."""

    def __init__(self) -> None:
        self.reported = threading.Event()
        self.told: dict[str, dict[str, str]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = PAGE.read_text().replace("REPORT", json.dumps(f"http://127.0.0.1:{outer.port}/report"))
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(page.encode())

            def do_POST(self) -> None:
                outer.told |= json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.reported.set()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Careless:
    """A server on this machine as many are: answers everything to everybody. `spent`: requests it would have paid for."""

    def __init__(self) -> None:
        self.spent = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.spent += self.command == "POST"
                self.send_response(200)
                for name in ("origin", "headers", "methods", "private-network"):
                    self.send_header(
                        f"access-control-allow-{name}", "true" if name == "private-network" else "*"
                    )
                self.send_header(
                    "access-control-allow-headers",
                    "x-api-key, content-type, anthropic-version, authorization",
                )
                self.send_header(
                    "content-type",
                    "text/event-stream" if "event-stream" in self.headers.get("accept", "") else "text/css",
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(b"\n\n")

            do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = answer

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Switch:
    """What the name of the attacker leads to: his own server for the first connection, this machine's ever after."""

    def __init__(self, first: int, then: int) -> None:
        self.ports = [first, then]
        self.taken = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                outside, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(outside,), daemon=True).start()

    def _serve(self, outside: socket.socket) -> None:
        data = outside.recv(65536)  # a browser opens connections it does not use: the first request counts
        if not data:
            outside.close()
            return
        port = self.ports[0 if data.startswith(b"GET /?") else 1]
        self.taken += port == self.ports[1]
        inside = socket.create_connection(("127.0.0.1", port))
        inside.sendall(data)
        for source, sink in ((outside, inside), (inside, outside)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def gateway(up: Upstream, fresh: Callable[..., Gateway]) -> Gateway:
    return fresh(providers(up, "a"))  # with the token that everybody knows


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """`browse(url, resolver_rules)` opens the page in a browser that runs until the end of the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start(url: str, rules: str) -> None:
        command = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
            f"--user-data-dir={tmp_path / 'profile'}", f"--host-resolver-rules={rules}", url,
        ]  # fmt: skip
        log = (tmp_path / "chromium.log").open("wb")
        running.append(
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        )

    yield start
    for process in running:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def got_in(told: dict[str, str]) -> list[str]:
    """The attempts that read or opened something. An opaque answer, or a beacon that left, says nothing."""
    return [
        f"{what}: {how}"
        for what, how in told.items()
        if how.startswith(("read", "open")) or how.endswith("loaded")
    ]


def test_a_page_of_another_origin_gets_nothing(
    gateway: Gateway, up: Upstream, browse: Callable[[str, str], None]
) -> None:
    hostile, careless = Hostile(), Careless()
    targets = f"ccm=http://127.0.0.1:{gateway.port}&localhost=http://localhost:{gateway.port}&careless=http://127.0.0.1:{careless.port}"
    browse(f"http://page.example/?{targets}", f"MAP page.example 127.0.0.1:{hostile.port}")
    assert hostile.reported.wait(60), "the page did not report"
    told = hostile.told
    assert len(got_in(told["careless"])) >= 8 and careless.spent >= 8, told["careless"]
    for name in ("ccm", "localhost"):
        assert got_in(told[name]) == [], told[name]
        assert told[name]["cors post"] == told[name]["web socket"] == told[name]["image"] == "kept out"
    assert up.ledger == [], "a web page spent somebody's money"


def test_a_page_whose_name_was_bound_anew_gets_nothing(
    gateway: Gateway, up: Upstream, browse: Callable[[str, str], None]
) -> None:
    """The browser believes that ccm is the attacker's own origin: it sends everything, and would show every answer."""
    hostile = Hostile()
    switch = Switch(hostile.port, gateway.port)
    browse(f"http://evil.example:{gateway.port}/?ccm=", f"MAP evil.example 127.0.0.1:{switch.port}")
    assert hostile.reported.wait(60), "the page did not report"
    told = hostile.told["ccm"]
    assert switch.taken >= 10, "the requests did not arrive"
    answers = [how for how in told.values() if how.startswith("read")]
    assert len(answers) >= 6, told  # it reads the refusals: they are of its own origin
    got = [how for how in answers if "403" not in how and "permission_error" not in how]
    assert got == [], got
    assert up.ledger == []


def test_a_preflight_grants_nothing(gateway: Gateway) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
            sock.sendall(
                f"OPTIONS /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nOrigin: {origin}\r\nConnection: close\r\n"
                "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: true\r\n"
                "Access-Control-Request-Local-Network: true\r\n\r\n".encode()
            )
            reply = b""
            while piece := sock.recv(65536):
                reply += piece
        assert b" 403 " in reply[:20] and b"access-control" not in reply.lower(), reply
