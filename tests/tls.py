"""Certificates, a TLS server and an HTTP proxy for tests: all real, all on 127.0.0.1.

The authority and its certificates are made with the `openssl` command (no Python package is needed for it).
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.http1 import Closed, read_request

NAMES = "DNS:localhost,IP:127.0.0.1"


class Authority:
    """A certificate authority of a test's own. `ca` is the file to trust."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self._key = directory / "ca.pem", directory / "ca.key"
        self._run(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=Test Authority", "-keyout", str(self._key), "-out", str(self.ca),
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    @staticmethod
    def missing() -> str:
        return "" if shutil.which("openssl") else "the openssl command is not there"

    def issue(self, name: str, names: str = NAMES, days: int = 2) -> tuple[Path, Path]:
        """(certificate, key) for these alternative names, signed by the authority."""
        cert, key, request, more = (self.directory / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        self._run(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        more.write_text(f"subjectAltName={names}\n")
        self._run(
            "x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(self._key), "-CAcreateserial",
            "-days", str(days), "-extfile", str(more), "-out", str(cert),
        )  # fmt: skip
        return cert, key

    def encrypt(self, key: Path) -> Path:
        """The same private key behind a password."""
        locked = key.with_suffix(".locked")
        self._run("ec", "-in", str(key), "-aes256", "-passout", "pass:word", "-out", str(locked))
        return locked

    def server_context(self, cert: Path, key: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context

    def _run(self, *args: str) -> None:
        done = subprocess.run(
            ["openssl", *args], capture_output=True, text=True, cwd=self.directory, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    peer: Any = None  # the client's certificate, where one was asked for


Reply = Callable[[Request], bytes]


def ok(request: Request) -> bytes:
    return response(200, b'{"ok": true}')


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Test\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


class Server:
    """An HTTP/1.1 server, with TLS when given a context. `reply` gives the bytes of an answer; b"" closes instead."""

    def __init__(self, context: ssl.SSLContext | None = None, reply: Reply = ok) -> None:
        self.context, self.reply = context, reply
        self.requests: list[Request] = []
        self.connections = 0
        self.faults: list[str] = []
        self.ended = threading.Condition()
        self.open: dict[int, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Closes every open connection, and returns when that is done."""
        for sock in list(self.open.values()):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        with self.ended:
            assert self.ended.wait_for(lambda: not self.open, 5)

    def wait_open(self, count: int) -> None:
        with self.ended:
            assert self.ended.wait_for(lambda: len(self.open) == count, 5), (
                f"{len(self.open)} connections are open"
            )

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open[self.connections] = sock
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
                self.open[number] = sock
            peer = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
            buffer = bytearray()
            while (found := read_request(sock, buffer)) is not None:
                request = Request(*found, number, peer)
                self.requests.append(request)
                answer = self.reply(request)
                if not answer:
                    break
                sock.sendall(answer)
        except (OSError, Closed, ValueError) as error:
            self.faults.append(str(error))
        finally:
            sock.close()
            with self.ended:
                self.open.pop(number, None)
                self.ended.notify_all()


@dataclass
class Proxy:
    """An HTTP proxy: CONNECT tunnels and absolute targets, with Basic credentials where `auth` is given. It writes down
    what it could read, and in `passed` every byte that went through its tunnels towards the server."""

    auth: str = ""  # the value of proxy-authorization that is wanted
    heads: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    passed: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        buffer = bytearray()
        try:
            with sock:
                while (found := read_request(sock, buffer)) is not None:
                    method, target, headers, body = found
                    self.heads.append((method, target, headers))
                    if self.auth and headers.get("proxy-authorization") != self.auth:
                        sock.sendall(response(407, b"who?", proxy_authenticate='Basic realm="test"'))
                    elif method == "CONNECT":
                        self._tunnel(sock, target)
                        return
                    else:
                        sock.sendall(self._forward(method, target, headers, body))
        except (OSError, Closed, ValueError):
            pass  # the client left

    def _tunnel(self, sock: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as far:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(far, sock, bytearray()), daemon=True)
            back.start()
            _copy(sock, far, self.passed)
            back.join(5)

    def _forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        authority, _, path = target.removeprefix("http://").partition("/")
        host, _, port = authority.partition(":")
        kept = {k: v for k, v in headers.items() if not k.startswith("proxy-")} | {"connection": "close"}
        lines = "".join(f"{k}: {v}\r\n" for k, v in kept.items())
        with socket.create_connection((host, int(port or 80)), 5) as far:
            far.sendall(f"{method} /{path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            far.settimeout(1)
            answer = b""
            try:
                while piece := far.recv(65536):
                    answer += piece
                    head, _, rest = answer.partition(b"\r\n\r\n")
                    length = [
                        line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                    ]
                    if length and len(rest) >= int(length[0].split(b":")[1]):
                        break
            except TimeoutError:
                pass
            return answer


def _copy(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    try:
        while data := source.recv(65536):
            seen += data
            sink.sendall(data)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
