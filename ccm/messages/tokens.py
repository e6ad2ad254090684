"""Token figures in one shape. Anthropic's convention: `input` is uncached input only; cache reads and writes stand apart.

Each dialect converts its own convention into this one (DIALECTS 5). The last cumulative value wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from ccm.shape import dataclass

MOST = 2**53  # whole numbers up to here survive every reader, and can be multiplied by a price


@dataclass(slots=True)
class Usage:
    """Tokens of one answer. All counts are >= 0; `estimated` marks figures no provider gave."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    thinking: int | None = None
    web_searches: int = 0
    web_fetches: int = 0
    estimated: bool = False
    cost_usd: float | None = None  # only where the provider itself reports it (OpenRouter)

    @property
    def cache_write(self) -> int:
        return self.cache_write_5m + self.cache_write_1h

    @property
    def input_total(self) -> int:
        """Everything that was sent: what a context meter shows."""
        return self.input + self.cache_read + self.cache_write

    def to_dict(self) -> dict[str, Any]:
        """Anthropic's `usage` object, as `message_start`, `message_delta` and whole messages carry it."""
        out: dict[str, Any] = {
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
        }
        if self.thinking is not None:
            out["output_tokens_details"] = {"thinking_tokens": self.thinking}
        if self.web_searches or self.web_fetches:
            out["server_tool_use"] = {
                "web_search_requests": self.web_searches,
                "web_fetch_requests": self.web_fetches,
            }
        return out

    def update(self, usage: Mapping[str, Any] | None) -> None:
        """Takes over what an Anthropic `usage` object says; keys it lacks keep their value."""
        if not usage or not _is_object(usage):
            return
        get = usage.get
        if (told := get("input_tokens")) is not None:
            self.input = count(told, self.input)
        if (told := get("cache_read_input_tokens")) is not None:
            self.cache_read = count(told, self.cache_read)
        if (told := get("output_tokens")) is not None:
            self.output = count(told, self.output)
        written, split = get("cache_creation_input_tokens"), get("cache_creation")
        if _is_object(split):
            self.cache_write_1h = count(split.get("ephemeral_1h_input_tokens"), 0)
            self.cache_write_5m = count(split.get("ephemeral_5m_input_tokens"), 0)
            total = count(written, self.cache_write)
            if total > self.cache_write:
                self.cache_write_5m += total - self.cache_write
        elif written is not None:
            self.cache_write_5m, self.cache_write_1h = count(written, self.cache_write_5m), 0
        details = get("output_tokens_details")
        if _is_object(details) and (told := details.get("thinking_tokens")) is not None:
            self.thinking = count(told, 0)
        server = get("server_tool_use")
        if _is_object(server):
            self.web_searches = count(server.get("web_search_requests"), self.web_searches)
            self.web_fetches = count(server.get("web_fetch_requests"), self.web_fetches)


def count(value: object, default: int = 0) -> int:
    """A token count from untrusted JSON: never negative nor absurd, `default` for what is no number."""
    if type(value) is int:
        return 0 if value < 0 else MOST if value > MOST else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return default
    return 0 if value < 0 else MOST if value > MOST else int(value)


def _is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it is a JSON object; `Mapping` itself is asked only of what is rare, since that is slow."""
    return type(value) is dict or (value is not None and isinstance(value, Mapping))
