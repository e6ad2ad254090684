"""Ledgers: what counts, in which period of the local clock, what is told, and when a request has to stay out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from math import inf

import pytest

from ccm.settings import Budget
from ccm.usage.budgets import MOST_SESSIONS, Ledger, clock_text, period, usd


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from zone(monkeypatch, "Europe/Berlin")


def zone(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    monkeypatch.setenv("TZ", name)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def local(text: str) -> float:
    return time.mktime((*datetime.fromisoformat(text).timetuple()[:8], -1))


def shown(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def test_periods_follow_the_local_clock(berlin: None) -> None:
    at = local("2026-11-22 17:34:03")
    assert [shown(x) for x in period("day", at)] == ["2026-11-22 00:00", "2026-11-23 00:00"]
    assert [shown(x) for x in period("week", at)] == ["2026-11-16 00:00", "2026-11-23 00:00"]
    assert [shown(x) for x in period("month", at)] == ["2026-11-01 00:00", "2026-12-01 00:00"]
    assert [shown(x) for x in period("month", local("2026-12-31 23:59"))] == [
        "2026-12-01 00:00",
        "2027-01-01 00:00",
    ]
    assert period("session", at) == (-inf, inf)


def test_days_with_23_and_25_hours(berlin: None) -> None:
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)):
        start, end = period("day", local(f"{day} 12:00"))
        assert (end - start) / 3600 == hours
        for at in (start, start + 2.5 * 3600, end - 1):
            assert period("day", at) == (start, end)
        assert period("day", end)[0] == end
    start, end = period("week", local("2026-10-25 02:30"))
    assert (end - start) / 3600 == 7 * 24 + 1


def test_a_midnight_that_the_clock_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    zones = zone(monkeypatch, "America/Havana")
    next(zones)
    # 2026-03-08: from 00:00 straight to 01:00
    start, end = period("day", local("2026-03-08 12:00"))
    assert shown(start) == "2026-03-08 01:00"
    assert (end - start) / 3600 == 23
    assert period("day", start - 1)[1] == start
    with pytest.raises(StopIteration):
        next(zones)


@pytest.mark.parametrize("zone_name", ["UTC", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"])
def test_periods_meet_and_hold_every_instant(monkeypatch: pytest.MonkeyPatch, zone_name: str) -> None:
    zones = zone(monkeypatch, zone_name)
    next(zones)
    at = local("2026-01-01 00:00")
    for _ in range(400):
        start, end = period("day", at)
        assert start <= at < end
        assert 23 * 3600 <= end - start <= 25 * 3600
        at = end + 3600 if end - start == 86400 else end
    with pytest.raises(StopIteration):
        next(zones)


def test_what_counts() -> None:
    every = Ledger(Budget("all", 1.0), 0.0)
    assert every.counts("a", "m", "default", "p")
    assert not every.depends_on_target
    one = Ledger(Budget("one", 1.0, provider="a", model="claude-*", request_class="think", project="p"), 0.0)
    assert one.depends_on_target
    assert one.counts("a", "claude-opus-5", "think", "p")
    for wrong in (
        ("b", "claude-opus-5", "think", "p"),
        ("a", "gpt-5", "think", "p"),
        ("a", "claude-opus-5", "default", "p"),
        ("a", "claude-opus-5", "think", ""),
    ):
        assert not one.counts(*wrong)
    assert Ledger(Budget("x", 1.0, model="odd[1]"), 0.0).counts("a", "odd[1]", "default", "")


def test_a_new_period_begins_at_its_time_and_only_then(berlin: None) -> None:
    now = local("2026-11-22 12:00")
    ledger = Ledger(Budget("day", 1.0), now)
    ledger.whole.spent = 0.5
    assert not ledger.roll(ledger.end - 1)
    assert not ledger.roll(ledger.start - 1800), "a clock set back a little opens nothing again"
    assert ledger.whole.spent == 0.5
    end = ledger.end
    assert ledger.roll(end)
    assert (ledger.start, ledger.whole.spent, ledger.known) == (end, 0.0, True)
    assert ledger.roll(now - 86400 * 30)
    assert not ledger.known, "what was spent in an earlier period has to be looked up"


def test_full_means_spent_and_reserved() -> None:
    ledger = Ledger(Budget("day", 1.0), 0.0)
    account = ledger.whole
    account.spent, account.reserved = 0.4, 0.5
    assert not ledger.full(account, 0.0)
    account.reserved = 0.6
    assert ledger.full(account, 0.0)
    ledger.lifted_until = 10.0
    assert not ledger.full(account, 9.0)
    assert ledger.full(account, 10.0)


def test_each_warning_comes_once() -> None:
    ledger = Ledger(Budget("day", 10.0), 0.0)
    account = ledger.whole
    told = []
    for spent in (7.99, 8.0, 8.5, 9.0, 9.5, 10.0, 12.0):
        account.spent = spent
        told.append(ledger.warning(account, 0.0).partition(",")[0])
    assert told == ["", "budget day: 80 % used", "", "budget day: 90 % used", "", "", ""]
    ledger.whole = account = type(account)(9.9)
    assert ledger.warning(account, 0.0).startswith("budget day: 99 % used, $9.90 of $10.00 spent, resets ")
    assert ledger.warning(account, 0.0) == ""


def test_a_budget_that_only_warns_says_so_at_the_limit_too() -> None:
    ledger = Ledger(Budget("day", 1.0, then="warn"), 0.0)
    ledger.whole.spent = 1.5
    assert ledger.warning(ledger.whole, 0.0).startswith("budget day: 150 % used")
    assert ledger.warning(ledger.whole, 0.0) == ""


def test_the_refusal_says_what_was_spent_until_when_and_what_helps(berlin: None) -> None:
    ledger = Ledger(Budget("daily", 5.0), local("2026-11-22 12:00"))
    ledger.whole.spent = 5.012
    text = ledger.refusal(ledger.whole, "s")
    assert text == (
        "the budget daily is used up: $5.01 of $5.00 spent. It begins anew Mon 23 Nov 00:00 CET. "
        "`ccmctl budget lift daily` lifts it, limit_usd in [budgets.daily] raises it."
    )
    ledger.whole.spent, ledger.whole.reserved, ledger.whole.running = 4.0, 1.5, 3
    assert ledger.refusal(ledger.whole, "s") == (
        "the budget daily has $4.00 of $5.00 spent, and the rest is reserved for 3 running requests: try again when "
        "they end, or `ccmctl budget lift daily` lifts it, limit_usd in [budgets.daily] raises it."
    )
    own = Ledger(Budget("each", 1.0, per="session"), 0.0)
    account = own.account("abc")
    assert account is not None
    account.spent = 2.0
    assert own.refusal(account, "abc").startswith(
        "the budget each of session abc is used up: $2.00 of $1.00 spent. `"
    )


def test_sessions_have_accounts_of_their_own_and_are_bounded() -> None:
    ledger = Ledger(Budget("each", 1.0, per="session"), 0.0)
    assert ledger.account("") is None
    first = ledger.account("s0")
    assert first is not None
    first.running = 1
    for n in range(1, MOST_SESSIONS + 50):
        ledger.account(f"s{n}")
    assert len(ledger.sessions) == MOST_SESSIONS
    assert ledger.account("s0") is first, "one with a running request is never forgotten"
    assert "s1" not in ledger.sessions


def test_the_line_for_status(berlin: None) -> None:
    now = local("2026-11-22 12:00")
    ledger = Ledger(Budget("daily", 10.0, provider="a"), now)
    states = []
    for spent, reserved in ((1.0, 0.0), (8.0, 0.0), (9.0, 0.5), (9.0, 1.0), (10.0, 0.0)):
        ledger.whole.spent, ledger.whole.reserved = spent, reserved
        states.append(ledger.line(now)["state"])
    assert states == ["ok", "over 80 %", "over 90 %", "reserved", "used up"]
    ledger.lifted_until = now + 60
    line = ledger.line(now)
    assert (line["state"], line["lifted_until"], line["share"], line["left_usd"]) == (
        "lifted",
        now + 60,
        1.0,
        0.0,
    )
    assert (line["provider"], line["resets"], line["resets_at"]) == ("a", "Mon 23 Nov 00:00 CET", ledger.end)
    own = Ledger(Budget("each", 1.0, per="session"), now)
    for name, spent in (("x", 0.1), ("y", 0.9), ("z", 0.2)):
        account = own.account(name)
        assert account is not None
        account.spent = spent
    line = own.line(now)
    assert (line["session"], line["spent_usd"], line["sessions"], line["resets_at"]) == ("y", 0.9, 3, None)


def test_the_same_money_is_recognised() -> None:
    ledger = Ledger(Budget("b", 1.0, per="week", model="m*"), 0.0)
    assert ledger.same_sums(Budget("b", 9.0, per="week", model="m*", then="warn"))
    assert not ledger.same_sums(Budget("b", 1.0, per="day", model="m*"))
    assert not ledger.same_sums(Budget("b", 1.0, per="week", model="m"))


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.00"), (12.345, "$12.35"), (1.0, "$1.00"), (0.0567, "$0.057"), (0.00012, "$0.00012"), (1e-6, "$1e-06")],
)  # fmt: skip
def test_amounts_for_people(amount: float, text: str) -> None:
    assert usd(amount) == text


def test_instants_for_people(berlin: None) -> None:
    assert clock_text(local("2026-07-01 09:05")) == "Wed 01 Jul 09:05 CEST"
