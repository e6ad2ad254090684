"""Counters and histograms over finished requests, as a dict for people and in Prometheus' text format.

`observe` is on the path of every request: one lock, a handful of dictionary steps, nothing allocated per series seen
before. The number of series is bounded whatever names strangers send: past 200 of a family the unbounded labels
(model, feature) become "other", and a name is never longer than 120 characters. It must never see prompts, keys or
session ids; names pass the redactor when their series is made, so that two masked ones become one series, not two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ccm.observe.exposition import CONTENT_TYPE, Gauge, Histogram, Page
from ccm.observe.record import RequestRecord

__all__ = ["CONTENT_TYPE", "MAX_NAME", "MAX_SERIES", "OTHER", "TOKEN_KINDS", "Gauge", "Histogram", "Metrics"]

MAX_SERIES = 200
MAX_NAME = 120
OTHER = "other"
# Upper bounds in seconds. First content: 5 ms (demo, local models) to the first-content limit; total: to an hour.
FIRST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0)
TOTAL_BOUNDS = (
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 900.0, 3600.0,
)  # fmt: skip
GAP_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
TOKEN_KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")

_Key = tuple[str, ...]


class _Model:
    """The figures of one (provider, model)."""

    __slots__ = (
        "cost_usd", "first", "gap", "list_cost_usd", "searches", "thinking", "tokens", "total", "unpriced",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tokens = [0] * len(TOKEN_KINDS)
        self.thinking = 0
        self.searches = 0
        self.cost_usd = 0.0
        self.list_cost_usd = 0.0
        self.unpriced = 0
        self.first = Histogram(FIRST_BOUNDS)
        self.total = Histogram(TOTAL_BOUNDS)
        self.gap = Histogram(GAP_BOUNDS)

    def copy(self) -> _Model:
        """The same figures, which no longer change."""
        other = _Model()
        other.tokens = self.tokens[:]
        other.thinking, other.searches, other.unpriced = self.thinking, self.searches, self.unpriced
        other.cost_usd, other.list_cost_usd = self.cost_usd, self.list_cost_usd
        other.first, other.total, other.gap = self.first.copy(), self.total.copy(), self.gap.copy()
        return other


class _Series:
    """The requests of one (provider, model, status, ending); `model` is None for requests that reached no provider."""

    __slots__ = ("count", "model")

    def __init__(self, model: _Model | None) -> None:
        self.count = 0
        self.model = model


class Metrics:
    """All figures since the start. Every method may be called from any thread. `clean` is the redactor's."""

    content_type = CONTENT_TYPE

    def __init__(self, clean: Callable[[str], str] = str) -> None:
        self._clean = clean
        self._lock = threading.Lock()
        self._known: dict[
            tuple[str, str, int, str], _Series
        ] = {}  # as records name them, to the series they count in
        self._requests: dict[_Key, _Series] = {}  # by provider, model, status, ending
        self._models: dict[_Key, _Model] = {}  # by provider, model
        self._attempts: dict[_Key, int] = {}  # by endpoint, result
        self._retries: dict[_Key, int] = {}  # by endpoint: the same target asked again
        self._failovers: dict[_Key, int] = {}  # by the endpoint that was left for another target
        self._losses: dict[_Key, int] = {}  # by provider, feature

    def observe(self, record: RequestRecord) -> None:
        """Counts one finished request. Takes no I/O; 2 to 4 us."""
        key = (record.provider, record.model, record.status, record.ending)
        with self._lock:
            series = self._known.get(key)
            if series is None:
                series = self._series(record)
                if len(self._known) < 4 * MAX_SERIES:
                    self._known[key] = series
            series.count += 1
            attempts, counts = record.attempts, self._attempts
            for attempt in attempts:
                pair = (attempt.endpoint, attempt.result)
                try:
                    counts[pair] += 1
                except KeyError:
                    self._count(counts, pair, (attempt.endpoint, OTHER))
            if len(attempts) > 1:
                before = attempts[0]
                for attempt in attempts[1:]:
                    same = before.endpoint == attempt.endpoint and before.model == attempt.model
                    self._count(self._retries if same else self._failovers, (before.endpoint,), (OTHER,))
                    before = attempt
            if series.model is not None:  # else refused at our own door: nobody's tokens, nobody's time
                _add(series.model, record)
            if record.losses:
                for loss in record.losses:
                    feature = loss.partition("=")[0]
                    self._count(self._losses, (record.provider, feature), (record.provider, OTHER))

    def _series(self, record: RequestRecord) -> _Series:
        """The series of a record that was not seen before: names are cleaned, cut, and lumped together past the bound."""
        provider, model, status = self._name(record.provider), self._name(record.model), str(record.status)
        key: _Key = (provider, model, status, record.ending)
        key = _bounded(self._requests, key, (provider, OTHER, status, record.ending))
        series = self._requests.get(key)
        if series is None:
            figures = self._models.setdefault(key[:2], _Model()) if provider else None
            series = self._requests[key] = _Series(figures)
        return series

    def _count(self, family: dict[_Key, int], key: _Key, coarse: _Key) -> None:
        if key not in family:
            key = _bounded(family, tuple(map(self._name, key)), tuple(map(self._name, coarse)))
        family[key] = family.get(key, 0) + 1

    def _name(self, text: str) -> str:
        if len(text) > MAX_NAME:
            text = text[:MAX_NAME]
        return self._clean(text)

    def _copy(self) -> _Figures:
        """Everything as of one moment. The lock is held for the copying alone, not for the writing of texts."""
        with self._lock:
            return _Figures(
                {key: series.count for key, series in self._requests.items()},
                {key: model.copy() for key, model in self._models.items()},
                dict(self._attempts), dict(self._retries), dict(self._failovers), dict(self._losses),
            )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """All figures as plain JSON: `totals`, and lists of rows under requests, attempts, retries, failovers, losses
        and models.

        Times are seconds, None where nothing was measured; quantiles are interpolated from buckets. `cost_usd` is what
        is known; `unpriced_requests` says of how many requests it is not.
        """
        now = self._copy()
        endings: dict[str, int] = {}
        per_model: dict[_Key, int] = {}
        for (provider, model, _, ending), count in now.requests.items():
            endings[ending] = endings.get(ending, 0) + count
            per_model[provider, model] = per_model.get((provider, model), 0) + count
        models = [
            _row(provider, model, figures, per_model.get((provider, model), 0))
            for (provider, model), figures in sorted(now.models.items())
        ]
        summed = (*_TOKEN_SUMS, "cost_usd", "list_cost_usd", "unpriced_requests")
        return {
            "totals": {
                "requests": sum(now.requests.values()),
                "attempts": sum(now.attempts.values()),
                "retries": sum(now.retries.values()),
                "failovers": sum(now.failovers.values()),
                "endings": dict(sorted(endings.items())),
                **{name: sum(row[name] for row in models) for name in summed},
            },
            "requests": _rows(("provider", "model", "status", "ending"), now.requests),
            "attempts": _rows(("endpoint", "result"), now.attempts),
            "retries": _rows(("endpoint",), now.retries),
            "failovers": _rows(("endpoint",), now.failovers),
            "losses": _rows(("provider", "feature"), now.losses),
            "models": models,
        }

    def prometheus(self, gauges: Sequence[Gauge] = ()) -> str:
        """The figures in Prometheus' text exposition format 0.0.4, with the caller's gauges first."""
        now = self._copy()
        page = Page()
        page.gauges(gauges)
        for name, text, labels, family in (
            ("ccm_requests_total", "Finished requests.", _REQUEST, now.requests),
            ("ccm_attempts_total", "Upstream calls by their result.", ("endpoint", "result"), now.attempts),
            ("ccm_retries_total", "Calls that asked the same target again.", ("endpoint",), now.retries),
            (
                "ccm_failovers_total",
                "Calls that went elsewhere, by the endpoint left.",
                ("endpoint",),
                now.failovers,
            ),
            (
                "ccm_losses_total",
                "Features of requests that a provider could not be given.",
                _LOSS,
                now.losses,
            ),
        ):
            page.counters(name, text, labels, sorted(family.items()))
        models = sorted(now.models.items())
        page.counters(
            "ccm_tokens_total", "Tokens by kind: their sum is what was billed.", (*_MODEL, "kind"),
            [((*key, kind), n) for key, m in models for kind, n in zip(TOKEN_KINDS, m.tokens, strict=True)],
        )  # fmt: skip
        for name, text, member in _PER_MODEL:
            page.counters(name, text, _MODEL, [(key, getattr(model, member)) for key, model in models])
        for name, text, member in _HISTOGRAMS:
            page.histograms(name, text, _MODEL, [(key, getattr(model, member)) for key, model in models])
        return page.text()


