"""Metrics: what is counted where, how many series there can be, and that the exposition format can be read back."""

from __future__ import annotations

import re

import pytest

from ccm.messages.tokens import Usage
from ccm.observe.metrics import MAX_SERIES, OTHER, Gauge, Histogram, Metrics
from ccm.observe.record import Attempt, RequestRecord


def record(**fields) -> RequestRecord:
    defaults = {
        "id": "r",
        "at": 0.0,
        "status": 200,
        "ending": "complete",
        "provider": "openai",
        "model": "gpt-5.2",
        "attempts": [Attempt("anthropic", "m", "529", 0.1), Attempt("openai", "gpt-5.2", "200", 1.0)],
        "first_content_s": 0.3,
        "total_s": 1.5,
        "usage": Usage(input=10, cache_read=5, cache_write_5m=2, cache_write_1h=1, output=20),
        "losses": ["top_k=dropped"],
    }
    return RequestRecord(**{**defaults, **fields})


def test_one_request_is_counted_everywhere() -> None:
    metrics = Metrics()
    metrics.observe(record())
    metrics.observe(record(status=503, ending="failed", first_content_s=None, usage=Usage(), losses=[]))
    seen = metrics.snapshot()
    assert seen["totals"] == {
        "requests": 2,
        "attempts": 4,
        "endings": {"complete": 1, "failed": 1},
        "input_tokens": 10,
        "cache_read_tokens": 5,
        "cache_write_tokens": 3,
        "output_tokens": 20,
    }
    assert seen["requests"] == [
        {"provider": "openai", "model": "gpt-5.2", "status": "200", "ending": "complete", "count": 1},
        {"provider": "openai", "model": "gpt-5.2", "status": "503", "ending": "failed", "count": 1},
    ]
    assert {(row["endpoint"], row["result"]): row["count"] for row in seen["attempts"]} == {
        ("anthropic", "529"): 2,
        ("openai", "200"): 2,
    }
    assert seen["losses"] == [{"provider": "openai", "feature": "top_k", "count": 1}]
    (model,) = seen["models"]
    assert model["requests"] == 2 and model["output_tokens"] == 20
    assert 0.25 < model["first_content_p50_s"] <= 0.5
    assert 1.0 < model["total_p95_s"] <= 2.5


def test_a_refused_request_belongs_to_no_provider() -> None:
    metrics = Metrics()
    metrics.observe(record(provider="", model="", status=401, ending="refused", attempts=[], losses=[]))
    seen = metrics.snapshot()
    assert seen["totals"]["requests"] == 1 and seen["models"] == []


def test_the_number_of_series_is_bounded_and_nothing_is_lost() -> None:
    metrics = Metrics()
    many = 1000
    for number in range(many):
        metrics.observe(
            record(
                model=f"model-{number}",
                losses=[f"feature-{number}=dropped"],
                attempts=[Attempt(f"endpoint-{number}", "m", f"r{number}", 0.1)],
                usage=Usage(output=1),
            )
        )
    seen = metrics.snapshot()
    for family in ("requests", "attempts", "losses"):
        assert sum(row["count"] for row in seen[family]) == many
        assert MAX_SERIES <= len(seen[family]) <= 2 * MAX_SERIES + 1
    assert len(seen["models"]) == MAX_SERIES + 1
    (rest,) = [row for row in seen["models"] if row["model"] == OTHER]
    assert rest["output_tokens"] == rest["requests"] == many - MAX_SERIES


def parse(text: str) -> dict[tuple[str, frozenset], float]:
    """The exposition format read back, strictly."""
    found: dict[tuple[str, frozenset], float] = {}
    label = r'[a-z_]+="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP [a-z_]+ .+|TYPE [a-z_]+ (counter|gauge|histogram))", line)
            continue
        match = re.fullmatch(rf"([a-z_]+)(?:\{{({label}(?:,{label})*)\}})? ([0-9.e+-]+)", line)
        assert match, line
        labels = frozenset(re.findall(label, match[2] or ""))
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[3])
    return found


def test_prometheus_text_can_be_read_back() -> None:
    metrics = Metrics()
    metrics.observe(record(model='evil"\n\\model'))
    metrics.observe(record(model='evil"\n\\model', first_content_s=500.0))
    gauges = [
        Gauge("ccm_up", "One.", 1, (("provider", "a"),)),
        Gauge("ccm_up", "One.", 0, (("provider", "b"),)),
    ]
    text = metrics.prometheus(gauges)
    assert text.endswith("\n") and text.count("# TYPE ccm_up gauge") == 1
    found = parse(text)
    who = {'provider="openai"', 'model="evil\\"\\n\\\\model"'}
    assert found["ccm_up", frozenset({'provider="b"'})] == 0
    assert found["ccm_requests_total", frozenset(who | {'status="200"', 'ending="complete"'})] == 2
    assert found["ccm_tokens_total", frozenset(who | {'kind="output"'})] == 40
    name = "ccm_first_content_seconds"
    buckets = [
        found[f"{name}_bucket", frozenset(who | {f'le="{le}"'})] for le in ("0.25", "0.5", "240", "+Inf")
    ]
    assert buckets == [0, 1, 1, 2]
    assert found[f"{name}_sum", frozenset(who)] == pytest.approx(500.3)
    assert found[f"{name}_count", frozenset(who)] == 2


def test_an_empty_exposition_is_well_formed() -> None:
    assert parse(Metrics().prometheus()) == {}


def test_quantiles() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.add(value)
    assert histogram.buckets == [2, 1, 1, 0]
    assert histogram.quantile(0.5) == 1.0
    assert histogram.quantile(0.75) == 2.0
    assert histogram.quantile(1.0) == 4.0
    histogram.add(100.0)
    assert histogram.quantile(1.0) == 4.0  # past the last bound: the last bound is all that is known
