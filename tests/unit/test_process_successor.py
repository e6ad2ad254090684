"""Starting a successor: what forbids it, what it is started with, and what is told when it does not take over."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

import pytest

from ccm.process import heir, successor
from ccm.process.channel import Broken, Channel, pair
from ccm.process.heir import Predecessors
from ccm.process.successor import Failed, Program, install, this_program


class Home:
    """An estate of one pipe; it remembers whether it was held."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.held = 0

    def things(self) -> dict[str, int]:
        return {"listen": self.writer}

    def hello(self) -> dict[str, Any]:
        return {"version": "1", "pid": os.getpid(), "listen": ["127.0.0.1", 1]}

    def hold(self) -> None:
        self.held += 1

    def memory(self) -> dict[str, Any]:
        return {"router": {"version": 1}}

    def lines(self) -> list[int]:
        return []

    def resume(self) -> None:
        self.held -= 1

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def home() -> Any:
    found = Home()
    yield found
    found.close()


def program(code: str) -> Program:
    setup = f"import sys; sys.path.insert(0, {os.getcwd()!r}); import os; from ccm.process import heir\n"
    return Program((sys.executable, "-S", "-c", setup + code), {**os.environ})


HEIR = "mine = heir.find(os.environ); memory, lines = mine.ready('2'); "


def test_it_takes_over(home: Home) -> None:
    code = HEIR + "os.write(mine._things['listen'], repr(memory).encode()); mine.serving()"
    heir = install(program(code), home)
    assert heir.version == "2" and home.held == 1
    assert os.read(home.reader, 100) == b"{'router': {'version': 1}}"
    assert heir.process.wait(5) == 0
    heir.channel.close()


@pytest.mark.parametrize(
    ("code", "says", "held"),
    [
        ("sys.exit(7)", "exit status 7", 0),
        (HEIR + "os._exit(5)", "exit status 5", 0),
        ("heir.find(os.environ).refuse('no key')", "no key", 0),
        ("mine = heir.find(os.environ); mine.channel.send({'hm': 1})", "exit status 0", 0),
        (HEIR + "mine.channel.send({'hm': 1}); import time; time.sleep(9)", "did not say 'serving'", 0),
        ("import time; time.sleep(9)", "did not answer within", 0),
    ],
)
def test_it_does_not(home: Home, code: str, says: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successor, "READY_S", 0.7)
    monkeypatch.setattr(successor, "SERVING_S", 0.7)
    with pytest.raises(Failed, match=says):
        install(program(code), home)
    assert home.held == held, "control clients would wait for ever"


def test_no_such_program(home: Home) -> None:
    with pytest.raises(Failed, match="cannot be started"):
        install(Program(("/nowhere/python",), {}), home)


def test_what_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = str(os.getpid())
    assert not Program(("python", "-m", "ccm", "start"), {}).obstacle()
    assert "systemd" in Program(("python",), {"SYSTEMD_EXEC_PID": pid}).obstacle()
    assert not Program(("python",), {"SYSTEMD_EXEC_PID": pid, "NOTIFY_SOCKET": "/n"}).obstacle()
    assert not Program(("python",), {"SYSTEMD_EXEC_PID": "1"}).obstacle()
    assert "belongs" in Program(("python", "-c", "...", "/root", "5", "start"), {}).obstacle()
    assert not Program(("python", "-c", "...", "/root", "-1", "start"), {}).obstacle()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "container" in Program(("python",), {}).obstacle()


def test_keys_show_in_no_repr() -> None:
    mine = this_program({"OPENAI_API_KEY": "sk-canary"})
    assert "canary" not in repr(mine) and mine.argv[0] == sys.executable
    assert mine.argv[1:] == tuple(sys.orig_argv[1:])


@pytest.mark.parametrize("value", ["", "x", "-1", "2", "99999999999", "1e3", "٣"])
def test_leftovers_in_the_environment_are_no_predecessor(value: str) -> None:
    environ = {successor.VARIABLE: value, "HOME": "/h"}
    assert heir.find(environ) is None
    assert environ == {"HOME": "/h"}


def test_a_foreign_socket_is_no_predecessor(tmp_path: Any) -> None:
    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    assert heir.find({successor.VARIABLE: str(file)}) is None
    os.close(file)
    here, there = socket.socketpair()
    here.sendall(b"GET / HTTP/1.1\n")
    assert heir.find({successor.VARIABLE: str(there.detach())}) is None
    here.close()


def test_the_listening_socket_is_taken_only_where_it_is_wanted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for wanted, same in ((1, True), (2, False)):
            mine, theirs = pair()
            mine.send({"hello": {"listen": ["127.0.0.1", 1]}, "fds": ["listen"]}, [listening.fileno()])
            inherited = heir.find({successor.VARIABLE: str(theirs.detach())})
            assert inherited is not None
            found = inherited.listener("127.0.0.1", wanted)
            assert (found is not None) is same
            if found is not None:
                assert found.getsockname() == listening.getsockname()
                found.close()
            inherited.close()
            mine.close()


def test_connections_of_all_predecessors_arrive_until_the_end() -> None:
    adopted: list[socket.socket] = []
    came = threading.Semaphore(0)

    def adopt(connection: socket.socket) -> None:
        adopted.append(connection)
        came.release()

    predecessors = Predecessors(adopt)
    ends = [socket.socketpair() for _ in range(2)]
    olds = [Channel(old) for old, _ in ends]
    predecessors.add(*(mine for _, mine in ends))
    here, there = socket.socketpair()
    for old in olds:
        old.hush()
        assert old.give(there)
        assert came.acquire(timeout=5)
    olds[0].close()
    olds[1].give(there)
    assert came.acquire(timeout=5) and len(adopted) == 3
    assert len(predecessors.filenos()) <= 2 and not olds[1].ended()
    predecessors.stop()
    assert olds[1].ended(), "it learns that nobody is there any more"
    with pytest.raises(OSError):
        olds[1].give(there)
    for one in (*adopted, here, there):
        one.close()
    olds[1].close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ccm-heir"]


def test_a_silent_predecessor_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heir, "PATIENCE_S", 0.05)
    mine, theirs = pair()
    assert heir.find({successor.VARIABLE: str(theirs.detach())}) is None
    with pytest.raises(Broken):
        mine.receive(0.5)
    mine.close()
