"""One attempt: encode, authorize, send, read the head, decode up to the first content.

Until it returns, everything can be undone and another target tried; what it returns is ready to be committed. All
failures leave as UpstreamError; a client that leaves as ClientGone. The call is closed on every failing path.
A refusal that says what would help is repaired and sent once more: that is the same attempt, no failure of the target.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ccm.dialects import anthropic, repair
from ccm.dialects.base import Context, Dialect, Encoded, Request
from ccm.dialects.inbound.base import Renderer
from ccm.dialects.repair import Repair
from ccm.dialects.table import DIALECTS
from ccm.errors import Refusal, UpstreamError
from ccm.model import FailureKind, ProviderError, Target, Timeouts
from ccm.proxy.answer import Answer, Reading, prime, read_whole
from ccm.proxy.drill import Caller, Drills
from ccm.proxy.folding import Folding as Folding  # also for those who look for it here
from ccm.proxy.repairs import Repairs
from ccm.shape import dataclass, field, replace
from ccm.upstream.auth import Authorizer
from ccm.upstream.call import Call, Watch, failure, request_head
from ccm.upstream.sessions import Sessions
from ccm.wire import jsontext
from ccm.wire.headers import relayed, safe_value

MAX_ERROR_BYTES = 1024 * 1024
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
    notes: dict[Any, Any] = field(default_factory=dict)  # of the client's head (`wire.http1.RequestHead`)


@dataclass(slots=True)
class _Sent:
    """A request in the provider's form."""

    dialect: Dialect
    ctx: Context
    encoded: Encoded
    body: bytes
    passing: bool  # Anthropic bytes through and through
    as_came: bool = False  # the client's bytes, and nothing in the head that depends on them
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
            return _Sent(dialect, ctx, encoded, raw, True, True)
    request, ctx, losses = repair.before(repairs, want.body(), ctx)
    encoded = dialect.encode(request, ctx)
    repair.after(repairs, encoded, losses)
    body = jsontext.dumps(encoded.body)
    return _Sent(dialect, ctx, encoded, body, claude and not encoded.cut, False, request, repairs)


def _headers(target: Target, encoded: Encoded, stream: bool) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": _USER_AGENT,
        **encoded.headers,
        **target.provider.headers,
    }


_MOST_HEADS = 32


def _pass(via: Via, sent: _Sent, want: Wanted, target: Target, watch: Watch, deadline: float) -> Call:
    """`send` for a client's own bytes. Clients repeat themselves, and so do the heads of what goes out for them: one
    that was written for the same endpoint of the same configuration is written again with another length."""
    endpoint, stream = target.endpoint, sent.ctx.stream
    pool = via.sessions.pool(target.provider)
    known = want.notes.get((endpoint.id, stream))
    if known is None or known[0] is not endpoint or known[1] is not pool:
        headers = _headers(target, sent.encoded, stream)
        url = f"{pool.authority}{pool.path}{sent.encoded.path}"
        headers |= via.auth.headers(endpoint, f"{'https' if pool.secure else 'http'}://{url}", headers, b"")
        if len(want.notes) >= _MOST_HEADS:
            want.notes.clear()
        known = endpoint, pool, *request_head(pool, sent.encoded.path, headers)
        want.notes[endpoint.id, stream] = known
    call = Call(pool, watch)
    call.exchange(b"%b%d%b" % (known[2], len(sent.body), known[3]), sent.body, deadline)
    return call


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
    headers = _headers(target, encoded, stream)
    pool = via.sessions.pool(provider)
    url = f"{'https' if pool.secure else 'http'}://{pool.authority}{pool.path}{encoded.path}"
    if not via.auth.lasts(target.endpoint):
        watch.waiting()  # a command may run, a token may be fetched
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
    if sent.as_came and not via.drills.active and via.auth.lasts(target.endpoint):
        call = _pass(via, sent, want, target, watch, head_deadline)
    else:
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
    encoded = replace(sent.encoded, body={}) if sent.encoded.body else sent.encoded
    how = Reading(sent.dialect, sent.ctx, encoded, sent.passing, want.watched, want.renderer)
    try:
        if want.stream:
            content_from = now if streamed else time.monotonic()
            prime(how, call, answer, min(deadline, content_from + limits.first_content_s))
        else:
            read_whole(how, call, answer, deadline)
    except BaseException:
        call.close()
        raise
    return answer


def _asked_tokens(raw: bytes) -> int:
    """How long the answer may become: `max_tokens` by its last occurrence, without parsing; 0 when unknown."""
    match = _MAX_TOKENS.match(raw, max(0, raw.rfind(b'"max_')))
    return int(match[1]) if match is not None else 0
