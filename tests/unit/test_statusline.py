"""The status line: what it says, that it says something whatever comes in, and what `--install` does to the settings."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ccm.cli import main as ccm
from ccm.cli import statusline as script
from ccm.cli import statusline_setting
from ccm.control import api
from ccm.control.state import socket_path
from ccm.control.statusline import line
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord

GIVEN = {
    "session_id": "s-1",
    "model": {"id": "claude-opus-5-5", "display_name": "Opus 5.5"},
    "workspace": {"current_dir": "/home/u/p"},
    "cost": {"total_cost_usd": 0.5},
    "context_window": {"used_percentage": 42.4},
}
SCRIPT = Path(script.__file__)


def record(**fields) -> RequestRecord:
    defaults = {
        "id": "r",
        "at": 0.0,
        "session": "s-1",
        "status": 200,
        "ending": "complete",
        "provider": "openai",
        "endpoint": "openai",
        "model": "gpt-5.2",
        "attempts": [Attempt("openai", "gpt-5.2", "200", 1.0)],
        "usage": Usage(input=10, cache_read=70, cache_write_5m=20, output=20),
        "cost_usd": 0.25,
    }
    return RequestRecord(**{**defaults, **fields})


def plain(core, claude=None) -> str:
    return line(core, {"claude": claude or GIVEN, "colour": False}, wall=lambda: 0.0)


# ---- what it says


def test_the_line(fake_core) -> None:
    fake_core.recent.append(record(session="another", model="other", cost_usd=9.0))
    fake_core.recent.extend([record(), record(cost_usd=0.5)])
    fake_core.recent.append(record(session="another", model="other", cost_usd=9.0))
    assert plain(fake_core) == "openai · gpt-5.2 · $0.75 · cache 70% · context 42%"
    coloured = line(fake_core, {"claude": GIVEN})
    assert coloured.startswith("\x1b[32mopenai\x1b[0m · gpt-5.2")
    assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == plain(fake_core)


def test_a_failover_says_who_should_have_answered(fake_core) -> None:
    tried = [Attempt("anthropic", "m", "529", 0.1), Attempt("openai", "gpt-5.2", "200", 1.0)]
    fake_core.recent.append(record(attempts=tried, cost_usd=None))
    assert plain(fake_core).startswith("openai (not anthropic: 529) · gpt-5.2 · ~$0.50 · ")
    fake_core.recent.append(record(ending="failed", usage=Usage(), cost_usd=0.005))
    assert plain(fake_core).startswith("openai failed · gpt-5.2 · $0.0050+? · ")


def test_before_the_first_request_it_says_who_would_be_asked(fake_core) -> None:
    assert plain(fake_core) == "anthropic · ~$0.50 · context 42%"
    fake_core.router.primary = "openai"
    assert plain(fake_core, {"session_id": 5}) == "openai"
    fake_core.router.primary, fake_core.router.rows = None, []
    assert plain(fake_core, {}).startswith("ccm: no provider can be asked")
    fake_core.stopping = True
    assert plain(fake_core).startswith("ccm is stopping")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"quota": {"left_percent": 12.3, "resets_s": 3600.0}}, "12% quota left until "),
        ({"quota": {"left_percent": 60.0, "resets_s": 3600.0}}, ""),
        ({"quota": None}, ""),
        ({"cooldown_s": 60.0}, "back at "),
        (
            {"cooldown_s": float("inf"), "state": "open", "reason": "key \x1b[31mrejected"},
            "key \\x1b[31mrejected",
        ),
    ],
)
def test_quota_and_trouble(fake_core, row: dict, told: str) -> None:
    fake_core.recent.append(record())
    fake_core.router.rows[1].update(row)
    last = plain(fake_core).rpartition(" · ")[2]
    assert last.startswith(told) if told else last == "context 42%"


def test_budgets_of_which_much_is_spent(fake_core) -> None:
    rows = [
        {"name": "day", "spent_usd": 4.5, "limit_usd": 5.0},
        {"name": "week", "spent_usd": 1.0, "limit_usd": 5.0},
        {"name": "month", "spent_usd": 11.0, "limit_usd": 10.0},
        {"name": "odd", "spent_usd": None, "limit_usd": 0},
    ]
    fake_core.meter = SimpleNamespace(status=lambda: {"budgets": rows})
    fake_core.recent.append(record())
    assert plain(fake_core).endswith("context 42% · month 110% · day 90%")


def test_names_cannot_steer_the_terminal(fake_core) -> None:
    fake_core.recent.append(record(model="\x1b]0;evil\x07\n" + "x" * 100, endpoint="a\u202eb"))
    text = plain(fake_core)
    assert "\x1b" not in text and "\n" not in text and "\u202e" not in text and len(text) < 200


@pytest.mark.parametrize(
    "claude", [None, [], "x", {"cost": 5, "context_window": {"used_percentage": "many"}}]
)
def test_anything_may_come_in_through_the_door(fake_core, claude) -> None:
    fake_core.recent.append(record())
    reply = api.call(fake_core, "POST", "/statusline", {"claude": claude, "colour": False})
    assert reply.status == 200 and reply.body.decode().startswith("openai · gpt-5.2")


# ---- the script


def run(given: bytes | None, tmp_path: Path, *words: str, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *words],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        env={"HOME": str(tmp_path), "CCM_SOCKET": str(tmp_path / "s"), **env},
        timeout=10,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (json.dumps(GIVEN).encode(), "ccm is not running · Opus 5.5 · ~$0.50\n"),
        (b"", "ccm is not running\n"),
        (None, "ccm is not running\n"),
        (b"{broken}", "ccm is not running\n"),
        (b'{"model": "\\u001b[31m", "cost": {"total_cost_usd": true}}', "ccm is not running\n"),
        (b'{"model": ["x"], "cost": 5}', "ccm is not running\n"),
        (b"\xff\xfe" * 40_000, "ccm is not running\n"),
    ],
)
def test_without_ccm_it_still_says_something(tmp_path, given: bytes | None, told: str) -> None:
    assert run(given, tmp_path, NO_COLOR="1") == (0, told)


def test_colours_are_there_unless_unwanted(tmp_path) -> None:
    assert run(b"", tmp_path)[1] == "\x1b[31mccm is not running\x1b[0m\n"


class Answering:
    """A control socket that gives these answers, one per connection, and keeps what it was asked."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for answer in self._answers:
            peer, _ = self._listener.accept()
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < self._length(data):
                data += peer.recv(65536)
            self.asked.append(data.partition(b"\r\n\r\n")[2])
            peer.sendall(answer)
            peer.close()
        self._listener.close()

    def _length(self, data: bytes) -> int:
        match = re.search(rb"Content-Length: (\d+)", data)
        assert match
        return int(match[1])


