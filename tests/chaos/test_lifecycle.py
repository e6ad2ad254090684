"""The life of the process under load, in its short form: no request and no ccmctl fails."""

from __future__ import annotations

import pytest

from tests.chaos.chaos import table
from tests.chaos.lifecycle import SCENARIOS, SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_nobody_notices(name: str) -> None:
    result = SCENARIOS[name](SHORT)
    assert not result.broken, table([result])
