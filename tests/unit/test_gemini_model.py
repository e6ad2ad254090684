"""What a model's name says, thinking and output limits."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.gemini.model import generation, output_tokens, state_family, thinking_config
from ccm.model import ModelFacts


@pytest.mark.parametrize(
    ("model", "version", "kind", "thinking"),
    [
        ("gemini-2.0-flash", (2, 0), "flash", ""),
        ("gemini-2.5-flash-lite", (2, 5), "flash-lite", "budget"),
        ("models/gemini-2.5-pro", (2, 5), "pro", "budget"),
        ("gemini-3-pro-preview", (3, 0), "pro", "level"),
        ("gemini-3.8-flash", (3, 8), "flash", "level"),
        ("gemini-4-argon", (4, 0), "", "level"),
        ("gemini-flash-latest", (3, 0), "flash", "level"),
        ("gemini-2.5-flash-image", (2, 5), "flash", ""),
        ("gemma-3-27b-it", None, "", ""),
        ("claude-sonnet-4-5", None, "", ""),
    ],
)
def test_generation(model: str, version: tuple[int, int] | None, kind: str, thinking: str) -> None:
    gen = generation(model, ModelFacts(model))
    assert (gen.version, gen.kind, gen.thinking) == (version, kind, thinking)


def test_the_catalogue_goes_first() -> None:
    assert generation("my-tune", ModelFacts("my-tune", known=True, thinking="level")).thinking == "level"
    assert generation("gemini-2.5-pro", ModelFacts("x", known=True, thinking="")).thinking == ""
    assert generation("gemini-2.5-pro", ModelFacts("x", output_cap=123)).cap == 123
    assert generation("gemini-2.0-flash", ModelFacts("x")).cap == 8192


@pytest.mark.parametrize(
    ("model", "request_", "config"),
    [
        ("gemini-2.5-pro", {"thinking": {"type": "adaptive"}}, {"thinkingBudget": -1, "includeThoughts": True}),
        ("gemini-2.5-pro", {"thinking": {"type": "enabled", "budget_tokens": 99999}},
         {"thinkingBudget": 32768, "includeThoughts": True}),
        ("gemini-2.5-flash", {"thinking": {"type": "enabled", "budget_tokens": 31999}},
         {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
         {"thinkingBudget": 2048, "includeThoughts": True}),
        ("gemini-2.5-flash", {"thinking": {"type": "disabled"}}, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", {"thinking": {"type": "disabled"}}, {"thinkingBudget": 128}),
        ("gemini-3.1-pro-preview", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
         {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3-pro-preview", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}},
         {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3.8-flash", {"thinking": {"type": "disabled"}}, {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", {"thinking": {"type": "disabled"}}, {"thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", {"output_config": {"effort": "medium"}}, {"thinkingLevel": "MEDIUM"}),
        ("gemini-3.8-flash", {"thinking": {"type": "adaptive", "display": "omitted"}},
         {"thinkingLevel": "HIGH", "includeThoughts": False}),
        ("gemini-3.8-flash", {}, None),
        ("gemini-2.0-flash", {"thinking": {"type": "adaptive"}}, None),
    ],
)  # fmt: skip
def test_thinking(model: str, request_: dict[str, Any], config: dict[str, Any] | None) -> None:
    facts = ModelFacts(model)
    assert thinking_config(request_, generation(model, facts), facts) == config


def test_levels_of_the_catalogue_bound_the_effort() -> None:
    facts = ModelFacts("gemini-9", known=True, thinking="level", efforts=("low", "medium"))
    request = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}
    assert thinking_config(request, generation("gemini-9", facts), facts) == {
        "thinkingLevel": "MEDIUM",
        "includeThoughts": True,
    }


@pytest.mark.parametrize(
    ("model", "request_", "tokens"),
    [
        ("gemini-2.5-pro", {"max_tokens": 128000, "thinking": {"type": "adaptive"}}, 65536),
        ("gemini-2.5-pro", {"max_tokens": 3000, "thinking": {"type": "adaptive"}}, 3000),
        ("gemini-2.5-flash", {"max_tokens": 64, "thinking": {"type": "disabled"}}, 64),
        ("gemini-2.5-pro", {"max_tokens": 64, "thinking": {"type": "disabled"}}, 64 + 1024),
        ("gemini-3.1-pro-preview", {"max_tokens": 64, "thinking": {"type": "disabled"}}, 64 + 2048),
        ("gemini-3.8-flash", {"max_tokens": 64}, 64 + 4096),
        ("gemini-2.0-flash", {"max_tokens": 64}, 64),
        ("gemini-2.0-flash", {}, None),
    ],
)
def test_output_tokens(model: str, request_: dict[str, Any], tokens: int | None) -> None:
    facts = ModelFacts(model)
    gen = generation(model, facts)
    assert output_tokens(request_, gen, thinking_config(request_, gen, facts)) == tokens


def test_signatures_belong_to_a_generation() -> None:
    facts = ModelFacts("x")
    assert state_family("gemini-3-pro-preview", facts) == state_family("gemini-3.8-flash", facts)
    assert state_family("gemini-3-pro-preview", facts) != state_family("gemini-2.5-pro", facts)
    assert state_family("tuned/foo", facts) == "foo"
