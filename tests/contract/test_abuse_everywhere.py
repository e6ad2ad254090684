"""The doors under the checker that abuses HTTP servers, in short: no slow clients, no load. `scripts/trust` does all of
them in full. The control socket has a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import abuse
from tests.gateway import Gateway, providers
from tests.upstream import Upstream

SHORT = ["--no-slow", "--no-load", "--linger", "0.02", "--timeout", "1", "--budget", "60"]
DOORS = {door.name: door for door in abuse.DOORS}


@pytest.mark.parametrize("name", ["messages", pytest.param("bedrock-count", marks=pytest.mark.slow)])
def test_no_violation(name: str, shared: Path, up: Upstream, shared_gateway: Callable[..., Gateway]) -> None:
    script = abuse.tool(shared)
    if not script.exists():
        pytest.skip(f"there is no {script}")
    gateway = shared_gateway("abuse", providers(up, "a"), proxy={"auth_token": abuse.TOKEN})
    told: dict[str, Any] = abuse.run(script, gateway, DOORS[name], [*SHORT, "--scan", str(gateway.log_path)])
    counts = told["counts"]
    assert not counts.get("violation") and not counts.get("DOWN"), told["output"]
    assert counts["ok"] > 250 and counts.get("warn", 0) <= 5, told["output"]
