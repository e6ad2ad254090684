"""Key commands that hang, fail or print nothing are found before the first request: by `ccm check`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest

from ccm.cli import check
from ccm.config import commands, load, secrets
from ccm.model import Snapshot

FIX = "(run it in a terminal: it must print the key and nothing else, within {seconds} s)"
BAD = {
    "hangs": ("sleep 60", "the key command did not end within 0.3 s"),
    "fails": ("echo SECRET >&2; exit 3", "the key command failed with exit status 3"),
    "nothing": ("true", "what the key command printed is empty"),
    "lines": ("printf 'SECRET-1\\\\nSECRET-2\\\\n'", "what the key command printed holds blanks or several lines"),
    "own": ("echo ccm-proxy", "what the key command printed holds ccm's own auth_token, not a provider's key"),
}  # fmt: skip


def made(directory: Path, *names: str, good: bool = False) -> tuple[Path, dict[str, str]]:
    text = "".join(
        f'[providers.{name}]\ntype = "openai"\napi_key_command = "{BAD[name][0]}"\n' for name in names
    )
    if good:
        text += '[providers.good]\ntype = "openai"\napi_key_command = ["printf", "sk-%s", "0123456789"]\n'
    path = directory / "ccm-config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path, {"HOME": str(directory), "PATH": "/usr/bin:/bin"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    real = secrets.KeyCommand.__init__
    monkeypatch.setattr(
        secrets.KeyCommand, "__init__", lambda self, *a, **k: real(self, *a, **{**k, "timeout_s": 0.3})
    )


def snapshot(path: Path, env: dict[str, str]) -> Snapshot:
    return load.load(path, env)


def test_each_fault_has_its_own_message_with_its_place_and_fix(tmp_path: Path) -> None:
    path, env = made(tmp_path, *BAD, good=True)
    began = time.monotonic()
    found = commands.failing(snapshot(path, env), env)
    assert time.monotonic() - began < 2.0, "they run at the same time"
    fix = FIX.format(seconds=f"{secrets.COMMAND_TIMEOUT_S:g}")
    assert [str(p) for p in found] == [
        f"ccm-config.toml:{3 * n + 3} providers.{name}.api_key_command: {told} {fix}"
        for n, (name, (_, told)) in enumerate(BAD.items())
    ]
    assert "SECRET" not in "".join(map(str, found))


def test_switched_off_providers_are_not_asked(tmp_path: Path) -> None:
    path, env = made(tmp_path, "fails", good=True)
    path.write_text(path.read_text().replace("[providers.fails]\n", "[providers.fails]\nenabled = false\n"))
    assert commands.failing(snapshot(path, env), env) == []


def run(path: Path, env: dict[str, str], *options: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.run(parser.parse_args(["--config", str(path), *options]), env)


def test_check_warns_where_another_provider_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, env = made(tmp_path, "fails", good=True)
    assert run(path, env) == 0
    shown = capsys.readouterr().out
    assert "warning ccm-config.toml:3 providers.fails.api_key_command: the key command failed" in shown
    assert "1 endpoint\n" in shown and "sk-0123456789" not in shown
    assert run(path, env, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {p["name"]: p["keys"][0]["found"] for p in report["providers"]} == {"fails": False, "good": True}
    assert run(path, env, "--json", "--no-commands") == 0
    report = json.loads(capsys.readouterr().out)
    assert {p["keys"][0]["found"] for p in report["providers"]} == {None} and report["warnings"] == []


def test_check_fails_where_none_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, env = made(tmp_path, "fails", "nothing")
    assert run(path, env) == 2
    told = capsys.readouterr().err
    assert "exit status 3" in told and "is empty" in told and "SECRET" not in told
    assert run(path, env, "--no-commands") == 0
