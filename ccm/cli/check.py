"""`ccm check`: is the configuration right, and what would run. It asks no provider and shows no key.

Key commands are run, so that a broken one is found here and not at the first request. Exit code 0 when ccm would start
and has a key, 2 when not; warnings don't change that. Light: nothing here may pull in the HTTP libraries, because people
run it after every change of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccm.catalog.rows import bundled_rows
from ccm.cli import render
from ccm.cli.arguments import EXIT_CODES, OK, USAGE
from ccm.config import commands, load
from ccm.errors import ConfigError
from ccm.model import TIERS, KeySource, Problem, Provider, Snapshot
from ccm.observe.log import escape
from ccm.routing import rules
from ccm.shape import replace

_DESCRIPTION = """Checks a configuration without running it, and shows what would run: providers, where their keys come
from (never the keys), and which model each tier of Claude becomes. Runs the key commands; asks no provider anything."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ccm check` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = EXIT_CODES
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: where ccm start would find it)"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="as for ccm start")
    parser.add_argument("--no-commands", action="store_true", help="do not run the key commands")
    parser.add_argument(
        "--json", action="store_true", help="for programs: one JSON object on standard output"
    )


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Checks and reports; returns the exit code."""
    ran = not getattr(args, "no_commands", False)
    try:
        snapshot = load.read(args.config, env, listen=getattr(args, "listen", None))
        load.book(snapshot)
        if ran:
            snapshot = _with_commands_run(snapshot, env)
    except ConfigError as error:
        return _refused(error, args, env)
    if args.json:
        print(json.dumps(report(snapshot, ran), indent=2, ensure_ascii=False))
    else:
        print(_text(snapshot, render.screen(), ran))
    return OK


def _with_commands_run(snapshot: Snapshot, env: Mapping[str, str]) -> Snapshot:
    """The snapshot without the endpoints whose key command gives no key, and with a warning for each. Raises ConfigError
    when none is left."""
    count = sum(e.key is not None and e.key.kind == "command" for e in snapshot.endpoints)
    if not count:
        return snapshot
    tell = sys.stderr.isatty()
    if tell:
        print(
            f"running {count} key command{'s' if count != 1 else ''} ...", end="", file=sys.stderr, flush=True
        )
    faults = commands.failing(snapshot, env)
    if tell:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    failed = {fault.key.split(".", 1)[1].rpartition(".")[0] for fault in faults}
    left = tuple(e for e in snapshot.endpoints if e.provider.name not in failed)
    if not left:
        raise ConfigError(faults)
    return replace(snapshot, endpoints=left, warnings=(*snapshot.warnings, *faults))


def _refused(error: ConfigError, args: argparse.Namespace, env: Mapping[str, str]) -> int:
    if args.json:
        found = {"ok": False, "problems": [_problem(p) for p in error.problems]}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return USAGE
    on = render.screen(sys.stderr)
    for problem in error.problems:
        print(on.paint(escape(str(problem)), "red"), file=sys.stderr)
    count = len(error.problems)
    where = _path(args.config, env)
    told = f"{count} problem{'s' if count != 1 else ''}{f' in {where}' if where else ''}: ccm would not start"
    print(told, file=sys.stderr)
    return USAGE


def _path(config: str | None, env: Mapping[str, str]) -> Path | None:
    try:
        return load.find_path(config, env, load.home_of(env))
    except ConfigError:
        return None


def report(snapshot: Snapshot, commands_ran: bool = False) -> dict[str, Any]:
    """Everything `ccm check` shows, as JSON. No keys: only where they come from."""
    usable = {endpoint.provider.name for endpoint in snapshot.endpoints}
    return {
        "ok": True,
        "path": snapshot.path or None,
        "listen": _address(snapshot),
        "strategy": snapshot.strategy,
        "failover": {
            "enabled": snapshot.failover.enabled,
            "max_retries": snapshot.failover.max_retries,
            "backoff_ms": snapshot.failover.backoff_ms,
            "deadline_s": snapshot.failover.deadline_s,
        },
        "providers": [_provider(snapshot, p, p.name in usable, commands_ran) for p in ordered(snapshot)],
        "models": {k: v if isinstance(v, str) else dict(v) for k, v in snapshot.models.items()},
        "warnings": [_problem(w) for w in snapshot.warnings],
    }


def ordered(snapshot: Snapshot) -> list[Provider]:
    """The providers by priority, then in file order."""
    return sorted(snapshot.providers.values(), key=lambda p: p.priority)


def _provider(snapshot: Snapshot, provider: Provider, usable: bool, commands_ran: bool) -> dict[str, Any]:
    return {
        "name": provider.name,
        "type": provider.type,
        "dialect": provider.dialect,
        "base_url": provider.base_url,
        "enabled": provider.enabled,
        "usable": usable,
        "priority": provider.priority,
        "weight": provider.weight,
        "keys": [
            {
                "kind": key.kind,
                "name": key.name,
                "found": _found(key, usable, commands_ran),
                "problem": key.problem,
            }
            for key in provider.keys
        ],
        "models": {tier: _model(snapshot, provider, tier) for tier in TIERS},
    }


def _found(key: KeySource, usable: bool, commands_ran: bool) -> bool | None:
    """Whether the key is there; None for a command that was not run."""
    if key.kind == "command":
        return usable if commands_ran else None
    return key.secret is not None or (key.kind == "none" and not key.problem)


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "text": problem.text,
        "fix": problem.fix,
    }


def _model(snapshot: Snapshot, provider: Provider, tier: str) -> str:
    """What a Claude name of the tier becomes at the provider; "" where it goes out unchanged."""
    example = bundled_rows()["anthropic"].tiers[tier]  # what Claude Code asks for when it wants the tier
    model = rules.model_for(provider, example, snapshot.models)
    return "" if model == example else model


def _address(snapshot: Snapshot) -> str:
    host = f"[{snapshot.host}]" if ":" in snapshot.host else snapshot.host
    return f"{host}:{snapshot.port}"


def _text(snapshot: Snapshot, on: render.Screen, commands_ran: bool) -> str:
    usable = {endpoint.provider.name for endpoint in snapshot.endpoints}
    providers = ordered(snapshot)
    settings = snapshot.failover
    failover = (
        f"up to {settings.max_retries} further attempts, waits from {settings.backoff_ms} ms, "
        f"{settings.deadline_s:g} s in all"
        if settings.enabled
        else "off"
    )
    facts = [
        ["configuration", snapshot.path or "none: the keys found in the environment"],
        ["listen", _address(snapshot)],
        ["strategy", snapshot.strategy],
        ["failover", failover],
    ]
    parts = [
        "\n".join(f"{on.paint(name.ljust(13), 'dim')}  {escape(value)}" for name, value in facts),
        render.table(
            ["provider", "dialect", "key", "state"],
            [[p.name, p.dialect, _key_text(p), _state(p, p.name in usable, commands_ran)] for p in providers],
            on,
        ),
        render.table(
            ["model for", *TIERS],
            [
                [p.name, *(_model(snapshot, p, tier) or "unchanged" for tier in TIERS)]
                for p in providers
                if p.name in usable
            ],
            on,
        ),
    ]
    if snapshot.models:
        rows = [[name, _entry_text(entry)] for name, entry in snapshot.models.items()]
        parts.append(render.table(["a request for", "goes to"], rows, on))
    if snapshot.warnings:
        parts.append(
            "\n".join(f"{on.paint('warning', 'yellow')} {escape(str(w))}" for w in snapshot.warnings)
        )
    count = len(snapshot.endpoints)
    parts.append(f"ok: ccm would start with {count} endpoint{'s' if count != 1 else ''}")
    return "\n\n".join(parts)


def _key_text(provider: Provider) -> str:
    words = {"env": "", "file": "file ", "command": "command ", "none": ""}
    names = [f"{words[key.kind]}{key.name}" for key in provider.keys if key.name]
    return ", ".join(names) or "none needed"


def _state(provider: Provider, usable: bool, commands_ran: bool) -> render.Cell:
    if not provider.enabled:
        return render.Cell("switched off", "dim")
    missing = sum(1 for key in provider.keys if key.problem)
    if not usable:
        return render.Cell("no key", "red")
    if not commands_ran and any(key.kind == "command" for key in provider.keys):
        return render.Cell("ready (command not run)", "green")
    if missing:
        return render.Cell(f"ready, {missing} of {len(provider.keys)} keys missing", "yellow")
    return render.Cell("ready", "green")


def _entry_text(entry: str | Mapping[str, str]) -> str:
    return entry if isinstance(entry, str) else ", ".join(f"{p}: {m}" for p, m in entry.items())
