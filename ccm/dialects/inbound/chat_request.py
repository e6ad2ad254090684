"""A Chat Completions request as a Messages request (DIALECTS 16).

Reasoning that this surface gave out comes back as `reasoning_details`, whose entries carry a thinking block's text,
signature and place (`reasoning_details.id`, see `place`): from them the turn is put together as the model made it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ccm.dialects.inbound import knobs
from ccm.dialects.inbound.parts import Block, Losses, blocks, objects, refuse, text
from ccm.dialects.inbound.thread import Thread
from ccm.dialects.inbound.toolbox import Toolbox, sent_name

# What is read here, what is known and has no counterpart, and what changes nothing for a provider.
_HANDLED = frozenset(
    ("model", "messages", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop",
     "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "response_format", "reasoning_effort",
     "reasoning", "thinking", "enable_thinking", "thinking_budget", "user", "safety_identifier", "n",
     "web_search_options", "modalities", "prompt_cache_key")
)  # fmt: skip
_WITHOUT = (
    "audio", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "prediction",
    "verbosity", "moderation", "models", "provider", "plugins", "transforms", "reasoning_format", "include_reasoning",
)  # fmt: skip
_HARMLESS = frozenset(
    ("stream_options", "store", "metadata", "service_tier", "prompt_cache_retention", "prompt_cache_options")
)
_PLACE = re.compile(r"at-(\d{1,9})-(\d{1,4})\Z")
_SYSTEM = ("system", "developer")


def place(characters: int, calls: int) -> str | None:
    """Where in its turn a thinking block stood: after so much text and so many calls. None for the very beginning."""
    return f"at-{characters}-{calls}" if characters or calls else None


def toolbox(body: Mapping[str, Any], lose: Losses) -> Toolbox:
    """The tools of a request; also what its answer's calls are read by. Raises Refusal naming the tool."""
    box = Toolbox(lose)
    box.read_chat(body.get("tools"), body.get("functions"))
    options = body.get("web_search_options")
    if isinstance(options, dict):
        box.search(options)
    return box


def has_later_system(messages: Any) -> bool:
    """Whether a system message stands inside the conversation: Anthropic takes that with a beta only."""
    begun = False
    for message in messages if isinstance(messages, list) else ():
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _SYSTEM:
            begun = True
        elif begun:
            return True
    return False


def translate(body: dict[str, Any], path_model: str, stream: bool | None, lose: Losses) -> dict[str, Any]:
    """The Messages request. Raises Refusal (400) naming the field that cannot be carried."""
    request: dict[str, Any] = {"model": knobs.model_of(body, path_model)}
    if body.get("n") not in (None, 1):
        refuse("n", "one answer is made per request; ask again for another")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        refuse("modalities", "audio output cannot be carried to other providers")
    thread = Thread(lose)
    for n, message in enumerate(objects(body.get("messages"), "messages")):
        _message(thread, message, f"messages.{n}", lose)
    system, request["messages"] = thread.build("messages")
    if system:
        request["system"] = system
    knobs.limit(request, body, "max_completion_tokens", "max_tokens")
    knobs.sampling(request, body, lose)
    knobs.stops(request, body.get("stop"), lose)
    _reasoning(request, body, lose)
    form = body.get("response_format")
    if form is not None and not isinstance(form, dict):
        refuse("response_format", "an object is required")
    if form:
        inner = form.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        knobs.answer_format(request, form.get("type"), schema, "response_format.json_schema.schema", lose)
    choice = body.get("tool_choice")
    if choice is None and body.get("function_call") is not None:
        choice = body["function_call"]
    knobs.tool_choice(request, toolbox(body, lose), choice, body.get("parallel_tool_calls"), lose)
    user = body.get("safety_identifier") or body.get("user")
    if isinstance(user, str) and user:
        request["metadata"] = {"user_id": user}
    request["stream"] = knobs.streams(body, stream)
    knobs.settle(request, lose)
    if body.get("service_tier") not in (None, "auto", "default"):
        lose("service_tier")
    knobs.drop_rest(body, _HANDLED, _WITHOUT, _HARMLESS, lose)
    return request


def _reasoning(request: dict[str, Any], body: Mapping[str, Any], lose: Losses) -> None:
    """OpenAI's `reasoning_effort`, else what relays and other providers call it."""
    knobs.effort(request, body.get("reasoning_effort"), "reasoning_effort", lose)
    given = body.get("reasoning")  # OpenRouter
    if isinstance(given, Mapping):
        if given.get("enabled") is False:
            knobs.effort(request, "none", "reasoning.effort", lose)
        elif isinstance(given.get("max_tokens"), int) and not isinstance(given["max_tokens"], bool):
            knobs.budget(request, given["max_tokens"])
        elif given.get("effort") is not None:
            knobs.effort(request, given["effort"], "reasoning.effort", lose)
        elif given.get("enabled") is True:
            knobs.effort(request, "medium", "reasoning.effort", lose)
    thinking = body.get("thinking")  # Anthropic's own, and the switch of Z.ai, DeepSeek and Moonshot
    wanted = body.get("enable_thinking")  # Qwen
    if isinstance(thinking, Mapping):
        tokens = thinking.get("budget_tokens")
        if thinking.get("type") == "disabled":
            request["thinking"] = {"type": "disabled"}
        elif isinstance(tokens, int) and not isinstance(tokens, bool):
            knobs.budget(request, tokens)
        elif thinking.get("type") in ("enabled", "adaptive"):
            request.setdefault("thinking", {"type": "adaptive"})
    elif isinstance(wanted, bool):
        tokens = body.get("thinking_budget")
        if not wanted:
            request["thinking"] = {"type": "disabled"}
        elif isinstance(tokens, int) and not isinstance(tokens, bool):
            knobs.budget(request, tokens)
        else:
            request.setdefault("thinking", {"type": "adaptive"})


