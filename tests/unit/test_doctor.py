"""`ccm doctor`: each finding from the state that causes it, levels and exit codes, and that no key leaves it."""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from ccm.cli import checkup, clashes, doctor, reach
from ccm.cli.findings import NOTE, OK, PROBLEM, WARNING, Finding
from ccm.cli.reach import Reached
from ccm.control.state import DIRECTORY
from ccm.errors import ControlError
from ccm.model import Provider

URL, TOKEN = "http://127.0.0.1:13456", "ccm-proxy"
KEY = "sk-canary-0123456789abcdef"


def levels(found: Any, *words: str) -> list[str]:
    """The levels of the findings whose text holds all the words."""
    return [f.level for f in found if all(word in f.text for word in words)]


# ---- the environment of Claude Code


@pytest.mark.parametrize(
    ("env", "level", "words"),
    [
        ({}, NOTE, "not set"),
        ({"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_AUTH_TOKEN": TOKEN}, OK, "holds ccm's token"),
        ({"ANTHROPIC_BASE_URL": URL + "/", "ANTHROPIC_API_KEY": TOKEN}, OK, "ANTHROPIC_BASE_URL is"),
        ({"ANTHROPIC_BASE_URL": "http://localhost:13456/p/openai"}, OK, "/p/openai"),
        ({"ANTHROPIC_BASE_URL": URL + "/v1"}, WARNING, "ends in /v1"),
        ({"ANTHROPIC_BASE_URL": URL + "/v1?x=1"}, WARNING, "ends in /v1"),
        ({"ANTHROPIC_BASE_URL": URL + "?x=1"}, PROBLEM, "?"),
        ({"ANTHROPIC_BASE_URL": URL + "/api"}, PROBLEM, "the path /api"),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:8080"}, WARNING, "ccm is at"),
        ({"ANTHROPIC_BASE_URL": "https://127.0.0.1:13456"}, WARNING, "ccm is at"),
        ({"ANTHROPIC_BASE_URL": "http://127.0.0.1:no"}, PROBLEM, "no URL"),
        ({"ANTHROPIC_BASE_URL": URL}, WARNING, "asks to log in"),
        ({"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": KEY}, PROBLEM, "401"),
        ({"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": TOKEN}, WARNING, "sends both"),
        ({"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": TOKEN, "ANTHROPIC_AUTH_TOKEN": TOKEN}, NOTE, "one is enough"),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, PROBLEM, "CLAUDE_CODE_USE_BEDROCK"),
        ({"ANTHROPIC_BASE_URL": URL, "HTTP_PROXY": "http://p:1"}, WARNING, "HTTP_PROXY"),
    ],
)  # fmt: skip
def test_traps_of_the_environment(env: dict[str, str], level: str, words: str) -> None:
    found = clashes.in_environment(env, URL, TOKEN)
    assert level in levels(found, words), found
    assert KEY not in repr(found)
    assert all(f.fix for f in found if f.level in (WARNING, PROBLEM))


@pytest.mark.parametrize(
    "env", [{"CLAUDE_CODE_USE_VERTEX": "0"}, {"HTTP_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1"}]
)
def test_what_is_no_trap(env: dict[str, str]) -> None:
    assert {f.level for f in clashes.in_environment(env, URL, TOKEN)} == {NOTE}


