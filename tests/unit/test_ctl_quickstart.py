"""`ccm-quickstart` from its command line: keys, piped answers, flags, what is written, and that nothing else is."""

from __future__ import annotations

import io
import stat
from functools import partial
from pathlib import Path

import pytest
import tomli

from ccm.catalog.rows import bundled_rows
from ccm.cli import quickstart
from ccm.cli.template import Choice, compose
from ccm.cli.wizard.ask import Questions

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
def surroundings(monkeypatch, tmp_path) -> None:
    """A small template, an empty home and an empty directory; the real ones are not looked at."""
    monkeypatch.setattr(quickstart, "template_text", lambda: TEMPLATE)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setitem(KEYS, "HOME", str(home))


def run(argv: list[str], environ: dict[str, str], answers: str | None = None) -> int:
    questions = None if answers is None else Questions(io.StringIO(answers), terminal=False)
    return quickstart.run(argv, environ, questions, probe=list)


def test_the_template_is_filled_in_and_keeps_its_comments() -> None:
    choice = Choice(
        (("groq", {"api_key_env": '"GROQ_API_KEY"'}), ("openai", {"api_key_env": '"MY_KEY"'})), "latency"
    )
    text = compose(TEMPLATE, choice)
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
    value = tomli.loads(compose(bare, Choice((("openai", {"api_key_env": '"K"'}),), "priority")))
    assert value["providers"] == {"openai": {"enabled": True, "api_key_env": "K", "priority": 1}}
    assert value["load_balancing"] == {"strategy": "priority"}


def test_keys_are_found_by_name_only(capsys) -> None:
    assert run(["--keys"], KEYS) == 0
    out = capsys.readouterr().out
    assert out == "openai OPENAI_API_KEY\ngroq GROQ_API_KEY\n"
    assert run(["--keys"], {"OPENAI_API_KEY": " "}) == 1


def test_piped_answers(tmp_path, capsys) -> None:
    target = tmp_path / "c" / "ccm-config.toml"
    assert run(["--config", str(target)], KEYS, "groq 1\n9\nfastest\n") == 0
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
    assert run(["--yes", "--config", str(target)], KEYS) == 0
    (backup,) = tmp_path.glob("*.bak-*")
    assert backup.read_text() == "mine" and str(backup) in capsys.readouterr().out
    before = target.read_bytes()
    assert run(["--yes", "--config", str(target)], KEYS) == 0
    assert target.read_bytes() == before and len(list(tmp_path.iterdir())) == 3


def test_without_a_key_it_says_what_to_do(tmp_path, capsys) -> None:
    target = tmp_path / "c.toml"
    assert run(["--yes", "--config", str(target)], {"HOME": KEYS["HOME"]}) == 1
    error = capsys.readouterr().err
    assert "export ANTHROPIC_API_KEY" in error and "--demo" in error and not target.exists()


def test_ctrl_c_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys) -> None:
    target = tmp_path / "c.toml"
    target.write_text("mine")

    class Interrupting(io.StringIO):
        def readline(self, *args):
            raise KeyboardInterrupt

    questions = Questions(Interrupting(), terminal=False)
    monkeypatch.setattr(
        quickstart, "run", partial(quickstart.run, environ=KEYS, questions=questions, probe=list)
    )
    assert quickstart.main(["--config", str(target)]) == 130
    assert target.read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["c.toml", "home"]
    assert "nothing was written" in capsys.readouterr().err


def test_three_misses_end_it(tmp_path, capsys) -> None:
    target = tmp_path / "c.toml"
    assert run(["--config", str(target)], KEYS, "x\ny\n0\n") == 1
    assert not target.exists() and "nothing was written" in capsys.readouterr().err


