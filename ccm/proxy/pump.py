"""The pump: one thread that relays every committed stream, watches for clients that leave, and keeps the time.

A worker opens a stream, commits its 200 and hands it over; from then on it needs no thread of its own, so 5,000 slow
streams cost neither 5,000 stacks nor a fight over the interpreter lock (256 streams at 10 ms: chunk lag p99 4 ms here,
104 ms with a thread each). Nothing in here waits: what a client does not take is buffered up to a bound, then the
provider's side is not read until it has.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable

from ccm.errors import BadUpstream, ClientGone
from ccm.model import FailureKind, ProviderError, Timeouts
from ccm.proxy.downstream import Downstream
from ccm.proxy.relay import EMPTY_DELTA_S, KEEPALIVE_S, Relay, incomplete
from ccm.upstream.call import NOT_NOW, Call
from ccm.upstream.poller import BROKEN, HANGUP, READ, WRITE, Poller

BACKLOG_BYTES = 256 * 1024
STUCK_S = 30.0  # a client that takes nothing for so long is gone
NO_CONTENT_S = 600.0
_DRAIN_S = 2.0
_PIECE = 64 * 1024
_STEPS = 8


class Stream:
    """One committed stream: its provider's side, its client's side, and what lies between.

    `on_end(stream)` is called exactly once, in the thread that ended it: `error` None and `gone` False mean complete.
    """

    __slots__ = (
        "call", "content_at", "delta_at", "down", "error", "error_event", "fd", "gone", "heard_at", "is_over", "on_end",
        "paused",        "probed", "progress_at", "relay", "sent_at", "started_at", "timeouts",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        down: Downstream,
        relay: Relay,
        timeouts: Timeouts,
        error_event: Callable[[ProviderError], bytes],
        on_end: Callable[[Stream], None],
    ) -> None:
        now = time.monotonic()
        self.call = call
        self.fd = call.sock.fileno()
        self.down = down
        self.relay = relay
        self.timeouts = timeouts
        self.error_event = error_event  # the error in the client's own event form
        self.on_end = on_end
        self.error: ProviderError | None = None
        self.gone = False
        self.is_over = False  # nothing more will be relayed; both connections may still have to be settled
        self.paused = False
        self.probed = False
        self.started_at = self.heard_at = self.sent_at = self.content_at = self.delta_at = (
            self.progress_at
        ) = now

    def step(self) -> bool:
        """Relays what is ready; True when the stream is over for the client. Raises ClientGone."""
        if self.relay.finished:
            return True  # the commit brought all of it
        sock = self.call.sock
        steps = 0
        while steps < _STEPS or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            steps += 1
            if self.call.body.done:
                return self._body_end()
            raw = self.call.take_buffered()
            if not raw:
                try:
                    raw = sock.recv(_PIECE)
                except NOT_NOW:
                    return False
                except OSError:
                    return self.fail(incomplete("the provider broke the connection in mid-stream"))
                if not raw:
                    return self._upstream_end()
            self.heard_at = time.monotonic()
            try:
                payload = self.call.body.feed(raw)
            except BadUpstream as error:
                return self.fail(ProviderError(0, "api_error", str(error), kind=FailureKind.PROTOCOL))
            if self._relay(payload):
                return True
            if self.down.backlog > BACKLOG_BYTES:
                return False
        return False

    def _relay(self, payload: bytes) -> bool:
        relay = self.relay
        out = relay.feed(payload) if payload else b""
        if relay.finished:
            self.down.finish(out)
            return True
        if out:
            self.sent_at = self.heard_at
            if relay.fresh:
                self.content_at = self.delta_at = self.heard_at
            self.down.push(out)
        return self.fail(relay.error) if relay.error is not None else False

    def _upstream_end(self) -> bool:
        if self.call.body.until_close:
            self.call.body.close()
            return self._body_end()
        return self.fail(incomplete("the provider ended the connection in mid-stream"))

    def _body_end(self) -> bool:
        out = self.relay.end()
        if self.relay.error is None:
            self.down.finish(out)
            return True
        if out:
            self.down.push(out)
        return self.fail(self.relay.error)

    def fail(self, error: ProviderError) -> bool:
        """The honest end of a stream that cannot be completed: one error event, never an invented stop."""
        self.error = error
        self.down.finish(self.error_event(error))
        return True

    def drained(self) -> bool:
        """After the last event: reads the rest of the provider's framing, so that its connection can be kept; after a
        failure, or when the client has left, cuts it, so that the provider stops generating. True: settled."""
        call = self.call
        if self.error is not None or self.gone:
            call.close()
            return True
        try:
            while not call.body.done:
                raw = call.sock.recv(_PIECE)
                if not raw or call.body.feed(raw):
                    call.close()  # the end of the connection, or data after the terminal event: not to be used again
                    return True
        except NOT_NOW:
            return False
        except (OSError, BadUpstream):
            call.close()
            return True
        call.release()
        return True


class Pump:
    """Owns adopted streams. `adopt` may be called from any thread; everything else happens in the pump's own."""

    def __init__(self, sweep: Callable[[], None], on_fault: Callable[[BaseException], None]) -> None:
        self._poller = Poller()
        self._incoming: deque[Stream] = deque()
        self._upstream: dict[int, Stream] = {}
        self._client: dict[int, Stream] = {}
        self._draining: dict[int, tuple[Stream, float]] = {}  # provider's sides with framing still to come
        self._flushing: dict[
            int, tuple[Stream, float]
        ] = {}  # client's sides that have not taken everything yet
        self._sweep = sweep
        self._on_fault = on_fault
        self._stopping = False
        self._final: ProviderError | None = None
        self._ended = threading.Event()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._poller.add(self._wake_r.fileno(), READ)
        self._thread = threading.Thread(target=self._run, name="ccm-pump", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def streams(self) -> int:
        """Streams being relayed."""
        return len(self._upstream) + len(self._incoming)

    def adopt(self, stream: Stream) -> None:
        """Takes a committed stream over from a worker, or ends it right here if that is all it needs."""
        if self._guarded(stream, stream.step):
            stream.is_over = True
            stream.on_end(stream)
            if stream.down.backlog or not stream.drained():
                self._hand_over(stream)
            else:
                _let_go(stream)
            return
        self._hand_over(stream)

    def _hand_over(self, stream: Stream) -> None:
        self._incoming.append(stream)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_w.send(b"x")
        except BlockingIOError:
            pass  # it is awake as it is

    def _guarded(self, stream: Stream, step: Callable[[], bool]) -> bool:
        """Runs a step; one stream's fault never stops the others. True: over."""
        try:
            return step()
        except ClientGone:
            stream.gone = True
        except Exception as fault:  # a bug in a decoder ends its own stream, not everybody's
            self._on_fault(fault)
            try:
                stream.fail(
                    ProviderError(0, "api_error", "ccm failed inside; see its log", kind=FailureKind.INTERNAL)
                )
            except ClientGone:
                stream.gone = True
        return True

    def _take_in(self) -> None:
        while self._incoming:
            stream = self._incoming.popleft()
            down = stream.down
            if stream.is_over:
                self._let_go_later(stream)
                continue
            self._upstream[stream.fd] = stream
            self._client[down.fd] = stream
            self._poller.add(down.fd, HANGUP)
            self._poller.add(stream.fd, READ)
            if down.backlog:
                self._backpressure(stream)

    def _settle(self, stream: Stream) -> None:
        """The stream is over: gives both connections back and tells whoever accounts for it."""
        self._upstream.pop(stream.fd, None)
        self._poller.drop(stream.fd)
        self._client.pop(stream.down.fd, None)
        self._poller.drop(stream.down.fd)
        stream.on_end(stream)
        self._let_go_later(stream)

    def _let_go_later(self, stream: Stream) -> None:
        now = time.monotonic()
        if not stream.drained():
            self._draining[stream.fd] = (stream, now + _DRAIN_S)
            self._poller.add(stream.fd, READ)
        if stream.down.backlog and not stream.gone:
            self._flushing[stream.down.fd] = (stream, now + STUCK_S)
            self._poller.add(stream.down.fd, WRITE)
        else:
            _let_go(stream)

    def _run(self) -> None:
        tick = time.monotonic() + 1.0
        wake = self._wake_r.fileno()
        while not self._stopping:
            for fd, events in self._poller.poll(max(0.0, tick - time.monotonic())):
                if fd == wake:
                    self._wake_r.recv(4096)
                else:
                    self._ready(fd, events)
            if self._incoming:
                self._take_in()
            now = time.monotonic()
            if now >= tick:
                tick = now + 1.0
                self._tick(now)
            if self._final is not None and not self._ended.is_set():
                self._end_all(self._final)

    def _ready(self, fd: int, events: int) -> None:
        stream = self._upstream.get(fd)
        if stream is not None:
            if self._guarded(stream, stream.step):
                self._settle(stream)
            elif stream.down.backlog:
                self._backpressure(stream)
        elif (client := self._client.get(fd)) is not None:
            if self._guarded(client, lambda: self._client_ready(client, events)):
                self._settle(client)
        elif fd in self._draining:
            stream = self._draining[fd][0]
            self._poller.drop(fd)
            if stream.drained():
                del self._draining[fd]
            else:
                self._poller.add(fd, READ)
        elif fd in self._flushing:
            self._flush(self._flushing[fd][0], events)

    def _client_ready(self, stream: Stream, events: int) -> bool:
        if events & BROKEN:
            raise ClientGone
        down = stream.down
        if events & WRITE:
            before = down.backlog
            if down.flush():
                self._poller.change(down.fd, 0 if stream.probed else HANGUP)
            if down.backlog < before:
                stream.progress_at = time.monotonic()
            if stream.paused and down.backlog < BACKLOG_BYTES // 4:
                stream.paused = False
                self._poller.change(stream.fd, READ)
                return stream.step()
        elif events & HANGUP and not stream.probed:
            stream.probed = True  # a FIN: a comment shows whether anybody is still reading
            self._poller.change(down.fd, WRITE if down.backlog else 0)
            down.push(b": still there?\n\n")
        return False

    def _backpressure(self, stream: Stream) -> None:
        self._poller.change(stream.down.fd, WRITE if stream.probed else WRITE | HANGUP)
        if stream.down.backlog > BACKLOG_BYTES and not stream.paused:
            stream.paused = True
            stream.progress_at = time.monotonic()
            self._poller.change(stream.fd, 0)

    def _flush(self, stream: Stream, events: int) -> None:
        try:
            if not events & BROKEN and not stream.down.flush():
                return
        except ClientGone:
            stream.gone = True
        del self._flushing[stream.down.fd]
        self._poller.drop(stream.down.fd)
        _let_go(stream)

    def _tick(self, now: float) -> None:
        for stream in list(self._upstream.values()):
            if self._guarded(stream, lambda s=stream: self._check_time(s, now)):  # type: ignore[misc]
                self._settle(stream)
        for fd, (stream, deadline) in list(self._draining.items()):
            if now >= deadline:
                del self._draining[fd]
                self._poller.drop(fd)
                stream.call.close()
        for stream, deadline in list(self._flushing.values()):
            if now >= deadline:
                stream.gone = True
                self._flush(stream, BROKEN)
        self._sweep()

    def _check_time(self, stream: Stream, now: float) -> bool:
        limits = stream.timeouts
        if stream.down.backlog and now - stream.progress_at > STUCK_S:
            raise ClientGone
        if stream.paused:
            return False
        for since, limit, what in (
            (stream.heard_at, limits.idle_s, "fell silent"),
            (stream.content_at, NO_CONTENT_S, "sent no content"),
            (stream.started_at, limits.total_s, "took too long"),
        ):
            if now - since > limit:
                message = f"{stream.call.pool.provider.name} {what} for {limit:.0f} s in mid-stream"
                return stream.fail(ProviderError(0, "timeout_error", message, kind=FailureKind.IDLE_TIMEOUT))
        if now - stream.sent_at > KEEPALIVE_S or now - stream.delta_at > EMPTY_DELTA_S:
            stream.sent_at = stream.delta_at = now
            stream.down.push(stream.relay.alive(now - stream.content_at))
        return False

    def end_all(self, error: ProviderError, timeout_s: float = 5.0) -> None:
        """Ends every stream honestly (shutdown after the drain time)."""
        self._final = error
        self._wake()
        self._ended.wait(timeout_s)

    def _end_all(self, error: ProviderError) -> None:
        for stream in list(self._upstream.values()):
            self._guarded(stream, lambda s=stream: s.fail(error))  # type: ignore[misc]
            self._settle(stream)
        self._ended.set()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(3.0)
        self._poller.close()
        self._wake_r.close()
        self._wake_w.close()


def _let_go(stream: Stream) -> None:
    if stream.gone:
        stream.down.abandon()
    else:
        stream.down.release()
