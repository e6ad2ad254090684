"""One attempt: encode, authorize, send, read the head, decode up to the first content.

Until it returns, everything can be undone and another target tried; what it returns is ready to be committed. All
failures leave as UpstreamError; a client that leaves as ClientGone. The call is closed on every failing path.
A refusal that says what would help is repaired and sent once more: that is the same attempt, no failure of the target.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ccm.dialects import anthropic, anthropic_scan, cut, repair
from ccm.dialects.base import Context, Dialect, Encoded, Message, Request
from ccm.dialects.inbound.base import Renderer
from ccm.dialects.repair import Repair
from ccm.dialects.table import DIALECTS
from ccm.errors import BadUpstream, Refusal, UpstreamError
from ccm.messages.fold import unfold
from ccm.messages.tokens import Usage
from ccm.model import EMPTY, FailureKind, ProviderError, Target, Timeouts
from ccm.proxy.drill import Caller, Drills
from ccm.proxy.folding import Folding as Folding  # also for those who look for it here
from ccm.proxy.relay import PassRelay, Relay, TranslateRelay, incomplete
from ccm.proxy.repairs import Repairs
from ccm.upstream.auth import Authorizer
from ccm.upstream.call import Call, Watch, failure
from ccm.upstream.sessions import Sessions
from ccm.wire import eventstream, sse
from ccm.wire.headers import relayed, safe_value

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
MAX_HELD_BYTES = 1024 * 1024  # of a stream before its first content
_MAX_TOKENS = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*([0-9]{1,7})')
_TOKENS_PER_LIMIT = (
    2000  # a whole answer may take header_s for its start, and as much again for every so many tokens
)
_USER_AGENT = "claude-code-mux"


class Via(Protocol):
    """The way out: whose connections, with whose credentials, and what refusals have taught."""

    sessions: Sessions
    auth: Authorizer
    repairs: Repairs
    drills: Drills


@dataclass(slots=True)
class Wanted:
    """What the client wants of any provider: parsed on demand, the same for all attempts."""

    raw: bytes
    body: Callable[[], dict[str, Any]]
    model: str
    stream: bool
    headers: Mapping[str, str]
    session: str
    renderer: Callable[[], Renderer]  # a fresh writer of events in the client's own form, for each attempt
    native: bool = True  # the client speaks Messages: an Anthropic provider's bytes may pass untouched
    tokens: int = 0  # our estimate of the input
    watched: bool = False  # the answer's events are looked at on their way: its bytes may not pass unseen
    request_id: str = ""


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
class _Sent:
    """A request in the provider's form."""

    dialect: Dialect
    ctx: Context
    encoded: Encoded
    body: bytes
    passing: bool  # Anthropic bytes through and through
    request: Request | None = None  # what was encoded; None where the client's bytes went out as they came
    repairs: tuple[Repair, ...] = ()


def context(want: Wanted, target: Target, new_id: Callable[[str], str], stream: bool) -> Context:
    """What the dialect may know."""
    provider = target.provider
    return Context(
        provider=provider.name,
        family=f"{provider.dialect}/{provider.type}",
        model=target.model,
        asked_model=want.model,
        facts=target.facts,
        new_id=new_id,
        stream=stream,
        native=want.native,
        quirks=provider.quirks,
        abilities=provider.abilities,
        session=want.session,
        client_headers=want.headers,
        options=provider.options,
        estimate_tokens=want.tokens,
    )


def _encode(
    want: Wanted, target: Target, new_id: Callable[[str], str], repairs: tuple[Repair, ...] = ()
) -> _Sent:
    dialect = DIALECTS[target.provider.dialect]
    ctx = context(want, target, new_id, want.stream)
    claude = dialect.name == "anthropic" and want.native
    if claude and not repairs and anthropic.can_pass(ctx) and not anthropic.needs_change(want.raw):
        raw = want.raw if target.model == want.model else anthropic.splice(want.raw, target.model)
        if raw is not None:
            encoded = Encoded("/v1/messages", {}, anthropic.headers(ctx))
            return _Sent(dialect, ctx, encoded, raw, True)
    request, ctx, losses = repair.before(repairs, want.body(), ctx)
    encoded = dialect.encode(request, ctx)
    repair.after(repairs, encoded, losses)
    body = json.dumps(encoded.body, separators=(",", ":")).encode()
    return _Sent(dialect, ctx, encoded, body, claude and not encoded.cut, request, repairs)


