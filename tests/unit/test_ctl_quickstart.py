"""The wizard: which keys it finds, what it asks, what it writes, and that it writes nothing else."""

from __future__ import annotations

import io
import stat

import pytest
import tomli

from ccm.cli import quickstart
from ccm.cli.template import Choice, compose

TEMPLATE = """# ccm-config.toml
[proxy]
listen = "127.0.0.1:13999"   # where

# The first.
[providers.anthropic]
enabled = true               # on or off
api_key_env = "ANTHROPIC_API_KEY"
priority = 1
# [providers.anthropic.timeouts]
# idle_s = 90

[providers.openai]
enabled = true
api_key_env = "OPENAI_API_KEY"
priority = 2

[providers.openai.models]
opus = "gpt-5.6"

# [providers.groq]
# enabled = true

[failover]
enabled = true

[load_balancing]
strategy = "round-robin"  # or "weighted", "latency"
"""
KEYS = {
    "OPENAI_API_KEY": "sk-canary-0123456789",
    "GROQ_API_KEY": "gsk-canary",
    "ANTHROPIC_API_KEY": "ccm-proxy",
}


@pytest.fixture(autouse=True)
def template(monkeypatch) -> None:
    monkeypatch.setattr(quickstart, "template_text", lambda: TEMPLATE)


def test_the_template_is_filled_in_and_keeps_its_comments() -> None:
    text = compose(TEMPLATE, Choice((("groq", "GROQ_API_KEY"), ("openai", "MY_KEY")), "latency"))
    value = tomli.loads(text)
    assert value["providers"]["anthropic"]["enabled"] is False
    assert value["providers"]["openai"] == {
        "enabled": True, "api_key_env": "MY_KEY", "priority": 2, "models": {"opus": "gpt-5.6"}
    }  # fmt: skip
    assert value["providers"]["groq"] == {"enabled": True, "api_key_env": "GROQ_API_KEY", "priority": 1}
    assert value["load_balancing"] == {"strategy": "latency"} and value["failover"] == {"enabled": True}
    assert [line for line in TEMPLATE.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]
    assert (
        'strategy = "latency"  # or "weighted", "latency"' in text
        and "enabled = false               # on or off" in text
    )


@pytest.mark.parametrize("bare", ["", "# nothing\n", "[proxy]\nlisten = 'x'"])
def test_a_bare_template_gets_what_it_lacks(bare: str) -> None:
    value = tomli.loads(compose(bare, Choice((("openai", "K"),), "priority")))
    assert value["providers"] == {"openai": {"enabled": True, "api_key_env": "K", "priority": 1}}
    assert value["load_balancing"] == {"strategy": "priority"}


def test_keys_are_found_by_name_only(capsys) -> None:
    assert quickstart.run(["--keys"], KEYS) == 0
    out = capsys.readouterr().out
    assert out == "openai OPENAI_API_KEY\ngroq GROQ_API_KEY\n"
    assert quickstart.run(["--keys"], {"OPENAI_API_KEY": " "}) == 1


def test_piped_answers(tmp_path, capsys) -> None:
    target = tmp_path / "c" / "ccm-config.toml"
    answers = io.StringIO("groq\n9\nlatency\n")
    assert quickstart.run(["--config", str(target)], KEYS, quickstart.reader(answers)) == 0
    value = tomli.loads(target.read_text())
    assert [n for n, p in value["providers"].items() if p["enabled"]] == ["openai", "groq"]
    assert value["providers"]["groq"]["priority"] == 1 and value["load_balancing"]["strategy"] == "latency"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    out = capsys.readouterr().out
    assert "canary" not in out + target.read_text()
    for line in (
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:13999",
        "export ANTHROPIC_AUTH_TOKEN=ccm-proxy",
        "  claude",
    ):
        assert line in out


def test_yes_keeps_the_old_file_and_asks_nothing(tmp_path, capsys) -> None:
    target = tmp_path / "ccm-config.toml"
    target.write_text("mine")
    assert quickstart.run(["--yes", "--config", str(target)], KEYS) == 0
    (backup,) = tmp_path.glob("*.bak-*")
    assert backup.read_text() == "mine" and str(backup) in capsys.readouterr().out
    before = target.read_bytes()
    assert quickstart.run(["--yes", "--config", str(target)], KEYS) == 0
    assert target.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_without_a_key_it_says_what_to_do(tmp_path, capsys) -> None:
    target = tmp_path / "c.toml"
    assert quickstart.run(["--yes", "--config", str(target)], {}) == 1
    error = capsys.readouterr().err
    assert "export ANTHROPIC_API_KEY" in error and "--demo" in error and not target.exists()


def test_ctrl_c_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys) -> None:
    target = tmp_path / "c.toml"
    target.write_text("mine")

    class Interrupting(io.StringIO):
        def readline(self, *args):
            raise KeyboardInterrupt

    monkeypatch.setattr(quickstart.sys, "stdin", Interrupting())
    monkeypatch.setattr(quickstart, "found_keys", lambda environ: FOUND)
    assert quickstart.main(["--config", str(target)]) == 130
    assert target.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["c.toml"]
    assert "nothing was written" in capsys.readouterr().err


FOUND = quickstart.found_keys(KEYS)


def test_three_misses_end_it(tmp_path, capsys) -> None:
    target = tmp_path / "c.toml"
    answers = quickstart.reader(io.StringIO("x\ny\n0\n"))
    assert quickstart.run(["--config", str(target)], KEYS, answers) == 1
    assert not target.exists() and "nothing was written" in capsys.readouterr().err


def test_an_unwritable_place_is_said_so(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert quickstart.run(["--yes", "--config", str(tmp_path / "file" / "c.toml")], KEYS) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_keys_on_the_command_line_are_refused(capsys) -> None:
    assert quickstart.run(["--api-key", "sk-1"], {}) == 2
    assert "environment variables" in capsys.readouterr().err


def test_it_writes_where_ccm_start_looks(tmp_path) -> None:
    env = {**KEYS, "HOME": str(tmp_path)}
    assert quickstart.run(["--yes"], env) == 0
    assert (tmp_path / "config" / "ccm-config.toml").exists()
    first = tmp_path / "workspace" / "config" / "ccm-config.toml"
    first.parent.mkdir(parents=True)
    first.write_text("mine")
    assert quickstart.run(["--yes"], env) == 0
    assert "providers.openai" in first.read_text()


def test_a_variable_of_ccms_own_comes_first() -> None:
    keys = {"ANTHROPIC_API_KEY": "ccm-proxy", "CCM_ANTHROPIC_API_KEY": "sk-ant-real"}
    assert [(f.row.name, f.variable) for f in quickstart.found_keys(keys)] == [
        ("anthropic", "CCM_ANTHROPIC_API_KEY")
    ]
