"""The first provider fails in some way before its first content; the client gets the second one's whole answer.

Every failure x the three dialects x stream and JSON, through the public port (RELIABILITY 1a).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Step, Upstream

DIALECTS = ("anthropic", "openai_chat", "gemini")
FROM_B = "This came from b, whole: ünïcödé \U0001f98a."
SHORT = {"header_s": 0.4, "first_content_s": 0.4, "first_content_thinking_s": 0.4}
HTML = "<!doctype html><html><title>Log in to the wifi</title></html>"
JSON = {"content-type": "application/json"}

Script = list[Step]
Make = Callable[[str, bool], Script]


def status(code: int, headers: dict[str, str] | None = None, text: str = "no luck today") -> Make:
    return lambda dialect, stream: [("status", code, headers or {}, answers.error(dialect, code, text))]


def same(*steps: Step) -> Make:
    return lambda dialect, stream: list(steps)


def _in_stream_error(dialect: str) -> Any:
    body = answers.error(dialect, 529 if dialect == "anthropic" else 503, "Overloaded")
    return body if dialect == "anthropic" else answers.frame("gemini", body)


def first_event_error(dialect: str, stream: bool) -> Script:
    if not stream:
        return [("status", 200, {}, answers.error(dialect, 503, "The engine is overloaded"))]
    return [("head",), ("event", _in_stream_error(dialect))]


def error_before_content(dialect: str, stream: bool) -> Script:
    if not stream:
        return first_event_error(dialect, stream)
    opening = answers.events(dialect)[: {"anthropic": 3, "openai_chat": 1, "gemini": 0}[dialect]]
    return [("sse", opening), ("event", _in_stream_error(dialect))]


def stall_after_head(dialect: str, stream: bool) -> Script:
    if not stream:
        return [("head", 200, JSON), ("stall", 5)]
    return [("head",), ("bytes", b": hello\n\n"), ("stall", 5)]


def cut_json(dialect: str, stream: bool) -> Script:
    body = str(answers.whole(dialect)).encode()
    return [
        ("framing", "raw"),
        ("head", 200, JSON | {"content-length": "900"}),
        ("bytes", body[:100]),
        ("cut", "fin"),
    ]


def garbage(dialect: str, stream: bool) -> Script:
    if not stream:
        return [("status", 200, {}, '{"id": "x", "content": [')]
    return [("head",), ("bytes", b'event: message_start\ndata: {"type": "mess\n\n'), ("cut", "fin")]


def ended_stream(dialect: str, stream: bool) -> Script:
    opening = answers.events(dialect)[: {"anthropic": 2, "openai_chat": 1, "gemini": 0}[dialect]]
    return [("head", 200, {} if stream else JSON), ("sse", opening)]


FAULTS: dict[str, Make] = {
    "529": status(529),
    "503": status(503),
    "500": status(500),
    "502-html": same(("status", 502, {"content-type": "text/html"}, HTML)),
    "429-retry-after": status(429, {"retry-after": "3"}),
    "401": status(401, text="invalid x-api-key"),
    "402": status(402, text="Your credit balance is too low"),
    "404-model": status(404, text="model: no-such-model"),
    "first-event-error": first_event_error,
    "error-before-content": error_before_content,
    "rst": same(("cut", "rst")),
    "fin": same(("cut", "fin")),
    "stall-before-head": same(("stall", 5)),
    "stall-after-head": stall_after_head,
    "drip": same(("drip", b"HTTP/1.1 200 OK\r\nx: 1\r\n", 0.1)),
    "html-200": same(("status", 200, {"content-type": "text/html"}, HTML)),
    "empty-200": same(("status", 200, {}, b"")),
    "204": same(("status", 204, {}, b"")),
    "error-in-200": lambda d, s: [("status", 200, {}, answers.error(d, 500, "upstream connect error"))],
    "cut-json": cut_json,
    "garbage": garbage,
    "stream-ends-empty": ended_stream,
}


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    """ccm with a before b, both of the test's dialect, without memory of earlier tests."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dialect = params.get("dialect", "anthropic")
    config = providers(up, "a", "b", dialect=dialect, timeouts=SHORT)
    gw = shared_gateway(dialect, config)
    up.reset()
    gw.reset()
    up.always("/b", ("answer", {"text": FROM_B}))
    return gw


