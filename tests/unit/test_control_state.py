"""The remembered decisions: whole or old after any failure, set aside when corrupt, harmless when unwritable."""

from __future__ import annotations

import json
import os
import threading

import pytest

from ccm.control import state as module
from ccm.control.state import State, socket_path, write_atomically


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_decisions_survive_a_restart(tmp_path) -> None:
    path, clock = tmp_path / "deep" / "state.json", Clock()
    state = State.load(path, clock)
    state.set_primary("openai", 60)
    state.set_disabled("groq", True)
    state.set_disabled("x", True)
    state.set_disabled("x", False)
    state.set_drained("mistral", True)
    again = State.load(path, clock)
    assert (again.primary, again.primary_left_s) == ("openai", 60)
    assert (again.disabled, again.drained) == ({"groq"}, {"mistral"})
    assert again.warnings == ()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["state.json"]


def test_a_primary_with_an_end_ends_also_across_a_restart(tmp_path) -> None:
    path, clock = tmp_path / "state.json", Clock()
    state = State.load(path, clock)
    state.set_primary("openai", 60)
    clock.now += 59
    assert state.primary == "openai" and state.primary_left_s == 1
    clock.now += 1
    assert state.primary is None
    assert State.load(path, clock).primary is None


def test_a_primary_for_good_has_no_end(tmp_path) -> None:
    path, clock = tmp_path / "state.json", Clock()
    State.load(path, clock).set_primary("openai")
    clock.now += 1e9
    again = State.load(path, clock)
    assert again.primary == "openai" and again.primary_left_s is None
    again.set_primary(None)
    assert State.load(path, clock).primary is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"primary": 3}', b'{"disabled": "x"}', b'{"drained": [1]}', b'{"primary_until": true}',
     b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_a_corrupt_file_is_set_aside_with_a_warning(tmp_path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    state = State.load(path, Clock(1234.5))
    assert state.primary is None and state.disabled == frozenset()
    assert (tmp_path / "state.json.corrupt-1234").read_bytes() == content
    assert "corrupt" in state.warnings[0]
    state.set_primary("openai")
    assert State.load(path).primary == "openai"


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_failing_disk_costs_only_the_persistence(tmp_path, monkeypatch, call: str) -> None:
    path = tmp_path / "state.json"
    state = State.load(path)
    state.set_primary("first")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, fail)
        state.set_primary("second")
        assert state.primary == "second"
        assert "No space left" in state.warnings[0]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    state.set_primary("third")
    assert state.warnings == () and json.loads(path.read_bytes())["primary"] == "third"


def test_a_planted_symlink_is_not_followed(tmp_path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "state.json"
    victim.write_text('{"primary": "evil"}')
    path.symlink_to(victim)
    state = State.load(path)
    assert state.primary is None and "cannot be read" in state.warnings[0]
    state.set_primary("good")
    assert victim.read_text() == '{"primary": "evil"}' and not path.is_symlink()


def test_the_last_of_many_threads_decisions_is_on_disk(tmp_path) -> None:
    path = tmp_path / "state.json"
    state = State.load(path)
    threads = [threading.Thread(target=state.set_disabled, args=(f"p{n}", True)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert State.load(path).disabled == {f"p{n}" for n in range(16)}


def test_memory_only() -> None:
    state = State.load(None)
    state.set_primary("x")
    assert state.primary == "x" and state.warnings == ()


def test_write_atomically_leaves_no_temporary_file_behind(tmp_path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError):
        write_atomically(str(target), b"x")
    assert os.listdir(tmp_path) == ["directory"]


def test_where_the_socket_is(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert socket_path(None, {}) == "/home/u/.claude-code-mux/ccm.sock"
    assert socket_path(None, {"CCM_SOCKET": "~/x.sock"}) == "/home/u/x.sock"
    assert socket_path("/s", {"CCM_SOCKET": "/x"}) == "/s"


@pytest.mark.parametrize(
    "classes",
    [
        3,
        [],
        {"think": "a"},
        {"think": ["a"]},
        {"think": [1, None]},
        {"think": ["a", "x"]},
        {"think": ["a", True]},
    ],
)
def test_a_broken_list_of_classes_is_a_corrupt_file(tmp_path, classes) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"primary": "a", "classes": classes}))
    state = State.load(path)
    assert state.class_primaries == {} and state.primary is None and "corrupt" in state.warnings[0]


def test_what_a_kill_left_lying_is_removed_when_it_is_old(tmp_path) -> None:
    path = tmp_path / "state.json"
    State.load(path).set_disabled("b", True)
    old, young, other = (
        tmp_path / name for name in (".state.json.aa.tmp", ".state.json.bb.tmp", ".usage.db.cc.tmp")
    )
    for file in (old, young, other):
        file.write_text("{")
    for file in (old, other):
        os.utime(file, (1.0, 1.0))
    assert State.load(path).disabled == {"b"}
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
