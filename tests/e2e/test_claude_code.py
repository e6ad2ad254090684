"""Claude Code itself, from npm, does a task of several turns through ccm; the upstream is the scripted, strict stub.

The client's script (`claude_e2e.sh` of the shared tools) checks the files it wrote, its calls and its last words; with
E2E_STRICT=1 also that ccm sent the provider no malformed request.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway import REPO, SUFFIX, free_port, provider

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SHORT = {"header_s": 1.0, "first_content_s": 1.0, "first_content_thinking_s": 1.0, "idle_s": 1.0}
OLD = "2.0.76"
ClaudeCode = Callable[[str], Path]


class Run:
    """One run of the client through a ccm of its own. `tables` are TOML with $STUB_URL where the script's stub is."""

    def __init__(self, shared: Path, tmp: Path, cc_dir: Path, version: str, tables: str) -> None:
        self.script = shared / "tools/claude_e2e.sh"
        self.log = tmp / "ccm.log"
        port = free_port()
        self.env = {
            **os.environ,
            "CC_DIR": str(cc_dir),
            "CC_VERSION": version,
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
            "E2E_GATEWAY_CMD": str(tmp / "launch"),
            "E2E_TIMEOUT": "90",
            "E2E_STRICT": "1",
        }
        head = (
            f'[proxy]\nlisten = "127.0.0.1:{port}"\nauth_token = "ccm-proxy"\n[failover]\nbackoff_ms = 50\n'
        )
        (tmp / "config.in").write_text(head + tables)
        home = tmp / "home"
        home.mkdir()
        (tmp / "launch").write_text(
            "#!/bin/bash\nset -eu\numask 077\n"
            f'sed "s#\\$STUB_URL#$STUB_URL#g" "{tmp}/config.in" >"{tmp}/config.toml"\n'
            f'exec env -i PATH="$PATH" HOME="{home}" PYTHONPATH="{REPO}" CCM_TEST_KEY=sk-test-0123456789abcdef '
            f'CCM_SOCKET="{home}/ccm.sock" "{sys.executable}" -m ccm start --config "{tmp}/config.toml" >"{self.log}" 2>&1\n'
        )
        (tmp / "launch").chmod(0o755)

    def check(self, stub_args: str = "--strict", **env: str) -> str:
        """Runs the task; the script's report. AssertionError with both logs when it did not come right."""
        done = subprocess.run(
            ["bash", str(self.script)], env={**self.env, "STUB_ARGS": stub_args, **env},
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        log = self.log.read_text(errors="replace") if self.log.exists() else "(no ccm log)"
        assert done.returncode == 0, f"{done.stderr}\n--- ccm:\n{log[-3000:]}"
        return done.stderr


def one(dialect: str) -> str:
    return provider(f"$STUB_URL{SUFFIX[dialect]}", "up", dialect)


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "openai_responses", "gemini"])
def test_the_newest_client(shared: Path, tmp_path: Path, claude_code: ClaudeCode, dialect: str) -> None:
    told = Run(shared, tmp_path, claude_code("latest"), "latest", one(dialect)).check("--strict")
    assert " 0 retries" in told


@pytest.mark.parametrize(
    ("version", "dialect"),
    [("latest", "openai_chat"), ("latest", "gemini"), (OLD, "anthropic"), (OLD, "openai_responses")],
)
def test_bytes_three_at_a_time(
    shared: Path, tmp_path: Path, claude_code: ClaudeCode, dialect: str, version: str
) -> None:
    told = Run(shared, tmp_path, claude_code(version), version, one(dialect)).check("--strict --chop 3")
    assert " 0 retries" in told


@pytest.mark.parametrize("dialect", ["openai_chat", "gemini"])
def test_with_reasoning(shared: Path, tmp_path: Path, claude_code: ClaudeCode, dialect: str) -> None:
    arguments = "--strict --reasoning" + (" --gemini-signature" if dialect == "gemini" else "")
    Run(shared, tmp_path, claude_code("latest"), "latest", one(dialect)).check(arguments)


@pytest.fixture
def faulty_stub(shared: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """`faulty_stub(fault)`: the URL of a stub of its own that always fails so."""
    running: list[subprocess.Popen[bytes]] = []

    def start(fault: str) -> str:
        port_file = tmp_path / "faulty.port"
        command = [sys.executable, str(shared / "tools/claude_stub.py"), "--port-file", str(port_file)]
        command += ["--fault", fault, "--times", "-1", "--where", "all", "--stall", "30"]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        end = time.monotonic() + 10
        while not port_file.exists():
            assert time.monotonic() < end, "the stub did not start"
            time.sleep(0.05)
        return f"http://127.0.0.1:{port_file.read_text()}"

    yield start
    for process in running:
        process.kill()
        process.wait()


FAULTS = (
    "http:529",
    "http:500",
    "http:429;retry-after=30",
    "http:401",
    "http:402",
    "http:404",
    "http:503",
    "err_first",
    "rst_before",
    "fin_before",
    "stall_before_headers",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_first_provider_is_never_noticed(
    shared: Path, tmp_path: Path, claude_code: ClaudeCode, faulty_stub: Callable[[str], str], fault: str
) -> None:
    tables = provider(faulty_stub(fault), "first", "anthropic", priority=1, timeouts=SHORT)
    tables += provider("$STUB_URL/v1", "second", "openai_chat", priority=2)
    run = Run(shared, tmp_path, claude_code("latest"), "latest", tables)
    told = run.check("--strict")
    assert re.search(r"OK in [\d.]+s: \d+ turns, 4 tool calls, 0 retries", told), told
    assert "first" in run.log.read_text(), "the log tells what the client never saw"


@pytest.mark.parametrize("fault", ["rst_mid", "err_mid", "cut_mid", "stall_mid", "fin_late"])
def test_a_stream_broken_in_the_middle_is_survived(
    shared: Path, tmp_path: Path, claude_code: ClaudeCode, faulty_stub: Callable[[str], str], fault: str
) -> None:
    """The client repeats the turn, and ccm sends that to the other provider (RELIABILITY 38)."""
    tables = provider(faulty_stub(fault), "first", "anthropic", priority=1, timeouts=SHORT)
    tables += provider("$STUB_URL", "second", "anthropic", priority=2)
    Run(shared, tmp_path, claude_code("latest"), "latest", tables).check("--strict")
