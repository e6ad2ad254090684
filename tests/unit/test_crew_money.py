"""Budgets and the guard of several processes: sums grow together, what people decide holds everywhere."""

from __future__ import annotations

import marshal
from typing import Any

import pytest

from ccm.errors import Refusal
from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord
from ccm.settings import Budget, GuardSettings, UsageSettings
from ccm.usage.shared import SharedMeter

NOON = 1_795_348_800.0
PRICE = Price(input=1.0, output=1.0)
DOLLAR = 1_000_000
_COUNT = iter(range(100_000))


def budget(limit_usd: float, per: str = "day") -> Budget:
    return Budget(name="daily", limit_usd=limit_usd, per=per)


def meter(settings: UsageSettings, told: list[Any] | None = None) -> SharedMeter:
    return SharedMeter(settings, None, lambda: NOON, tell=(told if told is not None else []).append)


def record(session: str = "") -> RequestRecord:
    return RequestRecord(
        f"req_{next(_COUNT)}", NOON, provider="a", endpoint="a", model="m", price=PRICE, session=session
    )


def spend(where: SharedMeter, tokens: int, session: str = "") -> RequestRecord:
    """A request that costs so many millionths of a dollar."""
    one = record(session)
    where.admit(one, PRICE, 1, 1)
    one.usage, one.ending = Usage(output=tokens), "complete"
    one.attempts.append(Attempt("a", "m", "200", 0.1, price=PRICE))
    where.settle(one)
    return one


def spent(where: SharedMeter) -> float:
    return float(where.status()["budgets"][0]["spent_usd"])


def passed(message: Any) -> Any:
    return marshal.loads(marshal.dumps(message))


def test_sums_of_all_are_known_to_each_and_nothing_counts_twice() -> None:
    settings = UsageSettings(budgets=(budget(3.0),))
    one, other, head = (meter(settings) for _ in range(3))
    records = [spend(one, DOLLAR), spend(other, DOLLAR)]
    assert [head.keep(each) for each in (*records, records[0])] == [True, True, False]
    for worker in (one, other):
        worker.take_sums(passed(head.sums()))
        worker.take_sums(passed(head.sums()))
        assert spent(worker) == pytest.approx(2.0)
    head.keep(spend(one, DOLLAR))
    assert spent(one) == pytest.approx(3.0)
    assert spent(other) == pytest.approx(2.0), "until it is told"
    other.take_sums(passed(head.sums()))
    with pytest.raises(Refusal, match="used up"):
        other.admit(record(), PRICE, 1, 1)


def test_what_is_spent_here_and_not_yet_there_stays() -> None:
    settings = UsageSettings(budgets=(budget(9.0),))
    one, head = meter(settings), meter(settings)
    spend(one, DOLLAR)
    one.take_sums(passed(head.sums()))
    assert spent(one) == pytest.approx(1.0)


def test_sums_by_session() -> None:
    settings = UsageSettings(budgets=(budget(1.0, "session"),))
    one, other, head = (meter(settings) for _ in range(3))
    head.keep(spend(one, DOLLAR, "s1"))
    head.keep(spend(one, DOLLAR // 2, "s2"))
    other.take_sums(passed(head.sums({"s2", "unknown"})))
    other.admit(record("s1"), PRICE, 1, 1)
    other.take_sums(passed(head.sums()))
    with pytest.raises(Refusal, match="s1"):
        other.admit(record("s1"), PRICE, 1, 1)
    other.admit(record("s2"), PRICE, 1, 1)


def test_a_lift_and_its_end() -> None:
    settings = UsageSettings(budgets=(budget(1.0),))
    one, head = meter(settings), meter(settings)
    head.keep(spend(one, DOLLAR))
    head.lift("daily")
    for news in head.lifted():
        assert one.apply(passed(news))
    one.admit(record(), PRICE, 1, 1)
    head.restore("daily")
    assert head.lifted() == []
    assert one.apply(("lifted", "daily", float("-inf")))
    with pytest.raises(Refusal):
        one.admit(record(), PRICE, 1, 1)
    assert one.apply(("bound", "x")) is False


def test_a_stopped_conversation_is_stopped_and_let_go_everywhere() -> None:
    settings = UsageSettings(guard=GuardSettings(repeats=3))
    told: list[Any] = []
    one, other, head = meter(settings, told), meter(settings), meter(settings)
    calls = lambda: [("Bash", 7)] * 6  # noqa: E731
    with pytest.raises(Refusal, match="runaway guard"):
        one.admit(record("s1"), PRICE, 1, 1, calls)
    assert [news[:2] for news in told] == [("stopped", "s1")], "told once"
    with pytest.raises(Refusal):
        one.admit(record("s1"), PRICE, 1, 1, calls)
    assert len(told) == 1
    other.apply(passed(told[0]))
    head.apply(passed(told[0]))
    with pytest.raises(Refusal, match="runaway guard"):
        other.admit(record("s1"), PRICE, 1, 1)
    late = meter(settings)
    for news in head.stopped():
        late.apply(passed(news))
    assert head.resume_session("s1")["session"] == "s1"
    for worker in (one, other, late):
        worker.apply(("resumed", "s1"))
        worker.admit(record("s1"), PRICE, 1, 1, calls)  # what made it stop is forgiven