def send(
    via: Via,
    target: Target,
    encoded: Encoded,
    body: bytes,
    watch: Watch,
    deadline: float,
    stream: bool,
    client: Mapping[str, str],
    make: Caller = Call,
) -> Call:
    """Authorizes and sends one encoded request; the answer's head has been read when this returns."""
    provider = target.provider
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": _USER_AGENT,
        **encoded.headers,
        **provider.headers,
    }
    pool = via.sessions.pool(provider)
    url = f"{'https' if pool.secure else 'http'}://{pool.authority}{pool.path}{encoded.path}"
    headers |= via.auth.headers(
        target.endpoint, url, {**headers, "host": pool.authority}, body, client=client
    )
    call = make(pool, watch)
    call.send(encoded.path, headers, body, deadline)
    return call


def refuse_bad_status(call: Call, dialect: Dialect, deadline: float) -> None:
    """Raises UpstreamError for every status but 2xx, with the provider's own words."""
    head = call.head
    assert head is not None
    if 200 <= head.status < 300:
        return
    try:
        if 300 <= head.status < 400:
            where = head.headers.get("location", "nowhere").split("?", 1)[0][:200]
            raise failure(
                FailureKind.PROTOCOL,
                f"{call.pool.provider.name} redirects to {where}; redirects are not followed: correct its base_url",
            )
        body = call.read_all(deadline, MAX_ERROR_BYTES)
        raise UpstreamError(dialect.explain(head.status, head.headers, body))
    except UpstreamError:
        _done(call)
        raise


def _done(call: Call) -> None:
    if call.body.done:
        call.release()
    else:
        call.close()


def attempt(
    want: Wanted,
    target: Target,
    limits: Timeouts,
    via: Via,
    watch: Watch,
    deadline: float,
    new_id: Callable[[str], str],
) -> Answer:
    """One try at one target, with at most one corrected repetition after a refusal that can be repaired (R11, R23, R24).

    Raises UpstreamError, ClientGone, and Refusal for what its dialect cannot carry.
    """
    provider, model = target.provider.name, target.model
    known = via.repairs.known(provider, model)
    sent = _encode(want, target, new_id, known)
    try:
        return _ask(want, sent, target, limits, via, watch, deadline)
    except UpstreamError as error:
        refused = error
        found = _repair(want, sent, error.error)
    if found is None or time.monotonic() >= deadline:
        raise refused
    first = sent
    try:
        sent = _encode(want, target, new_id, (*known, found))
    except Refusal:
        raise refused from None
    if _same(first, sent, want, model):
        raise refused  # what was refused would go out again
    try:
        answer = _ask(want, sent, target, limits, via, watch, deadline)
    except UpstreamError as error:
        if error.error.message != refused.error.message and _repair(want, sent, error.error) is not None:
            via.repairs.remember(provider, model, found)  # it got further: the next thing is refused only now
        raise
    via.repairs.remember(provider, model, found)
    return answer


def _repair(want: Wanted, sent: _Sent, error: ProviderError) -> Repair | None:
    """What would put right a refused request, unless that has been tried already."""
    if error.status not in repair.STATUSES:
        return None
    try:
        request = want.body() if sent.request is None else sent.request
    except Refusal:
        return None  # the provider's own words about a body that is no request say more than ours
    found = repair.find(error, request, sent.encoded, sent.dialect.name)
    return None if found in sent.repairs else found


def _same(first: _Sent, second: _Sent, want: Wanted, model: str) -> bool:
    """Whether a repair changed nothing after all."""
    a, b = first.encoded, second.encoded
    body = {**want.body(), "model": model} if first.request is None else a.body
    return (body, a.headers, a.path) == (b.body, b.headers, b.path)


def _ask(
    want: Wanted, sent: _Sent, target: Target, limits: Timeouts, via: Via, watch: Watch, deadline: float
) -> Answer:
    """Sends what was encoded and reads up to the first content."""
    now = time.monotonic()
    streamed = sent.ctx.stream
    # Without streaming a provider sends its head only when the whole answer is ready.
    if not (streamed and want.stream):
        deadline = min(deadline, now + limits.header_s * (1 + _asked_tokens(want.raw) / _TOKENS_PER_LIMIT))
    head_deadline = min(deadline, now + limits.header_s) if streamed else deadline
    make = via.drills.caller(target, want.request_id) if via.drills.active else Call
    call = send(via, target, sent.encoded, sent.body, watch, head_deadline, streamed, want.headers, make)
    refuse_bad_status(call, sent.dialect, min(deadline, time.monotonic() + limits.header_s))
    assert call.head is not None
    answer = Answer(
        target,
        relayed(call.head.headers),
        call.head.headers,
        [f"{n.feature}={n.how}" for n in sent.encoded.losses],
        call,
    )
    if sent.repairs:
        answer.headers["x-ccm-repair"] = safe_value(", ".join(map(str, sent.repairs)))
    try:
        if want.stream:
            content_from = now if streamed else time.monotonic()
            _prime(want, sent, call, answer, min(deadline, content_from + limits.first_content_s))
        else:
            _read_whole(want, sent, call, answer, deadline)
    except BaseException:
        call.close()
        raise
    return answer


