"""What was used and spent, read from the usage database: each query on a read-only connection of its own.

Sums come from the hourly and daily tables; only the hour in which a period begins is added up from single requests, so
every figure is exact to the second and none needs to read more than an hour of them. Unknown costs are counted in
`unpriced`, never taken for 0.
"""

from __future__ import annotations

import fnmatch
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ccm.late import Late
from ccm.usage import schema
from ccm.usage.rows import hour_of
from ccm.usage.schema import DAY, POSTINGS, SUMS

if TYPE_CHECKING:
    from ccm.usage import database, retention
else:  # they need sqlite
    database, retention = Late("ccm.usage.database"), Late("ccm.usage.retention")

HOUR_S = 3600
# What sums can be broken down by -> the column.
BY = {"provider": "provider", "model": "model", "class": "class", "session": "session", "project": "project",
      "day": "day", "key": "endpoint"}  # fmt: skip
FILTERS = {"provider": "provider", "model": "model", "request_class": "class", "project": "project"}
_SUM_LIST = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
# The requests of the hour that a period begins in: their own beginning decides.
_FIRST_HOUR = POSTINGS.format("r.at >= :since AND r.at < :from_hour AND r.hour < :from_hour")

Figures = dict[str, Any]


def costs(path: str, by: str, since: float, limit: int = 0) -> Figures:
    """What was spent since an instant (epoch seconds), broken down by one of BY.

    {"by", "since", "rows": [{"name", *SUMS}], "total": {*SUMS}}: dearest first, days in order of time; `cost_usd` is
    None where no price at all is known, and so are `list_cost_usd` and `saved_usd` where there is nothing to compare.
    `limit` > 0 keeps so many rows and sums the others in "rest" ({"count", *SUMS}). Single requests and sessions are
    kept for a limited time: sums of whole days stand for what is older, and for sessions "since" is moved instead.
    Raises FileNotFoundError, ValueError for an unknown `by`, and sqlite3.Error.
    """
    if by not in BY:
        raise ValueError(f"costs can be told by {', '.join(BY)}, not by {by!r}")
    with closing(_open(path)) as db:
        if by == "session":
            since = max(since, float(retention.kept_since(db)))
            rows, total, number = _sessions_since(db, since, limit)
        else:
            rows = [_named(str(row[0]), row) for row in _breakdown(db, BY[by], since)]
            rows.sort(key=_by_name if by == "day" else _dearest)
            total, number = _total(rows), len(rows)
            if limit > 0:
                rows = rows[-limit:] if by == "day" else rows[:limit]
    answer: Figures = {"by": by, "since": since}
    if len(rows) < number:
        kept = _total(rows)
        others = {column: total[column] - kept[column] for column in SUMS}
        answer["rest"] = {"count": number - len(rows), **_told(others)}
    return {**answer, "rows": [_told(row) for row in rows], "total": _told(total)}


def sessions(path: str, limit: int = 20) -> list[Figures]:
    """The sessions that were busy last, youngest first: {"session", "project", "first_at", "last_at", *SUMS}."""
    with closing(_open(path)) as db:
        found = db.execute(
            "SELECT * FROM sessions WHERE session <> '' ORDER BY last_at DESC LIMIT ?", (limit,)
        ).fetchall()
    return [_told(dict(row)) for row in found]


def session(path: str, name: str) -> Figures | None:
    """One session's figures, as in `sessions`; None where it is not known (any more)."""
    with closing(_open(path)) as db:
        found = db.execute("SELECT * FROM sessions WHERE session = ?", (name,)).fetchone()
    return None if found is None else _told(dict(found))


def spent_usd(path: str, since: float, filters: Mapping[str, str] | None = None) -> float:
    """What is known to be spent since an instant. `filters` (keys of FILTERS; "" = any) narrow it; `model` may be a
    glob. Unknown prices add nothing. Raises FileNotFoundError, sqlite3.Error."""
    wanted = _wanted(filters)
    with closing(_open(path)) as db:
        found = _sums(db, ("provider", "model", "class", "project"), "cost_usd", since)
    return sum((float(row["cost_usd"]) for row in found if _matches(row, wanted)), 0.0)


def spent_by_session(path: str, since: float, filters: Mapping[str, str] | None = None) -> dict[str, float]:
    """What every session that was busy since an instant is known to have spent in all (requests of before included,
    as far as they are kept). `filters` as in `spent_usd`; with any, only requests since the instant count, and each of
    them is read. Raises FileNotFoundError, sqlite3.Error."""
    wanted = _wanted(filters)
    with closing(_open(path)) as db:
        if not wanted:
            found = db.execute(
                "SELECT session, cost_usd FROM sessions WHERE last_at >= ? AND session <> ''", (since,)
            ).fetchall()
            return {str(row["session"]): float(row["cost_usd"]) for row in found}
        rows = db.execute(
            "SELECT session, provider, model, class, project, sum(cost_usd) AS cost_usd "  # noqa: S608 our own text
            f"FROM ({POSTINGS.format('r.at >= :since')}) WHERE session <> '' "
            "GROUP BY session, provider, model, class, project",
            {"since": since},
        ).fetchall()
    spent: dict[str, float] = {}
    for row in rows:
        if _matches(row, wanted):
            spent[row["session"]] = spent.get(row["session"], 0.0) + float(row["cost_usd"])
    return spent


# ---- sums over a period


def _breakdown(db: sqlite3.Connection, column: str, since: float) -> list[sqlite3.Row]:
    return _sums(db, (DAY if column == "day" else column,), ", ".join(SUMS), since)


