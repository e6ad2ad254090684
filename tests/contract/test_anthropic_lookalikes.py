"""Servers that speak Anthropic's dialect nearly: what they leave out is mended or ends in an honest error, and never
depends on how the network cut the bytes (R1, R5, RELIABILITY 46, 47, 52; CLIENT 5)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import message, post
from tests.upstream import Step, Upstream

TOOL = {"name": "Write", "input": {"path": "/tmp/x"}}
TOOLS = [{"name": "Write", "input_schema": {"type": "object"}}]
TEXT = "alpha beta gamma delta"
GOOD = answers.events("anthropic", TEXT, TOOL)


def sse(events: list[dict[str, Any]]) -> bytes:
    return b"".join(answers.frame("anthropic", e) for e in events)


def without(kind: str) -> bytes:
    return sse([e for e in GOOD if e["type"] != kind])


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    events = copy.deepcopy(GOOD)
    for event in events:
        change(event)
    return sse(events)


def _drop_usage(event: dict[str, Any]) -> None:
    event.pop("usage", None)
    event.get("message", {}).pop("usage", None)


def _odd_id(event: dict[str, Any]) -> None:
    if event.get("content_block", {}).get("type") == "tool_use":
        event["content_block"]["id"] = "functions.Write:0|x y"


NEARLY: dict[str, bytes] = {
    "no-event-lines": b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in GOOD),
    "no-message-start": without("message_start"),
    "no-block-stop": without("content_block_stop"),
    "no-message-delta": without("message_delta"),
    "no-ping": without("ping"),
    "index-gap": changed(lambda e: "index" in e and e.update(index=e["index"] * 2 + 3)),
    "odd-tool-id": changed(_odd_id),
    "no-usage": changed(_drop_usage),
    "null-usage": changed(lambda e: e.update(usage=None) if e["type"] == "message_delta" else None),
    "done-line": sse(GOOD) + b"data: [DONE]\n\n",
    "text-after-the-end": sse([*GOOD, GOOD[3]]),
    "no-last-blank-line": sse(GOOD)[:-2],
    "bom": b"\xef\xbb\xbf" + sse(GOOD),
}
# After the commit there is nothing to mend these with: they end in an error event.
SECOND_START = GOOD[0]
OTHER_INDEX = {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "wrong"}}
NONSENSE: dict[str, bytes] = {
    "half-json": b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n',
    "bad-utf8": b'event: ping\ndata: {"type": "ping", "x": "\xff\xfe"}\n\n',
    "second-start": answers.frame("anthropic", SECOND_START),
}
# Blocks out of order: text and calls are kept, in a stream that a strict reader accepts.
DISORDER: dict[str, bytes] = {
    "other-index": answers.frame("anthropic", OTHER_INDEX),
    "start-inside-a-block": answers.frame("anthropic", GOOD[2] | {"index": 1}),
    "end-inside-a-block": sse(GOOD[-2:]),
}


@pytest.fixture
def gateway(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    gw = shared_gateway("lookalike", providers(up, "a", timeouts={"idle_s": 1.0}))
    up.reset()
    gw.reset()
    return gw


@pytest.mark.parametrize("pieces", [False, True], ids=["one-piece", "pieces"])
@pytest.mark.parametrize("form", NEARLY)
def test_a_nearly_right_stream_arrives_right(up: Upstream, gateway: Gateway, form: str, pieces: bool) -> None:
    raw = NEARLY[form]
    steps: list[Step] = [("bytes", raw)]
    if pieces:
        steps = [
            step for i in range(0, len(raw), 250) for step in (("bytes", raw[i : i + 250]), ("stall", 0.005))
        ]
    up.script("/a", [("head",), *steps])
    reply = post(gateway.base_url, message(tools=TOOLS))
    events = reply.events
    grammar.check(events)
    assert reply.text == TEXT
    blocks = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", b["id"]) for b in blocks if b["type"] == "tool_use")
    if form == "no-message-delta":
        return  # an end without a stop reason: complete or an error, both are honest
    assert events[-1]["type"] == "message_stop"
    (delta,) = [e for e in events if e["type"] == "message_delta"]
    assert delta["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("form", NONSENSE)
def test_nonsense_after_the_commit_is_an_error(up: Upstream, gateway: Gateway, form: str) -> None:
    later: Step = ("stall", 0.1)
    up.script("/a", [("sse", GOOD[:5]), later, ("bytes", NONSENSE[form]), later, ("sse", GOOD[5:])])
    reply = post(gateway.base_url, message(tools=TOOLS))
    grammar.check(reply.events)
    assert reply.events[-1]["type"] == "error"


@pytest.mark.parametrize("form", DISORDER)
def test_disorder_after_the_commit_never_reaches_the_client(
    up: Upstream, gateway: Gateway, form: str
) -> None:
    later: Step = ("stall", 0.1)
    up.script("/a", [("sse", GOOD[:5]), later, ("bytes", DISORDER[form]), later, ("sse", GOOD[5:])])
    reply = post(gateway.base_url, message(tools=TOOLS))
    grammar.check(reply.events)
    assert reply.events[-1]["type"] in ("error", "message_stop")
