"""How long a target takes to its first content: a moving average to choose by, and its upper end to hedge by.

Times are to the first content, never to the end: long answers must not make a provider look slow (tokens per second
are kept apart, in `health`). They are normalised by the size of the input, because a long prompt takes longer
everywhere. No lock of its own: the router's guards it; time is an argument.
"""

from __future__ import annotations

import math
from collections import deque

_INPUT_PER_TTFT = 50_000  # an input of this many tokens is taken to double the time to first content
_SAMPLES = 64
_LEAST_SAMPLES = 10
_DUE_AFTER_S = 20.0
_DUE_AFTER_LOST = 20


def normalised(seconds: float, input_tokens: int) -> float:
    """The time a request without any input would have taken."""
    return seconds / (1 + max(0, input_tokens) / _INPUT_PER_TTFT)


class PeakEwma:
    """A moving average that believes bad news at once and good news gradually (Finagle's peak EWMA).

    A sample above the average replaces it; one below is blended in by its age (10 s). A target that has lost twenty
    choices in a row, and twenty seconds, is due for a new measurement: one request in twenty is what it costs to find
    out that a slow target has recovered.
    """

    __slots__ = ("_at", "_lost", "_recent", "_value")
    TAU_S = 10.0

    def __init__(self) -> None:
        self._value: float | None = None
        self._at = 0.0
        self._lost = 0
        self._recent: deque[float] = deque(maxlen=_SAMPLES)

    def add(self, sample: float, now: float) -> None:
        """Takes in one normalised time."""
        if self._value is None or sample >= self._value:
            self._value = sample
        else:
            age_s = now - self._at
            kept = math.exp(-age_s / self.TAU_S) if age_s > 0 else 1.0
            self._value = self._value * kept + sample * (1 - kept)
        self._at = now
        self._lost = 0
        self._recent.append(sample)

    def value(self) -> float | None:
        """As last measured; None before the first sample."""
        return self._value

    def chosen(self, won: bool) -> None:
        """It was among those to choose from, and came first or not."""
        self._lost = 0 if won else self._lost + 1

    def due(self, now: float) -> bool:
        """Whether it should be measured again."""
        return self._value is not None and self._lost >= _DUE_AFTER_LOST and now - self._at >= _DUE_AFTER_S

    def p95_s(self, input_tokens: int) -> float | None:
        """The time within which 95 % of the last answers began, for an input of this size; None before ten of them."""
        if len(self._recent) < _LEAST_SAMPLES:
            return None
        ordered = sorted(self._recent)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] * (1 + max(0, input_tokens) / _INPUT_PER_TTFT)
