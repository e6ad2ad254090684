"""The read models: what `ccmctl`, the dashboard and /health show. Reads only; every answer is plain JSON.

Words are for people, figures for programs: a provider's `state` is one word of STATES and `reason` says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ccm.control.core import Core
from ccm.model import Provider
from ccm.observe.metrics import Gauge
from ccm.observe.record import RequestRecord

# From best to worst; a provider with several endpoints is as good as its best one.
STATES = ("ready", "recovering", "cooling", "open", "key rejected", "draining", "no key", "disabled")
_TIMED = ("cooling", "open", "key rejected")
RECENT_FAILURES = 5
MAX_REQUESTS = 200
_BREAKER_WORDS = {"closed": "ready", "half-open": "recovering", "half_open": "recovering", "open": "open"}
_ENDING_WORDS = {
    "failed": "every provider that was tried failed",
    "broken": "the stream broke after it had begun",
}


def read(core: Core, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """The state of ccm in one object (`ccmctl status --json`)."""
    snapshot = core.snapshot
    totals = core.metrics.snapshot()["totals"]
    rows = providers(core)
    return {
        "version": core.version,
        "address": core.address,
        "uptime_s": round(clock() - core.started_at, 1),
        "stopping": core.stopping,
        "health": _health(core, rows),
        "primary": core.router.primary,
        "primary_left_s": core.state.primary_left_s if core.router.primary else None,
        "strategy": snapshot.strategy,
        "failover": snapshot.failover.enabled,
        "generation": snapshot.generation,
        "config": snapshot.path,
        "demo": snapshot.demo,
        "log_level": core.log_level,
        "in_flight": core.in_flight,
        "totals": totals,
        "providers": rows,
        "failures": failures(core),
        "warnings": [str(problem) for problem in snapshot.warnings] + list(core.state.warnings),
    }


def health(core: Core) -> dict[str, Any]:
    """One word for a watchdog: ok | degraded | stopping, and how many providers could be asked now."""
    rows = providers(core)
    usable = sum(1 for row in rows if row["state"] in ("ready", "recovering"))
    return {
        "status": _health(core, rows),
        "version": core.version,
        "address": core.address,
        "usable_providers": usable,
        "in_flight": core.in_flight,
    }


def _health(core: Core, rows: list[dict[str, Any]]) -> str:
    if core.stopping:
        return "stopping"
    usable = any(row["state"] in ("ready", "recovering") for row in rows)
    return "ok" if usable else "degraded"


def providers(core: Core) -> list[dict[str, Any]]:
    """Every configured provider in the order of the file, with the live figures of its endpoints."""
    board: dict[str, list[dict[str, Any]]] = {}
    for row in core.router.board():
        board.setdefault(str(row.get("provider") or str(row.get("id", "")).partition("#")[0]), []).append(row)
    primary = core.router.primary
    models = {(row["provider"]): row for row in _per_provider(core)}
    return [
        {
            **_configured(provider),
            **_live(provider, board.get(name, []), core),
            "primary": name == primary,
            "requests": models.get(name, {}).get("requests", 0),
            "first_content_p50_s": models.get(name, {}).get("first_content_p50_s"),
        }
        for name, provider in core.snapshot.providers.items()
    ]


def _configured(provider: Provider) -> dict[str, Any]:
    """What the configuration says; of the keys only where they come from."""
    return {
        "name": provider.name,
        "type": provider.type,
        "dialect": provider.dialect,
        "base_url": provider.base_url,
        "enabled": provider.enabled,
        "priority": provider.priority,
        "weight": provider.weight,
        "keys": [
            {
                "from": f"{key.kind} {key.name}".strip(),
                "fingerprint": key.secret.fingerprint if key.secret is not None else "",
                "usable": not key.problem,
                "problem": key.problem,
            }
            for key in provider.keys
        ],
    }


def _live(provider: Provider, board: list[dict[str, Any]], core: Core) -> dict[str, Any]:
    endpoints = [{**_finite(row), "state": _endpoint_state(row)} for row in board]
    off = not provider.enabled or provider.name in core.state.disabled
    problems = [key.problem for key in provider.keys if key.problem]
    if off:
        state, reason = (
            "disabled",
            "switched off" if provider.enabled else "enabled = false in the configuration",
        )
    elif not endpoints:
        state, reason = "no key", problems[0] if problems else "no usable key"
    elif provider.name in core.state.drained:
        state, reason = "draining", "no new requests"
    else:
        best = min(endpoints, key=lambda row: STATES.index(row["state"]))
        state, reason = best["state"], str(best.get("reason") or "")
    if state == "ready":
        worse = [f"{row.get('id')}: {row['state']}" for row in endpoints if row["state"] != "ready"]
        reason = "; ".join([*([reason] if reason else []), *worse])
    waits = [float(row.get("cooldown_s") or 0.0) for row in endpoints]
    return {
        "state": state,
        "reason": reason,
        "cooldown_s": round(min(waits), 1) if waits and state in _TIMED else 0.0,
        "in_flight": sum(int(row.get("in_flight") or 0) for row in endpoints),
        "endpoints": endpoints,
    }


def _endpoint_state(row: dict[str, Any]) -> str:
    """A board row in one word of STATES. The breaker's own word comes before a cool-down, an order before both."""
    if row.get("enabled") is False:
        return "disabled"
    if row.get("draining"):
        return "draining"
    state = str(row.get("state") or "closed")
    word = _BREAKER_WORDS.get(state, state)
    if word == "ready" and float(row.get("cooldown_s") or 0.0) > 0:
        return "cooling"
    return word if word in STATES else "cooling"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row that JSON can carry: a wait without an end (a rejected key) is None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _per_provider(core: Core) -> list[dict[str, Any]]:
    """The models' figures summed per provider; the median is that of its busiest model."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(core.metrics.snapshot()["models"], key=lambda row: -int(row["requests"])):
        mine = found.setdefault(
            row["provider"],
            {"provider": row["provider"], "requests": 0, "first_content_p50_s": row["first_content_p50_s"]},
        )
        mine["requests"] += row["requests"]
    return list(found.values())


def failures(core: Core) -> list[dict[str, Any]]:
    """The last requests that did not end well, youngest first: when, which, and what happened in words."""
    found = []
    for record in reversed(_recent(core)):
        if record.ending in _ENDING_WORDS:
            found.append(
                {"at": record.at, "id": record.id, "status": record.status, "text": in_words(record)}
            )
            if len(found) == RECENT_FAILURES:
                break
    return found


def in_words(record: RequestRecord) -> str:
    """`claude-opus-5-5: every provider that was tried failed (anthropic 529, openai connect): <error>`."""
    tried = ", ".join(f"{attempt.endpoint} {attempt.result}" for attempt in record.attempts)
    text = f"{record.asked_model or record.surface}: {_ENDING_WORDS.get(record.ending, record.ending)}"
    if tried:
        text += f" ({tried})"
    return f"{text}: {record.error}" if record.error else text


def requests(core: Core, limit: int = 20) -> list[dict[str, Any]]:
    """The last `limit` finished requests, youngest first."""
    return [
        {
            "id": record.id,
            "at": record.at,
            "status": record.status,
            "ending": record.ending,
            "surface": record.surface,
            "stream": record.stream,
            "asked_model": record.asked_model,
            "class": record.request_class,
            "provider": record.provider,
            "endpoint": record.endpoint,
            "model": record.model,
            "route": record.route,
            "attempts": [
                {
                    "endpoint": attempt.endpoint,
                    "model": attempt.model,
                    "result": attempt.result,
                    "seconds": round(attempt.seconds, 4),
                    "error": attempt.error,
                }
                for attempt in record.attempts
            ],
            "first_content_s": record.first_content_s,
            "total_s": round(record.total_s, 4),
            "input_tokens": record.usage.input,
            "cache_read_tokens": record.usage.cache_read,
            "cache_write_tokens": record.usage.cache_write,
            "output_tokens": record.usage.output,
            "stop_reason": record.stop_reason,
            "losses": list(record.losses),
            "error": record.error,
        }
        for record in list(reversed(_recent(core)))[: max(0, min(limit, MAX_REQUESTS))]
    ]


def gauges(core: Core, clock: Callable[[], float] = time.monotonic) -> list[Gauge]:
    """The figures of this moment, for Prometheus."""
    rows = providers(core)
    return [
        Gauge("ccm_info", "Constant 1, with the version.", 1, (("version", core.version),)),
        Gauge("ccm_uptime_seconds", "Time since the start.", round(clock() - core.started_at, 3)),
        Gauge("ccm_in_flight", "Requests running now.", core.in_flight),
        Gauge("ccm_log_lines_dropped", "Log lines lost since nobody took them.", core.log.dropped),
        Gauge("ccm_config_generation", "Number of the configuration in use.", core.snapshot.generation),
        *(
            Gauge(
                "ccm_provider_usable",
                "1 while the provider can be asked.",
                1 if row["state"] in ("ready", "recovering") else 0,
                (("provider", row["name"]),),
            )
            for row in rows
        ),
        *(
            Gauge(
                "ccm_provider_in_flight",
                "Calls running at the provider.",
                row["in_flight"],
                (("provider", row["name"]),),
            )
            for row in rows
        ),
    ]


def _recent(core: Core) -> list[RequestRecord]:
    """A copy, made in one step, of a deque that other threads append to: a loop over it would raise when they do."""
    return list(core.recent)
