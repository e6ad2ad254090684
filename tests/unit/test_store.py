"""The writer: exactly once, in batches, without anybody waiting for it; and what it does when the disk will not."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ccm.usage import database, queries, schema, store
from ccm.usage.store import Store
from tests.spending import local, many, record

NOON = local("2026-03-10 12:00")
Make = Callable[..., Store]


class Told:
    """What the store said, in its order."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "usage.db")


@pytest.fixture
def make(path: str) -> Iterator[Make]:
    made: list[Store] = []

    def start(told: Callable[[str], None] = lambda text: None, retention_days: int = 0) -> Store:
        one = Store(path, retention_days, told, lambda: NOON)
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        assert one.stop(10)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses to speak of: what is tested is what happens, not how long it takes."""
    monkeypatch.setattr(store, "BATCH_S", 0.002)
    monkeypatch.setattr(store, "PAUSES_S", (0.002, 0.004))


def count(path: str, table: str = "requests") -> int:
    with database.open_for_reading(path) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_is_put_is_there_once_and_adds_up(make: Make, path: str) -> None:
    one, records = make(), many(700, NOON, 2.0)
    for made in records:
        one.put(made)
    assert one.flush()
    for made in records[:300]:  # as after a commit that succeeded although it was said to fail
        one.put(made)
    assert one.flush()
    assert (count(path), count(path, "attempts")) == (700, sum(len(made.attempts) for made in records))
    total = queries.costs(path, "provider", 0.0)["total"]
    assert total["requests"] == 700
    assert total["cost_usd"] == pytest.approx(sum(a.cost_usd or 0 for made in records for a in made.attempts))
    told = one.status()
    assert (told["rows"], told["dropped"], told["problem"], told["waiting"]) == (700, 0, "", 0)
    assert told["path"] == path and told["size_bytes"] > 100_000


def test_files_are_their_owners_alone(make: Make, path: str) -> None:
    before = os.umask(0)
    try:
        one = make()
        one.put(record("a", NOON))
        assert one.flush()
        directory = os.path.dirname(path)
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        modes = {
            name: stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode)
            for name in os.listdir(directory)
        }
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("usage.db", "usage.db-wal", "usage.db-shm"), 0o600)


def test_a_file_that_others_can_read_is_closed_to_them(make: Make, path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).touch(0o644)
    assert make().flush()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_thread_has_a_name_and_ends(make: Make) -> None:
    one = make()
    assert any(thread.name == "ccm-usage" for thread in threading.enumerate())
    assert one.stop(10)
    assert not any(thread.name == "ccm-usage" for thread in threading.enumerate())


def test_stopping_writes_what_waits_and_later_records_are_dropped(make: Make, path: str) -> None:
    one = make()
    for n in range(50):
        one.put(record(f"r{n}", NOON))
    assert one.stop(10)
    one.put(record("late", NOON))
    assert count(path) == 50
    assert one.status()["dropped"] == 1
    assert not one.flush(1)


def test_a_store_that_never_started_stops(path: str) -> None:
    assert Store(path, 90, lambda text: None).stop(1)


def test_the_queue_is_bounded_and_what_it_drops_is_counted(
    path: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_WAITING", 5)
    idle = Store(path, 90, lambda text: None)
    for n in range(8):
        idle.put(record(f"r{n}", NOON))
    assert (idle.status()["waiting"], idle.status()["dropped"]) == (5, 3)


def test_a_record_that_cannot_be_stored_does_not_stop_the_others(make: Make, path: str) -> None:
    one, odd = make(), record("odd", NOON)
    odd.at = "yesterday"  # type: ignore[assignment]
    for made in (record("a", NOON), odd, record("b", NOON)):
        one.put(made)
    assert one.flush()
    assert (count(path), one.status()["dropped"]) == (2, 1)


def test_a_corrupt_file_is_set_aside(make: Make, path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"this is no database at all, but long enough to look like one" * 100)
    told = Told()
    one = make(told)
    one.put(record("a", NOON))
    assert one.flush()
    assert count(path) == 1
    aside = [name for name in os.listdir(os.path.dirname(path)) if ".corrupt-" in name]
    assert aside == ["usage.db.corrupt-20260310-120000"]
    assert any("set aside" in text and aside[0] in text for text in told.texts)
    assert one.status()["problem"] == ""


def test_damaged_pages_are_found_at_the_start(make: Make, path: str) -> None:
    one = make()
    for made in many(300, NOON, 1.0):
        one.put(made)
    assert one.stop(10)
    data = bytearray(Path(path).read_bytes())
    for at in range(8192, len(data) - 2000, 4096):
        data[at : at + 1500] = os.urandom(1500)
    Path(path).write_bytes(bytes(data))
    again = make()
    again.put(record("a", NOON))
    assert again.flush()
    assert (count(path), again.status()["rows"]) == (1, 1)
    assert any(".corrupt-" in name for name in os.listdir(os.path.dirname(path)))


def test_a_large_file_is_checked_while_rows_are_kept(
    make: Make, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged is on disk within a second, also in the first seconds after a start."""
    assert make().stop(10)
    monkeypatch.setattr(database, "CHECK_AT_ONCE_BYTES", 0)
    goes_on, find = threading.Event(), database.find_damage

    def slow(path: str, stopping: Callable[[], bool]) -> str:
        assert goes_on.wait(10)
        return find(path, stopping)

    monkeypatch.setattr(database, "find_damage", slow)
    one = make()
    one.put(record("a", NOON))
    assert one.flush() and count(path) == 1
    goes_on.set()
    one.put(record("b", NOON))
    assert one.flush() and count(path) == 2
    assert one.stop(10)
    assert not any(thread.name == "ccm-usage-check" for thread in threading.enumerate())
    assert not any(".corrupt-" in name for name in os.listdir(os.path.dirname(path)))


