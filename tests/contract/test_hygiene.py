"""What a running ccm leaves where others could look: modes of files, its command line, its children's environment, core
dumps (RELIABILITY S24, S31-S36, S42)."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway import KEY, Gateway, provider
from tests.http1 import message, post
from tests.upstream import Upstream

SECRET = "sk-canary-of-the-hygiene-0123456789"
PRIVATE_FILE, PRIVATE_DIRECTORY = 0o600, 0o700


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "environment-of-the-key-command"


@pytest.fixture
def gateway(up: Upstream, fresh: Callable[..., Gateway], told: Path, tmp_path: Path) -> Gateway:
    script = tmp_path / "key"
    script.write_text(f"#!/bin/sh\nenv >{told}\necho key-from-a-command-0123456789\n")
    script.chmod(0o700)
    keys = {"api_key_env": "", "api_key_command": str(script)}
    table = "\n".join(
        line for line in provider(up, "b", **keys).splitlines() if 'api_key_env = ""' not in line
    )
    env = {"ANTHROPIC_API_KEY": SECRET, "MY_OWN_PASSWORD": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
    gw = fresh(provider(up, "a") + table + "\n", env=env)
    up.reset()
    return gw


def test_a_key_command_sees_no_keys(gateway: Gateway, up: Upstream, told: Path) -> None:
    up.always("/a", ("status", 401))
    assert post(gateway.base_url, message(stream=False)).status == 200
    assert up.seen("/b")[0].headers["x-api-key"] == "key-from-a-command-0123456789"
    seen = told.read_text()
    assert "PATH=" in seen and "HOME=" in seen
    assert SECRET not in seen and KEY not in seen and "ccm-proxy" not in seen


def test_everything_it_writes_is_private(gateway: Gateway, tmp_path: Path) -> None:
    assert post(gateway.base_url, message(stream=False)).status == 200
    assert gateway.ctl("switch", "b").returncode == 0  # writes what was decided
    ours = gateway.home / ".claude-code-mux"
    written = [*ours.rglob("*"), Path(gateway.env["CCM_SOCKET"])]
    assert {path.name for path in written} >= {"state.json", "ccm.sock"}
    for path in written:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (PRIVATE_DIRECTORY if path.is_dir() else PRIVATE_FILE), f"{path} has {mode:o}"
    assert stat.S_IMODE(ours.stat().st_mode) == PRIVATE_DIRECTORY


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_its_process_shows_and_dumps_nothing(gateway: Gateway) -> None:
    proc = Path(f"/proc/{gateway.pid}")
    words = (proc / "cmdline").read_bytes()
    assert SECRET.encode() not in words and KEY.encode() not in words
    (core,) = [
        line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max core file size")
    ]
    assert core.split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("option", ["--api-key", "--auth-token", "--token", "--key"])
def test_no_secret_is_taken_from_a_command_line(gateway: Gateway, option: str) -> None:
    done = gateway.ctl(option, SECRET, "status")
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr, "what was refused is not shown again either"