def _asked_tokens(raw: bytes) -> int:
    """How long the answer may become: `max_tokens` by its last occurrence, without parsing; 0 when unknown."""
    match = _MAX_TOKENS.match(raw, max(0, raw.rfind(b'"max_')))
    return int(match[1]) if match is not None else 0


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


def _relay(want: Wanted, sent: _Sent, renderer: Renderer) -> TranslateRelay:
    decoder = sent.dialect.decoder(sent.ctx, sent.encoded)
    if sent.encoded.cut:
        decoder = cut.Cutter(decoder, sent.encoded.cut)
    framer = eventstream.Framer() if sent.dialect.framing == "eventstream" else sse.Framer()
    return TranslateRelay(framer, decoder, renderer)


def _prime(want: Wanted, sent: _Sent, call: Call, answer: Answer, deadline: float) -> None:
    """Reads up to the first content event: the last moment at which failing over is free."""
    what = "sent no content in time"
    piece = call.payload(deadline, FailureKind.FIRST_CONTENT_TIMEOUT, what)
    if piece is None or not _is_stream(call, piece):
        rest = (
            b""
            if piece is None
            else call.read_all(deadline, MAX_ANSWER_BYTES, FailureKind.FIRST_CONTENT_TIMEOUT)
        )
        _whole(want, sent, answer, (piece or b"") + rest)
        _as_stream(want, answer)
        return
    answer.renderer = renderer = want.renderer()
    relay: Relay
    if sent.passing and not want.watched:
        relay = PassRelay(anthropic_scan.Scanner(), lambda: _relay(want, sent, renderer))
    else:
        relay = _relay(want, sent, renderer)
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


def _as_stream(want: Wanted, answer: Answer) -> None:
    """A whole message for a client that asked for a stream."""
    message = answer.message
    assert message is not None
    answer.renderer = want.renderer()
    answer.first = b"".join(answer.renderer.render(event) for event in unfold(message))
    answer.body = b""
    answer.call = None


def _read_whole(want: Wanted, sent: _Sent, call: Call, answer: Answer, deadline: float) -> None:
    body = call.read_all(deadline, MAX_ANSWER_BYTES)
    if _is_stream(call, body):
        _fold_stream(want, sent, answer, body)
    else:
        _whole(want, sent, answer, body)
    call.release()
    answer.call = None


def _fold_stream(want: Wanted, sent: _Sent, answer: Answer, body: bytes) -> None:
    """A stream for a client that asked for a message (some providers only stream)."""
    folded = Folding()
    relay = _relay(want, sent, folded)
    relay.feed(body)
    if relay.error is None:
        relay.end()
    if relay.error is not None:
        raise UpstreamError(relay.error)
    answer.message = folded.fold.message
    answer.usage = relay.usage
    answer.stop_reason = relay.stop_reason


def _whole(want: Wanted, sent: _Sent, answer: Answer, body: bytes) -> None:
    name = answer.target.provider.name
    try:
        data = json.loads(body)
    except ValueError:
        kind = "an empty body" if not body.strip() else f"{len(body)} bytes that are not JSON"
        raise failure(FailureKind.PROTOCOL, f"{name} answered 200 with {kind}") from None
    try:
        message = sent.dialect.decode(data, sent.ctx, sent.encoded)
    except BadUpstream as error:
        raise failure(FailureKind.PROTOCOL, f"{name} answered 200 with something else: {error}") from None
    if sent.encoded.cut:
        message = cut.cut_message(message, sent.encoded.cut)
    answer.message = message
    if sent.passing and message is data:
        answer.body = body
    usage = message.get("usage")
    answer.usage.update(usage if isinstance(usage, dict) else None)
    answer.stop_reason = message.get("stop_reason")
