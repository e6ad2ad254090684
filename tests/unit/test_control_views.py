"""The read models of models and configuration: what is in use, where it comes from, and nothing secret."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from ccm.config import load
from ccm.control import effective, models
from ccm.errors import Refusal

TOML = """\
[proxy]
listen = "127.0.0.1:9999"
auth_token = "a-secret-of-my-own"

[providers.openai]
api_key_env = "MY_KEY"
priority = 3
headers = { "x-team" = "secret-team" }
[providers.openai.models]
opus = "gpt-5.2"
[providers.openai.timeouts]
idle = 12

[failover]
max_retries = 5

[[rules]]
name = "thinkers"
when = { class = "think", header = { "x-secret" = "hidden-pattern" } }
use = "openai"
"""


@pytest.fixture
def core(tmp_path):
    path = tmp_path / "ccm-config.toml"
    path.write_text(TOML)
    path.chmod(0o600)
    snapshot = load.load(path, {"MY_KEY": "sk-canary-0123456789abcdef", "HOME": str(tmp_path)})
    return SimpleNamespace(snapshot=snapshot)


def values(core) -> dict[str, dict]:
    return {row["key"]: row for row in effective.config(core)["values"]}


def test_every_value_with_its_line(core) -> None:
    found = values(core)
    assert found["proxy.listen"] | {"from": ""} == {
        "key": "proxy.listen", "table": "proxy", "name": "listen", "value": "127.0.0.1:9999", "default": False, "from": "",
    }  # fmt: skip
    lines = {name: found[name]["from"].partition(":")[2] for name in found if not found[name]["default"]}
    assert lines["proxy.listen"] == "2" and lines["providers.openai.priority"] == "7"
    assert lines["failover.max_retries"] == "15" and lines["providers.openai.models.opus"] == "10"
    assert lines["providers.openai.timeouts.idle_s"] in ("11", "12")  # written by its other name
    assert found["failover.enabled"]["default"] and found["failover.enabled"]["from"] == "default"
    assert found["providers.openai.base_url"]["from"] == "catalogue"
    assert found["providers.openai.api_key_env"]["value"] == "MY_KEY"


def test_nothing_secret_is_told(core) -> None:
    text = json.dumps(effective.config(core))
    for secret in ("sk-canary", "a-secret-of-my-own", "secret-team", "hidden-pattern"):
        assert secret not in text
    assert values(core)["proxy.auth_token"]["value"] == "(hidden)"
    assert values(core)["providers.openai.headers.x-team"]["value"] == "(hidden)"
    assert values(core)["providers.openai.api_key_env"]["note"].startswith("fingerprint ")


def test_rules_are_shown(core) -> None:
    (rule,) = effective.config(core)["rules"]
    assert (
        rule["name"] == "thinkers"
        and rule["when"]["classes"] == ["think"]
        and rule["when"]["headers"] == ["x-secret"]
    )
    assert rule["use"]["to"] == [["openai", ""]]


def test_a_file_that_broke_meanwhile_still_shows_what_is_in_use(core) -> None:
    with open(core.snapshot.path, "w") as file:
        file.write("[proxy\n")
    told = effective.config(core)
    assert told["changed"]
    assert {row["key"]: row["value"] for row in told["values"]}["failover.max_retries"] == 5


def test_what_the_command_line_overruled(core, tmp_path) -> None:
    core.snapshot = dataclasses.replace(core.snapshot, path="", port=1)
    assert values(core)["proxy.listen"]["from"] == "command line or environment"


# ---- models


def test_names_of_the_configuration_and_tiers(fake_core) -> None:
    snapshot = fake_core.snapshot
    openai = dataclasses.replace(
        snapshot.providers["openai"], models={"opus": "gpt-5.2", "default": "gpt-x", "my-*": "y"}
    )
    fake_core.snapshot = dataclasses.replace(
        snapshot,
        providers={**snapshot.providers, "openai": openai},
        models={"fast": "openai/gpt-mini", "mine": {"openai": "gpt-m"}},
    )
    told = models.read(fake_core)
    assert [row["name"] for row in told["names"]] == ["opus", "sonnet", "haiku", "fable", "fast", "mine"]
    opus = told["names"][0]
    assert opus["goes_to"] == "anthropic/opus"  # what the router says
    assert {row["provider"]: row["model"] for row in opus["at"]}["openai"] == "gpt-5.2"
    assert "old" not in {row["provider"] for row in opus["at"]}
    assert [row["provider"] for row in told["names"][5]["at"]] == ["openai"]
    assert told["map"] == [
        {"name": "fast", "to": "openai/gpt-mini"},
        {"name": "mine", "to": {"openai": "gpt-m"}},
    ]
    facts = opus["at"][0]
    assert (facts["window_tokens"], facts["prices_usd"]["output"]) == (200_000, 15.0)


def test_one_name_and_one_that_goes_nowhere(fake_core) -> None:
    def refuse(body, headers):
        raise Refusal(404, "not_found_error", "nobody has it")

    fake_core.explain_request = refuse
    (row,) = models.read(fake_core, "zzz")["names"]
    assert (row["name"], row["goes_to"], row["why"]) == ("zzz", "", "nobody has it")
