"""Metrics: what is counted where, how many series there can be, and that the exposition format can be read back."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ccm.messages.tokens import Usage
from ccm.observe import exposition
from ccm.observe.metrics import MAX_NAME, MAX_SERIES, OTHER, Gauge, Histogram, Metrics
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor


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
        "retries": 0,
        "failovers": 2,
        "endings": {"complete": 1, "failed": 1},
        "input_tokens": 10,
        "cache_read_tokens": 5,
        "cache_write_tokens": 3,
        "output_tokens": 20,
        "thinking_tokens": 0,
        "cost_usd": 0,
        "list_cost_usd": 0,
        "unpriced_requests": 1,
    }
    assert seen["failovers"] == [{"endpoint": "anthropic", "count": 2}]
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
    """The exposition read by the official parser, and no sample twice."""
    found: dict[tuple[str, frozenset], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram") and family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


HOSTILE = (
    'evil"\n\\model', "\\", "\\n", '"} 1\nccm_forged_total 5', "{a=\"b\"}", "\r\n\x00\x1b[31m", "\ud800 lone", "\u2028\u202e",
    "漢字 🎉", "", " ", "le", "x" * 100_000, "# TYPE a counter",
)  # fmt: skip


def test_prometheus_text_can_be_read_back() -> None:
    metrics = Metrics()
    for name in HOSTILE:
        metrics.observe(
            record(model=name, provider=name or "p", longest_gap_s=0.02, losses=[f"{name}=dropped"])
        )
    metrics.observe(record(model=HOSTILE[0], provider=HOSTILE[0], first_content_s=500.0, longest_gap_s=None))
    gauges = [
        Gauge("ccm_up", "One.", 1, (("provider", "a"),)),
        Gauge("ccm_other", "Between.", 2.5),
        Gauge("ccm_up", "One.", 0, (("provider", HOSTILE[0]),)),
    ]
    text = metrics.prometheus(gauges)
    text.encode("utf-8")
    assert text.endswith("\n") and text.count("# TYPE ccm_up gauge") == 1
    found = parse(text)
    assert not any(name.startswith("ccm_forged") for name, _ in found)
    who = {("provider", HOSTILE[0]), ("model", HOSTILE[0])}
    assert found["ccm_up", frozenset({("provider", HOSTILE[0])})] == 0
    assert found["ccm_requests_total", frozenset(who | {("status", "200"), ("ending", "complete")})] == 2
    assert found["ccm_tokens_total", frozenset(who | {("kind", "output")})] == 40
    assert found["ccm_tokens_total", frozenset(who | {("kind", "cache_write_1h")})] == 2
    name = "ccm_first_content_seconds"
    buckets = [
        found[f"{name}_bucket", frozenset(who | {("le", le)})] for le in ("0.25", "0.5", "240", "+Inf")
    ]
    assert buckets == [0, 1, 1, 2]
    assert found[f"{name}_sum", frozenset(who)] == pytest.approx(500.3)
    assert found[f"{name}_count", frozenset(who)] == 2
    assert found["ccm_stream_gap_seconds_count", frozenset(who)] == 1
    assert (
        sum(value for (name, _), value in found.items() if name == "ccm_requests_total") == len(HOSTILE) + 1
    )
    assert max(len(value) for _, labels in found for _, value in labels) == MAX_NAME


def test_ten_thousand_names_are_no_more_than_a_few_hundred_series() -> None:
    metrics = Metrics()
    for number in range(10_000):
        metrics.observe(
            record(model=f"m-{number}", provider=f"p-{number % 700}", attempts=[], longest_gap_s=0.5)
        )
    found = parse(metrics.prometheus())
    requests = [value for (name, _), value in found.items() if name == "ccm_requests_total"]
    assert sum(requests) == 10_000 and len(requests) <= 2 * MAX_SERIES + 1
    counted = [value for (name, _), value in found.items() if name == "ccm_request_seconds_count"]
    assert sum(counted) == 10_000 and len(counted) <= 2 * MAX_SERIES + 1


def test_figures_past_the_bound_count_in_the_series_of_all_the_rest() -> None:
    metrics = Metrics()
    for status in range(MAX_SERIES):  # one model uses up the room
        metrics.observe(record(status=status, usage=Usage(output=1)))
    metrics.observe(record(model="late", usage=Usage(output=7)))
    metrics.observe(record(model="later", usage=Usage(output=8)))
    tokens = {row["model"]: row["output_tokens"] for row in metrics.snapshot()["models"]}
    assert tokens == {"gpt-5.2": MAX_SERIES, OTHER: 15}


def test_names_that_look_like_keys_are_masked_and_become_one_series() -> None:
    metrics = Metrics(Redactor().clean)
    for number in range(3):
        metrics.observe(record(model=f"sk-secret-{number}secret"))
    text = metrics.prometheus()
    assert "secret" not in text
    found = parse(text)
    assert [value for (name, _), value in found.items() if name == "ccm_requests_total"] == [3]


def test_money() -> None:
    metrics = Metrics()
    metrics.observe(record(cost_usd=0.25, list_cost_usd=1.0))
    metrics.observe(record(cost_usd=0.5))
    metrics.observe(record(cost_usd=0.0))
    metrics.observe(record())
    metrics.observe(record(usage=Usage(), ending="client_gone"))
    found = parse(metrics.prometheus())
    who = frozenset({("provider", "openai"), ("model", "gpt-5.2")})
    assert found["ccm_cost_usd_total", who] == 0.75 and found["ccm_list_cost_usd_total", who] == 1.0
    assert found["ccm_unpriced_requests_total", who] == 1
    (model,) = metrics.snapshot()["models"]
    assert (model["cost_usd"], model["unpriced_requests"]) == (0.75, 1)


def test_retries_and_failovers() -> None:
    metrics = Metrics()
    tries = [("a", "m"), ("a", "m"), ("a#2", "m"), ("b", "x"), ("b", "y")]
    metrics.observe(record(attempts=[Attempt(endpoint, model, "529", 0.1) for endpoint, model in tries]))
    seen = metrics.snapshot()
    assert seen["retries"] == [{"endpoint": "a", "count": 1}]
    assert {row["endpoint"]: row["count"] for row in seen["failovers"]} == {"a": 1, "a#2": 1, "b": 1}


def test_an_empty_exposition_is_well_formed() -> None:
    assert parse(Metrics().prometheus()) == {}


def test_numbers() -> None:
    assert [exposition.number(value) for value in (1, 1.0, 0.1, 1e16, float("inf"), float("-inf"), float("nan"))] == [
        "1", "1", "0.1", "10000000000000000", "+Inf", "-Inf", "NaN",
    ]  # fmt: skip


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
