"""What a request may cost, before anybody knows: what budgets reserve for it. Pure, without a lock: the meter's guards it."""

from __future__ import annotations

from collections import OrderedDict, deque

from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.usage import prices

_UNSAID_OUTPUT_TOKENS = 8192  # of a request that does not limit its answer


class Forecast:
    """What a request may cost: its upper bound, times the largest part of it that its like have really cost lately.

    Until a few of a model's requests are known the bound itself holds.
    """

    __slots__ = ("_parts",)
    ENOUGH, KEPT, MODELS, MARGIN = 4, 16, 256, 1.25

    def __init__(self) -> None:
        self._parts: OrderedDict[str, deque[float]] = OrderedDict()

    @staticmethod
    def most_usd(price: Price, input_tokens: int, max_output_tokens: int) -> float | None:
        """All of the input written to the cache, and an answer as long as it may become; None = price unknown."""
        output = max_output_tokens if max_output_tokens > 0 else _UNSAID_OUTPUT_TOKENS
        return prices.at_list_usd(price, Usage(cache_write_5m=max(0, input_tokens), output=output))

    def expected_usd(self, model: str, most: float | None) -> float:
        """What to reserve; 0 where the price is unknown."""
        parts = self._parts.get(model)
        if most is None:
            return 0.0
        if parts is None:
            return most
        factor = max(parts) * self.MARGIN
        return most * (factor if len(parts) >= self.ENOUGH else max(factor, 1.0))

    def learn(self, model: str, most: float | None, cost: float | None) -> None:
        """A request that could cost `most` has cost this."""
        if not most or cost is None:
            return
        parts = self._parts.get(model)
        if parts is None:
            parts = self._parts[model] = deque(maxlen=self.KEPT)
            if len(self._parts) > self.MODELS:
                self._parts.popitem(last=False)
        parts.append(cost / most)
