"""The official OpenAI SDK, and Anthropic's cloud clients, against a running ccm with providers of every dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests import answers
from tests.conftest import CcmProcess
from tests.upstream import Upstream

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FLAT: Any = {"type": "function", "strict": False, **TOOL["function"]}
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SUFFIX = {"anthropic": "", "openai_chat": "/v1", "openai_responses": "/v1", "gemini": "/v1beta"}
DIALECTS = tuple(SUFFIX)
CALL = {"name": "get_weather", "input": {"city": "Zürich"}}
KEY = "sk-upstream-0123456789abcdefghij"


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def start(ccm_process: Callable[..., CcmProcess], up: Upstream) -> Callable[[str], CcmProcess]:
    def run(dialect: str) -> CcmProcess:
        config = (
            '[proxy]\nauth_token = "ccm-proxy"\n[failover]\nmax_retries = 0\n[providers.one]\ntype = "custom"\n'
            f'dialect = "{dialect}"\nbase_url = "{up.url}/one{SUFFIX[dialect]}"\napi_key_env = "CCM_TEST_KEY"\n'
        )
        return ccm_process(config, env={"CCM_TEST_KEY": KEY})

    return run


def client(process: CcmProcess) -> openai.OpenAI:
    return openai.OpenAI(api_key="ccm-proxy", base_url=f"{process.base_url}/v1", max_retries=0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_chat_completions(start: Callable[[str], CcmProcess], up: Upstream, dialect: str) -> None:
    ask = client(start(dialect)).chat.completions
    made = ask.create(model="claude-sonnet-4-5", messages=HI)
    assert made.object == "chat.completion" and made.model == "claude-sonnet-4-5"
    assert made.choices[0].message.content == answers.TEXT and made.choices[0].finish_reason == "stop"
    assert made.usage is not None and made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens  # fmt: skip
    with ask.stream(model="claude-sonnet-4-5", messages=HI, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == answers.TEXT and final.usage is not None
    up.always("/one", ("answer", {"tool": CALL}))
    called = ask.create(model="claude-sonnet-4-5", messages=HI, tools=[TOOL])
    assert called.choices[0].finish_reason == "tool_calls"
    calls = called.choices[0].message.tool_calls
    assert calls
    call: Any = calls[0]
    with ask.stream(model="claude-sonnet-4-5", messages=HI, tools=[TOOL]) as stream:
        streamed: Any = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed[0].function.name == call.function.name
    assert json.loads(streamed[0].function.arguments) == json.loads(call.function.arguments)
    up.always("/one", ("answer",))
    history: list[Any] = [
        *HI,
        called.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"},
    ]
    again = ask.create(model="claude-sonnet-4-5", messages=history, tools=[TOOL])
    assert again.choices[0].message.content == answers.TEXT
    assert "sunny, 21 degrees" in json.dumps(up.seen("/one")[-1].json)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_responses(start: Callable[[str], CcmProcess], up: Upstream, dialect: str) -> None:
    ask = client(start(dialect)).responses
    made = ask.create(model="claude-sonnet-4-5", input="hi", instructions="Be brief.")
    assert made.status == "completed" and made.output_text == answers.TEXT
    with ask.stream(model="claude-sonnet-4-5", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == answers.TEXT and final.usage is not None
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    up.always("/one", ("answer", {"tool": CALL}))
    with ask.stream(model="claude-sonnet-4-5", input="hi", tools=[FLAT]) as stream:
        called: Any = stream.get_final_response()
    call = next(item for item in called.output if item.type == "function_call")
    assert isinstance(json.loads(call.arguments), dict)
    up.always("/one", ("answer",))
    history: Any = [
        *HI,
        *(item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in called.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"},
    ]
    assert ask.create(model="claude-sonnet-4-5", input=history, tools=[FLAT]).output_text == answers.TEXT
    assert "sunny, 21 degrees" in json.dumps(up.seen("/one")[-1].json)


def test_images_structured_output_and_effort_reach_the_provider(
    start: Callable[[str], CcmProcess], up: Upstream
) -> None:
    ask = client(start("anthropic"))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}  # fmt: skip
    parts: Any = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PNG}}]
    form: Any = {"type": "json_schema", "json_schema": {"name": "o", "schema": schema, "strict": True}}
    raw = ask.chat.completions.with_raw_response.create(
        model="claude-opus-4-7", messages=[{"role": "user", "content": parts}], response_format=form,
        reasoning_effort="high", seed=7,
    )  # fmt: skip
    assert "seed=dropped" in raw.headers["x-ccm-loss"]
    sent = up.seen("/one")[-1].json
    assert sent["messages"][0]["content"][1]["source"]["media_type"] == "image/png"
    assert sent["output_config"]["format"]["schema"] == schema and sent["output_config"]["effort"] == "high"
    ask.responses.create(
        model="claude-opus-4-7", input="hi", reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "o", "schema": schema}},
    )  # fmt: skip
    sent = up.seen("/one")[-1].json
    assert sent["output_config"]["format"]["schema"] == schema and sent["output_config"]["effort"] == "low"


THINKING = [
    {"type": "message_start", "message": {"id": "msg_x", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "why"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "U0lH"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ok"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]  # fmt: skip


def test_reasoning_goes_out_and_comes_back(start: Callable[[str], CcmProcess], up: Upstream) -> None:
    ask = client(start("anthropic"))
    block = {"type": "thinking", "thinking": "why", "signature": "U0lH"}
    up.script("/one", [("head",), ("sse", THINKING)])
    with ask.chat.completions.stream(model="claude-opus-4-7", messages=HI) as stream:
        message = stream.get_final_completion().choices[0].message.model_dump(exclude_none=True)
    assert message["reasoning_content"] == "why"
    turns: list[Any] = [*HI, message, *HI]
    ask.chat.completions.create(model="claude-opus-4-7", messages=turns)
    assert up.seen("/one")[-1].json["messages"][1]["content"][0] == block
    up.script("/one", [("head",), ("sse", THINKING)])
    with ask.responses.stream(model="claude-opus-4-7", input="hi") as events:
        final = events.get_final_response()
    assert final.usage is not None and (final.usage.input_tokens, final.usage.output_tokens) == (7, 9)
    items: Any = [*HI, *(item.model_dump(exclude_none=True) for item in final.output), *HI]
    ask.responses.create(model="claude-opus-4-7", input=items)
    assert up.seen("/one")[-1].json["messages"][1]["content"][0] == block


def test_errors(start: Callable[[str], CcmProcess], up: Upstream) -> None:
    process = start("anthropic")
    ask = client(process)
    with pytest.raises(openai.BadRequestError) as bad:
        ask.chat.completions.create(model="claude-sonnet-4-5", messages=HI, n=3)
    assert bad.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        ask.responses.create(model="claude-sonnet-4-5", input="hi", previous_response_id="resp_1")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(
            api_key="wrong", base_url=f"{process.base_url}/v1", max_retries=0
        ).chat.completions.create(model="claude-sonnet-4-5", messages=HI)
    long = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 300000 tokens > 200000 maximum"}}  # fmt: skip
    up.script("/one", ("status", 400, {}, long))
    with pytest.raises(openai.BadRequestError) as overflow:
        ask.responses.create(model="claude-sonnet-4-5", input="hi")
    assert overflow.value.code == "context_length_exceeded"
    up.script("/one", [("head",), ("sse", THINKING[:7]), ("cut", "rst")])
    with pytest.raises(openai.APIError):
        list(ask.chat.completions.create(model="claude-sonnet-4-5", messages=HI, stream=True))
    up.script("/one", [("head",), ("sse", THINKING[:7]), ("cut", "rst")])
    kinds = [e.type for e in ask.responses.create(model="claude-sonnet-4-5", input="hi", stream=True)]
    assert kinds[-1] == "response.failed" and "response.output_text.delta" in kinds


def test_bedrock_and_vertex_clients(start: Callable[[str], CcmProcess], up: Upstream) -> None:
    process = start("anthropic")
    bedrock = anthropic.AnthropicBedrock(
        aws_access_key="a", aws_secret_key="b", aws_region="us-east-1", base_url=process.base_url, max_retries=0,
        default_headers={"x-api-key": "ccm-proxy"},
    )  # fmt: skip
    vertex = anthropic.AnthropicVertex(
        access_token="ccm-proxy", project_id="p", region="us-east5", base_url=f"{process.base_url}/v1", max_retries=0
    )  # fmt: skip
    for ask in (bedrock, vertex):
        made = ask.messages.create(model="claude-opus-4-7", max_tokens=99, messages=HI)
        assert made.content[0].type == "text" and made.content[0].text == answers.TEXT
        with ask.messages.stream(model="claude-opus-4-7", max_tokens=99, messages=HI) as stream:
            assert stream.get_final_text() == answers.TEXT
        sent = up.seen("/one")[-1]
        assert sent.json["model"] == "claude-opus-4-7" and "anthropic_version" not in sent.json
        assert sent.headers["anthropic-version"]


def test_bedrock_s_stream_is_an_event_stream(start: Callable[[str], CcmProcess], up: Upstream) -> None:
    session = pytest.importorskip("botocore.session").get_session()
    session.set_credentials("a", "b")
    process = start("anthropic")
    bedrock = session.create_client("bedrock-runtime", region_name="us-east-1", endpoint_url=process.base_url)

    def add_token(request: Any, **_: Any) -> None:
        request.headers["x-api-key"] = "ccm-proxy"

    bedrock.meta.events.register("before-send.bedrock-runtime.*", add_token)
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": HI})
    model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    answer = bedrock.invoke_model_with_response_stream(
        modelId=model, body=body, contentType="application/json"
    )
    events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop"
    whole = json.loads(
        bedrock.invoke_model(modelId=model, body=body, contentType="application/json")["body"].read()
    )
    assert whole["content"][0]["text"] == answers.TEXT
