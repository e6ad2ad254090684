"""Feeds what a surface answers to the official OpenAI SDK, without a socket; and makes Messages answers to feed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai

from ccm.dialects.inbound.base import SURFACES
from ccm.messages.blocks import BlockWriter
from ccm.messages.events import Event
from ccm.messages.tokens import Usage
from ccm.wire.sse import Framer

CREATED = 1_790_000_000


def ids() -> Callable[[str], str]:
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}{next(numbers):04d}"


def sdk(body: bytes, type: str = "text/event-stream", status: int = 200) -> openai.OpenAI:
    """A client whose every request gets this answer."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": type}, content=body)

    return openai.OpenAI(
        api_key="k",
        base_url="http://ccm/v1",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )


def stream(surface: str, events: list[Event], original: dict[str, Any]) -> bytes:
    """The whole streamed answer."""
    renderer = SURFACES[surface].renderer("asked", {}, original, ids(), CREATED)
    return b"".join(renderer.render(event) for event in events)


def whole(surface: str, message: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """The whole answer to a client that did not stream, through JSON as it goes over the wire."""
    made = SURFACES[surface].message(message, "asked", original, ids(), CREATED)
    copy: dict[str, Any] = json.loads(json.dumps(made))
    return copy


def ask(
    surface: str, body: dict[str, Any], path_model: str = "", stream: bool | None = None
) -> dict[str, Any]:
    """The Messages request of a client's body."""
    request, _ = SURFACES[surface].request(body, path_model, stream, {}, ids())
    return request


def losses(surface: str, body: dict[str, Any]) -> dict[str, str]:
    """feature -> how."""
    return dict(SURFACES[surface].request(body, "", None, {}, ids())[1])


def frames(data: bytes) -> list[Any]:
    """The JSON of every SSE event; "[DONE]" as it is."""
    framer = Framer()
    found = framer.feed(data) + framer.end()
    return ["[DONE]" if f.data == b"[DONE]" else json.loads(f.data) for f in found]


def answer(*steps: tuple[Any, ...], stop: str | None = None, usage: Usage | None = None) -> list[Event]:
    """Events of an answer: steps are BlockWriter calls, `("text", "hi")`; `finish` comes by itself."""
    writer = BlockWriter("msg_1", "m", usage or Usage(input=7, cache_read=2, output=5))
    for name, *args in steps:
        getattr(writer, name)(*args)
    writer.finish(stop)
    return writer.take()
