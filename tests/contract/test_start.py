"""`ccm start` as a process: what it answers, how it ends, and the exit codes of a start that cannot be."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Callable

from tests.conftest import CcmProcess

Start = Callable[..., CcmProcess]


def test_the_demo_answers_and_is_steered(ccm_process: Start) -> None:
    ccm = ccm_process(None, "--demo")
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    request = urllib.request.Request(
        f"{ccm.base_url}/v1/messages",
        json.dumps(body).encode(),
        {"x-api-key": "ccm-proxy", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.loads(answer.read())["type"] == "message"
    seen = json.loads(ccm.ctl("requests", "--json").stdout)["requests"]
    assert [row["status"] for row in seen] == [200]
    assert f"on 127.0.0.1:{ccm.port}: ok" in ccm.ctl("status").stdout
    assert "request" in ccm.log()
    assert ccm.ctl("stop").returncode == 0
    assert ccm.process.wait(20) == 0
    assert ccm.ctl("status").returncode == 3


def test_sigterm_ends_it_with_0_and_leaves_no_socket(ccm_process: Start) -> None:
    ccm = ccm_process(None, "--demo")
    assert ccm.stop(signal.SIGTERM) == 0
    assert ccm.ctl("status").returncode == 3


def test_a_port_in_use_is_98(ccm_process: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ccm = ccm_process(None, "--demo", "--listen", address, wait=False)
        assert ccm.process.wait(20) == 98
    assert address in ccm.log() and "--listen" in ccm.log()


def test_two_of_them_do_not_share_a_socket(ccm_process: Start) -> None:
    first = ccm_process(None, "--demo")
    second = ccm_process(None, "--demo", "--socket", first.socket, wait=False)
    assert second.process.wait(20) == 1
    assert "another ccm is running" in second.log()
    assert first.ctl("health").stdout == "ok\n"


def test_a_faulty_configuration_is_2_with_every_fault(ccm_process: Start) -> None:
    ccm = ccm_process("[proxy]\nlisten = 3\n[providers.openai]\nprioritty = 1\n", wait=False)
    assert ccm.process.wait(20) == 2
    assert (
        "ccm-config.toml:2" in ccm.log() and "ccm-config.toml:4" in ccm.log() and "Traceback" not in ccm.log()
    )


def test_kill_9_is_survived_with_the_switch(ccm_process: Start) -> None:
    ccm = ccm_process(None, "--demo")
    assert ccm.ctl("switch", "demo-steady").returncode == 0
    ccm.process.kill()
    ccm.process.wait()
    again = CcmProcess(ccm.directory, None, ["--demo", "--socket", ccm.socket], {})
    try:
        again.wait()
        assert json.loads(ccm.ctl("status", "--json").stdout)["primary"] == "demo-steady"
        assert again.stop() == 0
    finally:
        again.forget()
