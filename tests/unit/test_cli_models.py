"""`ccm models`: the book as a table, and what is taken for granted of models that are not in it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from ccm.catalog.models import bundled
from ccm.cli import models
from ccm.cli.listing import amount, tokens


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    models.add_arguments(parser)
    code = models.run(parser.parse_args(list(words)), {"HOME": "/nonexistent"})
    out, err = capsys.readouterr()
    return code, out, err


def lines(shown: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in shown.split("\n\n")[0].split("\n")}


def test_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    rows = lines(out)
    assert (code, err) == (0, "")
    assert len(rows) == 1 + sum(1 for _ in bundled().all())
    assert rows["claude-opus-5-5"][1:8] == ["1M", "128k", "adaptive", "low..max", "4", "20", "0.2"]
    assert rows["gpt-5.6"][5:7] == ["4>", "20>"], "a price with steps is marked"
    assert rows["deepseek-reasoner"][3:5] == ["always", "on"] and rows["deepseek-reasoner"][-2:] == [
        "no",
        "tools",
    ]
    assert rows["qwen*"][4:8] == ["-", "-", "-", "-"], "an unknown price is not 0"
    assert "\x1b" not in out and "next:" in out


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("GPT-5.6", {"gpt-5.6", "gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna"}),
        ("gpt-4o*", {"gpt-4o", "gpt-4o-mini"}),
        ("cerebras/", {"cerebras/gpt-oss-120b"}),
    ],
)
def test_patterns(pattern: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert set(lines(run(capsys, pattern)[1])) - {"MODEL"} == names


def test_a_glob_that_matches_nothing_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "zz*")
    assert (code, out) == (1, "") and "no model matches" in err


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("my-own-model", ["200k", "-", "unknown", "-", "-"], "is not in the catalogue: cautious defaults"),
        ("gtp-5.6", ["200k", "-", "unknown", "-", "-"], "did you mean gpt-5.6?"),
        ("claude-opus-5-5-20261001", ["1M", "128k", "adaptive", "low..max", "4"], "it is a spelling of a model that is"),
        ("claude-opus-9", ["200k", "64k", "adaptive", "low..high", "-"], "its price is unknown"),
        ("together/openai/gpt-oss-120b", ["131k", "65k", "effort", "low..high", "-"], "its price is unknown"),
    ],
)  # fmt: skip
def test_what_is_taken_for_granted(
    name: str, row: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, name)
    assert code == 0
    assert lines(out)[name][1:6] == row
    assert told in out.split("\n\n")[1]


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "gpt-5.6-luna", "--json")
    (row,) = json.loads(out)["models"]
    assert code == 0
    assert row == {
        "name": "gpt-5.6-luna", "family": False, "known": True, "window": 922000, "output_cap": 128000,
        "thinking": "effort", "efforts": ["none", "low", "medium", "high", "xhigh", "max"],
        "abilities": ["documents", "images", "tools"],
        "price": {
            "input": 0.2, "output": 1.2, "cache_read": 0.02, "cache_write_5m": 0.25, "cache_write_1h": None,
            "above": [{"input_tokens": 272000, "input": 0.4, "output": 1.8}],
        },
    }  # fmt: skip
    code, out, _ = run(capsys, "nobody-knows", "--json")
    told = json.loads(out)
    assert told["models"][0]["known"] is False and "cautious defaults" in told["note"]


def test_the_users_own_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.toml").write_text('[models."our-model"]\nwindow = 32000\ninput = 0.5\noutput = 1\n')
    path = tmp_path / "ccm-config.toml"
    path.write_text('[providers.ollama]\n[catalog]\nmodels_file = "models.toml"\n')
    path.chmod(0o600)
    code, out, _ = run(capsys, "our-model", "--config", str(path))
    assert code == 0 and lines(out)["our-model"][1:6] == ["32k", "-", "none", "0.5", "1"]
    path.write_text("[providers.ollama]\n[catalog]\nmodels_file = 5\n")
    code, out, err = run(capsys, "--config", str(path))
    assert (code, out) == (2, "") and "models_file" in err


def test_figures() -> None:
    assert [tokens(n) for n in (None, 8192, 65536, 200_000, 1_000_000, 1_048_576)] == [
        "-", "8192", "65k", "200k", "1M", "1.05M",
    ]  # fmt: skip
    assert [amount(p) for p in (None, 0.0, 4.0, 0.0375, 12.5)] == ["-", "0", "4", "0.0375", "12.5"]
