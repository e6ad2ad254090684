"""Prometheus' text format 0.0.4: families in, one text out. Pure.

Label values are whatever strangers send; here they become harmless: escaped as the format wants, without lone
surrogates (which no UTF-8 can carry). Sources: prometheus.io, "Exposition formats".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from ccm.shape import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure read at the moment of asking (uptime, in flight). `kind` "counter" for one that only grows."""

    name: str
    help: str
    value: float
    labels: Labels = ()
    kind: str = "gauge"


class Histogram:
    """Counts per bucket (not cumulative), the sum and the number of observations."""

    __slots__ = ("bounds", "buckets", "count", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        """Counts one observation; a value on a bound belongs below it (`le`)."""
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
        self.count += 1

    def copy(self) -> Histogram:
        """The same figures, which no longer change."""
        other = Histogram(self.bounds)
        other.buckets, other.total, other.count = self.buckets[:], self.total, self.count
        return other

    def quantile(self, q: float) -> float | None:
        """The value below which the share `q` lies, interpolated within its bucket; None without observations."""
        if not self.count:
            return None
        rank, seen, low = q * self.count, 0, 0.0
        for bound, inside in zip(self.bounds, self.buckets, strict=False):
            if inside and seen + inside >= rank:
                return low + (bound - low) * (rank - seen) / inside
            seen, low = seen + inside, bound
        return low


class Page:
    """The text under construction. Every family is given whole, and once: that is what the format asks for."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauges(self, gauges: Iterable[Gauge]) -> None:
        """Single figures, in the order of their families' first appearance."""
        families: dict[str, list[Gauge]] = {}
        for gauge in gauges:
            families.setdefault(gauge.name, []).append(gauge)
        for name, members in families.items():
            self._head(name, members[0].kind, members[0].help)
            self._lines += [f"{name}{_block(member.labels)} {number(member.value)}" for member in members]

    def counters(
        self, name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
    ) -> None:
        """One family of counters: a row is the labels' values and the figure."""
        self._head(name, "counter", text)
        self._lines += [
            f"{name}{_block(tuple(zip(labels, key, strict=True)))} {number(n)}" for key, n in rows
        ]

    def histograms(
        self, name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]
    ) -> None:
        """One family of histograms; those without an observation are left out."""
        self._head(name, "histogram", text)
        lines = self._lines
        for key, histogram in rows:
            if not histogram.count:
                continue
            block = _block(tuple(zip(labels, key, strict=True)))
            start = f"{name}_bucket{{{block[1:-1]}," if block else f"{name}_bucket{{"
            seen = 0
            for bound, inside in zip(histogram.bounds, histogram.buckets, strict=False):
                seen += inside
                lines.append(f'{start}le="{number(bound)}"}} {seen}')
            lines.append(f'{start}le="+Inf"}} {histogram.count}')
            lines.append(f"{name}_sum{block} {number(histogram.total)}")
            lines.append(f"{name}_count{block} {histogram.count}")

    def text(self) -> str:
        """Everything so far."""
        return "\n".join(self._lines) + "\n" if self._lines else ""

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def number(value: float) -> str:
    """A figure as the format writes it: whole numbers without a point, `NaN`, `+Inf`, `-Inf`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _block(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}" if labels else ""


def _escape(value: str) -> str:
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode("utf-8")
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