def _message(thread: Thread, message: Mapping[str, Any], where: str, lose: Losses) -> None:
    role = message.get("role")
    content = f"{where}.content"
    if role in _SYSTEM:
        thread.system(blocks(message.get("content"), content, lose))
    elif role == "user":
        if message.get("name"):
            lose("messages.name")
        thread.user(blocks(message.get("content"), content, lose))
    elif role == "assistant":
        _assistant(thread, message, where, lose)
    elif role == "tool":
        thread.result(message.get("tool_call_id"), blocks(message.get("content"), content, lose))
    elif role == "function":
        name = message.get("name")
        thread.result(
            None, blocks(message.get("content"), content, lose), name if isinstance(name, str) else ""
        )
    else:
        refuse(f"{where}.role", "one of system, developer, user, assistant, tool is required")


def _assistant(thread: Thread, message: Mapping[str, Any], where: str, lose: Losses) -> None:
    """One assistant message: thinking blocks at their places, the text between them, then the calls."""
    said = blocks(message.get("content"), f"{where}.content", lose)
    refusal = message.get("refusal")
    if not said and isinstance(refusal, str) and refusal:
        said = [text(refusal)]
    if message.get("audio"):
        lose("messages.audio")
    calls = _calls(message, where)
    thoughts = [block for block in said if block["type"] == "thinking"]
    said = [block for block in said if block["type"] != "thinking"]
    placed = _thoughts(message) or [(0, 0, block) for block in thoughts]
    written = made = 0
    for characters, before, thought in placed:
        first, said = _cut(said, characters - written)
        written = max(written, characters)
        thread.assistant(first)
        made = _make(thread, calls, made, before)
        thread.assistant([thought])
    thread.assistant(said)
    _make(thread, calls, made, len(calls))


def _cut(said: list[Block], characters: int) -> tuple[list[Block], list[Block]]:
    """The blocks of the next `characters` characters of text, and those after."""
    first: list[Block] = []
    rest: list[Block] = []
    for block in said:
        told = block.get("text", "")
        if rest or characters <= 0:
            rest.append(block)
        elif characters >= len(told):
            first.append(block)
        else:
            first.append({**block, "text": told[:characters]})
            rest.append({**block, "text": told[characters:]})
        characters -= len(told)
    return first, rest


def _make(thread: Thread, calls: list[tuple[Any, str, dict[str, Any]]], done: int, upto: int) -> int:
    for id, name, input in calls[done:upto]:
        thread.call(id, name, input)
    return max(done, min(upto, len(calls)))


def _calls(message: Mapping[str, Any], where: str) -> list[tuple[Any, str, dict[str, Any]]]:
    """(id, name, input) of `tool_calls`, or of the old `function_call`."""
    listed = message.get("tool_calls")
    out: list[tuple[Any, str, dict[str, Any]]] = []
    for n, call in enumerate(objects(listed, f"{where}.tool_calls") if listed is not None else ()):
        free = isinstance(call.get("custom"), dict)
        inner = call["custom"] if free else call.get("function")
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            refuse(f"{where}.tool_calls.{n}.function.name", "a name is required")
        if free:
            given: dict[str, Any] = {"input": str(inner.get("input") or "")}
        else:
            given, _ = knobs.arguments(inner.get("arguments"))
        out.append((call.get("id"), sent_name(inner["name"]), given))
    old = message.get("function_call")
    if not out and isinstance(old, dict) and isinstance(old.get("name"), str):
        out.append((None, sent_name(old["name"]), knobs.arguments(old.get("arguments"))[0]))
    return out


def _thoughts(message: Mapping[str, Any]) -> list[tuple[int, int, Block]]:
    """(characters, calls, thinking block) of each piece of reasoning, in order."""
    details = message.get("reasoning_details")
    out: list[tuple[int, int, Block]] = []
    for detail in _joined(details if isinstance(details, list) else []):
        found = _PLACE.match(str(detail.get("id") or ""))
        at = (int(found[1]), int(found[2])) if found else (0, 0)
        kind = str(detail.get("type") or "")
        if kind == "reasoning.encrypted":
            if isinstance(detail.get("data"), str) and _is_claude(detail):
                out.append((*at, {"type": "redacted_thinking", "data": detail["data"]}))
            continue
        told = detail.get("text") or detail.get("summary") or ""
        signature = detail.get("signature") or ""
        if told or signature:
            thought = {"type": "thinking", "thinking": str(told), "signature": str(signature)}
            out.append((*at, thought))
    if out:
        return out
    for name in ("reasoning_content", "reasoning"):
        told = message.get(name)
        if isinstance(told, str) and told:
            return [(0, 0, {"type": "thinking", "thinking": told, "signature": ""})]
    return []


def _is_claude(detail: Mapping[str, Any]) -> bool:
    return "anthropic" in str(detail.get("format") or "anthropic")


def _joined(details: list[Any]) -> list[dict[str, Any]]:
    """Clients that only collect the pieces of a stream send them back as they came: one entry per index again."""
    out: list[dict[str, Any]] = []
    for detail in details:
        if not isinstance(detail, dict):
            continue
        last = out[-1] if out else {}
        mark = (detail.get("index"), detail.get("type"))
        if mark[0] is None or mark != (last.get("index"), last.get("type")) or last.get("signature"):
            out.append(dict(detail))
            continue
        for key, value in detail.items():
            if key in ("text", "summary") and isinstance(value, str):
                last[key] = str(last.get(key) or "") + value
            elif value is not None:
                last[key] = value
    return out
