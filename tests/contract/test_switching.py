"""`ccmctl switch`: the next request moves, the running one does not; and what ccmctl says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Client, message, post
from tests.upstream import Upstream


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    gw = shared_gateway("switch", providers(up, "alpha", "beta", "gamma"))
    up.reset()
    gw.ctl("switch", "--auto", check=True)
    return gw


def provider_of(gateway: Gateway) -> str:
    return post(gateway.base_url, message()).headers["x-ccm-provider"]


def test_the_next_request_moves(gateway: Gateway) -> None:
    assert provider_of(gateway) == "alpha"
    told = gateway.ctl("switch", "beta", check=True)
    assert "beta" in told.stdout
    assert [provider_of(gateway) for _ in range(3)] == ["beta"] * 3
    gateway.ctl("switch", "--auto", check=True)
    assert provider_of(gateway) == "alpha"


def test_a_running_stream_stays(up: Upstream, gateway: Gateway) -> None:
    events = answers.events("anthropic", "from alpha, to the end")
    gate = threading.Event()
    up.script("/alpha", [("sse", events[:5]), ("gate", gate), ("sse", events[5:])])
    with Client(gateway.base_url) as client:
        client.send("POST", "/v1/messages", message())
        reply = client.begin()
        gateway.ctl("switch", "gamma", check=True)
        assert provider_of(gateway) == "gamma"
        gate.set()
        for _ in client.pieces(reply, 0):
            pass
    assert reply.headers["x-ccm-provider"] == "alpha"
    assert reply.text == "from alpha, to the end"
    grammar.check(reply.events)


def test_a_switch_still_fails_over(up: Upstream, gateway: Gateway) -> None:
    gateway.ctl("switch", "beta", check=True)
    up.always("/beta", ("status", 500, {}, answers.error("anthropic", 500, "boom")))
    assert provider_of(gateway) == "alpha"
    gateway.reset()


def test_status_names_the_switch(gateway: Gateway) -> None:
    gateway.ctl("switch", "gamma", check=True)
    assert "gamma" in gateway.ctl("status", check=True).stdout
    value = json.loads(gateway.ctl("status", "--json", check=True).stdout)
    assert "gamma" in json.dumps(value)


def test_an_unknown_name_is_refused_with_the_list(gateway: Gateway) -> None:
    done = gateway.ctl("switch", "nobody")
    assert done.returncode not in (0, 3)
    said = done.stdout + done.stderr
    assert "nobody" in said
    assert all(name in said for name in ("alpha", "beta", "gamma"))
    assert "Traceback" not in said
    assert provider_of(gateway) == "alpha", "nothing changed"


def test_a_near_miss_is_pointed_out(gateway: Gateway) -> None:
    assert "beta" in gateway.ctl("switch", "betta").stderr


def test_a_switch_survives_a_restart(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    gw = fresh(providers(up, "alpha", "beta"))
    gw.ctl("switch", "beta", check=True)
    assert gw.stop() == 0
    gw.start()
    assert provider_of(gw) == "beta"
    gw.ctl("switch", "--auto", check=True)
    gw.stop()
    gw.start()
    assert provider_of(gw) == "alpha"


def test_without_a_running_ccm_it_is_exit_3(
    up: Upstream, tmp_path: object, fresh: Callable[..., Gateway]
) -> None:
    gw = fresh(providers(up, "alpha"))
    gw.stop()
    for command in (("status",), ("switch", "alpha"), ("providers",), ("metrics",)):
        done = gw.ctl(*command)
        assert done.returncode == 3, (command, done.stdout, done.stderr)
        assert "ccm start" in done.stderr, "what to do"
        assert "Traceback" not in done.stderr


def test_the_commands_of_the_readme(gateway: Gateway) -> None:
    assert provider_of(gateway) == "alpha"
    for command in ("status", "providers", "metrics"):
        done = gateway.ctl(command, check=True)
        assert "alpha" in done.stdout, command


def test_ccmctl_is_quick(gateway: Gateway) -> None:
    """Under 200 ms on a quiet machine; the best of three, less a bare interpreter's start, is asked for here."""
    bare, full = [], []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True, env=gateway.env)
        bare.append(time.monotonic() - began)
        began = time.monotonic()
        gateway.ctl("status", check=True)
        full.append(time.monotonic() - began)
    assert min(full) - min(bare) < 0.35, (bare, full)


def test_version(gateway: Gateway) -> None:
    import re

    done = subprocess.run(
        [sys.executable, "-m", "ccm", "--version"],
        capture_output=True,
        text=True,
        env=gateway.env,
        check=True,
    )
    assert re.fullmatch(r"ccm \d+\.\d+\.\d+\n", done.stdout)
