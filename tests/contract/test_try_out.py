"""`ccm test` against real sockets: the demo, good and bad providers; verdicts, figures, exit codes, and no keys shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import REPO, provider
from tests.upstream import Seen, Upstream

KEY = "k3y-0123456789abcdefghij-CANARY"
TOOL = {"name": "report_ready", "input": {"word": "ready"}}
GOOD = ("answer", {"text": "", "tool": TOOL})


def run(home: Path, *words: str, config: str = "") -> subprocess.CompletedProcess[str]:
    if config:
        path = home / "ccm-config.toml"
        path.write_text(config)
        path.chmod(0o600)
        words = ("--config", str(path), *words)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPO), "CCM_TEST_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "ccm", "test", *words],
        capture_output=True, text=True, env=env, cwd=home, timeout=60, check=False,
    )  # fmt: skip
    assert "CANARY" not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    return done


def results(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {f"{r['endpoint']}/{r['model']}": r for r in json.loads(done.stdout)["results"]}


def test_the_demo_is_all_good(tmp_path: Path) -> None:
    done = run(tmp_path, "--demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") == 6 and "6 of 6 good, $0.00 spent" in done.stdout
    assert "next: `ccm start`" in done.stdout and "\x1b" not in done.stdout
    for row in results(run(tmp_path, "--demo", "--json")).values():
        assert row["verdict"] == "ok" and row["cost_usd"] == 0.0
        assert row["input_tokens"] > 50 and row["output_tokens"] > 5
        assert 0 < row["first_content_s"] <= row["total_s"]


def test_every_way_to_fail_has_its_verdict(tmp_path: Path) -> None:
    error = {"type": "error", "error": {"type": "authentication_error", "message": f"bad key {KEY}"}}
    gone = {"type": "error", "error": {"type": "not_found_error", "message": "model: m"}}
    start = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "m",
             "content": [], "stop_reason": None, "stop_sequence": None,
             "usage": {"input_tokens": 1, "output_tokens": 1}}}  # fmt: skip
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well"}}
    scripts: dict[str, Any] = {
        "good": GOOD,
        "talker": ("answer", {"text": "I am ready."}),
        "refused": ("status", 401, {}, error),
        "gone": ("status", 404, {}, gone),
        "cut": [("sse", [start, block, delta]), ("cut", "fin")],
    }
    with Upstream() as up:
        for name, script in scripts.items():
            up.always(f"/{name}", script)
        config = "\n".join(provider(up, name, models={"default": "m"}) for name in scripts)
        config += provider("http://127.0.0.1:9", "away", models={"default": "m"})
        done = run(tmp_path, "--json", "--tier", "sonnet", config=config)
        told = {name.partition("/")[0]: row for name, row in results(done).items()}
        assert done.returncode == 1
        assert {name: row["verdict"] for name, row in told.items()} == {
            "good": "ok",
            "talker": "no tool call",
            "refused": "failed",
            "gone": "failed",
            "cut": "broken",
            "away": "failed",
        }
        assert "I am ready." in told["talker"]["error"] and "tool calls" in told["talker"]["hint"]
        assert "check the environment variable CCM_TEST_KEY" in told["refused"]["error"]
        assert "it said: bad key k3y-01" in told["refused"]["error"], "its own words, without the key"
        assert "map another model" in told["gone"]["hint"]
        assert (told["away"]["status"], told["away"]["how"]) == (0, "connect")
        assert (told["refused"]["status"], told["gone"]["status"], told["cut"]["status"]) == (401, 404, 200)
        assert told["good"]["input_tokens"] == 21 and told["good"]["cost_usd"] is None
        # one question each: neither failover nor a second try
        assert {
            name: len(up.seen(f"/{name}/")) for name in ("good", "talker", "refused", "gone")
        } == dict.fromkeys(("good", "talker", "refused", "gone"), 1)
        again = run(tmp_path, "good", "--tier", "sonnet", config=config)
        assert again.returncode == 0 and "1 of 1 good" in again.stdout
        text = run(tmp_path, "--tier", "sonnet", config=config)
        assert text.returncode == 1 and "failed, 401" in text.stdout and "1 of 6 good" in text.stdout


def test_what_arrives_is_what_real_traffic_sends(tmp_path: Path) -> None:
    with Upstream() as up:
        up.always("/chat", GOOD)
        config = provider(up, "chat", "openai_chat", models={"default": "gpt-5.6", "haiku": "gpt-5.6-luna"})
        done = run(tmp_path, "--json", config=config)
        assert done.returncode == 0, done.stdout
        seen = up.seen("/chat/")
        assert sorted(s.json["model"] for s in seen) == ["gpt-5.6", "gpt-5.6-luna"]
        for request in seen:
            assert request.path == "/chat/v1/chat/completions" and request.json["stream"] is True
            assert request.json["tools"][0]["function"]["name"] == TOOL["name"]
            assert request.headers["authorization"] == f"Bearer {KEY}"
            assert request.headers["user-agent"] == "claude-code-mux"
        rows = results(done)
        assert rows["chat/gpt-5.6"]["tiers"] == ["opus", "sonnet", "fable"]
        assert rows["chat/gpt-5.6"]["cost_usd"] == pytest.approx((21 * 4 + 1 * 20) / 1e6, rel=0.9)


def test_all_are_asked_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(6, timeout=15)

    def meet(seen: Seen) -> list[Any]:
        together.wait()
        return [GOOD]

    with Upstream() as up:
        names = ("a", "b", "c")
        for name in names:
            up.always(f"/{name}", meet)
        config = "\n".join(provider(up, name, models={"default": "m", "haiku": "n"}) for name in names)
        done = run(tmp_path, config=config)
        assert done.returncode == 0 and "6 of 6 good" in done.stdout


def test_a_slow_one_is_given_up(tmp_path: Path) -> None:
    with Upstream() as up:
        up.always("/slow", [("stall", 30)])
        done = run(
            tmp_path, "--timeout", "2", "--tier", "opus", config=provider(up, "slow", models={"default": "m"})
        )
        assert done.returncode == 1 and "failed, head timeout" in done.stdout
        assert up.seen("/slow/")[0].answered.wait(5)
        assert up.seen("/slow/")[0].gone_at is not None, "the call was cancelled"


def test_without_anything_to_test_it_is_2(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2 and "ccm-quickstart" in done.stderr
