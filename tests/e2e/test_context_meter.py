"""Claude Code's context meter and auto-compaction through a provider of another API: the client counts what the
provider said, and compacts when that nears the window (R44)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, provider
from tests.upstream import Seen, Step, Upstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
ClaudeCode = Callable[[str], Path]
WINDOW = 128_000
COMPACT = "Respond with TEXT ONLY"
SUMMARY = "The user wants two words said; both were said."
# What the provider says each answer took: prompt tokens, cached ones among them, completion tokens.
TURNS = ((1_000, 400, 20), (120_000, 100_000, 30))
COMPACTED = (3_000, 0, 40)
LAST = (2_000, 1_500, 10)


class Provider:
    """Chat Completions with a script: two tool calls whose usage grows to the window, a summary when asked for one,
    then the last words."""

    def __init__(self, turns: tuple[tuple[int, int, int], ...]) -> None:
        self._script = turns
        self.last: Any = None
        self.compactions: list[Any] = []
        self.turns = 0
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> list[Step]:
        last = json.dumps(seen.json["messages"][-1]["content"])
        with self._lock:
            if COMPACT in last:
                self.compactions.append(seen.json)
                return self._answer(SUMMARY, None, COMPACTED)
            self.turns += 1
            turn, self.last = self.turns, seen.json
        if turn <= len(self._script):
            call = {"name": "Bash", "input": {"command": f"echo word-{turn}", "description": "Says a word"}}
            return self._answer("", call, self._script[turn - 1])
        return self._answer("METER-OK", None, LAST)

    def _answer(self, text: str, tool: dict[str, Any] | None, usage: tuple[int, int, int]) -> list[Step]:
        prompt, cached, completion = usage
        told = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        events = answers.events("openai_chat", text, tool)
        for event in events:
            if isinstance(event, dict) and "usage" in event:
                event["usage"] = told
        return [("sse", events)]


def run(client: Path, gateway: Gateway, work: Path, **env: str) -> list[dict[str, Any]]:
    """One headless run of the client; everything it told as stream-json."""
    work.mkdir()
    home = work / "home"
    home.mkdir()
    command = [
        str(client / "node_modules/.bin/claude"), "-p", "Say two words with Bash, then stop.",
        "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash",
    ]  # fmt: skip
    if os.getuid() == 0 and (setpriv := shutil.which("setpriv")):  # the client refuses some things to root
        for path in (work, home):
            os.chown(path, 65534, 65534)
        command = [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", *command]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, cwd=work,
        env={
            "PATH": os.environ["PATH"], "HOME": str(home), "SHELL": "/bin/bash", "TERM": "dumb", "LANG": "C.UTF-8",
            "ANTHROPIC_BASE_URL": gateway.base_url, "ANTHROPIC_API_KEY": "ccm-proxy", "ANTHROPIC_MODEL": "gpt-5.2",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1", **env,
        },
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout[-2000:]}\n{gateway.log()[-2000:]}"
    return told


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that the client may enter as another user; pytest's own are closed to it."""
    with tempfile.TemporaryDirectory(prefix="ccm-meter-") as name:
        os.chmod(name, 0o755)
        yield Path(name) / "w"


def total(*usages: tuple[int, int, int]) -> tuple[int, int, int]:
    """(uncached input, cache reads, output), as Anthropic counts them, of what Chat Completions said."""
    prompt, cached, out = (sum(column) for column in zip(*usages, strict=True))
    return prompt - cached, cached, out


@pytest.mark.parametrize("full", [True, False], ids=["near the window", "far from it"])
def test_the_client_counts_what_the_provider_said_and_compacts(
    up: Upstream, fresh: Callable[..., Gateway], claude_code: ClaudeCode, work: Path, full: bool
) -> None:
    client = claude_code("latest")
    turns = TURNS if full else (TURNS[0], (20_000, 10_000, 30))
    chat = Provider(turns)
    up.always("/chat", chat)
    gateway = fresh(provider(up, "chat", "openai_chat"))
    told = run(client, gateway, work, CLAUDE_CODE_MAX_CONTEXT_TOKENS=str(WINDOW))

    (result,) = [event for event in told if event.get("type") == "result"]
    assert result["result"] == "METER-OK" and chat.turns == 3
    seen = result["usage"]
    counted = (seen["input_tokens"], seen["cache_read_input_tokens"], seen["output_tokens"])
    assert counted == total(*turns, LAST)
    (model,) = result["modelUsage"].values()
    assert model["contextWindow"] == WINDOW
    every = (*turns, LAST, *[COMPACTED] * len(chat.compactions))
    assert (model["inputTokens"], model["cacheReadInputTokens"], model["outputTokens"]) == total(*every)
    starts = [event["message"]["usage"] for event in told if event.get("type") == "assistant"]
    assert starts and all(usage["input_tokens"] > 1000 for usage in starts), (
        "the meter begins with an estimate"
    )

    compacted = [event for event in told if event.get("subtype") == "compact_boundary"]
    if not full:
        assert not compacted and not chat.compactions
        return
    (boundary,) = [event["compact_metadata"] for event in compacted]
    prompt, _, completion = turns[-1]
    assert boundary["trigger"] == "auto"
    assert prompt + completion <= boundary["pre_tokens"] < prompt + completion + 1000
    assert chat.compactions, "the provider is asked for the summary"
    assert SUMMARY in json.dumps(chat.last["messages"]), (
        "and what it said is what the conversation goes on with"
    )
