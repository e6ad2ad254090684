"""The client's wish for thinking, in all its forms, as one word."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.reasoning import budget_of, effort_of, nearest, wants_thinking


@pytest.mark.parametrize(
    ("request_", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "off"),
        ({"thinking": {"type": "adaptive"}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "medium"),
        ({"output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"output_config": {"effort": "strange"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 4095}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high"),
        ({"thinking": {"type": "enabled"}}, "high"),
        ({"output_config": {"effort": "low"}, "messages": [{"role": "system", "output_config": {"effort": "max"}}, {"role": "user"}]}, "max"),
    ],
)  # fmt: skip
def test_effort(request_: dict[str, Any], effort: str | None) -> None:
    assert effort_of(request_) == effort


def test_budget() -> None:
    assert budget_of({}) is None
    assert budget_of({"thinking": {"type": "disabled"}}) == 0
    assert budget_of({"thinking": {"type": "enabled", "budget_tokens": 5000}}, 4000) == 4000
    assert budget_of({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}) == 8192


def test_nearest_level() -> None:
    assert nearest("xhigh", ("low", "medium", "high")) == "high"
    assert nearest("low", ("medium", "high")) == "medium"
    assert nearest("medium", ("none", "high")) == "high"
    assert nearest("max", ()) == "max"


def test_an_effort_alone_is_no_wish_to_think() -> None:
    assert not wants_thinking({"output_config": {"effort": "high"}})
    assert not wants_thinking({"thinking": {"type": "disabled"}})
    assert wants_thinking({"thinking": {"type": "adaptive"}})