_REQUEST = ("provider", "model", "status", "ending")
_MODEL = ("provider", "model")
_LOSS = ("provider", "feature")
_PER_MODEL = (
    ("ccm_thinking_tokens_total", "Tokens of thinking, which are part of the output.", "thinking"),
    ("ccm_web_searches_total", "Searches the provider made by itself.", "searches"),
    ("ccm_cost_usd_total", "What requests cost, as far as prices are known.", "cost_usd"),
    ("ccm_list_cost_usd_total", "What the same tokens had cost at the first provider's list price.", "list_cost_usd"),
    ("ccm_unpriced_requests_total", "Answered requests whose cost is unknown.", "unpriced"),
)  # fmt: skip
_HISTOGRAMS = (
    ("ccm_first_content_seconds", "Time to the first content of an answer.", "first"),
    ("ccm_request_seconds", "Time of complete requests, from head to end.", "total"),
    ("ccm_stream_gap_seconds", "Longest wait between two pieces of a stream, one per stream.", "gap"),
)
_TOKEN_SUMS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens")


class _Figures:
    """A copy of all families."""

    __slots__ = ("attempts", "failovers", "losses", "models", "requests", "retries")

    def __init__(
        self,
        requests: dict[_Key, int],
        models: dict[_Key, _Model],
        attempts: dict[_Key, int],
        retries: dict[_Key, int],
        failovers: dict[_Key, int],
        losses: dict[_Key, int],
    ) -> None:
        self.requests, self.models, self.attempts = requests, models, attempts
        self.retries, self.failovers, self.losses = retries, failovers, losses


