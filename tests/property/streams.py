"""The same answer in the words of every API: streams of our own making, in the providers' documented forms.

An answer is a list of blocks; `MAKERS` names for each way of speaking who makes it, ccm's dialect and the model.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

from ccm.wire import eventstream_encode

Block = tuple[str, Any]  # ("text", words) | ("thinking", words) | ("call", (name, arguments))
Frames = list[bytes]


def data(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def dumped(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def stop_of(blocks: list[Block], tool: str, end: str) -> str:
    return tool if any(kind == "call" for kind, _ in blocks) else end


# ------------------------------------------------------------------------------------------------ the dialects' words
def anthropic_lanes(blocks: list[Block]) -> list[list[dict[str, Any]]]:
    """The events of each block, in order."""
    lanes = []
    for index, (kind, value) in enumerate(blocks):
        if kind == "text":
            start: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": p} for p in halves(value)]
        elif kind == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": p} for p in halves(value)]
            deltas.append({"type": "signature_delta", "signature": f"c2ln{index:04d}"})
        else:
            start = {"type": "tool_use", "id": f"toolu_{index:06d}", "name": value[0], "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in halves(dumped(value[1]))]
        lanes.append(
            [
                {"type": "content_block_start", "index": index, "content_block": start},
                *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
                {"type": "content_block_stop", "index": index},
            ]
        )
    return lanes


def anthropic_events(blocks: list[Block], inner: list[dict[str, Any]]) -> list[dict[str, Any]]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 21, "output_tokens": 1},
    }  # fmt: skip
    delta = {"stop_reason": stop_of(blocks, "tool_use", "end_turn"), "stop_sequence": None}
    return [
        {"type": "message_start", "message": message},
        *inner,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def anthropic(blocks: list[Block]) -> Frames:
    inner = [event for lane in anthropic_lanes(blocks) for event in lane]
    return [data(event, event["type"]) for event in anthropic_events(blocks, inner)]


def openai_chat(blocks: list[Block]) -> Frames:
    out: list[Any] = [{"role": "assistant", "content": ""}]
    calls = itertools.count()
    for kind, value in blocks:
        if kind == "call":
            index = next(calls)
            function = {"name": value[0], "arguments": ""}
            out.append(
                {
                    "tool_calls": [
                        {"index": index, "id": f"call_{index:06d}", "type": "function", "function": function}
                    ]
                }
            )
            out += [
                {"tool_calls": [{"index": index, "function": {"arguments": p}}]}
                for p in halves(dumped(value[1]))
            ]
        else:
            out += [{"content" if kind == "text" else "reasoning_content": p} for p in halves(value)]
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in out]
    chunks.append(
        {"choices": [{"index": 0, "delta": {}, "finish_reason": stop_of(blocks, "tool_calls", "stop")}]}
    )
    chunks.append({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}})
    return [*map(data, chunks), b"data: [DONE]\n\n"]


def openai_responses(blocks: list[Block]) -> Frames:
    out: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
    ]
    for index, (kind, value) in enumerate(blocks):
        at = {"output_index": index, "item_id": f"i_{index}"}
        if kind == "call":
            item: dict[str, Any] = {
                "type": "function_call",
                "id": f"i_{index}",
                "call_id": f"call_{index:06d}",
                "name": value[0],
            }
            whole = {**item, "arguments": dumped(value[1])}
            name, pieces = "response.function_call_arguments.delta", halves(dumped(value[1]))
        elif kind == "text":
            item = {"type": "message", "id": f"i_{index}", "role": "assistant", "content": []}
            whole = {**item, "content": [{"type": "output_text", "text": value, "annotations": []}]}
            name, pieces = "response.output_text.delta", halves(value)
        else:
            item = {"type": "reasoning", "id": f"i_{index}", "summary": []}
            whole = {
                **item,
                "summary": [{"type": "summary_text", "text": value}],
                "encrypted_content": f"RU5D{index:04d}",
            }
            name, pieces = "response.reasoning_summary_text.delta", halves(value)
        place = {"content_index": 0} if kind == "text" else {"summary_index": 0} if kind == "thinking" else {}
        out.append({"type": "response.output_item.added", "output_index": index, "item": item})
        out += [{"type": name, **at, **place, "delta": p} for p in pieces]
        out.append({"type": "response.output_item.done", "output_index": index, "item": whole})
    usage = {"input_tokens": 21, "output_tokens": 9, "total_tokens": 30}
    out.append(
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "usage": usage}}
    )
    return [data(event, event["type"]) for event in out]


def gemini(blocks: list[Block]) -> Frames:
    parts: list[dict[str, Any]] = []
    for index, (kind, value) in enumerate(blocks):
        if kind == "call":
            parts.append(
                {"functionCall": {"name": value[0], "args": value[1]}, "thoughtSignature": f"c2ln{index:04d}"}
            )
        else:
            parts += [{"text": p, **({"thought": True} if kind == "thinking" else {})} for p in halves(value)]
    chunks: list[Any] = [
        {"candidates": [{"content": {"role": "model", "parts": [p]}, "index": 0}]} for p in parts
    ]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    chunks[-1]["usageMetadata"] = {"promptTokenCount": 21, "candidatesTokenCount": 9, "totalTokenCount": 30}
    return [data(chunk) for chunk in chunks]


def message(name: str, payload: Any) -> bytes:
    head = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return eventstream_encode.encode(head, json.dumps(payload, ensure_ascii=False).encode())


def bedrock(blocks: list[Block]) -> Frames:
    out = [("messageStart", {"role": "assistant"}), *(e for lane in bedrock_lanes(blocks) for e in lane)]
    return [message(*event) for event in [*out, *bedrock_tail(blocks)]]


def bedrock_lanes(blocks: list[Block]) -> list[list[tuple[str, dict[str, Any]]]]:
    lanes = []
    for index, (kind, value) in enumerate(blocks):
        place = {"contentBlockIndex": index}
        lane: list[tuple[str, dict[str, Any]]] = []
        if kind == "call":
            start = {"toolUse": {"toolUseId": f"tooluse_{index}", "name": value[0]}}
            lane.append(("contentBlockStart", {**place, "start": start}))
            deltas: list[Any] = [{"toolUse": {"input": p}} for p in halves(dumped(value[1]))]
        elif kind == "text":
            deltas = [{"text": p} for p in halves(value)]
        else:
            deltas = [{"reasoningContent": {"text": p}} for p in halves(value)]
            deltas.append({"reasoningContent": {"signature": f"c2ln{index:04d}"}})
        lane += [("contentBlockDelta", {**place, "delta": d}) for d in deltas]
        lanes.append([*lane, ("contentBlockStop", place)])
    return lanes


def bedrock_tail(blocks: list[Block]) -> list[tuple[str, dict[str, Any]]]:
    usage = {"inputTokens": 21, "outputTokens": 9, "totalTokens": 30}
    return [
        ("messageStop", {"stopReason": stop_of(blocks, "tool_use", "end_turn")}),
        ("metadata", {"usage": usage}),
    ]


def bedrock_invoke(blocks: list[Block]) -> Frames:
    inner = [event for lane in anthropic_lanes(blocks) for event in lane]
    events = anthropic_events(blocks, inner)
    return [message("chunk", {"bytes": base64.b64encode(json.dumps(e).encode()).decode()}) for e in events]


MAKERS: dict[
    str, tuple[Callable[[list[Block]], Frames], str, str]
] = {  # how it speaks, ccm's dialect, the model
    "anthropic": (anthropic, "anthropic", "claude-sonnet-4-5"),
    "openai_chat": (openai_chat, "openai_chat", "m"),
    "openai_responses": (openai_responses, "openai_responses", "m"),
    "gemini": (gemini, "gemini", "gemini-2.5-pro"),
    "bedrock": (bedrock, "bedrock", "us.amazon.nova-pro-v1:0"),
    "bedrock_invoke": (bedrock_invoke, "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
