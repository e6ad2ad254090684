"""OpenAI's official SDK at ccm's other doors: Chat Completions and Responses in, any provider out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests import answers
from tests.gateway import Gateway, providers
from tests.upstream import Upstream

DIALECTS = ("anthropic", "openai_chat", "gemini")
TOOL = {"name": "get_weather", "input": {"city": "Zürich"}}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(params=DIALECTS)
def sdk(request: pytest.FixtureRequest, up: Upstream, fresh: Callable[..., Gateway]) -> Any:
    gateway = fresh(providers(up, "a", "b", dialect=request.param))
    with openai.OpenAI(
        api_key="ccm-proxy", base_url=f"{gateway.base_url}/v1", max_retries=0, timeout=10
    ) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]


def test_chat_completions(up: Upstream, sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model="claude-sonnet-4-5", messages=user("hello"))
    assert whole.choices[0].message.content == answers.TEXT
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage and whole.usage.prompt_tokens == 21
    options: Any = {"stream_options": {"include_usage": True}}
    chunks = list(sdk.chat.completions.create(model="m", messages=user("hello"), stream=True, **options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answers.TEXT
    assert chunks[-1].usage and chunks[-1].usage.prompt_tokens == 21
    up.always("/a", ("answer", {"tool": TOOL, "text": ""}))
    called = sdk.chat.completions.create(model="m", messages=user("weather?"), tools=TOOLS)
    (call,) = called.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments.replace(" ", "")) in (
        ("get_weather", '{"city":"Zürich"}'),
        ("get_weather", '{"city":"Z\\u00fcrich"}'),
    )
    assert called.choices[0].finish_reason == "tool_calls"
    up.always(
        "/a", ("status", 529, {}, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}})
    )
    assert (
        sdk.chat.completions.create(model="m", messages=user("again")).choices[0].message.content
        == answers.TEXT
    )


def test_responses(up: Upstream, sdk: openai.OpenAI) -> None:
    assert sdk.responses.create(model="m", input="hello").output_text == answers.TEXT
    with sdk.responses.stream(model="m", input="hello") as stream:
        assert stream.get_final_response().output_text == answers.TEXT


def test_models_and_errors(up: Upstream, sdk: openai.OpenAI) -> None:
    assert list(sdk.models.list())
    body = {"error": {"message": "bad words", "type": "invalid_request_error"}, "type": "error"}
    up.always("/a", ("status", 400, {}, body))
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model="m", messages=user("x"))
