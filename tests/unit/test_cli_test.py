"""`ccm test` before anything is sent: which questions it would ask, what they can cost, and wrong usage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from ccm.catalog.models import bundled
from ccm.cli import trials, try_out
from ccm.config import load
from ccm.messages.tokens import Usage
from ccm.model import Price, Snapshot

CONFIG = """
[providers.openai]
api_key_env = ["KEY", "KEY_2"]
priority = 2
[providers.deepseek]
api_key_env = "KEY"
priority = 1
[providers.ollama]
priority = 3
[providers.mine]
type = "custom"
dialect = "anthropic"
base_url = "https://llm.example.com"
priority = 4
[providers.perplexity]
api_key_env = "KEY"
priority = 5
[providers.perplexity.models]
"claude-*" = "sonar-pro"
[providers.groq]
api_key_env = "NOT_SET"
[providers.xai]
enabled = false
"""
ENV = {"KEY": "sk-0123456789abcdefgh-ONE", "KEY_2": "sk-0123456789abcdefgh-TWO"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "ccm-config.toml"
    made.write_text(CONFIG)
    made.chmod(0o600)
    return made


@pytest.fixture
def snapshot(path: Path) -> Snapshot:
    return load.load(path, {"HOME": str(path.parent), **ENV})


def run(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    try_out.add_arguments(parser)
    given = parser.parse_args(["--config", str(path), *words])
    code = try_out.run(given, {"HOME": str(path.parent), **ENV})
    out, err = capsys.readouterr()
    return code, out, err


def test_each_key_and_model_is_asked_once_for_all_its_tiers(snapshot: Snapshot) -> None:
    plan = trials.plan(snapshot, bundled(), (), ())
    assert [(t.endpoint.id, t.tiers, t.model) for t in plan] == [
        ("deepseek", ("opus", "sonnet", "fable"), "deepseek-v4-pro"),
        ("deepseek", ("haiku",), "deepseek-v4-flash"),
        *(
            (key, tiers, model)
            for key in ("openai", "openai#2")
            for tiers, model in (
                (("opus", "fable"), "gpt-5.6"),
                (("sonnet",), "gpt-5.6-terra"),
                (("haiku",), "gpt-5.6-luna"),
            )
        ),
        ("ollama", ("opus", "sonnet", "haiku", "fable"), "claude-opus-5-5"),
        ("mine", ("opus",), "claude-opus-5-5"),
        ("mine", ("sonnet",), "claude-sonnet-5-5"),
        ("mine", ("haiku",), "claude-haiku-5-5"),
        ("mine", ("fable",), "claude-fable-5-1"),
        ("perplexity", ("opus", "sonnet", "haiku", "fable"), "sonar-pro"),
    ]
    assert [t.endpoint.id for t in plan if t.unmapped] == ["ollama"]
    assert [t.endpoint.id for t in plan if not t.tools] == ["perplexity"]


def test_names_and_tiers_limit_it(snapshot: Snapshot) -> None:
    def ids(names: list[str], tiers: list[str]) -> list[tuple[str, str]]:
        return [(t.endpoint.id, t.model) for t in trials.plan(snapshot, bundled(), names, tiers)]

    assert ids(["openai#2"], ["haiku"]) == [("openai#2", "gpt-5.6-luna")]
    assert ids(["openai"], ["haiku"]) == [("openai", "gpt-5.6-luna"), ("openai#2", "gpt-5.6-luna")]
    assert ids(["deepseek", "mine"], ["opus"]) == [
        ("deepseek", "deepseek-v4-pro"),
        ("mine", "claude-opus-5-5"),
    ]


def test_the_question_is_a_stream_with_one_tool(snapshot: Snapshot) -> None:
    plan = {t.endpoint.id: t for t in trials.plan(snapshot, bundled(), (), ["haiku"])}
    body = trials.body(plan["deepseek"])
    assert body["stream"] is True and body["model"] == "claude-haiku-5-5" and body["max_tokens"] <= 1024
    (tool,) = body["tools"]
    assert tool["name"] in body["messages"][0]["content"]
    assert "tools" not in trials.body(plan["perplexity"])
    sent = trials.encoded(plan["openai"])
    assert (sent.path, sent.body["model"], sent.body["tools"][0]["name"]) == (
        "/responses",
        "gpt-5.6-luna",
        tool["name"],
    )


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (Price(), Usage(input=1), None),
        (Price(input=1.0), Usage(input=1), None),
        (Price(0.0, 0.0), Usage(input=10, output=10), 0.0),
        (Price(2.0, 10.0), Usage(input=1000, output=100), 0.003),
        (Price(2.0, 10.0, 0.2, 2.5, 4.0), Usage(1000, 500, 200, 100, 10), 0.0031),
        (Price(2.0, 10.0), Usage(1000, 500, 200, 100, 10), 0.0037),
        (Price(1.0, 2.0, above=((100, 3.0, 4.0), (1000, 5.0, 6.0))), Usage(input=101, output=1), 0.000307),
        (Price(1.0, 2.0, above=((100, 3.0, 4.0), (1000, 5.0, 6.0))), Usage(input=100, output=1), 0.000102),
    ],
)  # fmt: skip
def test_costs(price: Price, usage: Usage, cost: float | None) -> None:
    told = trials.cost_usd(price, usage)
    assert told == (None if cost is None else pytest.approx(cost))


def call(**input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t", "name": trials.TOOL_NAME, "input": input}


@pytest.mark.parametrize(
    ("content", "stop", "verdict", "told"),
    [
        ([call(word="ready")], "tool_use", "ok", ""),
        ([{"type": "text", "text": "Sure."}, call(word="x")], "tool_use", "ok", ""),
        ([call()], "tool_use", "no tool call", "without the argument"),
        ([{**call(word="x"), "name": "other"}], "tool_use", "no tool call", "instead of calling the tool"),
        (
            [{"type": "text", "text": "ready"}],
            "end_turn",
            "no tool call",
            "instead of calling the tool: ready",
        ),
        ([{"type": "thinking", "thinking": "hm"}], "max_tokens", "no tool call", "were used up"),
        ([], "end_turn", "no tool call", "instead of calling the tool"),
    ],
)
def test_what_an_answer_is_worth(
    content: list[Any], stop: str, verdict: str, told: str, snapshot: Snapshot
) -> None:
    trial = trials.plan(snapshot, bundled(), ["deepseek"], ["haiku"])[0]
    found = trials._worth(trial, {"content": content, "stop_reason": stop})
    assert found[0] == verdict and told in found[1] and bool(told) == bool(found[1])


def test_without_tools_any_text_will_do(snapshot: Snapshot) -> None:
    trial = trials.plan(snapshot, bundled(), ["perplexity"], ["haiku"])[0]
    assert trials._worth(trial, {"content": [{"type": "text", "text": "ready"}]}) == ("ok", "")
    assert trials._worth(trial, {"content": []})[0] == "failed"


def test_a_dry_run_sends_nothing_and_says_what_it_would(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(try_out, "_test", lambda *a: pytest.fail("a dry run asked"))
    code, out, err = run(capsys, path, "--dry-run")
    assert (code, err) == (0, "")
    for text in (
        "https://api.deepseek.com/anthropic/v1/messages",
        "https://api.openai.com/v1/responses",
        "http://127.0.0.1:11434/v1/messages",
        "14 requests", "at unknown prices", "nothing was sent",
    ):  # fmt: skip
        assert text in out
    assert "sk-" not in out
    code, out, _ = run(capsys, path, "--dry-run", "--json", "deepseek", "--tier", "haiku")
    told = json.loads(out)
    (row,) = told["would_send"]
    assert (row["model"], row["tiers"], row["body"]["model"]) == (
        "deepseek-v4-flash",
        ["haiku"],
        "deepseek-v4-flash",
    )
    assert 0.001 < row["most_usd"] == told["most_usd"] < 0.01 and told["without_price"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["opneai"], "did you mean openai?"),
        (["xai"], "xai is switched off"),
        (["groq"], "groq has no usable key: neither CCM_NOT_SET nor NOT_SET is set"),
    ],
)
def test_a_wrong_name_is_2(
    words: list[str], told: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, path, *words)
    assert (code, out) == (2, "") and told in err


def test_a_configuration_that_must_not_run_is_2(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("[providers.openai]\nprioritty = 1\n")
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "") and "did you mean priority?" in err
    code, out, _ = run(capsys, path, "--json")
    assert code == 2 and json.loads(out)["problems"][0]["line"] == 2


@pytest.mark.parametrize("given", ["0", "x", "4000"])
def test_a_timeout_must_be_one(given: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, path, "--timeout", given)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "$0.00"), (0.00001, "<$0.0001"), (0.01234, "$0.012"), (1.5, "$1.50")],
)
def test_money(value: float | None, shown: str) -> None:
    assert try_out._usd(value) == shown
