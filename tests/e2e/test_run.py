"""`ccm run`: its own ccm or the running one, the client's environment, signals and exit status, and that nothing stays."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway import Gateway, providers
from tests.terminal import CTRL_C, Terminal, ccm, surroundings
from tests.upstream import Upstream

# A client that asks one question and says what it found.
CLIENT = f"""#!{sys.executable}
import json, os, sys, urllib.request
url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
headers = dict(line.split(": ") for line in os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines())
headers |= {{"authorization": "Bearer " + os.environ["ANTHROPIC_AUTH_TOKEN"], "content-type": "application/json"}}
body = {{"model": os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-5-5"), "max_tokens": 9}}
body["messages"] = [{{"role": "user", "content": "hi"}}]
with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=10) as answer:
    told = {{"by": answer.headers["x-ccm-provider"], "text": json.load(answer)["content"][0]["text"]}}
print(json.dumps(told | {{"args": sys.argv, "env": dict(os.environ)}}))
sys.exit(7)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "h"
    (made / "bin").mkdir(parents=True)
    (made / "tmp").mkdir()
    return made


def install(home: Path, text: str, name: str = "claude") -> Path:
    path = home / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def env_of(home: Path, **more: str) -> dict[str, str]:
    found = surroundings(home, TMPDIR=str(home / "tmp"), **more)
    return found | {"PATH": f"{home / 'bin'}:{found['PATH']}"}


def run(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ccm("run", *words), env=env_of(home, **env), cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


def test_its_own_ccm_for_as_long_as_the_client_runs(home: Path) -> None:
    install(home, CLIENT)
    (home / "runpy.py").write_text("raise SystemExit('a file of this directory was taken for a module')")
    done = run(home, "--demo", "--", "-p", "--model", "x", "--", "y", ANTHROPIC_API_KEY="sk-real")
    assert done.returncode == 7, done.stderr
    told = json.loads(done.stdout)
    assert told["args"][1:] == ["-p", "--model", "x", "--", "y"] and told["by"].startswith("demo-")
    assert told["env"]["ANTHROPIC_CUSTOM_HEADERS"] == "x-ccm-project: h"
    assert "ANTHROPIC_API_KEY" not in told["env"]
    assert list((home / "tmp").iterdir()) == [] and done.stderr == ""
    port = int(told["env"]["ANTHROPIC_BASE_URL"].rpartition(":")[2])
    assert (
        subprocess.run(
            ccm("health", "--port", str(port)), env=env_of(home), capture_output=True, check=False
        ).returncode
        == 1
    )


def test_the_running_one_is_used_and_can_be_pinned(
    home: Path, up: Upstream, fresh: Callable[..., Gateway]
) -> None:
    gateway = fresh(providers(up, "a", "b"), proxy={"auth_token": "of-this-test"})
    install(home, CLIENT)
    env = {"CCM_SOCKET": gateway.env["CCM_SOCKET"], "CCM_TEST_KEY": gateway.env["CCM_TEST_KEY"]}
    for words, by, model in (
        ([], "a", "claude-sonnet-5-5"),
        (["--provider", "b"], "b", "claude-sonnet-5-5"),
        (["--model", "b/some-model"], "b", "some-model"),
    ):
        done = run(home, *words, **env)
        assert done.returncode == 7, done.stderr
        told = json.loads(done.stdout)
        assert told["by"] == by and up.seen(f"/{by}")[-1].json["model"] == model
        assert told["env"]["ANTHROPIC_BASE_URL"].startswith(gateway.base_url)
        assert told["env"]["ANTHROPIC_AUTH_TOKEN"] == "of-this-test"
    wrong = run(home, "--provider", "nobody", **env)
    assert wrong.returncode == 2 and "usable: a, b" in wrong.stderr and wrong.stdout == ""
    for where in (["health"], ["health", "--url", gateway.base_url]):
        word = subprocess.run(
            ccm(*where), env=env_of(home, **env), capture_output=True, text=True, check=False
        )
        assert (word.returncode, word.stdout) == (0, "ok\n")


def gateway_below(pid: int) -> int:
    """The process id of the ccm that a `ccm run` started."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"lifeline" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no ccm was started")


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


WAITING = "#!/bin/sh\ntrap 'echo got TERM; exit 5' TERM\ntrap 'echo got INT' INT\necho ready\ni=0; while [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 5), (signal.SIGKILL, -9)])
def test_signals_go_to_the_client_and_no_gateway_stays(home: Path, sign: signal.Signals, status: int) -> None:
    install(home, WAITING)
    process = subprocess.Popen(
        ccm("run", "--demo"), env=env_of(home), cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        below = gateway_below(process.pid)
        process.send_signal(sign)
        assert process.wait(15) == status
        assert gone(below), "the gateway outlived its starter"
        if sign == signal.SIGTERM:
            assert process.stdout.read() == "got TERM\n" and list((home / "tmp").iterdir()) == []
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_ctrl_c_is_the_clients(home: Path) -> None:
    install(home, WAITING + "exit 3\n")
    terminal = Terminal(ccm("run", "--demo"), env_of(home), home)
    terminal.wait_for("ready")
    terminal.type(CTRL_C)
    terminal.wait_for("got INT")
    below = gateway_below(terminal.pid)
    assert not gone(below, 0.2), "Ctrl-C reached the gateway"
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 5 and gone(below)


def test_a_client_that_a_signal_ends(home: Path) -> None:
    install(home, "#!/bin/sh\nkill -9 $$\n")
    assert run(home, "--demo").returncode == 137


def test_what_cannot_be_run(home: Path) -> None:
    missing = subprocess.run(
        ccm("run", "--demo"),
        env=env_of(home) | {"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 127 and "npm install -g @anthropic-ai/claude-code" in missing.stderr
    other = run(home, "--demo", "--command", "no-such-client")
    assert other.returncode == 127 and "no-such-client" in other.stderr
    broken = install(home, "#!/no/such/interpreter\n")
    assert run(home, "--demo").returncode in (126, 127)
    broken.chmod(stat.S_IRUSR)
    config = home / "c.toml"
    config.write_text('[providers.openai]\nprioritty = 1\napi_key_env = "X"\n')
    config.chmod(0o600)
    install(home, CLIENT, "other")
    refused = run(home, "--config", str(config), "--command", "other")
    assert refused.returncode == 2 and ":2" in refused.stderr and "priority" in refused.stderr
    words = run(home, "-p", "hi")
    assert words.returncode == 2 and "ccm run -- -p" in words.stderr


def test_settings_that_lead_past_ccm_are_told_at_the_start(home: Path) -> None:
    (home / ".claude").mkdir()
    (home / ".claude/settings.json").write_text('{"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:1"}}')
    install(home, "#!/bin/sh\n")
    done = run(home, "--demo")
    assert done.returncode == 0 and "settings.json sets ANTHROPIC_BASE_URL" in done.stderr


@pytest.mark.slow
def test_the_real_claude_code(home: Path, claude_code: Callable[[str], Path]) -> None:
    os.symlink(claude_code("latest") / "node_modules/.bin/claude", home / "bin/claude")
    done = run(home, "--demo", "--", "-p", "say hello", "--output-format", "json", IS_SANDBOX="1")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["is_error"] is False and "demo" in told["result"].lower()
    assert list((home / "tmp").glob("ccm-run-*")) == []
