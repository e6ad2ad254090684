"""Good answers of the four APIs the scripted upstream speaks: events for streams, objects for JSON. Pure data.

Shapes as the providers document them; a text answer, a tool call, or both (text first).
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

Event = dict[str, Any]
TEXT = "The quick brown fox jumps over the lazy dog: ünïcödé — \U0001f98a.\n"
_ids = itertools.count(1)

_PATHS = (
    (re.compile(r"/messages/count_tokens$"), "count:anthropic"),
    (re.compile(r"/messages$"), "anthropic"),
    (re.compile(r"/chat/completions$"), "openai_chat"),
    (re.compile(r"/responses/input_tokens$"), "count:openai_responses"),
    (re.compile(r"/responses$"), "openai_responses"),
    (re.compile(r"/models/[^/]+:(streamG|g)enerateContent$"), "gemini"),
    (re.compile(r"/models/[^/]+:countTokens$"), "count:gemini"),
)


def dialect_of(path: str) -> str:
    """The API that a request path belongs to, `count:<dialect>` for token counting, "" for none."""
    bare = path.partition("?")[0]
    return next((name for pattern, name in _PATHS if pattern.search(bare)), "")


def wants_stream(path: str, body: Any) -> bool:
    """Whether the request asks for a stream, by its path (Gemini) or its body."""
    if ":streamGenerateContent" in path:
        return True
    return isinstance(body, dict) and body.get("stream") is True


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def frame(dialect: str, event: Any) -> bytes:
    """One event as its API writes it. Strings and bytes are taken as they are."""
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        return event.encode()
    name = f"event: {event['type']}\n" if dialect in ("anthropic", "openai_responses") else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def events(dialect: str, text: str = TEXT, tool: dict[str, Any] | None = None, model: str = "m") -> list[Any]:
    """The complete stream of a good answer."""
    return _EVENTS[dialect](text, tool, model)


def whole(dialect: str, text: str = TEXT, tool: dict[str, Any] | None = None, model: str = "m") -> Event:
    """The JSON body of a good answer."""
    return _WHOLE[dialect](text, tool, model)


def error(dialect: str, status: int, message: str, type: str = "") -> Event:
    """An error body as the provider writes it."""
    if dialect == "gemini":
        return {
            "error": {"code": status, "message": message, "status": type or _GOOGLE.get(status, "UNKNOWN")}
        }
    if dialect.startswith("openai"):
        return {
            "error": {"message": message, "type": type or _OPENAI.get(status, "server_error"), "code": None}
        }
    return {
        "type": "error",
        "error": {"type": type or _ANTHROPIC.get(status, "api_error"), "message": message},
    }


_ANTHROPIC = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
_OPENAI = {400: "invalid_request_error", 401: "invalid_request_error", 429: "rate_limit_exceeded"}
_GOOGLE = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def _n() -> str:
    return f"{next(_ids):06d}"


# ------------------------------------------------------------------------------------------------ Anthropic
def _a_usage(text: str) -> dict[str, int]:
    return {
        "input_tokens": 21, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "output_tokens": max(1, len(text) // 4),
    }  # fmt: skip


def _a_whole(text: str, tool: dict[str, Any] | None, model: str) -> Event:
    content: list[Any] = [{"type": "text", "text": text}] if text else []
    if tool:
        content.append(
            {"type": "tool_use", "id": f"toolu_{_n()}", "name": tool["name"], "input": tool["input"]}
        )
    return {
        "id": f"msg_{_n()}", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None, "usage": _a_usage(text),
    }  # fmt: skip


def _a_events(text: str, tool: dict[str, Any] | None, model: str) -> list[Event]:
    message = _a_whole(text, tool, model)
    start = message | {"content": [], "stop_reason": None, "usage": message["usage"] | {"output_tokens": 1}}
    out: list[Event] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            empty: Event = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": p} for p in pieces(block["text"])]
        else:
            empty = block | {"input": {}}
            raw = json.dumps(block["input"], ensure_ascii=False)
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in pieces(raw)]
        out.append({"type": "content_block_start", "index": index, "content_block": empty})
        out += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        out.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    out += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return out


# ------------------------------------------------------------------------------------------------ OpenAI Chat
def _c_usage(text: str) -> dict[str, Any]:
    n = max(1, len(text) // 4)
    return {"prompt_tokens": 21, "completion_tokens": n, "total_tokens": 21 + n}


def _c_call(tool: dict[str, Any]) -> Event:
    return {
        "id": f"call_{_n()}", "type": "function",
        "function": {"name": tool["name"], "arguments": json.dumps(tool["input"], ensure_ascii=False)},
    }  # fmt: skip


def _c_whole(text: str, tool: dict[str, Any] | None, model: str) -> Event:
    message: Event = {"role": "assistant", "content": text or None}
    if tool:
        message["tool_calls"] = [_c_call(tool)]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if tool else "stop",
    }
    return {
        "id": f"chatcmpl-{_n()}", "object": "chat.completion", "created": 1700000000, "model": model,
        "choices": [choice], "usage": _c_usage(text),
    }  # fmt: skip


def _c_events(text: str, tool: dict[str, Any] | None, model: str) -> list[Any]:
    base = {
        "id": f"chatcmpl-{_n()}",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": model,
    }

    def chunk(delta: Event, finish: str | None = None) -> Event:
        return base | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    out: list[Any] = [chunk({"role": "assistant", "content": ""})]
    out += [chunk({"content": p}) for p in pieces(text)]
    if tool:
        call = _c_call(tool)
        empty = {"name": tool["name"], "arguments": ""}
        out.append(
            chunk({"tool_calls": [{"index": 0, "id": call["id"], "type": "function", "function": empty}]})
        )
        out += [
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": p}}]})
            for p in pieces(call["function"]["arguments"])
        ]
    out.append(chunk({}, "tool_calls" if tool else "stop"))
    out.append(base | {"choices": [], "usage": _c_usage(text)})
    out.append("data: [DONE]\n\n")
    return out


# ------------------------------------------------------------------------------------------------ OpenAI Responses
def _r_whole(text: str, tool: dict[str, Any] | None, model: str) -> Event:
    output: list[Event] = []
    if text:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        output.append(
            {
                "type": "message",
                "id": f"msg_{_n()}",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    if tool:
        call = _c_call(tool)
        output.append(
            {
                "type": "function_call", "id": f"fc_{_n()}", "call_id": call["id"], "name": tool["name"],
                "arguments": call["function"]["arguments"], "status": "completed",
            }
        )  # fmt: skip
    n = max(1, len(text) // 4)
    usage = {
        "input_tokens": 21, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": n,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 21 + n,
    }  # fmt: skip
    return {
        "id": f"resp_{_n()}", "object": "response", "created_at": 1700000000, "status": "completed",
        "error": None, "incomplete_details": None, "instructions": None, "model": model, "output": output,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}, "usage": usage,
    }  # fmt: skip


def _r_events(text: str, tool: dict[str, Any] | None, model: str) -> list[Event]:
    full = _r_whole(text, tool, model)
    out: list[Event] = []

    def add(type: str, **fields: Any) -> None:
        out.append({"type": type, "sequence_number": len(out), **fields})

    add("response.created", response=full | {"status": "in_progress", "output": [], "usage": None})
    for index, item in enumerate(full["output"]):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part = item["content"][0]
            add(
                "response.output_item.added",
                output_index=index,
                item=item | {"status": "in_progress", "content": []},
            )
            add("response.content_part.added", **at, content_index=0, part=part | {"text": ""})
            for piece in pieces(part["text"]):
                add("response.output_text.delta", **at, content_index=0, delta=piece, logprobs=[])
            add("response.output_text.done", **at, content_index=0, text=part["text"], logprobs=[])
            add("response.content_part.done", **at, content_index=0, part=part)
        else:
            add(
                "response.output_item.added",
                output_index=index,
                item=item | {"status": "in_progress", "arguments": ""},
            )
            for piece in pieces(item["arguments"]):
                add("response.function_call_arguments.delta", **at, delta=piece)
            add("response.function_call_arguments.done", **at, arguments=item["arguments"])
        add("response.output_item.done", output_index=index, item=item)
    add("response.completed", response=full)
    return out


# ------------------------------------------------------------------------------------------------ Gemini
def _g_chunk(parts: list[Event], model: str, text: str, finish: str = "") -> Event:
    n = max(1, len(text) // 4)
    candidate: Event = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 21, "candidatesTokenCount": n, "totalTokenCount": 21 + n}
    return {
        "candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": f"resp{_n()}",
    }  # fmt: skip


def _g_parts(text: str, tool: dict[str, Any] | None) -> list[Event]:
    parts: list[Event] = [{"text": p} for p in pieces(text, 14)]
    if tool:
        parts.append({"functionCall": {"name": tool["name"], "args": tool["input"]}})
    return parts


def _g_whole(text: str, tool: dict[str, Any] | None, model: str) -> Event:
    parts: list[Event] = [{"text": text}] if text else []
    return _g_chunk(parts + _g_parts("", tool), model, text, "STOP")


def _g_events(text: str, tool: dict[str, Any] | None, model: str) -> list[Event]:
    parts = _g_parts(text, tool)
    return [_g_chunk([p], model, text, "STOP" if n == len(parts) - 1 else "") for n, p in enumerate(parts)]


_EVENTS = {
    "anthropic": _a_events, "openai_chat": _c_events, "openai_responses": _r_events, "gemini": _g_events,
}  # fmt: skip
_WHOLE = {
    "anthropic": _a_whole, "openai_chat": _c_whole, "openai_responses": _r_whole, "gemini": _g_whole,
}  # fmt: skip
