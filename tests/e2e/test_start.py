"""What a newcomer does first: `scripts/start --demo` in a checkout, the README's curl, and Claude Code's environment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import grammar
from tests.gateway import REPO, free_port
from tests.http1 import Client, Reply, message

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a ccm that `scripts/start --demo` serves."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    log = (home / "start.log").open("wb")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CCM_SOCKET": str(home / "ccm.sock")}
    process = subprocess.Popen(
        [str(REPO / "scripts/start"), "--demo", "--listen", f"127.0.0.1:{port}"],
        cwd=home, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2)
            break
        except OSError:
            said = (home / "start.log").read_text(errors="replace")
            assert process.poll() is None and time.monotonic() < end, said[-3000:]
            time.sleep(0.1)
    yield url
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)
    log.close()


def curls() -> list[str]:
    """The curl commands of the README's code blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", (REPO / "README.md").read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ")
    found = re.findall(r"^\s*(?:\$ )?(curl [^\n]*(?:'\{.*?\}'[^\n]*)?)", lines, re.M | re.S)
    return [c for c in found if "/v1/" in c]


def test_the_readmes_curl_works(demo: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    commands = curls()
    assert commands, "the README shows no curl"
    for command in commands:
        words = shlex.split(re.sub(r"https?://(127\.0\.0\.1|localhost):13456", demo, command).split(" | ")[0])
        done = subprocess.run(
            [*words, "--fail-with-body", "--max-time", "20"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "demo" in done.stdout.lower() and "event: message_stop" in done.stdout, done.stdout


def test_ten_questions_all_answered_although_the_first_provider_fails(demo: str) -> None:
    replies: list[Reply] = []
    with Client(demo, timeout=30) as client:
        for n in range(10):
            reply = client.post(message(f"question {n}"))
            assert reply.status == 200, reply.body
            assert f"question {n}" in reply.text
            grammar.check(reply.events)
            replies.append(reply)
            if reply.headers["x-ccm-provider"] != "demo-flaky":
                break
    assert replies[-1].headers["x-ccm-provider"] == "demo-steady", "failover was to be seen"
    assert "demo-flaky=" in replies[-1].headers["x-ccm-attempts"]


def test_it_streams_word_by_word(demo: str) -> None:
    with Client(demo, timeout=30) as client:
        reply = client.post(message("slowly"))
    first, last = reply.at[0][0], reply.at[-1][0]
    assert last - first > 0.5, "about 20 ms a word"
    assert len(reply.at) > 20


def test_json_count_and_models(demo: str) -> None:
    with Client(demo, timeout=30) as client:
        assert "demo" in client.post(message("x", stream=False)).text
        counted = client.post(message("x" * 4000), "/v1/messages/count_tokens").json()["input_tokens"]
        assert 500 < counted < 3000
        assert client.call("GET", "/v1/models").json()["data"]


def test_the_demo_needs_no_file_and_leaves_none_in_the_checkout(demo: str) -> None:
    done = subprocess.run(["git", "status", "--short"], cwd=REPO, capture_output=True, text=True, check=False)
    strays = [
        line
        for line in done.stdout.split("\n")
        if re.search(r"ccm-config\.toml$|\.sock$|\.pid$|\.sqlite", line)
    ]
    assert strays == []


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    port = free_port()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CCM_SOCKET": str(tmp_path / "ccm.sock")}
    process = subprocess.Popen(
        [str(REPO / "scripts/start"), "--demo", "--listen", f"127.0.0.1:{port}"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) in (0, 130)
        assert b"Traceback" not in (process.stdout.read() if process.stdout else b"")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
