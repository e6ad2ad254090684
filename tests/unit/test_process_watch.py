"""The watch over the files: every way in which editors save is seen once, whole, and only when something changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ccm.process import watch
from ccm.process.watch import Seen, Watch, look


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "DEBOUNCE_S", 0.02)
    monkeypatch.setattr(watch, "SECOND_LOOK_S", 0.03)


class Reader:
    """What ccm is to the watch: it reads files, takes valid ones and remembers what was told."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.seen: Seen = look(paths)
        self.taken: list[str] = []
        self.refused: list[str] = []
        self.watch = Watch(lambda: self.seen, self.valid, self.apply)

    def text(self) -> str:
        try:
            return "".join(path.read_text() for path in self.paths)
        except OSError:
            return "bad"

    def valid(self) -> bool:
        return "bad" not in self.text()

    def apply(self) -> None:
        self.seen = look(self.paths)
        (self.taken if self.valid() else self.refused).append(self.text())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ccm-config.toml"
    path.write_text("one")
    return path


def rename_over(path: Path) -> None:
    new = path.with_suffix(".tmp")
    new.write_text("two")
    os.replace(new, path)


def rewrite(path: Path) -> None:
    path.write_text("two")


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    new = path.with_suffix(".tmp")
    new.write_text("two")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(new, path)


def backup_and_new(path: Path) -> None:
    path.rename(path.with_suffix(".bak"))
    path.write_text("two")


@pytest.mark.parametrize("save", [rename_over, rewrite, same_size_and_time, backup_and_new])
def test_a_saved_file_is_taken_once(file: Path, save: Callable[[Path], None]) -> None:
    reader = Reader(file)
    reader.watch.check()
    assert reader.taken == []
    save(file)
    for _ in range(3):
        reader.watch.check()
    assert reader.taken == ["two"] and not reader.refused


def test_a_swapped_link_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "ccm-config.toml"
    link.symlink_to("one")
    reader = Reader(link)
    new = tmp_path / "new"
    new.symlink_to("two")
    os.replace(new, link)
    reader.watch.check()
    assert reader.taken == ["two"]


def test_a_touch_is_no_change_but_what_follows_is(file: Path) -> None:
    reader = Reader(file)
    os.utime(file, ns=(1, 1))
    reader.watch.check()
    reader.watch.check()
    assert reader.taken == []
    file.write_text("two")
    reader.watch.check()
    assert reader.taken == ["two"]


def test_a_bad_file_is_told_once_and_a_good_one_taken_after_it(file: Path) -> None:
    reader = Reader(file)
    file.write_text("bad")
    for _ in range(3):
        reader.watch.check()
    assert reader.refused == ["bad"] and not reader.taken
    file.write_text("one")  # back to what is in use: the problem is over, so it is read
    reader.watch.check()
    assert reader.taken == ["one"]


def test_half_a_file_is_not_told(file: Path) -> None:
    """The writer needs longer than the debounce, and finishes before the second look."""
    reader = Reader(file)
    file.write_text("bad")
    looks: list[str] = []
    first = reader.valid

    def valid() -> bool:
        looks.append(reader.text())
        good = first()
        file.write_text("two")
        return good

    reader.watch = Watch(lambda: reader.seen, valid, reader.apply)
    reader.watch.check()
    assert looks == ["bad", "two"] and reader.taken == ["two"] and not reader.refused


def test_a_moving_file_is_left_alone_until_it_is_still(file: Path) -> None:
    reader = Reader(file)
    texts = iter(["tw", "two", "two "])
    real = watch.marks

    def moving(paths: tuple[Path, ...]) -> watch.Marks:
        found = real(paths)
        if (text := next(texts, None)) is not None:
            file.write_text(text)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "marks", moving)
        file.write_text("t")
        reader.watch.check()
    assert reader.taken == ["two "]


def test_key_files_count_also_when_they_appear_late(tmp_path: Path, file: Path) -> None:
    key = tmp_path / "key"
    reader = Reader(file, key)
    key.write_text("sk-1")
    reader.watch.check()
    assert reader.taken == ["onesk-1"]
    key.unlink()
    reader.watch.check()
    assert len(reader.refused) == 1


def test_somebody_else_read_it_first(file: Path) -> None:
    reader = Reader(file)
    file.write_text("two")

    def valid() -> bool:
        reader.apply()
        return True

    reader.watch = Watch(lambda: reader.seen, valid, reader.apply)
    reader.watch.check()
    assert reader.taken == ["two"]


def test_it_runs_in_its_thread_only_while_it_is_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.001)
    reader, taken, on = Reader(file), threading.Event(), threading.Event()

    def apply() -> None:
        reader.apply()
        taken.set()

    running = Watch(lambda: reader.seen, reader.valid, apply, on.is_set)
    running.start()
    file.write_text("two")
    assert not taken.wait(0.05)
    on.set()
    assert taken.wait(5)
    running.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "ccm-watch"]
