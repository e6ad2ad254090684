"""The way through an HTTP proxy: the one that is configured, or for `proxy = "env"` the one the environment names,
asked for explicitly and read once, when the configuration is. Sessions never look at the environment (RELIABILITY S20).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ccm.config.read import Reading
from ccm.model import Secret

FROM_ENVIRONMENT = "env"


class Found(NamedTuple):
    """A proxy. `url` is without credentials ("" = none, go directly), `auth` is "user:password" or "", `variable` the
    one it came from; `problem` says why what was found can't be used."""

    url: str = ""
    auth: str = ""
    variable: str = ""
    problem: str = ""


def proxy_options(
    reading: Reading, at: tuple[str, ...], base_url: str, env: Mapping[str, str]
) -> dict[str, Any]:
    """The options "proxy" ("" = none) and "proxy_auth" (a Secret "user:password", or None) of the provider whose table
    is at `at`. Notes what can't be used."""
    url, auth = str(reading.get(*at, "proxy")), None
    if url == FROM_ENVIRONMENT:
        found = from_environment(base_url, env)
        if found.problem:
            reading.problem((*at, "proxy"), found.problem)
        url = found.url
        auth = Secret(found.auth, f"environment variable {found.variable}") if found.auth else None
    variable = str(reading.get(*at, "proxy_auth_env"))
    if variable:
        value = env.get(variable, "").strip()
        if ":" in value and value.isprintable():
            auth = Secret(value, f"environment variable {variable}")
        else:
            fault = "does not hold user:password" if value else "is not set"
            reading.warn((*at, "proxy_auth_env"), f"{variable} {fault}: the proxy gets no credentials")
    return {"proxy": url, "proxy_auth": auth if url else None}


def from_environment(base_url: str, env: Mapping[str, str]) -> Found:
    """The proxy for a base URL as curl and requests understand the variables: <scheme>_proxy, then all_proxy, in lower
    case before upper case, unless no_proxy names the host. Loopback never goes through a proxy."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").rstrip(".").lower()
    if _is_loopback(host) or bypassed(host, parts.port, _first(env, "no_proxy")[1]):
        return Found()
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _first(env, name)
        if value:
            return _read(variable, value)
    return Found()


def bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether no_proxy names a host: "*", a name and what is below it, an address, a network (10.0.0.0/8), each
    possibly with a port."""
    for entry in no_proxy.replace(" ", ",").split(","):
        entry = entry.strip().lower()
        if not entry:
            continue
        if entry == "*" or _in_network(host, entry):
            return True
        name, colon, wanted = entry.rpartition(":")
        if colon and wanted.isdigit() and (":" not in name or name.endswith("]")):
            if port is not None and int(wanted) != port:
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").lstrip(".").rstrip(".")
        if entry and (host == entry or host.endswith(f".{entry}")):
            return True
    return False


def _first(env: Mapping[str, str], name: str) -> tuple[str, str]:
    for variable in (name, name.upper()):
        value = env.get(variable, "").strip()
        if value:
            return variable, value
    return "", ""


def _read(variable: str, value: str) -> Found:
    """The texts of problems never show the value: it may hold a password."""
    try:
        parts: SplitResult = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return Found("", "", variable, f"{variable} does not hold the URL of an HTTP proxy")
    if parts.scheme == "https":
        return Found(
            "", "", variable, f"{variable} names an https:// proxy; only http:// proxies can be used"
        )
    shown = f"[{host}]" if ":" in host else host
    auth = ""
    if parts.username is not None:
        auth = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Found(f"http://{shown}:{port or 80}", auth, variable)


def _in_network(host: str, entry: str) -> bool:
    if "/" not in entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
