"""ccmctl in a real terminal (tmux, 80 and 200 columns), in a pipe, and with NO_COLOR: what people see, as text."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, provider
from tests.http1 import message, post
from tests.upstream import Upstream

CTL = [sys.executable, "-m", "ccm.cli.ctl"]


class Terminal:
    """A tmux of its own with one window of so many columns."""

    def __init__(self, directory: Path, env: dict[str, str], columns: int, rows: int = 24) -> None:
        self.env = {**env, "TERM": "xterm-256color", "SHELL": "/bin/sh", "ENV": "", "PS1": "$ "}
        self._socket = str(directory / f"tmux-{columns}")
        self.columns, self.rows = columns, rows
        self._commands = 0
        self._tmux("-f", os.devnull, "new-session", "-d", "-x", str(columns), "-y", str(rows), "/bin/sh")
        self._tmux("set", "-g", "status", "off")
        self.resize(columns, rows)

    def _tmux(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *args],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return done.stdout

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def key(self, name: str) -> None:
        self._tmux("send-keys", name)

    def run(self, *args: str, env: str = "") -> str:
        """The screen after `ccmctl <args>`."""
        self._commands += 1  # what the last one left on the screen is not this one's end
        self.type(f"clear; {env} {shlex.join([*CTL, *args])}; echo DONE-{self._commands}-$?")
        return self.wait(f"DONE-{self._commands}-0")

    def screen(self, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def wait(self, text: str, seconds: float = 10.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen = self.screen()
            if any(line.startswith(text) for line in seen.split("\n")) or (
                text in seen and "DONE" not in text
            ):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} on the screen:\n{self.screen()}")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def gateway(up: Upstream, fresh: Callable[..., Gateway]) -> Gateway:
    tables = [
        provider(up, name, priority=n)
        for n, name in enumerate(("alpha", "beta", "a-provider-with-a-long-name"), 1)
    ]
    missing = provider(up, "keyless", api_key_env="CCM_NO_SUCH_KEY", priority=9)
    gw = fresh("\n".join([*tables, missing]))
    up.script(
        "/alpha", *[("status", 429, {"retry-after": "50"}, answers.error("anthropic", 429, "too much of it"))]
    )
    for n in range(3):
        assert post(gw.base_url, message(f"question {n}")).status == 200
    return gw


@pytest.fixture
def terminal(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[int], Terminal]]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened: list[Terminal] = []

    def open_one(columns: int) -> Terminal:
        opened.append(Terminal(tmp_path, gateway.env, columns))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def fits(screen: str, columns: int) -> None:
    assert max(len(line) for line in screen.split("\n")) <= columns


@pytest.mark.parametrize("columns", [80, 200])
def test_status_top_explain_and_requests(
    gateway: Gateway, terminal: Callable[[int], Terminal], columns: int
) -> None:
    window = terminal(columns)
    seen = window.run("status")
    fits(seen, columns)
    assert (
        f"ccm {json.loads(gateway.ctl('version', '--json').stdout)['ccm']} on 127.0.0.1:{gateway.port}: ok"
        in seen
    )
    assert (
        "primary    none chosen, strategy priority" in seen
        and "lately     3 in 15m: 100% answered well" in seen
    )
    rows = {line.split()[0]: line for line in seen.split("\n") if line.startswith("  ") and line.strip()}
    assert "cooling" in rows["alpha"] and "no key" in rows["keyless"] and "ready" in rows["beta"]
    assert "too much of it" in seen and "again in" in seen and "CCM_NO_SUCH_KEY is not set" in seen
    assert ("CCM_TEST_KEY" in seen) == (columns == 200)  # where the key comes from: only where there is room
    assert "sk-upstream" not in seen
    assert len(seen.rstrip().split("\n")) <= 24 and "PROVIDER" in seen  # one screen

    seen = window.run("explain", "last")
    fits(seen, columns)
    assert "decided" in seen and "in the end  answered by beta/" in seen and "200 complete" in seen
    assert (
        "  1.        beta/" in seen and "  3.        alpha/" in seen
    )  # it rests: asked only where nobody else can

    seen = window.run("requests")
    fits(seen, columns)
    assert "alpha 429 > beta 200" in seen and ("ERROR" in seen) == (columns == 200)

    window.type(shlex.join([*CTL, "top", "--interval", "0.3"]))
    seen = window.wait("q ends")
    fits(seen, columns)
    assert "requests/min, 100% well" in seen and "PROVIDER" in seen and "cooling" in seen
    assert post(gateway.base_url, message()).status == 200
    window.wait("last 1m: 4 requests/min")
    other = 200 if columns == 80 else 80
    window.resize(other, 30)
    window.key("Space")
    seen = window.wait("q ends")
    fits(seen, other)
    assert [line for line in seen.rstrip().split("\n") if "q ends" in line] == [seen.rstrip().split("\n")[-1]]
    window.key("q")
    window.type("clear; echo BACK")
    assert "q ends" not in window.wait("BACK")


def test_colours_only_where_they_are_wanted(gateway: Gateway, terminal: Callable[[int], Terminal]) -> None:
    window = terminal(80)
    window.run("status")
    assert "\x1b[33mcooling" in window.screen(colours=True)
    window.run("status", env="NO_COLOR=1")
    assert "cooling" in window.screen() and "\x1b[3" not in window.screen(colours=True)
    plain = gateway.ctl("status").stdout
    assert "\x1b" not in plain and "again in" in plain and "too much of it" in plain
    window.type("clear; NO_COLOR=1 " + shlex.join([*CTL, "top"]))
    window.wait("q ends")
    assert "\x1b[3" not in window.screen(colours=True)
    window.key("q")


def test_a_dumb_terminal_gets_blocks(gateway: Gateway, terminal: Callable[[int], Terminal]) -> None:
    seen = terminal(80).run("top", "--count", "1", env="TERM=dumb")
    assert "PROVIDER" in seen and "q ends" not in seen


def stream(gateway: Gateway, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CTL, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=gateway.env,
        cwd=gateway.home,
    )


def test_requests_are_followed_in_a_pipe(gateway: Gateway) -> None:
    with stream(gateway, "requests", "-f", "--json") as child:
        assert child.stdout is not None
        seen = [json.loads(child.stdout.readline())["id"] for _ in range(3)]
        sent = [post(gateway.base_url, message()).headers["request-id"] for _ in range(20)]
        seen += [json.loads(child.stdout.readline())["id"] for _ in range(20)]
        child.terminate()
    assert seen[3:] == sent and len(set(seen)) == 23


def test_watch_in_a_pipe_is_block_after_block(gateway: Gateway) -> None:
    with stream(gateway, "health", "--watch", "0.1") as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(5)] == ["ok\n", "\n", "ok\n", "\n", "ok\n"]
        child.terminate()


def dry_run(gateway: Gateway, body: Any, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CTL, "explain", "--dry-run", *args],
        input=json.dumps(body), capture_output=True, text=True, env=gateway.env, timeout=20, check=False,
    )  # fmt: skip


def test_a_dry_run_tells_what_would_happen_and_sends_nothing(up: Upstream, gateway: Gateway) -> None:
    before = len(up.ledger)
    big = {**message("x"), "system": "y" * 2_000_000}
    done = dry_run(gateway, big)
    assert done.returncode == 0 and done.stdout.startswith("it would go to beta/"), done.stderr
    assert "about 500k tokens" in done.stdout and "cooling for" in done.stdout
    assert len(up.ledger) == before
    asked = json.loads(
        dry_run(gateway, message("x"), "--json", "--header", "x-claude-code-session-id:abc-1").stdout
    )
    assert asked["session"] == "abc-1" and asked["order"][0].startswith("beta/")
    refused = dry_run(gateway, {"model": "m"})
    assert refused.stdout.startswith("it would be refused")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_the_same_paths(gateway: Gateway, tmp_path: Path) -> None:
    def curl(path: str, *args: str) -> Any:
        command = [
            "curl",
            "-sS",
            "--max-time",
            "5",
            "--unix-socket",
            gateway.env["CCM_SOCKET"],
            f"http://ccm{path}",
            *args,
        ]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    request = tmp_path / "request.json"
    request.write_text(json.dumps(message("x" * 100_000)))
    assert curl("/explain", "-d", f"@{request}")["order"][0].startswith("beta/")
    assert curl("/explain")["ending"] == "complete" and curl("/requests?limit=1")["requests"]
    assert curl("/models?name=claude-sonnet-5-5")["names"][0]["goes_to"].startswith("beta/")
    assert curl("/config")["generation"] == 1 and "window" in curl("/top")
    assert curl("/drill", "-d", '{"name": "beta", "fault": "529"}')["drill"]["on"]
    assert curl("/drill", "-d", '{"off": true}')["ended"][0]["provider"] == "beta"
