"""What this very request is expected to cost at a target: list prices, warm caches, the length of earlier answers.

The input that is warm there is paid at the cache-read price; the rest at the write price where the request marks what
to cache and the model has such a price, else at the input price; the output is what the conversation's answers have
been like. Unknown prices are unknown, never zero. `History` remembers what that needs, bounded; no lock of its own:
the router's guards it.
"""

from __future__ import annotations

from collections import OrderedDict

from ccm.model import Price, Provider
from ccm.routing.affinity import Key
from ccm.shape import dataclass, field

EXPECTED_OUTPUT_TOKENS = 1000  # before anything is known of a conversation
TTL_S = {"": 300.0, "5m": 300.0, "1h": 3600.0}
_MOST = 4096
_BLEND = 0.3
_TARGETS = 8  # of one conversation


def expected_price(
    price: Price, input_tokens: int, output_tokens: float, warm_tokens: int = 0, caching: str = ""
) -> float | None:
    """USD for a request of this size, or None where the input or output price is unknown.

    `warm_tokens` of the input are in the target's cache; `caching` is "" | "5m" | "1h": for how long the request asks
    the rest to be cached. Above a threshold (`Price.above`) cache prices rise as the input price does.
    """
    per_input, per_output, rise = price.input, price.output, 1.0
    for above, more_input, more_output in price.above:
        if input_tokens > above:
            if more_input is not None and price.input:
                rise = more_input / price.input
            per_input, per_output = more_input, more_output
    if per_input is None or per_output is None:
        return None
    warm = min(max(0, warm_tokens), input_tokens)
    read = per_input if price.cache_read is None else price.cache_read * rise
    write = (
        price.cache_write_1h if caching == "1h" and price.cache_write_1h is not None else price.cache_write_5m
    )
    rest = per_input if not caching or write is None else write * rise
    return (read * warm + rest * (input_tokens - warm) + per_output * output_tokens) / 1e6


@dataclass(slots=True)
class Past:
    """What one conversation has been like. `tokens_per_byte` corrects our estimate of its input by what providers
    counted; `warm` has per target id the tokens in its cache and until when they stay."""

    output_tokens: float | None = None
    tokens_per_byte: float | None = None
    warm: dict[str, tuple[int, float]] = field(default_factory=dict)

    def warm_tokens(self, target_id: str, now: float) -> int:
        """How much of the conversation this target has in its cache now."""
        tokens, until = self.warm.get(target_id, (0, 0.0))
        return tokens if now < until else 0


class History:
    """The past of conversations, least recently used first."""

    __slots__ = ("_most", "_table")

    def __init__(self, most: int = _MOST) -> None:
        self._table: OrderedDict[Key, Past] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._table)

    def find(self, key: Key | None) -> Past | None:
        """What is known of a conversation; None for a new one."""
        return self._table.get(key) if key is not None else None

    def learn(
        self, key: Key, target_id: str, now: float, *, size_bytes: int, input_tokens: int, output_tokens: int,
        ttl_s: float, cached_tokens: int = 0,
    ) -> None:  # fmt: skip
        """A target has answered: what it was sent is in its cache now, and the clock of its TTL begins anew.
        `cached_tokens` is how much of it, where the provider says so; else all of it is taken to be."""
        past = self._table.get(key)
        if past is None:
            past = self._table[key] = Past()
            while len(self._table) > self._most:
                self._table.popitem(last=False)
        self._table.move_to_end(key)
        if output_tokens > 0:
            before = past.output_tokens
            past.output_tokens = (
                float(output_tokens) if before is None else before + _BLEND * (output_tokens - before)
            )
        if input_tokens > 0:
            if size_bytes > 0:
                past.tokens_per_byte = input_tokens / size_bytes
            past.warm.pop(target_id, None)
            past.warm[target_id] = (cached_tokens or input_tokens, now + ttl_s)
            while len(past.warm) > _TARGETS:
                del past.warm[next(iter(past.warm))]


def ttl_s(provider: Provider, price: Price, caching: str) -> float:
    """How long a provider keeps what it has cached: as the configuration says (`cache_ttl_s`), an hour where the
    request asks for that and the model has a price for it, else five minutes."""
    if provider.cache_ttl_s > 0:
        return provider.cache_ttl_s
    return TTL_S["1h" if caching == "1h" and price.cache_write_1h is not None else "5m"]


def expected_output(past: Past | None, max_tokens: int) -> float:
    """Output tokens to reckon with: the conversation's average, never more than the request allows."""
    tokens = float(EXPECTED_OUTPUT_TOKENS)
    if past is not None and past.output_tokens is not None:
        tokens = past.output_tokens
    return min(tokens, max_tokens) if max_tokens > 0 else tokens


def expected_input(past: Past | None, size_bytes: int) -> int:
    """Input tokens to reckon with: four bytes a token until the conversation has taught us better."""
    if past is not None and past.tokens_per_byte is not None:
        return round(size_bytes * past.tokens_per_byte)
    return size_bytes // 4
