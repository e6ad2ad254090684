"""Configurations in the form of claude-code-mux 0.x: read, and shown in the new form."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccm.config import load
from ccm.config.legacy import is_old, modern
from ccm.errors import ConfigError
from ccm.model import Snapshot
from ccm.settings import Use

OLD = """
[[models]]
name = "glm-4.6"

[[models.mappings]]
actual_model = "glm-4.6"
priority = 2
provider = "zai coding plan"

[[models.mappings]]
actual_model = "z-ai/glm-4.6"
priority = 1
provider = "openrouter"

[[models]]
name = "thinker"
[[models.mappings]]
actual_model = "claude-sonnet-4-5"
provider = "kimi-for-coding"

[[providers]]
api_key = "$ZAI_KEY"
enabled = true
models = []
name = "zai coding plan"
provider_type = "z.ai"

[[providers]]
api_key = "${OR_KEY}"
name = "openrouter"
provider_type = "openrouter"
oauth_provider = "x"

[[providers]]
api_key = "$KIMI"
base_url = "https://api.kimi.com/coding/"
name = "kimi-for-coding"
provider_type = "anthropic"

[router]
background = "glm-4.6"
default = "glm-4.6"
think = "thinker"
websearch = "claude-haiku-4-5"
background_regex = "(?i)claude.*haiku"

[server]
host = "127.0.0.1"
log_level = "warn"
port = 14567
[server.timeouts]
api_timeout_ms = 600000
"""
ENV = {"ZAI_KEY": "k1", "OR_KEY": "k2", "KIMI": "k3", "HOME": "/nonexistent"}
GLM = (("openrouter", "z-ai/glm-4.6"), ("zai-coding-plan", "glm-4.6"))


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    path = tmp_path / "ccm-config.toml"
    path.write_text(OLD)
    path.chmod(0o600)
    return load.load(path, ENV)


def test_providers_and_server(snapshot: Snapshot) -> None:
    assert [(p.name, p.type, p.base_url) for p in snapshot.providers.values()][2] == (
        "kimi-for-coding", "anthropic", "https://api.kimi.com/coding",
    )  # fmt: skip
    assert [e.id for e in snapshot.endpoints] == ["zai-coding-plan", "openrouter", "kimi-for-coding"]
    assert snapshot.endpoints[0].key is not None and snapshot.endpoints[0].key.name == "ZAI_KEY"
    assert (snapshot.port, snapshot.log_level) == (14567, "warning")


def test_router_and_models_become_rules_in_the_old_order(snapshot: Snapshot) -> None:
    rules = snapshot.routing.rules
    assert [rule.name for rule in rules] == [
        "websearch", "background_regex", "background", "think", "glm-4.6", "thinker", "default",
    ]  # fmt: skip
    by_name = {rule.name: rule for rule in rules}
    assert by_name["think"].use == Use((("kimi-for-coding", "claude-sonnet-4-5"),))
    assert by_name["websearch"].use.to == (("", "claude-haiku-4-5"),)
    assert by_name["background_regex"].when.models == ("/(?i)claude.*haiku/",)
    assert by_name["glm-4.6"].use == Use(GLM, only=True, strategy="priority")
    assert (by_name["default"].when.models, by_name["default"].use.to) == (("claude-*",), GLM)


def test_every_old_table_is_warned_of_with_its_new_form(snapshot: Snapshot) -> None:
    warnings = [(w.line, w.key, w.fix) for w in snapshot.warnings if "0.x" in w.text]
    assert [key for _, key, _ in warnings] == [
        "models",
        "providers",
        "providers",
        "providers",
        "router",
        "server",
    ]
    assert all(fix.startswith("write it as:\n[") for _, _, fix in warnings)
    assert warnings[1][0] == OLD[: OLD.index('api_key = "$ZAI_KEY"')].count("\n")
    dropped = [w.key for w in snapshot.warnings if "left out" in w.text]
    assert dropped == ["providers.oauth_provider", "server.timeouts"]


def test_the_new_form_means_the_same_and_is_not_old_any_more(snapshot: Snapshot, tmp_path: Path) -> None:
    text, warnings = modern(OLD, "old.toml")
    assert warnings
    assert modern(text, "new.toml") == (text, [])
    path = tmp_path / "new.toml"
    path.write_text(text)
    path.chmod(0o600)
    again = load.load(path, ENV)
    assert again.routing == snapshot.routing
    assert again.endpoints == snapshot.endpoints


def test_auto_map_regex_says_whose_names_are_mapped() -> None:
    text, _ = modern('[router]\ndefault = "glm"\nauto_map_regex = "^(claude|gpt)-"\n', "c.toml")
    assert 'when = { model = "/^(claude|gpt)-/" }\nuse = "glm"' in text


def test_a_key_in_the_file_is_refused_and_never_shown(tmp_path: Path) -> None:
    text = '[[providers]]\nname = "a"\nprovider_type = "openai"\napi_key = "sk-canary-0123456789"\n[server]\napi_key = "canary-token"\n'
    _, warnings = modern(text, "c.toml")
    assert warnings and not any("canary" in str(warning) for warning in warnings)
    path = tmp_path / "c.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load.load(path, ENV)
    assert "keys don't belong in this file" in str(caught.value) and "canary" not in str(caught.value)


def test_names_that_were_allowed_become_names_that_are() -> None:
    providers = "".join(
        f'[[providers]]\nname = "{name}"\nprovider_type = "openai"\n' for name in ("a b", "a/b", "…")
    )
    text, _ = modern(providers, "c.toml")
    assert "[providers.a-b]" in text and "[providers.a-b-2]" in text and "[providers.provider-3]" in text


def test_mixed_and_odd_files_keep_what_is_new() -> None:
    text, _ = modern(
        '[router]\ndefault = "m"\n[providers.x]\ntype = "openai"\n[failover]\nmax_retries = 1\n', "c.toml"
    )
    assert '[providers]\nx = { type = "openai" }' in text and "[failover]\nmax_retries = 1" in text
    text, warnings = modern('models = [3]\nproviders = []\n[router]\nfoo = "x"\n', "c.toml")
    assert [w.key for w in warnings] == ["router.foo"]
    assert not is_old({"providers": {"x": {}}, "models": {"a": "b"}})
    assert modern("[providers.x]\n", "c.toml") == ("[providers.x]\n", [])


def test_what_is_no_toml_is_told_as_ever() -> None:
    with pytest.raises(ConfigError):
        modern("[router", "c.toml")
