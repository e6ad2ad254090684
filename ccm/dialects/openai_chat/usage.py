"""Token figures of OpenAI-compatible answers in Anthropic's convention (DIALECTS 5).

They count cached tokens into `prompt_tokens` and name them in four different places; x_groq and xAI differ further.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.messages.tokens import Usage, count

_CACHED = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")


def find(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The usage object of a body or chunk, wherever the provider puts it."""
    usage = chunk.get("usage")
    if usage and isinstance(usage, dict):
        return usage
    for place in (chunk.get("x_groq"), _first_choice(chunk)):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict) and usage:
            return usage
    return None


def take(usage: Usage, said: Mapping[str, Any]) -> None:
    """Sets all figures from a provider's usage object; cumulative ones simply replace each other."""
    details = _object(said, "prompt_tokens_details")
    cached = count(details.get("cached_tokens")) or next((n for k in _CACHED if (n := count(said.get(k)))), 0)
    written = count(details.get("cache_write_tokens"))
    prompt, completion = count(said.get("prompt_tokens")), count(said.get("completion_tokens"))
    thought = _object(said, "completion_tokens_details").get("reasoning_tokens")
    thinking = count(thought)
    if thinking and count(said.get("total_tokens")) == prompt + completion + thinking:
        completion += thinking  # xAI counts reasoning beside the completion
    usage.input = max(0, prompt - cached - written)
    usage.cache_read = cached
    usage.cache_write_5m, usage.cache_write_1h = written, 0
    usage.output = completion
    usage.thinking = min(thinking, completion) if thought is not None else usage.thinking
    usage.estimated = False
    cost = said.get("cost")
    if isinstance(cost, (int, float)) and not isinstance(cost, bool):
        usage.cost_usd = float(cost)


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _first_choice(chunk: Mapping[str, Any]) -> Any:
    choices = chunk.get("choices")
    return choices[0] if isinstance(choices, list) and choices else None
