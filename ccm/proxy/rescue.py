"""When a stream breaks in the middle and `midstream = "continue"`: who goes on, and what that costs (`proxy.splice` has
the how). Runs in a thread of its own, for asking a second provider takes as long as asking the first one did; the pump
keeps the client awake meanwhile. Tried once per answer: a second break is an error.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from ccm.errors import BadUpstream, CcmError, ClientGone, UpstreamError
from ccm.model import Failure, FailureKind, Outcome, ProviderError, Target
from ccm.observe.record import Attempt, RequestRecord
from ccm.proxy.answer import Answer
from ccm.proxy.attempt import Wanted, attempt
from ccm.proxy.engine import Engine, new_id, without_keys
from ccm.proxy.relay import Finished
from ccm.proxy.splice import Splice, Witness, resumption
from ccm.proxy.stream import Stream, Successor
from ccm.routing import failover, failures
from ccm.routing.failures import POLICY
from ccm.routing.router import Route, Ticket
from ccm.shape import replace

_ASKED_MOST = 2  # providers
_WITHIN_S = 60.0  # until the second answer must have begun


class _Nobody:
    """A watch without a client: the pump has it."""

    fd = -1
    events = 0

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def hangup(self, events: int) -> None:
        """Never: nothing is watched."""

    def waiting(self) -> None:
        """Nobody waits at a door for this thread."""

    def calling(self, call: object) -> None:
        """Raises ClientGone when the stream has ended meanwhile."""
        if self._stream.is_over:
            raise ClientGone


class Rescue:
    """The second half of one request. `target` and `ticket` are whoever serves the stream at the moment."""

    def __init__(
        self,
        engine: Engine,
        want: Wanted,
        route: Route,
        record: RequestRecord,
        shown: Witness,
        started: float,
        serving: Callable[[Target, Ticket], None],
    ) -> None:
        self._engine = engine
        self._want = want
        self._route = route
        self._record = record
        self._shown = shown
        self._started = started
        self._serving = serving  # told who serves from now on

    def begin(self, stream: Stream, error: ProviderError, target: Target, ticket: Ticket) -> bool:
        """Whether the broken stream is to be completed. True: the account of the first provider is closed, and the
        pump will hear of a successor."""
        engine = self._engine
        failure = failures.classify(without_keys(error, engine.clean), now_wall=time.time())
        if not self._shown.resumable or engine.stopping.is_set() or not POLICY[failure.kind].onward:
            return False
        budget = engine.router.retry_budget
        if not budget.take(budget.COST):
            return False
        engine.router.release(ticket, Outcome(failure=failure))
        self._book(stream, target, failure)
        name = "ccm-rescue"
        thread = threading.Thread(target=self._run, args=(stream, target, failure), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: the error that would have come anyway
            budget.end(budget.COST, failed=True)
            engine.pump.resume(stream, Successor(error=failure.error))
        return True

    def _book(self, stream: Stream, target: Target, failure: Failure) -> None:
        """The first provider's part: what it counted, and what it must have written at least."""
        spent = replace(stream.relay.usage, estimated=True)
        spent.output = max(spent.output, self._shown.tokens)
        for place, note in enumerate(self._record.attempts):
            if note.result == "200" and note.endpoint == target.endpoint.id:
                result = str(failure.error.status or failure.kind.value)
                self._record.attempts[place] = replace(
                    note, result=result, error=failure.error.message[:500], usage=spent, assumed_billed=True
                )

    def _run(self, stream: Stream, broken: Target, failure: Failure) -> None:
        engine, budget = self._engine, self._engine.router.retry_budget
        successor = Successor(error=failure.error)
        try:
            successor = self._find(stream, broken) or successor
        except ClientGone:
            return
        except CcmError:
            pass  # a refusal of ours: the first error says more
        except Exception as fault:  # a bug of ours must not leave the stream without an end
            engine.on_fault(fault, self._record.id)
        finally:
            budget.end(budget.COST, failed=successor.error is not None)
            engine.pump.resume(stream, successor)

    def _find(self, stream: Stream, broken: Target) -> Successor | None:
        """Asks those that may go on: the same model first, another provider before the one that broke."""
        others = sorted(
            self._route.targets,
            key=lambda t: (t.model != broken.model, t.endpoint.id == broken.endpoint.id),
        )
        deadline = time.monotonic() + _WITHIN_S
        asked = 0
        for target in others:
            if asked == _ASKED_MOST or stream.is_over:
                break
            ticket = self._engine.router.reserve(target)
            if ticket is None:
                continue
            asked += 1
            successor = self._ask(stream, target, ticket, deadline)
            if successor is not None:
                return successor
        return None

    def _ask(self, stream: Stream, target: Target, ticket: Ticket, deadline: float) -> Successor | None:
        engine, began = self._engine, time.monotonic()
        limits = failover.limits(target.provider.timeouts, deadline - began, True, self._want.tokens)
        try:
            answer = attempt(self._again(target), target, limits, engine, _Nobody(stream), deadline, new_id)
        except UpstreamError as error:
            failure = failures.classify(without_keys(error.error, engine.clean), now_wall=time.time())
            engine.router.release(ticket, Outcome(failure=failure))
            self._note(target, str(failure.error.status or failure.kind.value), began, failure.error.message)
            return None
        except BadUpstream as error:
            broken = ProviderError(0, "api_error", engine.clean(str(error)), kind=FailureKind.PROTOCOL)
            engine.router.release(ticket, Outcome(failure=Failure(FailureKind.PROTOCOL, broken)))
            self._note(target, "protocol", began, broken.message)
            return None
        except BaseException:
            engine.router.release(ticket, Outcome(cancelled=True))
            raise
        seconds = time.monotonic() - began
        engine.router.first_content(ticket, seconds, self._want.tokens)
        self._note(target, "200", began)
        return self._successor(answer, target, ticket)

    def _successor(self, answer: Answer, target: Target, ticket: Ticket) -> Successor:
        record = self._record
        record.provider, record.endpoint = target.provider.name, target.endpoint.id
        record.model, record.price = target.model, target.facts.price
        self._serving(target, ticket)

        def drop() -> None:
            if answer.call is not None:
                answer.call.close()
            self._engine.router.release(ticket, Outcome(cancelled=True))

        relay = answer.relay or Finished(answer.usage, answer.stop_reason)
        return Successor(answer.call, relay, answer.first, None, drop)

    def _again(self, target: Target) -> Wanted:
        """The request for the rest; each target gets its own Splice."""
        body = resumption(self._want.body(), self._shown)
        raw = json.dumps(body, separators=(",", ":")).encode()
        shown, note = self._shown, b""
        if "event-stream" in shown.content_type:
            note = f": ccm continued provider={target.provider.name} after {shown.tokens} tokens\n\n".encode()
        spent = {"output_tokens": shown.tokens}
        return replace(
            self._want,
            raw=raw,
            body=lambda: body,
            renderer=lambda: Splice(shown, note, spent),
            tokens=self._want.tokens + shown.tokens,
        )

    def _note(self, target: Target, result: str, began: float, error: str = "") -> None:
        self._record.attempts.append(
            Attempt(
                target.endpoint.id,
                target.model,
                result,
                time.monotonic() - began,
                error[:500],
                began - self._started,
                price=target.facts.price,
            )
        )
