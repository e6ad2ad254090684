"""`ccm check`: what it shows, what it never shows, and that it is quick."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from ccm.cli import check
from ccm.config import load

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "config"
ENV = {"HOME": "/nonexistent", "KEY": "sk-test-key", "KEY_2": "sk-other-key", "OPENAI_API_KEY": "sk-openai"}


def given(name: str, directory: Path, *options: str) -> argparse.Namespace:
    path = directory / Path(name).name
    shutil.copyfile(DATA / name, path)
    path.chmod(0o600)
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return parser.parse_args(["--config", str(path), *options])


def test_the_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {**ENV, "ANTHROPIC_API_KEY": "ccm-proxy"}
    assert check.run(given("good/seed.toml", tmp_path), env) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.split("\n")]
    assert ["listen", "127.0.0.1:13456"] in lines
    assert ["strategy", "round-robin"] in lines
    assert ["anthropic", "anthropic", "ANTHROPIC_API_KEY", "no", "key"] in lines
    assert ["openai", "openai_responses", "OPENAI_API_KEY", "ready"] in lines
    assert ["openai", "gpt-5.6", "gpt-5.6-terra", "gpt-5.6-luna", "gpt-5.6"] in lines
    assert "warning seed.toml:7 providers.anthropic.api_key_env" in shown
    assert shown.endswith("ok: ccm would start with 1 endpoint\n")
    assert "sk-" not in shown and "\x1b" not in shown


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(given("good/everything.toml", tmp_path), ENV) == 0
    shown = capsys.readouterr().out
    for text in ("command printf k%s ey", "switched off", "1 of 3 keys missing",
                 "openai: gpt-5.6, local: our-model", "none needed"):  # fmt: skip
        assert text in shown
    assert "sk-" not in shown and "a-secret-of-my-own" not in shown


def test_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(given("broken/unknown_key.toml", tmp_path), ENV) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n")[0] == (
        "unknown_key.toml:3 providers.anthropic.prioritty: unknown key (did you mean priority?)"
    )
    assert "1 problem in" in err and "would not start" in err


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(given("good/everything.toml", tmp_path, "--json"), ENV) == 0
    text = capsys.readouterr().out
    report = json.loads(text)
    assert report["ok"] and report["listen"] == "[::1]:13456"
    openai = report["providers"][0]
    assert openai["name"] == "openai" and openai["usable"]
    assert [key["found"] for key in openai["keys"]] == [True, True, False]
    assert openai["models"]["haiku"] == "gpt-5.6-luna"
    assert "sk-" not in text and "a-secret-of-my-own" not in text
    assert check.run(given("broken/own_token.toml", tmp_path, "--json"), {**ENV, "OWN": "ccm-proxy"}) == 2
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and report["problems"][0]["line"] == 2


def test_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    assert check.run(parser.parse_args([]), {"HOME": str(tmp_path), "GROQ_API_KEY": "gsk_x"}) == 0
    assert "none: the keys found in the environment" in capsys.readouterr().out
    assert check.run(parser.parse_args([]), {"HOME": str(tmp_path)}) == 2
    assert "ccm-quickstart" in capsys.readouterr().err


def test_a_broken_models_file_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.toml").write_text("[models.x]\nprice = 1\n")
    path = tmp_path / "c.toml"
    path.write_text('[providers.openai]\napi_key_env = "KEY"\n[catalog]\nmodels_file = "m.toml"\n')
    path.chmod(0o600)
    assert check.run(argparse.Namespace(config=str(path), listen=None, json=False), ENV) == 2
    assert "m.toml:2 models.x.price: unknown key" in capsys.readouterr().err


def test_report_and_state_agree(tmp_path: Path) -> None:
    args = given("good/keyless_local.toml", tmp_path)
    report = check.report(load.read(args.config, ENV))
    (provider,) = report["providers"]
    assert provider["usable"] and provider["keys"] == [
        {"kind": "none", "name": "", "found": True, "problem": ""}
    ]
