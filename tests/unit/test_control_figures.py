"""What the control room tells of usage: periods, CSV, and answers where there is nothing to tell."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ccm.control import api, figures
from ccm.errors import ControlError
from ccm.usage import database
from ccm.usage.rows import rows_of
from ccm.usage.store import Store, _commit
from tests.conftest import FakeCore
from tests.spending import many, record


class Meter:
    def __init__(self, store: Store | None) -> None:
        self.store = store


@pytest.fixture
def core(tmp_path: Path) -> Any:
    path = str(tmp_path / "usage.db")
    db = database.open_for_writing(path)
    _commit(db, [rows_of(one) for one in many(300, time.time(), 6.0)])
    _commit(db, [rows_of(record("formula", time.time() - 5, project="=cmd()", session="evil"))])
    db.close()
    core: Any = FakeCore()
    core.meter = Meter(Store(path, 90, lambda text: None))
    return core


def ask(core: Any, path: str, **args: str) -> Any:
    reply = api.call(core, "GET", path, args)
    assert reply.status == 200, reply.body
    return json.loads(reply.body) if reply.content_type == "application/json" else reply.body.decode()


def test_costs_are_a_week_by_provider(core: Any) -> None:
    answer = ask(core, "/costs")
    assert answer["by"] == "provider"
    assert answer["until"] - answer["since"] == pytest.approx(7 * 86400, abs=5)
    assert {row["name"] for row in answer["rows"]} == {"anthropic", "openai", "local"}
    assert answer["total"]["requests"] == 301


@pytest.mark.parametrize("since", ["1h", "36h", "today", "all", "2026-01-31", "90"])
def test_periods(core: Any, since: str) -> None:
    now = time.time()
    told = ask(core, "/costs", since=since)["since"]
    expected = {"1h": now - 3600, "36h": now - 36 * 3600, "all": 0.0, "90": now - 90}
    if since in expected:
        assert told == pytest.approx(expected[since], abs=5)
    else:
        assert time.localtime(told)[3:6] == (0, 0, 0)
        assert time.strftime("%Y-%m-%d", time.localtime(told)) == (
            time.strftime("%Y-%m-%d", time.localtime(now)) if since == "today" else since
        )


@pytest.mark.parametrize("since", ["yesterweek", "2026-13-40", "-5d", "1e9d"])
def test_what_is_no_period_is_refused(core: Any, since: str) -> None:
    reply = api.call(core, "GET", "/costs", {"since": since})
    assert reply.status == 400
    assert "2026-11-22" in json.loads(reply.body)["error"]


def test_an_unknown_dimension_names_the_known_ones(core: Any) -> None:
    reply = api.call(core, "GET", "/costs", {"by": "colour"})
    assert (reply.status, b"provider, model, class" in reply.body) == (400, True)


def test_csv_has_every_row_and_is_safe_in_a_spreadsheet(core: Any) -> None:
    text = ask(core, "/costs.csv", by="project")
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0][:2] == ["project", "requests"]
    assert {line[0] for line in lines[1:]} == {"", "alpha", "beta", "'=cmd()", "total"}
    assert all(len(line) == len(lines[0]) for line in lines)
    assert ask(core, "/costs", by="project", csv="true")["csv"].splitlines() == text.splitlines()
    unknown = next(line for line in csv.reader(io.StringIO(ask(core, "/costs.csv"))) if line[0] == "local")
    assert unknown[lines[0].index("cost_usd")] == ""


def test_usage_is_by_day_and_says_how_the_store_is(core: Any) -> None:
    answer = ask(core, "/usage")
    assert answer["by"] == "day"
    assert answer["store"]["path"] == core.meter.store.path
    assert [row["name"] for row in answer["rows"]] == sorted(row["name"] for row in answer["rows"])


def test_sessions(core: Any) -> None:
    assert [row["session"] for row in ask(core, "/sessions", limit="1")["sessions"]] == ["evil"]
    assert len(ask(core, "/sessions", limit="9999")["sessions"]) <= figures.MAX_ROWS


def test_where_nothing_is_kept(core: Any, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no usage is kept yet"):
        figures.costs_of(str(tmp_path / "none.db"), {})
    (tmp_path / "bad.db").write_text("nonsense" * 1000)
    with pytest.raises(ControlError, match="cannot be read"):
        figures.costs_of(str(tmp_path / "bad.db"), {})
    core.meter = Meter(None)
    assert api.call(core, "GET", "/costs", {}).status == 404