def _sums(db: sqlite3.Connection, columns: Sequence[str], sums: str, since: float) -> list[sqlite3.Row]:
    """Rows of the columns and the sums since an instant, grouped. Days stand for what is older than single requests."""
    from_hour = hour_of(since) + (HOUR_S if since > hour_of(since) else 0)
    kept = retention.kept_since(db)
    added = ", ".join(f"sum({name}) AS {name}" for name in sums.split(", "))
    named = [f"{column} AS k{n}" for n, column in enumerate(columns)]
    parts = [f"SELECT {', '.join(named)}, {sums} FROM hours WHERE hour >= :from_hour"]  # noqa: S608 our own text
    if since < kept:
        from_hour = kept
        of_day = [f"{'day' if column == DAY else column} AS k{n}" for n, column in enumerate(columns)]
        parts.append(f"SELECT {', '.join(of_day)}, {sums} FROM days WHERE day >= :day AND day < :kept_day")  # noqa: S608
    elif since < from_hour:
        parts.append(f"SELECT {', '.join(named)}, {sums} FROM ({_FIRST_HOUR})")  # noqa: S608
    keys = ", ".join(f"k{n}" for n in range(len(columns)))
    told = ", ".join(f"k{n} AS {'day' if c == DAY else c}" for n, c in enumerate(columns))
    return db.execute(
        f"SELECT {told}, {added} FROM ({' UNION ALL '.join(parts)}) GROUP BY {keys}",  # noqa: S608
        {"since": since, "from_hour": from_hour, "day": local_day(since), "kept_day": local_day(kept)},
    ).fetchall()


def _sessions_since(db: sqlite3.Connection, since: float, limit: int) -> tuple[list[Figures], Figures, int]:
    """(the dearest sessions, the sums of all, how many there are). Sessions that began in the period count as they are;
    those that began before it are added up hour by hour."""
    from_hour = hour_of(since) + (HOUR_S if since > hour_of(since) else 0)
    straddling = "SELECT session FROM sessions WHERE first_at < :since AND last_at >= :since"
    columns, dearest = ", ".join(SUMS), "cost_usd DESC, requests DESC, name"
    found = (
        f"SELECT session AS name, {columns} FROM sessions WHERE first_at >= :since "  # noqa: S608 our own text
        f"UNION ALL SELECT session AS name, {_SUM_LIST} FROM ("
        f"SELECT session, {columns} FROM session_hours WHERE hour >= :from_hour AND session IN ({straddling}) "
        f"UNION ALL SELECT session, {columns} FROM ({_FIRST_HOUR}) WHERE session IN ({straddling})) GROUP BY session"
    )
    given = {"since": since, "from_hour": from_hour, "limit": limit if limit > 0 else -1}
    rows = db.execute(f"SELECT * FROM ({found}) ORDER BY {dearest} LIMIT :limit", given).fetchall()  # noqa: S608
    if len(rows) < given["limit"] or limit <= 0:
        named = [_named(str(row["name"]), row) for row in rows]
        return named, _total(named), len(named)
    total = db.execute(f"SELECT count(*) AS number, {_SUM_LIST} FROM ({found})", given).fetchone()  # noqa: S608
    sums = {column: total[column] for column in SUMS}
    return [_named(str(row["name"]), row) for row in rows], sums, int(total["number"])


def local_day(at: float) -> str:
    """ "2026-11-22": the local date of an instant."""
    return time.strftime("%Y-%m-%d", time.localtime(at))


# ---- rows


def _open(path: str) -> sqlite3.Connection:
    """A reading connection to a database that has the sums. Raises FileNotFoundError for one that has nothing yet."""
    db = database.open_for_reading(path)
    if database.version_of(db) < schema.VERSION:
        db.close()
        raise FileNotFoundError(f"the usage database {path} was not yet opened by this version of ccm")
    return db


def _named(name: str, row: sqlite3.Row) -> Figures:
    return {"name": name, **{column: row[column] for column in SUMS}}


def _total(rows: Iterable[Figures]) -> Figures:
    total: Figures = dict.fromkeys(SUMS, 0)
    for row in rows:
        for column in SUMS:
            total[column] += row[column]
    return total


def _told(row: Figures) -> Figures:
    """The row with None for figures that nobody knows."""
    if row["unpriced"] and row["unpriced"] >= row["requests"] and not row["cost_usd"]:
        row["cost_usd"] = row["saved_usd"] = None
    if not row["list_cost_usd"] and row["unpriced"]:
        row["list_cost_usd"] = row["saved_usd"] = None
    return row


def _dearest(row: Figures) -> tuple[float, int, str]:
    return -row["cost_usd"], -row["requests"], row["name"]


def _by_name(row: Figures) -> str:
    return str(row["name"])


def _wanted(filters: Mapping[str, str] | None) -> dict[str, Callable[[str], bool]]:
    tests: dict[str, Callable[[str], bool]] = {}
    for name, value in (filters or {}).items():
        column = FILTERS[name]
        if not value:
            continue
        if name == "model" and any(char in value for char in "*?["):
            tests[column] = lambda given, glob=value: fnmatch.fnmatchcase(given, glob)  # type: ignore[misc]
        else:
            tests[column] = value.__eq__
    return tests


def _matches(row: sqlite3.Row, wanted: Mapping[str, Callable[[str], bool]]) -> bool:
    return all(test(row[column]) for column, test in wanted.items())
