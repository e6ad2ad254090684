"""One question, asked with each official SDK, and what it read: the same few fields for all of them.

The SDKs are both clients of ccm and oracles that ask an upstream directly. Their types are not followed here: each
reading is flattened into a `Reading` at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from google import genai

KEY = "ccm-proxy"
_TIMEOUT_S = 20.0
# what each API calls the ends of an answer
_STOPS = {
    "end_turn": "end", "stop_sequence": "end", "stop": "end", "completed": "end", "STOP": "end",
    "tool_use": "tool", "tool_calls": "tool", "max_tokens": "length", "length": "length",
    "max_output_tokens": "length", "incomplete": "length", "MAX_TOKENS": "length", "refusal": "filter", "content_filter": "filter",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation in the words of no API: steps are ("user", text), ("call", id, name, input), ("result", id, text)."""

    steps: tuple[tuple[Any, ...], ...]
    model: str
    system: str = ""
    tools: tuple[tuple[str, dict[str, Any]], ...] = ()  # (name, JSON Schema)
    forced: bool = False
    max_tokens: int = 200
    stop: tuple[str, ...] = ()


@dataclass(slots=True)
class Reading:
    """What a client understood. `tools` are (name, input); `stop` is end | tool | length | filter."""

    text: str = ""
    reasoning: str = ""
    tools: list[tuple[str, Any]] = field(default_factory=list)
    stop: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class Refused(Exception):
    """The API answered with an error: its status and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@functools.lru_cache(16)
def messages_client(base_url: str) -> anthropic.Anthropic:
    """The anthropic SDK for that base URL; made once, for each costs 30 ms."""
    return anthropic.Anthropic(api_key=KEY, base_url=base_url, max_retries=0, timeout=_TIMEOUT_S)


@functools.lru_cache(16)
def openai_client(base_url: str) -> openai.OpenAI:
    """The openai SDK for that base URL."""
    return openai.OpenAI(api_key=KEY, base_url=f"{base_url}/v1", max_retries=0, timeout=_TIMEOUT_S)


@functools.lru_cache(16)
def _gemini_client(base_url: str) -> genai.Client:
    return genai.Client(api_key=KEY, http_options={"base_url": base_url, "api_version": "v1beta"})


Ask = Callable[[str, Question, bool, dict[str, str]], Reading]


def ask_messages(base_url: str, q: Question, stream: bool, headers: dict[str, str]) -> Reading:
    """By the anthropic SDK."""
    options: dict[str, Any] = {
        "model": q.model,
        "max_tokens": q.max_tokens,
        "messages": _messages(q),
        "extra_body": {"temperature": 0},
        "extra_headers": headers,
    }
    if q.system:
        options["system"] = q.system
    if q.tools:
        options["tools"] = [{"name": n, "description": n, "input_schema": s} for n, s in q.tools]
    if q.forced:
        options["tool_choice"] = {"type": "any"}
    if q.stop:
        options["stop_sequences"] = list(q.stop)
    client = messages_client(base_url)
    try:
        if stream:
            with client.messages.stream(**options) as events:
                made: Any = events.get_final_message()
        else:
            made = client.messages.create(**options)
    except anthropic.APIStatusError as error:
        raise Refused(error.status_code, error.message) from None
    blocks = made.content
    usage = made.usage
    return Reading(
        "".join(b.text for b in blocks if b.type == "text"),
        "".join(b.thinking for b in blocks if b.type == "thinking"),
        [(b.name, b.input) for b in blocks if b.type == "tool_use"],
        _STOPS.get(str(made.stop_reason), str(made.stop_reason)),
        usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0),
        usage.output_tokens,
    )


def _messages(q: Question) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for kind, *rest in q.steps:
        if kind == "call":
            block = {"type": "tool_use", "id": rest[0], "name": rest[1], "input": rest[2]}
        elif kind == "result":
            block = {"type": "tool_result", "tool_use_id": rest[0], "content": rest[1]}
        else:
            block = {"type": "text", "text": rest[0]}
        role = "assistant" if kind == "call" else "user"
        if out and out[-1]["role"] == role:
            out[-1]["content"].append(block)
        else:
            out.append({"role": role, "content": [block]})
    return out


def ask_chat(base_url: str, q: Question, stream: bool, headers: dict[str, str]) -> Reading:
    """By the openai SDK, Chat Completions."""
    options: dict[str, Any] = {
        "model": q.model,
        "max_completion_tokens": q.max_tokens,
        "temperature": 0,
        "messages": ([{"role": "system", "content": q.system}] if q.system else []) + _chat(q),
        "extra_headers": headers,
    }
    if q.tools:
        options["tools"] = [
            {"type": "function", "function": {"name": n, "description": n, "parameters": s}}
            for n, s in q.tools
        ]
    if q.forced:
        options["tool_choice"] = "required"
    if q.stop:
        options["stop"] = list(q.stop)
    client = openai_client(base_url)
    try:
        if stream:
            options["stream_options"] = {"include_usage": True}
            with client.chat.completions.stream(**options) as events:
                made: Any = events.get_final_completion()
        else:
            made = client.chat.completions.create(**options)
    except openai.LengthFinishReasonError as cut:
        made = cut.completion  # the helper's way to say so
    except openai.APIStatusError as error:
        raise Refused(error.status_code, error.message) from None
    choice = made.choices[0]
    calls = choice.message.tool_calls or []
    return Reading(
        choice.message.content or "",
        (choice.message.model_extra or {}).get("reasoning_content") or "",
        [(c.function.name, json.loads(c.function.arguments or "{}")) for c in calls],
        _STOPS.get(str(choice.finish_reason), str(choice.finish_reason)),
        made.usage.prompt_tokens if made.usage else 0,
        made.usage.completion_tokens if made.usage else 0,
    )


def _chat(q: Question) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for kind, *rest in q.steps:
        if kind == "call":
            function = {"name": rest[1], "arguments": json.dumps(rest[2])}
            call = {"id": rest[0], "type": "function", "function": function}
            if out and out[-1]["role"] == "assistant":
                out[-1]["tool_calls"].append(call)
            else:
                out.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "result":
            out.append({"role": "tool", "tool_call_id": rest[0], "content": rest[1]})
        else:
            out.append({"role": "user", "content": rest[0]})
    return out


def ask_responses(base_url: str, q: Question, stream: bool, headers: dict[str, str]) -> Reading:
    """By the openai SDK, Responses."""
    options: dict[str, Any] = {
        "model": q.model,
        "max_output_tokens": q.max_tokens,
        "temperature": 0,
        "input": _items(q),
        "store": False,
        "extra_headers": headers,
    }
    if q.system:
        options["instructions"] = q.system
    if q.tools:
        options["tools"] = [
            {"type": "function", "name": n, "description": n, "parameters": s, "strict": False}
            for n, s in q.tools
        ]
    if q.forced:
        options["tool_choice"] = "required"
    client = openai_client(base_url)
    try:
        if stream:
            made: Any = final_response(client.responses.create(**options, stream=True))
        else:
            made = client.responses.create(**options)
    except openai.APIStatusError as error:
        raise Refused(error.status_code, error.message) from None
    calls = [item for item in made.output if item.type == "function_call"]
    thoughts = [s.text for item in made.output if item.type == "reasoning" for s in item.summary or ()]
    stop = made.incomplete_details.reason if made.incomplete_details else made.status
    return Reading(
        made.output_text,
        "".join(thoughts),
        [(c.name, json.loads(c.arguments or "{}")) for c in calls],
        "tool" if calls and stop == "completed" else _STOPS.get(str(stop), str(stop)),
        made.usage.input_tokens if made.usage else 0,
        made.usage.output_tokens if made.usage else 0,
    )


def final_response(events: Any) -> Any:
    """The response of the terminal event. (The SDK's own helper knows no `response.incomplete`.)"""
    text, final = "", None
    for event in events:
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type in ("response.completed", "response.incomplete", "response.failed"):
            final = event.response
        elif event.type == "error":
            raise Refused(0, event.message)
    if final is None:
        raise Refused(0, "the stream ends without a terminal event")
    if final.status == "failed":
        raise Refused(0, final.error.message if final.error else "failed")
    if text != final.output_text:
        raise ValueError(f"the deltas say {text!r}, the final response {final.output_text!r}")
    return final


def _items(q: Question) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for kind, *rest in q.steps:
        if kind == "call":
            out.append(
                {
                    "type": "function_call",
                    "call_id": rest[0],
                    "name": rest[1],
                    "arguments": json.dumps(rest[2]),
                }
            )
        elif kind == "result":
            out.append({"type": "function_call_output", "call_id": rest[0], "output": rest[1]})
        else:
            out.append({"role": "user", "content": rest[0]})
    return out


def ask_gemini(base_url: str, q: Question, stream: bool, headers: dict[str, str]) -> Reading:
    """By the google-genai SDK; an oracle only (ccm has no such door): it needs no headers."""
    names = {step[1]: step[2] for step in q.steps if step[0] == "call"}
    contents: list[dict[str, Any]] = []
    for kind, *rest in q.steps:
        part: dict[str, Any]
        if kind == "call":
            part = {"function_call": {"name": rest[1], "args": rest[2]}}
        elif kind == "result":
            part = {"function_response": {"name": names[rest[0]], "response": {"output": rest[1]}}}
        else:
            part = {"text": rest[0]}
        role = "model" if kind == "call" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"].append(part)
        else:
            contents.append({"role": role, "parts": [part]})
    config: dict[str, Any] = {"max_output_tokens": q.max_tokens, "temperature": 0}
    if q.system:
        config["system_instruction"] = q.system
    if q.tools:
        declared = [{"name": n, "description": n, "parameters_json_schema": s} for n, s in q.tools]
        config["tools"] = [{"function_declarations": declared}]
        config["automatic_function_calling"] = {"disable": True}
    client = _gemini_client(base_url)
    call: Any = client.models.generate_content_stream if stream else client.models.generate_content
    try:
        made = call(model=q.model, contents=contents, config=config)
        answers = list(made) if stream else [made]
    except genai.errors.APIError as error:
        raise Refused(error.code, error.message or "") from None
    out = Reading()
    for answer in answers:
        for candidate in answer.candidates or ():
            for piece in (candidate.content.parts if candidate.content else None) or ():
                if piece.function_call:
                    out.tools.append((piece.function_call.name or "", dict(piece.function_call.args or {})))
                elif piece.text and piece.thought:
                    out.reasoning += piece.text
                elif piece.text:
                    out.text += piece.text
            if candidate.finish_reason:
                out.stop = _STOPS.get(candidate.finish_reason.name, candidate.finish_reason.name)
    if out.tools and out.stop in ("end", "FUNCTION_CALL"):
        out.stop = "tool"  # Gemini has no word of its own for it; aimock invented one
    return out


# the doors of ccm, and the SDK that asks an upstream of a dialect directly
DOORS: dict[str, Ask] = {
    "anthropic-sdk": ask_messages,
    "openai-sdk chat": ask_chat,
    "openai-sdk responses": ask_responses,
}
DIRECT: dict[str, Ask] = {
    "anthropic": ask_messages,
    "openai_chat": ask_chat,
    "openai_responses": ask_responses,
    "gemini": ask_gemini,
}
