"""A line of ccmctl's table of commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from ccm.cli import render
from ccm.shape import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what it asks, and how the answer looks to people. `arguments` adds to its parser."""

    name: str
    help: str
    method: str
    path: str
    show: Callable[[Any, render.Screen], str]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    args: Callable[[argparse.Namespace], Mapping[str, Any]] = lambda given: {}
    timeout_s: float = 2.0
    # what answers where no ccm runs, from what it left on disk; raises ControlError 404 where there is nothing
    offline: Callable[[argparse.Namespace, Mapping[str, Any]], Any] | None = None
    # what the answer only began: given (control socket, answer), waits and returns the answer to show.
    follow: Callable[[str, Any], Any] | None = None
    examples: tuple[str, ...] = ()  # command lines for --help, beside those of `cli.manual`
    # what one question cannot do: given (arguments, control socket, how to ask), writes and returns the exit code
    runner: Callable[[argparse.Namespace, str, Callable[..., Any]], int] | None = None


def say_text(answer: Any, on: render.Screen) -> str:
    """What an action answers: its one sentence."""
    return str(answer["text"])
