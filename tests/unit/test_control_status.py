"""The read models: one word per provider, failures in words, and nothing secret in them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ccm.control import gauges, status
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord


def by_name(core) -> dict:
    return {row["name"]: row for row in status.providers(core)}


def test_status_at_a_glance(fake_core) -> None:
    fake_core.router.primary = "openai"
    seen = status.read(fake_core, clock=lambda: 160.0)
    assert (seen["version"], seen["uptime_s"], seen["health"]) == ("1.0.0", 60.0, "ok")
    assert (seen["primary"], seen["strategy"], seen["generation"]) == ("openai", "priority", 3)
    assert [row["name"] for row in seen["providers"]] == ["anthropic", "openai", "groq", "old"]
    assert [row["primary"] for row in seen["providers"]] == [False, True, False, False]
    assert "sk-canary" not in json.dumps(seen)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"state": "closed"}, "ready"),
        ({}, "ready"),
        ({"state": "half-open"}, "recovering"),
        ({"state": "open", "cooldown_s": 12.34, "reason": "5 failures in a row"}, "open"),
        ({"state": "closed", "cooldown_s": 5}, "cooling"),
        ({"state": "closed", "draining": True}, "draining"),
        ({"state": "closed", "enabled": False}, "disabled"),
        ({"state": "something new"}, "cooling"),
        ({"state": "ready", "reason": "cooling: model x"}, "ready"),
        ({"state": "key rejected", "reason": "401", "cooldown_s": float("inf")}, "key rejected"),
    ],
)
def test_one_word_per_provider(fake_core, row: dict, state: str) -> None:
    fake_core.router.rows = [{"id": "openai", "provider": "openai", **row}]
    found = by_name(fake_core)["openai"]
    assert found["state"] == state
    assert found["reason"] == row.get("reason", "")
    wait = row.get("cooldown_s", 0)
    assert found["cooldown_s"] == (0 if wait == float("inf") else round(wait, 1))
    json.dumps(found, allow_nan=False)


def test_a_provider_is_as_good_as_its_best_key(fake_core) -> None:
    fake_core.router.rows = [
        {"id": "openai", "provider": "openai", "state": "open", "in_flight": 2},
        {"id": "openai#2", "provider": "openai", "state": "closed", "in_flight": 3},
    ]
    found = by_name(fake_core)["openai"]
    assert (found["state"], found["in_flight"], found["reason"]) == ("ready", 5, "openai: open")


def test_why_a_provider_is_out(fake_core) -> None:
    found = by_name(fake_core)
    assert (found["groq"]["state"], found["groq"]["reason"]) == (
        "no key",
        "environment variable GROQ_API_KEY is not set",
    )
    assert found["old"]["state"] == "disabled" and "configuration" in found["old"]["reason"]
    fake_core.state.set_disabled("openai", True)
    assert (by_name(fake_core)["openai"]["state"], by_name(fake_core)["openai"]["reason"]) == (
        "disabled",
        "switched off",
    )


def test_health(fake_core) -> None:
    assert status.health(fake_core)["usable_providers"] == 2
    fake_core.router.rows = [{"id": "openai", "provider": "openai", "state": "open"}]
    assert status.health(fake_core)["status"] == "degraded"
    fake_core.stopping = True
    assert status.health(fake_core)["status"] == "stopping"


def record(number: int, ending: str) -> RequestRecord:
    return RequestRecord(
        id=f"r{number}",
        at=number,
        asked_model="claude-opus-5-5",
        status=503,
        ending=ending,
        provider="openai",
        model="gpt-5.2",
        attempts=[Attempt("anthropic", "m", "529", 0.1), Attempt("openai", "m", "connect", 0.2)],
        usage=Usage(output=7),
        first_content_s=0.3,
        error="nobody answered",
    )


def test_failures_in_words_youngest_first(fake_core) -> None:
    for number in range(10):
        fake_core.recent.append(record(number, "failed" if number % 2 else "complete"))
    found = status.failures(fake_core)
    assert [failure["id"] for failure in found] == ["r9", "r7", "r5", "r3", "r1"]
    assert found[0]["text"] == (
        "claude-opus-5-5: every provider that was tried failed (anthropic 529, openai connect): nobody answered"
    )


def test_requests_of_a_provider_are_counted(fake_core) -> None:
    for number in range(10):
        fake_core.metrics.observe(record(number, "complete"))
    assert by_name(fake_core)["openai"]["requests"] == 10
    assert by_name(fake_core)["anthropic"]["requests"] == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"state": "closed"}], "usable"),
        ([{"state": "key rejected"}], "rejected"),
    ],
)
def test_the_state_of_keys(fake_core, rows: list[dict], says: str) -> None:
    fake_core.router.rows = [{"id": "openai", "provider": "openai", **row} for row in rows]
    assert by_name(fake_core)["openai"]["key"] == says
    assert by_name(fake_core)["groq"]["key"] == "missing"


def test_the_youngest_error_and_the_smallest_quota(fake_core) -> None:
    fake_core.router.rows = [
        {"id": "openai", "provider": "openai", "state": "closed", "last_error": "old", "last_error_ago_s": 50.0,
         "quota": {"left_percent": 80.0, "resets_s": 60}},
        {"id": "openai#2", "provider": "openai", "state": "closed", "last_error": "new", "last_error_ago_s": 2.0,
         "quota": {"left_percent": 12.5, "resets_s": 90}},
    ]  # fmt: skip
    found = by_name(fake_core)["openai"]
    assert (found["last_error"], found["last_error_ago_s"]) == ("new", 2.0)
    assert found["quota"]["left_percent"] == 12.5
    assert by_name(fake_core)["anthropic"]["quota"] is None


def test_budgets_where_there_are_any(fake_core) -> None:
    assert status.read(fake_core)["budgets"] == []
    fake_core.meter = SimpleNamespace(status=lambda: {"budgets": [{"name": "daily"}]}, store=None)
    assert status.read(fake_core)["budgets"] == [{"name": "daily"}]


def test_usage_that_cannot_be_kept_is_told(fake_core) -> None:
    """RELIABILITY 74, 75: served all the same, and said so."""
    told = {"problem": "", "waiting": 7, "dropped": 2}
    fake_core.meter = SimpleNamespace(
        status=lambda: {"budgets": []}, store=SimpleNamespace(status=lambda: told)
    )
    assert status.read(fake_core)["warnings"] == []
    told["problem"] = "usage cannot be kept in usage.db: disk full"
    (warning,) = status.read(fake_core)["warnings"]
    assert warning == "usage cannot be kept in usage.db: disk full (7 requests wait, 2 are lost)"
    text = fake_core.metrics.prometheus(gauges.gauges(fake_core))
    assert "ccm_usage_rows_waiting 7\n" in text and "ccm_usage_rows_dropped_total 2\n" in text


def test_gauges(fake_core) -> None:
    text = fake_core.metrics.prometheus(gauges.gauges(fake_core, clock=lambda: 101.5))
    assert "ccm_uptime_seconds 1.5\n" in text
    assert 'ccm_provider_usable{provider="openai"} 1\n' in text
    assert 'ccm_provider_usable{provider="groq"} 0\n' in text


def test_a_provider_that_a_reload_has_just_brought_has_no_figures_yet(fake_core) -> None:
    rows = status.providers(fake_core, {"providers": {}})
    assert rows
    assert all(row["success"] is None and row["outcomes"] == 0 for row in rows)
