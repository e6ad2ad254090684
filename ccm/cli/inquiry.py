"""ccmctl's commands that need more than one question and one page: they are imported when they run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ccm.cli.command import Command
from ccm.cli.render import Screen

Ask = Callable[..., Any]


def _late(module: str, name: str) -> Callable[..., Any]:
    """A function of another module of this room, imported when it is called."""

    def call(*args: Any) -> Any:
        return getattr(import_module(f"ccm.cli.{module}"), name)(*args)

    return call


def _model_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MODEL", nargs="?", help="one model name only")


def _no_page(answer: Any, on: Screen) -> str:
    raise AssertionError("a command with a runner shows its answers itself")


def _maybe_name(given: argparse.Namespace) -> Mapping[str, Any]:
    return {"name": given.name} if given.name else {}


COMMANDS: tuple[Command, ...] = (
    Command("models", "what every model name would go to now", "GET", "/models", _late("listings", "models"),
            _model_name, _maybe_name),
    Command("explain", "why a request went where it went, or where one would go", "GET", "/explain",
            _late("explained", "explain"), _late("explained", "arguments"), _late("explained", "args")),
    Command("top", "rates, latencies, tokens and money, live", "GET", "/top", _no_page, _late("top", "arguments"),
            runner=_late("top", "run")),
    Command("config", "the configuration in use, and where each value comes from", "GET", "/config",
            _late("listings", "config")),
    Command("drill", "put a fault into a provider's path, and see what clients see", "POST", "/drill", _no_page,
            _late("drilling", "arguments"), runner=_late("drilling", "run")),
)  # fmt: skip
