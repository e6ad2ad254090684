"""Reading an answer: a stream up to its first content, or all of a message. Raises UpstreamError for what is neither.

What is needed for it (`Reading`) holds nothing of the request's own content: a stream lives for minutes, and the
hundred kilobytes that asked for it would live as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ccm.dialects import anthropic_scan, cut
from ccm.dialects.base import Context, Dialect, Encoded, Message
from ccm.dialects.inbound.base import Renderer
from ccm.errors import BadUpstream, UpstreamError
from ccm.messages.fold import unfold
from ccm.messages.tokens import Usage
from ccm.model import EMPTY, FailureKind, Target
from ccm.proxy.folding import Folding
from ccm.proxy.relay import PassRelay, Relay, TranslateRelay, incomplete
from ccm.shape import dataclass, field
from ccm.upstream.call import Call, failure
from ccm.wire import eventstream, jsontext, sse

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_HELD_BYTES = 1024 * 1024  # of a stream before its first content


@dataclass(slots=True)
class Answer:
    """What an attempt yields: a live stream (`relay`, with `first` ready to be sent), or a whole message."""

    target: Target
    headers: dict[str, str]  # the provider's, as far as the client may see them
    told: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # all of them
    losses: list[str] = field(default_factory=list)
    call: Call | None = None
    relay: Relay | None = None
    renderer: Renderer | None = None  # who wrote `first`, and writes the rest
    first: bytes = b""
    body: bytes = b""  # the whole message as it came, where it may pass untouched
    message: Message | None = None
    usage: Usage = field(default_factory=Usage)
    stop_reason: str | None = None


@dataclass(slots=True)
class Reading:
    """How an answer is to be read. `encoded` has no body any more; `passing`: Anthropic bytes through and through;
    `watched`: events are looked at on their way, so bytes may not pass unseen; `renderer` makes a fresh writer."""

    dialect: Dialect
    ctx: Context
    encoded: Encoded
    passing: bool
    watched: bool
    renderer: Callable[[], Renderer]


def _is_stream(call: Call, first: bytes) -> bool:
    """Whether the body is a stream, whatever its content type claims (some providers send none, or a wrong one)."""
    assert call.head is not None
    type = call.head.headers.get("content-type", "")
    if "eventstream" in type:
        return True
    start = first.lstrip()[:1]
    if "event-stream" in type:
        return start not in (b"{", b"[") or not first
    return start not in (b"{", b"[", b"<", b"")


def _relay(how: Reading, renderer: Renderer) -> TranslateRelay:
    decoder = how.dialect.decoder(how.ctx, how.encoded)
    if how.encoded.cut:
        decoder = cut.Cutter(decoder, how.encoded.cut)
    framer = eventstream.Framer() if how.dialect.framing == "eventstream" else sse.Framer()
    return TranslateRelay(framer, decoder, renderer)


def prime(how: Reading, call: Call, answer: Answer, deadline: float) -> None:
    """Reads up to the first content event: the last moment at which failing over is free."""
    what = "sent no content in time"
    piece = call.payload(deadline, FailureKind.FIRST_CONTENT_TIMEOUT, what)
    if piece is None or not _is_stream(call, piece):
        rest = (
            b""
            if piece is None
            else call.read_all(deadline, MAX_ANSWER_BYTES, FailureKind.FIRST_CONTENT_TIMEOUT)
        )
        _whole(how, answer, (piece or b"") + rest)
        _as_stream(how, answer)
        return
    answer.renderer = renderer = how.renderer()
    relay: Relay
    if how.passing and not how.watched:
        relay = PassRelay(anthropic_scan.Scanner(), lambda: _relay(how, renderer))
    else:
        relay = _relay(how, renderer)
    out: list[bytes] = []
    held = 0
    while True:
        held += len(piece)
        out.append(relay.feed(piece))
        if relay.error is not None:
            raise UpstreamError(relay.error)
        if relay.content or relay.finished:
            break
        if held > MAX_HELD_BYTES:
            raise UpstreamError(incomplete("the provider sent too much before its first content"))
        next_piece = call.payload(deadline, FailureKind.FIRST_CONTENT_TIMEOUT, what)
        if next_piece is None:
            out.append(relay.end())
            if relay.error is not None:
                raise UpstreamError(relay.error)
            break
        piece = next_piece
    answer.relay = relay
    answer.first = b"".join(out)


def _as_stream(how: Reading, answer: Answer) -> None:
    """A whole message for a client that asked for a stream."""
    message = answer.message
    assert message is not None
    answer.renderer = how.renderer()
    answer.first = b"".join(answer.renderer.render(event) for event in unfold(message))
    answer.body = b""
    answer.call = None


def read_whole(how: Reading, call: Call, answer: Answer, deadline: float) -> None:
    body = call.read_all(deadline, MAX_ANSWER_BYTES)
    if _is_stream(call, body):
        _fold_stream(how, answer, body)
    else:
        _whole(how, answer, body)
    call.release()
    answer.call = None


def _fold_stream(how: Reading, answer: Answer, body: bytes) -> None:
    """A stream for a client that asked for a message (some providers only stream)."""
    folded = Folding()
    relay = _relay(how, folded)
    relay.feed(body)
    if relay.error is None:
        relay.end()
    if relay.error is not None:
        raise UpstreamError(relay.error)
    answer.message = folded.fold.message
    answer.usage = relay.usage
    answer.stop_reason = relay.stop_reason


def _whole(how: Reading, answer: Answer, body: bytes) -> None:
    name = answer.target.provider.name
    try:
        data = jsontext.event(body)
    except ValueError:
        kind = "an empty body" if not body.strip() else f"{len(body)} bytes that are not JSON"
        raise failure(FailureKind.PROTOCOL, f"{name} answered 200 with {kind}") from None
    try:
        message = how.dialect.decode(data, how.ctx, how.encoded)
    except BadUpstream as error:
        raise failure(FailureKind.PROTOCOL, f"{name} answered 200 with something else: {error}") from None
    if how.encoded.cut:
        message = cut.cut_message(message, how.encoded.cut)
    answer.message = message
    if how.passing and message is data:
        answer.body = body
    usage = message.get("usage")
    answer.usage.update(usage if isinstance(usage, dict) else None)
    answer.stop_reason = message.get("stop_reason")
