"""ccmctl's commands for usage, costs, sessions and budgets. Where no ccm runs, figures come from the database itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccm.cli import budgets
from ccm.cli import figures_views as views
from ccm.cli.command import Command

_BY = ("provider", "model", "class", "session", "project", "day", "key")
SLOW_S = 15.0  # an old disk, a cold cache, a year of figures


def _period(by: str) -> Any:
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--by", choices=_BY, default=by, help=f"what to break the figures down by ({by})")
        parser.add_argument("--since", metavar="WHEN", default="7d",
                            help="how far back: 24h, 7d, 30d, today, a date such as 2026-11-22, or all (7d)")  # fmt: skip
        parser.add_argument("--csv", action="store_true", help="comma-separated values")
        _database(parser)

    return arguments


def _database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", metavar="FILE", help="read this usage database instead of asking ccm")


def _period_args(given: argparse.Namespace) -> dict[str, Any]:
    if given.csv and given.json:
        given.parser.error("say either --csv or --json")
    return {"by": given.by, "since": given.since, **({"csv": "true"} if given.csv else {})}


def _sessions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (20; at most 500)")
    _database(parser)


def _from_database(given: argparse.Namespace, args: Mapping[str, Any]) -> Any:
    """The answer that ccm would give, from the database: as given, or where this user's ccm keeps it."""
    from ccm.control import figures

    answers = {"costs": figures.costs_of, "usage": figures.usage_of, "sessions": figures.sessions_of}
    return answers[given.command.name](given.database or database_path(), args)


def database_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where this user's ccm keeps usage: `[usage] file` of the configuration it would run with, else usage.db in its
    own directory. A configuration that cannot be read has no say here."""
    import tomli

    from ccm.config.load import find_path, home_of
    from ccm.config.options import resolve
    from ccm.control.state import home_directory
    from ccm.errors import ConfigError

    home = home_of(environ)
    try:
        found = find_path(None, environ, home)
        file = tomli.loads(found.read_text("utf-8"))["usage"]["file"] if found else ""
        if isinstance(file, str) and file and found:
            return str(resolve(file, Path(found).parent, home))
    except (ConfigError, OSError, ValueError, KeyError, TypeError):
        pass
    return str(home_directory() / "usage.db")


COMMANDS: tuple[Command, ...] = (
    Command("costs", "what was spent, and saved, in money", "GET", "/costs", views.costs, _period("provider"),
            _period_args, SLOW_S, _from_database),
    Command("usage", "what was used, in tokens", "GET", "/usage", views.usage, _period("day"), _period_args, SLOW_S,
            _from_database),
    Command("sessions", "the sessions that were busy last, and what they cost", "GET", "/sessions", views.sessions,
            _sessions_arguments, lambda given: {"limit": given.limit}, SLOW_S, _from_database),
    *budgets.COMMANDS,
)  # fmt: skip
