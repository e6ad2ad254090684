"""What the usage store, the budgets and the guard can be asked and told: their lines of the control table.

The `..._of` functions answer from the database at a path, so that ccmctl can do the same where no ccm runs.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccm.control import budgets
from ccm.control.actions import parse_duration
from ccm.control.arguments import Route, limit
from ccm.control.core import Core
from ccm.errors import ControlError
from ccm.late import regex
from ccm.usage import queries

MAX_ROWS = 500
_DATE = regex(r"\d{4}-\d\d-\d\d\Z")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run instead of show


def costs_of(path: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """`queries.costs` with `until` (now); with `csv` in the arguments also "csv", the rows as a text."""
    now = time.time()
    by = str(args.get("by") or "provider")
    found = _asked(path, lambda: queries.costs(path, by, _since(args, now), MAX_ROWS))
    answer = {**found, "until": now}
    return {**answer, "csv": as_csv(answer)} if str(args.get("csv", "")).lower() in ("1", "true") else answer


def usage_of(path: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures as `costs_of`, by day where nothing else is asked for: for who looks at tokens."""
    return costs_of(path, {"by": "day", **args})


def sessions_of(path: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """{"sessions": [...]}: `queries.sessions`, at most `limit` (20)."""
    most = max(1, min(limit(args), MAX_ROWS))
    return {"sessions": _asked(path, lambda: queries.sessions(path, most))}


def as_csv(answer: Mapping[str, Any]) -> str:
    """Rows and the total as RFC 4180 text; an unknown figure is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out)
    columns = [name for name in answer["total"] if name != "name"]
    writer.writerow([answer["by"], *columns])
    for row in (*answer["rows"], {"name": "total", **answer["total"]}):
        name = str(row["name"])
        shown = [row[column] for column in columns]
        writer.writerow(["'" + name if name.startswith(_FORMULA) else name, *shown])
    return out.getvalue()


def _since(args: Mapping[str, Any], now: float) -> float:
    """Epoch seconds of "7d" (ago), "today", "all" or a local date; a week ago where it is left out."""
    text = str(args.get("since") or "7d").strip().lower()
    if text == "all":
        return 0.0
    if text == "today":
        text = queries.local_day(now)
    if _DATE.match(text):
        try:
            return time.mktime(time.strptime(text, "%Y-%m-%d"))
        except (ValueError, OverflowError):
            raise ControlError(f"{text!r} is no date: write it as 2026-11-22") from None
    try:
        return now - parse_duration(text)
    except ControlError as error:
        raise ControlError(f"{error}, a date such as 2026-11-22, today or all") from None


def _asked(path: str, query: Callable[[], Any]) -> Any:
    try:
        return query()
    except ValueError as error:
        raise ControlError(str(error)) from None
    except FileNotFoundError as error:
        raise ControlError(f"no usage is kept yet: {error}", 404) from None
    except sqlite3.Error as error:
        raise ControlError(f"the usage database {path} cannot be read: {error}", 503) from None


def _path(core: Core) -> str:
    store = core.meter.store
    if store is None:
        raise ControlError("usage is not kept: [usage] enabled = false", 404)
    return store.path


def _costs(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    return costs_of(_path(core), args)


def _costs_csv(core: Core, args: Mapping[str, Any]) -> str:
    return as_csv(costs_of(_path(core), args))


def _usage(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    store = core.meter.store
    return {**usage_of(_path(core), args), "store": store.status() if store else None}


def _sessions(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    return sessions_of(_path(core), args)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/costs", _costs, "what was spent, by provider, model, class, session, project, day or key",
          ("by", "since", "csv")),
    Route("GET", "/costs.csv", _costs_csv, "the same for spreadsheets", ("by", "since"), "text/csv; charset=utf-8"),
    Route("GET", "/usage", _usage, "tokens, and how the usage database is", ("by", "since", "csv")),
    Route("GET", "/sessions", _sessions, "the sessions that were busy last", ("limit",)),
    *budgets.ROUTES,
)  # fmt: skip
