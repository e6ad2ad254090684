"""Repairs of an encoded body: parameters dropped, renamed or set to what the model takes."""

from __future__ import annotations

from typing import Any

from ccm.dialects.base import Encoded
from ccm.dialects.gemini.parts import NO_SIGNATURE
from ccm.dialects.reasoning import nearest
from ccm.dialects.repair.paths import GONE, Path, droppable, edit, value_at
from ccm.late import regex

Args = tuple[str, ...]

_LABEL = regex(r"[\w.-]{1,64}")
# A parameter's last name -> the Messages feature that is lost with it. "": nothing that the client asked for.
FEATURES = {
    "stop": "stop_sequences", "stopSequences": "stop_sequences", "topP": "top_p", "topK": "top_k",
    "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "maxOutputTokens": "max_tokens",
    "maxTokens": "max_tokens", "reasoning_effort": "output_config.effort", "effort": "output_config.effort",
    "enable_thinking": "thinking", "thinking_budget": "thinking", "chat_template_kwargs": "thinking",
    "thinkingConfig": "thinking", "thinkingBudget": "thinking", "thinkingLevel": "output_config.effort",
    "reasoning": "thinking", "reasoning_content": "thinking", "reasoning_details": "thinking", "reasoning_format": "thinking",
    "includeThoughts": "thinking.display", "reasoningConfig": "thinking",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use", "response_format": "output_config.format",
    "strict": "tools.strict", "stream_options": "usage", "prompt_cache_key": "cache_control",
    "safety_identifier": "metadata.user_id", "user": "metadata.user_id", "toolChoice": "tool_choice",
    "functionCallingConfig": "tool_choice", "googleSearch": "tools.web_search", "cachePoint": "cache_control",
}  # fmt: skip
# Where the ways of saying how hard to think stand, in all dialects' bodies.
THINKING: tuple[Path, ...] = (
    ("reasoning_effort",),
    ("reasoning_format",),
    ("reasoning",),
    ("thinking",),
    ("enable_thinking",),
    ("thinking_budget",),
    ("disable_reasoning",),
    ("chat_template_kwargs",),
    ("generationConfig", "thinkingConfig"),
    ("additionalModelRequestFields", "thinking"),
    ("additionalModelRequestFields", "output_config"),
    ("additionalModelRequestFields", "reasoningConfig"),
    ("additionalModelRequestFields", "reasoning_effort"),
)
EFFORTS: tuple[Path, ...] = (
    ("output_config", "effort"),
    ("messages", "*", "output_config", "effort"),
    ("reasoning_effort",),
    ("reasoning", "effort"),
    ("additionalModelRequestFields", "output_config", "effort"),
    ("additionalModelRequestFields", "reasoning_effort"),
    ("additionalModelRequestFields", "reasoningConfig", "maxReasoningEffort"),
    ("generationConfig", "thinkingConfig", "thinkingLevel"),
)
BUDGETS: tuple[Path, ...] = (
    ("thinking", "budget_tokens"),
    ("additionalModelRequestFields", "thinking", "budget_tokens"),
    ("thinking_budget",),
    ("generationConfig", "thinkingConfig", "thinkingBudget"),
)
STRICT: tuple[Path, ...] = (
    ("tools", "*", "function", "strict"),
    ("tools", "*", "strict"),
    ("response_format", "json_schema", "strict"),
    ("text", "format", "strict"),
)
_LIMITS: tuple[Path, ...] = (("max_tokens",), ("inferenceConfig", "maxTokens"))


def drop(sent: Encoded, args: Args) -> None:
    """Parameters that the model or provider does not know; `args`: their paths. Stop sequences are cut here instead."""
    for name in args:
        path = tuple(name.split("."))
        value = value_at(sent.body, path)
        if value is None or not droppable(path, value):
            continue
        sent.body = edit(sent.body, path, lambda _: GONE)
        if FEATURES.get(path[-1], path[-1]) == "stop_sequences":
            stops = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            sent.cut = (*sent.cut, *(s for s in stops if isinstance(s, str) and s not in sent.cut))
        else:
            _lose(sent, path)


def _lose(sent: Encoded, path: Path, how: str = "dropped") -> None:
    feature = FEATURES.get(path[-1], ".".join(p for p in path if p != "*"))
    sent.lose(feature if _LABEL.fullmatch(feature) else "other", how)


def rename(sent: Encoded, args: Args) -> None:
    """A top-level parameter under its other name: `args` are the old and the new one. Nothing is lost."""
    old, new = args
    if old in sent.body:
        value = sent.body[old]
        sent.body = {k: v for k, v in sent.body.items() if k != old}
        sent.body.setdefault(new, value)


def effort(sent: Encoded, args: Args) -> None:
    """The nearest effort that the model has; `args`: those it has."""
    for path in EFFORTS:
        sent.body = edit(sent.body, path, lambda value: _nearest(value, args, sent))


def _nearest(value: Any, levels: Args, sent: Encoded) -> Any:
    if not isinstance(value, str) or value.lower() in levels:
        return value
    sent.lose("output_config.effort", "approximated")
    word = nearest(value.lower(), levels)
    return word.upper() if value.isupper() else word


def set_effort(sent: Encoded, args: Args) -> None:
    """One parameter (`args[0]`, a path) set to one word: "none" where tools exclude any effort."""
    path = tuple(args[0].split("."))
    if value_at(sent.body, path) not in (None, args[1]):
        sent.lose("output_config.effort")
    if len(path) == 1:
        sent.body = {**sent.body, path[0]: args[1]}
    else:
        sent.body = edit(sent.body, path, lambda _: args[1])


