"""Limits of money: what counts towards a budget, in which period, and what it says to the next request (R49).

A ledger knows what was spent and what running requests have reserved; a request is let in as long as anything is left,
and reserves what it may cost at most, as far as that can be foreseen. So parallel requests cannot spend the same money
twice, and a budget is overdrawn by one request at most. Unknown prices cannot be counted; they are told instead.

Pure, without a lock: the meter's guards it. Instants are epoch seconds, periods begin and end in local time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import date, timedelta
from fnmatch import fnmatchcase
from math import inf
from typing import Any

from ccm.settings import Budget

WARN_AT = (90, 80)  # percent, the higher first
MOST_SESSIONS = 4096
_ALL = 1 - 1e-9  # of a limit: ten times a tenth is a little less than one
_CLOCK_SLACK_S = 3600.0  # a clock that is set back by less does not open an earlier period again


def period(per: str, at: float) -> tuple[float, float]:
    """(beginning, end) of the day, week (from Monday) or month that an instant lies in, by the local clock: 23 or 25
    hours long where the clock is put forward or back. A session has neither: (-inf, inf)."""
    if per == "session":
        return -inf, inf
    local = time.localtime(at)
    first = date(local.tm_year, local.tm_mon, local.tm_mday)
    after = first + timedelta(days=1)
    if per == "week":
        first -= timedelta(days=local.tm_wday)
        after = first + timedelta(days=7)
    elif per == "month":
        first = first.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return _midnight(first), _midnight(after)


def _midnight(day: date) -> float:
    """The first instant of a local day; where the clock skips midnight, the one after."""
    at = time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, -1))
    while time.localtime(at)[:3] < (day.year, day.month, day.day):
        at += 900
    return at


class Account:
    """What one budget has to do with one period, or one session."""

    __slots__ = ("reserved", "running", "spent", "unpriced", "warned")

    def __init__(self, spent: float = 0.0) -> None:
        self.spent = spent
        self.reserved = 0.0
        self.running = 0  # requests that hold a reservation
        self.unpriced = 0  # finished requests whose cost nobody knows
        self.warned = 0  # percent of the last warning


class Ledger:
    """A budget with its accounts: one for the running period, or one for each session."""

    __slots__ = ("budget", "end", "known", "lifted_until", "sessions", "start", "whole")

    def __init__(self, budget: Budget, now: float) -> None:
        self.budget = budget
        self.start, self.end = period(budget.per, now)
        self.whole = Account()
        self.sessions: OrderedDict[str, Account] = OrderedDict()
        self.lifted_until = -inf
        self.known = False  # what was spent before the start has been looked up

    def same_sums(self, other: Budget) -> bool:
        """Whether another definition counts the same money, so that what was spent holds for it too."""
        mine = self.budget
        return (mine.per, mine.provider, mine.model, mine.request_class, mine.project) == (
            other.per, other.provider, other.model, other.request_class, other.project,
        )  # fmt: skip

    @property
    def filters(self) -> dict[str, str]:
        """What it counts, in the words of `usage.queries`."""
        budget = self.budget
        return {
            "provider": budget.provider,
            "model": budget.model,
            "request_class": budget.request_class,
            "project": budget.project,
        }

    @property
    def depends_on_target(self) -> bool:
        """Whether another provider or model would not be counted."""
        return bool(self.budget.provider or self.budget.model)

    def counts(self, provider: str, model: str, request_class: str, project: str) -> bool:
        """Whether a request of this kind, answered there, is paid from this budget."""
        budget = self.budget
        return (
            (not budget.provider or budget.provider == provider)
            and (not budget.model or budget.model == model or fnmatchcase(model, budget.model))
            and (not budget.request_class or budget.request_class == request_class)
            and (not budget.project or budget.project == project)
        )

    def roll(self, now: float) -> bool:
        """Begins a new period where the old one has ended, and says so. Requests of the old one are no longer its
        business."""
        if self.start - _CLOCK_SLACK_S <= now < self.end:
            return False
        # A clock that was far ahead and is right again: what was spent before must be looked up again.
        self.known = now >= self.end
        self.start, self.end = period(self.budget.per, now)
        self.whole = Account()
        return True

    def account(self, session: str) -> Account | None:
        """The account a request of this session is paid from; None where it has no session to count."""
        if self.budget.per != "session":
            return self.whole
        if not session:
            return None
        found = self.sessions.get(session)
        if found is None:
            found = self.sessions[session] = Account()
            if len(self.sessions) > MOST_SESSIONS:
                idle = (key for key, one in self.sessions.items() if not one.running and key != session)
                self.sessions.pop(next(idle, session))
        else:
            self.sessions.move_to_end(session)
        return found

    def lifted(self, now: float) -> bool:
        return now < self.lifted_until

    def full(self, account: Account, now: float) -> bool:
        """Whether the next request has to stay out."""
        return account.spent + account.reserved >= self.budget.limit_usd * _ALL and not self.lifted(now)

    def used_up(self, account: Account) -> bool:
        """Whether the money is gone, whatever becomes of running requests."""
        return account.spent >= self.budget.limit_usd * _ALL

    def warning(self, account: Account, now: float) -> str:
        """What to tell about this account that has not been told yet; "" = nothing."""
        percent = round(account.spent / self.budget.limit_usd * 100, 6)
        levels = (100, *WARN_AT) if self.budget.then == "warn" else WARN_AT
        level = next((level for level in levels if percent >= level), 0)
        if level <= account.warned or self.lifted(now):
            return ""
        account.warned = level
        return f"budget {self.budget.name}: {percent:.0f} % used, {self._spent(account)}{self._until(', resets')}"

    def refusal(self, account: Account, session: str) -> str:
        """Why a request stays out: what was spent, of how much, until when, and what can be done. `account` is full."""
        budget = self.budget
        what = f"the budget {budget.name}" + (f" of session {session}" if budget.per == "session" else "")
        lift = f"`ccmctl budget lift {budget.name}` lifts it, limit_usd in [budgets.{budget.name}] raises it"
        if not self.used_up(account):
            running = "the running request" if account.running == 1 else f"{account.running} running requests"
            return f"{what} has {self._spent(account)}, and the rest is reserved for {running}: try again when they end, or {lift}."
        return f"{what} is used up: {self._spent(account)}.{self._until(' It begins anew')} {lift[0].upper()}{lift[1:]}."

    def _spent(self, account: Account) -> str:
        return f"{usd(account.spent)} of {usd(self.budget.limit_usd)} spent"

    def _until(self, word: str) -> str:
        if self.end == inf:
            return ""
        return f"{word} {clock_text(self.end)}" + ("." if word.startswith(" ") else "")

    def line(self, now: float) -> dict[str, Any]:
        """The budget as status shows it. For sessions the one that has spent most; `resets_at` is epoch seconds."""
        budget, account, session = self.budget, self.whole, ""
        if budget.per == "session" and self.sessions:
            session, account = max(self.sessions.items(), key=lambda item: item[1].spent)
        share = round(account.spent / budget.limit_usd, 8)
        lifted = self.lifted(now)
        state = next((f"over {level} %" for level in WARN_AT if share * 100 >= level), "ok")
        if self.used_up(account):
            state = "used up"
        elif self.full(account, now):
            state = "reserved"
        return {
            "name": budget.name,
            "per": budget.per,
            **self.filters,
            "then": budget.then,
            "downgrade_to": budget.downgrade_to,
            "limit_usd": budget.limit_usd,
            "spent_usd": round(account.spent, 6),
            "reserved_usd": round(account.reserved, 6),
            "left_usd": round(max(0.0, budget.limit_usd - account.spent - account.reserved), 6),
            "share": round(share, 4),
            "state": "lifted" if lifted else state,
            "lifted_until": self.lifted_until if lifted and self.lifted_until != inf else None,
            "resets_at": None if self.end == inf else self.end,
            "resets": "" if self.end == inf else clock_text(self.end),
            "session": session,
            "sessions": len(self.sessions),
            "running": account.running,
            "unpriced": account.unpriced,
        }


def usd(amount: float) -> str:
    """An amount for people: cents, and as many places more as a small one needs."""
    if amount >= 0.995 or amount <= 0:
        return f"${amount:.2f}"
    return f"${amount:.2g}" if amount >= 0.0001 else f"${amount:.0e}"


def clock_text(at: float) -> str:
    """An instant by the local clock: "Mon 23 Nov 00:00 CET"."""
    return time.strftime("%a %d %b %H:%M %Z", time.localtime(at)).strip()
