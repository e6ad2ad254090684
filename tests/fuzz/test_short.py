"""Every fuzz target for a moment: the kept inputs, and five hundred random ones, always the same. `scripts/fuzz` is the
long form, guided by coverage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import CORPUS, Findings, plainly
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_unexpected_comes_out(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    findings = Findings(name, tmp_path)
    plainly(findings, 500, 0)
    assert not findings.found, capfd.readouterr().err
    assert findings.runs > 500


def test_every_kept_input_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= TARGETS.keys()


def test_a_finding_is_noted_once_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def stumble(data: bytes) -> None:
        raise KeyError(data)

    findings = Findings("sse", tmp_path)
    findings.target = stumble
    findings(b"abc")
    findings(b"a")
    findings(b"abcd")
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"a" and len(findings.found) == 1
    assert "KeyError" in capfd.readouterr().err
