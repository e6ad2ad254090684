"""From files, from the environment, for the demo: what comes out, and in which order it is looked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ccm.config import load
from ccm.config.secrets import variables_used
from ccm.errors import ConfigError
from ccm.model import Secret, Snapshot, Timeouts
from ccm.settings import FailoverSettings

ROOT = Path(__file__).resolve().parents[2]
GOOD = ROOT / "tests" / "data" / "config" / "good"
ENV = {"HOME": "/nonexistent", "KEY": "sk-test-key", "KEY_2": "sk-other-key", "OPENAI_API_KEY": "sk-openai"}
MINIMAL = '[providers.openai]\napi_key_env = "KEY"\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str | bytes, name: str = "ccm-config.toml", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return make


def good(name: str, directory: Path, env: dict[str, str] = ENV) -> Snapshot:
    path = directory / f"{name}.toml"
    shutil.copyfile(GOOD / f"{name}.toml", path)
    path.chmod(0o600)
    return load.load(path, env, generation=7)


def refused(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call()
    return [str(p) for p in caught.value.problems]


# ---- the seed


def test_the_seeds_configuration_works_unchanged(tmp_path: Path) -> None:
    env = {
        **ENV,
        "ANTHROPIC_API_KEY": "ccm-proxy",
        "CCM_ANTHROPIC_API_KEY": "sk-ant",
        "GOOGLE_API_KEY": "AIza",
    }
    snapshot = good("seed", tmp_path, env)
    assert [(e.id, e.provider.priority) for e in snapshot.endpoints] == [
        ("anthropic", 1),
        ("openai", 2),
        ("google", 3),
    ]
    assert (snapshot.host, snapshot.port, snapshot.auth_token) == ("127.0.0.1", 13456, "ccm-proxy")
    assert snapshot.failover == FailoverSettings(enabled=True, max_retries=3, backoff_ms=1000)
    assert snapshot.strategy == "round-robin"
    assert snapshot.generation == 7 and snapshot.path.endswith("seed.toml") and not snapshot.demo
    assert snapshot.warnings == ()
    assert [p.dialect for p in snapshot.providers.values()] == ["anthropic", "openai_responses", "gemini"]


def test_the_seeds_trap(tmp_path: Path) -> None:
    """SEED sets ANTHROPIC_API_KEY=ccm-proxy for the client and names the same variable for the provider."""
    snapshot = good("seed", tmp_path, {**ENV, "ANTHROPIC_API_KEY": "ccm-proxy"})
    assert [e.id for e in snapshot.endpoints] == ["openai"]
    (key,) = snapshot.providers["anthropic"].keys
    assert key.secret is None and "own auth_token" in key.problem
    told = str(snapshot.warnings[0])
    assert told.startswith("seed.toml:7 providers.anthropic.api_key_env: ANTHROPIC_API_KEY holds ccm's own")
    assert "CCM_ANTHROPIC_API_KEY" in told and "api_key_file" in told and "api_key_command" in told


def test_the_template_is_the_seeds_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ccm-config.toml"
    shutil.copyfile(ROOT / "templates" / "ccm-config.toml.template", path)
    path.chmod(0o600)
    ours, seed = load.load(path, ENV), good("seed", tmp_path)
    assert ours.endpoints == seed.endpoints and ours.providers == seed.providers
    for name in ("host", "port", "auth_token", "failover", "strategy", "models", "max_in_flight"):
        assert getattr(ours, name) == getattr(seed, name), name


def test_what_the_template_comments_out_is_right_as_well(write: Write) -> None:
    text = (ROOT / "templates" / "ccm-config.toml.template").read_text("utf-8")
    lines = [line.removeprefix("# ") for line in text.split("\n")]
    live = [line for line in lines if line.startswith("[") or " = " in line]
    one_way = [
        line for line in live if not line.startswith(("api_key_file", "api_key_command", "allow_remote"))
    ]
    text = "\n".join(line for line in one_way if "max_in_flight = 256" not in line)
    env = {
        **ENV,
        "OPENROUTER_API_KEY": "a",
        "OPENROUTER_API_KEY_2": "b",
        "WORK_LLM_KEY": "c",
        "GOOGLE_API_KEY": "d",
    }
    path = write(text)
    (path.parent / "models.toml").write_text('[models."our-model"]\nwindow = 32000\n')
    snapshot = load.load(path, env)
    assert {e.id for e in snapshot.endpoints} >= {
        "openrouter",
        "openrouter#2",
        "ollama",
        "work",
        "openai",
        "google",
    }
    assert load.book(snapshot).find("our-model").window == 32000


# ---- every key


def test_every_key_arrives(tmp_path: Path) -> None:
    snapshot = good("everything", tmp_path)
    openai = snapshot.providers["openai"]
    assert (snapshot.host, snapshot.port, snapshot.auth_token) == ("::1", 13456, "a-secret-of-my-own")
    assert set(snapshot.allowed_hosts) == {"127.0.0.1", "localhost", "::1", "[::1]", "box.lan"}
    assert (snapshot.max_in_flight, snapshot.drain_timeout_s, snapshot.log_level) == (64, 5.0, "debug")
    assert snapshot.failover == FailoverSettings(True, 1, 10, 30.0)
    assert snapshot.strategy == "least-busy"
    assert dict(snapshot.models) == {
        "gpt-*": {"openai": "gpt-5.6", "local": "our-model"},
        "fast": "claude-haiku-5-5",
    }
    assert (openai.dialect, openai.base_url) == ("openai_chat", "https://eu.api.openai.com/v1")
    assert (openai.priority, openai.weight, openai.max_in_flight) == (1, 3, 8)
    assert dict(openai.headers) == {"x-team": "a"} and openai.options["proxy"] == "http://127.0.0.1:3128"
    assert openai.quirks == {"keep_system"}
    assert openai.timeouts == Timeouts(1.0, 2.0, 3.5, 4.0, 5.0, 6.0)
    assert list(openai.models) == ["opus", "claude-haiku-*", "default"]
    assert openai.tiers["opus"] == "gpt-5.6"
    ids = {e.id: e for e in snapshot.endpoints}
    assert list(ids) == ["openai", "openai#2", "local", "secret", "aws", "gcp", "az"]
    assert ids["openai#2"].key is not None and ids["openai#2"].key.secret == Secret("sk-other-key", "")
    assert ids["local"].key is None and ids["local"].provider.auth == "none"
    assert ids["local"].provider.base_url == "http://llm.lan:8000"
    secret = ids["secret"].key
    assert secret is not None and (secret.kind, secret.name, secret.secret) == (
        "command",
        "printf k%s ey",
        None,
    )
    aws = ids["aws"].provider
    assert aws.base_url == "https://bedrock-runtime.eu-central-1.amazonaws.com" and aws.auth == "sigv4"
    assert aws.tiers["sonnet"].startswith("eu.anthropic.claude-sonnet")
    gcp = ids["gcp"].provider
    assert gcp.base_url == (
        "https://aiplatform.us.rep.googleapis.com/v1/projects/my-project/locations/us/publishers/google"
    )
    assert gcp.options["vertex"] is True
    az = ids["az"].provider
    assert (az.dialect, az.base_url) == ("openai_chat", "https://myresource.openai.azure.com/openai")
    assert (az.options["api_version"], az.options["deployments"]) == ("2024-10-21", True)
    assert not snapshot.providers["off"].enabled
    assert variables_used(snapshot) == {"KEY", "KEY_2", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert "sk-" not in repr(snapshot)


def test_prefix_paths_of_custom_endpoints_are_kept(tmp_path: Path) -> None:
    snapshot = good("custom_prefix", tmp_path)
    assert {p.dialect: p.base_url for p in snapshot.providers.values()} == {
        "anthropic": "http://127.0.0.1:9/up/p-anthropic",
        "openai_chat": "http://127.0.0.1:9/up/p-openai_chat/v1",
        "openai_responses": "http://127.0.0.1:9/up/p-openai_responses/v1",
        "gemini": "http://127.0.0.1:9/up/p-gemini/v1beta",
        "bedrock": "http://127.0.0.1:9/up/p-bedrock",
    }
    assert {p.dialect: p.auth for p in snapshot.providers.values()} == {
        "anthropic": "x-api-key",
        "openai_chat": "bearer",
        "openai_responses": "bearer",
        "gemini": "x-goog-api-key",
        "bedrock": "bearer",
    }
    assert snapshot.failover == FailoverSettings(False, 0)


def test_absent_sections_mean_the_models_defaults(write: Write) -> None:
    snapshot = load.load(write(MINIMAL), ENV)
    assert snapshot.failover == FailoverSettings() and snapshot.strategy == "priority"
    assert snapshot.providers["openai"].timeouts == Timeouts()
    assert (snapshot.host, snapshot.port) == ("127.0.0.1", 13456)


def test_a_type_by_its_other_name(write: Write) -> None:
    text = '[providers.main]\ntype = "Gemini"\napi_key_env = "KEY"\n[providers.claude]\napi_key_env = "KEY"\n'
    snapshot = load.load(write(text), ENV)
    assert [p.type for p in snapshot.providers.values()] == ["google", "anthropic"]


def test_dialect_and_address_alone_make_a_custom_provider(write: Write) -> None:
    text = '[providers.work]\ndialect = "openai_chat"\nbase_url = "https://llm.example.com"\n'
    provider = load.load(write(text), ENV).providers["work"]
    assert (provider.type, provider.base_url, provider.auth) == (
        "custom",
        "https://llm.example.com/v1",
        "none",
    )


def test_the_same_key_twice_is_one_endpoint(write: Write) -> None:
    text = '[providers.openai]\napi_key_env = ["KEY", "SAME"]\n'
    snapshot = load.load(write(text), {**ENV, "SAME": ENV["KEY"]})
    assert [e.id for e in snapshot.endpoints] == ["openai"]
    assert "SAME holds the same key as KEY" in str(snapshot.warnings[0])


def test_a_keys_number_is_its_place_in_the_list(write: Write) -> None:
    text = '[providers.openai]\napi_key_env = ["NOT_SET", "KEY"]\n'
    snapshot = load.load(write(text), ENV)
    assert [e.id for e in snapshot.endpoints] == ["openai#2"]


def test_key_files_and_commands(write: Write, tmp_path: Path) -> None:
    write("sk-from-file\n", "key")
    text = '[providers.openai]\napi_key_file = "key"\n[providers.groq]\napi_key_file = "~/key"\n'
    snapshot = load.load(write(text), {"HOME": str(tmp_path)})
    assert [e.key.secret for e in snapshot.endpoints if e.key] == [Secret("sk-from-file", "")] * 2


def test_local_servers_need_no_key_and_take_one(write: Write) -> None:
    text = "[providers.ollama]\n[providers.lmstudio]\n"
    snapshot = load.load(write(text), {**ENV, "LM_API_TOKEN": "lm"})
    assert [(e.id, e.provider.auth, e.key is None) for e in snapshot.endpoints] == [
        ("ollama", "none", True),
        ("lmstudio", "bearer", False),
    ]


def test_aws_keys_in_the_environment(write: Write) -> None:
    aws = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "ap-southeast-2"}
    (endpoint,) = load.load(write("[providers.bedrock]\n"), {**ENV, **aws}).endpoints
    assert endpoint.key is None and endpoint.provider.auth == "sigv4"
    assert endpoint.provider.base_url == "https://bedrock-runtime.ap-southeast-2.amazonaws.com"
    assert endpoint.provider.tiers["opus"].startswith("apac.")
    told = refused(lambda: load.load(write("[providers.bedrock]\nregion = 'us-east-1'\n"), ENV))
    assert "AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY" in told[0]


def test_the_azure_resource_may_be_given_as_its_url(write: Write) -> None:
    env = {**ENV, "AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com/"}
    text = '[providers.azure]\napi_key_env = "KEY"\n'
    assert load.load(write(text), env).providers["azure"].base_url == "https://me.openai.azure.com/openai/v1"


@pytest.mark.parametrize("value", ["evil.example/x#", "a.b", "../..", "x y", "https://h@evil.example/"])
def test_an_option_of_the_environment_cannot_change_the_host(write: Write, value: str) -> None:
    text = '[providers.azure]\napi_key_env = "KEY"\n'
    path = write(text)
    try:
        base_url = load.load(path, {**ENV, "AZURE_OPENAI_RESOURCE": value}).providers["azure"].base_url
    except ConfigError as error:
        assert "needs resource" in str(error)
    else:
        assert base_url == "https://evil.openai.azure.com/openai/v1", (
            "one label, always below Azure's own domain"
        )


# ---- the file itself


def test_files_that_are_none(write: Write, tmp_path: Path) -> None:
    assert refused(lambda: load.load(tmp_path / "none.toml", ENV)) == [
        f"{tmp_path}/none.toml can't be read: No such file or directory"
    ]
    assert refused(lambda: load.load(tmp_path, ENV)) == [f"{tmp_path} is a directory, not a file"]
    assert "is empty" in refused(lambda: load.load(write(b""), ENV))[0]
    assert "is empty" in refused(lambda: load.load(write(b" \n\n"), ENV))[0]
    assert refused(lambda: load.load(write(b"[a]\nb = '\xff'\n"), ENV)) == [
        "ccm-config.toml:2 is not UTF-8 text (save it as UTF-8)"
    ]
    assert "longer than 1 MiB" in refused(lambda: load.load(write(b"#" * 1_100_000), ENV))[0]
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a file" in refused(lambda: load.load(tmp_path / "pipe", ENV))[0]
    assert "nested too deeply" in refused(lambda: load.load(write("a = " + "[" * 100_000), ENV))[0]


def test_windows_line_ends_and_byte_order_marks_are_fine(write: Write) -> None:
    text = b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()
    assert [e.id for e in load.load(write(text), ENV).endpoints] == ["openai"]


def test_a_file_that_everybody_can_change_is_refused(write: Write) -> None:
    assert "chmod 600" in refused(lambda: load.load(write(MINIMAL, mode=0o666), ENV))[0]
    assert load.load(write(MINIMAL, mode=0o644), ENV).warnings == ()


def test_a_readable_file_with_a_token_of_its_own_is_worth_a_warning(write: Write) -> None:
    text = '[proxy]\nauth_token = "mine"\n' + MINIMAL
    (warning,) = load.load(write(text, mode=0o644), ENV).warnings
    assert warning.line == 2 and "chmod 600" in warning.fix
    assert load.load(write(text), ENV).warnings == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_is_warned_of_another_users_file(write: Write) -> None:
    path = write(MINIMAL)
    os.chown(path, 65534, 65534)
    assert "belongs to another user" in str(load.load(path, ENV).warnings[0])


# ---- where it is looked for


def test_the_order_of_places(tmp_path: Path, write: Write) -> None:
    env = {"HOME": str(tmp_path)}
    places = [
        ".claude-code-mux/config.toml",
        "config/ccm-config.toml",
        "workspace/config/ccm-config.toml",
    ]
    assert load.find_path(None, env, tmp_path) is None
    for place in places:
        path = write(MINIMAL, place)
        assert load.find_path(None, env, tmp_path) == path
    other = write(MINIMAL, "ws/config/ccm-config.toml")
    assert load.find_path(None, {**env, "WORKSPACE": str(tmp_path / "ws")}, tmp_path) == other
    named, mine = write(MINIMAL, "named.toml"), write(MINIMAL, "mine.toml")
    env["CCM_CONFIG"] = str(named)
    assert load.find_path(None, env, tmp_path) == named
    assert load.find_path(str(mine), env, tmp_path) == mine


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "CCM_CONFIG": str(tmp_path / "gone.toml")}
    assert "($CCM_CONFIG names it)" in refused(lambda: load.find_path(None, env, tmp_path))[0]
    assert "(--config names it)" in refused(lambda: load.find_path("/no/such", env, tmp_path))[0]


# ---- without a file


def test_from_the_environment() -> None:
    env = {
        "HOME": "/nonexistent",
        "GROQ_API_KEY": "gsk",
        "CCM_ANTHROPIC_API_KEY": "sk-ant",
        "ANTHROPIC_API_KEY": "ccm-proxy",
        "GOOGLE_API_KEY": "AIza",
        "GITHUB_TOKEN": "ghp",
        "AWS_ACCESS_KEY_ID": "AKIA",
    }
    snapshot = load.from_environment(env, generation=3)
    assert snapshot is not None
    assert [(e.id, e.provider.priority) for e in snapshot.endpoints] == [
        ("anthropic", 1),
        ("google", 2),
        ("groq", 3),
    ]
    assert snapshot.path == "" and snapshot.generation == 3 and snapshot.strategy == "priority"
    assert load.from_environment({"HOME": "/x", "ANTHROPIC_API_KEY": "ccm-proxy"}) is None
    assert load.from_environment({}) is None


def test_nothing_at_all_says_what_to_do(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "ANTHROPIC_API_KEY": "ccm-proxy"}
    (told,) = refused(lambda: load.read(None, env))
    for word in (
        "config/ccm-config.toml",
        "CCM_ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "ccm-quickstart",
        "--demo",
    ):
        assert word in told


def test_the_demo(tmp_path: Path) -> None:
    urls = [("demo-flaky", "http://127.0.0.1:9/anthropic"), ("demo-steady", "http://127.0.0.1:9/openai/v1")]
    snapshot = load.read(str(tmp_path / "ignored.toml"), ENV, demo_urls=urls)
    assert snapshot.demo
    assert [(e.id, e.provider.dialect, e.provider.base_url, e.provider.auth) for e in snapshot.endpoints] == [
        ("demo-flaky", "anthropic", "http://127.0.0.1:9/anthropic", "none"),
        ("demo-steady", "openai_chat", "http://127.0.0.1:9/openai/v1", "none"),
    ]
    assert [e.provider.priority for e in snapshot.endpoints] == [1, 2]


def test_a_demo_provider_in_a_file_finds_the_demo(write: Write) -> None:
    path = write('[providers.demo]\n[providers.two]\ntype = "demo"\nbase_url = "http://127.0.0.1:1/x"\n')
    snapshot = load.load(path, ENV, demo_url="http://127.0.0.1:7/anthropic")
    assert [e.provider.base_url for e in snapshot.endpoints] == [
        "http://127.0.0.1:7/anthropic",
        "http://127.0.0.1:1/x",
    ]


def test_listen_of_the_command_line_obeys_the_same_rules(write: Write) -> None:
    path = write(MINIMAL)
    snapshot = load.read(str(path), ENV, listen="127.0.0.1:0", generation=2)
    assert (snapshot.host, snapshot.port, snapshot.generation) == ("127.0.0.1", 0, 2)
    assert any(
        "auth_token" in line for line in refused(lambda: load.read(str(path), ENV, listen="0.0.0.0:80"))
    )
    assert "--listen needs a host" in refused(lambda: load.read(str(path), ENV, listen="80"))[0]


def test_all_interfaces_without_names_is_worth_a_warning(write: Write) -> None:
    text = '[proxy]\nlisten = "0.0.0.0:1"\nauth_token = "mine"\nallow_remote = true\n' + MINIMAL
    snapshot = load.load(write(text), ENV)
    assert "allowed_hosts" in str(snapshot.warnings[0]) and "0.0.0.0" not in snapshot.allowed_hosts


# ---- warnings


def warnings_of(path: Path, env: dict[str, str] = ENV) -> list[str]:
    return [str(w) for w in load.load(path, env).warnings]


def test_unmapped_tiers_are_told_once(write: Write) -> None:
    text = '[providers.ollama]\nmodels = { sonnet = "qwen3-coder:30b" }\n'
    (told,) = warnings_of(write(text))
    assert "opus, haiku, fable are not mapped" in told
    assert warnings_of(write('[providers.ollama]\nmodels = { default = "qwen3-coder:30b" }\n')) == []
    assert warnings_of(write('[providers.ollama]\nmodels = { "claude-*" = "qwen3-coder:30b" }\n')) == []


def test_models_that_nobody_knows(write: Write) -> None:
    text = MINIMAL + 'models = { opus = "gtp-5.6", small = "sonar" }\n'
    (unknown,) = warnings_of(write(text))
    assert "gtp-5.6 is not in the catalogue" in unknown and "did you mean gpt-5.6?" in unknown


def test_a_model_whose_providers_are_all_out(write: Write) -> None:
    text = MINIMAL + '[providers.groq]\napi_key_env = "NOT_SET"\n[models]\nfast = { groq = "x" }\n'
    assert any(
        "models.fast: none of its providers is usable (groq)" in line for line in warnings_of(write(text))
    )


def test_the_users_model_facts(write: Write) -> None:
    write('[models."our-model"]\nwindow = 32000\ninput = 0.5\nabilities = []\n', "models.toml")
    text = MINIMAL + 'models = { %s = "our-model" }\n[catalog]\nmodels_file = "models.toml"\n'
    assert "our-model takes no tools" in refused(lambda: load.load(write(text % "opus"), ENV))[0]
    path = write(text % '"gpt-*"')
    assert warnings_of(path) == []
    facts = load.book(load.load(path, ENV)).find("our-model", "openai")
    assert (facts.known, facts.window, facts.price.input) == (True, 32000, 0.5)
    write('[models."our-model"]\nwindwo = 32000\n', "models.toml")
    assert refused(lambda: load.load(path, ENV))[0].startswith(
        "models.toml:2 models.our-model.windwo: unknown key"
    )