def _add(model: _Model, record: RequestRecord) -> None:
    usage, tokens = record.usage, model.tokens
    tokens[0] += usage.input
    tokens[4] += usage.output
    if usage.cache_read:
        tokens[1] += usage.cache_read
    if usage.cache_write_5m:
        tokens[2] += usage.cache_write_5m
    if usage.cache_write_1h:
        tokens[3] += usage.cache_write_1h
    if usage.thinking:
        model.thinking += usage.thinking
    if usage.web_searches:
        model.searches += usage.web_searches
    if record.cost_usd is not None:
        model.cost_usd += record.cost_usd
        if record.list_cost_usd is not None:
            model.list_cost_usd += record.list_cost_usd
    elif usage.output or usage.input:
        model.unpriced += 1
    if (seconds := record.first_content_s) is not None:
        model.first.add(seconds)
    if record.ending == "complete":
        model.total.add(record.total_s)
    if (gap := record.longest_gap_s) is not None:
        model.gap.add(gap)


def _bounded(family: dict[_Key, Any], key: _Key, coarse: _Key) -> _Key:
    """The key while there is room for it; then the coarse one; past twice the room, one series for all the rest."""
    if key in family or len(family) < MAX_SERIES:
        return key
    if coarse in family or len(family) < 2 * MAX_SERIES:
        return coarse
    return (OTHER,) * len(key)


def _rows(labels: tuple[str, ...], family: dict[_Key, int]) -> list[dict[str, Any]]:
    return [{**dict(zip(labels, key, strict=True)), "count": count} for key, count in sorted(family.items())]


def _row(provider: str, model: str, figures: _Model, requests: int) -> dict[str, Any]:
    tokens = figures.tokens
    return {
        "provider": provider,
        "model": model,
        "requests": requests,
        "input_tokens": tokens[0],
        "cache_read_tokens": tokens[1],
        "cache_write_tokens": tokens[2] + tokens[3],
        "output_tokens": tokens[4],
        "thinking_tokens": figures.thinking,
        "cost_usd": figures.cost_usd,
        "list_cost_usd": figures.list_cost_usd,
        "unpriced_requests": figures.unpriced,
        "first_content_p50_s": figures.first.quantile(0.5),
        "first_content_p95_s": figures.first.quantile(0.95),
        "total_p50_s": figures.total.quantile(0.5),
        "total_p95_s": figures.total.quantile(0.95),
        "gap_p95_s": figures.gap.quantile(0.95),
    }
