"""From a provider's stream body to the client's events: bytes in, bytes out, whole events only.

Two forms with one face: `PassRelay` follows an Anthropic stream without decoding it, `TranslateRelay` decodes frames of
any dialect and renders events. Whoever drives one (a worker before the commit, the pump after it) looks at `error` and
`finished` after every `feed`; what was complete before an error is still returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Decoder
from ccm.dialects.inbound.base import Renderer
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.events import PING, Event, is_content, render
from ccm.messages.tokens import Usage
from ccm.model import FailureKind, ProviderError
from ccm.wire.sse import Frame

KEEPALIVE_S = 15.0  # silence towards the client; it shows "waiting" after 20 s (R36)
EMPTY_DELTA_S = (
    60.0  # without content: only a (possibly empty) delta counts as life for the client's 300 s watchdog
)
_EMPTY_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class Relay(Protocol):
    """What drives a stream sees this."""

    @property
    def content(self) -> bool:
        """The first content event is among what was returned: time to commit."""
        ...

    @property
    def fresh(self) -> bool:
        """The last feed brought more than pings."""
        ...

    @property
    def finished(self) -> bool:
        """The terminal event is among what was returned."""
        ...

    @property
    def error(self) -> ProviderError | None:
        """The stream failed inside; nothing more will come."""
        ...

    @property
    def stop_reason(self) -> str | None:
        """As in message_delta, once it came."""
        ...

    @property
    def usage(self) -> Usage: ...

    def feed(self, payload: bytes) -> bytes:
        """Whole client events that these bytes complete."""
        ...

    def end(self) -> bytes:
        """The body ended. The last events; `error` is set where the answer is not whole."""
        ...

    def alive(self, quiet_content_s: float) -> bytes:
        """Something to send while the provider is silent."""
        ...


def _broken(error: BadUpstream) -> ProviderError:
    return ProviderError(
        0, "api_error", f"the provider's stream is malformed: {error}", kind=FailureKind.PROTOCOL
    )


def incomplete(what: str = "the provider's stream ended before its last event") -> ProviderError:
    """The error of a stream that ends without its terminal event."""
    return ProviderError(0, "api_error", what, kind=FailureKind.BROKEN)


class Finished:
    """An answer that came whole, where a stream is looked for: nothing more will come."""

    content = fresh = finished = True
    error: ProviderError | None = None

    def __init__(self, usage: Usage, stop_reason: str | None) -> None:
        self.usage = usage
        self.stop_reason = stop_reason

    def feed(self, payload: bytes) -> bytes:
        """Nothing."""
        return b""

    def end(self) -> bytes:
        """Nothing."""
        return b""

    def alive(self, quiet_content_s: float) -> bytes:
        """Nothing."""
        return b""


class PassRelay:
    """Anthropic to Anthropic: the bytes as they came, cut at event boundaries; `mend` makes the relay that takes over
    where the provider breaks the grammar (its decoder then knows all that was relayed before)."""

    def __init__(self, scanner: Scanner, mend: Callable[[], TranslateRelay]) -> None:
        self.scanner = scanner
        self.fresh = False
        self._error: ProviderError | None = None
        self._held = b""
        self._mend = mend
        self._mender: TranslateRelay | None = None

    @property
    def error(self) -> ProviderError | None:
        return self._error or (self._mender.error if self._mender is not None else None)

    @property
    def content(self) -> bool:
        return self.scanner.content or (self._mender is not None and self._mender.content)

    @property
    def finished(self) -> bool:
        return self.scanner.finished or (self._mender is not None and self._mender.finished)

    @property
    def stop_reason(self) -> str | None:
        return self._mender.stop_reason if self._mender is not None else self.scanner.stop_reason

    @property
    def usage(self) -> Usage:
        return self._mender.usage if self._mender is not None else self.scanner.usage

    def feed(self, payload: bytes) -> bytes:
        """The events that are whole now."""
        if self._mender is not None:
            out = self._mender.feed(payload)
            self.fresh = self._mender.fresh
            return out
        scanner = self.scanner
        data = self._held + payload if self._held else payload
        try:
            whole = scanner.feed(data)
        except BadUpstream as error:
            self._error = _broken(error)
            return b""
        self.fresh = b"_delta" in data or b"content_block" in data
        if whole == len(data):
            self._held = b""
            return data
        self._held = data[whole:]
        if scanner.error is not None:
            self._error = scanner.error
        elif scanner.irregular:
            self._mender = self._mend()
            self._mender.resume(scanner.replay())
            held, self._held = self._held, b""
            return data[:whole] + self._mender.feed(held)
        return data[:whole]

    def end(self) -> bytes:
        """Nothing more; an error unless message_stop was seen."""
        if self._mender is not None:
            return self._mender.end()
        out = b""
        if not self.finished and self._held and self._error is None:
            out = self.scanner.end(self._held)
            self._held = b""
            self._error = self.scanner.error
        if not self.finished and self._error is None:
            self._error = incomplete()
        return out

    def alive(self, quiet_content_s: float) -> bytes:
        """A ping, or an empty delta into the open block."""
        if self._mender is not None:
            return self._mender.alive(quiet_content_s)
        scanner = self.scanner
        field = _EMPTY_DELTAS.get(scanner.open_kind)
        if quiet_content_s >= EMPTY_DELTA_S and field is not None:
            delta = {"type": field[0], field[1]: ""}
            return render({"type": "content_block_delta", "index": scanner.open_block, "delta": delta})
        return render(PING)


class TranslateRelay:
    """Frames of a dialect to events, events to the client's bytes."""

    def __init__(self, framer: Any, decoder: Decoder, renderer: Renderer) -> None:
        self.framer = framer
        self.decoder = decoder
        self.renderer = renderer
        self.content = False
        self.finished = False
        self.fresh = False
        self.error: ProviderError | None = None
        self.stop_reason: str | None = None
        self._open = ""
        self._index = 0

    @property
    def usage(self) -> Usage:
        return self.decoder.usage

    def resume(self, frames: list[Frame]) -> None:
        """Tells the decoder what was relayed before it; nothing of it is sent again."""
        for frame in frames:
            self._render(self.decoder.feed(frame), [])

    def feed(self, payload: bytes) -> bytes:
        """The events of the frames that are whole now; none after the last one, whatever a provider still says."""
        out: list[bytes] = []
        self.fresh = False
        if self.finished:
            return b""
        try:
            for frame in self.framer.feed(payload):
                events = self.decoder.feed(frame)
                if events and self._render(events, out):
                    break
        except UpstreamError as error:
            self.error = error.error
        except BadUpstream as error:
            self.error = _broken(error)
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """What the framer still held, and the decoder's last events."""
        out: list[bytes] = []
        if self.finished:
            return b""
        try:
            for frame in self.framer.end():
                self._render(self.decoder.feed(frame), out)
            self._render(self.decoder.end(), out)
        except IncompleteStream as error:
            self.error = error.error
        except UpstreamError as error:
            self.error = error.error
        except BadUpstream:
            self.error = incomplete()  # half a frame: the stream was cut inside it
        if not self.finished and self.error is None:
            self.error = incomplete()
        return b"".join(out)

    def _render(self, events: list[Event], out: list[bytes]) -> bool:
        """Whether the last event is among them."""
        for event in events:
            kind = event["type"]
            if kind == "content_block_start":
                self._open, self._index = event["content_block"]["type"], event["index"]
            elif kind == "content_block_stop":
                self._open = ""
            elif kind == "message_delta":
                self.stop_reason = event["delta"].get("stop_reason")
            elif kind == "message_stop":
                self.finished = True
            if kind != "ping":
                self.fresh = True
            if not self.content and is_content(event):
                self.content = True
            out.append(self.renderer.render(event))
            if self.finished:
                return True
        return False

    def alive(self, quiet_content_s: float) -> bytes:
        """A ping, or an empty delta into the open block."""
        field = _EMPTY_DELTAS.get(self._open)
        if quiet_content_s >= EMPTY_DELTA_S and field is not None:
            delta = {"type": field[0], field[1]: ""}
            return self.renderer.render({"type": "content_block_delta", "index": self._index, "delta": delta})
        return self.renderer.alive()
