"""The lock-guarded board: which endpoints are well, who is tried first, and what every attempt taught us.

One lock, held for decisions only; nothing blocks under it and no other lock is taken (DESIGN 7). `route` decides
(`choice` has the order), `reserve` takes breaker permits and an in-flight slot, `release` gives them back exactly once
and learns from the outcome. Health is keyed by endpoint and outlives configurations. When everything is open or
cooling, the least bad one is tried: a lone user is never refused. The last target is never ejected.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ccm.errors import ControlError
from ccm.model import Endpoint, Failure, Outcome, Snapshot, Target
from ccm.model import FailureKind as K
from ccm.routing import strategies
from ccm.routing.affinity import Affinity
from ccm.routing.budget import RetryBudget
from ccm.routing.candidates import Candidate, FindFacts, Slate, slate_for
from ccm.routing.choice import (
    Circumstances,
    Route,
    Routed,
    Runner,
    Trip,
    least_bad,
    order,
    reason_for,
    routed,
)
from ccm.routing.classify import QUIET_CLASSES, Ask
from ccm.routing.failures import POLICY
from ccm.routing.health import EndpointHealth, ModelHealth

__all__ = ["Route", "Router", "Ticket"]

_SLATES_MOST = 512
_AVOID_MOST = 1024


class Ticket:
    """One reserved attempt; give it back with `Router.release`, whatever happened."""

    __slots__ = ("begun", "model", "permits", "released", "row", "target", "trip")

    def __init__(
        self,
        target: Target,
        row: EndpointHealth,
        model: ModelHealth,
        permits: tuple[int, int],
        trip: Trip | None,
        begun: float,
    ) -> None:
        self.target = target
        self.row = row
        self.model = model
        self.permits = permits
        self.trip = trip
        self.begun = begun
        self.released = False


class Router:
    """Thread-safe. `clock` is monotonic seconds; `rng` decides jitter and ties."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self.clock = clock
        self.rng = rng or random.Random()
        self._lock = threading.Lock()
        self._rows: dict[str, EndpointHealth] = {}
        self._affinity = Affinity()
        self._turns = strategies.TurnTable()
        self._avoid: OrderedDict[tuple[int, str], float] = OrderedDict()
        self._primary: tuple[str, float | None] | None = None
        self._disabled: set[str] = set()
        self._drained: set[str] = set()
        self._snapshot: Snapshot | None = None
        self._slates: tuple[Snapshot | None, dict[tuple[str, str, str], Slate]] = (None, {})
        self._in_flight = 0
        self._budget = RetryBudget(lambda: self._in_flight, clock)

    # ---- configuration and steering

    def install(self, snapshot: Snapshot) -> None:
        """Takes over a configuration. Endpoints that stay (same provider, address and key) keep their health, but
        what was out until a reload may be asked again; the others are forgotten. Steering stays as it is."""
        with self._lock:
            rows: dict[str, EndpointHealth] = {}
            for endpoint in snapshot.endpoints:
                row = self._rows.get(endpoint.id)
                if row is None or not _same(row.endpoint, endpoint):
                    row = EndpointHealth(endpoint, self.rng)
                else:
                    row.reloaded(endpoint)
                rows[endpoint.id] = row
            self._affinity.forget(frozenset(self._rows) - frozenset(rows))
            self._rows, self._snapshot = rows, snapshot
            self._slates = (snapshot, {})
            known = snapshot.providers
            self._disabled &= {name for name in self._disabled if name in known}
            self._drained &= {name for name in self._drained if name in known}
            if self._primary is not None and self._primary[0] not in known:
                self._primary = None
            self._mark_rows()

    @property
    def primary(self) -> str | None:
        """The provider (or endpoint) that was switched to, while the switch lasts."""
        with self._lock:
            return self._primary_now(self.clock())

    def set_primary(self, name: str | None, until: float | None = None) -> None:
        """Puts a provider or endpoint first whenever it is well, until this instant of the router's clock (None: for
        good). None ends it. Raises ControlError for unknown names."""
        with self._lock:
            if name is not None:
                self._check(name, endpoints=True)
            self._primary = None if name is None else (name, until)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Takes a provider out of every choice, or back in. Raises ControlError for unknown names."""
        with self._lock:
            self._check(name)
            (self._disabled.discard if enabled else self._disabled.add)(name)
            self._mark_rows()

    def drain(self, name: str, draining: bool = True) -> None:
        """Gives a provider no new requests while another can take them; False ends it. Raises ControlError."""
        with self._lock:
            self._check(name)
            (self._drained.add if draining else self._drained.discard)(name)
            self._mark_rows()

    def reset(self, name: str | None = None) -> None:
        """Forgets the failures, cool-downs and open breakers of a provider or endpoint, or (None) of all."""
        with self._lock:
            if name is not None:
                self._check(name, endpoints=True)
            for row in self._rows.values():
                if name in (None, row.endpoint.id, row.endpoint.provider.name):
                    row.reset()

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
        pin, pinned_by = ask.headers.get("x-ccm-provider", "").strip(), "x-ccm-provider"
        if not pin and ask.path_prefix:
            pin, pinned_by = ask.path_prefix, "the path"
        slate = self._slate(ask.model, pin, pinned_by, snapshot, find_facts)
        candidates: Sequence[Candidate] = slate.candidates
        excluded: list[tuple[str, str]] = []
        if slate.lacking and (wanted := ask.needs(slate.lacking)):
            able = [candidate for candidate in candidates if not candidate.lacks & wanted]
            if able and len(able) < len(candidates):
                excluded += [
                    (c.endpoint.id, f"no {', '.join(sorted(c.lacks & wanted))}")
                    for c in candidates
                    if c.lacks & wanted
                ]
                candidates = able
        request_class = ask.request_class()
        session = ask.session()
        with self._lock:
            return self._decide(ask, slate, candidates, snapshot.strategy, request_class, session, excluded)

    def reserve(self, target: Target, route: Route | None = None) -> Ticket | None:
        """Breaker permits and an in-flight slot for one attempt, or None: not now. A ticket must be released."""
        trip = target.trip if isinstance(target, Routed) else None
        force = trip.force if trip is not None else bool(route and route.panic)
        now = self.clock()
        with self._lock:
            row = self._row(target.endpoint)
            if not row.enabled or row.full():
                return None
            model = row.model(target.model, now)
            host = row.breaker.permit(now, force=force)
            if host is None:
                return None
            permit = model.breaker.permit(now, force=force)
            if permit is None:
                row.breaker.drop(host)
                return None
            row.in_flight += 1
            row.requests += 1
            self._in_flight += 1
            return Ticket(target, row, model, (host, permit), trip, now)

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
            row, model, trip = ticket.row, ticket.model, ticket.trip
            row.in_flight -= 1
            self._in_flight -= 1
            host, permit = ticket.permits
            failure = outcome.failure
            if (
                outcome.cancelled
                or (trip is not None and trip.quiet)
                or (failure and failure.kind is K.INTERNAL)
            ):
                row.breaker.drop(host)
                model.breaker.drop(permit)
                return
            if failure is not None:
                self._learn_failure(ticket, failure, now)
                return
            row.breaker.succeed(host, now)
            model.breaker.succeed(permit, now)
            row.succeeded(ticket.target.model, outcome, ticket.begun, now)
            if trip is not None and trip.key is not None:
                self._affinity.bind(trip.key, row.endpoint.id, now)
        self._budget.success()

    @property
    def retry_budget(self) -> RetryBudget:
        """The one all requests share."""
        return self._budget

    def soonest_s(self, targets: Sequence[Target]) -> float | None:
        """Seconds until the first of these may be asked again: 0.0 when one may now, None without any."""
        now = self.clock()
        with self._lock:
            return min(
                (
                    row.remaining_s(row.model(target.model, now), now)
                    for target in targets
                    for row in (self._row(target.endpoint),)
                ),
                default=None,
            )

    def board(self) -> list[dict[str, Any]]:
        """One plain dict per endpoint, in the order of the configuration (`EndpointHealth.line`)."""
        now = self.clock()
        with self._lock:
            return [row.line(now) for row in self._rows.values()]

    # ---- under the lock

    def _slate(
        self, asked: str, pin: str, pinned_by: str, snapshot: Snapshot, find_facts: FindFacts
    ) -> Slate:
        """The candidates, remembered per configuration. Without the lock: a lost race computes one twice."""
        of, slates = self._slates
        if of is not snapshot:
            slates = {}
            self._slates = (snapshot, slates)
        slate = slates.get((asked, pin, pinned_by))
        if slate is None:
            slate = slate_for(asked, pin, pinned_by, snapshot, find_facts)
            if len(slates) >= _SLATES_MOST:
                slates.clear()
            slates[(asked, pin, pinned_by)] = slate
        return slate

    def _decide(
        self,
        ask: Ask,
        slate: Slate,
        candidates: Sequence[Candidate],
        strategy: str,
        request_class: str,
        session: str,
        excluded: list[tuple[str, str]],
    ) -> Route:
        now = self.clock()
        runners = []
        for candidate in candidates:
            row = self._row(candidate.endpoint)
            runners.append(Runner(candidate, row, row.model(candidate.model, now)))
        ready = [runner for runner in runners if runner.ready(now)]
        quiet = request_class in QUIET_CLASSES
        key = (session, ask.model) if session else None
        panic, wait_s = False, 0.0
        if ready:
            bound = self._affinity.find(key, now) if key is not None else None
            primary = self._primary_now(now) if self._primary is not None else None
            if len(ready) == 1:
                first = ready[0]
                reason = reason_for(first, bound, primary, strategy)
                # marked: it would be out, were there another
                panic = first.row.breaker.marked() or first.model.breaker.marked()
            else:
                key_of_body = ask.body_key
                at = Circumstances(
                    strategy,
                    now,
                    self.rng,
                    ask.input_tokens(),
                    None if quiet else self._turns.of(ask.model),
                    bound,
                    primary,
                    (lambda id: self._avoid.get((key_of_body, id), 0.0) > now)
                    if key_of_body and self._avoid
                    else None,
                )
                ready, reason = order(ready, at)
            reason = slate.pinned or reason
            # the last resort, behind all that are well: who only cools down
            ready += [r for r in runners if r not in ready and r.row.resting(r.model, now)]
        else:
            ready, reason, panic = least_bad(runners, now)
            wait_s = ready[0].row.remaining_s(ready[0].model, now)
        if len(ready) < len(runners):
            excluded += [(r.row.endpoint.id, r.why_not(now)) for r in runners if r not in ready]
        trip = Trip(None if quiet else key, quiet, panic, runners)
        targets = tuple([routed(runner, trip) for runner in ready])
        return Route(targets, request_class, session, strategy, reason, tuple(excluded), panic, wait_s)

    def _learn_failure(self, ticket: Ticket, failure: Failure, now: float) -> None:
        row, model, (host, permit) = ticket.row, ticket.model, ticket.permits
        policy = POLICY[failure.kind]
        breaks = policy.penalty == "breaker"
        if breaks and policy.scope == "endpoint":
            row.breaker.fail(host, now, may_open=self._may_open(ticket, now))
            model.breaker.drop(permit)
        else:
            if failure.error.status:
                row.breaker.succeed(host, now)
            else:
                row.breaker.drop(host)
            if breaks:
                model.breaker.fail(permit, now, may_open=self._may_open(ticket, now))
            else:
                model.breaker.drop(permit)
        row.failed(ticket.target.model, failure, ticket.begun, now)

    def _may_open(self, ticket: Ticket, now: float) -> bool:
        """Whether another target could take over: the last one is never ejected, only marked."""
        if ticket.trip is None:
            return any(row is not ticket.row and row.alive(now) for row in self._rows.values())
        return any(
            rival.row is not ticket.row and rival.row.takes_over(rival.model, now)
            for rival in ticket.trip.rivals
        )

    def _row(self, endpoint: Endpoint) -> EndpointHealth:
        row = self._rows.get(endpoint.id)
        if row is None or not (row.endpoint is endpoint or _same(row.endpoint, endpoint)):
            # of a configuration that has just been replaced, or was never installed
            row = EndpointHealth(endpoint, self.rng)
            if self._snapshot is None:
                self._rows[endpoint.id] = row
        return row

    def _primary_now(self, now: float) -> str | None:
        if self._primary is not None:
            name, until = self._primary
            if until is None or now < until:
                return name
            self._primary = None
        return None

    def _mark_rows(self) -> None:
        for row in self._rows.values():
            name = row.endpoint.provider.name
            row.enabled, row.draining = name not in self._disabled, name in self._drained

    def _check(self, name: str, endpoints: bool = False) -> None:
        known = set(self._snapshot.providers) if self._snapshot is not None else set()
        if name in known or (endpoints and name in self._rows):
            return
        raise ControlError(f"no provider is called {name!r}; there are: {', '.join(sorted(known))}", 404)


def _same(old: Endpoint, new: Endpoint) -> bool:
    """Whether health learnt of one endpoint holds for the other."""
    a, b = old.provider, new.provider
    if (a.name, a.type, a.dialect, a.base_url) != (b.name, b.type, b.dialect, b.base_url):
        return False
    if old.key is None or new.key is None:
        return old.key is new.key
    return (old.key.kind, old.key.name, old.key.secret) == (new.key.kind, new.key.name, new.key.secret)
