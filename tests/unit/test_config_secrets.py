"""Keys: found where they are said to be, refused where they would leak, never shown."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from ccm.config import secrets
from ccm.config.secrets import KeyCommand, KeyCommands, KeyUnavailable
from ccm.model import KeySource, Secret

TOKEN = "own-token"


def env_key(env: dict[str, str], *names: str) -> KeySource:
    return secrets.from_environment(names, env, TOKEN)


def test_the_ccm_variable_comes_first() -> None:
    env = {"CCM_A_KEY": "one", "A_KEY": "two"}
    key = env_key(env, "A_KEY")
    assert key.name == "CCM_A_KEY" and key.secret == Secret("one", "") and key.problem == ""
    assert env_key({"CCM_A_KEY": " ", "A_KEY": " two\n"}, "A_KEY").secret == Secret("two", "")
    assert env_key({"CCM_CCM_X": "no", "CCM_X": "yes"}, "CCM_X").secret == Secret("yes", "")


def test_alternatives_are_tried_in_order() -> None:
    assert env_key({"B": "two"}, "A", "B").name == "B"
    missing = env_key({}, "A", "B")
    assert missing.secret is None and missing.name == "A"
    assert missing.problem == "neither CCM_A nor A nor CCM_B nor B is set"


@pytest.mark.parametrize("token", [TOKEN, "ccm-proxy"])
def test_the_proxys_own_token_is_never_a_key(token: str) -> None:
    key = env_key({"ANTHROPIC_API_KEY": token}, "ANTHROPIC_API_KEY")
    assert key.secret is None
    assert key.problem == "ANTHROPIC_API_KEY holds ccm's own auth_token, not a provider's key"
    both = env_key({"ANTHROPIC_API_KEY": token, "CCM_ANTHROPIC_API_KEY": "sk-ant"}, "ANTHROPIC_API_KEY")
    assert both.secret == Secret("sk-ant", "")


@pytest.mark.parametrize(
    "value", ["two words", "a\nb", "k\x00", "schlüssel", "$OPENAI_API_KEY", "<your key>", "{{ key }}"]
)
def test_what_is_no_key_is_told_without_being_shown(value: str) -> None:
    key = env_key({"A": value}, "A")
    assert key.secret is None and key.problem.startswith("A holds")
    assert value not in key.problem


def file_key(path: Path) -> KeySource:
    return secrets.from_file(path, "~/key", TOKEN)


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_key_file(tmp_path: Path) -> None:
    for data in (b"sk-file", b"sk-file\n", b"sk-file\r\n"):
        key = file_key(write(tmp_path / "key", data))
        assert key.secret == Secret("sk-file", "") and key.name == "~/key"
        assert "sk-file" not in repr(key)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"sk\n\n", "holds blanks or several lines"),
        (b" sk", "holds blanks or several lines"),
        (b"a b", "holds blanks or several lines"),
        (b"\xff\xfe", "is not text"),
        (b'{"type": "service_account"}', "holds a JSON document"),
        (TOKEN.encode(), "holds ccm's own auth_token"),
        (b"x" * 70_000, "is too long"),
    ],
)
def test_bad_key_files(tmp_path: Path, data: bytes, told: str) -> None:
    key = file_key(write(tmp_path / "key", data))
    assert key.secret is None and told in key.problem and str(tmp_path) in key.problem


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    key = file_key(write(tmp_path / "key", b"sk", mode))
    assert key.secret is None and "chmod 600" in key.problem


def test_no_file_or_no_plain_file(tmp_path: Path) -> None:
    assert "does not exist" in file_key(tmp_path / "none").problem
    assert "is not a file" in file_key(tmp_path).problem
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a file" in file_key(tmp_path / "pipe").problem, "and it does not wait for a writer"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_key_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "key", b"sk")
    os.chown(path, 65534, 65534)
    assert "belongs to another user" in file_key(path).problem


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def counting(path: Path, tail: str = "echo key-$(wc -c < {0} | tr -d ' ')") -> str:
    """A shell command that leaves a mark each time it runs and prints how often that was."""
    return f"printf x >> {path}; " + tail.format(path)


ENV = {"PATH": os.environ["PATH"], "HOME": "/h", "OPENAI_API_KEY": "sk-secret", "LC_ALL": "C"}


def test_a_command_is_run_once_and_again_when_its_key_is_old(tmp_path: Path) -> None:
    clock = Clock()
    command = KeyCommand(counting(tmp_path / "runs"), ENV, TOKEN, ttl_s=300, clock=clock)
    assert command.get() == command.get() == Secret("key-1", "")
    clock.now += 299
    assert command.get() == Secret("key-1", "")
    clock.now += 2
    assert command.get() == Secret("key-2", "")
    command.forget()
    assert command.get() == Secret("key-3", "")


def test_many_waiters_one_run(tmp_path: Path) -> None:
    command = KeyCommand(counting(tmp_path / "runs", "sleep 0.2; echo the-key"), ENV, TOKEN)
    got: list[Secret] = []
    threads = [threading.Thread(target=lambda: got.append(command.get())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == [Secret("the-key", "")] * 16
    assert (tmp_path / "runs").read_text() == "x"


def test_a_command_sees_no_keys() -> None:
    shown = KeyCommand("env | sort | tr '\\n' ','", ENV, TOKEN).get().reveal()
    assert "OPENAI_API_KEY" not in shown and "sk-secret" not in shown
    assert "HOME=/h" in shown and "LC_ALL=C" in shown


def test_a_list_runs_without_a_shell() -> None:
    assert KeyCommand(["printf", "%s", "$HOME;x"], ENV, TOKEN).argv[0] == "printf"
    assert KeyCommand([sys.executable, "-c", "print('a$b')"], ENV, TOKEN).get() == Secret("a$b", "")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exit 3", "exit status 3"),
        ("true", "is empty"),
        ("echo two words", "holds blanks"),
        (f"echo {TOKEN}", "auth_token"),
        (["/no/such/program"], "can't be started: No such file"),
        ("head -c 100000 /dev/zero | tr '\\0' a", "too much"),
    ],
)
def test_failing_commands(command: str | list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match=told):
        KeyCommand(command, ENV, TOKEN).get()


def test_a_failure_is_remembered_for_a_moment(tmp_path: Path) -> None:
    clock = Clock()
    command = KeyCommand(counting(tmp_path / "runs", "exit 1"), ENV, TOKEN, clock=clock)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            command.get()
    assert (tmp_path / "runs").read_text() == "x"
    clock.now += secrets.FAILURE_TTL_S + 1
    with pytest.raises(KeyUnavailable):
        command.get()
    assert (tmp_path / "runs").read_text() == "xx"


def test_a_hanging_command_is_ended_with_its_children() -> None:
    start = time.monotonic()
    with pytest.raises(KeyUnavailable, match=r"did not end within 0\.2 s"):
        KeyCommand("sleep 60 & sleep 60", ENV, TOKEN, timeout_s=0.2).get()
    assert time.monotonic() - start < 10, "the child's own child held the pipe open"


def test_the_commands_outlive_a_reload() -> None:
    commands = KeyCommands()
    source = secrets.from_command(["printf", "%s", "a b"])
    again = secrets.from_command(["printf", "%s", "a b"])
    assert commands.of(source, ENV, TOKEN) is commands.of(again, ENV, TOKEN)
    assert commands.of(source, ENV, TOKEN).argv == ["printf", "%s", "a b"]
    shell = secrets.from_command("cat ~/.key | tr -d x")
    assert commands.of(shell, ENV, TOKEN).argv == ["/bin/sh", "-c", "cat ~/.key | tr -d x"]
    assert commands.of(source, ENV, "other") is not commands.of(source, ENV, TOKEN)
