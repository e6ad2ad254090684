"""The meter: nothing without budgets, reserve before and settle after, once each, right under concurrency."""

from __future__ import annotations

import threading
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccm.errors import ControlError, Refusal
from ccm.messages.tokens import Usage
from ccm.model import Endpoint, ModelFacts, Price, Provider, Target
from ccm.observe.record import Attempt, RequestRecord
from ccm.settings import Budget, GuardSettings, UsageSettings
from ccm.usage.meter import FREE, REPLAYED, Meter
from ccm.usage.store import Store

NOON = 1_795_348_800.0  # 2026-11-22 12:00 UTC
PRICE = Price(input=1.0, output=1.0)  # a million tokens = a dollar
CENT = 10_000  # tokens
OFF = GuardSettings()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Made:
    """A meter with its clock; requests that cost cents."""

    def __init__(self, *budgets: Budget, guard: GuardSettings = OFF, store: Store | None = None) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.settings = UsageSettings(budgets=budgets, guard=guard)
        self.meter = Meter(self.settings, store, self.clock, self.told.append)
        self.count = 0

    def record(self, **more: Any) -> RequestRecord:
        self.count += 1
        more.setdefault("provider", "a")
        more.setdefault("endpoint", more["provider"])
        return RequestRecord(
            f"req_{id(self)}_{self.count}", self.clock.now, **{"model": "m", "price": PRICE, **more}
        )

    def admit(self, record: RequestRecord, cents: float = 1, **more: Any) -> Any:
        """Admits a request that may cost so much."""
        return self.meter.admit(record, record.price or Price(), 0, int(cents * CENT), **more)

    def end(self, record: RequestRecord, cents: float = 1, ending: str = "complete", **usage: int) -> None:
        record.usage = Usage(input=int(cents * CENT), **usage)
        record.ending = ending
        record.attempts.append(Attempt(record.endpoint, record.model, "200", 1.0, price=record.price))
        self.meter.settle(record)

    def spend(self, cents: float = 1, **more: Any) -> RequestRecord:
        record = self.record(**more)
        self.admit(record, cents)
        self.end(record, cents)
        return record

    def line(self, name: str = "day") -> dict[str, Any]:
        return next(line for line in self.meter.status()["budgets"] if line["name"] == name)

    def refused(self, record: RequestRecord | None = None, **more: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.admit(record or self.record(), **more)
        refusal = caught.value
        assert (refusal.status, refusal.type) == (429, "billing_error")
        return refusal


def targets(*names: str, price: Price = PRICE) -> tuple[Target, ...]:
    """Targets "provider/model"."""
    found = []
    for name in names:
        provider, _, model = name.partition("/")
        endpoint = Endpoint(provider, Provider(provider, "custom", "anthropic", "http://x"))
        found.append(Target(endpoint, model, ModelFacts(model, price=price)))
    return tuple(found)


def test_without_budgets_and_guard_nothing_is_done() -> None:
    made = Made()
    assert made.admit(made.record(), tool_calls=lambda: pytest.fail("nobody asked")) is FREE
    record = made.record()
    seconds = timeit.timeit(lambda: made.meter.admit(record, PRICE, 1, 1), number=1000) / 1000
    assert seconds < 10e-6
    made.end(record)
    assert record.cost_usd == pytest.approx(0.01), "costs are filled in all the same"


def test_at_the_limit_requests_stay_out_and_the_message_helps() -> None:
    made = Made(Budget("day", 0.05))
    for _ in range(5):
        made.spend()
    refusal = made.refused()
    assert refusal.headers == {"x-should-retry": "false"}
    for word in ("budget day", "$0.05 of $0.05", "begins anew", "`ccmctl budget lift day`"):
        assert word in refusal.message
    assert made.line()["state"] == "used up"


def test_what_is_reserved_is_given_back() -> None:
    made = Made(Budget("day", 0.10))
    record = made.record()
    made.admit(record, cents=9.99)
    assert (made.line()["reserved_usd"], made.line()["running"]) == (pytest.approx(0.0999), 1)
    second = made.record()
    made.admit(second, cents=5)
    refusal = made.refused()
    assert refusal.headers == {"x-should-retry": "true", "retry-after": "2"}, "it may have room in a moment"
    assert "reserved for 2 running requests" in refusal.message
    made.end(record, cents=1)
    made.meter.settle(second)  # the client left before anything was generated
    line = made.line()
    assert (line["reserved_usd"], line["running"], line["spent_usd"]) == (0.0, 0, pytest.approx(0.01))


def test_settling_twice_books_once() -> None:
    made = Made(Budget("day", 1.0))
    record = made.spend()
    for _ in range(3):
        made.meter.settle(record)
    assert made.line()["spent_usd"] == pytest.approx(0.01)
    refused = made.record()
    made.meter.settle(refused)
    made.meter.settle(refused)
    assert made.line()["unpriced"] == 0
    for _ in range(REPLAYED + 10):
        made.meter.settle(made.record())
    assert len(made.meter._done) == REPLAYED


@pytest.mark.parametrize("most_cents", [1, 3, 0.2])
def test_a_race_overdraws_by_one_request_at_most(most_cents: float) -> None:
    """64 threads, a budget for 10, all at once: with a good guess, a high one, and one that is learnt to be low."""
    made = Made(Budget("day", 0.10))
    warm = 0
    if most_cents < 1:
        for _ in range(4):
            record = made.record()
            made.admit(record, most_cents)
            made.end(record)
        warm = 4
    barrier, lock = threading.Barrier(64), threading.Lock()
    records = [made.record() for _ in range(64)]
    let_in: list[RequestRecord] = []
    out: list[Refusal] = []

    def run(record: RequestRecord) -> None:
        barrier.wait()
        try:
            made.admit(record, most_cents)
        except Refusal as refusal:
            with lock:
                out.append(refusal)
            return
        with lock:
            let_in.append(record)

    threads = [threading.Thread(target=run, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) + len(out) == 64
    assert 1 <= len(let_in) + warm <= 11
    if most_cents == 1:
        assert len(let_in) == 10
    assert all(refusal.headers["x-should-retry"] == "true" for refusal in out)
    for record in let_in:
        made.end(record)
    while made.line()["spent_usd"] < 0.0999:  # what was too careful is made up for
        made.spend()
    assert 0.10 - 1e-9 <= made.line()["spent_usd"] <= 0.11 + 1e-9
    assert made.refused().headers["x-should-retry"] == "false"


def test_threads_that_admit_and_settle_leave_nothing_behind() -> None:
    made = Made(Budget("day", 1e6), Budget("each", 1e6, per="session"))

    def run(n: int) -> None:
        for turn in range(40):
            record = RequestRecord(
                f"{n}.{turn}", NOON, provider="a", endpoint="a", model="m", price=PRICE, session=f"s{n % 3}"
            )
            made.admit(record, 2)
            made.end(record, 1 + turn % 2)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    line = made.line()
    assert (line["spent_usd"], line["reserved_usd"], line["running"]) == (
        pytest.approx(8 * 40 * 0.015),
        0.0,
        0,
    )
    assert not made.meter._holds


def test_what_requests_really_cost_is_learnt() -> None:
    """Most of a long conversation is read from the cache: reserving its full price would keep everybody waiting."""
    made = Made(Budget("day", 10.0))
    for n in range(5):
        record = made.record()
        made.admit(record, cents=100)
        assert made.line()["reserved_usd"] == pytest.approx(1.0 if n < 4 else 0.0125)
        made.end(record)
    stopped = made.record()
    made.admit(stopped, cents=100)
    made.end(stopped, cents=90, ending="client_gone")
    record = made.record()
    made.admit(record, cents=100)
    assert made.line()["reserved_usd"] == pytest.approx(0.0125), "what was broken off teaches nothing"
    other = made.record(model="unheard-of")
    made.admit(other, cents=100)
    assert made.line()["reserved_usd"] == pytest.approx(1.0125)


def test_warnings_are_told_once_each_in_every_place() -> None:
    made = Made(Budget("day", 0.10))
    for _ in range(7):
        made.spend()
    assert made.told == []
    seen = [made.spend().warned for _ in range(3)]
    assert seen[0] == []
    assert [[text.partition(",")[0] for text in texts] for texts in seen[1:]] == [
        ["budget day: 80 % used"],
        ["budget day: 90 % used"],
    ]
    assert made.told == [text for texts in seen for text in texts]


def test_a_budget_that_only_warns_stops_nobody() -> None:
    made = Made(Budget("day", 0.02, then="warn"))
    for _ in range(5):
        made.spend()
    assert made.line()["spent_usd"] == pytest.approx(0.05)
    assert any("100 % used" in text for text in made.told)


def test_downgrade_names_the_cheaper_route_and_lets_it_pass() -> None:
    made = Made(Budget("day", 0.02, then="downgrade", downgrade_to="local/small"), Budget("hard", 0.04))
    made.spend(2)
    record = made.record()
    first = made.admit(record)
    assert first.downgrade_to == "local/small"
    assert record.warned == ["budget day is used up: the request goes to local/small"]
    assert made.line()["running"] == 0, "nothing is reserved where it will not go"
    second = made.admit(record, after=first)
    assert second.downgrade_to == ""
    assert second.warnings == first.warnings
    made.end(record)
    assert made.line()["spent_usd"] == pytest.approx(0.03), "what is spent meanwhile counts"
    made.admit(made.record(), after=first)
    assert (
        "budget hard" in made.refused(after=first).message
        or "budget hard" in made.refused(after=first).message
    )


def test_a_providers_budget_leaves_it_out_as_long_as_another_may_serve() -> None:
    made = Made(Budget("dear", 0.02, provider="a"))
    made.spend(2)
    route = targets("a/m", "b/m")
    found = made.admit(made.record(), targets=route)
    assert (found.avoid, found.avoid_providers) == (frozenset({"a/m"}), frozenset({"a"}))
    assert made.line("dear")["reserved_usd"] == 0.0
    assert "budget dear" in made.refused(targets=targets("a/m")).message
    # one that comes later in the route is left out too
    found = made.admit(made.record(), targets=targets("b/m", "a/m"))
    assert found.avoid == {"a/m"}
    assert "budget dear" in made.refused(made.record(provider="a")).message
    assert made.admit(made.record(provider="b")) == FREE


def test_a_models_budget_leaves_out_the_model() -> None:
    made = Made(Budget("big", 0.02, model="*-opus-*"))
    made.spend(2, model="claude-opus-5")
    found = made.admit(made.record(), targets=targets("a/claude-opus-5", "a/claude-sonnet-5"))
    assert found.avoid == {"a/claude-opus-5"}
    assert found.avoid_providers == frozenset(), "its provider may serve with another model"


def test_a_providers_downgrade_goes_before_leaving_out() -> None:
    made = Made(Budget("dear", 0.02, provider="a", then="downgrade", downgrade_to="c"))
    made.spend(2)
    assert made.admit(made.record(), targets=targets("a/m", "b/m")).downgrade_to == "c"
    later = made.admit(made.record(), targets=targets("b/m", "a/m"))
    assert (later.downgrade_to, later.avoid) == ("", {"a/m"})


def test_it_is_reserved_where_it_goes_first_and_booked_where_it_was_answered() -> None:
    made = Made(Budget("a", 1.0, provider="a"), Budget("b", 1.0, provider="b"))
    record = made.record()
    made.admit(record, targets=targets("a/m", "b/m"))
    assert (made.line("a")["reserved_usd"], made.line("b")["reserved_usd"]) == (pytest.approx(0.01), 0.0)
    record.attempts.append(
        Attempt("a", "m", "broken", 1.0, usage=Usage(output=CENT * 2), assumed_billed=True, price=PRICE)
    )
    record.provider = record.endpoint = "b"
    made.end(record)
    assert record.cost_usd == pytest.approx(0.03)
    assert made.line("a")["spent_usd"] == pytest.approx(0.02)
    assert made.line("b")["spent_usd"] == pytest.approx(0.01)
    assert made.line("a")["reserved_usd"] == 0.0


def test_class_and_project_are_filters_too() -> None:
    made = Made(Budget("side", 0.01, request_class="background", project="p"))
    made.spend(1, request_class="background", project="p")
    assert made.admit(made.record(request_class="background", project="q")) == FREE
    assert made.admit(made.record(project="p")) == FREE
    made.refused(made.record(request_class="background", project="p"))


def test_sessions_have_budgets_of_their_own() -> None:
    made = Made(Budget("each", 0.02, per="session"))
    made.spend(2, session="s1")
    assert "of session s1" in made.refused(made.record(session="s1")).message
    made.spend(1, session="s2")
    made.spend(5, session="")
    assert made.line("each")["sessions"] == 2


def test_unknown_prices_cannot_be_counted_and_are_told() -> None:
    made = Made(Budget("day", 0.01))
    for _ in range(3):
        made.spend(5, price=Price())
    line = made.line()
    assert (line["spent_usd"], line["unpriced"], line["state"]) == (0.0, 3, "ok")


def test_a_new_day_begins_anew_and_old_requests_stay_in_their_day() -> None:
    made = Made(Budget("day", 0.02))
    late = made.record()
    made.admit(late)
    made.spend(1)
    made.refused()
    made.clock.now += 86400
    assert made.line()["spent_usd"] == 0.0
    made.end(late)
    line = made.line()
    assert (line["spent_usd"], line["reserved_usd"]) == (0.0, 0.0), "yesterday's request is yesterday's money"
    made.spend(1)
    assert made.line()["spent_usd"] == pytest.approx(0.01)


def test_a_reload_keeps_what_was_spent() -> None:
    made = Made(Budget("day", 0.02), Budget("other", 1.0))
    made.spend(2)
    running = made.record()
    made.meter.lift("day", 60)
    made.admit(running)
    made.meter.install(UsageSettings(budgets=(Budget("day", 0.10), Budget("other", 1.0, provider="b"))))
    assert made.line()["spent_usd"] == pytest.approx(0.02)
    assert made.line()["state"] == "lifted"
    assert made.line("other")["spent_usd"] == 0.0, "it counts something else now"
    made.end(running)
    assert (made.line()["reserved_usd"], made.line()["spent_usd"]) == (0.0, pytest.approx(0.03))
    made.meter.install(UsageSettings())
    assert made.admit(made.record()) is FREE
    assert made.meter.status()["budgets"] == []


def test_lift_and_restore() -> None:
    made = Made(Budget("day", 0.01), Budget("each", 0.01, per="session"))
    made.spend(1, session="s")
    made.refused()
    assert made.meter.lift("day", 3600)["text"].startswith("the budget day is lifted until ")
    made.spend(1)
    made.clock.now += 3601
    made.refused()
    assert made.meter.lift("day")["until"] == made.line()["resets_at"]
    made.spend(1)
    assert made.meter.restore("day")["text"] == "the budget day holds again"
    assert made.meter.restore("day")["text"] == "the budget day holds (it was not lifted)"
    made.refused()
    made.meter.lift("day")
    made.refused(made.record(session="s"))
    assert made.meter.lift("each")["until"] is None
    assert made.line("each")["state"] == "lifted"
    made.admit(made.record(session="s"))
    with pytest.raises(ControlError, match="no budget is called 'x'; there are: day, each"):
        made.meter.lift("x")


def test_the_guard_warns_stops_and_lets_go_on() -> None:
    made = Made(guard=GuardSettings(repeats=2))
    calls = [("Bash", 1)]
    for length, warned in ((1, 0), (2, 1), (3, 0)):
        record = made.record(session="s")
        made.admit(record, tool_calls=lambda n=length: calls * n)
        assert len(record.warned) == warned
    refusal = made.refused(made.record(session="s"), tool_calls=lambda: calls * 4)
    assert refusal.headers == {"x-should-retry": "false"}
    assert "ccmctl session resume s" in refusal.message
    assert made.meter.status()["guard"]["stopped"][0]["session"] == "s"
    with pytest.raises(ControlError, match="stopped are: s"):
        made.meter.resume_session("t")
    assert made.meter.resume_session("s")["text"] == "session s may go on"
    made.admit(made.record(session="s"), tool_calls=lambda: calls * 4)
    with pytest.raises(ControlError, match="none is stopped"):
        made.meter.resume_session("s")


def test_the_guard_sees_what_is_spent() -> None:
    made = Made(guard=GuardSettings(spend_factor=2.0))
    for _ in range(3):
        made.spend(10, session="s")
        made.clock.now += 3600
    made.spend(45, session="s")
    assert "4.5 times its median hour" in made.refused(made.record(session="s")).message


# ---- with a store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(str(tmp_path / "usage.db"), 90, lambda text: None)
    one.start()
    yield one
    one.stop()


def test_what_was_spent_survives_a_restart(store: Store) -> None:
    budgets = (
        Budget("day", 0.05), Budget("a", 0.5, provider="a"), Budget("big", 0.5, per="week", model="big-*"),
        Budget("each", 0.03, per="session"),
    )  # fmt: skip
    before = Made(*budgets, store=store)
    for n in range(3):
        before.spend(1, session=f"s{n % 2}", model=("big-1", "m")[n % 2])
    after = Made(*budgets, store=store)
    assert after.meter.load()
    for name in ("day", "a", "big"):
        assert after.line(name)["spent_usd"] == pytest.approx(before.line(name)["spent_usd"]) == pytest.approx(
            {"day": 0.03, "a": 0.03, "big": 0.02}[name]
        )  # fmt: skip
    assert after.line("each")["spent_usd"] == pytest.approx(0.02)
    after.spend(1, session="s0")
    after.refused(after.record(session="s0"))
    assert after.meter.load(again=True)
    assert after.line()["spent_usd"] == pytest.approx(0.04), "what both know is not counted twice"
    assert store.status()["rows"] == 4


def test_a_budget_that_is_new_in_a_reload_knows_of_before(store: Store) -> None:
    made = Made(store=store)
    made.spend(2)
    made.meter.install(UsageSettings(budgets=(Budget("day", 0.02),)))
    assert made.meter.load()
    made.refused()


def test_a_store_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "no" / "usage.db"), 90, lambda text: None)
    made = Made(Budget("day", 0.02), store=store)
    assert not made.meter.load(0.0)
    assert "is not known" in made.meter.status()["problem"]
    first = Store(store.path, 90, lambda text: None)
    first.start()
    other = Made(store=first)
    other.spend(2)
    assert first.flush()
    made.admit(made.record())
    made.clock.now += 31
    made.refused()
    assert made.meter.status()["problem"] == ""
    first.stop()


def test_without_a_store_it_says_so() -> None:
    assert "since the start" in Made(Budget("day", 1.0)).meter.status()["problem"]
    assert Made().meter.status() == {
        "budgets": [],
        "guard": {"on": False, "repeats": 0, "spend_factor": 0.0, "watching": 0, "stopped": []},
        "store": None,
        "problem": "",
    }
