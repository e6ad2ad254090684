"""One [providers.NAME] table + its catalogue row + the environment -> a Provider and its endpoints.

The row answers what the table leaves open. Faults are noted on the Reading; a missing key is no fault of the file and
is handed back instead, because it only matters whether any provider is usable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.catalog.models import nearest as nearest_model
from ccm.catalog.rows import Row, RowEndpoint, bundled_rows, find_row
from ccm.config import checks, schema, secrets, urls
from ccm.config.clouds import cloud_key
from ccm.config.options import fill, is_classic, provider_options, resolve
from ccm.config.proxies import proxy_options
from ccm.config.read import Reading
from ccm.model import DIALECTS, TIERS, Endpoint, KeySource, Provider, Timeouts
from ccm.shape import dataclass

Place = tuple[tuple[str, ...], str, str]  # where, what is wrong, what to do
# What helps where a key file can't be used ("": the problem says it); by words of the problem, the rest is its content.
_FILE_FIXES = (
    ("run chmod", ""),
    ("JSON document", ""),
    ("does not exist", "create it, with the key in one line, and run chmod 600"),
    ("is not a file", "name the file that holds the key"),
    ("belongs to another user", "copy it, or chown it to yourself"),
    ("can't be read", "look at its permissions and those of its directories"),
)
_KEY_WAYS = ("api_key_env", "api_key_file", "api_key_command")
_TIMEOUTS = tuple(key.path[-1] for key in schema.KEYS if key.path[2:3] == ("timeouts",))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a provider is built in. `own_token` is the proxy's, which must never be sent to a provider."""

    env: Mapping[str, str]
    base: Path
    home: Path
    own_token: str
    demo_url: str
    book: ModelBook


@dataclass(frozen=True, slots=True)
class Built:
    """A provider, its usable endpoints (none when switched off or without a key) and the keys that are missing."""

    provider: Provider
    endpoints: tuple[Endpoint, ...]
    missing: tuple[Place, ...]


def build_provider(reading: Reading, name: str, around: Surroundings) -> Built | None:
    """The provider of a table; None where faults (noted) leave nothing to build."""
    at = ("providers", name)
    if not schema.PROVIDER_NAME.fullmatch(name):
        reading.problem(at, "is not a name for a provider", "letters, digits, - _ and . only")
        return None
    row = _row(reading, at)
    if row is None:
        return None
    endpoint = _endpoint(reading, at, row)
    if endpoint is None:
        return None
    options = provider_options(reading, at, row, endpoint, around.env, around.base, around.home)
    base_url = _base_url(reading, at, row, endpoint, options, around)
    options |= proxy_options(reading, at, base_url, around.env)
    keys, missing = _keys(reading, at, row, endpoint, around)
    if missing and urls.is_local(base_url):
        keys, missing = _without_own_token(reading, keys, missing)
    models = _models(reading, at, row, around)
    provider = Provider(
        name=name,
        type=row.name,
        dialect=endpoint.dialect,
        base_url=base_url,
        auth=_auth(reading, at, endpoint, keys),
        keys=keys,
        enabled=reading.get(*at, "enabled"),
        priority=reading.get(*at, "priority"),
        weight=reading.get(*at, "weight"),
        headers=MappingProxyType(_headers(reading, at, row)),
        models=MappingProxyType(models),
        tiers=MappingProxyType({tier: fill(model, options) for tier, model in endpoint.tiers.items()}),
        timeouts=Timeouts(**{key: float(reading.get(*at, "timeouts", key)) for key in _TIMEOUTS}),
        quirks=endpoint.quirks | frozenset(reading.get(*at, "quirks")),
        abilities=endpoint.abilities,
        max_in_flight=reading.get(*at, "max_in_flight"),
        cache_ttl_s=float(reading.get(*at, "cache_ttl_s")),
        prefer_until=str(reading.get(*at, "prefer_until")),
        display=row.display,
        docs=row.docs,
        options=MappingProxyType({k: v for k, v in options.items() if v not in ("", None)}),
    )
    if not provider.enabled:
        return Built(provider, (), ())
    endpoints = _endpoints(reading, at, provider)
    if endpoints:
        _warn_tiers(reading, at, provider)
    return Built(provider, endpoints, missing)


def _row(reading: Reading, at: tuple[str, ...]) -> Row | None:
    given = str(reading.get(*at, "type"))
    row = find_row(given or at[-1])
    if row is not None:
        return row
    if not given and reading.given(*at, "dialect") and reading.given(*at, "base_url"):
        return find_row("custom")
    wanted = given or at[-1]
    near = checks.nearest(wanted, bundled_rows())
    reading.problem(
        (*at, "type") if given else at,
        f"{wanted!r} is no provider of the catalogue",
        f"did you mean {near}?" if near else 'type = "custom" with dialect and base_url takes any endpoint',
    )
    return None


