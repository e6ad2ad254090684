"""`ccm providers`: the catalogue as one user sees it, and snippets that are right as they stand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from ccm.catalog.rows import bundled_rows
from ccm.cli import main, providers
from ccm.config import load

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-0123456789abcdefghij-SECRET"


def run(capsys: pytest.CaptureFixture[str], env: dict[str, str], *words: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    providers.add_arguments(parser)
    code = providers.run(parser.parse_args(list(words)), {"HOME": "/nonexistent", **env})
    out, err = capsys.readouterr()
    return code, out, err


def config(directory: Path, text: str) -> Path:
    path = directory / "ccm-config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def rows_of(shown: str) -> dict[str, str]:
    return {line.split()[0]: line for line in shown.split("\n\n")[0].split("\n")}


def test_the_table_has_all_rows_and_says_where_keys_are(capsys: pytest.CaptureFixture[str]) -> None:
    env = {"DEEPSEEK_API_KEY": KEY, "ANTHROPIC_API_KEY": "ccm-proxy", "GROQ_API_KEY": "two words"}
    code, out, err = run(capsys, env)
    assert (code, err) == (0, "")
    rows = rows_of(out)
    assert set(rows) == {"PROVIDER", *bundled_rows()}
    assert "  DEEPSEEK_API_KEY  " in rows["deepseek"] and "deepseek-v4-flash" in rows["deepseek"]
    assert "not set: OPENAI_API_KEY" in rows["openai"]
    assert "own auth_token" in rows["anthropic"] and "blanks" in rows["groq"]
    assert "none needed" in rows["ollama"] and "us.anthropic.claude-opus" in rows["bedrock"]
    assert KEY not in out and "\x1b" not in out and "{" not in out
    assert "next: `ccm providers NAME`" in out


def test_what_is_configured_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    text = (
        '[providers.work]\ntype = "openai"\napi_key_file = "key"\n'
        '[providers.groq]\napi_key_command = "pass show groq"\n'
        "[providers.mistral]\nenabled = false\n[providers.xai]\n"
    )
    path = config(tmp_path, text)
    code, out, _ = run(capsys, {"XDG": ""}, "--config", str(path))
    rows = rows_of(out)
    assert code == 0
    assert "file key" in rows["openai"] and "ready as work" in rows["openai"]
    assert "command pass show groq" in rows["groq"] and " ready " in rows["groq"]
    assert " off " in rows["mistral"] and " no key " in rows["xai"]
    assert " ready" not in rows["deepseek"]
    code, out, _ = run(capsys, {}, "work", "--config", str(path))
    assert "in use    as work, ready, at https://api.openai.com/v1" in out and "next: `ccm test work`" in out


def test_one_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, {"DEEPSEEK_API_KEY": KEY}, "deepseek")
    assert code == 0
    for text in (
        "found in environment variable DEEPSEEK_API_KEY",
        "anthropic (preferred)  https://api.deepseek.com/anthropic  x-api-key",
        "docs      https://api-docs.deepseek.com",
        "deepseek-v4-flash",
        '[providers.deepseek]\napi_key_env = "DEEPSEEK_API_KEY"',
        "next: put it into ~/config/ccm-config.toml",
    ):
        assert text in out
    assert KEY not in out
    assert "No tier of Claude is mapped" in run(capsys, {}, "perplexity")[1]
    assert "function calls" in run(capsys, {}, "perplexity")[1]
    assert 'region = "us-east-1"' in run(capsys, {}, "aws")[1], "aliases do"


@pytest.mark.parametrize("name", sorted(bundled_rows()))
def test_every_snippet_is_a_configuration_that_loads(name: str, tmp_path: Path) -> None:
    row = bundled_rows()[name]
    env = {"HOME": str(tmp_path), **({row.env[0]: KEY} if row.env else {})}
    snapshot = load.load(config(tmp_path, providers.snippet(row)), env)
    (endpoint,) = snapshot.endpoints
    assert endpoint.provider.type == name
    assert endpoint.provider.dialect == (row.dialect or "openai_chat")
    assert endpoint.provider.keys[0].problem == ""


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, {"GEMINI_API_KEY": KEY}, "--json")
    listed: dict[str, Any] = {row["name"]: row for row in json.loads(out)["providers"]}
    assert code == 0 and set(listed) == set(bundled_rows())
    google = listed["google"]
    assert google["keys"] == [{"kind": "env", "place": "GEMINI_API_KEY", "found": True, "problem": None}]
    assert google["configured"] == [{"name": "google", "state": "ready"}]
    assert google["tiers"]["haiku"] == "gemini-3.8-flash" and "tools" in google["abilities"]
    assert listed["openai"]["keys"][0]["found"] is False
    assert listed["custom"]["dialect"] is None
    assert listed["vertex"]["options"]["project"] == ["ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"]
    code, out, _ = run(capsys, {}, "openai", "--json")
    assert json.loads(out)["endpoints"][0]["base_url"] == "https://api.openai.com/v1"
    assert KEY not in out


def test_an_unknown_name_is_a_usage_error_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, {}, "opneai")
    assert (code, out) == (2, "")
    assert "did you mean openai?" in err


def test_a_configuration_with_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, "[providers.openai]\nprioritty = 1\n")
    code, out, err = run(capsys, {}, "--config", str(path))
    assert (code, out) == (2, "") and "did you mean priority?" in err
    (tmp_path / "config").mkdir()
    path.rename(tmp_path / "config" / "ccm-config.toml")
    code, out, err = run(capsys, {"HOME": str(tmp_path)})
    assert code == 0 and "is passed over" in err and "39 providers" in out


def test_they_are_commands_of_ccm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    assert main.main(["models", "gpt-5.6"]) == 0
    assert "gpt-5.6-luna" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main.main(["provider"])
    assert ended.value.code == 2 and "did you mean providers?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["test", "--help"])
    assert "--dry-run" in capsys.readouterr().out


def test_a_narrow_terminal_gets_what_matters_most(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, shown in ((110, False), (200, True)):
        monkeypatch.setattr(providers.render, "screen", lambda width=width: providers.render.Screen(width))
        lines = run(capsys, {})[1].split("\n\n")[0].split("\n")
        assert ("ABILITIES" in lines[0], "FABLE" in lines[0]) == (shown, shown)
        assert "IN USE" not in lines[0], "nothing is"
        assert max(map(len, lines)) <= width
