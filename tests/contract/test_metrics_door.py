"""GET /metrics at the main port: who gets it, and that the official parser takes it, whatever strangers named."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ccm.cli import statusline
from tests.gateway import Gateway, provider
from tests.upstream import Upstream

HOSTILE = 'evil"\n\\model{a="b"}\u2028 漢'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, up: Upstream) -> Iterator[Gateway]:
    found = Gateway(
        tmp_path_factory.mktemp("ccm"), provider(up, "one") + provider(up, "two", "openai_chat")
    ).start()
    up.always("/one", ("answer",))
    up.always("/two", ("answer",))
    yield found
    assert found.stop() == 0


def ask(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers, data


def send(gateway: Gateway, model: str, stream: bool = False) -> None:
    body = {
        "model": model,
        "max_tokens": 5,
        "stream": stream,
        "messages": [{"role": "user", "content": "hi"}],
    }
    headers = {"content-type": "application/json", "x-api-key": "ccm-proxy"}
    ask(gateway, "POST", "/v1/messages", body, **headers)


def test_the_token_is_asked_for(gateway: Gateway) -> None:
    assert ask(gateway, "GET", "/metrics")[0] == 401
    assert ask(gateway, "GET", "/metrics", **{"x-api-key": "wrong"})[0] == 401
    assert (
        ask(
            gateway, "POST", "/metrics", {}, **{"x-api-key": "ccm-proxy", "content-type": "application/json"}
        )[0]
        == 405
    )
    assert ask(gateway, "GET", "/metrics", authorization="Bearer ccm-proxy", host="evil.example")[0] == 403
    status, headers, data = ask(gateway, "GET", "/metrics", authorization="Bearer ccm-proxy")
    assert status == 200 and headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    status, headers, data = ask(gateway, "HEAD", "/metrics", authorization="Bearer ccm-proxy")
    assert status == 200 and data == b"" and int(headers["content-length"]) > 1000


def test_the_official_parser_reads_it_whatever_models_are_called(gateway: Gateway) -> None:
    send(gateway, HOSTILE)
    send(gateway, "one/claude-opus-5-5", stream=True)
    text = ask(gateway, "GET", "/metrics", authorization="Bearer ccm-proxy")[2].decode("utf-8")
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    models = {dict(labels).get("model") for name, labels in samples if name == "ccm_requests_total"}
    assert HOSTILE in models
    names = {name for name, _ in samples}
    assert {"ccm_build_info", "ccm_in_flight", "ccm_provider_usable", "ccm_endpoint_state", "ccm_tokens_total",
            "ccm_log_lines_dropped_total", "ccm_first_content_seconds_bucket"} <= names  # fmt: skip
    states = {dict(labels)["state"]: value for (name, labels), value in samples.items()
              if name == "ccm_endpoint_state" and dict(labels)["endpoint"] == "one"}  # fmt: skip
    assert states["ready"] == 1 and sum(states.values()) == 1
    ours = gateway.ctl("metrics", "--prometheus", check=True).stdout
    theirs = {family.name for family in text_string_to_metric_families(text)}
    assert {family.name for family in text_string_to_metric_families(ours)} == theirs


def test_the_longest_gap_of_a_stream_is_measured(gateway: Gateway, up: Upstream) -> None:
    events: list[dict[str, Any]] = [
        {
            "id": "x",
            "object": "chat.completion.chunk",
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": t}}],
        }
        for t in ("a", "b")
    ]
    end = {"id": "x", "object": "chat.completion.chunk", "model": "m",
           "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}  # fmt: skip
    up.script(
        "/two",
        [("head",), ("event", events[0]), ("stall", 0.3), ("event", events[1]), ("event", end),
         ("bytes", b"data: [DONE]\n\n")],
    )  # fmt: skip
    send(gateway, "two/gap", stream=True)
    for _ in range(40):  # the account is closed just after the client has its last byte
        text = ask(gateway, "GET", "/metrics", authorization="Bearer ccm-proxy")[2].decode("utf-8")
        sums = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "ccm_stream_gap_seconds_sum" and sample.labels["model"] == "gap"
        ]
        if sums:
            break
        time.sleep(0.05)
    assert len(sums) == 1 and 0.25 <= sums[0] < 2.0


def test_bodies_are_written_for_a_while_and_it_is_told(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    done = gateway.ctl("debug-bodies", str(path), "--for", "1m", check=True)
    assert "for 1m," in done.stdout and str(path) in done.stdout
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"prompts and answers are written to {path}" in gateway.ctl("status", check=True).stdout
    assert "written no more" in gateway.ctl("debug-bodies", "off", check=True).stdout
    assert "prompts and answers" not in gateway.ctl("status", check=True).stdout
    log = gateway.log()
    assert "debug bodies on" in log and "debug bodies off" in log
    other = tmp_path / "bashrc"
    other.write_text("something else")
    refused = gateway.ctl("debug-bodies", str(other))
    assert refused.returncode == 1 and "holds something else" in refused.stderr
    assert gateway.ctl("debug-bodies", str(path), "--for", "2h").returncode == 1


def test_ccm_starts_with_bodies(tmp_path: Path, up: Upstream) -> None:
    gateway = Gateway(tmp_path / "ccm", provider(up, "one"))
    gateway.start("--debug-bodies", str(tmp_path / "bodies.jsonl"))
    try:
        assert (tmp_path / "bodies.jsonl").stat().st_mode & 0o777 == 0o600
        assert '"active": true' in gateway.ctl("debug-bodies", "--json", check=True).stdout
    finally:
        gateway.stop()
    assert "debug bodies off" in gateway.log()


def test_the_status_line_of_a_session(gateway: Gateway) -> None:
    body = {"model": "one/claude-opus-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    headers = {
        "content-type": "application/json",
        "x-api-key": "ccm-proxy",
        "x-claude-code-session-id": "s-77",
    }
    assert ask(gateway, "POST", "/v1/messages", body, **headers)[0] == 200
    given = json.dumps({"session_id": "s-77", "context_window": {"used_percentage": 12}})
    done = subprocess.run(
        [sys.executable, "-I", "-S", statusline.__file__], input=given, capture_output=True, text=True, timeout=10,
        env={**gateway.env, "NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("one · claude-opus-5-5 · "), done
    assert done.stdout.endswith("context 12%\n") and done.stdout.count("\n") == 1
