"""templates/ccmctl.sh with the demo: start, steer, stop, and what it says when ccm cannot start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT, find_free_port

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ccm-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def script(home: Path) -> Iterator[Script]:
    """ccmctl as it is installed: a link in ~/bin, `ccm` beside it."""
    (home / "bin").mkdir()
    (home / "bin" / "ccmctl").symlink_to(ROOT / "templates" / "ccmctl.sh")
    ccm = home / "ccm"
    ccm.write_text(f'#!/bin/sh\nexec {sys.executable} -m ccm "$@"\n')
    ccm.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "CCM_BIN": str(ccm)}

    def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(home / "bin" / "ccmctl"), *args]
        return subprocess.run(
            command,
            env={**env, **more},
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    yield run
    run("stop", "--now")


def test_a_whole_life(script: Script, home: Path) -> None:
    listen = f"127.0.0.1:{find_free_port()}"
    begun = script("start", "--demo", "--listen", listen)
    assert begun.returncode == 0, begun.stderr
    assert f"on {listen}: ok" in begun.stdout
    pid, began = (home / ".claude-code-mux" / "ccm.pid").read_text().split()
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] == began
    again = script("start", "--demo")
    assert again.returncode == 0 and "running already" in again.stderr
    assert script("switch", "demo-steady").stdout == "demo-steady is primary now\n"
    assert "listening" in script("logs", "-n", "100").stdout
    ended = script("stop")
    assert ended.returncode == 0, ended.stderr
    assert not Path(f"/proc/{pid}").exists() and not (home / ".claude-code-mux" / "ccm.pid").exists()
    assert script("status").returncode == 3
    assert (home / ".claude-code-mux").stat().st_mode & 0o777 == 0o700
    assert (home / ".claude-code-mux" / "ccm.log").stat().st_mode & 0o777 == 0o600


def test_a_start_that_fails_says_where_and_why(script: Script, home: Path) -> None:
    config = home / "bad.toml"
    config.write_text("[proxy]\nlisten = 3\n")
    done = script("start", "--config", str(config))
    assert done.returncode == 2
    assert "exit code 2" in done.stderr and "bad.toml:2" in done.stderr
    assert script("start", "--config", str(config)).stderr.count("bad.toml:2") == 1, (
        "only the lines of this start"
    )
    assert not (home / ".claude-code-mux" / "ccm.pid").exists()


def test_a_stale_pid_file_kills_nobody(script: Script, home: Path) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        (home / ".claude-code-mux").mkdir(mode=0o700)
        (home / ".claude-code-mux" / "ccm.pid").write_text(f"{victim.pid} 12345\n")
        assert script("stop").returncode == 3
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_usage(script: Script) -> None:
    assert script("logs").returncode == 1
    assert script("logs", "-x").returncode == 2
    assert "did you mean status" in script("statsu").stderr
    assert "ccmctl switch openai" in script("--help").stdout
    assert script("start", "--help").returncode == 0
    assert script("status", CCM_BIN="", PATH="/usr/bin:/bin").returncode in (1, 3)


def test_two_starts_at_once_are_one(script: Script, home: Path) -> None:
    listen = f"127.0.0.1:{find_free_port()}"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: script("start", "--demo", "--listen", listen), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert sum("running already" in each.stderr for each in done) == 2
    pid, _ = (home / ".claude-code-mux" / "ccm.pid").read_text().split()
    assert f'"pid": {pid}' in script("health", "--json").stdout
    assert (home / ".claude-code-mux" / "ccm.log").read_text().count(" listening ") == 1
    assert script("stop").returncode == 0
    assert not (home / ".claude-code-mux" / "start.lock").exists()


def test_what_a_crash_left_behind_is_in_nobodys_way(script: Script, home: Path) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    state = home / ".claude-code-mux"
    try:
        (state / "start.lock").mkdir(mode=0o700, parents=True)
        state.chmod(0o700)
        (state / "start.lock" / "pid").write_text(f"{victim.pid} 12345\n")
        (state / "ccm.pid").write_text(f"{victim.pid} 12345\n")
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(state / "ccm.sock"))
        done = script("start", "--demo", "--listen", f"127.0.0.1:{find_free_port()}")
        assert done.returncode == 0, done.stderr
        assert (state / "ccm.pid").read_text().split()[0] != str(victim.pid)
        assert script("stop").returncode == 0
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_port_in_use(script: Script, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = script("start", "--demo", "--listen", address)
    assert done.returncode == 98
    assert f"{address} is in use" in done.stderr and "--listen" in done.stderr
    assert not (home / ".claude-code-mux" / "ccm.pid").exists()


def test_a_full_disk_is_said_before_anything_starts(script: Script, home: Path) -> None:
    """A file that may have no byte is what a full disk gives."""
    real = home / "bin" / "ccmctl"
    (home / "full").write_text(f'#!/bin/sh\ntrap "" XFSZ\nulimit -f 0\nexec sh {real} "$@"\n')
    done = subprocess.run(
        ["sh", str(home / "full"), "start", "--demo"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CCM_BIN": str(home / "ccm")},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "cannot be written" in done.stderr and "KB are free" in done.stderr
    assert {path.name for path in (home / ".claude-code-mux").iterdir()} == set()


def test_a_successor_is_the_one_to_remember(script: Script, home: Path) -> None:
    assert script("start", "--demo", "--listen", f"127.0.0.1:{find_free_port()}").returncode == 0
    before, _ = (home / ".claude-code-mux" / "ccm.pid").read_text().split()
    done = script("restart", "--handover")
    assert done.returncode == 0 and "has taken over" in done.stdout, done.stderr
    after, began = (home / ".claude-code-mux" / "ccm.pid").read_text().split()
    assert after != before
    assert Path(f"/proc/{after}/stat").read_text().rpartition(")")[2].split()[19] == began
    assert script("stop").returncode == 0
    assert not Path(f"/proc/{after}").exists()
