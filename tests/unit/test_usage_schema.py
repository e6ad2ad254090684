"""The schema: from every version to the newest, all or nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ccm.usage import database, queries, schema, store
from ccm.usage.rows import rows_of
from tests.spending import local, many

NOON = local("2026-03-10 12:00")


def at_version_1(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    assert database.migrate(db, schema.STEPS[:1]) == 0
    return db


def fill(db: sqlite3.Connection, number: int) -> None:
    """Rows as version 1 had them: without any sums."""
    for seq, made in enumerate(many(number, NOON, 5.0), 1):
        request, plain, partial = rows_of(made)
        db.execute(store._INSERT_REQUEST, (seq, *request))
        db.executemany(store._INSERT_PLAIN, [(seq, *row) for row in plain])
        db.executemany(store._INSERT_PARTIAL, [(seq, *row) for row in partial])


def test_a_database_of_version_1_gets_its_sums(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    db = at_version_1(old)
    fill(db, 400)
    db.close()
    with pytest.raises(FileNotFoundError, match="not yet opened"):
        queries.costs(str(old), "model", 0.0)
    database.open_for_writing(str(old)).close()
    db = database.open_for_writing(str(new))
    store._commit(db, [rows_of(made) for made in many(400, NOON, 5.0)])
    db.close()
    for by in queries.BY:
        migrated, fresh = queries.costs(str(old), by, 0.0), queries.costs(str(new), by, 0.0)
        assert [row["name"] for row in migrated["rows"]] == [row["name"] for row in fresh["rows"]]
        assert migrated["total"] == pytest.approx(fresh["total"])
    assert queries.sessions(str(old), 500) == queries.sessions(str(new), 500)


@pytest.mark.parametrize("batch", [1, 30, 31, 32, 62, 200])
def test_batches_of_any_size_give_the_same(tmp_path: Path, batch: int) -> None:
    """Many rows go in by one statement, the rest one by one; batches with and without partial attempts; again, what is
    there already stays."""
    path = tmp_path / "usage.db"
    rows = [rows_of(made) for made in many(200, NOON, 5.0)]
    db = database.open_for_writing(str(path))
    added = [store._commit(db, rows[start : start + batch]) for start in range(0, 200, batch)]
    assert sum(added) == 200 and store._commit(db, rows[50:150]) == 0
    kept = db.execute(f"SELECT {', '.join(schema.REQUEST_COLUMNS)} FROM requests ORDER BY seq").fetchall()
    assert kept == [(seq, *request) for seq, (request, _, _) in enumerate(rows, 1)]
    tried = db.execute("SELECT request, n, result FROM attempts ORDER BY request, n").fetchall()
    assert tried == [
        (seq, *pair)
        for seq, (_, plain, partial) in enumerate(rows, 1)
        for pair in sorted((row[0], row[4]) for row in (*plain, *partial))
    ]
    sums = ", ".join(f"sum({name})" for name in schema.SUMS)
    (postings,) = db.execute(f"SELECT {sums} FROM ({schema.POSTINGS.format('true')})").fetchall()
    assert db.execute(f"SELECT {sums} FROM hours").fetchone() == pytest.approx(postings)
    assert db.execute(f"SELECT {sums} FROM sessions").fetchone() == pytest.approx(postings)
    db.close()


def test_a_migrated_database_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    db = at_version_1(path)
    fill(db, 10)
    db.close()
    db = database.open_for_writing(str(path))
    store._commit(db, [rows_of(made) for made in many(20, NOON, 5.0, seed=8)])
    db.close()
    assert queries.costs(str(path), "model", 0.0)["total"]["requests"] == 30


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    db = at_version_1(tmp_path / "usage.db")
    steps = (*schema.STEPS[:1], ("CREATE TABLE good (x)", "CREATE TABLE requests (x)"))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        database.migrate(db, steps)
    assert database.version_of(db) == 1
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'good'").fetchone()[0] == 0
    assert not db.in_transaction
    db.close()


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "usage.db", isolation_level=None)
    database.migrate(db)
    with pytest.raises(database.NewerSchema, match=f"schema {schema.VERSION}, this ccm knows 1"):
        database.migrate(db, schema.STEPS[:1])
    assert database.version_of(db) == schema.VERSION
    assert database.migrate(db) == schema.VERSION
    db.close()


def test_no_column_holds_what_was_said() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    database.migrate(db)
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    names = {row[1] for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    assert {"requests", "attempts", "hours", "days", "sessions", "session_hours", "meta"} <= set(tables)
    assert not names & {"text", "body", "error", "message", "prompt", "content", "header", "headers"}


def test_reading_does_not_write(tmp_path: Path) -> None:
    path = str(tmp_path / "usage.db")
    database.open_for_writing(path).close()
    db = database.open_for_reading(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM requests")
    db.close()


def test_the_database_survives_kill_9_by_its_settings(tmp_path: Path) -> None:
    db = database.open_for_writing(str(tmp_path / "usage.db"))
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 1
    db.close()
