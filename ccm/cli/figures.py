"""ccmctl's commands for usage, costs, sessions and budgets."""

from __future__ import annotations

from ccm.cli.command import Command

COMMANDS: tuple[Command, ...] = ()
