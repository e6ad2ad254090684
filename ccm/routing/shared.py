"""A router that shares what it learns with those of other processes, and takes in what they have learnt.

What an attempt changed is told after it, outside the lock, to a function that must not wait: cool-downs and breakers
(`health`), where conversations are (`bound`), what a stream broke on (`avoid`), what is left of limits (`quota`). Ages
are told, not instants. Not shared, because each process finds it out within a few requests: averages, the count of
failures in a row before a breaker opens, retry and hedge budgets, which of several first requests of a conversation is
under way. Half-open breakers are probed by each process for itself.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ccm.model import Outcome
from ccm.routing import heritage
from ccm.routing.affinity import Affinity, Key
from ccm.routing.breaker import Breaker, State
from ccm.routing.cooldown import Cooldown
from ccm.routing.health import EndpointHealth, ModelHealth
from ccm.routing.quota import Quota, Window
from ccm.routing.router import Router
from ccm.routing.tickets import Memory, Ticket

News = tuple[Any, ...]  # plain data: a word of _TAKES, then what belongs to it

BOUND_EVERY_S = 5.0  # a conversation that stays where it is is told of so often, for its age
QUOTA_EVERY_S = 1.0
_TOLD_MOST = 4096

_Marks = tuple[float, int, float, int]


def _nobody(news: News) -> None:
    return None


class _Memory(Memory):
    """Notes whom a conversation was bound to."""

    __slots__ = ("_note",)

    def __init__(self, note: Callable[[Key, str, float], None]) -> None:
        super().__init__()
        self._note = note

    def bind(self, ticket: Ticket, now: float) -> None:
        super().bind(ticket, now)
        trip = ticket.trip
        if trip is None or trip.key is None or not trip.binds:
            return
        self._note(trip.key, ticket.row.endpoint.id, now)
        if trip.parent is not None:
            self._note(trip.parent, ticket.row.endpoint.id, now)


class SharedRouter(Router):
    """`tell` is called with each piece of news, in the thread that caused it; it must neither wait nor raise."""

    def __init__(
        self,
        tell: Callable[[News], None] = _nobody,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(clock=clock, rng=rng)
        self._tell = tell
        self._news: deque[News] = deque()  # noted under the lock, told outside
        self._told: dict[Key, tuple[str, float]] = {}
        self._quota_told: dict[tuple[str, str], float] = {}
        self._memory = _Memory(self._bound)

    def first_content(self, ticket: Ticket, seconds: float, input_tokens: int = 0) -> None:
        super().first_content(ticket, seconds, input_tokens)
        self._flush()

    def release(self, ticket: Ticket, outcome: Outcome) -> None:
        before = _marks(ticket.row, ticket.model)
        super().release(ticket, outcome)
        if _marks(ticket.row, ticket.model) != before:
            with self._lock:
                self._note_health(ticket, before)
        self._flush()

    def avoid(self, body_key: int, endpoint_id: str, seconds: float = 60.0) -> None:
        super().avoid(body_key, endpoint_id, seconds)
        if body_key:
            self._tell(("avoid", body_key, endpoint_id, seconds))

    def quota(self, ticket: Ticket, quota: Quota) -> None:
        super().quota(ticket, quota)
        key, now = (ticket.row.endpoint.id, ticket.target.model), self.clock()
        spent = any(window.share <= 0 for window in quota.windows)
        if not spent and now - self._quota_told.get(key, -QUOTA_EVERY_S) < QUOTA_EVERY_S:
            return
        if len(self._quota_told) >= _TOLD_MOST:
            self._quota_told.clear()
        self._quota_told[key] = now
        windows = [(one.what, one.share, one.resets_at - now, one.account) for one in quota.windows]
        self._tell(("quota", key[0], heritage.identity_of(ticket.row.endpoint), key[1], windows))

    def apply(self, news: News) -> bool:
        """Takes in what another process has told; False for what is not the router's. Never raises."""
        take = _TAKES.get(news[0]) if news else None
        if take is None:
            return False
        now = self.clock()
        if news[0] == "avoid":
            super().avoid(*news[1:])
            return True
        with self._lock:
            try:
                take(self, news, now)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                pass  # nothing is lost but advice
        return True

    # ---- under the lock

    def _bound(self, key: Key, endpoint_id: str, now: float) -> None:
        told = self._told.get(key)
        if told is not None and told[0] == endpoint_id and now - told[1] < BOUND_EVERY_S:
            return
        if len(self._told) >= _TOLD_MOST:
            self._told.clear()
        self._told[key] = (endpoint_id, now)
        self._news.append(("bound", key[0], key[1], endpoint_id))

    def _note_health(self, ticket: Ticket, before: _Marks) -> None:
        row, model, now = ticket.row, ticket.model, self.clock()
        changed = [was != is_ for was, is_ in zip(before, _marks(row, model), strict=True)]
        own = _changes(row.cool, row.breaker, changed[:2], now)
        of_model = _changes(model.cool, model.breaker, changed[2:], now)
        self._news.append(
            (
                "health",
                row.endpoint.id,
                heritage.identity_of(row.endpoint),
                own,
                ticket.target.model,
                of_model,
            )
        )

    def _row(self, news: News) -> EndpointHealth | None:
        row = self._board.rows.get(news[1])
        return row if row is not None and heritage.identity_of(row.endpoint) == news[2] else None

    def _take_health(self, news: News, now: float) -> None:
        row = self._row(news)
        if row is not None:
            _set_changes(row.cool, row.breaker, news[3], now)
            if news[5]:
                model = row.model(str(news[4]), now)
                _set_changes(model.cool, model.breaker, news[5], now)

    def _take_bound(self, news: News, now: float) -> None:
        _, session, model, endpoint_id = news
        if endpoint_id in self._board.rows:
            affinity: Affinity = self._memory.affinity
            affinity.bind((session, model), endpoint_id, now, counted=False)
            self._told.pop((session, model), None)

    def _take_quota(self, news: News, now: float) -> None:
        row = self._row(news)
        if row is not None:
            windows = [Window(what, share, now + left_s, account) for what, share, left_s, account in news[4]]
            row.told(row.model(str(news[3]), now), Quota(tuple(windows)), now)

    def _flush(self) -> None:
        while self._news:
            try:
                news = self._news.popleft()
            except IndexError:  # another thread was faster
                return
            self._tell(news)


