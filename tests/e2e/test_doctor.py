"""`ccm doctor` as a process: about a running ccm, a port that somebody else has, and providers that can be reached or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gateway import KEY, Gateway, free_port, provider
from tests.terminal import ccm
from tests.upstream import Upstream


def doctor(gateway: Gateway, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        ccm("doctor", "--json", "--config", str(gateway.config_path), *words), env=gateway.env | env, cwd=gateway.home,
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert KEY not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    assert f"{gateway.home}/" not in done.stdout
    return done.returncode, json.loads(done.stdout)


def levels(report: dict[str, Any], topic: str, *words: str) -> list[str]:
    return [
        f["level"]
        for f in report["findings"]
        if f["topic"] == topic and all(word in f["text"] for word in words)
    ]


def test_a_running_ccm_and_its_providers(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    gateway = fresh(provider(up, "alive", priority=1) + provider(dead, "dead", priority=2))
    code, report = doctor(gateway, ANTHROPIC_BASE_URL=gateway.base_url, ANTHROPIC_AUTH_TOKEN="ccm-proxy")
    assert code == 0, report
    assert levels(report, "gateway", gateway.base_url.removeprefix("http://")) == ["ok"]
    assert levels(report, "claude code", "holds ccm's token") == ["ok"] and not levels(report, "network")
    assert not up.ledger, "without --online nobody is asked"
    code, report = doctor(gateway, "--online")
    assert code == 1 and levels(report, "network", "alive", "answers") == ["ok"]
    assert levels(report, "network", "dead", "nobody listens") == ["problem"]
    (asked,) = [one for one in up.ledger if one.path.startswith("/alive")]
    assert KEY not in repr(asked.headers) and "authorization" not in asked.headers


def test_a_port_that_another_program_has(up: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, provider(up, "a"), proxy={"listen": up.url.removeprefix("http://")})
    code, report = doctor(gateway)
    assert code == 1 and levels(report, "port", "taken by another program") == ["problem"]
    (tmp_path / "ccm.sock").touch()
    gateway.proxy["listen"] = f"127.0.0.1:{gateway.port}"
    gateway.write(provider(up, "a"))
    code, report = doctor(gateway, HTTPS_PROXY="http://127.0.0.1:9")
    assert code == 0 and levels(report, "port", "is free") == ["ok"]
    assert levels(report, "gateway", "left over") == ["note"] and levels(report, "proxy", "directly") == [
        "note"
    ]
