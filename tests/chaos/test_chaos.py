"""The scenarios of scripts/chaos in a shorter form: every promise is kept."""

from __future__ import annotations

import os

import pytest

from tests.chaos.chaos import table
from tests.chaos.suite import SCENARIOS, SHORT

# What takes long even in short is left to `scripts/chaos --short`, which runs all of them.
_IN_SUITE = ("mixed", "outage", "black-hole", "flapping", "leaving", "cuts", "kills", "log-pipe")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCENARIOS] if os.environ.get("CCM_LONG") else _IN_SUITE)
def test_promises_are_kept(name: str) -> None:
    result = SCENARIOS[name](SHORT)
    assert not result.broken, f"seed {SHORT.seed}\n{table([result])}"
    skipped = dict(result.lines).get("skipped", "")
    if "recorded" in skipped and os.environ.get("CI") == "true":
        pytest.fail(skipped)
    if skipped:
        pytest.skip(skipped)
