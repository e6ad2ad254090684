"""Upstreams that issue state of their own and refuse, as the real APIs do, what is not theirs or is missing.

One `Issuer` per API. It asks for two tools at once, and speaks when it gets their results; both with thoughts before,
and with a signature (encrypted content) that it will know again. For a scripted upstream: `up.always("/x", Issuer(...))`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests import answers
from tests.upstream import Seen, Step

MARKS = {"anthropic": "QU5U", "gemini": "R0VN", "openai_responses": "T0FJ"}  # how each one's signatures begin
DUMMY = "skip_thought_signature_validator"  # Google's own stand-in for a signature that never was
CITIES = ("Oslo", "Bern")
TOOLS: Any = [
    {
        "name": name,
        "description": f"The {name} of a city.",
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    for name in ("weather", "time")
]


class Refusal(Exception):
    """What an upstream would answer 400 with."""


@dataclass
class Issuer:
    """An upstream of one API: it mints state, and refuses requests whose state is wrong."""

    dialect: str
    minted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def mint(self) -> str:
        self.minted.append(f"{MARKS[self.dialect]}c2lnbmF0dXJl{len(self.minted):04d}")
        return self.minted[-1]

    def __call__(self, seen: Seen) -> list[Step]:
        try:
            _CHECKS[self.dialect](self, seen.json)
        except Refusal as refusal:
            self.refused.append(str(refusal))
            return [("status", 400, {}, answers.error(self.dialect, 400, str(refusal)))]
        after_results = ENDS_WITH_RESULTS[self.dialect](seen.json)
        return [("sse", _ANSWERS[self.dialect](self, after_results))]

    def own(self, signature: Any) -> bool:
        return signature in self.minted


# ------------------------------------------------------------------------------------------------ Anthropic
def check_anthropic(me: Issuer, body: Any) -> None:
    thinking = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    for n, message in enumerate(body["messages"]):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in blocks:
            if block["type"] == "thinking" and not me.own(block.get("signature")):
                raise Refusal(f"messages.{n}.content.0: Invalid `signature` in `thinking` block")
    last = [m for m in body["messages"] if m["role"] == "assistant"][-1:]
    uses = last and any(b["type"] == "tool_use" for b in last[0]["content"])
    if thinking and uses and ENDS_WITH_RESULTS["anthropic"](body):
        first = last[0]["content"][0]["type"]
        if first not in ("thinking", "redacted_thinking"):
            raise Refusal(f"Expected `thinking` or `redacted_thinking`, but found `{first}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block")  # fmt: skip


def answer_anthropic(me: Issuer, after_results: bool) -> list[Any]:
    start: dict[str, Any] = {
        "id": f"msg_{next(me.calls):08d}", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 21, "output_tokens": 1},
    }  # fmt: skip
    out: list[Any] = [{"type": "message_start", "message": start}]

    def block(index: int, empty: dict[str, Any], *deltas: dict[str, Any]) -> None:
        out.append({"type": "content_block_start", "index": index, "content_block": empty})
        out.extend({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        out.append({"type": "content_block_stop", "index": index})

    block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "thoughts of anthropic"},
        {"type": "signature_delta", "signature": me.mint()},
    )
    if after_results:
        block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "words of anthropic"})
    else:
        for index, (tool, city) in enumerate(zip(TOOLS, CITIES, strict=True), 1):
            use = {"type": "tool_use", "id": f"toolu_{next(me.calls):08d}", "name": tool["name"], "input": {}}
            block(index, use, {"type": "input_json_delta", "partial_json": json.dumps({"city": city})})
    delta = {"stop_reason": "end_turn" if after_results else "tool_use", "stop_sequence": None}
    return [
        *out,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


# ------------------------------------------------------------------------------------------------ Gemini
def check_gemini(me: Issuer, body: Any) -> None:
    contents = body["contents"]
    asked = [
        n for n, c in enumerate(contents) if c["role"] == "user" and any("text" in p for p in c["parts"])
    ]
    for n, content in enumerate(contents):
        for part in content["parts"]:
            signature = part.get("thoughtSignature")
            if signature is not None and not me.own(signature) and signature != DUMMY:
                raise Refusal("Corrupted thought signature.")
        calls = [p for p in content["parts"] if "functionCall" in p]
        if calls and n > max(asked, default=-1) and not calls[0].get("thoughtSignature"):
            raise Refusal("Function call is missing a thought_signature in functionCall parts.")
        if calls:
            follow = contents[n + 1]["parts"] if n + 1 < len(contents) else []
            found = [p["functionResponse"]["name"] for p in follow if "functionResponse" in p]
            if found != [p["functionCall"]["name"] for p in calls]:
                raise Refusal("the number of function response parts is not that of the function call parts")


def answer_gemini(me: Issuer, after_results: bool) -> list[Any]:
    parts: list[Any] = [{"text": "thoughts of gemini", "thought": True}]
    if after_results:
        parts += [{"text": "words of "}, {"text": "gemini", "thoughtSignature": me.mint()}]
    else:
        calls = [
            {"functionCall": {"name": tool["name"], "args": {"city": city}}}
            for tool, city in zip(TOOLS, CITIES, strict=True)
        ]
        parts += [{**calls[0], "thoughtSignature": me.mint()}, *calls[1:]]
    usage = {"promptTokenCount": 21, "candidatesTokenCount": 9, "totalTokenCount": 30}
    chunks: list[Any] = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "usageMetadata": usage}
        for part in parts
    ]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    return chunks


# ------------------------------------------------------------------------------------------------ OpenAI Responses
def check_responses(me: Issuer, body: Any) -> None:
    items = body["input"]
    waiting: list[str] = []
    for n, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "reasoning":
            if not me.own(item.get("encrypted_content")):
                raise Refusal("The encrypted content could not be verified.")
            if n + 1 == len(items) or items[n + 1].get("type") not in (
                "function_call",
                "message",
                "reasoning",
            ):
                raise Refusal(
                    "Item 'rs' of type 'reasoning' was provided without its required following item."
                )
        elif kind == "function_call":
            waiting.append(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in waiting:
                raise Refusal(f"No tool call found for function call output with call_id {item['call_id']}.")
            waiting.remove(item["call_id"])
        elif waiting:
            raise Refusal(f"No tool output found for function call {waiting[0]}.")
    if waiting:
        raise Refusal(f"No tool output found for function call {waiting[0]}.")
    if body.get("store") is not False:
        raise Refusal("nobody allowed the conversation to be kept")


def answer_responses(me: Issuer, after_results: bool) -> list[Any]:
    reasoning = {
        "type": "reasoning",
        "id": f"rs_{next(me.calls):08d}",
        "summary": [{"type": "summary_text", "text": "thoughts of openai_responses"}],
        "encrypted_content": me.mint(),
    }
    items: list[dict[str, Any]] = [reasoning]
    if after_results:
        part = {"type": "output_text", "text": "words of openai_responses", "annotations": [], "logprobs": []}
        items.append(
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        )
    else:
        for tool, city in zip(TOOLS, CITIES, strict=True):
            number = next(me.calls)
            items.append(
                {
                    "type": "function_call", "id": f"fc_{number:08d}", "call_id": f"call_{number:08d}",
                    "name": tool["name"], "arguments": json.dumps({"city": city}), "status": "completed",
                }
            )  # fmt: skip
    out: list[dict[str, Any]] = []

    def add(type: str, **fields: Any) -> None:
        out.append({"type": type, "sequence_number": len(out), **fields})

    usage = {"input_tokens": 21, "output_tokens": 9, "total_tokens": 30}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "output": items, "usage": usage}
    add("response.created", response=whole | {"status": "in_progress", "output": [], "usage": None})
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "reasoning":
            add(
                "response.output_item.added",
                output_index=index,
                item=item | {"summary": [], "encrypted_content": ""},
            )
            text = item["summary"][0]["text"]
            add("response.reasoning_summary_text.delta", **at, summary_index=0, delta=text)
        elif item["type"] == "message":
            add("response.output_item.added", output_index=index, item=item | {"content": []})
            add("response.output_text.delta", **at, content_index=0, delta=item["content"][0]["text"])
        else:
            add("response.output_item.added", output_index=index, item=item | {"arguments": ""})
            add("response.function_call_arguments.delta", **at, delta=item["arguments"])
        add("response.output_item.done", output_index=index, item=item)
    add("response.completed", response=whole)
    return out


_CHECKS = {"anthropic": check_anthropic, "gemini": check_gemini, "openai_responses": check_responses}
_ANSWERS = {"anthropic": answer_anthropic, "gemini": answer_gemini, "openai_responses": answer_responses}
ENDS_WITH_RESULTS: dict[str, Callable[[Any], bool]] = {
    "anthropic": lambda b: any(
        c["type"] == "tool_result" for c in b["messages"][-1]["content"] if isinstance(c, dict)
    ),
    "gemini": lambda b: any("functionResponse" in p for p in b["contents"][-1]["parts"]),
    "openai_responses": lambda b: b["input"][-1].get("type") == "function_call_output",
}
