"""What ties the figures together, and the one thing the proxy sees of them: `admit` before a request, `settle` after it.

Budgets and guard decide in memory under one leaf lock; the store is only handed finished records. Without budgets and
guard, admitting costs nothing. What was spent before the start is looked up in the store once, by `load`; without a
store (or while it cannot be read) budgets know only what this process has seen, and `status` says so.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any

from ccm.errors import ControlError, Refusal
from ccm.model import Price, Target
from ccm.observe.record import RequestRecord
from ccm.settings import UsageSettings
from ccm.shape import dataclass
from ccm.usage import prices, queries
from ccm.usage.budgets import Account, Ledger, clock_text
from ccm.usage.forecast import Forecast
from ccm.usage.guard import NO_RUN, Call, Guard, Run, trailing_run
from ccm.usage.store import Store

REPLAYED = 8192  # ids of finished requests that are remembered, so that none is booked twice
SESSIONS_BACK_S = 30 * 86400.0  # sessions that have been quiet for longer begin anew
RETRY_LOAD_S = 30.0
_NO_RETRY = {"x-should-retry": "false"}
_SOON = {"x-should-retry": "true", "retry-after": "2"}


@dataclass(frozen=True, slots=True)
class Admission:
    """A request may go on. `downgrade_to` ("" = nowhere): route it there instead, and admit it again with this
    admission as `after`. `avoid` are ids of targets, `avoid_providers` names of providers, that a used-up budget
    forbids: leave them out of the route. `warnings` are for people, and stand in `record.warned` already."""

    downgrade_to: str = ""
    warnings: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()
    avoid_providers: frozenset[str] = frozenset()
    downgraded: frozenset[str] = frozenset()  # budgets that have sent it elsewhere


FREE = Admission()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request could go: a target as budgets see it."""

    id: str
    provider: str
    model: str
    price: Price


@dataclass(slots=True)
class _Hold:
    """What a running request has reserved, and where."""

    accounts: tuple[Account, ...]
    amount: float
    most: float | None  # what it could cost at most; None = unknown
    model: str


