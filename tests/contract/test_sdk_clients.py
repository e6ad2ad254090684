"""The official Anthropic SDK through ccm, over every dialect: create, stream, count_tokens, models (CLIENT 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from tests import answers
from tests.gateway import Gateway, providers
from tests.upstream import Upstream

DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini")
TOOL = {"name": "get_weather", "input": {"city": "Zürich", "days": 3}}
TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
]
ASK: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 300}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def gateway(request: pytest.FixtureRequest, up: Upstream, shared_gateway: Callable[..., Gateway]) -> Gateway:
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    dialect = params.get("dialect", "anthropic")
    gw = shared_gateway(dialect, providers(up, "a", dialect=dialect))
    up.reset()
    gw.reset()
    return gw


@pytest.fixture
def sdk(gateway: Gateway) -> Any:
    with anthropic.Anthropic(
        api_key="ccm-proxy", base_url=gateway.base_url, max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.mark.parametrize("dialect", DIALECTS)
class TestEveryDialect:
    def test_create(self, sdk: anthropic.Anthropic, dialect: str) -> None:
        got = sdk.messages.create(messages=user("hello"), **ASK)
        assert got.content[0].text == answers.TEXT
        assert (got.role, got.stop_reason) == ("assistant", "end_turn")
        assert (got.usage.input_tokens, got.usage.output_tokens) == (21, len(answers.TEXT) // 4)
        assert got.id.startswith("msg_")

    def test_stream(self, sdk: anthropic.Anthropic, dialect: str) -> None:
        with sdk.messages.stream(messages=user("hello"), **ASK) as stream:
            text = "".join(stream.text_stream)
            got = stream.get_final_message()
        assert text == got.content[0].text == answers.TEXT
        assert (got.usage.input_tokens, got.usage.output_tokens) == (21, len(answers.TEXT) // 4)

    def test_a_tool_round(self, up: Upstream, sdk: anthropic.Anthropic, dialect: str) -> None:
        up.script("/a", ("answer", {"tool": TOOL, "text": ""}), ("answer", {"text": "It rains."}))
        messages = user("What is the weather?")
        with sdk.messages.stream(messages=messages, tools=TOOLS, **ASK) as stream:
            first = stream.get_final_message()
        assert first.stop_reason == "tool_use"
        (call,) = [b for b in first.content if b.type == "tool_use"]
        assert (call.name, call.input) == (TOOL["name"], TOOL["input"])
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain, 7 °C"}
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = sdk.messages.create(messages=messages, tools=TOOLS, **ASK)
        assert second.content[0].text == "It rains."
        sent = up.seen("/a")[1].raw.decode()
        assert "rain, 7 \\u00b0C" in sent or "rain, 7 °C" in sent
        assert "Z\\u00fcrich" in sent or "Zürich" in sent

    def test_the_upstream_request_is_valid(
        self, up: Upstream, sdk: anthropic.Anthropic, dialect: str, strict: Any
    ) -> None:
        sdk.messages.create(
            messages=user("hello"), tools=TOOLS, system="Be kind.", extra_body={"temperature": 0.5}, **ASK
        )
        body = up.seen("/a")[0].json
        check = {
            "anthropic": strict.anthropic_request,
            "openai_chat": strict.openai_request,
            "openai_responses": lambda b: strict.openai_request(b, "CreateResponse"),
            "gemini": strict.google_request,
        }
        assert check[dialect](body) == []

    def test_many_turns_have_different_ids(
        self, up: Upstream, sdk: anthropic.Anthropic, dialect: str
    ) -> None:
        """A repeated message or tool id sends Claude Code into an endless loop (CLIENT 0.4)."""
        up.always("/a", ("answer", {"tool": TOOL}))
        got = [sdk.messages.create(messages=user(f"{n}"), tools=TOOLS, **ASK) for n in range(4)]
        assert len({m.id for m in got}) == 4
        assert len({b.id for m in got for b in m.content if b.type == "tool_use"}) == 4

    def test_stop_sequences_and_limits_reach_the_provider(
        self, up: Upstream, sdk: anthropic.Anthropic, dialect: str
    ) -> None:
        sdk.messages.create(messages=user("x"), stop_sequences=["</severity>"], **ASK)
        sent = up.seen("/a")[0].raw.decode()
        assert "300" in sent
        if dialect != "openai_responses":  # the Responses API has no stop sequences
            assert "</severity>" in sent


def test_count_tokens(sdk: anthropic.Anthropic) -> None:
    got = sdk.messages.count_tokens(model="claude-sonnet-5-5", messages=user("word " * 200))
    assert 100 < got.input_tokens < 1000


def test_models(sdk: anthropic.Anthropic) -> None:
    listed = list(sdk.models.list(limit=5))
    assert listed and all(m.id for m in listed)
    assert sdk.models.retrieve(listed[0].id).id == listed[0].id


def test_bearer_credentials(gateway: Gateway) -> None:
    client = anthropic.Anthropic(auth_token="ccm-proxy", base_url=gateway.base_url, max_retries=0)
    assert client.messages.create(messages=user("x"), **ASK).content


def test_a_base_url_with_v1_works_too(gateway: Gateway) -> None:
    client = anthropic.Anthropic(api_key="ccm-proxy", base_url=f"{gateway.base_url}/v1", max_retries=0)
    assert client.messages.create(messages=user("x"), **ASK).content


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
def test_errors_have_their_classes(
    up: Upstream, sdk: anthropic.Anthropic, status: int, kind: str, expected: type[Exception]
) -> None:
    up.always("/a", ("status", status, {}, answers.error("anthropic", status, "the words", kind)))
    with pytest.raises(expected) as raised:
        sdk.messages.create(messages=user("x"), **ASK)
    if status != 401:  # the provider's words about ccm's own key would only mislead
        assert "the words" in str(raised.value)


def test_a_broken_stream_is_an_exception_never_a_short_message(
    up: Upstream, sdk: anthropic.Anthropic
) -> None:
    """A clean early end would be taken for a whole message, silently."""
    up.script("/a", [("sse", answers.events("anthropic")[:-2]), ("cut", "fin")])
    with pytest.raises(anthropic.APIError), sdk.messages.stream(messages=user("x"), **ASK) as stream:
        stream.get_final_message()


def test_async_and_parallel(gateway: Gateway) -> None:
    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic(
            api_key="ccm-proxy", base_url=gateway.base_url, max_retries=0
        ) as client:

            async def one(n: int) -> str:
                async with client.messages.stream(messages=user(f"{n}"), **ASK) as stream:
                    return (await stream.get_final_message()).content[0].text

            return await asyncio.gather(*(one(n) for n in range(16)))

    assert asyncio.run(run()) == [answers.TEXT] * 16
