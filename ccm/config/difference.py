"""What a new configuration changes, in words: "google: priority 3 -> 1", "openai: removed, 2 streams will finish".

Pure, and without secrets: of keys, tokens, headers and proxies it tells that they changed; of keys the fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.model import KeySource, Provider, Snapshot
from ccm.shape import fields, is_dataclass

LATER = "needs `ccmctl restart --handover`"
# Read once at the start: a reload keeps what is in use.
AT_START = ("listen", "workers")
_GENERAL = (
    "strategy", "max_in_flight", "drain_timeout_s", "log_level", "watch", "otlp_endpoint", "allowed_hosts",
    "workers", "log_format", "log_file",
)  # fmt: skip
_PLAIN = (
    "type", "dialect", "base_url", "auth", "priority", "weight", "max_in_flight", "cache_ttl_s", "prefer_until",
    "quirks", "abilities",
)  # fmt: skip
_TOLD_OPTIONS = frozenset({"region", "project", "resource", "api_version", "profile"})


def difference(old: Snapshot, new: Snapshot, running: Mapping[str, int] | None = None) -> list[str]:
    """One sentence per change, providers first, in the order of the files; [] when nothing changes.

    `running` says how many requests each provider is answering now.
    """
    told: list[str] = []
    for name in dict.fromkeys((*old.providers, *new.providers)):
        told += _provider(name, old.providers.get(name), new.providers.get(name), running or {})
    told += _general(old, new)
    return told


def later(old: Snapshot, new: Snapshot) -> list[str]:
    """Those of the sentences that a reload cannot bring about."""
    return [line for line in _general(old, new) if line.endswith(LATER)]


def _provider(name: str, old: Provider | None, new: Provider | None, running: Mapping[str, int]) -> list[str]:
    if new is None:
        count = running.get(name, 0)
        tail = f", {count} {'stream' if count == 1 else 'streams'} will finish" if count else ""
        return [f"{name}: removed{tail}"]
    if old is None:
        state = "" if new.enabled else ", disabled"
        return [f"{name}: added, priority {new.priority}{state}"]
    told = []
    if old.enabled != new.enabled:
        told.append("enabled" if new.enabled else "disabled")
    told += [_change(word, getattr(old, word), getattr(new, word)) for word in _PLAIN]
    told += _keys(old.keys, new.keys)
    told += _mapping("model", old.models, new.models)
    told += _mapping("tier", old.tiers, new.tiers)
    told += [f"header {header} changed" for header in _changed(old.headers, new.headers)]
    told += _fields("timeout", old.timeouts, new.timeouts)
    for option in _changed(old.options, new.options):
        if option in _TOLD_OPTIONS:
            told.append(_change(option, old.options.get(option, ""), new.options.get(option, "")))
        else:
            told.append(f"{option} changed")
    return [f"{name}: {text}" for text in told if text]


def _keys(old: tuple[KeySource, ...], new: tuple[KeySource, ...]) -> list[str]:
    if len(old) != len(new):
        return [f"{len(old)} -> {len(new)} keys"]
    told = []
    for number, (was, now) in enumerate(zip(old, new, strict=True), 1):
        which = "key" if len(old) == 1 else f"key {number}"
        if (was.kind, was.name) != (now.kind, now.name):
            told.append(f"{which} comes from {_from(now)}, not from {_from(was)}")
        elif was.secret != now.secret:
            told.append(f"{which} changed ({_print(was)} -> {_print(now)})")
    return told


def _from(key: KeySource) -> str:
    return f"{key.kind} {key.name}".strip() if key.kind in ("env", "file") else f"a {key.kind}"


def _print(key: KeySource) -> str:
    return f"fingerprint {key.secret.fingerprint}" if key.secret is not None else "no key"


def _general(old: Snapshot, new: Snapshot) -> list[str]:
    told = []
    if (old.host, old.port) != (new.host, new.port):
        told.append(f"listen: {old.host}:{old.port} -> {new.host}:{new.port}, {LATER}")
    for word in _GENERAL:
        was, now = getattr(old, word), getattr(new, word)
        if text := _change("", was, now):
            told.append(f"{word}: {text}" + (f", {LATER}" if word in AT_START else ""))
    if old.auth_token != new.auth_token:
        told.append("auth_token: changed, clients need the new one at once")
    told += [f"failover: {text}" for text in _fields("", old.failover, new.failover)]
    told += [f"models: {text}" for text in _mapping("", old.models, new.models)]
    told += [f"routing: {text}" for text in _fields("", old.routing, new.routing)]
    told += [f"usage: {text}" for text in _fields("", old.usage, new.usage)]
    return told


def _fields(label: str, old: Any, new: Any) -> list[str]:
    """The fields of two settings of one kind that differ; tables of named rows (rules, budgets) row by row."""
    told = []
    for field in fields(old):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was == now:
            continue
        word = f"{label} {field.name}".strip()
        rows = [row for row in (*was, *now) if hasattr(row, "name")] if isinstance(was, tuple) else []
        if rows:
            told += [f"{word}: {text}" for text in _rows(was, now)]
        elif is_dataclass(was):
            told += [f"{word} {text}" for text in _fields("", was, now)]
        else:
            told.append(_change(word, was, now))
    return told


def _rows(old: tuple[Any, ...], new: tuple[Any, ...]) -> list[str]:
    before, after = {row.name: row for row in old}, {row.name: row for row in new}
    told = [f"{name} removed" for name in before if name not in after]
    told += [f"{name} added" for name in after if name not in before]
    told += [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    return told or ["another order"]


def _mapping(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    told = []
    for key in _changed(old, new):
        word = f"{label} {key}".strip()
        if key not in new:
            told.append(f"{word} removed")
        else:
            told.append(f"{word} {_say(old[key]) if key in old else 'unset'} -> {_say(new[key])}")
    if not told and list(old) != list(new):
        told.append(f"{label} entries in another order".strip())
    return told


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]


def _change(word: str, old: Any, new: Any) -> str:
    """`priority 3 -> 1`; "" when they are the same."""
    return "" if old == new else f"{word} {_say(old)} -> {_say(new)}".strip()


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_say(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (frozenset, tuple, list)):
        return ", ".join(map(_say, sorted(value) if isinstance(value, frozenset) else value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "unset"
