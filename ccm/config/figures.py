"""[usage], [budgets] and [guard]: what is kept of requests, and what they may cost."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ccm.config.options import resolve
from ccm.config.read import Reading
from ccm.settings import Budget, GuardSettings, UsageSettings


def build_usage(reading: Reading, providers: Collection[str], base: Path, home: Path) -> UsageSettings:
    """The settings of the usage store with budgets and guard; faults are noted on the reading."""
    file = str(reading.get("usage", "file"))
    budgets = [_budget(reading, name, providers) for name in reading.names("budgets")]
    enabled = bool(reading.get("usage", "enabled"))
    if budgets and not enabled:
        reading.problem(
            ("usage", "enabled"), "budgets need the usage store", "set it to true, or remove [budgets]"
        )
    return UsageSettings(
        enabled=enabled,
        path=str(resolve(file, base, home)) if file else "",
        retention_days=reading.get("usage", "retention_days"),
        budgets=tuple(budget for budget in budgets if budget is not None),
        guard=GuardSettings(
            repeats=reading.get("guard", "repeats"), spend_factor=float(reading.get("guard", "spend_factor"))
        ),
    )


def _budget(reading: Reading, name: str, providers: Collection[str]) -> Budget | None:
    at = ("budgets", name)
    limit = reading.get(*at, "limit_usd")
    if limit is None:
        reading.problem(at, "has no limit_usd", "say how much may be spent: limit_usd = 10")
        return None
    provider, then = str(reading.get(*at, "provider")), str(reading.get(*at, "then"))
    downgrade_to = str(reading.get(*at, "downgrade_to"))
    if provider and provider not in providers:
        reading.problem(
            (*at, "provider"), "no provider of that name is configured", f"one of {', '.join(providers)}"
        )
    if then == "downgrade" and not downgrade_to:
        reading.problem(
            at, "does not say where to downgrade to", 'add downgrade_to = "provider/model", or then = "stop"'
        )
    if downgrade_to and then != "downgrade":
        reading.problem(
            (*at, "downgrade_to"), f'has no effect with then = "{then}"', 'set then = "downgrade"'
        )
    return Budget(
        name=name,
        limit_usd=float(limit),
        per=str(reading.get(*at, "per")),
        provider=provider,
        model=str(reading.get(*at, "model")),
        request_class=str(reading.get(*at, "class")),
        project=str(reading.get(*at, "project")),
        then=then,
        downgrade_to=downgrade_to,
    )
