"""Costs, usage and sessions as people see them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ccm.cli import ctl, figures, figures_views
from ccm.cli.render import Screen
from ccm.control.figures import costs_of, sessions_of, usage_of
from ccm.usage import database
from ccm.usage.rows import rows_of
from ccm.usage.store import _commit
from tests.spending import many, record

PIPE = Screen()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("figures") / "usage.db")
    db = database.open_for_writing(name)
    _commit(db, [rows_of(one) for one in many(300, time.time(), 6.0)])
    db.close()
    return name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"), (0.0, "$0.00"), (12.345, "$12.35"), (1234.5, "$1,234"), (999.99, "$999.99"), (0.1, "$0.10"),
        (0.0042, "$0.0042"), (0.01234, "$0.012"), (0.000000001, "$0.00"), (-3.5, "-$3.50"), (0.0999, "$0.10"),
        (0.00999, "$0.0100"),
    ],
)  # fmt: skip
def test_money(value: float | None, text: str) -> None:
    assert figures_views.usd(value) == text


@pytest.mark.parametrize(
    ("part", "most", "text"),
    [
        (1.0, 1.0, "████"),
        (0.5, 1.0, "██"),
        (0.001, 1.0, "▏"),
        (0.0, 1.0, ""),
        (1.0, 0.0, ""),
        (5.0, 1.0, "████"),
    ],
)
def test_bars(part: float, most: float, text: str) -> None:
    assert figures_views.bar(part, most, 4) == text


def test_costs_on_a_terminal_have_bars_where_they_fit(path: str) -> None:
    answer = costs_of(path, {})
    wide, narrow = (
        figures_views.costs(answer, Screen(140, True)),
        figures_views.costs(answer, Screen(60, False)),
    )
    assert "█" in wide and "█" not in narrow and "█" not in figures_views.costs(answer, PIPE)
    assert "\x1b[" in wide and "\x1b[" not in narrow
    assert max(len(line) for line in narrow.split("\n\n")[1].splitlines()) <= 60


def test_unknown_costs_are_told_as_unknown(path: str) -> None:
    answer = costs_of(path, {})
    text = figures_views.costs(answer, PIPE)
    local = next(line for line in text.splitlines() if line.startswith("local"))
    assert "unknown" in local and "$0" not in local
    assert f"+{answer['total']['unpriced']} unpriced requests" in text
    assert "assumed" in text


def test_one_unpriced_request_is_one(tmp_path: Path) -> None:
    name = str(tmp_path / "usage.db")
    db = database.open_for_writing(name)
    _commit(db, [rows_of(record("a", time.time(), price=None))])
    db.close()
    text = figures_views.costs(costs_of(name, {}), PIPE)
    assert "+1 unpriced request: " in text
    assert "total" not in text


def test_rows_add_up_to_the_total(path: str) -> None:
    text = figures_views.costs(costs_of(path, {"by": "model"}), PIPE)
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()[3:] if line.strip()]
    assert sum(int(row[1]) for row in rows[:4]) == 300
    assert rows[4][:2] == ["total", "300"]


def test_usage(path: str) -> None:
    store = {
        "rows": 300,
        "path": path,
        "size_bytes": 4_560_000,
        "dropped": 3,
        "problem": "usage cannot be kept",
    }
    text = figures_views.usage({**usage_of(path, {}), "store": store}, PIPE)
    assert re.search(r"^\d{4}-\d\d-\d\d ", text, re.M)
    assert re.search(r" 9\d% ", text)
    assert f"300 requests in {path} (4.56MB), 3 dropped\nusage cannot be kept" in text


def test_sessions(path: str) -> None:
    answer = sessions_of(path, {"limit": 3})
    text = figures_views.sessions(answer, PIPE)
    assert [line.split()[0] for line in text.splitlines()] == [
        "SESSION",
        *(row["session"] for row in answer["sessions"]),
    ]
    assert figures_views.sessions({"sessions": []}, PIPE) == "no session is known yet"


def test_nothing_yet(path: str) -> None:
    answer = costs_of(path, {"since": "1s"})
    assert figures_views.costs(answer, PIPE).startswith("nothing was used since 20")
    assert figures_views.usage(usage_of(path, {"since": "1s"}), PIPE).startswith("nothing was used since 20")


def test_a_terminal_is_not_flooded(tmp_path: Path) -> None:
    name = str(tmp_path / "usage.db")
    db = database.open_for_writing(name)
    _commit(db, [rows_of(record(f"r{n}", time.time(), session=f"s{n:03}")) for n in range(100)])
    db.close()
    answer = costs_of(name, {"by": "session"})
    shown = figures_views.costs(answer, Screen(100, False))
    assert len(re.findall(r"^s\d\d\d ", shown, re.M)) == 60
    assert "40 more with $0.18" in shown
    assert len(re.findall(r"^s\d\d\d ", figures_views.costs(answer, PIPE), re.M)) == 100


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = ctl.run(argv)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_database_answers_where_no_ccm_runs(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CCM_CONFIG", raising=False)
    monkeypatch.delenv("WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    nowhere = ("--socket", str(tmp_path / "no.sock"))
    code, out, err = run(capsys, "costs", *nowhere)
    assert (code, out) == (3, "") and "ccm is not running" in err
    (tmp_path / ".claude-code-mux").mkdir()
    (tmp_path / ".claude-code-mux" / "usage.db").write_bytes(Path(path).read_bytes())
    code, out, err = run(capsys, "costs", *nowhere)
    assert (code, err) == (0, "") and "anthropic" in out
    code, out, err = run(capsys, "costs", "--by", "model", "--since", "nonsense", *nowhere)
    assert code == 1 and "nonsense" in err


@pytest.mark.parametrize("word", ["costs", "usage", "sessions"])
def test_a_database_can_be_named(word: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, word, "--database", path, "--json")
    answer: Any = json.loads(out)
    assert (code, err) == (0, "")
    assert answer["sessions"] if word == "sessions" else answer["total"]["requests"] == 300


def test_csv_is_csv_alone(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "costs", "--database", path, "--csv", "--by", "day")
    assert (code, out.splitlines()[0].split(",")[:2]) == (0, ["day", "requests"])
    assert len({line.count(",") for line in out.splitlines()}) == 1
    with pytest.raises(SystemExit):
        ctl.run(["costs", "--csv", "--json"])


def test_the_configuration_says_where_the_database_is(tmp_path: Path) -> None:
    config = tmp_path / "ccm-config.toml"
    environ = {"HOME": str(tmp_path), "CCM_CONFIG": str(config)}
    config.write_text('[usage]\nfile = "figures/u.db"\n')
    assert figures.database_path(environ) == str(tmp_path / "figures" / "u.db")
    config.write_text('[usage]\nfile = "~/u.db"\n')
    assert figures.database_path(environ) == str(tmp_path / "u.db")
    for text in ("", "[usage]\n", "[usage]\nfile = 3\n", "not TOML ="):
        config.write_text(text)
        assert figures.database_path(environ).endswith("/.claude-code-mux/usage.db")
    config.unlink()
    assert figures.database_path(environ).endswith("/.claude-code-mux/usage.db")
