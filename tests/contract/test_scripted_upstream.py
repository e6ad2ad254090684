"""The scripted upstream itself, read by the official SDKs and by the tests' own client: a test tool that lies helps nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import anthropic
import openai
import pytest
from google import genai

from tests import answers, grammar
from tests.http1 import Client, message, post
from tests.upstream import Upstream

TOOL = {"name": "Write", "input": {"path": "é", "n": 1}}


@pytest.fixture
def own() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def test_anthropics_sdk_reads_the_answers(own: Upstream) -> None:
    own.always("/a", ("answer", {"tool": TOOL}))
    sdk = anthropic.Anthropic(api_key="k", base_url=f"{own.url}/a", max_retries=0)
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    whole = sdk.messages.create(**body)
    with sdk.messages.stream(**body) as stream:
        streamed = stream.get_final_message()
    for got in (whole, streamed):
        assert got.content[0].text == answers.TEXT
        assert got.content[1].input == TOOL["input"]
        assert got.stop_reason == "tool_use"
    assert sdk.messages.count_tokens(model="m", messages=body["messages"]).input_tokens > 0


def test_openais_sdk_reads_the_answers(own: Upstream) -> None:
    own.always("/o", ("answer", {"tool": TOOL}))
    sdk = openai.OpenAI(api_key="k", base_url=f"{own.url}/o/v1", max_retries=0)
    asked = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    whole = sdk.chat.completions.create(**asked)
    assert whole.choices[0].message.content == answers.TEXT
    assert whole.choices[0].message.tool_calls[0].function.name == "Write"
    with sdk.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.content == answers.TEXT
    response = sdk.responses.create(model="m", input="x")
    assert response.output_text == answers.TEXT
    with sdk.responses.stream(model="m", input="x") as responses:
        assert responses.get_final_response().output_text == answers.TEXT


def test_googles_sdk_reads_the_answers(own: Upstream) -> None:
    own.always("/g", ("answer", {"tool": TOOL}))
    sdk = genai.Client(api_key="k", http_options={"base_url": f"{own.url}/g"})
    whole = sdk.models.generate_content(model="m", contents="x")
    assert whole.candidates[0].content.parts[0].text == answers.TEXT
    assert whole.function_calls[0].args == TOOL["input"]
    chunks = list(sdk.models.generate_content_stream(model="m", contents="x"))
    assert "".join(c.candidates[0].content.parts[0].text or "" for c in chunks) == answers.TEXT


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_framings(own: Upstream, framing: str) -> None:
    own.script("/a", [("framing", framing), ("head",), ("sse", answers.events("anthropic"))])
    reply = post(own.url, message(), path="/a/v1/messages")
    assert reply.ended and reply.text == answers.TEXT
    grammar.check(reply.events)


@pytest.mark.parametrize(("how", "ended"), [("rst", False), ("fin", False), ("chunk", False)])
def test_cuts(own: Upstream, how: str, ended: bool) -> None:
    own.script("/a", [("sse", answers.events("anthropic")[:4]), ("stall", 0.05), ("cut", how)])
    reply = post(own.url, message(), path="/a/v1/messages")
    assert reply.ended is ended
    with pytest.raises(AssertionError, match="without message_stop"):
        grammar.check(reply.events)


def test_it_sees_the_client_leave_within_50_ms(own: Upstream) -> None:
    own.script("/a", ("stall", 10))
    with Client(own.url) as client:
        client.send("POST", "/a/v1/messages", message())
        (seen,) = own.wait("/a")
        left = time.monotonic()
    assert seen.answered.wait(1)
    assert seen.gone_at is not None and seen.gone_at - left < 0.05


def test_scripts_queue_per_prefix_and_the_longest_wins(own: Upstream) -> None:
    own.always("/a", ("status", 500))
    own.always("/a/v1/messages", ("status", 501))
    own.script("/a", ("status", 502))
    own.script("/ab", ("status", 503))
    with Client(own.url) as client:
        assert [client.post(message(), p).status for p in ("/a/x/messages", "/a/x/messages")] == [502, 500]
        assert client.post(message(), "/a/v1/messages").status == 501
        assert client.post(message(), "/ab/v1/messages").status == 503
    assert len({s.connection for s in own.seen()}) == 1
    assert [s.nth for s in own.seen()] == [1, 2, 3, 4]


def test_a_gate_holds_until_opened(own: Upstream) -> None:
    gate = threading.Event()
    own.script("/a", [("gate", gate), ("answer",)])
    with Client(own.url) as client:
        client.send("POST", "/a/v1/messages", message())
        own.wait("/a")
        gate.set()
        assert client.read().text == answers.TEXT
