"""The attempts of one request, as the failover plan says, up to the first content or the last failure.

Every attempt is reserved, released and noted exactly once, whoever ends it. A hedged attempt is two of them, in two
threads, of which one wins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from ccm.errors import BadUpstream, ClientGone, Refusal, UpstreamError
from ccm.messages.tokens import Usage
from ccm.model import Failure, FailureKind, Outcome, ProviderError, Target, Timeouts
from ccm.observe.record import Attempt, RequestRecord
from ccm.proxy.answer import Answer
from ccm.proxy.attempt import Wanted, attempt
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import Engine, new_id, without_keys
from ccm.proxy.race import OWN, Lane, Race
from ccm.routing import failover, failures, quota
from ccm.routing.router import Route, Ticket
from ccm.settings import FailoverSettings
from ccm.shape import replace
from ccm.upstream.call import Watch
from ccm.upstream.poller import wait_for

_PLENTY, _HEARD_S, _HEARD_MOST = (
    0.25,
    0.5,
    1024,
)  # with more than this share of every limit left, it is enough to look so often
# Failures after which the provider may have worked, and charge, without our seeing an answer.
_MAYBE_BILLED = frozenset(
    {
        FailureKind.HEAD_TIMEOUT,
        FailureKind.FIRST_CONTENT_TIMEOUT,
        FailureKind.IDLE_TIMEOUT,
        FailureKind.BROKEN,
        FailureKind.PROTOCOL,
    }
)


class Tries:
    """Runs a plan. Afterwards `failed` has what went wrong, in order; `first_content_s` is the winning attempt's own."""

    def __init__(
        self,
        engine: Engine,
        down: Downstream,
        record: RequestRecord,
        want: Wanted,
        route: Route,
        *,
        started: float,
        deadline: float,
        thinking: bool,
    ) -> None:
        self._engine = engine
        self._down = down
        self._record = record
        self._want = want
        self._route = route
        self._started = started
        self._deadline = deadline
        self._thinking = thinking
        self._lock = threading.Lock()  # two lanes of a race note what they did
        self._hedged: dict[str, Failure] = {}  # target id -> how its hedge failed
        self.failed: list[tuple[Target, Failure]] = []
        self.first_content_s: float | None = None

    def run(self, settings: FailoverSettings) -> tuple[Answer, Ticket] | None:
        """The first answer with content and the ticket to be released after it, or None when every target failed.
        Raises ClientGone, and Refusal for what no dialect can carry."""
        router = self._engine.router
        plan = failover.plan(
            self._route,
            settings,
            clock=time.monotonic,
            rng=router.rng,
            deadline=self._deadline,
            budget=router.retry_budget,
            thinking=self._thinking,
            input_tokens=self._want.tokens,
        )
        failure: Failure | None = None
        try:
            step = next(plan)
            while True:
                failure = None
                if isinstance(step, failover.Wait):
                    self._wait(step.seconds)
                elif (known := self._hedged.pop(step.target.id, None)) is not None:
                    failure = known  # asked already, beside another one
                elif (ticket := self._reserve(step)) is not None:
                    answer = self._lead(step, ticket)
                    if isinstance(answer, tuple):
                        return answer
                    failure = answer
                step = plan.send(failure)
        except StopIteration:
            return None
        finally:
            plan.close()

    def _reserve(self, step: failover.Try) -> Ticket | None:
        router = self._engine.router
        ticket = router.reserve(step.target, self._route)
        if ticket is None and step.wait_s > 0:  # busy, not broken: a place in its queue
            self._down.waiting()
            ticket = router.wait_slot(step.queue, time.monotonic() + step.wait_s, self._gone)
            if ticket is not None:
                step.target = ticket.target
        return ticket

    def _gone(self) -> bool:
        """Whether waiting has become pointless: ccm stops. Raises ClientGone when the client has left."""
        events, _ = wait_for(self._down.fd, self._down.events, 0.0)
        if events:
            self._down.hangup(events)
        return self._engine.stopping.is_set()

    def _wait(self, seconds: float) -> None:
        """A wait that ends when the client leaves, or when ccm stops."""
        deadline = time.monotonic() + seconds
        self._down.waiting()
        while (left := deadline - time.monotonic()) > 0 and not self._engine.stopping.is_set():
            events, _ = wait_for(self._down.fd, self._down.events, min(left, 1.0))
            if events:
                self._down.hangup(events)

    # ---- one attempt, or two side by side

    def _lead(self, step: failover.Try, ticket: Ticket) -> tuple[Answer, Ticket] | Failure:
        """One step of the plan: its attempt, with a second one beside it where that takes unusually long."""
        after_s = None
        if self._want.stream:
            after_s = self._engine.router.hedge_after_s(step.target, self._route, self._want.tokens)
        if after_s is None:
            began = time.monotonic()
            answer = self._attempt(step.target, step.limits, ticket, self._down)
            if isinstance(answer, Failure):
                return answer
            self._answered(step.target, ticket, began)
            return answer, ticket
        race = Race(self._down, lambda race: self._hedge(race, step.target))
        self._engine.pump.later(time.monotonic() + after_s, race.begin)
        try:
            answer = self._attempt(step.target, step.limits, ticket, race.own, race)
            if isinstance(answer, Failure):
                race.wait_second()
        finally:
            race.close()
            if race.beaten is not None:
                target, began = race.beaten
                self._note(target, "hedged", began, billed=True)
        if race.winner is None:
            assert isinstance(answer, Failure)
            return answer
        _, won, its, began = race.winner
        step.target = won.target
        self._answered(won.target, its, began)
        return won, its

    def _hedge(self, race: Race, beside: Target) -> None:
        """The second lane, in its own thread."""
        ticket = self._engine.router.hedge(beside, self._route)
        if ticket is None:
            return
        target = ticket.target
        left = max(1.0, self._deadline - time.monotonic())
        limits = failover.limits(target.provider.timeouts, left, self._thinking, self._want.tokens)
        try:
            answer = self._attempt(target, limits, ticket, race.hedge, race)
        except Refusal:
            return  # its dialect cannot carry the request: no loss
        except Exception as fault:  # a bug of ours must not end silently in a thread
            self._engine.on_fault(fault, self._record.id)
            return
        if isinstance(answer, Failure):
            self._hedged[target.id] = answer

    def _attempt(
        self, target: Target, limits: Timeouts, ticket: Ticket, watch: Watch, race: Race | None = None
    ) -> Answer | Failure:
        """One attempt; its failure is a value, everything that ends the request is raised. In a race a lane that lost
        is told a failure that means nothing."""
        engine, began = self._engine, time.monotonic()
        lane = watch.number if isinstance(watch, Lane) else OWN
        if race is not None:
            race.start(lane, target, began)
        self._note_target(target)
        try:
            answer = self._call(target, limits, watch)
        except UpstreamError as error:
            failure = failures.classify(without_keys(error.error, engine.clean), now_wall=time.time())
        except BadUpstream as error:
            failure = Failure(
                FailureKind.PROTOCOL,
                ProviderError(0, "api_error", engine.clean(str(error)), kind=FailureKind.PROTOCOL),
            )
        except ClientGone:
            engine.router.release(ticket, Outcome(cancelled=True))
            if lane == OWN:
                self._note(target, "cancelled", began, billed=True)
            raise
        except BaseException:
            engine.router.release(ticket, Outcome(cancelled=True))
            raise
        else:
            self._hear(target, ticket, answer.told)
            if race is None or race.win(lane, answer, ticket):
                return answer
            if answer.call is not None:
                answer.call.close()
            engine.router.release(ticket, Outcome(cancelled=True))
            return _LOST
        engine.heard.pop(target.id, None)
        self._hear(target, ticket, failure.error.headers)
        if race is not None and not race.fail(lane):  # cut, because the other one has won
            engine.router.release(ticket, Outcome(cancelled=True))
            return _LOST
        # a client's own key says nothing of the provider: the next client's may be good
        own = failure.kind is FailureKind.CREDENTIAL and target.provider.auth == "passthrough"
        engine.router.release(ticket, Outcome(cancelled=True) if own else Outcome(failure=failure))
        result = str(failure.error.status or failure.kind.value)
        self._note(target, result, began, failure.error.message, billed=failure.kind in _MAYBE_BILLED)
        with self._lock:
            self.failed.append((target, failure))
        return failure

    def _call(self, target: Target, limits: Timeouts, watch: Watch) -> Answer:
        """One call; a second one where the credentials had only run out and new ones can be had."""
        engine = self._engine
        try:
            return attempt(self._want, target, limits, engine, watch, self._deadline, new_id)
        except UpstreamError as error:
            failure = failures.classify(error.error, now_wall=time.time())
            if failure.kind is not FailureKind.CREDENTIAL or not engine.auth.refused(target.endpoint):
                raise
        return attempt(self._want, target, limits, engine, watch, self._deadline, new_id)

    # ---- notes

    def _hear(self, target: Target, ticket: Ticket, headers: Mapping[str, str]) -> None:
        """What the provider says of its limits (R40). While much is left it is read twice a second at most."""
        engine, now, id = self._engine, time.monotonic(), target.id
        if now < engine.heard.get(id, 0.0):
            return
        found = quota.read(headers, time.time(), engine.router.clock(), target.model)
        if found is None:
            return
        engine.router.quota(ticket, found)
        tightest = found.tightest(engine.router.clock())
        if tightest is not None and tightest.share > _PLENTY:
            if len(engine.heard) >= _HEARD_MOST:
                engine.heard.clear()
            engine.heard[id] = now + _HEARD_S
        else:
            engine.heard.pop(id, None)

    def _note_target(self, target: Target) -> None:
        record = self._record
        record.provider, record.endpoint = target.provider.name, target.endpoint.id
        record.model, record.price = target.model, target.facts.price

    def _answered(self, target: Target, ticket: Ticket, began: float) -> None:
        now = time.monotonic()
        self._record.first_content_s = now - self._started
        self.first_content_s = now - began
        self._engine.router.first_content(ticket, self.first_content_s, self._want.tokens)
        self._note_target(target)  # in a race the other lane may have been noted last
        self._note(target, "200", began)

    def _note(self, target: Target, result: str, began: float, error: str = "", billed: bool = False) -> None:
        """One row of the account. An attempt that may be charged although nobody saw its end is booked with our own
        estimate of its input."""
        note = Attempt(
            target.endpoint.id,
            target.model,
            result,
            time.monotonic() - began,
            error[:500],
            began - self._started,
            price=target.facts.price,
        )
        if billed:
            note = replace(note, usage=Usage(input=self._want.tokens, estimated=True), assumed_billed=True)
        with self._lock:
            self._record.attempts.append(note)


_LOST = Failure(FailureKind.BROKEN, ProviderError(0, "api_error", "another attempt was faster"))
