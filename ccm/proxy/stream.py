"""One committed stream: bytes of the provider in, events to the client out, and every way in which it can end.

Nothing in here waits or knows of threads; whoever drives it (`proxy.pump`) says when there is something to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ccm.errors import BadUpstream, ClientGone
from ccm.model import FailureKind, ProviderError, Timeouts
from ccm.proxy.downstream import Downstream
from ccm.proxy.relay import EMPTY_DELTA_S, KEEPALIVE_S, Relay, incomplete
from ccm.shape import dataclass
from ccm.upstream import tls
from ccm.upstream.call import Call

BACKLOG_BYTES = 256 * 1024
STUCK_S = 30.0  # a client that takes nothing for so long is gone
NO_CONTENT_S = 600.0
MAX_STREAM_BYTES = 256 * 1024 * 1024  # far above any honest answer (2 MB of text make 60 MB of events)
_PIECE = 64 * 1024
_STEPS = 8


@dataclass(slots=True)
class Successor:
    """Who completes a broken answer: a call with a relay and the first bytes for the client; or the error to end with.
    `drop` undoes everything where the stream is over meanwhile."""

    call: Call | None = None
    relay: Relay | None = None
    first: bytes = b""
    error: ProviderError | None = None
    drop: Callable[[], None] = lambda: None


class Stream:
    """One committed stream: its provider's side, its client's side, and what lies between.

    `on_end(stream)` is called exactly once, in the thread that ended it: `error` None and `gone` False mean complete.
    """

    __slots__ = (
        "call", "content_at", "delta_at", "down", "error", "error_event", "fd", "gone", "heard_at", "is_over", "left_bytes", "longest_gap_s", "on_end",
        "paused", "probed", "progress_at", "relay", "rescue", "resting", "sent_at", "started_at", "successor", "tap", "timeouts",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        down: Downstream,
        relay: Relay,
        timeouts: Timeouts,
        error_event: Callable[[ProviderError], bytes],
        on_end: Callable[[Stream], None],
        rescue: Callable[[Stream, ProviderError], bool] | None = None,
    ) -> None:
        now = time.monotonic()
        self.call = call
        self.fd = call.sock.fileno()
        self.down = down
        self.relay = relay
        self.timeouts = timeouts
        self.error_event = error_event  # the error in the client's own event form
        self.on_end = on_end
        self.rescue = (
            rescue  # asked once, when the provider fails: True, somebody else is being asked to go on
        )
        self.longest_gap_s = 0.0  # between two pieces of the provider
        self.left_bytes = MAX_STREAM_BYTES  # that providers may still send
        self.resting = False  # between two providers
        self.successor: Successor | None = None
        self.tap: Callable[[bytes], None] | None = None  # sees whole events on their way out
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
        while steps < _STEPS or tls.has_more(sock):
            steps += 1
            if self.call.body.done:
                return self._body_end()
            raw = self.call.take_buffered()
            if not raw:
                try:
                    raw = sock.recv(_PIECE)
                except tls.NOT_NOW:
                    return False
                except OSError:
                    return self.fail(incomplete("the provider broke the connection in mid-stream"))
                if not raw:
                    return self._upstream_end()
            now = time.monotonic()
            if now - self.heard_at > self.longest_gap_s:
                self.longest_gap_s = now - self.heard_at
            self.heard_at = now
            self.left_bytes -= len(raw)
            if self.left_bytes < 0:
                return self._too_much()
            try:
                payload = self.call.body.feed(raw)
            except BadUpstream as error:
                return self.fail(ProviderError(0, "api_error", str(error), kind=FailureKind.PROTOCOL))
            if self._relay(payload):
                return True
            if self.resting or self.down.backlog > BACKLOG_BYTES:
                return False
        return False

    def _relay(self, payload: bytes) -> bool:
        relay = self.relay
        out = relay.feed(payload) if payload else b""
        if self.tap is not None:
            self.tap(out)
        if relay.finished:
            self.down.finish(out)
            return True
        if out:
            self.sent_at = self.heard_at
            if relay.fresh:
                self.content_at = self.delta_at = self.heard_at
            self.down.push(out)
        return self.fail(relay.error) if relay.error is not None else False

    def _too_much(self) -> bool:
        """An answer without an end: nobody is asked to go on with it."""
        self.rescue = None
        message = f"{self.call.pool.provider.name} sent more than {MAX_STREAM_BYTES} bytes"
        return self.fail(ProviderError(0, "api_error", message, kind=FailureKind.PROTOCOL))

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
        """The honest end of a stream that cannot be completed: one error event, never an invented stop. False: another
        provider is asked to complete it, `go_on` will follow."""
        rescue, self.rescue = self.rescue, None
        if rescue is not None and rescue(self, error):
            self.resting = True
            return False
        self.error = error
        self.down.finish(self.error_event(error))
        return True

    def go_on(self, successor: Successor) -> bool:
        """Another provider completes the answer, or none does. As `step`."""
        self.resting = False
        if successor.error is not None:
            return self.fail(successor.error)
        assert successor.relay is not None
        self.relay, self.fd = successor.relay, -1
        if successor.call is not None:
            self.call, self.fd = successor.call, successor.call.sock.fileno()
        self.heard_at = self.content_at = self.sent_at = time.monotonic()
        if self.relay.finished:
            self.down.finish(successor.first)
            return True
        self.down.push(successor.first)
        return self.step()

    def over_time(self, now: float) -> bool:
        """Keeps the limits and the client awake. As `step`; raises ClientGone."""
        limits = self.timeouts
        if self.down.backlog and now - self.progress_at > STUCK_S:
            raise ClientGone
        if self.paused:
            return False
        silent = (
            (self.heard_at, limits.idle_s, "fell silent"),
            (self.content_at, NO_CONTENT_S, "sent no content"),
        )
        for since, limit, what in (
            *(() if self.resting else silent),
            (self.started_at, limits.total_s, "took too long"),
        ):
            if now - since > limit:
                message = f"{self.call.pool.provider.name} {what} for {limit:.0f} s in mid-stream"
                return self.fail(ProviderError(0, "timeout_error", message, kind=FailureKind.IDLE_TIMEOUT))
        if now - self.sent_at > KEEPALIVE_S or now - self.delta_at > EMPTY_DELTA_S:
            self.sent_at = self.delta_at = now
            self.down.push(self.relay.alive(now - self.content_at))
        return False

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
        except tls.NOT_NOW:
            return False
        except (OSError, BadUpstream):
            call.close()
            return True
        call.release()
        return True
