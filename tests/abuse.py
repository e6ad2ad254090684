"""The checker that abuses HTTP servers (http_abuse.py, outside the repository), on every door that ccm has.

`run` does one door; `python -m tests.abuse` all of them, in full, and prints a table. It speaks TCP: the control socket is
reached through a forwarder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.test_control_abuse import Forwarder
from tests.gateway import Gateway, providers
from tests.upstream import Upstream

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "token-for-the-abuse"
MESSAGES = {"model": "claude-sonnet-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
CLOUD = {"anthropic_version": "x", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
VERTEX = "/v1/projects/p/locations/us-east5/publishers/anthropic/models"


@dataclass(frozen=True)
class Door:
    """A path that is asked and one that is posted to; what the good requests carry."""

    name: str
    get: str
    post: str
    body: dict[str, Any]
    socket: bool = False  # the control socket
    skip: str = ""  # what does not apply


DOORS = (
    Door("messages", "/health", "/v1/messages", MESSAGES),
    Door("messages-stream", "/", "/v1/messages?beta=true", {**MESSAGES, "stream": True}),
    Door("count-tokens", "/api/hello", "/v1/messages/count_tokens", MESSAGES),
    Door("chat", "/v1/models", "/v1/chat/completions", MESSAGES),
    Door("responses", "/v1/models/claude-sonnet-4-5", "/v1/responses", {"model": "claude-sonnet-4-5", "input": "hi"}),
    Door("bedrock", "/inference-profiles", "/model/us.anthropic.claude-sonnet-4-5/invoke", CLOUD),
    Door("bedrock-count", "/metrics", "/model/claude-sonnet-4-5/count-tokens",
         {"input": {"invokeModel": {"body": "eyJtYXhfdG9rZW5zIjogMTYsICJtZXNzYWdlcyI6IFt7InJvbGUiOiAidXNlciIsICJjb250ZW50IjogImhpIn1dfQ=="}}}),
    Door("vertex", "/health", f"{VERTEX}/claude-sonnet-4-5:rawPredict", CLOUD),
    Door("vertex-count", "/health", f"{VERTEX}/count-tokens:rawPredict", MESSAGES),
    Door("azure", "/p/a/v1/models", "/openai/deployments/claude-sonnet-4-5/chat/completions", MESSAGES),
    Door("foundry-pinned", "/p/a/health", "/p/a/anthropic/v1/messages", MESSAGES),
    Door("telemetry", "/health", "/api/event_logging/batch", {"events": []}, skip="js-m[os]*,js-content*,js-block*,js-tools*,js-stream*,js-system*,js-max*,js-inf,rf-*key*"),  # no Messages, no token
    Door("control", "/status", "/log-level", {"level": "info"}, socket=True),
)  # fmt: skip


def tool(shared: Path) -> Path:
    """Where the checker is."""
    return shared / "tools" / "http_abuse.py"


def run(script: Path, gateway: Gateway, door: Door, options: Sequence[str] = ()) -> dict[str, Any]:
    """The checker's report on one door of a running ccm. AssertionError where it could not run."""
    forwarder = Forwarder(gateway.env["CCM_SOCKET"]) if door.socket else None
    port = forwarder.port if forwarder else gateway.port
    with tempfile.TemporaryDirectory(prefix="ccm-abuse-") as place:
        report = Path(place) / "report.json"
        command = [
            sys.executable, str(script), "127.0.0.1", str(port), "--path", door.get, "--post", door.post,
            "--body", json.dumps(door.body), "--header", f"x-api-key: {TOKEN}", "--json", str(report), "-q", *options,
        ]  # fmt: skip
        if door.skip:
            command += ["--skip", door.skip]
        command += ["--control", "/auto" if door.socket else "/v1/messages"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if forwarder:
            forwarder.close()
        assert report.exists(), done.stdout + done.stderr
        told: dict[str, Any] = json.loads(report.read_text())
    told["output"] = done.stdout + done.stderr
    return told


def gateway(home: Path, up: Upstream) -> Gateway:
    """A ccm in front of the scripted upstream."""
    return Gateway(home, providers(up, "a"), proxy={"auth_token": TOKEN})


def main() -> int:
    """Every door in full, one after the other. 1 where one has a violation, was down, or was checked in part."""
    parser = argparse.ArgumentParser(prog="scripts/trust", description=main.__doc__)
    parser.add_argument("door", nargs="*", help=f"one of: {', '.join(door.name for door in DOORS)}")
    parser.add_argument("--short", action="store_true", help="without slow clients and load")
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("CCM_SHARED", ROOT.parent / "shared"))
    )
    given = parser.parse_args()
    script = tool(given.shared)
    if not script.exists():
        parser.error(f"there is no {script} (set CCM_SHARED)")
    bad = 0
    home = Path(tempfile.mkdtemp(prefix="ccm-abuse-"))
    try:
        with Upstream() as up:
            ccm = gateway(home, up).start()
            for door in DOORS:
                if given.door and door.name not in given.door:
                    continue
                options = ["--no-slow", "--no-load", "--linger", "0.05"] if given.short else []
                # what the process holds is looked at where it is the process that answers
                options += ["--pid", str(ccm.pid), "--scan", str(ccm.log_path)]
                began = time.monotonic()
                told = run(script, ccm, door, options)
                counts = told["counts"]
                checked = sum(counts.get(kind, 0) for kind in ("ok", "warn", "violation"))
                wrong = counts.get("violation", 0) + counts.get("DOWN", 0)
                print(
                    f"{door.name:16s} {checked:4d} checks in {time.monotonic() - began:4.0f} s: {counts.get('ok', 0)} ok, "
                    f"{counts.get('warn', 0)} warnings, {counts.get('violation', 0)} violations, {counts.get('DOWN', 0)} down, "
                    f"{counts.get('skip', 0)} skipped",
                    flush=True,
                )
                if wrong or counts.get("warn", 0) > 5:
                    bad += 1
                    print(told["output"], flush=True)
            ccm.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
