"""The usage database as a file: opened, checked, set aside when it is broken. Permissions are its owner's alone.

WAL with synchronous=NORMAL: a commit survives kill -9 (the pages are with the kernel), a power cut costs the last
commits and never the file. FULL would wait for the disk at every commit to save only those.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from urllib.parse import quote

from ccm.usage import schema

BUSY_S = 5.0
CHECK_AT_ONCE_BYTES = 8 * 1024 * 1024  # a larger one takes seconds (100 MB: 1-5), and new rows must not wait
_SIDE_FILES = ("-wal", "-shm")
_BROKEN = ("malformed", "not a database", "corrupt")


class Broken(sqlite3.DatabaseError):
    """The file, told apart by (device, inode), is no sound database: it has to be set aside."""

    def __init__(self, reason: str, identity: tuple[int, int] | None = None) -> None:
        self.identity = identity
        super().__init__(reason)


def is_broken(error: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is damaged."""
    if isinstance(error, Broken):
        return True
    return type(error) is sqlite3.DatabaseError and any(word in str(error) for word in _BROKEN)


def open_for_writing(path: str) -> sqlite3.Connection:
    """A connection to a database of the newest schema; the file and its directory are made where missing. A file of up
    to CHECK_AT_ONCE_BYTES has been checked; for a larger one there is `find_damage`.

    Raises Broken, NewerSchema, other sqlite3 errors, and OSError. The connection is in autocommit mode.
    """
    directory = os.path.dirname(path)
    if directory and not os.path.isdir(directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    # Made before sqlite sees it: nobody else may read it for even a moment, and its side files take over its mode.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=True)
    try:
        _prepare(db, check=found.st_size <= CHECK_AT_ONCE_BYTES)
    except sqlite3.Error as error:
        db.close()
        if is_broken(error):
            raise Broken(str(error), (found.st_dev, found.st_ino)) from error
        raise
    return db


def find_damage(path: str, stopping: Callable[[], bool]) -> str:
    """What is wrong with the database, "" for nothing; beside a writer, on a connection of its own. Also "" where it
    cannot be read, and soon after `stopping` says so."""
    try:
        with closing(open_for_reading(path)) as db:
            db.set_progress_handler(stopping, 100_000)
            found = db.execute("PRAGMA quick_check(1)").fetchone()
    except OSError:
        return ""
    except sqlite3.Error as error:
        return str(error) if is_broken(error) else ""
    return "" if found is None or found[0] == "ok" else str(found[0])


def _prepare(db: sqlite3.Connection, check: bool) -> None:
    if (version := version_of(db)) > schema.VERSION:
        raise NewerSchema(f"it has schema {version}, this ccm knows {schema.VERSION}")
    if check:
        found = db.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise Broken(str(found[0]) if found else "no answer to quick_check")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("PRAGMA temp_store = MEMORY")
    migrate(db)
    db.execute(schema.MAKE_MOMENT)


def set_aside(
    path: str, broken: tuple[int, int] | None, clock: Callable[[], float] = time.time
) -> str | None:
    """Renames a broken database with its side files out of the way; returns its new name. Raises OSError.

    None where the file at the path is no longer that one: another ccm has set it aside already.
    """
    if broken is None or identity(path) != broken:
        return None
    aside = f"{path}.corrupt-{time.strftime('%Y%m%d-%H%M%S', time.localtime(clock()))}"
    while os.path.lexists(aside):  # twice within a second
        aside += "x"
    os.rename(path, aside)
    for suffix in _SIDE_FILES:
        try:
            os.rename(path + suffix, aside + suffix)
        except FileNotFoundError:
            pass
    return aside


def open_for_reading(path: str) -> sqlite3.Connection:
    """A connection that cannot write. Raises FileNotFoundError where there is no file, and sqlite3 errors.

    Where a WAL database lies in a directory that cannot be written, and nobody writes it, sqlite wants to be told that
    nothing will change.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no usage database at {path}")
    address = f"file:{quote(os.path.abspath(path))}?mode=ro"
    db = _connect(address)
    try:
        version_of(db)
    except sqlite3.OperationalError:
        db.close()
        if os.path.exists(path + "-wal"):
            raise
        db = _connect(address + "&immutable=1")
    return db


def _connect(address: str) -> sqlite3.Connection:
    db = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def identity(path: str) -> tuple[int, int] | None:
    """(device, inode) of the file at this path; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def size_bytes(path: str) -> int:
    """The database and its write-ahead log, in bytes."""
    total = 0
    for name in (path, path + "-wal"):
        try:
            total += os.stat(name).st_size
        except OSError:
            pass
    return total


class NewerSchema(sqlite3.OperationalError):
    """The file was written by a newer ccm: this one must not write to it."""


def version_of(db: sqlite3.Connection) -> int:
    """The version of the schema; 0 for an empty database."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: sqlite3.Connection, steps: Sequence[Sequence[str]] = schema.STEPS) -> int:
    """Brings a database to the newest version, all steps in one transaction; returns the version it had.

    Raises NewerSchema, and what sqlite raises; then nothing has changed. `db` is in autocommit mode.
    """
    before = version_of(db)
    if before == len(steps):
        return before
    db.execute("BEGIN IMMEDIATE")
    try:
        before = version_of(db)  # another ccm may have been faster
        if before > len(steps):
            raise NewerSchema(f"it has schema {before}, this ccm knows {len(steps)}")
        for step in steps[before:]:
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(steps)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return before
