"""`ccm doctor`: everything that is wrong here, and how to mend it, in one report that can be pasted anywhere.

No key, no token and no home directory's name is in it: every text goes through the redactor, which knows the keys that
the configuration and the usual variables hold. It changes nothing; the network is asked only with --online.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ccm
from ccm import __version__
from ccm.catalog.rows import bundled_rows
from ccm.cli import checkup, clashes, door, render
from ccm.cli.arguments import FAILED, OK
from ccm.cli.findings import LEVELS, NOTE, PROBLEM, WARNING, Finding
from ccm.cli.run import find_client
from ccm.config import schema
from ccm.config.load import home_of
from ccm.control.state import socket_path
from ccm.model import Secret, Snapshot
from ccm.observe.log import escape
from ccm.observe.redact import Redactor
from ccm.shape import replace

_DESCRIPTION = """Looks at everything that ccm and Claude Code need, and says what is wrong and how to mend it. The
report holds no keys and can be pasted into an issue. --online also asks every provider's address whether it answers,
without a key, and runs the key commands."""
_EPILOG = """examples:
  ccm doctor
  ccm doctor --online           asks the network too; a few seconds
  ccm doctor --json | jq '.findings[] | select(.level == "problem")'

exit codes:
  0   nothing that keeps ccm from working (notes and warnings may be there)
  1   at least one problem"""
_COLOURS = {"ok": "green", NOTE: "dim", WARNING: "yellow", PROBLEM: "red"}
_LIBRARIES = ("requests", "urllib3", "tomli")
_PASTED_WIDTH = 100
_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.-]*")
_ENVIRONMENT = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)(?:_|$)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ccm doctor` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "--online", action="store_true", help="ask the providers' addresses, run key commands"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: where ccm start finds it)"
    )
    parser.add_argument("--socket", metavar="PATH", help="the control socket")
    parser.add_argument(
        "--json", action="store_true", help="for programs: one JSON object on standard output"
    )


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Looks and reports; returns the exit code."""
    home = home_of(env)
    snapshot, found = checkup.configuration(args.config, env, home)
    status, told = checkup.gateway(socket_path(args.socket, env), snapshot)
    found = checkup.elsewhere(found, status)
    found += checkup.keys(snapshot, env, args.online) if snapshot is not None else ()
    found += told
    found += _further(args, env, home, snapshot, status)
    clean = Cleaner(env, home, snapshot)
    facts = [(name, clean(value)) for name, value in versions(env)]
    found = [replace(f, text=clean(f.text), fix=clean(f.fix)) for f in found]
    bad = sum(1 for f in found if f.level == PROBLEM)
    if args.json:
        print(json.dumps(_report(facts, found, bad), indent=2, ensure_ascii=False))
    else:
        print(_text(facts, found, render.screen(), args.online))
    return FAILED if bad else OK