def test_settings_that_overrule(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    values = {
        "ANTHROPIC_BASE_URL": "https://u:pw@x.example/v1",
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_USE_VERTEX": "true",
    }
    (tmp_path / ".claude/settings.json").write_text(json.dumps({"env": values, "apiKeyHelper": "x"}))
    (tmp_path / ".claude/settings.local.json").write_text("[broken")
    files = clashes.settings({}, tmp_path, tmp_path)
    found = clashes.in_settings(files, URL, TOKEN)
    assert sorted(f.level for f in found) == [PROBLEM, PROBLEM, WARNING, WARNING]
    assert levels(found, "x.example") == [PROBLEM] and "pw" not in repr(found) and KEY not in repr(found)
    (tmp_path / ".claude/settings.json").write_text(
        json.dumps({"env": {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_AUTH_TOKEN": TOKEN}})
    )
    assert {f.level for f in clashes.in_settings(clashes.settings({}, tmp_path, tmp_path), URL, TOKEN)} == {
        OK
    }
    elsewhere = clashes.settings({"CLAUDE_CONFIG_DIR": str(tmp_path / "none")}, tmp_path, tmp_path / "p")
    assert elsewhere == []


# ---- this machine


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(
        '[proxy]\nlisten = "127.0.0.1:0"\nauth_token = "own-canary-token-1"\n[providers.openai]\napi_key_env = "MY"\n'
        '[providers.groq]\napi_key_env = "NOT_SET"\n[providers.xai]\nenabled = false\n'
        '[providers.mistral]\napi_key_command = "echo"\n'
    )
    path.chmod(0o600)
    return path


def test_configuration_and_keys(config: Path, tmp_path: Path) -> None:
    env = {"MY": KEY, "HOME": str(tmp_path)}
    snapshot, found = checkup.configuration(str(config), env, tmp_path)
    assert snapshot is not None
    assert (
        levels(found, "4 providers") == [OK]
        and WARNING in levels(found, "NOT_SET")
        and levels(found, "switched off") == [NOTE]
    )
    keys = list(checkup.keys(snapshot, env, False))
    assert levels(keys, "openai: variable MY") == [OK] and levels(keys, "groq: no key") == [WARNING]
    assert levels(keys, "mistral", "not run") == [OK] and levels(keys, "xai") == []
    assert levels(checkup.keys(snapshot, env, True), "mistral") == [PROBLEM]
    assert KEY not in repr(found) + repr(keys)
    config.write_text("[providers.openai]\nprioritty = 1\n[failover]\nmax_retries = 99\n")
    broken, problems = checkup.configuration(str(config), env, tmp_path)
    assert broken is None and [f.level for f in problems] == [PROBLEM, PROBLEM] and ":2" in problems[0].text


def test_a_running_ccm_tells_on_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {
        "version": "0.1.0", "address": "127.0.0.1:1", "uptime_s": 70, "health": "degraded",
        "providers": [{"name": "a", "state": "open", "reason": "5 failures"}, {"name": "b", "state": "cooling"}, {"name": "c", "state": "ready"}],
        "failures": [{"at": 0, "status": 502, "text": "all failed"}],
    }  # fmt: skip
    monkeypatch.setattr(checkup.door, "running", lambda path: status)
    _, found = checkup.gateway("/nowhere/s", None)
    assert [(f.level, f.topic) for f in found] == [
        (PROBLEM, "gateway"), (WARNING, "gateway"), (WARNING, "gateway"), (NOTE, "gateway"), (NOTE, "last errors")
    ]  # fmt: skip
    status |= {"health": "ok", "version": checkup.__version__, "providers": [], "failures": []}
    assert [f.level for f in checkup.gateway("/nowhere/s", None)[1]] == [OK]
    status["config"] = "/elsewhere/c.toml"
    snapshot = argparse.Namespace(path="/here/c.toml")
    assert levels(checkup.gateway("/nowhere/s", snapshot)[1], "/here/c.toml") == [NOTE]  # type: ignore[arg-type]

    def hangs(path: str) -> None:
        raise ControlError("ccm does not answer", 504)

    monkeypatch.setattr(checkup.door, "running", hangs)
    assert [f.level for f in checkup.gateway("/nowhere/s", None)[1]] == [PROBLEM]


def test_a_stale_socket_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.door, "running", lambda path: None)
    (tmp_path / "s").touch()
    assert levels(checkup.gateway(str(tmp_path / "s"), None)[1], "left over") == [NOTE]
    assert levels(checkup.gateway(str(tmp_path / "t"), None)[1], "left over") == []


def test_keys_that_only_the_running_ccm_has_are_no_problem(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[providers.openai]\napi_key_env = "NOT_SET"\n')
    _, found = checkup.configuration(str(config), {"HOME": str(tmp_path)}, tmp_path)
    assert [f.level for f in found] == [PROBLEM]
    assert [f.level for f in checkup.elsewhere(found, {"health": "ok"})] == [WARNING]
    for status in (None, {"health": "degraded"}):
        assert checkup.elsewhere(found, status) == found
    other = [Finding(PROBLEM, "configuration", "unknown key")]
    assert checkup.elsewhere(other, {"health": "ok"}) == other


def test_a_pid_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    file = tmp_path / DIRECTORY / "ccm.pid"
    assert not list(checkup.left_over(tmp_path, None))
    file.write_text(f"{os.getpid()} 1\n")
    assert levels(checkup.left_over(tmp_path, None), "not a ccm") == [NOTE]
    assert not list(checkup.left_over(tmp_path, {"health": "ok"}))
    for text in ("", "x y", "99999999999999999999 1"):
        file.write_text(text)
        assert not list(checkup.left_over(tmp_path, None))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    file.write_text(f"{child} 1\n")
    assert levels(checkup.left_over(tmp_path, {"health": "ok"}), "is gone") == [NOTE]


def test_modes_of_files(tmp_path: Path) -> None:
    folder = tmp_path / DIRECTORY
    (folder / "keys").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    key = folder / "keys" / "openai"
    key.write_text(KEY)
    key.chmod(0o600)
    assert {f.level for f in checkup.files({}, tmp_path, None)} == {OK}
    key.chmod(0o640)
    (folder / "state.json").touch()
    (folder / "state.json").chmod(0o666)
    found = list(checkup.files({}, tmp_path, None))
    assert levels(found, "keys/openai", "read") == [PROBLEM] and levels(found, "state.json", "changed") == [
        WARNING
    ]
    assert [f.fix for f in found if f.level == PROBLEM] == [f"chmod 600 {key}"]


@pytest.mark.parametrize(("free", "level"), [(10**10, OK), (10**8, WARNING), (10**6, PROBLEM)])
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: argparse.Namespace(free=free))
    assert [f.level for f in checkup.files({}, tmp_path, None) if f.topic == "disk"] == [level]


@pytest.mark.parametrize(
    ("hard", "level"), [(256, PROBLEM), (1024, WARNING), (1 << 20, OK), (resource.RLIM_INFINITY, OK)]
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, hard: int, level: str) -> None:
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda what: (256, hard))
    assert checkup.limits().level == level


def test_a_proxy_that_nobody_uses() -> None:
    plain, through = (
        Provider("a", "a", "anthropic", "https://a"),
        Provider("b", "b", "anthropic", "https://b", options={"proxy": "http://p:1"}),
    )
    assert levels(
        checkup.proxies({"HTTPS_PROXY": "http://p:1"}, {"a": plain, "b": through}), "to a directly"
    ) == [NOTE]
    assert not list(checkup.proxies({"HTTPS_PROXY": "http://p:1"}, {"b": through}))


# ---- the network, without it


@pytest.mark.parametrize(
    ("reached", "level", "words"),
    [
        ({"status": 404, "seconds": 0.1}, OK, "answers (404"),
        ({"status": 401, "seconds": 3.0}, WARNING, "answers"),
        ({"status": 503, "seconds": 0.1}, NOTE, "503"),
        ({"status": 407, "seconds": 0.1}, PROBLEM, "credentials"),
        ({"error": "SSLError: CERTIFICATE_VERIFY_FAILED"}, PROBLEM, "not trusted"),
        ({"error": "ConnectionError: NameResolutionError"}, PROBLEM, "can't be resolved"),
        ({"error": "ConnectionError: [Errno 111] Connection refused"}, PROBLEM, "nobody listens"),
        ({"error": "ConnectTimeout: timed out"}, PROBLEM, "no answer in time"),
        ({"error": "Odd: odd"}, PROBLEM, "can't be reached"),
    ],
)
def test_what_reaching_a_provider_means(monkeypatch, reached: dict[str, Any], level: str, words: str) -> None:
    provider = Provider("openai", "openai", "openai_chat", "https://api.example/v1")
    monkeypatch.setattr(reach, "ask_all", lambda providers: [Reached(provider, **reached)])
    (found,) = reach.findings([provider], {})
    assert found.level == level and words in found.text and "api.example" in found.text
    (told,) = reach.findings([provider], {"HTTPS_PROXY": "http://p:1"})
    assert ('proxy = "env"' in told.fix) == bool(reached.get("error"))


@pytest.mark.parametrize(("skew", "level"), [(0.4, OK), (-29, OK), (90, WARNING), (-3600, PROBLEM)])
def test_the_clock(monkeypatch, skew: float, level: str) -> None:
    provider = Provider("a", "a", "anthropic", "https://a")
    answers = [
        Reached(provider, 200, 0.1, "", skew),
        Reached(provider, 200, 0.1, "", skew),
        Reached(provider, 200, 0.1, "", 9999.0),
    ]
    monkeypatch.setattr(reach, "ask_all", lambda providers: answers)
    assert [f.level for f in reach.findings([provider], {}) if f.topic == "clock"] == [level]


# ---- the report


def run(config: Path, env: dict[str, str], *words: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    socket = str(config.parent / "none.sock")
    return doctor.run(parser.parse_args(["--config", str(config), "--socket", socket, *words]), env)


def test_the_report_holds_no_key_and_no_home(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    other = "gsk_other-canary-9876543210"
    env = {
        "MY": KEY,
        "GROQ_API_KEY": other,
        "WORK_TOKEN": "plain-canary-abcdef",
        "HOME": str(tmp_path),
        "PATH": "",
    }
    leak = Finding(
        WARNING,
        "test",
        f"{KEY} {other} plain-canary-abcdef own-canary-token-1 {tmp_path}/x {tmp_path}yz",
        f"{KEY}",
    )
    monkeypatch.setattr(checkup, "limits", lambda: leak)
    for words in ((), ("--json",)):
        assert run(config, env, *words) == 0
        out = capsys.readouterr().out
        assert (
            "canary-0" not in out
            and "canary-9" not in out
            and "canary-a" not in out
            and "canary-t" not in out
        )
        assert f"{tmp_path}/" not in out and "~/x" in out and f"{tmp_path}yz" in out


def test_exit_code_and_json(config: Path, tmp_path: Path, capsys) -> None:
    env = {"MY": KEY, "HOME": str(tmp_path), "PATH": ""}
    assert run(config, env, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True and report["problems"] == 0 and "client" in report["versions"]
    assert {f["level"] for f in report["findings"]} <= {"ok", "note", "warning"}
    config.write_text("[nonsense]\n")
    assert run(config, env) == 1
    out = capsys.readouterr().out
    assert "problem" in out and "next: mend the problems" in out and "\x1b" not in out


def test_the_report_fits_the_screen(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)  # words longer than a line, such as this directory's name, stay whole
    for width in (80, 200):
        monkeypatch.setattr(doctor.render, "screen", lambda w=width: doctor.render.Screen(w, True))
        run(Path(config.name), {"MY": KEY, "HOME": "/h", "PATH": ""})
        out = capsys.readouterr().out
        plain = doctor.re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert plain != out and plain.startswith("ccm ")
        assert all(len(line) <= width or " " not in line.strip() for line in plain.splitlines())


def test_claude_codes_version_without_running_it(tmp_path: Path) -> None:
    package = tmp_path / "node_modules/@anthropic-ai/claude-code"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "@anthropic-ai/claude-code", "version": "2.1.330"}')
    (package / "bin/claude").write_text("exit 1")
    os.symlink(package / "bin/claude", tmp_path / "claude")
    assert doctor._client_version(str(tmp_path / "claude")) == "2.1.330"
    (tmp_path / "2.1.197").write_text("")
    os.symlink(tmp_path / "2.1.197", tmp_path / "native")
    assert doctor._client_version(str(tmp_path / "native")) == "2.1.197"
