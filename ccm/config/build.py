"""Checked values -> Snapshot: providers with their keys, addresses and models, and what is worth a warning.

Layer 2 because of the keys: it reads the environment it is given and the key files the configuration names. It opens
nothing else, asks no provider, and notes faults on the `Reading` instead of stopping at the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.catalog.rows import bundled_rows
from ccm.config import checks, schema, urls
from ccm.config.figures import build_usage
from ccm.config.options import resolve
from ccm.config.providers import Built, Surroundings, build_provider
from ccm.config.read import Reading
from ccm.config.routes import build_routing
from ccm.model import Endpoint, Provider, Snapshot
from ccm.settings import FailoverSettings
from ccm.shape import dataclass

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a snapshot is made from besides the text. `listen` ("" = the file's) comes from the command line."""

    path: str
    base: Path  # relative paths of the configuration start here
    home: Path
    env: Mapping[str, str]
    generation: int = 1
    demo_url: str = ""
    listen: str = ""
    demo: bool = False


def build(reading: Reading, origin: Origin, book: ModelBook) -> Snapshot:
    """The snapshot of a configuration. Raises ConfigError with every problem found by now."""
    listen = _listen(reading, origin)
    token = str(reading.get("proxy", "auth_token"))
    around = Surroundings(origin.env, origin.base, origin.home, token, origin.demo_url, book)
    _check_names(reading)
    built = [build_provider(reading, name, around) for name in reading.names("providers")]
    if not built and not reading.problems:
        reading.problem((), "names no provider", f"add a table [providers.NAME]; known are {_some_rows()}")
    providers = {b.provider.name: b.provider for b in built if b is not None}
    endpoints = tuple(e for b in built if b is not None for e in b.endpoints)
    models = _models(reading, providers)
    routing = build_routing(reading, providers, endpoints)
    if not endpoints and not reading.problems:
        _nothing_usable(reading, [b for b in built if b is not None])
    reading.raise_all()
    _warn_missing(reading, [b for b in built if b is not None])
    _warn_disabled_targets(reading, models, providers, endpoints)
    fields: dict[str, Any] = {
        "generation": origin.generation,
        "path": origin.path,
        "host": listen.host,
        "port": listen.port,
        "auth_token": token,
        "allowed_hosts": _allowed_hosts(reading, listen),
        "endpoints": endpoints,
        "providers": MappingProxyType(providers),
        "failover": FailoverSettings(
            enabled=reading.get("failover", "enabled"),
            max_retries=reading.get("failover", "max_retries"),
            backoff_ms=reading.get("failover", "backoff_ms"),
            deadline_s=float(reading.get("failover", "deadline_s")),
            midstream=str(reading.get("failover", "midstream")),
        ),
        "strategy": str(reading.get("load_balancing", "strategy")).replace("_", "-"),
        "models": MappingProxyType(models),
        "max_in_flight": reading.get("proxy", "max_in_flight"),
        "drain_timeout_s": float(reading.get("proxy", "drain_timeout_s")),
        "log_level": _log_level(reading),
        "log_format": reading.get("logging", "format"),
        "log_file": _log_file(reading, origin),
        "warnings": tuple(sorted(reading.warnings, key=lambda p: p.line or 0)),
        "demo": origin.demo,
        "routing": routing,
        "usage": build_usage(reading, tuple(providers), origin.base, origin.home),
        "workers": reading.get("proxy", "workers"),
        "watch": bool(reading.get("proxy", "watch")),
        "otlp_endpoint": str(reading.get("telemetry", "otlp_endpoint")),
    }
    reading.raise_all()
    return Snapshot(**fields)


def _check_names(reading: Reading) -> None:
    """Names are written into headers, paths and commands: two that differ in case only would be mistaken."""
    seen: dict[str, str] = {}
    for name in reading.names("providers"):
        first = seen.setdefault(name.lower(), name)
        if first != name:
            told = f"has the name of providers.{first} but for its case"
            reading.problem(("providers", name), told, "give one of them another name")