def check_from_b(reply: Reply, stream: bool) -> None:
    assert reply.status == 200, reply.body[:400]
    assert reply.ended
    assert reply.text == FROM_B
    if stream:
        assert reply.headers["content-type"].startswith("text/event-stream")
        grammar.check(reply.events)
    else:
        assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["x-ccm-provider"] == "b"
    assert re.search(r"\ba(#\d+)?=", reply.headers["x-ccm-attempts"]), reply.headers["x-ccm-attempts"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_second_provider_answers(
    up: Upstream, gateway: Gateway, dialect: str, fault: str, stream: bool
) -> None:
    up.always("/a", FAULTS[fault](dialect, stream))
    reply = post(gateway.base_url, message(stream=stream), timeout=6)
    check_from_b(reply, stream)
    assert len(up.seen("/b")) == 1
    assert 1 <= len(up.seen("/a")) <= 2, "one retry in place at most"
    assert reply.total_s < 3


def test_the_attempts_header_and_status_tell_what_happened(up: Upstream, gateway: Gateway) -> None:
    up.always("/a", status(529)("anthropic", True))
    reply = post(gateway.base_url, message())
    assert re.search(r"\ba=529\b", reply.headers["x-ccm-attempts"])
    told = gateway.ctl("status", check=True).stdout
    assert re.search(r"^.*\ba\b.*$", told, re.M) and re.search(r"529|overload|cool", told, re.I), told


def test_retry_after_keeps_the_target_out_and_others_never_wait(up: Upstream, gateway: Gateway) -> None:
    up.script("/a", *([status(429, {"retry-after": "30"})("anthropic", True)] * 2))
    first = post(gateway.base_url, message())
    check_from_b(first, True)
    assert first.total_s < 1, "going to another provider never waits"
    before = len(up.seen("/a"))
    second = post(gateway.base_url, message())
    assert second.text == FROM_B
    assert len(up.seen("/a")) == before == 1, "cooling for as long as it asked to, and not retried in place"


def test_a_refused_connection_costs_nothing(up: Upstream, shared_gateway: Callable[..., Gateway]) -> None:
    from tests.gateway import free_port, provider

    up.reset()
    up.always("/b", ("answer", {"text": FROM_B}))
    config = provider(f"http://127.0.0.1:{free_port()}", "a", priority=1) + provider(up, "b", priority=2)
    gw = shared_gateway("refused", config)
    gw.reset()
    reply = post(gw.base_url, message())
    check_from_b(reply, True)
    assert reply.head_s < 1


def test_a_reused_connection_that_died_is_no_failure(up: Upstream, gateway: Gateway) -> None:
    """The provider closes an idle connection: the next request gets a new one, still at the first provider."""
    up.always("/a", [("answer", {"text": "from a"}), ("cut", "fin")])
    for _ in range(3):
        reply = post(gateway.base_url, message())
        assert (reply.status, reply.text) == (200, "from a")
        assert reply.headers["x-ccm-provider"] == "a"
        time.sleep(0.05)
    assert up.seen("/b") == []


def test_redirects_are_never_followed(up: Upstream, gateway: Gateway) -> None:
    trap = f"{up.url}/trap/v1/messages"
    for code in (301, 302, 307, 308):
        gateway.reset()
        up.always("/a", ("status", code, {"location": trap}, b""))
        check_from_b(post(gateway.base_url, message()), True)
    assert up.seen("/trap") == []


def test_failover_off_means_one_provider(up: Upstream, shared_gateway: Callable[..., Gateway]) -> None:
    up.reset()
    config = providers(up, "a", "b")
    gw = shared_gateway("off", config, failover={"enabled": False, "max_retries": 0})
    up.always("/a", status(529)("anthropic", True))
    assert post(gw.base_url, message()).status == 503
    assert (len(up.seen("/a")), len(up.seen("/b"))) == (1, 0)


def test_never_more_than_max_retries(up: Upstream, shared_gateway: Callable[..., Gateway]) -> None:
    up.reset()
    gw = shared_gateway("four", providers(up, "a", "b", "c", "d", "e"))
    for name in "abcde":
        up.always(f"/{name}", status(500)("anthropic", True))
    assert post(gw.base_url, message()).status in (502, 503)
    assert len(up.seen()) == 3, "the first attempt and max_retries = 2 more"


def test_the_same_body_reaches_both(up: Upstream, gateway: Gateway) -> None:
    up.always("/a", status(500)("anthropic", True))
    body = message("bytes as they were: é \\u00e9 1.0", metadata={"user_id": "u"})
    with Client(gateway.base_url) as client:
        client.post(body)
    assert up.seen("/b")[0].raw == up.seen("/a")[0].raw
    assert up.seen("/b")[0].json["messages"] == body["messages"]
