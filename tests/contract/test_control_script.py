"""templates/ccmctl.sh with the demo: start, steer, stop, and what it says when ccm cannot start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
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
