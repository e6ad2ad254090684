"""Names of models, as clients write them and as providers want them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ccm.model import Provider
from ccm.routing import rules

TIERS = {"opus": "gpt-5.6", "sonnet": "gpt-5.6-terra", "haiku": "gpt-5.6-luna", "default": "gpt-5.6-terra"}
CLAUDES = {"opus": "claude-opus-5-5", "sonnet": "claude-sonnet-5-5", "default": "claude-sonnet-5-5"}
SLUGS = {
    "opus": "anthropic/claude-opus-5.5",
    "sonnet": "anthropic/claude-sonnet-5.5",
    "default": "anthropic/claude-sonnet-5.5",
}


def provider(type: str = "openai", dialect: str = "openai_chat", **more: object) -> Provider:
    return Provider(str(more.pop("name", type)), type, dialect, "https://x", **more)  # type: ignore[arg-type]


OPENAI = provider(tiers=TIERS)
ANTHROPIC = provider("anthropic", "anthropic", tiers=CLAUDES)
OPENROUTER = provider("openrouter", "anthropic", tiers=SLUGS)


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("claude-3-5-sonnet-20241022", "sonnet"),
        ("claude-opus-5-5", "opus"),
        ("claude-opus-5-5[1m]", "opus"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "haiku"),
        ("claude-opus-4@20250514", "opus"),
        ("anthropic/claude-sonnet-4.5", "sonnet"),
        ("Claude-Fable-5-1", "fable"),
        ("claude-3-haiku-20240307", "haiku"),
        ("claude-instant-1.2", "haiku"),
        ("claude-2.1", ""),
        ("claude-next", ""),
        ("opusplan", "opus"),
        ("sonnet", "sonnet"),
        ("SONNET[1m]", "sonnet"),
        ("default", ""),
        ("gpt-5.2", ""),
        ("magnum-opus-70b", ""),
        ("opus-claude", ""),
    ],
)
def test_tier_of(name: str, tier: str) -> None:
    assert rules.tier_of(name) == tier


@pytest.mark.parametrize(
    ("name", "providers", "listed", "expected"),
    [
        ("openai/gpt-5", {"openai"}, (), ("openai", "gpt-5")),
        ("openai,gpt-5[1m]", {"openai"}, (), ("openai", "gpt-5")),
        ("openai/gpt-5", {"openrouter"}, (), ("", "openai/gpt-5")),
        ("openrouter/openai/gpt-5", {"openrouter", "openai"}, (), ("openrouter", "openai/gpt-5")),
        ("openrouter,openai/gpt-5", {"openrouter", "openai"}, (), ("openrouter", "openai/gpt-5")),
        ("openai/gpt-5", {"openai"}, ("openai/gpt-5",), ("", "openai/gpt-5")),
        ("openai/", {"openai"}, (), ("", "openai/")),
        ("claude-opus-5-5[1m]", {"openai"}, (), ("", "claude-opus-5-5")),
    ],
)
def test_split_model(
    name: str, providers: set[str], listed: tuple[str, ...], expected: tuple[str, str]
) -> None:
    assert rules.split_model(name, providers, listed) == expected


@pytest.mark.parametrize(
    ("who", "asked", "expected"),
    [
        (OPENAI, "claude-opus-5-5", "gpt-5.6"),
        (OPENAI, "claude-3-5-haiku-20241022", "gpt-5.6-luna"),
        (OPENAI, "claude-fable-5-1", "gpt-5.6-terra"),
        (OPENAI, "claude-next", "gpt-5.6-terra"),
        (OPENAI, "default", "gpt-5.6-terra"),
        (OPENAI, "gpt-5.2", "gpt-5.2"),
        (OPENAI, "o9-mini", "o9-mini"),
        (ANTHROPIC, "claude-opus-4-1", "claude-opus-4-1"),
        (ANTHROPIC, "claude-opus-5-5[1m]", "claude-opus-5-5"),
        (ANTHROPIC, "sonnet", "claude-sonnet-5-5"),
        (ANTHROPIC, "claude-opus-4.6", "claude-opus-5-5"),
        (ANTHROPIC, "anthropic/claude-opus-4.6", "claude-opus-5-5"),
        (OPENROUTER, "claude-opus-5-5", "anthropic/claude-opus-5.5"),
        (OPENROUTER, "anthropic/claude-sonnet-4.5", "anthropic/claude-sonnet-4.5"),
        (OPENROUTER, "openai/gpt-5", "openai/gpt-5"),
        (provider("bedrock", "bedrock", tiers={"default": "global.anthropic.claude-x-v1:0"}),
         "us.anthropic.claude-opus-4-1-v1:0", "us.anthropic.claude-opus-4-1-v1:0"),
        (provider("custom", tiers={}), "claude-opus-5-5", "claude-opus-5-5"),
        (provider("custom", models={"opus": "big"}), "claude-haiku-5-5", "big"),
        (provider("custom", models={"claude-op*": "big"}), "claude-haiku-5-5", "big"),
        (provider("custom", "anthropic", models={"opus": "big"}), "claude-haiku-5-5", "claude-haiku-5-5"),
        (provider("x", tiers={"haiku": "small"}), "claude-opus-5-5", "small"),
    ],
)  # fmt: skip
def test_model_for(who: Provider, asked: str, expected: str) -> None:
    assert rules.model_for(who, asked) == expected


def test_the_users_own_table_comes_before_the_catalogue_exact_then_tier_then_glob() -> None:
    models = {"claude-*": "by-glob", "gpt-?": "five", "sonnet": "by-tier", "claude-opus-4-1": "exact"}
    own = provider(tiers=TIERS, models=models)
    found = [
        rules.model_for(own, name)
        for name in ("claude-opus-4-1", "claude-sonnet-5-5", "claude-haiku-5", "gpt-5")
    ]
    assert found == ["exact", "by-tier", "by-glob", "five"]


def test_one_million_suffixes_are_ignored_in_tables() -> None:
    """R26."""
    own = provider(tiers=TIERS, models={"claude-sonnet-5[1m]": "wide", "claude-opus-5": "o"})
    assert rules.model_for(own, "claude-sonnet-5") == "wide"
    assert rules.model_for(own, "claude-opus-5-1m") == "o"


def test_the_models_mapping_comes_before_everything() -> None:
    own = provider(tiers=TIERS, models={"haiku": "mine"})
    mapping: dict[str, str | Mapping[str, str]] = {
        "claude-haiku-*": {"openai": "tiny", "groq": "g"},
        "claude-opus-*": "sonnet",
        "*": "never",
    }
    assert rules.model_for(own, "claude-haiku-5-5", mapping) == "tiny"
    assert rules.model_for(own, "claude-opus-5-5", mapping) == "gpt-5.6-terra"
    assert rules.restricted("claude-haiku-5-5", mapping) == {"openai": "tiny", "groq": "g"}
    assert rules.restricted("claude-opus-5-5", mapping) is None
    assert rules.renamed("claude-opus-5-5", mapping) == "sonnet"
    assert rules.renamed("claude-haiku-5-5", mapping) == "claude-haiku-5-5"


def test_first_match_in_file_order_wins() -> None:
    assert rules.find_entry("claude-opus-5-5", {"opus": 1, "claude-opus-5-5": 2}) == 1
    assert rules.find_entry("claude-opus-5-5", {"claude-?pus*": 1, "opus": 2}) == 1
    assert rules.find_entry("gpt-5", {"opus": 1}) is None


@pytest.mark.parametrize(
    ("who", "model", "expected"),
    [
        (OPENAI, "gpt-5.2", True),
        (OPENAI, "gemini-3-pro", False),
        (OPENAI, "openai/gpt-5", False),
        (OPENROUTER, "openai/gpt-5", True),
        (OPENROUTER, "gpt-5", False),
        (provider("custom"), "anything", True),
        (provider("x", tiers={"default": "a-1"}, models={"my-*": "b"}), "my-small", True),
    ],
)
def test_speaks(who: Provider, model: str, expected: bool) -> None:
    assert rules.speaks(who, model) is expected


def test_stand_in() -> None:
    """R27: every Claude name resolves, also where a provider does not speak it."""
    assert rules.stand_in(OPENAI) == "gpt-5.6-terra"
    assert rules.stand_in(provider("x", tiers={"haiku": "h", "opus": "o"})) == "o"
    assert rules.stand_in(provider("x")) == ""
