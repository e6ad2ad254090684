"""Where a client finds ccm: the address and token of the one that runs, else those of the configuration.

What the running one was started with may differ from what is found here (another file, other keys in its environment):
it is asked first, and only what it does not tell (names of models, windows) is read from its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli

from ccm.catalog.models import ModelBook, bundled
from ccm.config import load, schema
from ccm.control.client import ask
from ccm.control.state import socket_path
from ccm.errors import CcmError, ConfigError, ControlError
from ccm.model import Provider, Snapshot
from ccm.shape import dataclass

_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where it listens, not where we do


@dataclass(frozen=True, slots=True)
class Door:
    """`url` without a path; `usable` in the order in which they are asked first under strategy priority. `snapshot` is
    None where the configuration can't be read here (`problem` says why) or there is none."""

    url: str
    token: str
    running: bool
    snapshot: Snapshot | None = None
    book: ModelBook | None = None
    usable: tuple[Provider, ...] = ()
    strategy: str = "priority"
    problem: str = ""


def find(config: str | None, socket: str | None, env: Mapping[str, str]) -> Door:
    """The door of the running ccm; where none runs, of the one that `ccm start` would start with this configuration.

    Raises ConfigError where none runs and the configuration is wrong, ControlError where a ccm runs and does not talk.
    """
    status = running(socket_path(socket, env))
    if status is None:
        snapshot = load.read(config, env)
        host = f"[{snapshot.host}]" if ":" in snapshot.host else snapshot.host
        return _door(snapshot, load.book(snapshot), f"{host}:{snapshot.port}", None, env)
    return of_running(status, env)


def running(path: str) -> dict[str, Any] | None:
    """`ccmctl status` of the ccm at a control socket; None where nobody answers. Raises ControlError where one does
    not let us in."""
    try:
        answer = ask(path, "GET", "/status", timeout_s=2.0)
    except ControlError as error:
        if error.status in (403, 504):
            raise
        return None
    return answer if isinstance(answer, dict) and "address" in answer else None


def of_running(status: Mapping[str, Any], env: Mapping[str, str]) -> Door:
    """The door of a ccm that answered with this status."""
    address, path = str(status["address"]), str(status.get("config") or "")
    if status.get("demo"):
        return Door(url_of(address), schema.DEFAULT_TOKEN, True)
    try:
        if path:
            snapshot: Snapshot | None = load.load(Path(path), env)
        else:
            snapshot = load.from_environment(env)
    except ConfigError as error:  # its keys may be in its own environment only
        return Door(url_of(address), _token(path), True, problem=str(error.problems[0]))
    except CcmError as error:
        return Door(url_of(address), _token(path), True, problem=str(error))
    if snapshot is None:
        return Door(url_of(address), schema.DEFAULT_TOKEN, True)
    return _door(snapshot, load.book(snapshot), address, status, env)


def _door(
    snapshot: Snapshot,
    book: ModelBook,
    address: str,
    status: Mapping[str, Any] | None,
    env: Mapping[str, str],
) -> Door:
    usable = {endpoint.provider.name for endpoint in snapshot.endpoints}
    primary = ""
    if status is not None:
        rows = status.get("providers") or ()
        usable = {str(row["name"]) for row in rows if row.get("state") not in ("no key", "disabled")}
        primary = str(status.get("primary") or "")
    found = [p for p in snapshot.providers.values() if p.name in usable]
    found.sort(key=lambda provider: (provider.name != primary, provider.priority))
    # a switch puts one first, whatever the strategy says
    strategy = "priority" if primary in usable else snapshot.strategy
    return Door(
        url_of(address),
        snapshot.auth_token,
        status is not None,
        snapshot,
        book or bundled(),
        tuple(found),
        strategy,
    )


def url_of(address: str) -> str:
    """The URL by which a client on this machine reaches what listens at an address (host:port)."""
    host, _, port = address.rpartition(":")
    return f"http://{_ANY_HOST.get(host, host)}:{port}"


def _token(path: str) -> str:
    """The token that a file names, also where the rest of the file can't be used here."""
    try:
        table = tomli.loads(Path(path).read_text("utf-8-sig")).get("proxy", {})
    except (OSError, ValueError):
        return schema.DEFAULT_TOKEN
    token = table.get("auth_token") if isinstance(table, dict) else None
    return token if isinstance(token, str) and token else schema.DEFAULT_TOKEN
