"""The lock-guarded board: which endpoints are well, who is tried first, and what every attempt taught us.

One lock, held for decisions only; nothing blocks under it and no other lock is taken (DESIGN 7). `route` decides
(`case` has what is asked for, `choice` the order), `reserve` or `wait_slot` take breaker permits and an in-flight slot,
`release` gives them back exactly once and learns from the outcome. When everything is open or cooling, the least bad
one is tried: a lone user is never refused. The last target is never ejected.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from ccm.model import Outcome, Snapshot, Target
from ccm.routing import choice, explain, hedging, heritage, strategies, usual
from ccm.routing.board import Board
from ccm.routing.budget import RetryBudget
from ccm.routing.candidates import FindFacts
from ccm.routing.case import Case, Slates, open_case
from ccm.routing.choice import Route, Routed, Runner, Trip
from ccm.routing.classify import QUIET_CLASSES, Ask
from ccm.routing.health import EndpointHealth
from ccm.routing.quota import Quota
from ccm.routing.slots import QUEUE_MOST, Waiter
from ccm.routing.tickets import Memory, Ticket, learn

__all__ = ["Route", "Router", "Ticket"]

_AVOID_MOST = 1024


class Router:
    """Thread-safe. `clock` is monotonic seconds; `rng` decides jitter and ties."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self.clock = clock
        self.rng = rng or random.Random()
        self._lock = threading.Lock()
        self._board = Board(self.rng)
        self._memory = Memory()
        self._hedges = hedging.HedgeBudget()
        self._turns = strategies.TurnTable()
        self._avoid: OrderedDict[tuple[int, str], float] = OrderedDict()
        self._slates = Slates()
        self._in_flight = 0
        self.on_reset: Callable[[], None] = lambda: None  # whoever else remembers failures forgets them too
        self._budget = RetryBudget(lambda: self._in_flight, clock)

    # ---- configuration and steering

    def install(self, snapshot: Snapshot) -> None:
        """Takes over a configuration. Endpoints that stay (same provider, address and key) keep their health, but
        what was out until a reload may be asked again; the others are forgotten. Steering stays as it is."""
        with self._lock:
            self._memory.affinity.forget(self._board.install(snapshot))
            self._slates.kept = (snapshot, {})
            self._slates.courses = (snapshot, {})

    @property
    def primary(self) -> str | None:
        """The provider (or endpoint) that was switched to, while the switch lasts."""
        with self._lock:
            return self._board.primary(self.clock())

    def set_primary(self, name: str | None, until: float | None = None, request_class: str = "") -> None:
        """Puts a provider or endpoint first whenever it is well, until this instant of the router's clock (None: for
        good), for all requests or those of one class. None ends it. Raises ControlError for unknown names."""
        with self._lock:
            self._board.set_primary(name, until, request_class)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Takes a provider out of every choice, or back in. Raises ControlError for unknown names."""
        with self._lock:
            self._board.set_enabled(name, enabled)

    def drain(self, name: str, draining: bool = True) -> None:
        """Gives a provider no new requests while another can take them; False ends it. Raises ControlError."""
        with self._lock:
            self._board.drain(name, draining)

    def reset(self, name: str | None = None) -> None:
        """Forgets the failures, cool-downs and open breakers of a provider or endpoint, or (None) of all, and that
        retries have been of no use lately."""
        with self._lock:
            self._board.reset(name)
        self._budget.reset()
        self.on_reset()

    def tell(self) -> dict[str, Any]:
        """What a successor in another process should know: cool-downs, open breakers, affinity (`heritage`)."""
        with self._lock:
            return heritage.tell(self._board, self._memory.affinity, self.clock())

    def take(self, told: Mapping[str, Any]) -> None:
        """Takes over what a predecessor told. Never raises, whatever it is given."""
        with self._lock:
            heritage.take(told, self._board, self._memory.affinity, self.clock())

    @property
    def avoids(self) -> bool:
        """Whether any `Ask.body_key` makes a difference."""
        return bool(self._avoid)

    def avoid(self, body_key: int, endpoint_id: str, seconds: float = 60.0) -> None:
        """The next request with this `Ask.body_key` tries that endpoint last: its stream has just broken."""
        if not body_key:
            return
        with self._lock:
            self._avoid[(body_key, endpoint_id)] = self.clock() + seconds
            self._avoid.move_to_end((body_key, endpoint_id))
            while len(self._avoid) > _AVOID_MOST:
                self._avoid.popitem(last=False)

    # ---- one request

    def route(self, ask: Ask, snapshot: Snapshot, find_facts: FindFacts) -> Route:
        """Decides for one request. `find_facts(model, provider type)` is the catalogue's. Raises Refusal when nothing
        could ever serve it (400, 404, 403), or everything is switched off (503); each says what would help."""
        case = open_case(ask, snapshot, find_facts, self._slates)
        if self._board.primaries:
            self._look(case)
        course, now = case.course, self.clock()
        with self._lock:
            if course is not None and course.usual is not None:
                found = usual.route(case, course, self._board, self._memory, self._avoid, now)
                if found is not None:
                    if case.settings.hedge and not case.ask.quiet():
                        self._hedges.request()
                    return found
            return self._decide(case, now)

    def explain(self, ask: Ask, snapshot: Snapshot, find_facts: FindFacts) -> dict[str, Any]:
        """What `route` would decide now, and why: plain data (`explain.explain`). Changes nothing: no turn is taken,
        no conversation is kept alive. Raises Refusal as `route` does."""
        case = open_case(ask, snapshot, find_facts, self._slates)
        self._look(case)
        now = self.clock()
        with self._lock:
            at = self._circumstances(case, now, dry=True)
            return explain.explain(case, self._runners(case, now), at)

    def reserve(self, target: Target, route: Route | None = None) -> Ticket | None:
        """Breaker permits and an in-flight slot for one attempt, or None: not now. A ticket must be released."""
        now = self.clock()
        with self._lock:
            return self._reserve(target, route is not None and route.panic, now)

    def wait_slot(
        self, targets: Sequence[Target], deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Ticket | None:
        """Waits in the queues of these targets for the first slot that comes free, first come first served.

        The ticket says in `target` which one it is; it must be released. None: nothing came free by `deadline`
        (absolute, the router's clock), the queues are full, or the caller is `cancelled`, which is asked at least
        once a second, without any lock, and may raise.
        """
        waiter = Waiter(tuple(targets))
        with self._lock:
            now = self.clock()
            for target in targets:
                waiter.ticket = self._reserve(target, False, now)
                if waiter.ticket is not None:
                    return waiter.ticket
            rows = [self._board.row(target.endpoint) for target in targets]
            rows = [row for row in dict.fromkeys(rows) if row.enabled and row.full()]
            rows = [row for row in rows if sum(not w.done for w in row.waiting) < QUEUE_MOST]
            if not rows:
                return None
            for row in rows:
                row.waiting.append(waiter)
        try:
            waiter.wait(deadline, self.clock, cancelled)
        except BaseException:
            ticket = self._leave(waiter)
            if ticket is not None:
                self.release(ticket, Outcome(cancelled=True))
            raise
        return self._leave(waiter)

    def first_content(self, ticket: Ticket, seconds: float, input_tokens: int = 0) -> None:
        """The attempt has begun to answer, `seconds` after it was sent. Says nothing of how it will end; but times,
        and where the conversation's cache is, are known now, not when a long stream ends. Calling it is optional."""
        now = self.clock()
        with self._lock:
            trip = ticket.trip
            if ticket.probe:
                ticket.settle_probe()
            if ticket.released or ticket.timed or (trip is not None and trip.quiet):
                return
            ticket.timed = True
            ticket.row.timed(ticket.model, seconds, input_tokens, now)
            self._memory.bind(ticket, now)
        self._budget.answered()

    def quota(self, ticket: Ticket, quota: Quota) -> None:
        """What the answer of this attempt, good or bad, said of its endpoint's limits (`quota.read`). At any time."""
        now = self.clock()
        with self._lock:
            ticket.row.told(ticket.model, quota, now)

    def release(self, ticket: Ticket, outcome: Outcome) -> None:
        """Gives everything back and learns. A second release of the same ticket does nothing.

        A success clears cool-downs and binds the conversation. What the client broke off, our own bugs and probes say
        nothing of the target. An answer with an HTTP status proves at least that its host can be reached.
        """
        now = self.clock()
        with self._lock:
            if ticket.released:
                return
            ticket.released = True
            if ticket.probe:
                ticket.settle_probe()
            row = ticket.row
            self._in_flight -= 1
            row.in_flight -= 1
            self._memory.arrive(ticket)
            good = learn(ticket, outcome, now, self._board, self._memory)
            if row.waiting:
                self._grant(row, now)
        if good:
            self._budget.success()

    @property
    def retry_budget(self) -> RetryBudget:
        """The one all requests share."""
        return self._budget

    def hedge_after_s(self, target: Target, route: Route, input_tokens: int = 0) -> float | None:
        """After how many seconds without content a second target may be asked beside this one; None for never: not
        switched on, nobody else to ask, too little known, too many hedges already, or anybody involved is (or has
        just been) rate limited or overloaded."""
        trip = target.trip if isinstance(target, Routed) else None
        if trip is None or not trip.hedges or route.panic or len(route.targets) < 2:
            return None
        now = self.clock()
        with self._lock:
            if not self._hedges.allows() or any(hedging.pressed(rival, now) for rival in trip.rivals):
                return None
            row = self._board.row(target.endpoint)
            return hedging.hedge_after_s(row.model(target.model, now).latency.p95_s(input_tokens))

    def hedge(self, target: Target, route: Route) -> Ticket | None:
        """Reserves another endpoint of the route beside `target` for its one hedge; None where none may or can be
        asked now. The ticket must be released: `Outcome(cancelled=True)` for whoever loses."""
        now = self.clock()
        with self._lock:
            if not self._hedges.allows():
                return None
            for other in route.targets:
                if other.endpoint.id == target.endpoint.id:
                    continue
                ticket = self._reserve(other, False, now)
                if ticket is not None:
                    self._hedges.take()
                    return ticket
        return None

    def soonest_s(self, targets: Sequence[Target]) -> float | None:
        """Seconds until the first of these may be asked again: 0.0 when one may now, None without any."""
        now = self.clock()
        with self._lock:
            return min(
                (
                    row.remaining_s(row.model(target.model, now), now)
                    for target in targets
                    for row in (self._board.row(target.endpoint),)
                ),
                default=None,
            )

    def board(self) -> list[dict[str, Any]]:
        """One plain dict per endpoint, in the order of the configuration (`EndpointHealth.line`)."""
        now = self.clock()
        with self._lock:
            return [row.line(now) for row in self._board.rows.values()]

    def _look(self, case: Case) -> None:
        """Finds out about the request what will be asked under the lock."""
        for name in self._board.switched_classes:
            if name:
                case.ask.is_a(name, case.settings.long_context_tokens)

    # ---- under the lock

    def _runners(self, case: Case, now: float) -> list[Runner]:
        runners = []
        for candidate in case.candidates:
            row = self._board.row(candidate.endpoint)
            runners.append(Runner(candidate, row, row.model(candidate.model, now)))
        return runners

    def _circumstances(self, case: Case, now: float, dry: bool = False) -> choice.Circumstances:
        ask, strategy = case.ask, case.verdict.strategy
        affinity = self._memory.affinity
        find = affinity.peek if dry else affinity.find
        bound, idle_s = None, 0.0
        if case.key is not None and case.continues and case.verdict.sticky:
            idle_s = affinity.idle_s(case.key, now) or 0.0
            bound = find(case.key, now) or self._memory.heading(case.key)
            if bound is None and case.parent is not None and case.subagent:
                bound, idle_s = find(case.parent, now), inf  # a conversation of its own, and a new one
        turns, rng = None, self.rng
        if ask.quiet() not in QUIET_CLASSES:
            turns = self._turns.of(ask.model, kept=not dry)
            if dry:
                turns, rng = turns.copy(), random.Random(0)
        avoided = None
        if ask.body_key and self._avoid:
            body_key, table = ask.body_key, self._avoid
            avoided = lambda id: table.get((body_key, id), 0.0) > now  # noqa: E731
        price = case.price(self._memory.history.find(case.key), now) if strategy == "cost" else None
        return choice.Circumstances(
            strategy, now, rng, price, turns, bound, self._primary(case, now), avoided,
            case.spare(), idle_s, dry,
        )  # fmt: skip

    def _primary(self, case: Case, now: float) -> str | None:
        if not self._board.primaries:
            return None
        few = case.settings.long_context_tokens
        return self._board.primary(now, lambda name: case.ask.is_a(name, few))

    def _decide(self, case: Case, now: float) -> Route:
        course, runners = case.course, self._runners(case, now)
        at = self._circumstances(case, now)
        found = choice.decide(runners, at)
        quiet = bool(case.ask.quiet())
        hedges = case.settings.hedge and not quiet
        if hedges:
            self._hedges.request()
        # who is only full keeps its conversation: the detour of one request must not move the others
        spared = at.bound is not None and any(r.row.full() and r.row.endpoint.id == at.bound for r in runners)
        trip = Trip(
            None if quiet else case.key,
            quiet,
            found.panic,
            runners,
            case.binds and not spared,
            parent=None if case.subagent else case.parent,
            hedges=hedges,
            learns=at.price is not None,
            size_bytes=case.ask.size_bytes,
            caching=case.caching,
        )
        verdict = case.verdict
        if course is not None and course.usually and course.usual is None:
            course.usual = usual.Usual(runners)
        reason = case.slate.pinned or found.reason
        return Route(
            tuple([choice.routed(runner, trip) for runner in found.order]),
            verdict.request_class,
            case.session,
            verdict.strategy,
            f"{verdict.rule}: {reason}" if verdict.rule else reason,
            case.excluded + found.excluded,
            found.panic,
            found.wait_s,
            verdict.rule,
            verdict.note,
            case.slate.list_price,
            at.scores,
            found.unwell,
        )

    def _reserve(self, target: Target, panic: bool, now: float, *, queued: bool = False) -> Ticket | None:
        trip = target.trip if isinstance(target, Routed) else None
        force = trip.force if trip is not None else panic
        endpoint, name = target.endpoint, target.model
        row = self._board.rows.get(endpoint.id)
        if row is None or row.endpoint is not endpoint:
            row = self._board.row(endpoint)
        most = row.endpoint.provider.max_in_flight
        if not row.enabled or (most > 0 and (most <= row.in_flight if queued else row.full())):
            return None
        model = row.models.get(name) or row.model(name, now)
        probe = force and not row.ready_but_draining(model, now)
        if probe and model.probing:
            return None
        breaker, its = row.breaker, model.breaker
        host = breaker.generation if breaker.calm else breaker.permit(now, force=force)
        if host is None:
            return None
        permit = its.generation if its.calm else its.permit(now, force=force)
        if permit is None:
            breaker.drop(host)
            return None
        row.in_flight += 1
        row.requests += 1
        self._in_flight += 1
        ticket = Ticket(target, row, model, (host, permit), trip, now)
        if probe:
            ticket.probe = model.probing = True
        self._memory.depart(ticket)
        return ticket

    def _grant(self, row: EndpointHealth, now: float) -> None:
        """Gives free slots to those who wait longest. Whoever cannot use his (its breaker has opened meanwhile) is
        sent away to ask again elsewhere, so that nobody behind him waits in vain."""
        most = row.endpoint.provider.max_in_flight
        while row.has_waiters() and not 0 < most <= row.in_flight:
            waiter = row.waiting.popleft()
            target = next(t for t in waiter.targets if t.endpoint.id == row.endpoint.id)
            waiter.done = True
            waiter.ticket = self._reserve(target, False, now, queued=True)
            waiter.event.set()

    def _leave(self, waiter: Waiter) -> Ticket | None:
        """The end of a wait. What was granted at the last moment is the caller's; else the place is given up."""
        with self._lock:
            waiter.done = True
            return waiter.ticket
