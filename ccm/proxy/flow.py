"""A request from parse to account: the phases, top to bottom (DESIGN 4).

Everything before `commit` can be undone and tried elsewhere; after it nothing can. Whoever ends the request (this
worker, or the pump for a stream) calls `_account` exactly once.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Mapping
from typing import Any

from ccm.dialects.inbound.base import SURFACES, Renderer
from ccm.errors import ClientGone, Refusal
from ccm.model import Failure, FailureKind, Outcome, ProviderError, Snapshot, Target
from ccm.observe.record import RequestRecord
from ccm.proxy import parse
from ccm.proxy.admission import admit
from ccm.proxy.answer import Answer
from ccm.proxy.attempt import Wanted
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import Engine, new_id, without_keys
from ccm.proxy.entry import Entry
from ccm.proxy.rescue import Rescue
from ccm.proxy.splice import Witness
from ccm.proxy.stream import Stream
from ccm.proxy.tries import Tries
from ccm.routing import failures, tags
from ccm.routing.classify import Ask
from ccm.routing.router import Route, Ticket
from ccm.wire import search
from ccm.wire.headers import safe_value

CLIENT_TIMEOUT_S = 600.0  # what Claude Code and the SDKs wait by default, when they do not say
_MARGIN_S = 5.0  # our answer must arrive before the client gives up
# What differs between a turn and its repetition without streaming.
_NOISE = re.compile(rb'"(?:stream|max_tokens)"\s*:\s*\w+\s*,?\s*')


class Flow:
    """One request for an answer, through whatever door it came."""

    def __init__(
        self,
        engine: Engine,
        raw: bytes,
        headers: Mapping[str, str],
        entry: Entry,
        down: Downstream,
        notes: dict[Any, Any],
    ) -> None:
        self.engine = engine
        self.snapshot: Snapshot = engine.snapshot
        self.down = down
        self.raw = raw
        self.headers = headers
        self.notes = notes
        self.entry = entry
        self.surface = SURFACES[entry.surface]
        self.original: dict[str, Any] = {}  # the client's own body, where it is no Messages request
        self.losses: list[str] = []  # what its translation into one dropped
        self.started = time.monotonic()
        self.record = RequestRecord(new_id("req_"), time.time(), bytes_in=len(raw))
        self.record.traceparent = headers.get("traceparent", "")
        bodies = engine.bodies
        self._bodies = bodies if bodies is not None and bodies.active else None
        if self._bodies is not None:
            self._bodies.write(self.record.id, "request", self.raw)
        self._body: dict[str, Any] | None = None
        self._left = False
        self._serving: tuple[Target, Ticket]
        self._continues = engine.snapshot.failover.midstream == "continue"
        self._first_content_s: float | None = None  # of the attempt that answered, from its own beginning
        self._body_key = 0

    def run(self) -> bool:
        """Answers the request. True: the connection is answered for (a stream went to the pump)."""
        record = self.record
        if not self.engine.enter(self.snapshot.max_in_flight):
            busy = Refusal(
                503, "api_error", "ccm is answering as many requests as it may.", {"retry-after": "1"}
            )
            return self._refuse(busy)
        try:
            return self._run()
        except Refusal as refusal:
            return self._refuse(refusal)
        except ClientGone:
            record.ending = "client_gone"
            self._account(499)
            raise
        except RecursionError as fault:  # a body just below the parser's limit may be above another step's
            if self.down.committed:
                return self._our_fault(fault)
            return self._refuse(Refusal(400, "invalid_request_error", "The body is nested too deeply."))
        except Exception as fault:
            return self._our_fault(fault)
        finally:
            search.forget()
            self._leave()

    def _our_fault(self, fault: Exception) -> bool:
        """A bug of ours: the client gets an id, the log the traceback."""
        self.engine.on_fault(fault, self.record.id)
        if self.down.committed:
            self.down.keep_alive = False
            self.record.ending = "failed"
            self._account(500)
            raise ClientGone from None
        return self._refuse(
            Refusal(500, "api_error", f"ccm failed inside; its log has the details of {self.record.id}.")
        )

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self.engine.leave()

    # ---- parse, classify, choose

    def _translate(self) -> None:
        """A request of another API becomes a Messages request; from here on it is treated like any other."""
        self.original = parse.parse(self.raw)
        entry = self.entry
        body, losses = self.surface.request(self.original, entry.model, entry.stream, self.headers, new_id)
        parse.check_messages(body)
        self.losses = [f"{loss.feature}={loss.how}" for loss in losses]
        self.headers = {**self.headers, **self.surface.extra_headers(self.original, self.headers)}
        self._body = body
        self.raw = json.dumps(body, separators=(",", ":")).encode()

    def _renderer(self) -> Renderer:
        record = self.record
        renderer = self.surface.renderer(
            record.asked_model, self._body or {}, self.original, new_id, int(record.at)
        )
        return Witness(renderer) if self._continues else renderer

    def body(self) -> dict[str, Any]:
        """The parsed request, parsed and checked on first use."""
        if self._body is None:
            body = parse.parse(self.raw)
            parse.check_messages(body)
            self._body = body
        return self._body

    def _run(self) -> bool:
        record = self.record
        record.surface = self.entry.surface
        if not self.surface.native:
            self._translate()
        search.remember(self.raw)
        peeked = parse.peek(self.raw)
        if peeked is None:
            body = self.body()
            peeked = body["model"], bool(body.get("stream"))
        model, stream = peeked
        record.asked_model, record.stream = model, stream
        ask = Ask(
            model=model,
            stream=stream,
            headers=self.headers,
            size_bytes=len(self.raw),
            path_prefix=self.entry.prefix,
            body=self.body,
            raw=self.raw,
        )
        if stream or self.engine.router.avoids:
            ask.body_key = self._body_key = zlib.crc32(
                ask.session().encode() or _NOISE.sub(b"", self.raw[:2048]).rstrip(b", }")
            )
        route = self.engine.router.route(ask, self.snapshot, self.engine.book.find)
        if ask.tagged() and (stripped := tags.strip_tags(self.body())) is not self.body():
            self._body = stripped  # a routing tag is for us, not for a provider
            self.raw = json.dumps(stripped, separators=(",", ":")).encode()
        record.session, record.request_class = route.session, route.request_class
        record.project = self.engine.projects.of(self.headers, route.session, self.raw)
        record.list_price = route.list_price
        route = admit(self.engine, record, ask, route, self.body)
        record.route, record.why = route.reason, route.tell
        want = Wanted(
            self.raw,
            self.body,
            model,
            stream,
            self.headers,
            route.session,
            self._renderer,
            native=self.surface.native,
            tokens=ask.input_tokens(),
            request_id=record.id,
            watched=self._continues and stream,
            notes=self.notes,
        )
        thinking = stream and search.contains(self.raw, b'"thinking"')
        return self._try_all(want, route, thinking)

    def _deadline(self, stream: bool) -> float:
        """When an answer must have begun: before the client gives up (RELIABILITY row 34)."""
        try:
            client_s = float(self.headers.get("x-stainless-timeout", CLIENT_TIMEOUT_S))
        except ValueError:
            client_s = CLIENT_TIMEOUT_S
        limit = max(1.0, client_s - _MARGIN_S)
        return self.started + (min(limit, self.snapshot.failover.deadline_s) if stream else limit)

    # ---- attempts

    def _try_all(self, want: Wanted, route: Route, thinking: bool) -> bool:
        tries = Tries(
            self.engine,
            self.down,
            self.record,
            want,
            route,
            started=self.started,
            deadline=self._deadline(want.stream),
            thinking=thinking,
        )
        found = tries.run(self.snapshot.failover)
        if found is None:
            return self._all_failed(want, route, tries.failed)
        self._first_content_s = tries.first_content_s
        return self._deliver(want, route, *found)

    # ---- the answer

    def _answer_headers(self, answer: Answer) -> dict[str, str]:
        record = self.record
        headers = {"request-id": record.id, "x-ccm-request-id": record.id, **answer.headers}
        told, clean = "\n".join(answer.headers.values()), self.engine.clean
        if clean(told) != told:
            headers |= {name: clean(value) for name, value in answer.headers.items()}
        if not self.surface.native:
            headers["x-request-id"] = headers["request-id"]  # where OpenAI's clients look for it
        if record.warned:
            headers["x-ccm-budget"] = safe_value("; ".join(record.warned), 1024)
        headers["x-ccm-provider"] = safe_value(answer.target.provider.name)
        headers["x-ccm-model"] = safe_value(answer.target.model)
        headers["x-ccm-route"] = safe_value(record.route)
        headers["x-ccm-attempts"] = safe_value(",".join(f"{a.endpoint}={a.result}" for a in record.attempts))
        if losses := self.losses + answer.losses:
            record.losses = losses
            headers["x-ccm-loss"] = safe_value(", ".join(losses), 1024)
        return headers

    def _deliver(self, want: Wanted, route: Route, answer: Answer, ticket: Ticket) -> bool:
        headers = self._answer_headers(answer)
        self.record.usage, self.record.stop_reason = answer.usage, answer.stop_reason
        try:
            if want.stream:
                return self._commit(want, route, answer, headers, ticket)
            if answer.body and self.surface.native:
                body = answer.body
            else:
                body = json.dumps(self._message(answer), separators=(",", ":")).encode()
            if self._bodies is not None:
                self._tap(body)
            self.down.answer(200, body, headers)
        except ClientGone:
            self._close(answer)
            self.engine.router.release(ticket, Outcome(cancelled=True))
            raise
        self._succeed(ticket)
        return False

    def _tap(self, data: bytes) -> None:
        if data and self._bodies is not None:
            self._bodies.write(self.record.id, "answer", data)

    def _message(self, answer: Answer) -> dict[str, Any]:
        record = self.record
        return self.surface.message(
            answer.message or {}, record.asked_model, self.original, new_id, int(record.at)
        )

    def _close(self, answer: Answer) -> None:
        if answer.call is not None:
            answer.call.close()

    def _commit(
        self, want: Wanted, route: Route, answer: Answer, headers: dict[str, str], ticket: Ticket
    ) -> bool:
        """The instant after which nothing can be undone."""
        relay, call, down = answer.relay, answer.call, self.down
        renderer = answer.renderer or self._renderer()
        if relay is None or call is None:  # a whole message, shown as a stream
            down.commit(headers, answer.first, renderer.content_type, last=True)
            self._succeed(ticket)
            return False
        down.commit(headers, answer.first, renderer.content_type, last=relay.finished)

        self._serve(answer.target, ticket)
        rescue = None
        if isinstance(renderer, Witness):
            rescuer = Rescue(self.engine, want, route, self.record, renderer, self.started, self._serve)
            rescue = lambda stream, error: rescuer.begin(stream, error, *self._serving)  # noqa: E731
        if self._bodies is not None:
            self._tap(answer.first)
        stream = Stream(
            call,
            down,
            relay,
            answer.target.provider.timeouts,
            lambda e: self._error_bytes(self._serving[0], renderer, e),
            self._stream_ended,
            rescue,
        )
        if self._bodies is not None:
            stream.tap = self._tap
        self._leave()
        if rescue is None:  # a stream lives for minutes: what was asked is not needed any more
            self.raw, self._body, self.original, self.headers = b"", None, {}, {}
        else:
            down.keeps_body = True
        self.engine.pump.adopt(stream)
        return True

    def _error_bytes(self, target: Target, renderer: Renderer, error: ProviderError) -> bytes:
        if error.kind is not FailureKind.INTERNAL:  # before the client knows: it asks again at once
            self.engine.router.avoid(self._body_key, target.endpoint.id)
        failure = failures.classify(without_keys(error, self.engine.clean), now_wall=time.time())
        type, message = failures.error_type_for_stream(failure)
        return renderer.fail(type, f"{target.provider.name}: {message}", self.record.id)

    def _serve(self, target: Target, ticket: Ticket) -> None:
        self._serving = (target, ticket)

    def _stream_ended(self, stream: Stream) -> None:
        """Runs in the thread that ended the stream."""
        _, ticket = self._serving
        record, router = self.record, self.engine.router
        record.usage, record.stop_reason = stream.relay.usage, stream.relay.stop_reason
        record.longest_gap_s = stream.longest_gap_s
        if stream.error is not None:
            failure = failures.classify(stream.error, now_wall=time.time())
            router.release(ticket, Outcome(failure=failure))
            record.ending, record.error = "broken", stream.error.message[:500]
            self._account(200)
        elif stream.gone:
            router.release(ticket, Outcome(cancelled=True))
            record.ending = "client_gone"
            self._account(200)
        else:
            self._succeed(ticket)

    def _succeed(self, ticket: Ticket) -> None:
        usage = self.record.usage
        outcome = Outcome(
            first_content_s=self._first_content_s,
            input_tokens=usage.input_total,
            output_tokens=usage.output,
            cached_tokens=usage.cache_read + usage.cache_write,
        )
        self.engine.router.release(ticket, outcome)
        self.record.ending = "complete"
        self._account(200)

    # ---- the end

    def _all_failed(self, want: Wanted, route: Route, failed: list[tuple[Target, Failure]]) -> bool:
        record, router = self.record, self.engine.router
        window = max((t.facts.window for t, _ in failed), default=None)
        final = failures.final(
            failed, window=window, tokens=want.tokens, soonest_s=router.soonest_s(route.targets)
        )
        headers = {"request-id": record.id, "x-ccm-request-id": record.id, **final.headers}
        headers["x-ccm-attempts"] = safe_value(",".join(f"{a.endpoint}={a.result}" for a in record.attempts))
        record.ending, record.error = "failed", final.message[:500]
        self._account(final.status)
        if final.body and self.surface.native:
            self.down.answer(final.status, final.body, headers)
        else:
            error = self.surface.error(final.status, final.type, final.message, record.id)
            self.down.answer_json(final.status, error, headers)
        return False

    def _refuse(self, refusal: Refusal) -> bool:
        record = self.record
        record.ending, record.error = "refused", refusal.message[:500]
        self._account(refusal.status)
        headers = {"request-id": record.id, "x-ccm-request-id": record.id, **refusal.headers}
        error = self.surface.error(refusal.status, refusal.type, refusal.message, record.id)
        self.down.answer_json(refusal.status, error, headers)
        return False

    def _account(self, status: int) -> None:
        record = self.record
        record.status = status
        record.total_s = time.monotonic() - self.started
        record.bytes_out = self.down.bytes_out
        self.engine.observe(record)
