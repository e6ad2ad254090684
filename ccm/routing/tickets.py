"""One reserved attempt, and what its end teaches: of the target, and of the conversation.

Called under the router's lock; nothing here blocks or takes another.
"""

from __future__ import annotations

from ccm.model import Failure, Outcome, Target
from ccm.model import FailureKind as K
from ccm.routing.affinity import Affinity, Key
from ccm.routing.board import Board
from ccm.routing.choice import Trip
from ccm.routing.cost import History, ttl_s
from ccm.routing.failures import POLICY
from ccm.routing.health import EndpointHealth, ModelHealth


class Ticket:
    """One reserved attempt; give it back with `Router.release`, whatever happened."""

    __slots__ = ("begun", "model", "permits", "probe", "released", "row", "target", "timed", "trip")

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
        self.probe = False  # of a panic: the only one at its target until it has begun to answer
        self.timed = False  # its time to first content has been taken in
        self.released = False

    def settle_probe(self) -> None:
        """The target has answered, or failed: the next one may be sent."""
        if self.probe:
            self.probe = self.model.probing = False


class Memory:
    """What is remembered of conversations: who keeps them, and what they have been like."""

    __slots__ = ("_heading", "affinity", "history")

    def __init__(self) -> None:
        self.affinity = Affinity()
        self.history = History()
        # conversation -> endpoints that are being asked right now, the latest last; as many as are in flight
        self._heading: dict[Key, list[str]] = {}

    def depart(self, ticket: Ticket) -> None:
        """An attempt begins. What else of the same conversation comes before it has answered goes the same way: a
        client's parallel first requests share one cache."""
        trip = ticket.trip
        if trip is None or trip.key is None or not trip.binds:
            return
        going = self._heading.get(trip.key)
        if going is None:
            self._heading[trip.key] = [ticket.row.endpoint.id]
        else:
            going.append(ticket.row.endpoint.id)

    def arrive(self, ticket: Ticket) -> None:
        """The attempt is over."""
        trip = ticket.trip
        if trip is None or trip.key is None or not trip.binds:
            return
        heading, id = self._heading.get(trip.key), ticket.row.endpoint.id
        if heading is None or id not in heading:
            return
        if len(heading) == 1:
            del self._heading[trip.key]
        else:
            heading.remove(id)

    def heading(self, key: Key) -> str | None:
        """Where a conversation that is not bound yet is being asked at this moment."""
        going = self._heading.get(key)
        return going[-1] if going else None

    def bind(self, ticket: Ticket, now: float) -> None:
        """This endpoint has answered the conversation: its cache is there now."""
        trip, id = ticket.trip, ticket.row.endpoint.id
        if trip is None or trip.key is None or not trip.binds:
            return
        self.affinity.bind(trip.key, id, now)
        if trip.parent is not None:
            self.affinity.bind(trip.parent, id, now, counted=False)

    def learn(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Sizes and caches, where prices are reckoned with them."""
        trip, target = ticket.trip, ticket.target
        if trip is None or trip.key is None or not trip.learns:
            return
        self.history.learn(
            trip.key,
            target.id,
            now,
            size_bytes=trip.size_bytes,
            input_tokens=outcome.input_tokens,
            output_tokens=outcome.output_tokens,
            ttl_s=ttl_s(target.provider, target.facts.price, trip.caching),
            cached_tokens=outcome.cached_tokens,
        )


def learn(ticket: Ticket, outcome: Outcome, now: float, board: Board, memory: Memory) -> bool:
    """Takes in how an attempt ended; returns whether it was a success that counts.

    What the client broke off, our own bugs and probes say nothing of the target: their permits go back, that is all.
    """
    row, model, trip, failure = ticket.row, ticket.model, ticket.trip, outcome.failure
    host, permit = ticket.permits
    if outcome.cancelled or (trip is not None and trip.quiet) or (failure and failure.kind is K.INTERNAL):
        row.breaker.drop(host)
        model.breaker.drop(permit)
        return False
    if failure is not None:
        _learn_failure(ticket, failure, now, board)
        return False
    row.breaker.succeed(host, now)
    model.breaker.succeed(permit, now)
    row.succeeded(ticket.target.model, outcome, ticket.begun, now, timed=ticket.timed)
    memory.bind(ticket, now)
    if trip is not None and trip.learns:
        memory.learn(ticket, outcome, now)
    return True


def _learn_failure(ticket: Ticket, failure: Failure, now: float, board: Board) -> None:
    row, model, (host, permit) = ticket.row, ticket.model, ticket.permits
    policy = POLICY[failure.kind]
    breaks = policy.penalty == "breaker"
    if breaks and policy.scope == "endpoint":
        row.breaker.fail(host, now, may_open=_may_open(ticket, now, board))
        model.breaker.drop(permit)
    else:
        if failure.error.status:
            row.breaker.succeed(host, now)
        else:
            row.breaker.drop(host)
        if breaks:
            model.breaker.fail(permit, now, may_open=_may_open(ticket, now, board))
        else:
            model.breaker.drop(permit)
    row.failed(ticket.target.model, failure, ticket.begun, now)


def _may_open(ticket: Ticket, now: float, board: Board) -> bool:
    """Whether another target could take over: the last one is never ejected, only marked."""
    if ticket.trip is None:
        return any(row is not ticket.row and row.alive(now) for row in board.rows.values())
    return any(
        rival.row is not ticket.row and rival.row.takes_over(rival.model, now) for rival in ticket.trip.rivals
    )