def test_the_running_ccm_makes_the_line(tmp_path) -> None:
    answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nopenai · $1\nsecond".encode()
    door = Answering(tmp_path / "s", answer)
    assert run(json.dumps(GIVEN).encode(), tmp_path, NO_COLOR="1") == (0, "openai · $1\n")
    assert json.loads(door.asked[0]) == {"colour": False, "claude": GIVEN}


def test_broken_json_is_asked_about_once_more_without_it(tmp_path) -> None:
    door = Answering(
        tmp_path / "other", b"HTTP/1.1 400 Bad Request\r\n\r\nno", b"HTTP/1.1 200 OK\r\n\r\nopenai"
    )
    assert run(b"{broken}", tmp_path, "--socket", str(tmp_path / "other")) == (0, "openai\n")
    assert json.loads(door.asked[1]) == {"colour": True, "claude": None}


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense", b"HTTP/1.1 500 Oh\r\n\r\nno", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_answer_that_is_none_is_as_good_as_no_ccm(tmp_path, answer: bytes) -> None:
    Answering(tmp_path / "s", answer)
    assert run(b"", tmp_path, NO_COLOR="1") == (0, "ccm is not running\n")


def test_it_is_quick(tmp_path) -> None:
    """50 ms with the start of Python; the best of several, since this machine does other things too."""
    body = json.dumps(GIVEN).encode()
    took = []
    for number in range(7):
        path = tmp_path / f"s{number}"
        Answering(path, b"HTTP/1.1 200 OK\r\n\r\nopenai")
        began = time.perf_counter()
        assert run(body, tmp_path, "--socket", str(path))[1] == "openai\n"
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05, took


def test_it_imports_next_to_nothing() -> None:
    code = f"import sys; sys.argv = ['x']; exec(open({str(SCRIPT)!r}).read()); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input=b"{}", capture_output=True, timeout=10, check=False
    )
    assert done.stdout and not {"re", "json", "socket", "http", "enum"} & set(
        re.findall(r"'(\w+)'", done.stderr.decode())
    )


def test_the_command_is_answered_before_anything_else_is_imported(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("CCM_SOCKET", str(tmp_path / "s"))
    monkeypatch.setattr(script, "_input", lambda: b"")
    assert ccm.main(["statusline"]) == 0
    assert "ccm is not running" in capfd.readouterr().out
    assert ccm.main(["statusline", "--nonsense"]) == 2
    assert ccm.main(["statusline", "--help"]) == 0
    assert "--install" in capfd.readouterr().out


@pytest.mark.parametrize("env", [{}, {"CCM_SOCKET": "/x/y.sock"}, {"CCM_SOCKET": "~/z.sock"}])
def test_both_know_the_same_socket(monkeypatch, env: dict[str, str]) -> None:
    monkeypatch.delenv("CCM_SOCKET", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert script.socket_path() == socket_path(None, os.environ)


# ---- the setting


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "claude"))
    monkeypatch.delenv("CCM_SOCKET", raising=False)
    return tmp_path / "claude" / "settings.json"


