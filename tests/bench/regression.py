"""Has ccm become slower? Ratios to nginx in the same run against the committed ones; never an absolute time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.bench.goals import GOALS, Line

BASELINE = Path(__file__).with_name("baseline.json")
KEYS = ("tiny.cpu", "big.cpu", "rps.tiny", "rps.big", "pace64.cpu", "pace256.delivered")
# CPU per request against nginx's is steady within about 15 % on a machine shared with others; rates are not.
ALLOWED = {"tiny.cpu": 1.3, "big.cpu": 1.3, "rps.tiny": 1.5, "rps.big": 1.5, "pace64.cpu": 1.4, "pace256.delivered": 1.05}  # fmt: skip


def load() -> dict[str, float]:
    """key -> committed ratio."""
    data = json.loads(BASELINE.read_text())
    return {key: float(value) for key, value in data["ratios"].items()}


def save(found: Sequence[Line], machine: str) -> None:
    """Makes these results the baseline."""
    ratios = {line.goal.key: round(line.median, 4) for line in found if line.goal.key in KEYS}
    BASELINE.write_text(json.dumps({"machine": machine, "ratios": ratios}, indent=2) + "\n")


def compare(found: Sequence[Line], baseline: dict[str, float]) -> list[str]:
    """What is worse than the baseline allows, in words."""
    most = {goal.key: goal.most for goal in GOALS}
    worse = []
    for line in found:
        key = line.goal.key
        if key not in baseline or key not in ALLOWED:
            continue
        before, limit = baseline[key], ALLOWED[key]
        slower = line.median / before if most[key] else before / max(line.median, 1e-9)
        if slower > limit:
            worse.append(
                f"{line.goal.what}: {line.median:.3g}, was {before:.3g} ({slower:.2f} times worse, {limit} allowed)"
            )
    return worse
