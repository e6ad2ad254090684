"""Deletes requests that are too old, in small steps. Daily totals are kept for ever.

Only whole local days go. `meta.horizon` is the instant from which on everything is there. It moves in the transaction
that folds the hours before it into days, and single requests go after that: no query ever sees a day that is half gone.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ccm.usage import schema

STEP_ROWS = 1_000


def horizon(now: float, days: int) -> int:
    """The local midnight before which requests are deleted: today and `days` days before it are kept."""
    date = time.localtime(now)
    return int(time.mktime((date.tm_year, date.tm_mon, date.tm_mday - days, 0, 0, 0, 0, 0, -1)))


def kept_since(db: sqlite3.Connection) -> int:
    """The instant from which on every request is there; 0 where none was ever deleted."""
    found = db.execute("SELECT value FROM meta WHERE name = 'horizon'").fetchone()
    return int(found[0]) if found else 0


def step(db: sqlite3.Connection, now: float, days: int) -> tuple[int, bool]:
    """Folds old hours into days, or deletes up to STEP_ROWS old requests with their attempts.

    Returns (requests deleted, whether there is more). `days` 0 or less keeps everything.
    """
    if days <= 0:
        return 0, False
    limit = horizon(now, days)
    late = db.execute("SELECT 1 FROM hours WHERE hour < ? LIMIT 1", (limit,)).fetchone()
    if late or kept_since(db) < limit:
        with _transaction(db):
            db.execute(
                "INSERT INTO meta VALUES ('horizon', :at) "
                "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                {"at": limit},
            )
            for statement in schema.FOLD_HOURS:
                db.execute(statement, {"limit": limit})
        return 0, True
    old = db.execute(
        "SELECT seq FROM requests WHERE at < ? ORDER BY at LIMIT ?", (limit, STEP_ROWS)
    ).fetchall()
    if old:
        with _transaction(db):
            db.executemany("DELETE FROM attempts WHERE request = ?", old)
            db.executemany("DELETE FROM requests WHERE seq = ?", old)
    return len(old), len(old) == STEP_ROWS


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