def test_damage_that_the_later_check_finds(make: Make, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make()
    for made in many(300, NOON, 1.0):
        first.put(made)
    assert first.stop(10)
    with closing(sqlite3.connect(path)) as db:  # pages that keeping a row does not come by
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'requests_at'").fetchone()
    data = bytearray(Path(path).read_bytes())
    data[(page - 1) * 4096 + 8 : page * 4096] = os.urandom(4088)
    Path(path).write_bytes(bytes(data))
    monkeypatch.setattr(database, "CHECK_AT_ONCE_BYTES", 0)
    told = Told()
    again = make(told)
    again.flush(0.5)
    deadline = time.monotonic() + 10
    while not any("set aside" in text for text in told.texts):
        assert time.monotonic() < deadline, told.texts
        again.put(record(f"late-{time.monotonic()}", NOON))
        again.flush(0.2)
    again.put(record("z", NOON))
    assert again.flush()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM requests WHERE id = 'z'").fetchone() == (1,)


def test_another_ccm_that_was_faster_to_set_it_aside_is_left_alone(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"x")
    broken = database.identity(path)
    os.rename(path, path + ".elsewhere")
    Path(path).write_bytes(b"good")
    assert database.set_aside(path, broken) is None
    assert Path(path).read_bytes() == b"good"


def test_a_newer_schema_is_never_written(make: Make, path: str) -> None:
    make().stop(10)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    before = Path(path).read_bytes()
    told = Told()
    one = make(told)
    one.put(record("a", NOON))
    assert not one.flush(0.1)
    assert "this ccm knows" in one.status()["problem"]
    assert (one.status()["waiting"], one.status()["dropped"]) == (1, 0)
    assert one.stop(10)
    assert one.status()["dropped"] == 1
    assert Path(path).read_bytes() == before
    assert len([text for text in told.texts if "this ccm knows" in text]) == 1


def test_a_directory_that_cannot_be_made_costs_only_the_figures(
    make: Make, path: str, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    told = Told()
    one = make(told)
    one.put(record("a", NOON))
    assert not one.flush(0.1)
    assert one.status()["problem"].startswith(f"usage cannot be kept in {path}: ")
    (tmp_path / "state").unlink()
    assert one.flush(5)
    assert (count(path), one.status()["problem"]) == (1, "")
    assert told.texts[-1] == f"usage is kept again in {path}"


def test_a_symbolic_link_is_not_followed(make: Make, path: str, tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(path))
    (tmp_path / "elsewhere").write_text("precious")
    os.symlink(tmp_path / "elsewhere", path)
    one = make()
    one.put(record("a", NOON))
    assert not one.flush(0.1)
    assert one.status()["problem"]
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_full_disk_is_waited_out(make: Make, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    original = database.open_for_writing

    def small(name: str) -> sqlite3.Connection:
        db = original(name)
        if full:
            db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
        return db

    monkeypatch.setattr(database, "open_for_writing", small)
    one = make()
    records = many(200, NOON, 1.0)
    for made in records:
        one.put(made)
    assert not one.flush(0.1)
    assert "full" in one.status()["problem"]
    assert (one.status()["waiting"], one.status()["dropped"], count(path)) == (200, 0, 0)
    full = False
    assert one.flush(5)
    assert (count(path), one.status()["problem"]) == (200, "")


def test_while_the_disk_is_full_no_more_waits_than_the_bound(
    make: Make, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_WAITING", 10)
    (tmp_path / "state").write_text("")
    one = make()
    for n in range(30):
        one.put(record(f"r{n}", NOON))
        one.flush(0.01)  # lets the writer take it and fail
    told = one.status()
    assert told["waiting"] <= 20 and told["dropped"] + told["waiting"] >= 30
    (tmp_path / "state").unlink()
    assert one.flush(5)
    assert count(path) + one.status()["dropped"] == 30
    assert count(path) >= 10


def test_a_lock_is_waited_out(make: Make, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    one = make()
    assert one.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    one.put(record("a", NOON))
    assert not one.flush(0.1)
    assert "locked" in one.status()["problem"]
    other.execute("ROLLBACK")
    other.close()
    assert one.flush(5)
    assert (count(path), one.status()["problem"]) == (1, "")


def test_a_deleted_file_is_begun_anew(make: Make, path: str) -> None:
    told = Told()
    one = make(told)
    one.put(record("a", NOON))
    assert one.flush()
    for name in os.listdir(os.path.dirname(path)):
        os.unlink(os.path.join(os.path.dirname(path), name))
    one.put(record("b", NOON))
    assert one.flush()
    assert (count(path), one.status()["rows"]) == (1, 1)
    assert any("deleted" in text for text in told.texts)


def test_damage_that_shows_while_writing(make: Make, path: str) -> None:
    one = make()
    for made in many(200, NOON, 1.0):
        one.put(made)
    assert one.flush()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(4096, size, 4096):
            file.seek(at)
            file.write(b"\xff" * 4096)
    other = sqlite3.connect(path, isolation_level=None)  # makes the writer's page cache stale
    try:
        other.execute("PRAGMA user_version = 2")
    except sqlite3.Error:
        pass
    other.close()
    one.put(record("new", NOON))
    assert one.flush(5)
    assert one.status()["problem"] == ""
    with database.open_for_reading(path) as reading:
        assert reading.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_two_stores_on_one_file(make: Make, path: str) -> None:
    one, two = make(), make()
    for n in range(100):
        (one if n % 2 else two).put(record(f"r{n}", NOON))
        if n == 50:
            one.put(record("both", NOON))
            two.put(record("both", NOON))
    assert one.flush() and two.flush()
    assert count(path) == 101
    assert queries.costs(path, "model", 0.0)["total"]["requests"] == 101


def test_old_requests_go_while_new_ones_come(make: Make, path: str) -> None:
    records = many(2500, NOON, 10.0)
    first = make()
    for made in records:
        first.put(made)
    assert first.stop(10)
    one = make(retention_days=3)
    limit = local("2026-03-07 00:00")
    left = sum(made.at >= limit for made in records)
    for n in range(200):
        if count(path) == left:
            break
        assert one.flush(), n
    assert (count(path), one.status()["rows"]) == (left, left)
    assert queries.costs(path, "day", 0.0)["total"]["requests"] == 2500


def test_a_listener_that_fails_does_not_stop_the_writer(make: Make, path: str, tmp_path: Path) -> None:
    def refuse(text: str) -> None:
        raise RuntimeError(text)

    (tmp_path / "state").write_text("")
    one = make(refuse)
    one.put(record("a", NOON))
    assert not one.flush(0.05)
    (tmp_path / "state").unlink()
    assert one.flush(5)
    assert count(path) == 1
