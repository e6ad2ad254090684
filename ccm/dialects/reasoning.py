"""How hard the client wants the model to think, read once for every dialect (DIALECTS 7).

Anthropic has three generations of the same wish: a token budget, "adaptive" with an effort, and an effort per message.
Here they become one word; each dialect turns it into its provider's knob.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# All levels any provider knows, in rising order. "off" is ours: the client said that it wants none.
LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_RANK = {level: n for n, level in enumerate(LEVELS)}
# Tokens of thinking that stand for a level where a provider takes a budget (the way back of `effort_of`).
BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 65_536}


def effort_of(request: Mapping[str, Any]) -> str | None:
    """The effort asked for: "off", one of low | medium | high | xhigh | max, or None where the client said nothing.

    An effort on a message (per-turn control) outranks the request's; a disabled `thinking` outranks both.
    """
    thinking = request.get("thinking")
    form = thinking.get("type") if isinstance(thinking, Mapping) else None
    if form == "disabled":
        return "off"
    said = _turn_effort(request) or _effort(request.get("output_config"))
    if said:
        return said
    if form == "enabled" and isinstance(thinking, Mapping):
        return effort_of_budget(thinking.get("budget_tokens"))
    return "high" if form else None


def effort_of_budget(tokens: Any) -> str:
    """The level a token budget stands for; a budget that is no number counts as high."""
    if isinstance(tokens, bool) or not isinstance(tokens, (int, float)):
        return "high"
    if tokens < 4_096:
        return "low"
    return "medium" if tokens < 16_384 else "high"


def budget_of(request: Mapping[str, Any], cap: int | None = None) -> int | None:
    """Tokens of thinking asked for, at most `cap`: the client's own figure, else the one its effort stands for.

    0 where thinking was turned off, None where the client said nothing.
    """
    effort = effort_of(request)
    if effort is None:
        return None
    if effort == "off":
        return 0
    thinking = request.get("thinking")
    own = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    tokens = (
        own
        if isinstance(own, int) and not isinstance(own, bool) and own > 0
        else BUDGETS.get(effort, BUDGETS["high"])
    )
    return tokens if cap is None else min(tokens, cap)


def nearest(effort: str, allowed: Sequence[str]) -> str:
    """`effort` where the model has it, else the next lower level it has, else its lowest one."""
    if not allowed or effort in allowed:
        return effort
    rank = _RANK.get(effort, _RANK["high"])
    known = sorted((level for level in allowed if level in _RANK), key=_RANK.__getitem__)
    lower = [level for level in known if _RANK[level] <= rank and level != "none"]
    higher = [level for level in known if _RANK[level] > rank]
    return (lower[-1:] or higher[:1] or [effort])[0]


def wants_thinking(request: Mapping[str, Any]) -> bool:
    """Whether the client turned thinking on in so many words (an effort alone does not)."""
    thinking = request.get("thinking")
    return isinstance(thinking, Mapping) and thinking.get("type") not in (None, "disabled")


def _effort(config: Any) -> str | None:
    effort = config.get("effort") if isinstance(config, Mapping) else None
    return effort if isinstance(effort, str) and effort in _RANK and effort != "none" else None


def _turn_effort(request: Mapping[str, Any]) -> str | None:
    messages = request.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and (effort := _effort(message.get("output_config"))):
            return effort
    return None