class Meter:
    """Thread-safe. `clock` is epoch seconds; `on_warning` is told each warning once, without a lock held."""

    def __init__(
        self,
        settings: UsageSettings,
        store: Store | None,
        clock: Callable[[], float] = time.time,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self._clock = clock
        self._on_warning = on_warning
        self._lock = threading.Lock()
        self._ledgers: tuple[Ledger, ...] = ()
        self._guard = Guard(settings.guard)
        self._forecast = Forecast()
        self._holds: dict[str, _Hold] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        self._problem = ""
        self._load_at = inf  # when to try again to read what was spent
        self._watches = False
        self.install(settings)

    @property
    def watches(self) -> bool:
        """Whether there is any budget, or a guard: else `admit` lets everything in."""
        return self._watches

    # ---- configuration

    def install(self, settings: UsageSettings) -> None:
        """Takes over settings. What was spent stays, as far as a budget still counts the same; new ones begin with
        what this process and, after `load`, the store know. Lifted budgets and stopped sessions stay so."""
        now = self._clock()
        with self._lock:
            old = {ledger.budget.name: ledger for ledger in self._ledgers}
            ledgers = []
            for budget in settings.budgets:
                ledger = old.get(budget.name)
                if ledger is not None and ledger.same_sums(budget):
                    ledger.budget = budget
                else:
                    ledger = Ledger(budget, now)
                ledgers.append(ledger)
            self._ledgers = tuple(ledgers)
            self._guard.settings = settings.guard
            self._watches = bool(ledgers) or self._guard.on

    def load(self, wait_s: float = 2.0, *, again: bool = False) -> bool:
        """Looks up in the store what was spent in the running periods: for the start, after `store.start`, and for
        every reload; `again` also what is known already (others may write to the same store). Reads the database, and
        waits up to `wait_s` for what is on its way there. False where it cannot be read: the next request tries again
        half a minute later. Without a store there is nothing to do."""
        store = self.store
        with self._lock:
            wanted = [ledger for ledger in self._ledgers if again or not ledger.known]
        if store is None or not wanted:
            return True
        try:
            store.flush(wait_s)  # opened and brought to the newest schema, and all that waits is in it
            found = [self._look_up(store.path, ledger) for ledger in wanted]
        except (OSError, sqlite3.Error) as error:
            with self._lock:
                self._problem = f"what was spent before the start is not known: {error}"
                self._load_at = self._clock() + RETRY_LOAD_S
            return False
        with self._lock:
            for ledger, (start, whole, sessions) in zip(wanted, found, strict=True):
                ledger.known = True
                if ledger.start != start:
                    continue  # a new period has begun meanwhile
                ledger.whole.spent = max(ledger.whole.spent, whole)
                for session, amount in sessions.items():
                    account = ledger.account(session)
                    if account is not None:
                        account.spent = max(account.spent, amount)
            self._problem, self._load_at = "", inf
        return True

    def _look_up(self, path: str, ledger: Ledger) -> tuple[float, float, dict[str, float]]:
        """(beginning of the period, spent in it, spent by session)."""
        start = ledger.start
        if ledger.budget.per == "session":
            since = self._clock() - SESSIONS_BACK_S
            return start, 0.0, queries.spent_by_session(path, since, ledger.filters)
        return start, queries.spent_usd(path, start, ledger.filters), {}

    # ---- a request

    def admit(
        self,
        record: RequestRecord,
        price: Price,
        input_tokens: int,
        max_output_tokens: int,
        tool_calls: Callable[[], Iterable[Call]] = tuple,
        *,
        targets: Sequence[Target] = (),
        after: Admission | None = None,
    ) -> Admission:
        """Lets a request in, once it is routed and before its first attempt, and reserves what it may cost.

        `targets` are those of its route; without them it is one at `record.provider`, `record.model` and `price`.
        Budgets of a provider or model that are used up leave these targets out as long as another one remains.
        `tool_calls` gives the conversation's tool calls, newest first (`guard.recent_calls`); called only where the
        guard counts them. `max_output_tokens` 0: not said. `after` is an earlier admission that sent it elsewhere.
        Raises Refusal 429 billing_error: with x-should-retry false where money or patience is used up, with
        retry-after where only running requests have the rest reserved. An admitted request must be settled.
        """
        if not self._watches:
            return FREE
        now = self._clock()
        if now >= self._load_at:
            self.load(0.0)
        run = trailing_run(tool_calls()) if self._guard.settings.repeats else NO_RUN
        places = [_Place(t.id, t.provider.name, t.model, t.facts.price) for t in targets]
        if not places:
            places = [_Place(f"{record.endpoint}/{record.model}", record.provider, record.model, price)]
        before = after or FREE
        with self._lock:
            warnings = self._ask_guard(record.session, run, now)
            for ledger in self._ledgers:
                if ledger.roll(now) and not ledger.known:
                    self._load_at = now  # the next request looks it up
            admission = self._choose(record, places, before, now, warnings)
            if not admission.downgrade_to:
                self._reserve(record, places, admission, input_tokens, max_output_tokens, now, warnings)
        record.warned += warnings
        for text in warnings:
            self._on_warning(text)
        return Admission(
            admission.downgrade_to,
            (*before.warnings, *warnings),
            admission.avoid,
            admission.avoid_providers,
            admission.downgraded,
        )

    def settle(self, record: RequestRecord) -> None:
        """A request has ended, however: its cost is filled in, its reservation given back, the cost booked, the record
        handed to the store. Once per request, from any thread; a second call with the same id does nothing."""
        with self._lock:
            if record.id in self._done:
                return
            self._done[record.id] = None
            if len(self._done) > REPLAYED:
                self._done.popitem(last=False)
            hold = self._holds.pop(record.id, None) if self._holds else None
            if hold is not None:
                for account in hold.accounts:
                    account.running -= 1
                    # without a running request nothing is reserved: no rest of a rounding may stay
                    account.reserved = max(0.0, account.reserved - hold.amount) if account.running else 0.0
        prices.settle(record)
        if self._watches:
            self._book(record, hold)
        if self.store is not None:
            self.store.put(record)

    def _ask_guard(self, session: str, run: Run, now: float) -> list[str]:
        if not self._guard.on:
            return []
        opinion = self._guard.judge(session, run, now)
        if opinion.stop:
            raise Refusal(429, "billing_error", opinion.stop, _NO_RETRY)
        return [opinion.warning] if opinion.warning else []

    def _choose(
        self, record: RequestRecord, places: list[_Place], before: Admission, now: float, warnings: list[str]
    ) -> Admission:
        """Which places budgets leave to a request. Raises Refusal where they leave none."""
        avoid: dict[str, str] = {}  # target id -> provider
        stoppers: list[tuple[Ledger, Account]] = []
        for place in places:
            found = self._stopper(record, place, before, now)
            if found is None:
                continue
            if found[0].budget.then == "downgrade" and place is places[0]:
                return self._downgrade(found[0], before, warnings)
            avoid[place.id] = place.provider
            stoppers.append(found)
        if len(stoppers) == len(places):
            ledger, account = next((s for s in stoppers if s[0].budget.then == "downgrade"), stoppers[0])
            if ledger.budget.then == "downgrade":
                return self._downgrade(ledger, before, warnings)
            headers = _NO_RETRY if ledger.used_up(account) else _SOON
            raise Refusal(429, "billing_error", ledger.refusal(account, record.session), headers)
        left = {place.provider for place in places if place.id not in avoid}
        return Admission(
            avoid=frozenset(avoid),
            avoid_providers=frozenset(avoid.values()) - left,
            downgraded=before.downgraded,
        )

    def _downgrade(self, ledger: Ledger, before: Admission, warnings: list[str]) -> Admission:
        budget = ledger.budget
        warnings.append(f"budget {budget.name} is used up: the request goes to {budget.downgrade_to}")
        return Admission(budget.downgrade_to, downgraded=before.downgraded | {budget.name})

    def _stopper(
        self, record: RequestRecord, place: _Place, before: Admission, now: float
    ) -> tuple[Ledger, Account] | None:
        """The first budget that keeps the request away from this place."""
        for ledger, account in self._paying(record, place):
            if ledger.budget.then == "warn" or ledger.budget.name in before.downgraded:
                continue
            if ledger.full(account, now):
                return ledger, account
        return None

    def _paying(self, record: RequestRecord, place: _Place) -> Iterable[tuple[Ledger, Account]]:
        for ledger in self._ledgers:
            if ledger.counts(place.provider, place.model, record.request_class, record.project):
                account = ledger.account(record.session)
                if account is not None:
                    yield ledger, account

    def _reserve(
        self,
        record: RequestRecord,
        places: list[_Place],
        admission: Admission,
        input_tokens: int,
        max_output_tokens: int,
        now: float,
        warnings: list[str],
    ) -> None:
        """Reserves at the first place that is left: most requests end there, and the others are booked where they do."""
        place = next(place for place in places if place.id not in admission.avoid)
        paying = list(self._paying(record, place))
        if not paying:
            return
        most = Forecast.most_usd(place.price, input_tokens, max_output_tokens)
        amount = self._forecast.expected_usd(place.model, most)
        for ledger, account in paying:
            elsewhere = ledger.budget.name in admission.downgraded  # that has been told
            if not elsewhere and (text := ledger.warning(account, now)):
                warnings.append(text)
            account.reserved += amount
            account.running += 1
        self._holds[record.id] = _Hold(tuple([account for _, account in paying]), amount, most, place.model)

    def _book(self, record: RequestRecord, hold: _Hold | None) -> None:
        """Adds what a request has cost to every budget that pays for it, each part where it was spent."""
        parts = list(_postings(record))
        now = self._clock()
        with self._lock:
            for ledger in self._ledgers:
                ledger.roll(now)
                if not ledger.start <= record.at < ledger.end:
                    continue  # its period has ended: the store keeps it there
                for provider, model, cost in parts:
                    if not ledger.counts(provider, model, record.request_class, record.project):
                        continue
                    account = ledger.account(record.session)
                    if account is None:
                        continue
                    if cost is None:
                        account.unpriced += 1
                    else:
                        account.spent += cost
            if record.cost_usd is not None:
                self._guard.spent(record.session, record.cost_usd, record.at)
            if hold is not None and record.ending == "complete" and record.model == hold.model:
                self._forecast.learn(hold.model, hold.most, record.cost_usd)

    # ---- people

    def status(self) -> dict[str, Any]:
        """`budgets` (`Ledger.line` each), `guard`, `store` (None without one), `problem` ("" = none): plain data."""
        now = self._clock()
        if now >= self._load_at:
            self.load(0.0)
        with self._lock:
            for ledger in self._ledgers:
                ledger.roll(now)
            budgets = [ledger.line(now) for ledger in self._ledgers]
            guard, problem = self._guard.line(), self._problem
        store = self.store.status() if self.store is not None else None
        if store is None and budgets:
            problem = "without the usage store, budgets know only what was spent since the start"
        return {"budgets": budgets, "guard": guard, "store": store, "problem": problem}

    def lift(self, name: str, seconds: float | None = None) -> dict[str, Any]:
        """Lets requests pass a budget for so many seconds, or (None) until its period ends; a session's until
        `restore`. What is spent meanwhile counts. Raises ControlError 404 for an unknown name."""
        now = self._clock()
        with self._lock:
            ledger = self._find(name)
            ledger.roll(now)
            ledger.lifted_until = ledger.end if seconds is None else now + seconds
            until = ledger.lifted_until
        shown = "until `ccmctl budget restore`" if until == inf else f"until {clock_text(until)}"
        return {
            "text": f"the budget {name} is lifted {shown}",
            "name": name,
            "until": None if until == inf else until,
        }

    def restore(self, name: str) -> dict[str, Any]:
        """Ends `lift`. Raises ControlError 404 for an unknown name."""
        now = self._clock()
        with self._lock:
            ledger = self._find(name)
            was, ledger.lifted_until = ledger.lifted(now), -inf
        return {
            "text": f"the budget {name} holds" + (" again" if was else " (it was not lifted)"),
            "name": name,
        }

    def resume_session(self, name: str) -> dict[str, Any]:
        """Lets a conversation go on that the guard has stopped; the beginning of its id will do. Raises ControlError."""
        with self._lock:
            found = self._guard.resume(name, self._clock())
            stopped = [line["session"] for line in self._guard.stopped()]
        if found is None:
            there = f"stopped are: {', '.join(stopped)}" if stopped else "none is stopped"
            raise ControlError(f"no stopped session is called {name!r}; {there}", 404)
        return {"text": f"session {found} may go on", "session": found}

    def _find(self, name: str) -> Ledger:
        for ledger in self._ledgers:
            if ledger.budget.name == name:
                return ledger
        names = ", ".join(ledger.budget.name for ledger in self._ledgers)
        raise ControlError(f"no budget is called {name!r}; there are: {names or 'none, see [budgets]'}", 404)


def _postings(record: RequestRecord) -> Iterable[tuple[str, str, float | None]]:
    """(provider, model, cost) of the answer and of every other attempt that generated tokens, as the store books them;
    a cost of None is unknown. Nothing for a request that generated nothing."""
    answering = prices.answering_attempt(record)
    known = 0.0
    for attempt in record.attempts:
        if attempt is answering or attempt.usage is None:
            continue
        provider = (
            record.provider if attempt.endpoint == record.endpoint else attempt.endpoint.partition("#")[0]
        )
        known += attempt.cost_usd or 0.0
        yield provider, attempt.model, attempt.cost_usd
    if answering is not None:
        yield record.provider, record.model, answering.cost_usd
    elif record.cost_usd is not None and record.cost_usd > known:
        yield record.provider, record.model, record.cost_usd - known
