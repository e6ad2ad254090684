"""The configuration in use, key by key: the value that holds, whether it is the default, and the line it comes from.

Values are read off the Snapshot, so they are what runs; the file is only asked for its lines. No key's value is ever
among them: of credentials only where they come from and a fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccm import shape as dataclasses
from ccm.config import legacy, read, schema
from ccm.config.locate import Lines
from ccm.control.core import Core
from ccm.errors import ConfigError
from ccm.model import Provider, Snapshot

_MOST_BYTES = 1024 * 1024
_HIDDEN = "(hidden)"


def config(core: Core) -> dict[str, Any]:
    """`values`: {key, value, default (bool), from}; `from` is "file:line", "default", "catalogue" or "environment"."""
    snapshot = core.snapshot
    origin = _Origin(snapshot)
    values = [
        *(_row(("proxy", name), value, origin) for name, value in _proxy(snapshot).items()),
        *(_row(("failover", name), value, origin) for name, value in _fields(snapshot.failover).items()),
        *(_row(("load_balancing", name), value, origin) for name, value in _balancing(snapshot).items()),
        *(
            row
            for provider in snapshot.providers.values()
            for row in _provider_rows(provider, origin, snapshot)
        ),
        *(_row(("models", name), _plain(value), origin) for name, value in snapshot.models.items()),
        *(
            _row(("usage", name), value, origin)
            for name, value in (
                ("enabled", snapshot.usage.enabled),
                ("retention_days", snapshot.usage.retention_days),
            )
        ),
        *(
            _row(("budgets", budget.name, name), value, origin)
            for budget in snapshot.usage.budgets
            for name, value in _fields(budget).items()
            if name != "name" and value != ""
        ),
    ]
    return {
        "path": snapshot.path,
        "generation": snapshot.generation,
        "changed": origin.changed,
        "rules": [_rule(rule) for rule in snapshot.routing.rules],
        "values": values,
        "warnings": [str(problem) for problem in snapshot.warnings],
    }


class _Origin:
    """Where values come from: the lines of the file as it is now, as far as it can still be read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.file = Path(snapshot.path).name if snapshot.path else ""
        self.reading: read.Reading | None = None
        self.lines = Lines("")
        self.changed = False  # the file can no longer be read as a configuration
        self.elsewhere = "the demo" if snapshot.demo else "environment"
        if not snapshot.path:
            return
        try:
            with open(snapshot.path, encoding="utf-8-sig") as file:
                text = file.read(_MOST_BYTES)
            modern, notes = legacy.modern(text, self.file)
            self.reading = read.Reading(modern, self.file)
            if not notes:  # a file in the old form was rewritten: its lines are others
                self.lines = Lines(text)
        except (OSError, ValueError, ConfigError):
            self.changed = True

    def of(self, path: tuple[str, ...]) -> str:
        """ "file:line" for a key that the file gives, else ""."""
        if self.reading is None or not self.reading.given(*path):
            return ""
        line = self.lines.of(path)
        return f"{self.file}:{line}" if line else self.file


def _row(
    path: tuple[str, ...], value: Any, origin: _Origin, other: str = "default", hidden: bool = False
) -> dict[str, Any]:
    """`table` and `name` are the two halves of the key."""
    key = schema.find_key(path)
    said = origin.of(path)
    same = key is None or _plain(key.default) == _plain(value)
    is_default = not said and same
    if not is_default and other == "default":
        other = "command line or environment" if path[0] == "proxy" else "catalogue"
    return {
        "key": read.key_text(path),
        "table": read.key_text(path[:-1]),
        "name": read.key_text(path[-1:]),
        "value": _HIDDEN if hidden else _plain(value),
        "default": is_default,
        "from": said or ("default" if is_default else other),
    }


def _proxy(snapshot: Snapshot) -> dict[str, Any]:
    host = f"[{snapshot.host}]" if ":" in snapshot.host else snapshot.host
    token = schema.DEFAULT_TOKEN if snapshot.auth_token == schema.DEFAULT_TOKEN else _HIDDEN
    return {
        "listen": f"{host}:{snapshot.port}",
        "auth_token": token,
        "max_in_flight": snapshot.max_in_flight,
        "drain_timeout_s": snapshot.drain_timeout_s,
        "workers": snapshot.workers,
        "watch": snapshot.watch,
        "log_level": snapshot.log_level,
    }


def _balancing(snapshot: Snapshot) -> dict[str, Any]:
    routing = snapshot.routing
    return {
        "strategy": snapshot.strategy,
        "sticky": routing.sticky,
        "hedge": routing.hedge,
        "spare": routing.spare,
    }


def _provider_rows(provider: Provider, origin: _Origin, snapshot: Snapshot) -> list[dict[str, Any]]:
    at = ("providers", provider.name)
    other = "catalogue" if snapshot.path else origin.elsewhere
    rows = [_row((*at, "enabled"), provider.enabled, origin)]
    for name in ("type", "dialect", "base_url", "auth"):
        rows.append(_row((*at, name), getattr(provider, name), origin, other))
    for key in provider.keys:
        path = (*at, f"api_key_{key.kind}")
        note = f"fingerprint {key.secret.fingerprint}" if key.secret is not None else key.problem
        rows.append({**_row(path, key.name, origin, other), "note": note})
    for name in ("priority", "weight", "max_in_flight", "cache_ttl_s", "prefer_until"):
        rows.append(_row((*at, name), getattr(provider, name), origin))
    for name, value in _fields(provider.timeouts).items():
        rows.append(_row((*at, "timeouts", name), value, origin))
    for name in provider.headers:
        rows.append(_row((*at, "headers", name), None, origin, other, hidden=True))
    for name, value in {**provider.tiers, **provider.models}.items():
        rows.append(_row((*at, "models", name), value, origin, "catalogue"))
    return rows


def _rule(rule: Any) -> dict[str, Any]:
    """A rule with the fields that say something; header patterns may be secret, their names are not."""
    when = {name: value for name, value in _fields(rule.when).items() if value}
    if "headers" in when:
        when["headers"] = list(when["headers"])
    use = {name: value for name, value in _fields(rule.use).items() if value not in ((), "", None, False, [])}
    return {"name": rule.name, "when": when, "use": use}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [_plain(one) for one in value]
    return value
