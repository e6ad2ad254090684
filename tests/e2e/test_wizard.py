"""`ccm-quickstart` as people meet it: at a terminal, interrupted anywhere, in a pipe, and up to a running ccm."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import tomli

from ccm.cli import quickstart
from ccm.control.client import ask
from tests.gateway import free_port
from tests.terminal import CTRL_C, CTRL_D, Terminal, ccm, surroundings

KEYS = {"OPENAI_API_KEY": "sk-canary-one-0123456789", "GROQ_API_KEY": "gsk-canary-two-0123456789"}
TYPED = "sk-canary-typed-0123456789"
# (what is asked, what is answered), in order; then it writes
DIALOGUE = (
    ("Copy them", "y"),
    ("[1 2 3] > ", "mistral 1 deepseek"),
    ("Where is the key of DeepSeek?", "type"),
    ("Key of DeepSeek (it is not shown): ", TYPED),
    ("How shall ccm choose", "failover"),
    ("Ask each of the 3", "n"),
    ("Write it?", "y"),
    ("Start ccm then", "n"),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a configuration, and a key in a file."""
    made = tmp_path / "h"
    (made / "config").mkdir(parents=True)
    (made / "config/ccm-config.toml").write_text("# mine\n")
    (made / ".env").write_text("MISTRAL_API_KEY=canary-three-0123456789\n")
    return made


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (stat.S_IMODE(p.stat().st_mode), p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
    }


def quickstart_in_a_terminal(home: Path) -> Terminal:
    return Terminal(ccm("quickstart"), surroundings(home, **KEYS), home)


def test_a_whole_conversation(home: Path) -> None:
    terminal = quickstart_in_a_terminal(home)
    place = 0
    for question, answer in DIALOGUE:
        place = terminal.wait_for(question, after=place)
        words = Path(f"/proc/{terminal.pid}/cmdline")
        assert not words.exists() or b"canary" not in words.read_bytes()
        terminal.type(answer + "\n")
    assert terminal.end() == 0, terminal.shown
    assert "canary" not in terminal.shown
    assert all(len(line) <= 80 for line in terminal.shown.splitlines() if str(home) not in line), (
        terminal.shown
    )
    for line in (
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:13456",
        "export ANTHROPIC_AUTH_TOKEN=ccm-proxy",
        "claude",
    ):
        assert f"  {line}\n" in terminal.shown
    now = tree(home)
    holding = {name for name, (_, content) in now.items() if b"canary" in content}
    assert holding == {".env", ".claude-code-mux/keys/deepseek", ".claude-code-mux/keys/mistral"}
    for name in ("deepseek", "mistral"):
        assert now[f".claude-code-mux/keys/{name}"][0] == 0o600
    assert now[".claude-code-mux/keys/deepseek"][1].decode() == TYPED + "\n"
    (backup,) = [content for name, (_, content) in now.items() if ".bak-" in name]
    assert backup == b"# mine\n"
    value = tomli.loads(now["config/ccm-config.toml"][1].decode())
    order = sorted((p["priority"], n) for n, p in value["providers"].items() if p["enabled"])
    assert order == [(1, "mistral"), (2, "openai"), (3, "deepseek")]
    checked = subprocess.run(
        ccm("check"),
        env=surroundings(home, **KEYS),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert checked.returncode == 0 and "3 endpoints" in checked.stdout, checked.stdout + checked.stderr


@pytest.mark.parametrize("number", range(len(DIALOGUE)))
def test_ctrl_c_at_every_question_leaves_everything(home: Path, number: int) -> None:
    before = tree(home)
    terminal = quickstart_in_a_terminal(home)
    place = 0
    for question, answer in DIALOGUE[:number]:
        place = terminal.wait_for(question, after=place)
        terminal.type(answer + "\n")
    terminal.wait_for(DIALOGUE[number][0], after=place)
    terminal.type(CTRL_C)
    assert terminal.end() == 130, terminal.shown
    assert "nothing was written" in terminal.shown and "Traceback" not in terminal.shown
    assert tree(home) == before


@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_d_is_an_end_of_the_answers(home: Path, number: int) -> None:
    before = tree(home)
    terminal = quickstart_in_a_terminal(home)
    place = 0
    for question, answer in DIALOGUE[:number]:
        place = terminal.wait_for(question, after=place)
        terminal.type(answer + "\n")
    terminal.wait_for(DIALOGUE[number][0], after=place)
    terminal.type(CTRL_D)
    assert terminal.end() == 1, terminal.shown
    assert "the answers ended; nothing was written" in terminal.shown and tree(home) == before


def test_from_a_pipe(home: Path) -> None:
    answers = "n\n2\nfailover\n"
    done = subprocess.run(
        ccm("quickstart"), env=surroundings(home, **KEYS), cwd=home, input=answers, capture_output=True, text=True,
        timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    value = tomli.loads((home / "config/ccm-config.toml").read_text())
    assert [n for n, p in value["providers"].items() if p["enabled"]] == ["groq"]
    assert "canary" not in done.stdout + done.stderr and not re.search("\x1b", done.stdout)


def test_up_to_a_running_ccm(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    template = f'[proxy]\nlisten = "127.0.0.1:{port}"\n[providers.openai]\napi_key_env = "OPENAI_API_KEY"\n'
    monkeypatch.setattr(quickstart, "template_text", lambda: template)
    env = {**os.environ, **surroundings(home, **KEYS)}
    words = ["--yes", "--start", "--provider", "openai", "--config", str(home / "c.toml")]
    assert quickstart.run(words, env, probe=list) == 0
    out = capsys.readouterr().out
    try:
        assert f"ccm runs at 127.0.0.1:{port}" in out and "Start ccm:" not in out
        assert (
            quickstart.run([*words, "--provider", "groq"], env, probe=list) == 0
        )  # taken over by the running one
        names = [row["name"] for row in ask(env["CCM_SOCKET"], "GET", "/providers")["providers"]]
        assert names == ["openai", "groq"]
    finally:
        ask(env["CCM_SOCKET"], "POST", "/stop", {"drain": False})
    assert stat.S_IMODE((home / ".claude-code-mux/ccm.log").stat().st_mode) == 0o600
