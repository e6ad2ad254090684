"""The wizard and the doctor on the screen of a real terminal (tmux), narrow and wide, with and without colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.terminal import Tmux, ccm, surroundings

KEYS = {"OPENAI_API_KEY": "sk-canary-one-0123456789", "GROQ_API_KEY": "gsk-canary-two-0123456789"}


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., Tmux]]:
    """`tmux(80, NO_COLOR="1")`: a terminal so wide, in an empty home."""
    running: list[Tmux] = []

    def start(width: int, **env: str) -> Tmux:
        home = tmp_path / "h"
        home.mkdir(exist_ok=True)
        running.append(Tmux(width, surroundings(home, **KEYS, **env), home))
        return running[-1]

    yield start
    for terminal in running:
        terminal.close()


@pytest.mark.parametrize("width", [80, 200])
def test_the_wizard(tmux: Callable[..., Tmux], width: int) -> None:
    terminal = tmux(width)
    terminal.run(ccm("quickstart"))
    shown = terminal.wait_for("[1 2] >")
    lines = [line for line in shown.splitlines() if line]
    assert "  1  openai  OpenAI, key in OPENAI_API_KEY" in lines
    assert "  2  groq    Groq, key in GROQ_API_KEY" in lines
    assert lines[-1] == "[1 2] >"
    terminal.type("2 deepseek")
    terminal.wait_for("Where is the key of DeepSeek?")
    terminal.type("1")
    terminal.wait_for("(it is not shown)")
    terminal.type("sk-canary-typed-0123456789")
    shown = terminal.wait_for("How shall ccm choose")
    terminal.type("")
    terminal.wait_for("[Y/n]")
    terminal.type("n")
    shown = terminal.wait_for("Write it?")
    assert "~/config/ccm-config.toml gets: groq, deepseek; strategy priority." in shown
    terminal.type("n")
    shown = terminal.wait_for("ended with 1")
    assert "nothing was written" in shown and "canary" not in shown
    assert (
        all(len(line) <= 80 for line in shown.splitlines() if "-m ccm" not in line)
        and not terminal.coloured()
    )


@pytest.mark.parametrize(("width", "env"), [(80, {}), (200, {"NO_COLOR": "1"})])
def test_the_doctor(tmux: Callable[..., Tmux], width: int, env: dict[str, str]) -> None:
    terminal = tmux(
        width,
        ANTHROPIC_BASE_URL="http://127.0.0.1:13456/v1",
        ANTHROPIC_API_KEY="sk-canary-three-01234",
        **env,
    )
    terminal.run(ccm("doctor"))
    shown = terminal.wait_for("ended with 1")
    lines = shown.splitlines()
    (bad,) = [
        n
        for n, line in enumerate(lines)
        if line.startswith("problem") and "every request gets 401" in " ".join(lines[n : n + 2])
    ]
    assert lines[bad].startswith("problem  claude code")
    fixes = [line for line in lines if line.lstrip().startswith("fix: ")]
    assert len(fixes) >= 3 and len({line.index("fix: ") for line in fixes}) == 1, (
        "fixes stand below each other"
    )
    assert any(line.startswith("next: ") for line in lines) and "canary" not in shown
    assert all(len(line) <= width for line in lines) and terminal.coloured() == ("NO_COLOR" not in env)