def _endpoint(reading: Reading, at: tuple[str, ...], row: Row) -> RowEndpoint | None:
    """The row's endpoint of the dialect asked for; any dialect where an address is given."""
    dialect = str(reading.get(*at, "dialect"))
    if not row.base_url:
        for needed in ("dialect", "base_url"):
            if not reading.given(*at, needed) and not _faulty(reading, (*at, needed)):
                example = (
                    f"one of {', '.join(DIALECTS)}"
                    if needed == "dialect"
                    else 'for example "https://host/v1"'
                )
                reading.problem(at, f'type = "{row.name}" needs {needed}', example)
        if not dialect:
            return None
    found = row.endpoint(dialect)
    if not dialect and is_classic(reading.get(*at, "api_version")):
        found = next((e for e in row.endpoints if e.classic_url), found)
    if found is not None:
        return found
    if reading.given(*at, "base_url"):
        template = bundled_rows()["custom"].endpoint(dialect)
        first = row.endpoints[0]
        if template is not None:
            return RowEndpoint(dialect, "", template.auth, first.quirks, first.abilities, first.tiers)
    offered = ", ".join(endpoint.dialect for endpoint in row.endpoints)
    reading.problem(
        (*at, "dialect"),
        f"{row.display} has no {dialect} endpoint in the catalogue",
        f"it has {offered}; another one needs base_url",
    )
    return None


def _faulty(reading: Reading, path: tuple[str, ...]) -> bool:
    """Whether a key was given but refused: then it is not missing as well."""
    return path[-1] in reading.names(*path[:-1])


def _base_url(
    reading: Reading,
    at: tuple[str, ...],
    row: Row,
    endpoint: RowEndpoint,
    options: Mapping[str, Any],
    around: Surroundings,
) -> str:
    given = str(reading.get(*at, "base_url"))
    if not given and row.name == "demo" and around.demo_url:
        given = around.demo_url
    if not given:
        return fill(endpoint.classic_url if options.get("deployments") else endpoint.base_url, options)
    if given.rstrip("/") == endpoint.base_url:  # some bases have no version on purpose
        return endpoint.base_url
    try:
        return urls.normalise(given, endpoint.dialect, reading.get(*at, "allow_http"))
    except urls.BadAddress as error:
        reading.problem((*at, "base_url"), error.text, error.fix)
        return ""


def _headers(reading: Reading, at: tuple[str, ...], row: Row) -> dict[str, str]:
    headers = {name.lower(): value for name, value in row.headers.items()}
    for name in reading.names(*at, "headers"):
        fault = checks.check_header_name(name)
        if fault:
            reading.problem((*at, "headers", name), *fault)
        elif reading.given(*at, "headers", name):
            headers[name.lower()] = reading.get(*at, "headers", name)
    return headers


def _models(reading: Reading, at: tuple[str, ...], row: Row, around: Surroundings) -> dict[str, str]:
    models = {}
    for name in reading.names(*at, "models"):
        model = reading.get(*at, "models", name)
        if model is None:
            continue
        models[name] = model
        facts = around.book.find(model, row.name)
        where = (*at, "models", name)
        if facts.known and "tools" not in facts.abilities and name in (*TIERS, "default"):
            fix = "map it to a model that does; other clients can name this one themselves"
            reading.problem(where, f"{model} takes no tools, and Claude Code can't work without", fix)
        elif not facts.known and row.tiers:
            near = nearest_model(model, around.book.names())
            fix = f"did you mean {near}?" if near else "[catalog] models_file can tell"
            reading.warn(
                where, f"{model} is not in the catalogue: {facts.window} tokens and no price are assumed", fix
            )
    return models


def _keys(
    reading: Reading, at: tuple[str, ...], row: Row, endpoint: RowEndpoint, around: Surroundings
) -> tuple[tuple[KeySource, ...], tuple[Place, ...]]:
    """The key sources in order, and what is missing of them."""
    auth = str(reading.get(*at, "auth")) or endpoint.auth
    ways = [way for way in _KEY_WAYS if reading.given(*at, way)]
    if len(ways) > 1:
        reading.problem((*at, ways[1]), f"{ways[0]} names a key already", "leave one of them out")
        return (), ()
    if not ways and any(_faulty(reading, (*at, way)) for way in (*_KEY_WAYS, "api_key")):
        return (), ()
    where = (*at, ways[0]) if ways else at
    if ways:
        keys = _named_keys(ways[0], reading.get(*where), around)
    else:
        keys = (default_key(row, endpoint, auth, around, str(reading.get(*at, "profile"))),)
    missing = [(where, key.problem, _fix(key, ways)) for key in keys if key.problem]
    return keys, tuple(missing)