def no_thinking(sent: Encoded, args: Args) -> None:
    """Everything that asks for thinking."""
    for path in THINKING:
        if value_at(sent.body, path) is not None:
            sent.body = edit(sent.body, path, lambda _: GONE)
            sent.lose("thinking")


def budget(sent: Encoded, args: Args) -> None:
    """A thinking budget within `args` (lowest, highest; "" = none named) and below max_tokens, or no thinking where that
    cannot be."""
    low, high = (int(a) if a else None for a in args)
    limit = next((v for path in _LIMITS if isinstance(v := value_at(sent.body, path), int)), None)
    for path in BUDGETS:
        anthropic = path[-1] == "budget_tokens"
        old = value_at(sent.body, path)
        if not isinstance(old, int) or (old <= 0 and not low):
            continue
        new = max(old, low or 0)
        new = new if high is None else min(new, high)
        if anthropic and limit is not None and new >= limit:
            new = limit - 1
        if anthropic and new < (low or 1_024):
            sent.body = edit(sent.body, path[:-1], lambda _: {"type": "disabled"})
        elif new != old:
            sent.body = edit(sent.body, path, lambda _, n=new: n)  # type: ignore[misc]
        else:
            continue
        sent.lose("thinking", "approximated")


def unstrict(sent: Encoded, args: Args) -> None:
    """Schemas as they are, without OpenAI's strict mode. `false`, not absent: the Responses API takes absence for true."""
    for path in STRICT:
        sent.body = edit(sent.body, path, lambda value: _relaxed(value, sent))


def _relaxed(value: Any, sent: Encoded) -> Any:
    if value is not True:
        return value
    sent.lose("tools.strict")
    return False


def developer_as_system(sent: Encoded, args: Args) -> None:
    """OpenAI's word for system messages back to the one that everybody knows."""
    for key in ("messages", "input"):
        sent.body = edit(
            sent.body, (key, "*", "role"), lambda role: "system" if role == "developer" else role
        )


def tool_choice(sent: Encoded, args: Args) -> None:
    """`auto`, or the word that this provider has for "some tool"."""
    word = args[0]
    body = sent.body
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):  # Anthropic's form
        made: Any = {k: v for k, v in choice.items() if k not in ("type", "name")} | {"type": "auto"}
        sent.body = {**body, "tool_choice": made}
    elif isinstance(choice, dict) and choice.get("type") in ("auto", "none"):
        return
    elif choice not in (None, "auto", "none", word):
        sent.body = {**body, "tool_choice": word}
    else:
        sent.body = edit(body, ("toolConfig", "toolChoice"), lambda _: GONE)
        sent.body = edit(sent.body, ("toolConfig", "functionCallingConfig"), _google_auto)
    if sent.body is not body and (word == "auto" or isinstance(choice, dict)):
        sent.lose("tool_choice", "approximated")


def _google_auto(config: Any) -> Any:
    return {"mode": "AUTO"} if isinstance(config, dict) and config.get("mode") == "ANY" else config


def fill_reasoning(sent: Encoded, args: Args) -> None:
    """Reasoning on every assistant turn: DeepSeek and Kimi refuse a history without, Kimi an empty one (R13)."""

    def change(message: Any) -> Any:
        if not isinstance(message, dict) or message.get("role") != "assistant":
            return message
        return message if message.get("reasoning_content") else {**message, "reasoning_content": " "}

    sent.body = edit(sent.body, ("messages", "*"), change)


def sign_calls(sent: Encoded, args: Args) -> None:
    """Google's documented stand-in on the first call of every step that has no signature (R14). `args` ("anew",): after
    the signatures there were, which this model, key or route cannot read, have been taken out."""
    anew = bool(args)

    def change(content: Any) -> Any:
        if not isinstance(content, dict) or content.get("role") != "model":
            return content
        parts = [p for p in content.get("parts") or () if isinstance(p, dict)]
        if anew:
            signed = any("thoughtSignature" in p for p in parts)
            parts = [
                {k: v for k, v in p.items() if k != "thoughtSignature"} for p in parts if not p.get("thought")
            ]
            parts = [p for p in parts if p and p != {"text": ""}]
            if signed:
                sent.lose("thinking")
        first = next((n for n, p in enumerate(parts) if "functionCall" in p), None)
        if first is not None and "thoughtSignature" not in parts[first]:
            parts[first] = {**parts[first], "thoughtSignature": NO_SIGNATURE}
        return {**content, "parts": parts} if parts else GONE

    sent.body = edit(sent.body, ("contents", "*"), change)


def without_include(sent: Encoded, args: Args) -> None:
    """One of the extras asked for in a Responses answer."""

    def change(word: Any) -> Any:
        return GONE if word == args[0] else word

    before = sent.body
    sent.body = edit(sent.body, ("include", "*"), change)
    if sent.body is not before:
        sent.lose("thinking.signature" if "reasoning" in args[0] else "other")


def without_search(sent: Encoded, args: Args) -> None:
    """Gemini's own search, where the model takes it only without functions."""

    def change(tool: Any) -> Any:
        return GONE if isinstance(tool, dict) and "functionDeclarations" not in tool else tool

    before = sent.body
    sent.body = edit(sent.body, ("tools", "*"), change)
    if sent.body is not before:
        sent.lose("tools.web_search")
