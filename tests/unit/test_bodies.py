"""Bodies in a file: only where asked for, not for long, not without bound, without keys, and never into another file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ccm.observe.bodies import Bodies
from ccm.observe.log import Log
from ccm.observe.redact import Redactor
from tests.conftest import MemorySink

KEY = "kk-canary-0123456789abcdef"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(limit: int = 10_000) -> tuple[Bodies, Clock, MemorySink]:
    redactor, sink, clock = Redactor(), MemorySink(), Clock()
    redactor.register(KEY)
    return Bodies(redactor.clean, Log(sink, redactor), limit, clock, lambda: 0.0), clock, sink


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bodies_are_rows_without_keys(tmp_path) -> None:
    bodies, _, sink = make()
    path = tmp_path / "b"
    bodies.write("r", "request", "before")
    assert not bodies.active and bodies.status() == {"active": False}
    bodies.start(str(path), 60.0)
    bodies.write("r", "request", f'{{"k":"{KEY}"}}\n'.encode())
    bodies.write("r", "answer", b"\xff\x00 text")
    status = bodies.status()
    assert (status["active"], status["left_s"]) == (True, 60.0) and status["bytes"] == path.stat().st_size
    assert bodies.stop() and not bodies.stop()
    bodies.write("r", "request", "after")
    head, first, second = rows(path)
    assert "warning" in head and KEY not in path.read_text()
    assert first == {
        "at": "1970-01-01T00:00:00.000Z", "id": "r", "what": "request", "text": '{"k":"kk-can...cdef"}\n',
    }  # fmt: skip
    assert second["text"] == "\ufffd\x00 text"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [b"debug bodies on" in sink.lines[0], b"debug bodies off" in sink.lines[1]] == [True, True]


@pytest.mark.parametrize("how", ["write", "status"])
def test_it_ends_by_itself(tmp_path, how: str) -> None:
    bodies, clock, sink = make()
    bodies.start(str(tmp_path / "b"), 60.0)
    clock.now += 60.0
    if how == "write":
        bodies.write("r", "request", "late")
    else:
        assert bodies.status() == {"active": False}
    assert not bodies.active and len(rows(tmp_path / "b")) == 1
    assert b"its time is over" in sink.lines[-1]


def test_the_file_is_bounded(tmp_path) -> None:
    bodies, _, sink = make(limit=500)
    bodies.start(str(tmp_path / "b"), 60.0)
    for _ in range(10):
        bodies.write("r", "request", "x" * 100)
    assert not bodies.active and (tmp_path / "b").stat().st_size <= 500
    assert b"as big as it may be" in sink.lines[-1]
    assert len(rows(tmp_path / "b")) > 1


def test_a_file_is_continued_but_never_another_kind_of_file(tmp_path) -> None:
    bodies, _, _ = make()
    path = tmp_path / "b"
    for _ in range(2):
        bodies.start(str(path), 60.0)
        bodies.write("r", "request", "x")
        bodies.stop()
    assert [row.get("text") for row in rows(path)] == [None, "x", "x"]
    (tmp_path / "other").write_text('{"mine": 1}')
    (tmp_path / "link").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "pipe")
    for name, error in (("other", ValueError), ("link", OSError), ("pipe", ValueError), ("no/b", OSError)):
        with pytest.raises(error):
            bodies.start(str(tmp_path / name), 60.0)
    with pytest.raises(ValueError, match="absolute"):
        bodies.start("b", 60.0)
    for seconds in (0.0, 3601.0, float("nan")):
        with pytest.raises(ValueError, match="60 minutes"):
            bodies.start(str(path), seconds)
    assert not bodies.active and (tmp_path / "other").read_text() == '{"mine": 1}'


def test_a_full_disk_ends_it_and_nothing_else(tmp_path, monkeypatch) -> None:
    bodies, _, sink = make()
    bodies.start(str(tmp_path / "b"), 60.0)
    os.close(bodies._fd)
    bodies._fd = os.open("/dev/full", os.O_WRONLY)
    bodies.write("r", "request", "x")
    assert not bodies.active and b"No space left" in sink.lines[-1]
