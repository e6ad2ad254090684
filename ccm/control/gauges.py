"""The figures of this moment for Prometheus: what is running, who can be asked, what is left of the budgets."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ccm.control import status
from ccm.control.core import Core
from ccm.observe.exposition import Gauge, Labels

USABLE = ("ready", "recovering")
BUDGET_STATES = ("ok", "over 80 %", "over 90 %", "reserved", "used up", "lifted")


def gauges(core: Core, clock: Callable[[], float] = time.monotonic) -> list[Gauge]:
    """Every figure that is not a count of finished requests."""
    return [*_process(core, clock), *_providers(core), *_budgets(core)]


def exposition(core: Core) -> str:
    """All of ccm's figures in Prometheus' text format, without keys."""
    return core.redactor.clean(core.metrics.prometheus(gauges(core)))


def _process(core: Core, clock: Callable[[], float]) -> Iterator[Gauge]:
    build = (("version", core.version), ("python", platform.python_version()))
    yield Gauge("ccm_build_info", "Constant 1, with the versions.", 1, build)
    yield Gauge("ccm_uptime_seconds", "Time since the start.", round(clock() - core.started_at, 3))
    yield Gauge("ccm_in_flight", "Requests running now.", core.in_flight)
    yield Gauge("ccm_stopping", "1 while ccm drains before it stops.", int(core.stopping))
    yield Gauge("ccm_config_generation", "Number of the configuration in use.", core.snapshot.generation)
    yield Gauge(
        "ccm_config_warnings", "What is wrong with the configuration in use.", len(core.snapshot.warnings)
    )
    yield Gauge(
        "ccm_log_lines_dropped_total",
        "Log lines lost since nobody took them.",
        core.log.dropped,
        (),
        "counter",
    )
    faults = core.log.faults + sum(int(row.get("faults", 0)) for row in core.workers)
    yield Gauge("ccm_internal_errors_total", "Bugs of ccm that its log tells of.", faults, (), "counter")
    store = core.meter.store
    kept = store.status() if store is not None else {}
    yield Gauge("ccm_usage_rows_waiting", "Requests whose usage is not yet kept.", _figure(kept, "waiting"))
    lost = _figure(kept, "dropped")
    yield Gauge("ccm_usage_rows_dropped_total", "Requests whose usage is lost.", lost, (), "counter")
    yield Gauge("ccm_debug_bodies", "1 while bodies are written to a file.", int(core.bodies.active))


def _providers(core: Core) -> Iterator[Gauge]:
    rows = status.providers(core)
    labels: Labels
    for row in rows:
        labels = (("provider", str(row["name"])),)
        usable = int(row["state"] in USABLE)
        yield Gauge("ccm_provider_usable", "1 while the provider can be asked.", usable, labels)
        yield Gauge("ccm_provider_in_flight", "Calls running at the provider.", row["in_flight"], labels)
    for row in rows:
        for endpoint in row["endpoints"]:
            labels = (("provider", str(row["name"])), ("endpoint", str(endpoint.get("id", ""))))
            for state in status.STATES:
                yield Gauge(
                    "ccm_endpoint_state",
                    "1 for the state the endpoint is in, 0 for the others.",
                    int(endpoint["state"] == state),
                    (*labels, ("state", state)),
                )
            wait = _figure(endpoint, "cooldown_s")
            yield Gauge(
                "ccm_endpoint_cooldown_seconds", "How long the endpoint is still left alone.", wait, labels
            )
            busy = _figure(endpoint, "in_flight")
            yield Gauge("ccm_endpoint_in_flight", "Calls running at the endpoint.", busy, labels)


def _budgets(core: Core) -> Iterator[Gauge]:
    """Of every budget as `meter.status()` tells it: `name`, `per`, `spent_usd`, `limit_usd`, `state` (BUDGET_STATES)."""
    for row in budget_rows(core):
        labels = (("budget", str(row.get("name", ""))), ("per", str(row.get("per", ""))))
        yield Gauge("ccm_budget_spent_usd", "Spent in the running period.", _figure(row, "spent_usd"), labels)
        yield Gauge(
            "ccm_budget_limit_usd", "What may be spent in a period.", _figure(row, "limit_usd"), labels
        )
        for state in BUDGET_STATES:
            yield Gauge(
                "ccm_budget_state",
                "1 for the state the budget is in, 0 for the others.",
                int(row.get("state") == state),
                (*labels, ("state", state)),
            )


def budget_rows(core: Core) -> list[Mapping[str, Any]]:
    """The budgets' rows; none where nothing keeps them."""
    meter = getattr(core, "meter", None)
    told = meter.status() if meter is not None else {}
    rows = told.get("budgets", ()) if isinstance(told, Mapping) else told
    return [row for row in rows if isinstance(row, Mapping)]


def _figure(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return 0.0
    return float(value)
