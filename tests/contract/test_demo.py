"""The demo upstream on its port: paths, framing, failures, and that it stops."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from ccm.upstream.demo import DemoUpstream
from tests.http1 import Client, message, parse_sse


@pytest.fixture
def demo() -> Iterator[Client]:
    server = DemoUpstream(word_s=0.0)
    with Client(server.start()) as client:
        yield client
    server.stop()


def test_messages_stream_and_json_on_one_connection(demo: Client) -> None:
    streamed = demo.post(message("hi"), "/anthropic/v1/messages?beta=true")
    assert streamed.status == 200
    assert [e["type"] for e in streamed.events][-2:] == ["message_delta", "message_stop"]
    whole = demo.post(message("hi", stream=False), "/anthropic/v1/messages")
    assert whole.json()["content"][0]["text"] == streamed.text
    assert "“hi”" in streamed.text


def test_chat_completions(demo: Client) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
    whole = demo.post(body, "/openai/v1/chat/completions").json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    reply = demo.post(body | options, "/openai/v1/chat/completions")
    *chunks, done = [data for _, data in parse_sse(reply.body)]
    assert done == "[DONE]"
    parsed = [json.loads(c) for c in chunks]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in parsed if c["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert parsed[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_the_flaky_one_fails_every_third_time_and_the_steady_one_never(demo: Client) -> None:
    seen = []
    for n in range(9):
        reply = demo.post(message(f"question {n}"), "/anthropic/v1/messages")
        seen.append(reply.status if reply.status != 200 or reply.events[0]["type"] != "error" else "event")
    assert seen == [200, 200, 529, 200, 200, 500, 200, 200, "event"]
    chat = {"model": "x", "messages": []}
    assert {demo.post(chat, "/openai/v1/chat/completions").status for _ in range(9)} == {200}


def test_count_tokens_and_models(demo: Client) -> None:
    counted = demo.post(message("x" * 4000), "/anthropic/v1/messages/count_tokens").json()
    assert 1000 <= counted["input_tokens"] <= 1100
    anthropic = demo.call("GET", "/anthropic/v1/models?limit=1000").json()
    assert anthropic["first_id"] == anthropic["data"][0]["id"]
    assert all(row["type"] == "model" and row["id"].startswith("claude") for row in anthropic["data"])
    openai = demo.call("GET", "/openai/v1/models").json()
    assert openai["object"] == "list"
    assert {row["object"] for row in openai["data"]} == {"model"}


def test_what_it_does_not_know(demo: Client) -> None:
    assert demo.call("GET", "/other").status == 404
    assert demo.post(message(), "/other").error["type"] == "not_found_error"
    assert demo.post(b"[1", "/anthropic/v1/messages").status == 400


def test_stop_ends_a_running_stream_and_frees_the_port() -> None:
    server = DemoUpstream(word_s=5.0)
    url = server.start()
    with Client(url) as client:
        client.send("POST", "/anthropic/v1/messages", message())
        assert client.begin().status == 200
        server.stop()
        assert client.closed(within=2)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 1):
        pass
    server.stop()
