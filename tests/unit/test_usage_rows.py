"""Requests as rows: storable whatever a client or provider says, and in the order of the columns."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord
from ccm.usage import schema
from ccm.usage.rows import MAX_NAME, hour_of, rows_of
from tests.spending import CHEAP, local, record


def named(made: RequestRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    request, plain, partial = rows_of(made)
    columns = schema.ATTEMPT_COLUMNS[1:]
    attempts = [dict(zip(columns, row, strict=False)) for row in (*plain, *partial)]
    return dict(zip(schema.REQUEST_COLUMNS[1:], request, strict=True)), attempts


def test_a_plain_request() -> None:
    at = local("2026-03-10 10:30")
    request, attempts = named(record("r1", at, project="p", usage=Usage(1, 2, 3, 4, 5, 6, 7, 8)))
    assert (request["id"], request["at"], request["hour"]) == ("r1", at, local("2026-03-10 10:00"))
    assert [request[name] for name in schema.TOKENS] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (request["provider"], request["endpoint"], request["project"], request["attempts"]) == (
        "anthropic", "anthropic", "p", 1,
    )  # fmt: skip
    assert request["cost_usd"] == request["answer_cost_usd"] == pytest.approx(121.5e-6, rel=0.5)
    assert (attempts[0]["n"], attempts[0]["result"], attempts[0]["cost_usd"]) == (
        0,
        "200",
        request["cost_usd"],
    )
    assert "partial" not in attempts[0]


def test_what_a_cut_attempt_cost_stands_in_its_own_row() -> None:
    cut = Attempt(
        "openai#2", "gpt", "cancelled", 1.0, usage=Usage(input=1000), assumed_billed=True, price=CHEAP
    )
    made = record("r", 0.0, attempts=[cut, Attempt("anthropic", "claude-sonnet-4-5", "200", 1.0)])
    request, attempts = named(made)
    own = next(row for row in attempts if row.get("partial"))
    assert (own["provider"], own["endpoint"], own["input"], own["assumed_billed"]) == (
        "openai",
        "openai#2",
        1000,
        True,
    )
    assert request["answer_cost_usd"] == pytest.approx(0.0045)
    assert request["cost_usd"] == pytest.approx(0.0045 + 0.00025)
    assert request["input"] == 1000  # the answer's own


def test_names_are_cut_and_made_valid_unicode() -> None:
    request, _ = named(record("r", 0.0, session="x" * 5000, project="a\ud800b"))
    assert request["session"] == "x" * MAX_NAME
    assert request["project"] == "a?b"


def test_figures_beyond_all_reason_are_bounded() -> None:
    made = record("r", 0.0, usage=Usage(input=10**30, output=-5), first_content_s=float("nan"))
    made.cost_usd = float("inf")
    request, _ = named(made)
    assert (request["input"], request["output"], request["first_content_s"]) == (2**53, 0, None)
    assert request["cost_usd"] is None


def test_nothing_of_what_was_said_is_kept() -> None:
    secret = "the text of an error may quote the request"
    made = record("r", 0.0, attempts=[Attempt("a", "m", "400", 1.0, secret)], error=secret, route=secret)
    assert secret not in repr(rows_of(made))


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
def test_hours_are_those_of_the_local_clock(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        hour_of.__globals__["_begins"].cache_clear()
        for at in (1_700_000_000.0, 1_759_588_199.5, 1_759_588_200.0, 1_775_314_800.25):
            hour = hour_of(at)
            assert 0 <= at - hour < 3600
            assert (
                time.localtime(hour).tm_min == 0 or at == 1_775_314_800.25
            )  # clocks change by half an hour there
            assert time.localtime(hour)[:3] == time.localtime(at)[:3]
    finally:
        monkeypatch.undo()
        time.tzset()
        hour_of.__globals__["_begins"].cache_clear()
