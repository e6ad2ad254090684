"""A meter whose budgets hold for several processes: one of them (the supervisor's) has the sums, all others learn them.

A worker books what its own requests cost at once and learns the sums of all within milliseconds; sums only grow within a
period, so the larger one is the better one, and whatever was missed comes with the next. What running requests have
reserved is known in their own process alone: a budget may be overdrawn by what the others have under way in the last
moment before it is used up. Without budgets and guard nothing of this costs anything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ccm.model import Price, Target
from ccm.observe.record import RequestRecord
from ccm.settings import UsageSettings
from ccm.usage.budgets import Ledger
from ccm.usage.guard import UNNAMED, Call, Run
from ccm.usage.meter import REPLAYED, Admission, Meter
from ccm.usage.store import Store

News = tuple[Any, ...]


def _nobody(news: News) -> None:
    return None


class SharedMeter(Meter):
    """`tell` is called without a lock with what others must know at once; it must neither wait nor raise."""

    def __init__(
        self,
        settings: UsageSettings,
        store: Store | None,
        clock: Callable[[], float] = time.time,
        on_warning: Callable[[str], None] = lambda text: None,
        tell: Callable[[News], None] = _nobody,
    ) -> None:
        self._tell = tell
        self._stops: deque[News] = deque()  # noted under the lock, told outside
        super().__init__(settings, store, clock, on_warning)

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
        try:
            return super().admit(
                record, price, input_tokens, max_output_tokens, tool_calls, targets=targets, after=after
            )
        finally:
            while self._stops:
                self._tell(self._stops.popleft())

    def _ask_guard(self, session: str, run: Run, now: float) -> list[str]:
        if not self._guard.on:
            return []
        name = session or UNNAMED
        before = self._guard.stopped_why(name)
        try:
            return super()._ask_guard(session, run, now)
        finally:
            why = self._guard.stopped_why(name)
            if why and not before:
                self._stops.append(("stopped", name, why, now, (run.length, run.name, run.digest)))

    def apply(self, news: News) -> bool:
        """Takes in what another process has told; False for what is not the meter's. Never raises."""
        if not news or news[0] not in ("stopped", "resumed", "lifted"):
            return False
        with self._lock:
            if news[0] == "stopped":
                _, name, why, since, (length, call, digest) = news
                self._guard.stop(name, why, since, Run(length, call, digest))
            elif news[0] == "resumed":
                self._guard.resume(news[1], self._clock())
            else:
                for ledger in self._ledgers:
                    if ledger.budget.name == news[1]:
                        ledger.lifted_until = news[2]
        return True

    def lifted(self) -> list[News]:
        """The budgets that are lifted now, as news."""
        now = self._clock()
        with self._lock:
            return [
                ("lifted", ledger.budget.name, ledger.lifted_until)
                for ledger in self._ledgers
                if ledger.lifted(now)
            ]

    def stopped(self) -> list[News]:
        """The conversations that are stopped, as news; what made them stop is forgiven by `resumed` as well."""
        with self._lock:
            return [
                ("stopped", row["session"], row["why"], row["since"], self._guard.forgiven(row["session"]))
                for row in self._guard.stopped()
            ]

    def keep(self, record: RequestRecord) -> bool:
        """Books and stores what another process has settled. Once per request; False for a second time."""
        with self._lock:
            if record.id in self._done:
                return False
            self._done[record.id] = None
            if len(self._done) > REPLAYED:
                self._done.popitem(last=False)
        if self._watches:
            self._book(record, None)
        if self.store is not None:
            self.store.put(record)
        return True

    # ---- sums

    def sums(self, sessions: Iterable[str] | None = None) -> dict[str, Any]:
        """What is spent of each budget in its period, and by these sessions (None: all), as plain data."""
        now = self._clock()
        wanted = None if sessions is None else set(sessions)
        with self._lock:
            for ledger in self._ledgers:
                ledger.roll(now)
            return {
                "budgets": [_told(ledger, wanted) for ledger in self._ledgers],
                "hours": self._guard.hours(wanted),
            }

    def take_sums(self, told: dict[str, Any]) -> None:
        """Takes over the sums of all processes. What is known here already and not there yet stays."""
        now = self._clock()
        with self._lock:
            ledgers = {ledger.budget.name: ledger for ledger in self._ledgers}
            for name, start, spent, unpriced, sessions in told["budgets"]:
                ledger = ledgers.get(name)
                if ledger is None:
                    continue
                ledger.roll(now)
                if ledger.start != start:
                    continue  # one of us has a new period already
                ledger.known = True
                ledger.whole.spent = max(ledger.whole.spent, spent)
                ledger.whole.unpriced = max(ledger.whole.unpriced, unpriced)
                for session, amount in sessions.items():
                    account = ledger.account(session)
                    if account is not None:
                        account.spent = max(account.spent, amount)
            self._guard.take_hours(told["hours"])


def _told(ledger: Ledger, wanted: set[str] | None) -> tuple[Any, ...]:
    sessions = {
        name: account.spent
        for name, account in (
            ledger.sessions.items()
            if wanted is None
            else [(name, ledger.sessions[name]) for name in wanted if name in ledger.sessions]
        )
    }
    whole = ledger.whole
    return (ledger.budget.name, ledger.start, whole.spent, whole.unpriced, sessions)