def test_install_and_uninstall_keep_everything_else(settings: Path, capsys) -> None:
    settings.parent.mkdir()
    before = '{"theme": "dark", "n": {"ü": [1, 2]}, "statusLine": {"type": "command", "command": "mine.sh"}}'
    settings.write_text(before)
    settings.chmod(0o640)
    assert ccm.main(["statusline", "--install", "--yes"]) == 0
    told = capsys.readouterr().out
    assert "mine.sh" in told and "kept in the backup" in told
    now = json.loads(settings.read_text())
    assert list(now) == ["theme", "n", "statusLine"] and now["n"] == {"ü": [1, 2]}
    command = now["statusLine"]["command"]
    assert now["statusLine"]["type"] == "command" and "-I -S" in command and command.endswith("statusline.py")
    assert settings.stat().st_mode & 0o777 == 0o640
    (backup,) = [path for path in settings.parent.iterdir() if ".before-ccm-" in path.name]
    assert backup.read_text() == before
    assert ccm.main(["statusline", "--install", "--yes"]) == 0 and "nothing to do" in capsys.readouterr().out
    assert ccm.main(["statusline", "--uninstall", "--yes"]) == 0
    assert json.loads(settings.read_text()) == {"theme": "dark", "n": {"ü": [1, 2]}}


def test_the_installed_command_works(settings: Path, tmp_path) -> None:
    socket_at = str(tmp_path / "my dir" / "s")
    assert ccm.main(["statusline", "--install", "--yes", "--socket", socket_at]) == 0
    assert settings.stat().st_mode & 0o777 == 0o600
    command = json.loads(settings.read_text())["statusLine"]["command"]
    done = subprocess.run(
        ["/bin/sh", "-c", command], input=b"{}", capture_output=True, timeout=10, check=False
    )
    assert b"ccm is not running" in done.stdout and done.returncode == 0
    (tmp_path / "my dir").mkdir()
    Answering(tmp_path / "my dir" / "s", b"HTTP/1.1 200 OK\r\n\r\nopenai")
    done = subprocess.run(
        ["/bin/sh", "-c", command], input=b"{}", capture_output=True, timeout=10, check=False
    )
    assert done.stdout == b"openai\n"


def test_nothing_is_changed_without_a_yes(settings: Path, monkeypatch, capsys) -> None:
    assert ccm.main(["statusline", "--install"]) == 1
    assert not settings.exists() and "nothing was changed" in capsys.readouterr().out
    monkeypatch.setattr(statusline_setting.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    answers = iter(["", "n", "yes"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert [ccm.main(["statusline", "--install"]) for _ in range(3)] == [1, 1, 0]
    assert settings.exists()


@pytest.mark.parametrize("text", ["{broken", "[1]", '"x"', "\ufeff{broken"])
def test_settings_that_cannot_be_read_are_left_alone(settings: Path, capsys, text: str) -> None:
    settings.parent.mkdir()
    settings.write_text(text)
    assert ccm.main(["statusline", "--install", "--yes"]) == 1
    assert settings.read_text() == text and "nothing was changed" in capsys.readouterr().err
    assert len(list(settings.parent.iterdir())) == 1


def test_another_status_line_is_not_taken_out(settings: Path, capsys) -> None:
    settings.parent.mkdir()
    settings.write_text('{"statusLine": {"type": "command", "command": "mine.sh"}}')
    assert ccm.main(["statusline", "--uninstall", "--yes"]) == 0
    assert "another one is, and stays" in capsys.readouterr().out and "mine.sh" in settings.read_text()


def test_a_link_stays_a_link(settings: Path, tmp_path) -> None:
    settings.parent.mkdir()
    (tmp_path / "dotfiles.json").write_text("{}")
    settings.symlink_to(tmp_path / "dotfiles.json")
    assert ccm.main(["statusline", "--install", "--yes"]) == 0
    assert settings.is_symlink() and "statusLine" in (tmp_path / "dotfiles.json").read_text()


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ({"command": "ccm statusline"}, True),
        ({"command": "/opt/ccm.pyz statusline --socket /x"}, True),
        ({"command": "python -I -S '/a b/ccm/cli/statusline.py'"}, True),
        ({"command": "bash statusline.sh"}, False),
        ({"command": "my'unbalanced"}, False),
        ({"command": 5}, False),
        (None, False),
    ],
)
def test_which_one_is_ours(value: object, ours: bool) -> None:
    assert statusline_setting.is_ours(value) is ours
