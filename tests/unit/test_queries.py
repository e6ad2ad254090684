"""Figures from the database: every sum equal to one that is added up from the records themselves."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord
from ccm.usage import database, queries, retention
from ccm.usage.rows import rows_of
from ccm.usage.store import _commit
from tests.spending import CHEAP, local, many, record

NOON = local("2026-03-10 12:00")
NAMES: dict[str, Callable[[RequestRecord], str]] = {
    "class": lambda r: r.request_class,
    "session": lambda r: r.session,
    "project": lambda r: r.project,
    "day": lambda r: queries.local_day(r.at),
}


def stored(path: Path, records: list[RequestRecord], batch: int = 37) -> str:
    db = database.open_for_writing(str(path / "usage.db"))
    rows = [rows_of(one) for one in records]
    for start in range(0, len(rows), batch):
        _commit(db, rows[start : start + batch])
    db.close()
    return str(path / "usage.db")


def known_usd(one: RequestRecord) -> float:
    return sum(attempt.cost_usd or 0.0 for attempt in one.attempts)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[RequestRecord]]:
    records = many(1500, NOON, 12.0)
    return stored(tmp_path_factory.mktemp("kept"), records), records


SINCE = (0.0, NOON - 7 * 86400, NOON - 7 * 86400 - 1234.5, NOON - 600, NOON)


@pytest.mark.parametrize("since", SINCE)
@pytest.mark.parametrize("by", queries.BY)
def test_every_sum_is_exact(kept: tuple[str, list[RequestRecord]], by: str, since: float) -> None:
    path, records = kept
    within = [one for one in records if one.at >= since]
    answer = queries.costs(path, by, since)
    total = answer["total"]
    assert total["requests"] == len(within)
    assert (total["cost_usd"] or 0.0) == pytest.approx(sum(map(known_usd, within)))
    assert sum(row["requests"] for row in answer["rows"]) == len(within)
    every = [one.usage for one in within] + [a.usage for one in within for a in one.attempts if a.usage]
    for name in ("input", "cache_read", "cache_write_5m", "output"):
        assert total[name] == sum(getattr(usage, name) for usage in every)
    both = [one for one in within if one.cost_usd is not None and one.list_cost_usd is not None]
    saved = sum((one.list_cost_usd or 0) - (one.cost_usd or 0) for one in both)
    assert total["saved_usd"] in (None, pytest.approx(saved))
    if by in NAMES:
        cost: dict[str, float] = defaultdict(float)
        for one in within:
            cost[NAMES[by](one)] += known_usd(one)
        assert {row["name"]: row["cost_usd"] or 0.0 for row in answer["rows"]} == pytest.approx(cost)


def test_money_goes_to_whoever_charged_it(tmp_path: Path) -> None:
    cut = Attempt(
        "openai#2", "gpt", "cancelled", 1.0, usage=Usage(input=1000), assumed_billed=True, price=CHEAP
    )
    one = record("r", NOON, attempts=[cut, Attempt("anthropic", "claude-sonnet-4-5", "200", 1.0)])
    path = stored(tmp_path, [one])
    rows = {row["name"]: row for row in queries.costs(path, "key", 0.0)["rows"]}
    assert rows["anthropic"]["cost_usd"] == pytest.approx(0.0045)
    assert rows["openai#2"]["cost_usd"] == rows["openai#2"]["assumed_usd"] == pytest.approx(0.00025)
    assert (rows["anthropic"]["requests"], rows["openai#2"]["requests"]) == (1, 0)
    assert rows["anthropic"]["attempts"] == 2


def test_an_unknown_price_is_counted_and_never_0(tmp_path: Path) -> None:
    path = stored(tmp_path, [record("a", NOON), record("b", NOON, provider="local", price=None)])
    answer = queries.costs(path, "provider", 0.0)
    rows = {row["name"]: row for row in answer["rows"]}
    assert (rows["local"]["cost_usd"], rows["local"]["saved_usd"], rows["local"]["unpriced"]) == (
        None,
        None,
        1,
    )
    assert (answer["total"]["cost_usd"], answer["total"]["unpriced"]) == (pytest.approx(0.0045), 1)


def test_counting_tokens_is_no_request(tmp_path: Path) -> None:
    path = stored(
        tmp_path, [record("a", NOON), record("b", NOON, surface="count_tokens", usage=Usage(estimated=True))]
    )
    total = queries.costs(path, "model", 0.0)["total"]
    assert (total["requests"], total["estimated"], total["unpriced"]) == (1, 0, 0)


@pytest.mark.parametrize("by", ["model", "session", "day"])
def test_what_does_not_fit_is_summed(kept: tuple[str, list[RequestRecord]], by: str) -> None:
    path, _ = kept
    whole, part = queries.costs(path, by, 0.0), queries.costs(path, by, 0.0, 3)
    assert part["total"]["cost_usd"] == pytest.approx(whole["total"]["cost_usd"])
    kept_rows = whole["rows"][-3:] if by == "day" else whole["rows"][:3]
    assert [row["name"] for row in part["rows"]] == [row["name"] for row in kept_rows]
    assert part["rest"]["count"] == len(whole["rows"]) - 3
    assert (
        part["rest"]["requests"] + sum(row["requests"] for row in part["rows"]) == whole["total"]["requests"]
    )


def test_spent(kept: tuple[str, list[RequestRecord]]) -> None:
    path, records = kept
    since = NOON - 3 * 86400 - 99

    def expected(matches: Callable[[str, str, RequestRecord], bool]) -> Any:
        return pytest.approx(
            sum(
                attempt.cost_usd or 0.0
                for one in records
                if one.at >= since
                for attempt in one.attempts
                if matches(attempt.endpoint, attempt.model, one)
            )
        )

    assert queries.spent_usd(path, since) == expected(lambda endpoint, model, one: True)
    assert queries.spent_usd(path, since, {"provider": "openai", "project": ""}) == expected(
        lambda endpoint, model, one: endpoint == "openai"
    )
    assert queries.spent_usd(path, since, {"model": "claude-*", "request_class": "think"}) == expected(
        lambda endpoint, model, one: model.startswith("claude-") and one.request_class == "think"
    )
    assert queries.spent_usd(path, since, {"project": "nobody"}) == 0.0


def test_spent_by_session(kept: tuple[str, list[RequestRecord]]) -> None:
    path, records = kept
    since = NOON - 3 * 86400
    busy = {one.session for one in records if one.at >= since}
    whole: dict[str, float] = dict.fromkeys(busy, 0.0)
    narrow: dict[str, float] = defaultdict(float)
    for one in records:
        if one.session in busy:
            whole[one.session] += known_usd(one)
        if one.at >= since:
            narrow[one.session] += sum(a.cost_usd or 0 for a in one.attempts if a.endpoint == "openai")
    assert queries.spent_by_session(path, since) == pytest.approx(whole)
    found = queries.spent_by_session(path, since, {"provider": "openai"})
    assert found == pytest.approx({name: narrow[name] for name in found})
    assert sum(found.values()) == pytest.approx(sum(narrow.values()))


def test_sessions_youngest_first(kept: tuple[str, list[RequestRecord]]) -> None:
    path, records = kept
    found = queries.sessions(path, 5)
    last = {one.session: one.at for one in records}
    assert [row["session"] for row in found] == sorted(last, key=lambda name: -last[name])[:5]
    mine = [one for one in records if one.session == found[0]["session"]]
    assert (found[0]["first_at"], found[0]["last_at"]) == (mine[0].at, mine[-1].at)
    assert found[0]["requests"] == len(mine)
    assert queries.session(path, found[0]["session"]) == found[0]
    assert queries.session(path, "nobody") is None


def test_retention_keeps_the_totals_of_days(tmp_path: Path) -> None:
    records = many(1500, NOON, 12.0)
    path = stored(tmp_path, records)
    before = {
        by: queries.costs(path, by, 0.0) for by in ("provider", "model", "class", "project", "day", "key")
    }
    db = database.open_for_writing(path)
    deleted, steps = 0, 0
    while True:
        number, more = retention.step(db, NOON, 5)
        deleted, steps = deleted + number, steps + 1
        if not more:
            break
    limit = retention.horizon(NOON, 5)
    assert limit == local("2026-03-05 00:00")
    assert deleted == sum(one.at < limit for one in records) > 0
    assert retention.step(db, NOON, 5) == (0, False)
    for table in ("requests", "attempts", "hours", "sessions", "session_hours"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0
    assert db.execute("SELECT min(at) FROM requests").fetchone()[0] >= limit
    orphans = "SELECT count(*) FROM attempts WHERE request NOT IN (SELECT seq FROM requests)"
    assert db.execute(orphans).fetchone()[0] == 0
    db.close()
    for by, whole in before.items():
        after = queries.costs(path, by, 0.0)
        assert {r["name"]: r["requests"] for r in after["rows"]} == {
            r["name"]: r["requests"] for r in whole["rows"]
        }
        assert after["total"]["cost_usd"] == pytest.approx(whole["total"]["cost_usd"])
    late = queries.costs(path, "day", NOON - 86400 - 77)
    assert late["total"]["requests"] == sum(one.at >= NOON - 86400 - 77 for one in records)
    by_session = queries.costs(path, "session", 0.0)
    assert by_session["since"] == limit
    assert by_session["total"]["requests"] == sum(one.at >= limit for one in records)


def test_a_request_older_than_what_is_kept_still_counts_for_its_day(tmp_path: Path) -> None:
    path = stored(tmp_path, [record("new", NOON)])
    db = database.open_for_writing(path)
    while retention.step(db, NOON, 5)[1]:
        pass
    for id in ("old1", "old2"):
        _commit(db, [rows_of(record(id, NOON - 9 * 86400))])
        while retention.step(db, NOON, 5)[1]:
            pass
    db.close()
    answer = queries.costs(path, "day", 0.0)
    assert {row["name"]: row["requests"] for row in answer["rows"]} == {"2026-03-01": 2, "2026-03-10": 1}


def test_an_unknown_dimension_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by provider, model"):
        queries.costs(str(tmp_path / "usage.db"), "colour", 0.0)
    with pytest.raises(FileNotFoundError):
        queries.costs(str(tmp_path / "usage.db"), "model", 0.0)
    assert not (tmp_path / "usage.db").exists()
    (tmp_path / "usage.db").touch()
    with pytest.raises(FileNotFoundError, match="not yet opened"):
        queries.costs(str(tmp_path / "usage.db"), "model", 0.0)


def test_days_follow_the_local_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        first = local("2026-03-10 23:59")
        path = stored(tmp_path, [record("a", first), record("b", first + 61)])
        rows = queries.costs(path, "day", local("2026-03-10 00:00"))["rows"]
        assert [(row["name"], row["requests"]) for row in rows] == [("2026-03-10", 1), ("2026-03-11", 1)]
        assert queries.spent_usd(path, local("2026-03-11 00:00")) == pytest.approx(0.0045)
    finally:
        monkeypatch.undo()
        time.tzset()
