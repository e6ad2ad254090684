"""An old official SDK (anthropic 0.125) through ccm: x-api-key and version 2023-06-01, where newer ones send a bearer."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import answers
from tests.gateway import REPO, Gateway, providers
from tests.upstream import Upstream

VERSION = "0.125.0"
SCRIPT = """
import json, sys, anthropic
client = anthropic.Anthropic(api_key="ccm-proxy", base_url=sys.argv[1], max_retries=0, timeout=20)
ask = {"model": "claude-sonnet-5-5", "max_tokens": 300, "messages": [{"role": "user", "content": "hello"}]}
whole = client.messages.create(**ask)
with client.messages.stream(**ask) as stream:
    streamed = stream.get_final_message()
print(json.dumps({
    "version": anthropic.__version__,
    "whole": whole.content[0].text,
    "streamed": streamed.content[0].text,
    "stop": streamed.stop_reason,
    "output": streamed.usage.output_tokens,
    "counted": client.messages.count_tokens(model=ask["model"], messages=ask["messages"]).input_tokens,
    "models": [model.id for model in client.models.list()],
}))
"""


@pytest.fixture(scope="session")
def old_python() -> Path:
    """A python with that SDK, made once below .cache."""
    home = REPO / ".cache" / f"anthropic-{VERSION}"
    home.parent.mkdir(exist_ok=True)
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=60)
            pip = [str(home / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            done = subprocess.run(
                [*pip, f"anthropic=={VERSION}"], capture_output=True, text=True, timeout=110, check=False
            )
            if done.returncode:
                pytest.skip(f"anthropic {VERSION} cannot be installed: {done.stderr[-200:]}")
            (home / "ready").touch()
    return home / "bin/python"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "gemini"])
def test_everything_an_old_client_does(
    old_python: Path, up: Upstream, fresh: Callable[..., Gateway], dialect: str
) -> None:
    gateway = fresh(providers(up, "a", dialect=dialect))
    done = subprocess.run(
        [str(old_python), "-c", SCRIPT, gateway.base_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    assert got["version"] == VERSION
    assert got["whole"] == got["streamed"] == answers.TEXT
    assert (got["stop"], got["output"]) == ("end_turn", len(answers.TEXT) // 4)
    assert got["counted"] > 0
    assert "claude-sonnet-5-5" in got["models"]
