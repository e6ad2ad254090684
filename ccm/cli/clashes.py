"""What stands between Claude Code and ccm in the environment and in Claude Code's own settings. Pure but for `settings`.

The traps are old and quiet: a real key where ccm's token should be, `/v1` behind the base URL, a proxy that catches
127.0.0.1, a settings file that overrules the environment. Values of keys are compared here and never shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ccm.cli.client import CLOUD_MODES, caught_by_proxy
from ccm.cli.findings import NOTE, OK, PROBLEM, WARNING, Finding

TOPIC = "claude code"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_SETTINGS_BYTES = 4 * 1024 * 1024
_OURS = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_API_KEY",
    *CLOUD_MODES,
)


def settings(env: Mapping[str, str], home: Path, folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Claude Code's settings files that exist, those that overrule the others last; unreadable ones are left out."""
    own = Path(env.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    places = (
        own / "settings.json",
        folder / ".claude" / "settings.json",
        folder / ".claude" / "settings.local.json",
        Path("/etc/claude-code/managed-settings.json"),
    )
    found = []
    for place in dict.fromkeys(places):
        try:
            with place.open("rb") as file:
                value = json.loads(file.read(_MAX_SETTINGS_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append((place, value))
    return found


def in_environment(env: Mapping[str, str], url: str, token: str) -> list[Finding]:
    """What the variables of this environment would do to a Claude Code that is started here. `url` and `token` are
    those of the ccm that it should reach."""
    base = env.get("ANTHROPIC_BASE_URL", "").strip()
    found = list(_switched_past(env))
    if not base:
        found.append(
            Finding(
                NOTE,
                TOPIC,
                "ANTHROPIC_BASE_URL is not set here",
                'eval "$(ccm env)", or start it with `ccm run`',
            )
        )
    else:
        found += _address(base, url)
        found += _credentials(env, token, reaches=_same(base, url))
    caught = caught_by_proxy(env)
    if caught and (not base or urlsplit(base).hostname in _LOOPBACK):
        found.append(
            Finding(
                WARNING, TOPIC, f"{', '.join(caught)} would catch requests to 127.0.0.1",
                "export NO_PROXY=127.0.0.1,localhost (`ccm env` and `ccm run` do)",
            )
        )  # fmt: skip
    return found


def in_settings(files: Sequence[tuple[Path, Mapping[str, Any]]], url: str, token: str) -> list[Finding]:
    """What Claude Code's own settings overrule: their `env` comes before the environment."""
    found: list[Finding] = []
    for path, value in files:
        table = value.get("env")
        named = {n: str(v) for n, v in table.items() if n in _OURS} if isinstance(table, dict) else {}
        take_out = f"take it out of {path}, or set it there to what `ccm env` prints"
        for name in (n for n in CLOUD_MODES if _is_on(named.get(n, ""))):
            found.append(Finding(PROBLEM, TOPIC, f"{path} sets {name}: requests go past ccm", take_out))
        base = named.get("ANTHROPIC_BASE_URL", "")
        if base and not _same(base, url):
            told = f"{path} sets ANTHROPIC_BASE_URL to {_shown(base)}, which overrules the environment; ccm is at {url}"
            found.append(Finding(PROBLEM, TOPIC, told, take_out))
        elif base:
            found += _address(base, url)
        for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
            if named.get(name) and named[name] != token:
                told = (
                    f"{path} sets {name} to something else than ccm's token, which overrules the environment"
                )
                found.append(Finding(WARNING, TOPIC, told, take_out))
        if value.get("apiKeyHelper"):
            told = f"{path} has an apiKeyHelper: what it prints is sent to ccm as the token"
            found.append(Finding(WARNING, TOPIC, told, f"take it out of {path} while you use ccm"))
    return found


def _switched_past(env: Mapping[str, str]) -> Iterator[Finding]:
    for name in CLOUD_MODES:
        if _is_on(env.get(name, "")):
            told = f"{name} is set: Claude Code goes to that cloud and past ANTHROPIC_BASE_URL"
            yield Finding(PROBLEM, TOPIC, told, f"unset {name} (ccm reaches that cloud as a provider)")


def _address(base: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(base)
        _ = parts.port
    except ValueError:
        yield Finding(PROBLEM, TOPIC, "ANTHROPIC_BASE_URL is no URL", f"export ANTHROPIC_BASE_URL={url}")
        return
    path = parts.path.rstrip("/")
    if not _same(base, url):
        told = f"ANTHROPIC_BASE_URL is {_shown(base)}, ccm is at {url}"
        yield Finding(WARNING, TOPIC, told, f"export ANTHROPIC_BASE_URL={url}")
    elif path.endswith("/v1"):
        told = "ANTHROPIC_BASE_URL ends in /v1, which Claude Code adds by itself"
        yield Finding(WARNING, TOPIC, told, f"export ANTHROPIC_BASE_URL={url}")
    elif parts.query or parts.fragment:
        told = "ANTHROPIC_BASE_URL has a ? or #, behind which Claude Code's paths get lost"
        yield Finding(PROBLEM, TOPIC, told, f"export ANTHROPIC_BASE_URL={url}")
    elif path and not path.startswith("/p/"):
        told = f"ANTHROPIC_BASE_URL has the path {path}, which ccm does not serve"
        yield Finding(PROBLEM, TOPIC, told, f"export ANTHROPIC_BASE_URL={url} (or {url}/p/PROVIDER)")
    else:
        yield Finding(OK, TOPIC, f"ANTHROPIC_BASE_URL is {_shown(base)}")


def _credentials(env: Mapping[str, str], token: str, reaches: bool) -> Iterator[Finding]:
    """`reaches`: the base URL is ccm's, so that what is sent there must be ccm's token."""
    key, bearer = env.get("ANTHROPIC_API_KEY", "").strip(), env.get("ANTHROPIC_AUTH_TOKEN", "").strip()
    if not reaches:
        return
    if not key and not bearer:
        told = "neither ANTHROPIC_AUTH_TOKEN nor ANTHROPIC_API_KEY is set: Claude Code asks to log in"
        yield Finding(WARNING, TOPIC, told, "export ANTHROPIC_AUTH_TOKEN=<ccm's token> (`ccm env` prints it)")
    elif token not in (key, bearer):
        told = "what Claude Code sends as its key is not ccm's token: every request gets 401"
        fix = 'unset ANTHROPIC_API_KEY; eval "$(ccm env)"'
        if key:
            fix += "; give ccm the real key as CCM_ANTHROPIC_API_KEY"
        yield Finding(PROBLEM, TOPIC, told, fix)
    elif key and bearer and key != token:
        told = (
            "ANTHROPIC_API_KEY holds another key than ccm's token: Claude Code sends both, and asks about it"
        )
        fix = "give ccm the real key as CCM_ANTHROPIC_API_KEY and unset ANTHROPIC_API_KEY where Claude Code runs"
        yield Finding(WARNING, TOPIC, told, fix)
    elif key and bearer:
        told = "ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN are both set; one is enough"
        yield Finding(
            NOTE, TOPIC, told, "unset ANTHROPIC_API_KEY: with it Claude Code asks a question at its start"
        )
    else:
        yield Finding(
            OK, TOPIC, f"{'ANTHROPIC_API_KEY' if key else 'ANTHROPIC_AUTH_TOKEN'} holds ccm's token"
        )


def _same(base: str, url: str) -> bool:
    """Whether two URLs lead to the same port of the same host; the loopback names are one host."""
    try:
        first, second = urlsplit(base), urlsplit(url)
        ports = first.port or {"http": 80, "https": 443}.get(first.scheme), second.port
    except ValueError:
        return False
    hosts = ["127.0.0.1" if h in _LOOPBACK else h for h in (first.hostname, second.hostname)]
    return first.scheme == second.scheme and hosts[0] == hosts[1] and ports[0] == ports[1]


def _shown(url: str) -> str:
    """A URL without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "no URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")


def folder_here() -> Path:
    """Where the user stands; the home directory where that is gone."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.path.expanduser("~"))
