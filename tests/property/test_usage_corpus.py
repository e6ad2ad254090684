"""Over the whole recorded corpus: usage equal to what the official SDKs read, cost equal to what genai-prices computes.

Two comparisons of cost. At ccm's own list prices, genai-prices' reader and calculator must come to the same: that is
arithmetic. At genai-prices' own list prices the two lists are compared too, and every item where they differ stands in
LISTS_DIFFER with the reason.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests import pricing

WITHIN = 0.001
ALIAS = "genai-prices lists these names at V3's price of 2025 (0.27/1.10, 0.55/2.19); both have cost 0.28/0.42 since V3.2"
GROK = "ccm follows LiteLLM 1.106.2 (1.00/2.00), genai-prices and OpenRouter say 0.20/1.50"
LISTS_DIFFER = {
    "openai-chat/deepseek-001": ALIAS, "openai-chat/deepseek-005": ALIAS, "openai-chat/deepseek-014": ALIAS,
    "openai-chat/deepseek-015": ALIAS, "openai-chat/deepseek-017": ALIAS, "openai-chat/deepseek-v07": ALIAS,
    "openai-responses/xai-v02": GROK,
}  # fmt: skip
# What OpenRouter says it charged goes before any list: a plug-in's fee, a paid model behind a free name, and the price
# of the host that it had chosen that day.
CHARGED = {"openai-chat/openrouter-020", "openai-chat/openrouter-025", "openai-responses/openrouter-007"}


@pytest.fixture(scope="module")
def items(shared: Path) -> list[pricing.Item]:
    found = list(pricing.items(shared))
    assert len(found) > 200
    return found


@pytest.fixture(scope="module")
def judge(shared: Path) -> Iterator[ModuleType]:
    """The shared material's own reading of what the SDKs show."""
    sys.path.insert(0, str(shared / "tools"))
    try:
        yield importlib.import_module("gate_read")
    finally:
        sys.path.remove(str(shared / "tools"))


def test_usage_is_what_the_official_sdks_read(items: list[pricing.Item], judge: ModuleType) -> None:
    wrong, compared = [], 0
    for item in items:
        if item.sdk is None:
            continue
        usage, expected = item.usage, judge.usage_of(item.dialect, item.sdk)
        compared += 1
        if (usage.input, usage.cache_read, usage.cache_write, usage.output) != expected or usage.estimated:
            wrong.append((item.id, usage, expected))
    assert compared > 200
    assert wrong == []


def test_thinking_and_lifetimes_of_caches_too(items: list[pricing.Item]) -> None:
    thought, written = 0, 0
    for item in items:
        said = item.sdk or {}
        details = said.get("completion_tokens_details") or said.get("output_tokens_details") or {}
        told = next(
            (value for value in (details.get("reasoning_tokens"), details.get("thinking_tokens"),
                                 said.get("thoughtsTokenCount")) if value is not None), None,
        )  # fmt: skip
        if told is not None:
            thought += 1
            assert item.usage.thinking == told, item.id
            assert told <= item.usage.output, item.id
        lifetimes = said.get("cache_creation") or {}
        # some tell only a part of what was written: the rest has no lifetime
        if lifetimes and sum(lifetimes.values()) == said["cache_creation_input_tokens"]:
            written += 1
            assert item.usage.cache_write_1h == lifetimes["ephemeral_1h_input_tokens"], item.id
            assert item.usage.cache_write_5m == lifetimes["ephemeral_5m_input_tokens"], item.id
    assert thought > 50 and written > 20


def test_cost_is_what_genai_prices_computes(
    items: list[pricing.Item], record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip("genai_prices")
    arithmetic, lists, charged, priced, unpriced, unread = [], set(), set(), 0, 0, []
    at_own = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for item in items:
            cost = item.cost_usd
            if cost is None:
                unpriced += 1
                continue
            own, same, why = item.reference()
            if own is None and same is None:
                unread.append((item.id, why))
                continue
            priced += 1
            if item.usage.cost_usd is not None:
                if own is not None and not near(cost, own):
                    charged.add(item.id)
                continue
            if same is not None and not near(cost, same):
                arithmetic.append((item.id, cost, same))
            if own is not None:
                at_own += 1
                if not near(cost, own):
                    lists.add(item.id)
    told = f"priced {priced}, unpriced {unpriced}, at its own list {at_own - len(lists)} of {at_own} the same"
    record_property("costs", told)
    assert priced > 100, told
    assert arithmetic == [], told
    assert lists <= LISTS_DIFFER.keys() and charged <= CHARGED, (lists, charged)
    assert len(unread) < 0.05 * priced, unread


def near(one: float, other: float) -> bool:
    return abs(one - other) <= WITHIN * abs(other)
