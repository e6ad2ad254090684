"""Committed streams: they arrive as they come, whole or with one error event, never closed by invention (RELIABILITY 1b)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message, post
from tests.upstream import Step, Upstream

DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini")
TOOL = {"name": "Write", "input": {"path": "/tmp/x", "content": 'ünïcödé \U0001f98a "quoted" \\ back'}}
TOOLS = [
    {
        "name": "Write",
        "description": "Writes a file.",
        "input_schema": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        },
    }
]
# Long enough for what came before to be with the client: what breaks earlier is failed over, and nobody sees it.
LATER: Step = ("stall", 0.1)
CUTS: dict[str, list[Step]] = {
    "rst": [LATER, ("cut", "rst")],
    "fin": [LATER, ("cut", "fin")],
    "chunk": [LATER, ("cut", "chunk")],
    "clean-end": [LATER],
}


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dialect = params.get("dialect", "anthropic")
    gw = shared_gateway(dialect, providers(up, "a", "b", dialect=dialect, timeouts={"idle_s": 0.6}))
    up.reset()
    gw.reset()
    return gw


def ask(gateway: Gateway, **fields: Any) -> Reply:
    return post(gateway.base_url, message(tools=TOOLS, **fields))


def tool_of(events: list[dict[str, Any]]) -> tuple[str, Any]:
    start = next(
        e["content_block"]
        for e in events
        if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"
    )
    parts = [
        e["delta"]["partial_json"]
        for e in events
        if e["type"] == "content_block_delta" and e["delta"]["type"] == "input_json_delta"
    ]
    return start["name"], json.loads("".join(parts))  # fmt: skip


def check_broken(reply: Reply) -> list[dict[str, Any]]:
    """One error event, at the very end, and nothing that pretends to be an end."""
    assert reply.status == 200
    events = reply.events
    grammar.check(events)
    kinds = [e["type"] for e in events]
    assert kinds.count("error") == 1 and kinds[-1] == "error", kinds
    assert "message_stop" not in kinds and "message_delta" not in kinds
    assert reply.error["type"] in ("api_error", "overloaded_error", "timeout_error")
    return events


@pytest.mark.parametrize("dialect", DIALECTS)
class TestWhole:
    @pytest.mark.parametrize("framing", ["chunked", "close", "length", "gzip"])
    def test_text_and_tool_in_every_framing(
        self, up: Upstream, gateway: Gateway, dialect: str, framing: str
    ) -> None:
        events = answers.events(dialect, tool=TOOL)
        up.script("/a", [("framing", framing), ("head",), ("sse", events)])
        reply = ask(gateway)
        assert reply.status == 200 and reply.ended
        assert reply.text == answers.TEXT
        assert tool_of(reply.events) == (TOOL["name"], TOOL["input"])
        grammar.check(reply.events)
        assert grammar.types(reply.events) == [
            "message_start",
            *["content_block_start", "content_block_delta", "content_block_stop"] * 2,
            "message_delta",
            "message_stop",
        ]
        assert (
            next(e for e in reply.events if e["type"] == "message_delta")["delta"]["stop_reason"]
            == "tool_use"
        )
        assert reply.headers["x-ccm-provider"] == "a"

    @pytest.mark.parametrize("size", [1, 3, 11])
    def test_any_fragmentation_gives_the_same(
        self, up: Upstream, gateway: Gateway, dialect: str, size: int
    ) -> None:
        raw = b"".join(
            answers.frame(dialect, e) for e in answers.events(dialect, "ä\u2028\U0001f98a" * 3, TOOL)
        )
        parts: list[Step] = [("bytes", raw[i : i + size]) for i in range(0, len(raw), size)]
        up.script("/a", parts)
        reply = ask(gateway)
        assert reply.text == "ä\u2028\U0001f98a" * 3
        assert tool_of(reply.events)[1] == TOOL["input"]
        grammar.check(reply.events)

    def test_crlf_and_comments(self, up: Upstream, gateway: Gateway, dialect: str) -> None:
        raw = b"".join(answers.frame(dialect, e) for e in answers.events(dialect)).replace(b"\n", b"\r\n")
        up.script("/a", [("head",), ("bytes", b": hi\r\n\r\n"), ("bytes", raw)])
        reply = ask(gateway)
        assert reply.text == answers.TEXT
        grammar.check(reply.events)

    def test_usage_reaches_the_client(self, up: Upstream, gateway: Gateway, dialect: str) -> None:
        reply = ask(gateway)
        usage = next(e for e in reply.events if e["type"] == "message_start")["message"]["usage"]
        usage |= next(e for e in reply.events if e["type"] == "message_delta")["usage"]
        assert usage["input_tokens"] == 21
        assert usage["output_tokens"] == max(1, len(answers.TEXT) // 4)

    def test_json_is_the_same_message(
        self, up: Upstream, gateway: Gateway, dialect: str, strict: Any
    ) -> None:
        up.script("/a", ("answer", {"tool": TOOL}))
        reply = ask(gateway, stream=False)
        assert reply.headers["content-type"].startswith("application/json")
        value = reply.json()
        assert strict.anthropic_message(value) == []
        assert reply.text == answers.TEXT
        assert value["content"][-1]["input"] == TOOL["input"]
        assert value["stop_reason"] == "tool_use"

    def test_streams_pass_the_official_types(
        self, up: Upstream, gateway: Gateway, dialect: str, strict: Any
    ) -> None:
        up.script("/a", ("answer", {"tool": TOOL}))
        assert strict.anthropic_events(ask(gateway).events) == []

    def test_nothing_is_held_back(self, up: Upstream, gateway: Gateway, dialect: str) -> None:
        """The first half is with the client while the provider still waits to send the second."""
        events = answers.events(dialect, "one two three four five six seven eight nine ten")
        half, gate = len(events) // 2, threading.Event()
        up.script("/a", [("sse", events[:half]), ("gate", gate), ("sse", events[half:])])
        with Client(gateway.base_url) as client:
            began = time.monotonic()
            client.send("POST", "/v1/messages", message())
            reply = client.begin()
            pieces = client.pieces(reply, began)
            while b"one" not in reply.body:
                next(pieces)
            assert not gate.is_set() and b"nine" not in reply.body
            gate.set()
            for _ in pieces:
                pass
        assert reply.text.endswith("nine ten")
        grammar.check(reply.events)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dialect", DIALECTS)
class TestBroken:
    def test_inside_a_text_block(self, up: Upstream, gateway: Gateway, dialect: str, cut: str) -> None:
        events = answers.events(dialect, "alpha beta gamma delta epsilon zeta eta theta")
        up.script("/a", [("sse", events[: len(events) // 2]), *CUTS[cut]])
        told = check_broken(ask(gateway))
        assert "content_block_stop" not in [e["type"] for e in told]
        assert up.seen("/b") == [], "committed is committed"

    def test_after_a_whole_block(self, up: Upstream, gateway: Gateway, dialect: str, cut: str) -> None:
        events = answers.events(dialect, "alpha beta gamma delta")
        ends = {"anthropic": -2, "openai_chat": -3, "openai_responses": -1, "gemini": -1}
        up.script("/a", [("sse", events[: ends[dialect]]), *CUTS[cut]])
        reply = ask(gateway)
        told = check_broken(reply)
        stops = [e["type"] for e in told].count("content_block_stop")
        assert stops == (1 if dialect in ("anthropic", "openai_responses") else 0), (
            "closed where the provider closed"
        )

    def test_inside_tool_arguments(self, up: Upstream, gateway: Gateway, dialect: str, cut: str) -> None:
        if dialect == "gemini":
            pytest.skip("Gemini sends a call's arguments in one piece")
        events = answers.events(dialect, "", TOOL)
        argument = [
            n
            for n, e in enumerate(events)
            if "partial_json" in str(e) or "'arguments': '" in str(e) or "arguments.delta" in str(e)
        ]
        up.script("/a", [("sse", events[: argument[len(argument) // 2]]), *CUTS[cut]])
        told = check_broken(ask(gateway))
        assert "content_block_stop" not in [e["type"] for e in told], "half a call is never closed"
        assert any(
            e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use" for e in told
        )


@pytest.mark.parametrize(
    "session", ["5f0c7a1e-0000-4000-8000-000000000001", ""], ids=["claude-code", "no-session"]
)
def test_the_retry_after_a_break_goes_elsewhere(up: Upstream, gateway: Gateway, session: str) -> None:
    """Claude Code repeats the turn at once, as JSON: for a minute that goes to another provider (RELIABILITY 38)."""
    headers = {"x-claude-code-session-id": session}
    body = message(tools=TOOLS)
    up.script("/a", [("sse", answers.events("anthropic")[:4]), LATER, ("cut", "rst")])
    check_broken(post(gateway.base_url, body, headers))
    again = post(gateway.base_url, {k: v for k, v in body.items() if k != "stream"}, headers)
    assert (again.status, again.headers["x-ccm-provider"]) == (200, "b")
    assert post(gateway.base_url, message()).headers["x-ccm-provider"] == "a", "other requests stay"


@pytest.mark.parametrize("dialect", DIALECTS)
class TestFailing:
    def test_silence_in_the_middle_ends_in_an_error(
        self, up: Upstream, gateway: Gateway, dialect: str
    ) -> None:
        events = answers.events(dialect, "alpha beta gamma delta epsilon zeta eta theta")
        up.script("/a", [("sse", events[: len(events) // 2]), ("stall", 8)])
        reply = ask(gateway)
        check_broken(reply)
        assert 0.5 < reply.total_s < 3
        (seen,) = up.seen("/a")
        assert seen.answered.wait(2) and seen.gone_at is not None, "the upstream connection is closed as well"

    def test_nonsense_in_the_middle(self, up: Upstream, gateway: Gateway, dialect: str) -> None:
        events = answers.events(dialect, "alpha beta gamma delta epsilon zeta eta theta")
        bad = b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n'
        up.script(
            "/a",
            [("sse", events[: len(events) // 2]), LATER, ("bytes", bad), ("sse", events[len(events) // 2 :])],
        )
        check_broken(ask(gateway))

    def test_an_error_event_in_the_middle_comes_once(
        self, up: Upstream, gateway: Gateway, dialect: str
    ) -> None:
        events = answers.events(dialect, "alpha beta gamma delta epsilon zeta eta theta")
        error: Any = answers.error(dialect, 529 if dialect == "anthropic" else 503, "Overloaded, sorry")
        if dialect == "openai_responses":
            error = {
                "type": "error",
                "code": "server_error",
                "message": "Overloaded, sorry",
                "param": None,
                "sequence_number": 99,
            }
        elif dialect != "anthropic":
            error = answers.frame("gemini", error)
        up.script("/a", [("sse", events[: len(events) // 2]), LATER, ("event", error)])
        reply = ask(gateway)
        check_broken(reply)
        assert "Overloaded, sorry" in reply.error["message"]

    def test_a_cut_json_answer_is_no_answer(self, up: Upstream, gateway: Gateway, dialect: str) -> None:
        """Nothing was committed: the other provider answers."""
        body = json.dumps(answers.whole(dialect)).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        for name in ("/a", "/a"):
            up.script(
                name, [("framing", "raw"), ("head", 200, headers), ("bytes", body[:-9]), ("cut", "fin")]
            )
        up.always("/b", ("answer", {"text": "from b"}))
        assert ask(gateway, stream=False).text == "from b"


def test_pass_through_changes_nothing(up: Upstream, gateway: Gateway) -> None:
    """Unknown fields, unknown events' order and number forms: a stream of the client's own dialect arrives as sent."""
    events = answers.events("anthropic", "pass me through", TOOL)
    events[0]["message"]["new_field"] = {"kept": [1, 2.50, "é"]}
    raw = [answers.frame("anthropic", e) for e in events]
    up.script("/a", [("head",), ("bytes", b"".join(raw))])
    sent = [e for e in events if e["type"] != "ping"]
    got = [e for e in ask(gateway, model="m").events if e["type"] != "ping"]
    for event in (sent[0], got[0]):
        event["message"].pop("model")
    assert got == sent


@pytest.mark.slow
def test_pings_in_a_long_silence_are_not_content(up: Upstream, gateway: Gateway) -> None:
    """A provider that only pings never answers: it is left for the next one before anything was sent."""
    ping = {"type": "ping"}
    start = answers.events("anthropic")[0]
    script: list[Step] = [("sse", [start])]
    for _ in range(80):
        script += [("stall", 0.1), ("event", ping)]
    up.always("/a", script)
    up.always("/b", ("answer", {"text": "from b"}))
    reply = post(gateway.base_url, message(), timeout=20)
    assert reply.text == "from b"
    assert 4 < reply.total_s < 8, "first_content_s is 5"


@pytest.mark.slow
def test_a_hundred_streams_at_once(up: Upstream, gateway: Gateway) -> None:
    gate = threading.Event()
    events = answers.events("anthropic", "x" * 70)
    up.always("/a", [("sse", events[:5]), ("gate", gate), ("sse", events[5:])])
    replies: list[Reply] = []

    def one() -> None:
        replies.append(post(gateway.base_url, message(), timeout=30))

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    up.wait("/a", 100, 15)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert [r.status for r in replies] == [200] * 100
    for reply in replies:
        assert reply.text == "x" * 70
        grammar.check(reply.events)
