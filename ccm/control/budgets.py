"""Budgets and the runaway guard, as people see and steer them: their lines of the control table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.control.arguments import Route, flag, seconds, text
from ccm.control.core import Core
from ccm.errors import ControlError


def _budgets(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    """{"budgets", "guard", "problem"}: `Meter.status` without the store."""
    told = core.meter.status()
    return {name: told[name] for name in ("budgets", "guard", "problem")}


def _budget(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    """Lifts a budget, or with `restore` ends that; without a name it only tells how the budgets are."""
    if "name" not in args:
        if args:
            raise ControlError("'name' is missing: which budget? `ccmctl budget` lists them")
        return _budgets(core, args)
    name, restore, period = text(args, "name"), flag(args, "restore", False), seconds(args, "for")
    if restore:
        if period is not None:
            raise ControlError("a budget is restored for good: leave 'for' out")
        return core.meter.restore(name)
    return core.meter.lift(name, period)


def _resume(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    return core.meter.resume_session(text(args, "session"))


ROUTES: tuple[Route, ...] = (
    Route("GET", "/budgets", _budgets, "what is spent of each budget, and what the runaway guard has stopped"),
    Route("POST", "/budget", _budget, "lift a budget for a while or until its period ends, or restore it",
          ("name", "for", "restore")),
    Route("POST", "/session/resume", _resume, "let a session go on that the runaway guard has stopped", ("session",)),
)  # fmt: skip