def _listen(reading: Reading, origin: Origin) -> urls.Listen:
    at = ("proxy", "listen")
    try:
        listen = urls.parse_listen(origin.listen or str(reading.get(*at)))
    except urls.BadAddress as error:
        # The file's own value was checked when it was read, so this is the command line's.
        reading.problem((), f"--listen {error.text}", error.fix)
        return urls.Listen("127.0.0.1", 0)
    if listen.loopback:
        return listen
    if str(reading.get("proxy", "auth_token")) == schema.DEFAULT_TOKEN:
        reading.problem(
            at,
            "other machines could spend your keys: everybody knows the default auth_token",
            "set [proxy] auth_token to a secret of your own, or listen on 127.0.0.1",
        )
    if not reading.get("proxy", "allow_remote"):
        reading.problem(
            at,
            "other machines could reach this address",
            "set [proxy] allow_remote = true if that is meant, or listen on 127.0.0.1",
        )
    if listen.wildcard and not reading.given("proxy", "allowed_hosts"):
        reading.warn(
            at,
            "clients that call this proxy by another name than localhost will be refused",
            "list its names in [proxy] allowed_hosts",
        )
    return listen


def _allowed_hosts(reading: Reading, listen: urls.Listen) -> tuple[str, ...]:
    """The names of this machine's loopback, the listening address and the user's own, in lower case."""
    own = [str(host).lower().rstrip(".") for host in reading.get("proxy", "allowed_hosts")]
    heard = [] if listen.wildcard else [listen.host]
    return tuple(dict.fromkeys((*LOOPBACK_NAMES, *heard, *own)))


def _log_level(reading: Reading) -> str:
    levels = {reading.get(*at) for at in (("proxy", "log_level"), ("logging", "level")) if reading.given(*at)}
    if len(levels) > 1:
        reading.problem(
            ("logging", "level"), "says something else than [proxy] log_level", "leave one of them out"
        )
    return str(levels.pop()) if levels else "info"


def _log_file(reading: Reading, origin: Origin) -> str:
    name = str(reading.get("logging", "file"))
    return str(resolve(name, origin.base, origin.home)) if name else ""


def _models(reading: Reading, providers: Mapping[str, Provider]) -> dict[str, str | Mapping[str, str]]:
    models: dict[str, str | Mapping[str, str]] = {}
    for name in reading.names("models"):
        value = reading.get("models", name)
        if isinstance(value, str):
            models[name] = value
        elif isinstance(value, dict):
            for provider in value:
                if provider not in providers and not _is_configured(reading, provider):
                    near = checks.nearest(provider, reading.names("providers"))
                    reading.problem(
                        ("models", name, provider),
                        "no provider of that name is configured",
                        f"did you mean {near}?" if near else f"add a table [providers.{provider}]",
                    )
            if not value:
                reading.problem(
                    ("models", name), "must name a provider", 'for example { openai = "gpt-5.6" }'
                )
            models[name] = MappingProxyType(dict(value))
    return models


def _is_configured(reading: Reading, provider: str) -> bool:
    return provider in reading.names("providers")


def _nothing_usable(reading: Reading, built: list[Built]) -> None:
    """Every provider lacks its key or is switched off: there is nothing to run, so the reasons become problems."""
    for one in built:
        for where, text, fix in one.missing:
            reading.problem(where, text, fix)
        if not one.provider.enabled:
            reading.problem(
                ("providers", one.provider.name, "enabled"),
                "is switched off, and no other provider is usable",
            )


def _warn_missing(reading: Reading, built: list[Built]) -> None:
    for one in built:
        if not one.provider.enabled:
            reading.warn(("providers", one.provider.name, "enabled"), "is switched off")
            continue
        usable = bool(one.endpoints)
        for where, text, fix in one.missing:
            reading.warn(where, text if usable else f"{text}; {one.provider.name} is left out", fix)


def _warn_disabled_targets(
    reading: Reading,
    models: Mapping[str, str | Mapping[str, str]],
    providers: Mapping[str, Provider],
    endpoints: tuple[Endpoint, ...],
) -> None:
    """A [models] entry restricts a name to its providers: one that leaves none would answer every request with an error."""
    usable = {endpoint.provider.name for endpoint in endpoints}
    for name, entry in models.items():
        if isinstance(entry, Mapping) and entry and not usable.intersection(entry):
            listed = ", ".join(sorted(set(entry) & set(providers)))
            reading.warn(
                ("models", name), f"none of its providers is usable ({listed}): requests for it will fail"
            )


def _some_rows() -> str:
    return ", ".join(list(bundled_rows())[:6]) + " and more"
