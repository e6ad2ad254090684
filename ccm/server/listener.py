"""The listening socket and the life of connections: accept, park, serve, close.

`ThreadingHTTPServer` by class, but its threads are the pool of `workers.py`, and an idle or slow connection is parked
in the selector without one. Defaults of the base class that matter are changed: HTTP/1.1, backlog, no name look-up in
bind, strict parsing, bounded connections.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ccm.errors import BadRequest, ClientGone, Refusal
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import new_id
from ccm.proxy.entry import envelope
from ccm.server import routes
from ccm.server.bodies import Pool
from ccm.server.connection import Closed, Connection, Request
from ccm.server.workers import Workers
from ccm.wire.http1 import RequestHead

BACKLOG = 512
MAX_CONNECTIONS = 10_000
MAX_WORKERS = 384
YIELD_S = 0.002
_STATUS_TYPES = {408: "timeout_error", 413: "request_too_large"}

# Answers one request; True: the connection is answered for (the pump, or a refusal, has it), False: it was answered.
Handle = Callable[[Request, Downstream], bool]
Admit = Callable[[RequestHead, tuple[str, int]], None]
# Gives an idle connection to the process that serves now. False: not at this moment. OSError: nobody is there.
PassOn = Callable[[socket.socket], bool]


def connection_cap() -> int:
    """As many connections as descriptors allow: two for each (client, provider), some kept for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (soft - 64) // 2))


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket for several processes. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener(ThreadingHTTPServer):
    """Accepts in one thread, serves in a few, parks the rest."""

    request_queue_size = BACKLOG
    allow_reuse_address = True

    def __init__(
        self,
        host: str,
        port: int,
        handle: Handle,
        admit: Admit,
        *,
        sock: socket.socket | None = None,
        others_first: Callable[[int], bool] | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._handle = handle
        self._admit = admit
        # of several processes at one socket: whether another one should have the next connection, which we have so
        # many of; it gets a moment for it
        self._others_first = others_first
        self._parked: dict[int, Connection] = {}
        self._open = 0
        self._open_lock = threading.Lock()
        self._cap = connection_cap()
        self._draining = False
        self._pass_on: PassOn | None = None
        self.bodies = Pool()
        self.on_fault: Callable[[BaseException], None] = _tell
        self._pause = threading.Event()
        self._ended = threading.Event()
        self._wake_r, self._wake_w = socket.socketpair()
        self.workers = Workers(self._serve, MAX_WORKERS)
        super().__init__((host, port), BaseHTTPRequestHandler, bind_and_activate=sock is None)
        if sock is not None:
            self.socket.close()
            self.socket = sock
            self.address_family = sock.family
            self.server_address = sock.getsockname()
        self.socket.setblocking(False)  # an inherited listener may be raced for: accept must never hang

    def server_bind(self) -> None:
        """Binds without the base class's name look-up (getfqdn may take seconds)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    # ---- accept (one thread)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accepts until `shutdown`; unlike the base class's loop it sleeps until something happens, and ends at once."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        wake = self._wake_r.fileno()
        try:
            while all(fd != wake for fd, _ in poll.poll()):
                if self._others_first is not None and self._others_first(self._open):
                    self._pause.wait(YIELD_S)
                self._handle_request_noblock()  # type: ignore[attr-defined]  # the base class's own step
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """Ends `serve_forever`, which must be running in another thread."""
        self._wake_w.send(b"x")
        self._ended.wait()

    def get_request(self) -> tuple[socket.socket, Any]:
        """One accepted connection; out of descriptors, it waits a moment instead of spinning."""
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._pause.wait(0.05)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Takes the connection in, or refuses it at the limit."""
        sock: socket.socket = request
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # the client is gone already; reading will tell
        with self._open_lock:
            full = self._open >= self._cap or self._draining
            self._open += not full
        if full:
            try:
                sock.send(
                    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            except OSError:
                pass
            sock.close()
            return
        self._take_in(sock)

    def _take_in(self, sock: socket.socket) -> None:
        conn = Connection(sock, self.bodies)
        self._parked[conn.fd] = conn
        self.workers.door.add(conn.fd)

    def adopt(self, sock: socket.socket) -> None:
        """Takes over an idle connection that the ccm before us had. Refused at the limit: it is closed, as idle
        connections are."""
        pass_on = self._pass_on
        if pass_on is not None:  # we are no longer the last in the row
            try:
                passed = pass_on(sock)
            except OSError:
                passed = False
            if passed:
                sock.close()
                return
        with self._open_lock:
            full = self._open >= self._cap or (self._draining and pass_on is None)
            self._open += not full
        if full:
            sock.close()
            return
        sock.setblocking(False)
        self._take_in(sock)

    # ---- serve (workers)

    def _serve(self, fd: int) -> None:
        conn = self._parked.pop(fd, None)
        if conn is None:
            return  # the sweeper was faster
        if conn.lingering:
            if conn.discard():
                self._park(conn)
            else:
                self._close(conn)
            return
        try:
            while self._one_request(conn):
                pass
        except Exception as fault:  # a bug of ours costs this connection, never a worker
            self._close(conn)
            self.on_fault(fault)

    def _one_request(self, conn: Connection) -> bool:
        """Reads and answers one request; True when another one is waiting in the connection's buffer."""
        try:
            request = conn.read(lambda head: self._admit(head, conn.local))
        except Closed:
            self._close(conn)
            return False
        except BadRequest as error:
            type = _STATUS_TYPES.get(error.status, "invalid_request_error")
            self._refuse(conn, Refusal(error.status, type, f"{error}."))
            return False
        except Refusal as refusal:
            self._refuse(conn, refusal)
            return False
        if request is None:
            self._park(conn)
            return False
        down = Downstream(
            conn.sock,
            http11=request.minor == 1,
            keep_alive=request.keep_alive and not (self._draining and self._pass_on is None),
            head_only=request.method == "HEAD",
            relieve=self.workers.relieve,
            on_release=lambda alive: self._release(conn, alive, held if down.keeps_body else 0),
        )
        held, lent = conn.hand_over(), False
        try:
            if self._handle(request, down):
                lent = down.keeps_body  # most streams that the pump has keep nothing of their request
                return False
        except ClientGone:
            self._close(conn)
            return False
        finally:
            if held and not lent:
                self.bodies.give(held)
        if not down.keep_alive:
            self._close(conn)
            return False
        conn.settle()
        if conn.rest:
            return True
        self._park(conn)
        return False

    def _release(self, conn: Connection, alive: bool, held: int) -> None:
        """The pump is done with a connection it was lent, and with what was `held` of its request."""
        if held:
            self.bodies.give(held)
        if not alive:
            self._close(conn)
            return
        conn.settle()
        self._park(conn)

    def _park(self, conn: Connection) -> None:
        if self._draining and conn.idle and self._pass(conn):
            return
        self._park_here(conn)

    def _park_here(self, conn: Connection) -> None:
        door = self.workers.door
        self._parked[conn.fd] = conn
        try:
            if not conn.tried:
                door.rouse(conn.fd)  # a pipelined request behind a stream: it was read already
            else:
                door.arm(conn.fd)
        except (OSError, ValueError):
            self._parked.pop(conn.fd, None)
            self._close(conn)

    def _refuse(self, conn: Connection, refusal: Refusal) -> None:
        """An answer before, or instead of, reading the request: then no more of this connection."""
        down = Downstream(
            conn.sock, http11=True, keep_alive=False, head_only=False, relieve=_nothing, on_release=_ignore
        )
        surface = routes.surface_of(conn.asked) if conn.asked else refusal.surface
        error = envelope(surface, refusal.status, refusal.type, refusal.message, new_id("req_"))
        try:
            down.answer_json(refusal.status, error, refusal.headers)
        except ClientGone:
            self._close(conn)
            return
        if conn.linger() and conn.discard():
            self._park(conn)
        else:
            self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.workers.door.drop(conn.fd)
        conn.close()
        with self._open_lock:
            self._open -= 1

    # ---- housekeeping (called once a second by the pump's thread)

    def sweep(self) -> None:
        """Closes connections whose time is up, and the oldest idle ones at 80 % of the limit; in a drain all idle ones
        are passed on to the successor, or closed where there is none."""
        now = time.monotonic()
        self.workers.mind()
        for fd, conn in list(self._parked.items()):
            ends = conn.deadline <= now
            if not ends and not (self._draining and conn.idle):
                continue
            if self._parked.pop(fd, None) is None:
                continue
            if not ends:
                if not self._pass(conn):
                    self._park_here(conn)
            elif conn.idle or conn.lingering:
                self._close(conn)
            else:
                self._refuse(conn, Refusal(408, "timeout_error", "The request was not complete in time."))
        excess = self._open - self._cap * 8 // 10
        if excess > 0:
            idle = sorted((c for c in list(self._parked.values()) if c.idle), key=lambda c: c.deadline)
            for conn in idle[:excess]:
                if self._parked.pop(conn.fd, None) is not None:
                    self._close(conn)

    @property
    def connections(self) -> int:
        """Open client connections."""
        return self._open

    def _pass(self, conn: Connection) -> bool:
        """An idle connection in a drain, which is in nobody's hands: goes to the successor, or is closed where there is
        none. False: it stays, because a request has just arrived, or the successor is busy."""
        if self._pass_on is not None:
            try:
                if not self._pass_on(conn.sock):
                    return False
            except OSError:  # it is gone: from now on answers say that the connection ends
                self._pass_on = None
                return False
        elif conn.has_news():
            return False  # to be answered, with `connection: close`
        self._close(conn)
        return True

    def drain(self, pass_on: PassOn | None = None) -> None:
        """No more than what is under way. With a successor (`pass_on`) connections go to it as soon as they are idle,
        and no client sees a close; without one idle connections are closed, and answers say so."""
        self._pass_on = pass_on
        self._draining = True
        self.sweep()

    def leave(self, pass_on: PassOn) -> None:
        """Another process accepts now: gives up the listening socket, then drains. Once."""
        self.shutdown()
        self.socket.close()
        self.drain(pass_on)

    def stop(self) -> None:
        """Ends workers and connections. `shutdown()` of the base class ended the accept loop before."""
        self.workers.stop()
        for fd in list(self._parked):
            conn = self._parked.pop(fd, None)
            if conn is not None:
                conn.close()
        self.server_close()
        self._wake_r.close()
        self._wake_w.close()


def _tell(fault: BaseException) -> None:
    sys.excepthook(type(fault), fault, fault.__traceback__)


def _nothing() -> None:
    return None


def _ignore(alive: bool) -> None:
    return None
