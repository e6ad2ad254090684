"""`ccm env`: what each wish puts into the environment, and that every shell reads it as it is meant."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ccm.catalog.models import bundled
from ccm.cli import client, door
from ccm.cli import env as command
from ccm.cli.client import Wish, environment
from ccm.cli.door import Door
from ccm.config import load

CONFIG = """
[proxy]
listen = "127.0.0.1:13999"
auth_token = "my-own-token"
[providers.anthropic]
api_key_env = "KEY"
priority = 1
[providers.openai]
api_key_env = "KEY"
priority = 2
[providers.ollama]
models = { default = "qwen2.5-coder:7b" }
priority = 3
timeouts = { first_content_thinking_s = 900 }
[providers.groq]
api_key_env = "NOT_SET"
[load_balancing]
strategy = "priority"
"""
ENV = {"KEY": "sk-0123456789abcdefgh"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "c.toml"
    made.write_text(CONFIG)
    made.chmod(0o600)
    return made


@pytest.fixture
def make(path: Path) -> Callable[..., Door]:
    """`make(primary="openai")`: the door of a running ccm with that file."""

    def of(primary: str = "", **status: object) -> Door:
        snapshot = load.load(path, {**ENV, "HOME": str(path.parent)})
        rows = [{"name": n, "state": "no key" if n == "groq" else "ready"} for n in snapshot.providers]
        told = {
            "address": "127.0.0.1:13999",
            "config": str(path),
            "providers": rows,
            "primary": primary,
            **status,
        }
        return door.of_running(told, {**ENV, "HOME": str(path.parent)})

    return of


def test_claude_at_anthropic_needs_the_address_and_nothing_of_figures(make) -> None:
    assert environment(make(), Wish(), {}) == {
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:13999",
        "ANTHROPIC_AUTH_TOKEN": "my-own-token",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    }


def test_other_models_come_with_their_window_and_cap(make) -> None:
    found = environment(make("openai"), Wish(), {})
    facts = [bundled().find(name, "openai") for name in ("gpt-5.6", "gpt-5.6-terra")]
    window = min(f.window for f in facts)
    assert found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(window)
    assert 0 < int(found["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] or 0) <= window // 4
    assert (
        found["CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS"] == "1"
        and found["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    )
    assert "ANTHROPIC_MODEL" not in found and "API_TIMEOUT_MS" not in found


def test_a_pinned_provider_is_in_the_path(make) -> None:
    found = environment(make(), Wish(provider="ollama"), {})
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:13999/p/ollama"
    assert found["API_TIMEOUT_MS"] == "930000"
    assert int(found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] or 0) <= 200_000


def test_a_model_of_one_provider_takes_the_background_along(make) -> None:
    found = environment(make(), Wish(model="openai/gpt-5.6"), {})
    for name in ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL"):
        assert found[name] == "openai/gpt-5.6"
    assert (
        found["ANTHROPIC_SMALL_FAST_MODEL"] == found["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "openai/gpt-5.6-luna"
    )
    assert found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(bundled().find("gpt-5.6", "openai").window)
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:13999"


def test_a_claude_name_leaves_the_tiers_alone(make) -> None:
    found = environment(make(), Wish(model="claude-opus-5-5"), {})
    assert found["ANTHROPIC_MODEL"] == "claude-opus-5-5" and "ANTHROPIC_DEFAULT_SONNET_MODEL" not in found


def test_a_strategy_that_spreads_looks_at_all_providers(make) -> None:
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in environment(make(), Wish(), {})
    found = environment(
        make(),
        Wish(strategy="cost", project="my app/ü"),
        {"ANTHROPIC_CUSTOM_HEADERS": "a: b\nx-ccm-project: old"},
    )
    assert int(found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] or 0) <= 200_000
    assert found["ANTHROPIC_CUSTOM_HEADERS"] == "a: b\nx-ccm-project: my app-\nx-ccm-strategy: cost"


def test_what_would_get_in_the_way_goes(make) -> None:
    env = {
        "ANTHROPIC_API_KEY": "sk-ant",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "HTTPS_PROXY": "http://p:1",
        "NO_PROXY": "a, b",
    }
    found = environment(make(), Wish(), env)
    assert found["ANTHROPIC_API_KEY"] is None and found["CLAUDE_CODE_USE_BEDROCK"] is None
    assert found["NO_PROXY"] == "a,b,127.0.0.1,localhost" and found["no_proxy"] == "127.0.0.1,localhost"
    assert "no_proxy" not in environment(make(), Wish(), {"HTTP_PROXY": "http://p:1", "no_proxy": "*"})
    child = client.applied(found, env)
    assert "ANTHROPIC_API_KEY" not in child and child["HTTPS_PROXY"] == "http://p:1"


def test_another_client_gets_the_other_door_too(make) -> None:
    found = environment(make(), Wish(provider="openai", other=True), {"OPENAI_API_KEY": "sk-real"})
    assert found["OPENAI_BASE_URL"] == "http://127.0.0.1:13999/p/openai/v1"
    assert found["OPENAI_API_KEY"] == found["ANTHROPIC_API_KEY"] == "my-own-token"


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (Wish(provider="opnai"), "did you mean openai?"),
        (Wish(provider="groq"), "NOT_SET"),
        (Wish(strategy="cheap"), "is no strategy"),
        (Wish(provider="openai", strategy="cost"), ""),
    ],
)
def test_wishes_that_cannot_be_granted(make, wish: Wish, told: str) -> None:
    found = command.refusal(make(), wish)
    assert told in found and bool(found) == bool(told)


def test_a_running_ccm_whose_keys_are_elsewhere_still_has_its_token(path: Path) -> None:
    path.write_text('[proxy]\nauth_token = "other"\n[providers.openai]\napi_key_env = "ELSEWHERE"\n')
    found = door.of_running({"address": "0.0.0.0:5", "config": str(path)}, {"HOME": str(path.parent)})
    assert (found.url, found.token, found.snapshot) == ("http://127.0.0.1:5", "other", None)
    assert "ELSEWHERE" in found.problem
    path.unlink()
    gone = door.of_running({"address": "[::]:5", "config": str(path)}, {})
    assert (gone.url, gone.token) == ("http://[::1]:5", "ccm-proxy") and gone.problem


NASTY: Mapping[str, str | None] = {
    "A": "two words",
    "B": 'it\'s "q" $HOME `id` \\ end',
    "C": "l1\nl2: 'x'",
    "D": None,
}


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
@pytest.mark.parametrize("quoted", [True, False])
def test_shells_read_what_was_meant(shell: str, quoted: bool) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    wanted = {k: v for k, v in NASTY.items() if quoted or shell in ("bash", "zsh") or "\n" not in (v or "")}
    if not quoted:  # `eval $(...)` splits words: blanks in a row and line ends become one blank
        if shell in ("fish", "zsh"):
            pytest.skip("only sh and bash split there")
        wanted.pop("B")
    lines = command._SHELLS[shell](wanted)
    dump = "import json, os; print(json.dumps({k: os.environ.get(k) for k in 'ABCD'}))"
    script = f'{lines}\npython3 -c "{dump}"' if quoted else f'eval $(cat lines)\npython3 -c "{dump}"'
    if not quoted:
        script = script.replace("$(cat lines)", '$(printf %s "$LINES_IN")')
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, timeout=20,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "D": "was", "LINES_IN": lines, "HOME": "/nonexistent"},
    )  # fmt: skip
    got = json.loads(done.stdout)
    assert {name: got[name] for name in wanted} == dict(wanted)


def test_the_command_says_that_nobody_runs_on_standard_error_only(path: Path, capsys) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--config", str(path), "--socket", str(path.parent / "s"), "--shell", "json"])
    assert command.run(args, {**ENV, "HOME": str(path.parent)}) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ANTHROPIC_AUTH_TOKEN"] == "my-own-token" and "ccm start" in err
    args.provider = "nobody"
    assert command.run(args, {**ENV, "HOME": str(path.parent)}) == 2
    assert capsys.readouterr().out == ""
