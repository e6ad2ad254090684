"""Gates 1-3: recorded answers, conversations and Claude Code requests, judged by the shared `gate.py`.

The judge runs as a process of its own and starts ccm itself; here its report becomes rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fidelity import places
from tests.fidelity.table import Ledger, Row

NAMES = {1: "responses", 2: "chains", 3: "requests"}
_SHOWN = {"chains": "conversations"}
VARIANTS = "frag1,frag7,crlf,cut"


def launcher(directory: Path) -> Path:
    """A command that is ccm of this checkout, whatever is installed."""
    path = directory / "ccm"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{places.REPO}" exec "{sys.executable}" -m ccm "$@"\n')
    path.chmod(0o755)
    return path


def run(
    gates: Sequence[int],
    *,
    cuts: int = 40,
    variants: str = VARIANTS,
    flip: str = "all",
    limit: int = 0,
    seed: int = 1,
    timeout_s: float = 480.0,
) -> list[Row]:
    """The rows of these gates (1, 2, 3). RuntimeError when the judge itself could not work."""
    with tempfile.TemporaryDirectory(prefix="ccm-fidelity-") as scratch:
        report = Path(scratch) / "report.json"
        command = [
            sys.executable, str(places.shared() / "tools/gate.py"), "--corpus", str(places.corpus()),
            "--shared", str(places.shared()), "--ccm", str(launcher(Path(scratch))), "--json", str(report),
            "--only", ",".join(NAMES[g] for g in gates), "--variants", variants or "none", "--flip", flip,
            "--cuts", str(cuts), "--limit", str(limit), "--seed", str(seed), "--floor", "0",
        ]  # fmt: skip
        env = {k: v for k, v in os.environ.items() if not k.startswith("CCM_") or k == "CCM_SHARED"}
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        if done.returncode or not report.is_file():
            raise RuntimeError(
                f"gate.py ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
            )
        return rows(json.loads(report.read_text()))


def rows(report: dict[str, Any]) -> list[Row]:
    """The judge's results, case by case."""
    ledger = Ledger()
    for case in report["results"]:
        gate = _SHOWN.get(case["gate"], case["gate"])
        why = None if case["verdict"] == "right" else f"[{case['verdict']}] {case['reason']}"
        ledger.row(gate, case["dialect"], case["provider"]).note(case["id"], why)
    return ledger.rows
