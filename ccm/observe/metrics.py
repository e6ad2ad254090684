"""Counters and histograms over finished requests, as a dict and in Prometheus' text format.

`observe` is on the path of every request: one lock, a handful of dictionary steps, nothing allocated per series seen
before. The number of series is bounded whatever names strangers send: past 200 of a family the unbounded labels
(model, feature) become "other". It must never see prompts, keys or session ids.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccm.observe.record import RequestRecord

MAX_SERIES = 200
OTHER = "other"
# Upper bounds in seconds. First content: 5 ms (demo, local models) to the first-content limit; total: to an hour.
FIRST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0)
TOTAL_BOUNDS = (
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    320.0,
    900.0,
    3600.0,
)
TOKEN_KINDS = ("input", "cache_read", "cache_write", "output")

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure read at the moment of asking (uptime, in flight), given to `prometheus` by its caller."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


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


class Metrics:
    """All figures since the start. Every method may be called from any thread."""

    content_type = _CONTENT_TYPE

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (provider, model, status, ending) -> requests
        self._requests: dict[tuple[str, ...], int] = {}
        # (endpoint, result) -> attempts
        self._attempts: dict[tuple[str, ...], int] = {}
        # (provider, feature) -> losses
        self._losses: dict[tuple[str, ...], int] = {}
        # (provider, model) -> [tokens by TOKEN_KINDS]
        self._tokens: dict[tuple[str, ...], list[int]] = {}
        # (provider, model) -> (first content, total)
        self._times: dict[tuple[str, ...], tuple[Histogram, Histogram]] = {}

    def observe(self, record: RequestRecord) -> None:
        """Counts one finished request. Takes no I/O; about 2 us."""
        provider, model = record.provider, record.model
        usage = record.usage
        with self._lock:
            key: tuple[str, ...] = (provider, model, str(record.status), record.ending)
            requests = self._requests
            if key not in requests:
                key = _bounded(requests, key, (provider, OTHER, str(record.status), record.ending))
                requests.setdefault(key, 0)
            requests[key] += 1
            for attempt in record.attempts:
                key = (attempt.endpoint, attempt.result)
                if key not in self._attempts:
                    key = _bounded(self._attempts, key, (attempt.endpoint, OTHER))
                    self._attempts.setdefault(key, 0)
                self._attempts[key] += 1
            if not provider:
                return  # refused at our own door: nobody's tokens, nobody's time
            key = (provider, model)
            times = self._times.get(key)
            if times is None:
                key = _bounded(self._times, key, (provider, OTHER))
                times = self._times.setdefault(key, (Histogram(FIRST_BOUNDS), Histogram(TOTAL_BOUNDS)))
                self._tokens.setdefault(key, [0] * len(TOKEN_KINDS))
            if record.first_content_s is not None:
                times[0].add(record.first_content_s)
            if record.ending == "complete":
                times[1].add(record.total_s)
            tokens = self._tokens[key]
            tokens[0] += usage.input
            tokens[1] += usage.cache_read
            tokens[2] += usage.cache_write_5m + usage.cache_write_1h
            tokens[3] += usage.output
            for loss in record.losses:
                key = (provider, loss.partition("=")[0])
                if key not in self._losses:
                    key = _bounded(self._losses, key, (provider, OTHER))
                    self._losses.setdefault(key, 0)
                self._losses[key] += 1

    def snapshot(self) -> dict[str, Any]:
        """All figures as plain JSON: `totals`, and lists of rows under requests, attempts, losses and models.

        Times are seconds, None where nothing was measured; quantiles are interpolated from buckets.
        """
        with self._lock:
            requests, attempts, losses = dict(self._requests), dict(self._attempts), dict(self._losses)
            models = [
                {
                    "provider": provider,
                    "model": model,
                    **{f"{name}_tokens": value for name, value in zip(TOKEN_KINDS, tokens, strict=True)},
                    "first_content_p50_s": self._times[provider, model][0].quantile(0.5),
                    "first_content_p95_s": self._times[provider, model][0].quantile(0.95),
                    "total_p50_s": self._times[provider, model][1].quantile(0.5),
                    "total_p95_s": self._times[provider, model][1].quantile(0.95),
                }
                for (provider, model), tokens in self._tokens.items()
            ]
        endings: dict[str, int] = {}
        per_model: dict[tuple[str, str], int] = {}
        for (provider, model, _, ending), count in requests.items():
            endings[ending] = endings.get(ending, 0) + count
            per_model[provider, model] = per_model.get((provider, model), 0) + count
        for row in models:
            row["requests"] = per_model.get((str(row["provider"]), str(row["model"])), 0)
        return {
            "totals": {
                "requests": sum(requests.values()),
                "attempts": sum(attempts.values()),
                "endings": dict(sorted(endings.items())),
                **{
                    f"{name}_tokens": sum(int(row[f"{name}_tokens"] or 0) for row in models)
                    for name in TOKEN_KINDS
                },
            },
            "requests": _rows(("provider", "model", "status", "ending"), requests),
            "attempts": _rows(("endpoint", "result"), attempts),
            "losses": _rows(("provider", "feature"), losses),
            "models": sorted(models, key=lambda row: (str(row["provider"]), str(row["model"]))),
        }

    def prometheus(self, gauges: Sequence[Gauge] = ()) -> str:
        """The figures in Prometheus' text exposition format 0.0.4, with the caller's gauges first."""
        out: list[str] = []
        for index, gauge in enumerate(gauges):
            if index == 0 or gauges[index - 1].name != gauge.name:
                _head(out, gauge.name, "gauge", gauge.help)
            out.append(_sample(gauge.name, gauge.labels, gauge.value))
        with self._lock:
            _counter(out, "ccm_requests_total", "Finished requests.", _REQUEST_LABELS, self._requests)
            _counter(
                out, "ccm_attempts_total", "Upstream calls by their result.", _ATTEMPT_LABELS, self._attempts
            )
            _counter(
                out,
                "ccm_losses_total",
                "Features of requests a provider could not be given.",
                _LOSS_LABELS,
                self._losses,
            )
            tokens = {
                (*key, kind): value
                for key, values in self._tokens.items()
                for kind, value in zip(TOKEN_KINDS, values, strict=True)
            }
            _counter(out, "ccm_tokens_total", "Tokens by kind.", (*_MODEL_LABELS, "kind"), tokens)
            for index, (name, text) in enumerate(_HISTOGRAMS):
                _histograms(out, name, text, {key: pair[index] for key, pair in self._times.items()})
        return "\n".join(out) + "\n"


_REQUEST_LABELS = ("provider", "model", "status", "ending")
_ATTEMPT_LABELS = ("endpoint", "result")
_LOSS_LABELS = ("provider", "feature")
_MODEL_LABELS = ("provider", "model")
_HISTOGRAMS = (
    ("ccm_first_content_seconds", "Time to the first content of an answer."),
    ("ccm_request_seconds", "Time of complete requests, from head to end."),
)


def _bounded(
    family: dict[tuple[str, ...], Any], key: tuple[str, ...], coarse: tuple[str, ...]
) -> tuple[str, ...]:
    """The key while there is room for it; then the coarse one; past twice the room, one series for all the rest."""
    if len(family) < MAX_SERIES:
        return key
    if coarse in family or len(family) < 2 * MAX_SERIES:
        return coarse
    return (OTHER,) * len(key)


def _rows(labels: tuple[str, ...], family: dict[tuple[str, ...], int]) -> list[dict[str, Any]]:
    return [{**dict(zip(labels, key, strict=True)), "count": count} for key, count in sorted(family.items())]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _head(out: list[str], name: str, kind: str, text: str) -> None:
    out.append(f"# HELP {name} {text}")
    out.append(f"# TYPE {name} {kind}")


def _sample(name: str, labels: Sequence[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _counter(
    out: list[str], name: str, text: str, labels: tuple[str, ...], family: dict[tuple[str, ...], int]
) -> None:
    _head(out, name, "counter", text)
    out.extend(
        _sample(name, tuple(zip(labels, key, strict=True)), count) for key, count in sorted(family.items())
    )


def _histograms(out: list[str], name: str, text: str, family: dict[tuple[str, ...], Histogram]) -> None:
    _head(out, name, "histogram", text)
    for key, histogram in sorted(family.items()):
        labels = tuple(zip(_MODEL_LABELS, key, strict=True))
        seen = 0
        for bound, inside in zip(histogram.bounds, histogram.buckets, strict=False):
            seen += inside
            out.append(_sample(f"{name}_bucket", (*labels, ("le", _number(bound))), seen))
        out.append(_sample(f"{name}_bucket", (*labels, ("le", "+Inf")), histogram.count))
        out.append(_sample(f"{name}_sum", labels, histogram.total))
        out.append(_sample(f"{name}_count", labels, histogram.count))
