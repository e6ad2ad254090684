"""Keeps what every request used and cost in sqlite, without any request ever waiting for it.

`put` hands a finished record over; one thread, ccm-usage, makes rows of it and commits them in batches, so that kill -9
loses less than a second. A disk that is full, a file that cannot be written, is locked, broken, or deleted under us
costs patience, not service: rows wait up to a bound, what goes beyond it is counted, `status()` says so, and the writer
tries again in growing pauses. It must never write to a database of a newer ccm.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ccm.late import Late
from ccm.observe.record import RequestRecord
from ccm.usage import schema
from ccm.usage.rows import Row, rows_of

if TYPE_CHECKING:
    from ccm.usage import database, retention
else:  # they need sqlite, which the first commit is early enough for
    database, retention = Late("ccm.usage.database"), Late("ccm.usage.retention")

BATCH_S = 0.2  # from the first record of a batch to its commit
MOST_WAITING = 10_000
BATCH_ROWS = 1_000
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
RETENTION_EVERY_S = 3600.0


def _insert(verb: str, table: str, columns: Sequence[str], rows: int = 1) -> str:
    places = f"({', '.join('?' * len(columns))})"
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES {', '.join([places] * rows)}"


# Most attempts have no figures of their own: the columns from `partial` on keep their defaults.
_PLAIN_COLUMNS = schema.ATTEMPT_COLUMNS[: schema.ATTEMPT_COLUMNS.index("partial")]
_INSERT_REQUEST = _insert("INSERT OR IGNORE", "requests", schema.REQUEST_COLUMNS)
_INSERT_PARTIAL = _insert("INSERT", "attempts", schema.ATTEMPT_COLUMNS)
_INSERT_PLAIN = _insert("INSERT", "attempts", _PLAIN_COLUMNS)
# Many rows by one statement: sqlite lets go of the interpreter lock once for each, and under load every time is a fight
# for it. 999 values are what the oldest sqlite takes.
_TOGETHER = 999 // len(schema.REQUEST_COLUMNS)
_INSERT_REQUESTS = _insert("INSERT OR IGNORE", "requests", schema.REQUEST_COLUMNS, _TOGETHER)
_INSERT_PLAINS = _insert("INSERT", "attempts", _PLAIN_COLUMNS, _TOGETHER)

Rows = tuple[Row, list[Row], list[Row]]


class Store:
    """The usage database. `put`, `status` and `flush` may be called from any thread; `start` and `stop` once each.

    `on_problem` is told, in the writer's thread, one sentence when keeping usage fails and one when it works again.
    """

    def __init__(
        self,
        path: str,
        retention_days: int,
        on_problem: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._retention_days = retention_days
        self._on_problem = on_problem
        self._clock = clock
        self._queue: deque[RequestRecord] = deque()
        self._marks: deque[threading.Event] = (
            deque()
        )  # of those who wait until what was put before is committed
        self._wake = threading.Event()
        self._hurry = threading.Event()  # somebody waits for the commit: do not gather a batch first
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of the figures below
        self._dropped = 0
        self._problem = ""
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="ccm-usage", daemon=True)
        # of the writer's thread alone
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._pending: deque[Rows] = deque()
        self._checker: threading.Thread | None = None
        self._damage = ""  # what the checker has found; set by it, once
        self._told = ""
        self._next_retention = 0.0

    def start(self) -> None:
        """Starts the writer; opening and checking the file happens in its thread."""
        self._wake.set()
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Hands a finished, settled record over; it must not be changed afterwards. Never blocks, never raises."""
        if len(self._queue) >= MOST_WAITING or self._stopping.is_set():
            with self._lock:
                self._dropped += 1
            return
        self._queue.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def status(self) -> dict[str, Any]:
        """`path`, `rows` (requests kept), `waiting`, `dropped` since the start, `problem` ("" = none), `size_bytes`."""
        with self._lock:
            figures = {"rows": self._count, "dropped": self._dropped, "problem": self._problem}
        waiting = len(self._queue) + len(self._pending)
        return {
            "path": self.path,
            **figures,
            "waiting": waiting,
            "size_bytes": database.size_bytes(self.path),
        }

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until everything put before is committed; False where that took longer or cannot be done."""
        if not self._thread.is_alive():
            return False
        mark = threading.Event()
        self._marks.append(mark)
        self._hurry.set()
        self._wake.set()
        return mark.wait(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Writes what waits, closes the file and ends the thread; False where the time was too short.

        What cannot be written now is counted as dropped. Later records are dropped too.
        """
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ---- the writer's thread

    def _run(self) -> None:
        failures, marks = 0, list[threading.Event]()
        while True:
            self._wake.wait()
            if failures:
                self._stopping.wait(PAUSES_S[min(failures, len(PAUSES_S)) - 1])
            else:
                self._hurry.wait(BATCH_S)
            self._hurry.clear()
            stopping = self._stopping.is_set()
            self._wake.clear()
            self._take(marks)
            try:
                self._write_all()
                failures = 0
                self._say("")
                for mark in marks:
                    mark.set()
                marks.clear()
                self._retain()
            except Exception as error:  # the thread must outlive whatever the disk thinks of
                failures += 1
                self._failed(error)
            if stopping:
                break
            if failures or self._queue:
                self._wake.set()
        self._take(marks)
        with self._lock:
            self._dropped += len(self._pending)
        self._pending.clear()
        if self._checker is not None:
            self._checker.join()
        self._close()

    def _take(self, marks: list[threading.Event]) -> None:
        """Makes rows of what was put. Records are let go at once: they hold on to much more than their figures."""
        for _ in range(len(self._marks)):  # before the records: what was put before a mark is among them
            marks.append(self._marks.popleft())
        for _ in range(len(self._queue)):
            item = self._queue.popleft()
            try:
                if len(self._pending) >= MOST_WAITING:
                    raise OverflowError
                self._pending.append(rows_of(item))
            except Exception:  # one record that cannot be stored must not stop the others
                with self._lock:
                    self._dropped += 1

    def _write_all(self) -> None:
        db = self._open()
        if self._damage:
            reason, self._damage = self._damage, ""
            raise database.Broken(reason, self._identity)
        while self._pending:
            batch = [self._pending[n] for n in range(min(BATCH_ROWS, len(self._pending)))]
            added = _commit(db, batch)
            for _ in batch:
                self._pending.popleft()
            with self._lock:
                self._count += added

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one where the file was deleted or replaced under us."""
        if self._db is not None:
            if database.identity(self.path) == self._identity:
                return self._db
            self._close()
            self._tell(
                f"the usage database {self.path} was deleted or replaced; the one that is there now is used"
            )
        try:
            db = database.open_for_writing(self.path)
        except database.Broken as error:
            if aside := database.set_aside(self.path, error.identity, self._clock):
                self._tell(
                    f"the usage database was corrupt ({error}) and is set aside as {aside}; a new one is begun"
                )
            db = database.open_for_writing(self.path)
        self._db, self._identity = db, database.identity(self.path)
        if database.size_bytes(self.path) > database.CHECK_AT_ONCE_BYTES:
            self._check_beside()
        count = int(db.execute("SELECT count(*) FROM requests").fetchone()[0])
        with self._lock:
            self._count = count
        return db

    def _check_beside(self) -> None:
        """Checks a large file while rows are being kept in it: what was acknowledged must be on disk within a second,
        also right after a start. Once in a life: a file that was sound and breaks shows it while writing."""
        if self._checker is not None:
            return
        identity = self._identity

        def check() -> None:
            damage = database.find_damage(self.path, self._stopping.is_set)
            if damage and identity == self._identity:
                self._damage = damage
                self._wake.set()

        self._checker = threading.Thread(target=check, name="ccm-usage-check", daemon=True)
        try:
            self._checker.start()
        except RuntimeError:  # no thread to be had
            self._checker = None

    def _close(self) -> None:
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error:
                pass  # what matters is committed
            self._db = None

    def _retain(self) -> None:
        """Deletes what is too old, a little at a time; between two steps new rows go first."""
        now = self._clock()
        if self._db is None or (
            now < self._next_retention and now > self._next_retention - 2 * RETENTION_EVERY_S
        ):
            return
        deleted, more = retention.step(self._db, now, self._retention_days)
        with self._lock:
            self._count -= deleted
        if more:
            self._wake.set()
            self._hurry.set()
        else:
            self._next_retention = now + RETENTION_EVERY_S

    def _failed(self, error: Exception) -> None:
        if self._db is not None and isinstance(error, sqlite3.Error) and database.is_broken(error):
            self._close()  # damage that shows only while writing
            try:
                if aside := database.set_aside(self.path, self._identity, self._clock):
                    self._tell(f"the usage database is corrupt ({error}) and is set aside as {aside}")
            except OSError as refused:
                error = refused
        self._close()
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._say(f"usage cannot be kept in {self.path}: {reason}")

    def _say(self, problem: str) -> None:
        with self._lock:
            self._problem = problem
        if problem == self._told:
            return
        recovered, self._told = self._told and not problem, problem
        self._tell(f"usage is kept again in {self.path}" if recovered else problem)

    def _tell(self, text: str) -> None:
        try:
            self._on_problem(text)
        except Exception:  # whoever listens, the writer goes on
            pass


def _commit(db: sqlite3.Connection, batch: Sequence[Rows]) -> int:
    """Writes a batch and brings the sums up to date, all or nothing; returns how many requests were new.

    A request that is there already (a commit that succeeded although it was said to fail) is left as it is.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        after = int(db.execute("SELECT coalesce(max(seq), 0) FROM requests").fetchone()[0])
        before = db.total_changes
        numbered = list(enumerate(batch, after + 1))
        _put_rows(
            db, _INSERT_REQUESTS, _INSERT_REQUEST, [(seq, *request) for seq, (request, _, _) in numbered]
        )
        added = db.total_changes - before
        if added != len(batch):
            new = {row[0] for row in db.execute("SELECT seq FROM requests WHERE seq > ?", (after,))}
            numbered = [(seq, rows) for seq, rows in numbered if seq in new]
        plains = [(seq, *row) for seq, (_, plain, _) in numbered for row in plain]
        _put_rows(db, _INSERT_PLAINS, _INSERT_PLAIN, plains)
        partials = [(seq, *row) for seq, (_, _, partial) in numbered for row in partial]
        if partials:
            db.executemany(_INSERT_PARTIAL, partials)
        if added:
            for statement in schema.ADD_NEW if partials else schema.ADD_NEW_ANSWERS:
                db.execute(statement, {"after": after})
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return added


def _put_rows(db: sqlite3.Connection, many: str, single: str, rows: list[Row]) -> None:
    whole = len(rows) - len(rows) % _TOGETHER
    for start in range(0, whole, _TOGETHER):
        db.execute(many, tuple(chain.from_iterable(rows[start : start + _TOGETHER])))
    db.executemany(single, rows[whole:])