def _without_own_token(
    reading: Reading, keys: tuple[KeySource, ...], missing: tuple[Place, ...]
) -> tuple[tuple[KeySource, ...], tuple[Place, ...]]:
    """A server on this machine mostly wants no key: where its variable holds only ccm's own token, which is never sent
    to a provider, it is called without one, and that is said."""
    if not all(secrets.OWN_TOKEN_TEXT in problem for _, problem, _ in missing) or len(missing) != len(keys):
        return keys, missing
    for where, problem, fix in missing:
        reading.warn(where, f"{problem}: this local provider is called without a key", fix)
    return (KeySource("none", ""),), ()


def _named_keys(way: str, value: Any, around: Surroundings) -> tuple[KeySource, ...]:
    if way == "api_key_command":
        return (secrets.from_command(value),)
    names = [value] if isinstance(value, str) else list(value)
    if way == "api_key_file":
        return tuple(
            secrets.from_file(resolve(name, around.base, around.home), name, around.own_token)
            for name in names
        )
    return tuple(secrets.from_environment([name], around.env, around.own_token) for name in names)


def default_key(
    row: Row, endpoint: RowEndpoint, auth: str, around: Surroundings, profile: str = ""
) -> KeySource:
    """The key where the table names none: the row's variables; none at all where the provider needs none."""
    found = secrets.from_environment(row.env, around.env, around.own_token) if row.env else None
    cloud = cloud_key(auth, found, profile, around.env, around.home)
    if cloud is not None:
        return cloud
    if found is not None and found.secret:
        return found
    if auth == "none" or row.auth == "none" or found is None:
        return KeySource("none", "")
    return found


def _fix(key: KeySource, ways: list[str]) -> str:
    if secrets.OWN_TOKEN_TEXT in key.problem and key.kind == "env":
        return f"put the provider's key into {secrets.PREFIX}{key.name.removeprefix(secrets.PREFIX)}, or use api_key_file or api_key_command"
    if key.kind == "file":
        return next(
            (fix for words, fix in _FILE_FIXES if words in key.problem),
            "write the bare key into it, one line",
        )
    if key.kind != "env":
        return ""
    if not key.problem.endswith("is set") and not key.problem.endswith("is not set"):
        return "give it the bare key"
    return (
        f"set {key.name}"
        if ways
        else f"set {key.name}, or say with api_key_env, api_key_file or api_key_command where the key is"
    )


def _auth(reading: Reading, at: tuple[str, ...], endpoint: RowEndpoint, keys: tuple[KeySource, ...]) -> str:
    given = str(reading.get(*at, "auth"))
    has_key = any(key.kind != "none" for key in keys)
    if given in ("none", "passthrough") and has_key:
        reading.problem(
            (*at, "auth"),
            f"{given} sends no key of ours, but one is configured",
            "leave out auth, or the key",
        )
    auth = given or endpoint.auth
    if auth == "none" and has_key:
        return "bearer"
    if auth not in ("none", "sigv4", "google", "passthrough") and keys and not has_key:
        return "none"
    return auth


def _endpoints(reading: Reading, at: tuple[str, ...], provider: Provider) -> tuple[Endpoint, ...]:
    """One endpoint for each usable key. The number is the key's place in the list, so that it survives a reload."""
    endpoints: list[Endpoint] = []
    seen: dict[object, str] = {}
    for n, key in enumerate(provider.keys):
        if key.problem or (key.secret is None and key.kind not in ("command", "none")):
            continue
        id = provider.name if n == 0 else f"{provider.name}#{n + 1}"
        if key.secret is not None and seen.setdefault(key.secret, key.name) != key.name:
            reading.warn(
                (*at, "api_key_env"),
                f"{key.name} holds the same key as {seen[key.secret]}",
                "one of them is enough",
            )
            continue
        endpoints.append(Endpoint(id, provider, None if key.kind == "none" else key))
    return tuple(endpoints)


def _warn_tiers(reading: Reading, at: tuple[str, ...], provider: Provider) -> None:
    """Claude Code asks for tiers in the background; a provider that knows none of them gets Claude's own names (R27)."""
    if "default" in provider.models or "default" in provider.tiers:
        return
    if provider.type in ("anthropic", "custom") and provider.dialect == "anthropic":
        return  # an endpoint of one's own in Anthropic's format mostly serves Claude itself
    mapped = {*provider.models, *provider.tiers}
    if any("*" in name for name in mapped):
        return
    missing = [tier for tier in TIERS if tier not in mapped]
    if missing:
        example = f'add [providers.{provider.name}.models] with {missing[0]} = "..." or default = "..."'
        reading.warn(
            at, f"{', '.join(missing)} are not mapped: requests for them carry Claude's model names", example
        )