def test_an_unwritable_place_is_said_so(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert run(["--yes", "--config", str(tmp_path / "file" / "c.toml")], KEYS) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_keys_on_the_command_line_are_refused(capsys) -> None:
    assert run(["--api-key", "sk-1"], {}) == 2
    assert "environment variables" in capsys.readouterr().err


def test_it_writes_where_ccm_start_looks(tmp_path) -> None:
    env = {**KEYS, "HOME": str(tmp_path)}
    assert run(["--yes"], env) == 0
    assert (tmp_path / "config" / "ccm-config.toml").exists()
    first = tmp_path / "workspace" / "config" / "ccm-config.toml"
    first.parent.mkdir(parents=True)
    first.write_text("mine")
    assert run(["--yes"], env) == 0
    assert "providers.openai" in first.read_text()


def test_a_variable_of_ccms_own_comes_first() -> None:
    keys = {"ANTHROPIC_API_KEY": "ccm-proxy", "CCM_ANTHROPIC_API_KEY": "sk-ant-real"}
    assert [(f.row.name, f.name) for f in quickstart.found_keys(keys)] == [
        ("anthropic", "CCM_ANTHROPIC_API_KEY")
    ]


def test_flags_answer_everything(tmp_path) -> None:
    target = tmp_path / "c.toml"
    words = ["--provider", "groq", "--provider", "openai", "--strategy", "cheapest", "--yes"]
    words += ["--key-command", "openai=pass show 'my key'", "--config", str(target)]
    assert run(words, KEYS) == 0
    value = tomli.loads(target.read_text())
    assert value["providers"]["openai"]["api_key_command"] == ["pass", "show", "my key"]
    assert "api_key_env" not in value["providers"]["openai"]
    order = {name: p["priority"] for name, p in value["providers"].items() if p["enabled"]}
    assert order == {"groq": 1, "openai": 2} and value["load_balancing"]["strategy"] == "cost"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--provider", "opnai"], "did you mean openai?"),
        (["--provider", "deepseek"], "set DEEPSEEK_API_KEY"),
        (["--provider", "demo"], "no provider of the catalogue"),
    ],
)
def test_flags_that_cannot_be(words: list[str], told: str, tmp_path, capsys) -> None:
    assert run([*words, "--yes", "--config", str(tmp_path / "c.toml")], KEYS) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "c.toml").exists()


def test_a_key_flag_without_a_name_is_usage(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--yes", "--key-file", "openai"], KEYS)
    assert ended.value.code == 2 and "NAME=" in capsys.readouterr().err


@pytest.mark.parametrize("answers", ["", "1 2\n", "1 2\n9\n", "deepseek\n1\n"])
def test_answers_that_end_early_write_nothing(answers: str, tmp_path, capsys) -> None:
    target = tmp_path / "c" / "c.toml"
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    assert run(["--config", str(target)], KEYS, answers) == 1
    assert "the answers ended; nothing was written" in capsys.readouterr().err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_the_real_anthropic_key_in_the_clients_variable_is_told(tmp_path, capsys) -> None:
    env = {**KEYS, "ANTHROPIC_API_KEY": "sk-ant-canary-0123456789"}
    assert run(["--yes", "--config", str(tmp_path / "c.toml")], env) == 0
    assert "CCM_ANTHROPIC_API_KEY" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_a_test_comes_before_anything_is_written(tmp_path, monkeypatch, capsys, code: int) -> None:
    target, asked = tmp_path / "c.toml", []

    def trying(args, environ) -> int:
        text = Path(args.config).read_text()
        asked.append((tomli.loads(text)["providers"]["groq"]["api_key_env"], target.exists()))
        return code

    monkeypatch.setattr("ccm.cli.try_out.run", trying)
    assert run(["--yes", "--test", "--config", str(target)], KEYS) == code
    assert asked == [("GROQ_API_KEY", False)] and target.exists() == (code == 0)
    assert ("nothing was written" in capsys.readouterr().err) == (code == 1)


def test_the_longest_lists_fit_a_terminal(tmp_path, capsys) -> None:
    keys = {row.env[0]: "sk-canary-0123456789" for row in bundled_rows().values() if row.env}
    assert (
        run(["--config", str(tmp_path / "c.toml")], {**keys, "HOME": KEYS["HOME"]}, "?\n1 2\nfailover\n") == 0
    )
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line and not line.startswith("[")]
    assert len(lines) > 30 and max(map(len, lines)) <= 80
