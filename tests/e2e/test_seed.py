"""The configuration and the commands that users have: SEED.md's, as they stand there, must work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway import Gateway, free_port
from tests.http1 import Client

KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-0123456789abcdefghij",
    "OPENAI_API_KEY": "sk-0123456789abcdefghij",
    "GOOGLE_API_KEY": "AIza0123456789abcdefghij",
}


@pytest.fixture
def seed(shared: Path) -> str:
    found = re.search(r"```toml\n(.*?)```", (shared / "SEED.md").read_text(), re.S)
    assert found, "SEED.md has no TOML"
    return found[1]


class SeedGateway(Gateway):
    """SEED.md's file; only the port is one that is free (two tests may run at once)."""

    def __init__(self, home: Path, text: str, env: dict[str, str]) -> None:
        super().__init__(home, "", env=env)
        assert text.count("127.0.0.1:13456") == 1
        self.config_path.write_text(text.replace("127.0.0.1:13456", f"127.0.0.1:{self.port}"))


@pytest.mark.parametrize("keys", [tuple(KEYS), ("OPENAI_API_KEY",)], ids=["all-keys", "one-key"])
def test_it_starts_and_obeys(tmp_path: Path, seed: str, keys: tuple[str, ...]) -> None:
    gateway = SeedGateway(tmp_path, seed, {k: KEYS[k] for k in keys})
    gateway.start()
    try:
        with Client(gateway.base_url) as client:
            assert client.call("GET", "/health").status == 200
            assert client.call("GET", "/v1/models").status == 200
        for name in ("anthropic", "openai", "google"):
            assert name in gateway.ctl("providers", check=True).stdout
        assert "openai" in gateway.ctl("switch", "openai", check=True).stdout
        assert "openai" in gateway.ctl("status", check=True).stdout
        gateway.ctl("metrics", check=True)
        said = gateway.log() + gateway.ctl("status").stdout
        assert not [key for key in KEYS.values() if key in said], "keys are never shown"
    finally:
        assert gateway.stop() == 0


def test_the_default_port_is_the_one_promised(tmp_path: Path, seed: str) -> None:
    """Checked without opening it: `ccm check` reads the file just as `ccm start` does."""
    path = tmp_path / "ccm-config.toml"
    path.write_text(seed)
    path.chmod(0o600)
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **KEYS,
    }
    command = [sys.executable, "-m", "ccm", "check", "--config", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=20, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_has_the_form_that_the_installer_checks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ccm", "--version"], capture_output=True, text=True, check=True, timeout=20,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert re.search(r"ccm \d+\.\d+\.\d+", done.stdout)


def test_a_port_in_use_is_said_and_is_exit_98(tmp_path: Path, seed: str) -> None:
    gateway = SeedGateway(tmp_path / "1", seed, KEYS).start()
    try:
        second = SeedGateway(tmp_path / "2", seed, KEYS)
        text = second.config_path.read_text().replace(f":{second.port}", f":{gateway.port}")
        second.config_path.write_text(text)
        command = [sys.executable, "-m", "ccm", "start", "--config", str(second.config_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=second.env, timeout=20, check=False
        )
        assert done.returncode == 98, (done.returncode, done.stdout, done.stderr)
        assert str(gateway.port) in done.stdout + done.stderr
    finally:
        gateway.stop()


def test_a_bad_file_names_the_line(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, f'[providers.a]\nprioritty = 1\ntype = "openai"\n# {free_port()}\n')
    command = [sys.executable, "-m", "ccm", "start", "--config", str(gateway.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=gateway.env, timeout=20, check=False)
    assert done.returncode not in (0, 98)
    said = done.stdout + done.stderr
    line = gateway.config_path.read_text().split("\n").index("prioritty = 1") + 1
    assert f":{line}" in said and "prioritty" in said and "priority" in said
    assert "Traceback" not in said