_TAKES: dict[str, Callable[[SharedRouter, News, float], None]] = {
    "health": SharedRouter._take_health,
    "bound": SharedRouter._take_bound,
    "quota": SharedRouter._take_quota,
    "avoid": lambda router, news, now: None,  # has a lock of its own turn: `apply`
}


def _marks(row: EndpointHealth, model: ModelHealth) -> _Marks:
    """What is different when a clock was set or ended."""
    return row.cool.until, row.breaker.generation, model.cool.until, model.breaker.generation


def _changes(cool: Cooldown, breaker: Breaker, changed: list[bool], now: float) -> dict[str, Any]:
    """`heritage.clocks_of`, of what has changed alone; None for what has ended."""
    clocks = heritage.clocks_of(cool, breaker, now)
    return {name: clocks.get(name) for name, is_new in zip(("cool", "open"), changed, strict=True) if is_new}


def _set_changes(cool: Cooldown, breaker: Breaker, changes: dict[str, Any], now: float) -> None:
    heritage.set_clocks(
        cool, breaker, {name: told for name, told in changes.items() if told is not None}, now
    )
    if "cool" in changes and changes["cool"] is None:
        cool.clear()
    if "open" in changes and changes["open"] is None:
        recover(breaker, now)


def recover(breaker: Breaker, now: float) -> None:
    """Closes a breaker as two good attempts would: it gets its load back step by step."""
    while breaker.state(now) is not State.CLOSED:
        permit = breaker.permit(now, force=True)
        if permit is not None:
            breaker.succeed(permit, now)