def _further(
    args: argparse.Namespace,
    env: Mapping[str, str],
    home: Path,
    snapshot: Snapshot | None,
    status: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    yield from checkup.left_over(home, status)
    url, token = _door(status, snapshot, env)
    yield from clashes.in_environment(env, url, token)
    yield from clashes.in_settings(clashes.settings(env, home, clashes.folder_here()), url, token)
    yield from checkup.files(env, home, snapshot)
    yield checkup.limits()
    if snapshot is None:
        return
    yield from checkup.proxies(env, snapshot.providers)
    if args.online:
        from ccm.cli import reach

        providers = [provider for provider in snapshot.providers.values() if provider.enabled]
        if sys.stderr.isatty():
            print(f"asking {len(providers)} addresses ...", end="", file=sys.stderr, flush=True)
        asked = list(reach.findings(providers, dict(env)))
        if sys.stderr.isatty():
            print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
        yield from asked


def _door(
    status: Mapping[str, Any] | None, snapshot: Snapshot | None, env: Mapping[str, str]
) -> tuple[str, str]:
    """Address and token of the ccm that clients should reach."""
    if status is not None:
        found = door.of_running(status, env)
        return found.url, found.token
    if snapshot is not None:
        host = f"[{snapshot.host}]" if ":" in snapshot.host else snapshot.host
        return door.url_of(f"{host}:{snapshot.port}"), snapshot.auth_token
    return door.url_of(schema.DEFAULT_LISTEN), schema.DEFAULT_TOKEN


def versions(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(what, version): ccm, its surroundings, and Claude Code where it is found."""
    yield "ccm", f"{__version__}, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}"
    yield "libraries", ", ".join(f"{name} {_library(name)}" for name in _LIBRARIES)
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    path = find_client("claude", env)
    yield (
        "client",
        f"Claude Code {_client_version(path)} at {path}" if path else "Claude Code is not on the PATH",
    )


def _library(name: str) -> str:
    """The version that is imported here: the single file brings its own, whatever else is installed."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__)))
    if not os.path.isfile(root):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "(without its papers)"
    loader: Any = ccm.__loader__
    for file in ("__version__.py", "_version.py"):
        try:
            text = loader.get_data(os.path.join(root, name, file)).decode("utf-8")
        except OSError:
            continue
        match = re.search(r"""^(?:__version__|version)\b[^"'\n]*["'](\d[^"']*)["']""", text, re.M)
        if match:
            return str(match[1])
    return "(bundled)"


def _client_version(path: str) -> str:
    """From its package or its path, which costs nothing; else it is asked."""
    real = Path(os.path.realpath(path))
    for folder in list(real.parents)[:3]:
        try:
            package = json.loads((folder / "package.json").read_text("utf-8"))
            if str(package.get("name", "")).startswith("@anthropic-ai/claude-code"):
                return str(package["version"])
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    if match := _VERSION.fullmatch(real.name):  # the native installer names the file by its version
        return match[0]
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return "(it does not say which version)"
    match = _VERSION.search(done.stdout)
    return match[0] if match else "(it does not say which version)"


class Cleaner:
    """Takes keys, tokens and the home directory out of texts."""

    def __init__(self, env: Mapping[str, str], home: Path, snapshot: Snapshot | None) -> None:
        self._redactor = Redactor()
        names = {name for row in bundled_rows().values() for name in row.env}
        for name, value in env.items():
            if (name.removeprefix("CCM_") in names or _ENVIRONMENT.search(name)) and _is_secret(value):
                self._redactor.register(value)
        for provider in snapshot.providers.values() if snapshot else ():
            for key in provider.keys:
                if key.secret is not None:
                    self._redactor.register(key.secret)
            proxy_auth = provider.options.get("proxy_auth")
            if isinstance(proxy_auth, Secret):
                self._redactor.register(proxy_auth)
        if snapshot is not None and snapshot.auth_token != schema.DEFAULT_TOKEN:
            self._redactor.register(snapshot.auth_token)
        self._home = str(home).rstrip("/")

    def __call__(self, text: str) -> str:
        text = self._redactor.clean(text)
        if len(self._home) > 1:
            text = re.sub(rf"{re.escape(self._home)}(?=[/\s,:;)'\"]|\Z)", "~", text)
        return text


def _is_secret(value: str) -> bool:
    """Whether a variable's value is worth hiding: not ccm's own token, not a path, not a number."""
    value = value.strip()
    return len(value) >= 8 and value != schema.DEFAULT_TOKEN and value[0] not in "/~" and not value.isdigit()


def _report(facts: Sequence[tuple[str, str]], found: Sequence[Finding], bad: int) -> dict[str, Any]:
    return {
        "ok": not bad,
        "problems": bad,
        "warnings": sum(1 for f in found if f.level == WARNING),
        "versions": dict(facts),
        "findings": [
            {"level": f.level, "topic": f.topic, "text": f.text, "fix": f.fix or None} for f in found
        ],
    }


def _text(facts: Sequence[tuple[str, str]], found: Sequence[Finding], on: render.Screen, online: bool) -> str:
    width = on.width or _PASTED_WIDTH
    lines = []
    for name, value in facts:
        lines += _wrapped(f"{name:<11}", escape(value), width, lambda text: on.paint(text, "dim"))
    lines.append("")
    topics = max(len(f.topic) for f in found)
    for f in found:
        head = f"{f.level:<9}{f.topic:<{topics}}  "
        colour = _COLOURS[f.level]
        lines += _wrapped(head, escape(f.text), width, lambda text, c=colour: on.paint(text, c))
        if f.fix:
            lines += _wrapped(" " * len(head) + "fix: ", escape(f.fix), width, str)
    counts = [(sum(1 for f in found if f.level == level), level) for level in reversed(LEVELS[1:])]
    told = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for number, level in counts if number)
    lines += ["", told or "everything is right"]
    if counts[0][0]:
        further = "mend the problems from top to bottom, then `ccm doctor` again"
    elif not online:
        further = "`ccm doctor --online` also asks the providers' addresses; `ccm test` asks them for real"
    else:
        further = "`ccm test` asks every provider one small question"
    return "\n".join([*lines, *_wrapped("next: ", further, width, str)])


def _wrapped(head: str, text: str, width: int, paint: Any) -> list[str]:
    """A head and a text beside it, wrapped to the width; words longer than a line (URLs) stay whole."""
    room = max(20, width - len(head))
    parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    first = paint(head.rstrip()) + " " * (len(head) - len(head.rstrip()))
    return [(first + parts[0]).rstrip(), *(" " * len(head) + part for part in parts[1:])]
