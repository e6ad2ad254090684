"""The decision for a request where all is as ever: everybody is well, nobody was switched to, the order is by priority.

Then only the conversation decides who comes first, and what `choice.decide` would come to has been worked out before,
by its own functions. Whatever is not as ever is left to those.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from ccm.model import EMPTY, Endpoint, ModelFacts
from ccm.routing import strategies
from ccm.routing.candidates import Candidate
from ccm.routing.choice import Circumstances, Route, Runner, Trip, order, to_target
from ccm.routing.classify import QUIET_CLASSES

if TYPE_CHECKING:
    from ccm.routing.board import Board
    from ccm.routing.case import Case, Course
    from ccm.routing.tickets import Memory

_in_flight = attrgetter("in_flight")
_Order = tuple[tuple[Endpoint, str, ModelFacts], ...]


class Usual:
    """The orders of these runners while all of them are well: for a new conversation, and for one that is bound. Good
    for as long as the runners' rows are the board's."""

    __slots__ = ("_orders", "alone", "checks", "own", "rows", "runners", "scores")

    def __init__(self, runners: Sequence[Runner]) -> None:
        self.runners = runners
        self.alone = len(runners) == 1
        self.checks = [
            (r.candidate.endpoint.id, r.candidate.endpoint, r.row, r.candidate.model, r.model)
            for r in runners
        ]
        self._orders: dict[str, _Order] = {}  # by the endpoint that a conversation is bound to
        self.own, self.scores = self._order(None)
        rows = {runner.row.endpoint.id: runner.row for runner in runners}
        self.rows = [rows[rival.id] for rival in self.scores]

    @staticmethod
    def may_be(candidates: Sequence[Candidate], strategy: str) -> bool:
        """Whether candidates and strategy are such that the order depends on nothing but health and the conversation."""
        if strategy != "priority" and (len(candidates) > 1 or strategy == "cost"):
            return False
        providers = [candidate.endpoint.provider for candidate in candidates]
        return not any(provider.max_in_flight or provider.prefer_until for provider in providers)

    def order(self, bound: str) -> _Order:
        """Best first, for a conversation that is bound to this endpoint."""
        found = self._orders.get(bound)
        if found is None:
            if all(runner.row.endpoint.id != bound for runner in self.runners):
                return self.own
            found = self._orders[bound] = self._order(bound)[0]
        return found

    def _order(self, bound: str | None) -> tuple[_Order, Sequence[strategies.Rival]]:
        found, at = list(self.runners), Circumstances("priority", 0.0, random.Random(0), bound=bound)
        if len(found) > 1:
            found, _ = order(found, at)
        ordered = [runner.candidate for runner in found]
        return tuple([(c.endpoint, c.model, c.facts) for c in ordered]), at.scores


def route(
    case: Case,
    course: Course,
    board: Board,
    memory: Memory,
    avoid: Mapping[tuple[int, str], float],
    now: float,
) -> Route | None:
    """The route, or None where something is not as ever. Under the router's lock."""
    usual = course.usual
    if usual is None or board.primaries:
        return None
    rows = board.rows
    for id, endpoint, row, name, model in usual.checks:
        if rows.get(id) is not row or row.endpoint is not endpoint or row.models.get(name) is not model:
            course.usual = None
            return None
        if not (
            row.enabled
            and not row.draining
            and row.breaker.calm
            and model.breaker.calm
            and row.cool.until <= now
            and model.cool.until <= now
        ):
            return None
    if usual.alone and (row.breaker.marked() or model.breaker.marked()):
        return None
    ask, key, verdict, slate = case.ask, case.key, course.verdict, course.slate
    if avoid and ask.body_key:
        for runner in usual.runners:
            if avoid.get((ask.body_key, runner.row.endpoint.id), 0.0) > now:
                return None
    sticky, kind = verdict.sticky, verdict.request_class
    subagent = kind == "subagent" or "x-claude-code-agent-id" in ask.headers
    bound = None
    if key is not None and case.continues and sticky:
        bound = memory.affinity.find(key, now) or memory.heading(key)
        if bound is None and subagent and case.parent is not None:
            bound = memory.affinity.find(case.parent, now)
    found = usual.own if bound is None else usual.order(bound)
    quiet = kind in QUIET_CLASSES
    trip = Trip(
        None if quiet else key, quiet, False, usual.runners, course.binds, None if subagent else case.parent,
        case.settings.hedge and not quiet, False, ask.size_bytes,
    )  # fmt: skip
    reason = slate.pinned or (
        "affinity hit" if bound is not None and found[0][0].id == bound else verdict.strategy
    )
    return Route(
        tuple([to_target(endpoint, model, facts, trip) for endpoint, model, facts in found]),
        kind, case.session, verdict.strategy, reason, case.excluded, False, 0.0, "", "", slate.list_price,
        usual.scores, EMPTY, list(map(_in_flight, usual.rows)),
    )  # fmt: skip
