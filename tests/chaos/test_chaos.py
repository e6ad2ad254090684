"""The scenarios of scripts/chaos in a shorter form: every promise is kept."""

from __future__ import annotations

import pytest

from tests.chaos.chaos import table
from tests.chaos.suite import SCENARIOS, SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_promises_are_kept(name: str) -> None:
    result = SCENARIOS[name](SHORT)
    assert not result.broken, f"seed {SHORT.seed}\n{table([result])}"
