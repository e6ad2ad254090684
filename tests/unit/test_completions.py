"""Shell completions, made of the table of commands; those of bash are run by a real bash, the others where they are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ccm.cli import completions, ctl
from ccm.control.client import NotRunning
from ccm.faults import FAULTS
from tests.conftest import ROOT

COMMANDS = [command.name for command in ctl.COMMANDS]


def script(shell: str) -> str:
    return completions.script(shell, ctl.parser())


@pytest.mark.parametrize("shell", completions.SHELLS)
def test_every_command_and_option_is_there(shell: str) -> None:
    text = script(shell)
    for name in [*COMMANDS, "version", "completions", "start", "logs"]:
        assert name in text
    for option in ("prometheus", "dry-run", "requests", "class", "watch"):
        assert option in text
    for fault in FAULTS:
        assert fault in text


@pytest.fixture
def bash(tmp_path: Path):
    """`bash(words)`: what bash offers for the last of these words. `ccmctl` is a stand-in that knows two providers."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    stand_in = tmp_path / "ccmctl"
    stand_in.write_text('#!/bin/sh\n[ "$*" = "completions names" ] && printf "anthropic\\nopenai\\n"\n')
    stand_in.chmod(0o755)
    source = tmp_path / "completions.bash"
    source.write_text(script("bash"))

    def offers(*words: str) -> list[str]:
        line = f"COMP_WORDS=({' '.join(repr(word) for word in ('ccmctl', *words))}); COMP_CWORD={len(words)}"
        code = f'set -u; source "{source}"; {line}; _ccmctl; printf "%s\\n" "${{COMPREPLY[@]:-}}"'
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, check=True, env=env, cwd=tmp_path
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offers


def test_bash_offers_commands(bash) -> None:
    assert set(COMMANDS) <= set(bash(""))
    assert bash("sta") == ["status", "start"] or set(bash("sta")) == {"status", "start"}
    assert bash("--socket", "x", "drai") == ["drain"]


def test_bash_offers_options_and_names(bash) -> None:
    assert set(bash("switch", "")) >= {"anthropic", "openai", "--auto", "--for", "--class"}
    assert bash("switch", "op") == ["openai"]
    assert set(bash("switch", "--class", "")) >= {"think", "image"}
    assert bash("switch", "--class", "thi") == ["think"]
    assert bash("drill", "anthropic", "slo") == ["slow"]
    assert bash("log-level", "de") == ["debug"]
    assert bash("completions", "z") == ["zsh"]
    assert bash("enable", "a") == ["anthropic"]
    assert bash("status", "anth") == []


def test_bash_offers_files_where_they_belong(bash, tmp_path: Path) -> None:
    (tmp_path / "ccm.sock").touch()
    assert bash("status", "--socket", "ccm.s") == ["ccm.sock"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(script(shell))
    subprocess.run([shell, "-n", str(path)], check=True, capture_output=True)


def test_words_with_quotes_do_not_break_the_scripts() -> None:
    word = completions.Word("it's", "isn't [it]: so", {"--x": ("don't", ("a",))}, (completions.NAMES,))
    assert "'it'\\''s:isn'\\''t (it) - so'" in completions._zsh([word])
    assert "-d 'isn\\'t [it]: so'" in completions._fish([word])


def test_names_are_asked_of_ccm(capsys) -> None:
    given = ctl.parser().parse_args(["completions", "names"])
    rows = {"providers": [{"name": "a"}, {"name": "b"}]}
    assert completions.run(given, "p", lambda *more: rows, ctl.parser()) == 0
    assert capsys.readouterr().out == "a\nb\n"

    def nobody(path: str, *more: object) -> None:
        raise NotRunning(path)

    assert completions.run(given, "p", nobody, ctl.parser()) == 0
    assert capsys.readouterr().out == ""


def test_the_command_prints_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ccm.cli.ctl", "completions", "bash"],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == script("bash")
