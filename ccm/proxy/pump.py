"""The pump: one thread that relays every committed stream, watches for clients that leave, and keeps the time.

A worker opens a stream, commits its 200 and hands it over; from then on it needs no thread of its own, so 5,000 slow
streams cost neither 5,000 stacks nor a fight over the interpreter lock (256 streams at 10 ms: chunk lag p99 4 ms here,
104 ms with a thread each). Nothing in here waits: what a client does not take is buffered up to a bound, then the
provider's side is not read until it has.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from ccm.errors import ClientGone
from ccm.model import FailureKind, ProviderError
from ccm.proxy.stream import BACKLOG_BYTES, STUCK_S, Stream, Successor
from ccm.upstream.poller import BROKEN, HANGUP, READ, WRITE, Poller

_DRAIN_S = 2.0
_OVERSLEPT_S = 0.5


class Pump:
    """Owns adopted streams. `adopt` may be called from any thread; everything else happens in the pump's own."""

    def __init__(self, sweep: Callable[[], None], on_fault: Callable[[BaseException], None]) -> None:
        self._poller = Poller()
        self._incoming: deque[Stream] = deque()
        self._upstream: dict[int, Stream] = {}
        self._client: dict[int, Stream] = {}
        self._resting: set[Stream] = set()  # between two providers: only the client's side is watched
        self._resumed: deque[Stream] = deque()  # who may go on
        self._draining: dict[int, tuple[Stream, float]] = {}  # provider's sides with framing still to come
        self._flushing: dict[
            int, tuple[Stream, float]
        ] = {}  # client's sides that have not taken everything yet
        self._timers: deque[tuple[float, Callable[[], None]]] = deque()
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
        return len(self._upstream) + len(self._incoming) + len(self._resting)

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

    def later(self, at: float, callback: Callable[[], None]) -> None:
        """Calls back at this monotonic instant, or up to a second later; the callback must not block."""
        self._timers.append((at, callback))

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
            self._client[down.fd] = stream
            self._poller.add(down.fd, HANGUP)
            if stream.resting:
                self._rest(stream)
            else:
                self._read(stream)

    def _read(self, stream: Stream) -> None:
        self._upstream[stream.fd] = stream
        self._poller.add(stream.fd, READ)
        if stream.down.backlog:
            self._backpressure(stream)

    def _advance(self, stream: Stream, step: Callable[[], bool]) -> bool:
        """Runs a step and does what follows from its result. True: the stream goes on."""
        if self._guarded(stream, step):
            self._settle(stream)
            return False
        if stream.resting and stream not in self._resting:
            self._upstream.pop(stream.fd, None)
            self._poller.drop(stream.fd)
            self._rest(stream)
            return False
        return True

    def _rest(self, stream: Stream) -> None:
        """Gives the broken provider's side up; its descriptor's number may be another stream's at once."""
        stream.call.close()
        stream.fd = -1
        stream.paused = False
        self._resting.add(stream)

    def resume(self, stream: Stream, successor: Successor) -> None:
        """Somebody was found to complete this stream, or nobody. From any thread."""
        stream.successor = successor
        self._resumed.append(stream)
        self._wake()

    def _take_over(self) -> None:
        for _ in range(len(self._resumed)):
            stream = self._resumed.popleft()
            successor = stream.successor
            assert successor is not None
            if stream in self._resting:
                self._resting.discard(stream)
                stream.successor = None
                if self._advance(stream, lambda: stream.go_on(successor)):  # noqa: B023 - called at once
                    self._read(stream)
            elif stream.is_over:
                successor.drop()
            else:  # its worker has not handed it over yet
                self._resumed.append(stream)

    def _settle(self, stream: Stream) -> None:
        """The stream is over: gives both connections back and tells whoever accounts for it."""
        stream.is_over = True
        self._resting.discard(stream)
        if self._upstream.pop(stream.fd, None) is not None:
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
        tick, overslept = time.monotonic() + 1.0, False
        wake = self._wake_r.fileno()
        while not self._stopping:
            for fd, events in self._poller.poll(max(0.0, tick - time.monotonic())):
                if fd == wake:
                    self._wake_r.recv(4096)
                else:
                    self._ready(fd, events)
            if self._incoming:
                self._take_in()
            if self._resumed:
                self._take_over()
            now = time.monotonic()
            # A process that was stopped, or starved, first reads what came meanwhile: nobody fell silent but we.
            overslept = now - tick > _OVERSLEPT_S and not overslept
            if overslept:
                tick = now
            elif now >= tick:
                tick = now + 1.0
                self._tick(now)
            if self._final is not None and not self._ended.is_set():
                self._end_all(self._final)

    def _ready(self, fd: int, events: int) -> None:
        stream = self._upstream.get(fd)
        if stream is not None:
            if self._advance(stream, stream.step) and stream.down.backlog:
                self._backpressure(stream)
        elif (client := self._client.get(fd)) is not None:
            self._advance(client, lambda: self._client_ready(client, events))
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
        for stream in [*self._upstream.values(), *self._resting]:
            self._advance(stream, lambda s=stream: s.over_time(now))  # type: ignore[misc]
        for fd, (stream, deadline) in list(self._draining.items()):
            if now >= deadline:
                del self._draining[fd]
                self._poller.drop(fd)
                stream.call.close()
        for stream, deadline in list(self._flushing.values()):
            if now >= deadline:
                stream.gone = True
                self._flush(stream, BROKEN)
        for _ in range(len(self._timers)):
            at, callback = self._timers.popleft()
            if at <= now:
                self._try(callback)
            else:
                self._timers.append((at, callback))
        self._try(self._sweep)

    def _try(self, what: Callable[[], None]) -> None:
        """Somebody else's work on our clock: a bug there must not end this thread, and with it every stream."""
        try:
            what()
        except Exception as fault:
            self._on_fault(fault)

    def end_all(self, error: ProviderError, timeout_s: float = 5.0) -> None:
        """Ends every stream honestly (shutdown after the drain time)."""
        self._final = error
        self._wake()
        self._ended.wait(timeout_s)

    def _end_all(self, error: ProviderError) -> None:
        for stream in [*self._upstream.values(), *self._resting]:
            stream.rescue = None
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
