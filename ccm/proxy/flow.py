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
from ccm.errors import BadUpstream, ClientGone, Refusal, UpstreamError
from ccm.model import Failure, FailureKind, Outcome, ProviderError, Snapshot, Target
from ccm.observe.record import Attempt, RequestRecord
from ccm.proxy import parse
from ccm.proxy.attempt import Answer, Wanted, attempt
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import Engine, new_id, without_keys
from ccm.proxy.entry import Entry
from ccm.proxy.pump import Stream
from ccm.routing import failover, failures, tags
from ccm.routing.classify import Ask
from ccm.routing.router import Route, Ticket
from ccm.upstream.poller import wait_for
from ccm.wire.headers import safe_value
from ccm.wire.search import contains

CLIENT_TIMEOUT_S = 600.0  # what Claude Code and the SDKs wait by default, when they do not say
_MARGIN_S = 5.0  # our answer must arrive before the client gives up
# What differs between a turn and its repetition without streaming.
_NOISE = re.compile(rb'"(?:stream|max_tokens)"\s*:\s*\w+\s*,?\s*')


class Flow:
    """One request for an answer, through whatever door it came."""

    def __init__(
        self, engine: Engine, raw: bytes, headers: Mapping[str, str], entry: Entry, down: Downstream
    ) -> None:
        self.engine = engine
        self.snapshot: Snapshot = engine.snapshot
        self.down = down
        self.raw = raw
        self.headers = headers
        self.entry = entry
        self.surface = SURFACES[entry.surface]
        self.original: dict[str, Any] = {}  # the client's own body, where it is no Messages request
        self.losses: list[str] = []  # what its translation into one dropped
        self.started = time.monotonic()
        self.record = RequestRecord(new_id("req_"), time.time(), bytes_in=len(raw))
        self._body: dict[str, Any] | None = None
        self._left = False
        self._first_content_s: float | None = None  # of the attempt that answered, from its own beginning
        self._body_key = 0
        self.failed: list[tuple[Target, Failure]] = []

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
        except Exception as fault:  # a bug of ours: the client gets an id, the log the traceback
            self.engine.on_fault(fault, record.id)
            if self.down.committed:
                self.down.keep_alive = False
                record.ending = "failed"
                self._account(500)
                raise ClientGone from None
            return self._refuse(
                Refusal(500, "api_error", f"ccm failed inside; its log has the details of {record.id}.")
            )
        finally:
            self._leave()

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
        return self.surface.renderer(
            record.asked_model, self._body or {}, self.original, new_id, int(record.at)
        )

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
        ask.body_key = self._body_key = zlib.crc32(
            ask.session().encode() or _NOISE.sub(b"", self.raw[:2048]).rstrip(b", }")
        )
        route = self.engine.router.route(ask, self.snapshot, self.engine.book.find)
        if tags.may_have_tags(self.raw) and (stripped := tags.strip_tags(self.body())) is not self.body():
            self._body = stripped  # a routing tag is for us, not for a provider
            self.raw = json.dumps(stripped, separators=(",", ":")).encode()
        record.session, record.request_class = route.session, route.request_class
        record.route = route.reason
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
        )
        thinking = contains(self.raw, b'"thinking"')
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
        router = self.engine.router
        deadline = self._deadline(want.stream)
        plan = failover.plan(
            route,
            self.snapshot.failover,
            clock=time.monotonic,
            rng=router.rng,
            deadline=deadline,
            budget=router.retry_budget,
            thinking=thinking,
            input_tokens=want.tokens,
        )
        failure: Failure | None = None
        try:
            step = next(plan)
            while True:
                failure = None
                if isinstance(step, failover.Wait):
                    self._wait(step.seconds)
                else:
                    ticket = router.reserve(step.target, route)
                    if ticket is None and step.wait_s > 0:  # busy, not broken: a place in its queue
                        self.down.waiting()
                        ticket = router.wait_slot(step.queue, time.monotonic() + step.wait_s, self._gone)
                        if ticket is not None:
                            step.target = ticket.target
                    if ticket is not None:
                        answer = self._try(want, step, ticket, deadline)
                        if isinstance(answer, Answer):
                            return self._deliver(want, answer, ticket)
                        failure = answer
                step = plan.send(failure)
        except StopIteration:
            pass
        finally:
            plan.close()
        return self._all_failed(want, route)

    def _gone(self) -> bool:
        """Whether waiting has become pointless: ccm stops. Raises ClientGone when the client has left."""
        events, _ = wait_for(self.down.fd, self.down.events, 0.0)
        if events:
            self.down.hangup(events)
        return self.engine.stopping.is_set()

    def _wait(self, seconds: float) -> None:
        """A wait that ends when the client leaves, or when ccm stops."""
        deadline = time.monotonic() + seconds
        self.down.waiting()
        while (left := deadline - time.monotonic()) > 0 and not self.engine.stopping.is_set():
            events, _ = wait_for(self.down.fd, self.down.events, min(left, 1.0))
            if events:
                self.down.hangup(events)

    def _try(self, want: Wanted, step: failover.Try, ticket: Ticket, deadline: float) -> Answer | Failure:
        """One attempt; its failure is a value, everything that ends the request is raised."""
        engine, target, began = self.engine, step.target, time.monotonic()
        self.record.provider, self.record.endpoint = target.provider.name, target.endpoint.id
        self.record.model = target.model
        try:
            answer = self._attempt(want, step, deadline)
        except UpstreamError as error:
            failure = failures.classify(without_keys(error.error, engine.clean), now_wall=time.time())
        except BadUpstream as error:
            failure = Failure(
                FailureKind.PROTOCOL,
                ProviderError(0, "api_error", engine.clean(str(error)), kind=FailureKind.PROTOCOL),
            )
        except ClientGone:
            engine.router.release(ticket, Outcome(cancelled=True))
            self._note(target, "cancelled", began)
            raise
        except BaseException:
            engine.router.release(ticket, Outcome(cancelled=True))
            raise
        else:
            self.record.first_content_s = time.monotonic() - self.started
            self._first_content_s = time.monotonic() - began
            engine.router.first_content(ticket, self._first_content_s, want.tokens)
            self._note(target, "200", began)
            return answer
        # a client's own key says nothing of the provider: the next client's may be good
        own = failure.kind is FailureKind.CREDENTIAL and target.provider.auth == "passthrough"
        engine.router.release(ticket, Outcome(cancelled=True) if own else Outcome(failure=failure))
        self._note(target, str(failure.error.status or failure.kind.value), began, failure.error.message)
        self.failed.append((target, failure))
        return failure

    def _attempt(self, want: Wanted, step: failover.Try, deadline: float) -> Answer:
        """One call; a second one where the credentials had only run out and new ones can be had."""
        engine, target = self.engine, step.target
        try:
            return attempt(want, target, step.limits, engine, self.down, deadline, new_id)
        except UpstreamError as error:
            failure = failures.classify(error.error, now_wall=time.time())
            if failure.kind is not FailureKind.CREDENTIAL or not engine.auth.refused(target.endpoint):
                raise
        return attempt(want, target, step.limits, engine, self.down, deadline, new_id)

    def _note(self, target: Target, result: str, began: float, error: str = "") -> None:
        seconds = time.monotonic() - began
        self.record.attempts.append(Attempt(target.endpoint.id, target.model, result, seconds, error[:500]))

    # ---- the answer

    def _answer_headers(self, answer: Answer) -> dict[str, str]:
        record = self.record
        headers = {"request-id": record.id, "x-ccm-request-id": record.id, **answer.headers}
        told, clean = "\n".join(answer.headers.values()), self.engine.clean
        if clean(told) != told:
            headers |= {name: clean(value) for name, value in answer.headers.items()}
        if not self.surface.native:
            headers["x-request-id"] = headers["request-id"]  # where OpenAI's clients look for it
        headers["x-ccm-provider"] = safe_value(answer.target.provider.name)
        headers["x-ccm-model"] = safe_value(answer.target.model)
        headers["x-ccm-route"] = safe_value(record.route)
        headers["x-ccm-attempts"] = safe_value(",".join(f"{a.endpoint}={a.result}" for a in record.attempts))
        if losses := self.losses + answer.losses:
            record.losses = losses
            headers["x-ccm-loss"] = safe_value(", ".join(losses), 1024)
        return headers

    def _deliver(self, want: Wanted, answer: Answer, ticket: Ticket) -> bool:
        headers = self._answer_headers(answer)
        self.record.usage, self.record.stop_reason = answer.usage, answer.stop_reason
        try:
            if want.stream:
                return self._commit(answer, headers, ticket)
            if answer.body and self.surface.native:
                self.down.answer(200, answer.body, headers)
            else:
                self.down.answer_json(200, self._message(answer), headers)
        except ClientGone:
            self._close(answer)
            self.engine.router.release(ticket, Outcome(cancelled=True))
            raise
        self._succeed(ticket)
        return False

    def _message(self, answer: Answer) -> dict[str, Any]:
        record = self.record
        return self.surface.message(
            answer.message or {}, record.asked_model, self.original, new_id, int(record.at)
        )

    def _close(self, answer: Answer) -> None:
        if answer.call is not None:
            answer.call.close()

    def _commit(self, answer: Answer, headers: dict[str, str], ticket: Ticket) -> bool:
        """The instant after which nothing can be undone."""
        relay, call, down = answer.relay, answer.call, self.down
        renderer = answer.renderer or self._renderer()
        if relay is None or call is None:  # a whole message, shown as a stream
            down.commit(headers, answer.first, renderer.content_type, last=True)
            self._succeed(ticket)
            return False
        down.commit(headers, answer.first, renderer.content_type, last=relay.finished)

        def on_end(stream: Stream) -> None:
            self._stream_ended(stream, answer.target, ticket)

        stream = Stream(
            call,
            down,
            relay,
            answer.target.provider.timeouts,
            lambda e: self._error_bytes(answer.target, renderer, e),
            on_end,
        )
        self._leave()
        self.engine.pump.adopt(stream)
        return True

    def _error_bytes(self, target: Target, renderer: Renderer, error: ProviderError) -> bytes:
        if error.kind is not FailureKind.INTERNAL:  # before the client knows: it asks again at once
            self.engine.router.avoid(self._body_key, target.endpoint.id)
        failure = failures.classify(without_keys(error, self.engine.clean), now_wall=time.time())
        type, message = failures.error_type_for_stream(failure)
        return renderer.fail(type, f"{target.provider.name}: {message}", self.record.id)

    def _stream_ended(self, stream: Stream, target: Target, ticket: Ticket) -> None:
        """Runs in the thread that ended the stream."""
        record, router = self.record, self.engine.router
        record.usage, record.stop_reason = stream.relay.usage, stream.relay.stop_reason
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
            first_content_s=self._first_content_s, input_tokens=usage.input_total, output_tokens=usage.output
        )
        self.engine.router.release(ticket, outcome)
        self.record.ending = "complete"
        self._account(200)

    # ---- the end

    def _all_failed(self, want: Wanted, route: Route) -> bool:
        record, router = self.record, self.engine.router
        window = max((t.facts.window for t, _ in self.failed), default=None)
        final = failures.final(
            self.failed, window=window, tokens=want.tokens, soonest_s=router.soonest_s(route.targets)
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
