"""The read models: what `ccmctl`, the dashboard and /health show. Reads only; every answer is plain JSON.

Words are for people, figures for programs: a provider's `state` is one word of STATES and `reason` says why.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from ccm.control import drills, recent
from ccm.control.core import Core
from ccm.model import Provider
from ccm.observe.record import RequestRecord

# From best to worst; a provider with several endpoints is as good as its best one.
STATES = ("ready", "recovering", "cooling", "open", "key rejected", "draining", "no key", "disabled")
_TIMED = ("cooling", "open", "key rejected")
RECENT_FAILURES = 5
# Of a provider that a reload has brought since the figures were made.
_UNHEARD = {"first_content_p50_s": None, "first_content_p95_s": None, "success": None, "outcomes": 0}
_BREAKER_WORDS = {"closed": "ready", "half-open": "recovering", "half_open": "recovering", "open": "open"}
_ENDING_WORDS = {
    "failed": "every provider that was tried failed",
    "broken": "the stream broke after it had begun",
}


def read(core: Core, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """The state of ccm in one object (`ccmctl status --json`)."""
    snapshot = core.snapshot
    totals = core.metrics.snapshot()["totals"]
    lately = recent.window(core, recent.WINDOW_S)
    rows = providers(core, lately)
    return {
        "version": core.version,
        "pid": os.getpid(),
        "address": core.address,
        "uptime_s": round(clock() - core.started_at, 1),
        "stopping": core.stopping,
        "health": _health(core, rows),
        "primary": core.router.primary,
        "primary_left_s": core.state.primary_left_s if core.router.primary else None,
        "classes": {
            name: {"primary": provider, "left_s": None if left is None else round(left, 1)}
            for name, (provider, left) in core.state.class_primaries.items()
        },
        "strategy": snapshot.strategy,
        "failover": snapshot.failover.enabled,
        "generation": snapshot.generation,
        "config_problem": core.config_problem,
        "handover": core.handover,
        "config": snapshot.path,
        "demo": snapshot.demo,
        "log_level": core.log_level,
        "in_flight": core.in_flight,
        "totals": totals,
        "lately": {"seconds": lately["span_s"], **lately["all"]},
        "budgets": _budgets(core),
        "drills": drills.running(core),
        "providers": rows,
        "failures": failures(core),
        "debug_bodies": core.bodies.status(),
        "workers": list(core.workers),
        "warnings": [*map(str, snapshot.warnings), *core.state.warnings, *_unkept(core), *_watched(core)],
    }


def _unkept(core: Core) -> list[str]:
    """Why no usage is kept at the moment (a full disk, a file that cannot be written), and what that has cost."""
    store = core.meter.store
    told = store.status() if store is not None else {}
    if not told.get("problem"):
        return []
    return [f"{told['problem']} ({told['waiting']} requests wait, {told['dropped']} are lost)"]


def _watched(core: Core) -> list[str]:
    now = core.bodies.status()
    if not now["active"]:
        return []
    return [f"prompts and answers are written to {now['file']} for another {now['left_s']:.0f} s"]


def health(core: Core) -> dict[str, Any]:
    """One word for a watchdog: ok | degraded | stopping, and how many providers could be asked now."""
    rows = providers(core)
    usable = sum(1 for row in rows if row["state"] in ("ready", "recovering"))
    return {
        "status": _health(core, rows),
        "version": core.version,
        "address": core.address,
        "usable_providers": usable,
        "pid": os.getpid(),
        "in_flight": core.in_flight,
    }


def _health(core: Core, rows: list[dict[str, Any]]) -> str:
    if core.stopping:
        return "stopping"
    usable = any(row["state"] in ("ready", "recovering") for row in rows)
    return "ok" if usable and not core.config_problem else "degraded"


def _budgets(core: Core) -> list[dict[str, Any]]:
    """The budgets and what is spent of them, where there are any."""
    meter = getattr(core, "meter", None)
    return list(meter.status()["budgets"]) if meter is not None else []


def providers(core: Core, lately: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every configured provider in the order of the file, with the live figures of its endpoints. `lately` is
    `recent.window`'s, where the caller has it already."""
    snapshot = core.snapshot
    figures = (lately or recent.window(core, recent.WINDOW_S))["providers"]
    board: dict[str, list[dict[str, Any]]] = {}
    for row in core.router.board():
        board.setdefault(str(row.get("provider") or str(row.get("id", "")).partition("#")[0]), []).append(row)
    primary = core.router.primary
    models = {(row["provider"]): row for row in _per_provider(core)}
    told = {name: figures.get(name, _UNHEARD) for name in snapshot.providers}
    return [
        {
            **_configured(provider),
            **_live(provider, board.get(name, []), core),
            "primary": name == primary,
            "requests": models.get(name, {}).get("requests", 0),
            "first_content_p50_s": told[name]["first_content_p50_s"]
            or models.get(name, {}).get("first_content_p50_s"),
            "first_content_p95_s": told[name]["first_content_p95_s"],
            "success": told[name]["success"],
            "outcomes": told[name]["outcomes"],
        }
        for name, provider in snapshot.providers.items()
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
    errors = [row for row in endpoints if row.get("last_error")]
    youngest = min(errors, key=lambda row: float(row.get("last_error_ago_s") or 0.0)) if errors else None
    quotas = [row["quota"] for row in endpoints if row.get("quota")]
    return {
        "state": state,
        "reason": reason,
        "key": _key_state(provider, endpoints),
        "last_error": str(youngest["last_error"]) if youngest else "",
        "last_error_ago_s": youngest.get("last_error_ago_s") if youngest else None,
        "quota": min(quotas, key=_left_percent) if quotas else None,
        "cooldown_s": round(min(waits), 1) if waits and state in _TIMED else 0.0,
        "in_flight": sum(int(row.get("in_flight") or 0) for row in endpoints),
        "endpoints": endpoints,
    }


def _left_percent(quota: dict[str, Any]) -> float:
    left = quota.get("left_percent")
    return float(left) if left is not None else 100.0


def _key_state(provider: Provider, endpoints: list[dict[str, Any]]) -> str:
    """The keys in a few words: "not needed", "usable", "1 of 2 usable", "rejected", "missing"."""
    if provider.auth == "none" or all(key.kind == "none" for key in provider.keys):
        return "not needed" if not any(key.problem for key in provider.keys) else "missing"
    rejected = {str(row.get("id")) for row in endpoints if row["state"] == "key rejected"}
    usable = sum(1 for key in provider.keys if not key.problem) - len(rejected)
    if usable <= 0:
        return "rejected" if rejected else "missing"
    return "usable" if usable == len(provider.keys) else f"{usable} of {len(provider.keys)} usable"


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
    for record in reversed(recent.records(core)):
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
