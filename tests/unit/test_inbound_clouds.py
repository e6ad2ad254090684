"""Bedrock and Vertex clients: the wrapping off and on again; botocore and the official SDK read what we send."""

from __future__ import annotations

import base64
import json
from typing import Any

import anthropic
import httpx2
import pytest
from botocore.eventstream import EventStreamBuffer

from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.inbound.clouds import Bedrock, Vertex
from ccm.errors import Refusal
from ccm.messages.fold import fold
from ccm.wire.eventstream import Framer
from ccm.wire.eventstream_encode import encode
from tests.inbound import CREATED, answer, ask, ids, stream, whole

SAID: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "thinking": {"type": "adaptive"}, "future": {"x": 1},
}  # fmt: skip
EVENTS = answer(("thinking", "t"), ("signature", "S"), ("text", "é"), ("tool", 0, "toolu_1", "f"))


def test_bedrock_request() -> None:
    body = {**SAID, "anthropic_version": "bedrock-2023-05-31", "anthropic_beta": ["a-1", "b-2"]}
    request = ask("bedrock", body, "us.anthropic.claude-sonnet-4-5-20250929-v1%3A0", True)
    assert request == {"model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0", **SAID, "stream": True}
    headers = SURFACES["bedrock"].extra_headers(body, {"anthropic-beta": "claude-code-20250219,a-1"})
    assert headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,a-1,b-2"}
    assert SURFACES["bedrock"].extra_headers({"anthropic_version": "2026-10-21"}) == {
        "anthropic-version": "2026-10-21"
    }
    nasty = SURFACES["bedrock"].extra_headers({"anthropic_beta": ["x\r\ny: z", 5]})
    assert nasty == {}


@pytest.mark.parametrize(
    ("given", "path", "stream"), [(True, False, True), (None, True, True), (None, None, False)]
)
def test_vertex_request(given: bool | None, path: bool | None, stream: bool) -> None:
    body = {**SAID, "anthropic_version": "vertex-2023-10-16", **({} if given is None else {"stream": given})}
    request = ask("vertex", body, "claude-opus-4-7@20260101", path)
    assert request == {"model": "claude-opus-4-7@20260101", **SAID, "stream": stream}
    assert SURFACES["vertex"].extra_headers(body) == {"anthropic-version": "2023-06-01"}


def test_no_model_is_refused() -> None:
    for name in ("bedrock", "vertex"):
        with pytest.raises(Refusal, match="model: "):
            ask(name, SAID)


def test_counting() -> None:
    packed = base64.b64encode(
        json.dumps({**SAID, "anthropic_version": "bedrock-2023-05-31"}).encode()
    ).decode()
    wrapped = {"input": {"invokeModel": {"body": packed}}}
    assert Bedrock().counting(wrapped, "anthropic.claude-x") == {"model": "anthropic.claude-x", **SAID}
    assert Bedrock().counted(5) == {"inputTokens": 5}
    assert Vertex().counting({**SAID, "model": "m", "anthropic_version": "v"}, "count-tokens") == {
        "model": "m",
        **SAID,
    }
    assert Vertex().counted(5) == {"input_tokens": 5}
    for bad in ({}, {"input": {"invokeModel": {"body": "%%"}}}, {"input": {"invokeModel": {"body": "W10="}}}):
        with pytest.raises(Refusal, match=r"input\.invokeModel\.body: "):
            Bedrock().counting(bad, "m")


def test_botocore_reads_the_stream() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(stream("bedrock", EVENTS, {}))
    got = []
    for message in buffer:
        said = message.to_response_dict()
        assert said["status_code"] == 200 and said["headers"][":event-type"] == "chunk"
        got.append(json.loads(base64.b64decode(json.loads(said["body"])["bytes"])))
    metrics = got[-1].pop("amazon-bedrock-invocationMetrics")
    assert got == EVENTS
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (7, 5)


def test_the_official_bedrock_client_reads_the_stream() -> None:
    data = stream("bedrock", EVENTS, {})

    def reply(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, headers={"content-type": "application/vnd.amazon.eventstream"}, content=data
        )

    client = anthropic.AnthropicBedrock(
        aws_access_key="a", aws_secret_key="b", aws_region="us-east-1", base_url="http://ccm", max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(reply)),
    )  # fmt: skip
    hi: Any = [{"role": "user", "content": "hi"}]
    with client.messages.stream(model="claude-opus-4-7", max_tokens=9, messages=hi) as s:
        message = s.get_final_message()
    assert [b.type for b in message.content] == ["thinking", "text", "tool_use"]
    assert message.stop_reason == "tool_use"


def test_exceptions_and_pings() -> None:
    renderer = SURFACES["bedrock"].renderer("m", {}, {}, ids(), CREATED)
    assert renderer.content_type == "application/vnd.amazon.eventstream"
    buffer = EventStreamBuffer()
    buffer.add_data(renderer.alive() + renderer.fail("rate_limit_error", "p: slow", "req_1"))
    ping, failure = (message.to_response_dict() for message in buffer)
    assert json.loads(base64.b64decode(json.loads(ping["body"])["bytes"])) == {"type": "ping"}
    assert failure["status_code"] == 400 and failure["headers"][":exception-type"] == "throttlingException"
    assert json.loads(failure["body"]) == {"message": "p: slow"}


def test_our_own_framer_reads_what_we_encode() -> None:
    headers = {":message-type": "event", "x": ""}
    data = encode(headers, b"payload") + encode({}, b"")
    assert [(f.headers, f.payload) for f in Framer().feed(data)] == [(headers, b"payload"), ({}, b"")]
    with pytest.raises(ValueError, match="header"):
        encode({"x": "y" * 70_000}, b"")


def test_whole_answers_are_the_message() -> None:
    message = fold(EVENTS)
    for name in ("messages", "bedrock", "vertex"):
        assert whole(name, message, {}) == message
    assert stream("vertex", EVENTS, {}) == stream("messages", EVENTS, {})
    assert SURFACES["vertex"].renderer("m", {}, {}, ids(), CREATED).alive().startswith(b"event: ping\n")


def test_errors() -> None:
    bedrock = SURFACES["bedrock"].error(429, "rate_limit_error", "slow", "req_1")
    assert (bedrock["__type"], bedrock["message"]) == ("ThrottlingException", "slow")
    assert bedrock["error"] == {"type": "rate_limit_error", "message": "slow"}
    vertex = SURFACES["vertex"].error(400, "invalid_request_error", "bad", "req_1")
    assert vertex["error"] == {"type": "invalid_request_error", "message": "bad", "code": 400, "status": "INVALID_ARGUMENT"}  # fmt: skip
    assert SURFACES["messages"].error(400, "invalid_request_error", "bad", "req_1") == {
        "type": "error", "error": {"type": "invalid_request_error", "message": "bad"}, "request_id": "req_1",
    }  # fmt: skip


def test_only_messages_may_pass_untouched() -> None:
    assert {name: surface.native for name, surface in SURFACES.items()} == {
        "messages": True, "chat": False, "responses": False, "bedrock": False, "vertex": False,
    }  # fmt: skip
