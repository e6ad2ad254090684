"""The settings both OpenAI APIs have, on a Messages request: limits, sampling, effort, tool choice, answer format.

Each writes into the request that is being built and names what it lost. `settle` comes last: Messages forbids some
combinations that OpenAI allows (thinking with a forced tool, with a temperature, with a smaller max_tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccm.dialects.inbound.parts import Losses, refuse, text
from ccm.dialects.inbound.toolbox import Toolbox, sent_name
from ccm.wire import jsontext

Request = dict[str, Any]

DEFAULT_MAX_TOKENS = (
    32_000  # Messages requires a limit; what Claude Code asks for, and clamped to the model's own
)
_SMALLEST_BUDGET = 1_024
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_CHOICES = {"auto": "auto", "none": "none", "required": "any", "any": "any"}


def model_of(body: Mapping[str, Any], path_model: str) -> str:
    """The model asked for: the path's where the path names one. Raises Refusal."""
    model = path_model or body.get("model")
    if not isinstance(model, str) or not model:
        refuse("model", "a model name is required")
    return model


def streams(body: Mapping[str, Any], stream: bool | None) -> bool:
    """Whether a stream is wanted: the path's word before the body's."""
    given = body.get("stream")
    if given is not None and not isinstance(given, bool):
        refuse("stream", "true or false is required")
    return bool(given) if stream is None else stream


def limit(request: Request, body: Mapping[str, Any], *fields: str) -> None:
    """`max_tokens` from the first of these fields that has a value."""
    for name in fields:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            refuse(name, "a whole number of at least 1 is required")
        request["max_tokens"] = value
        return
    request["max_tokens"] = DEFAULT_MAX_TOKENS


def sampling(request: Request, body: Mapping[str, Any], lose: Losses) -> None:
    """temperature (0 to 1 in Messages, 0 to 2 here), top_p, and top_k as some clients send it."""
    for name, most in (("temperature", 1), ("top_p", 1), ("top_k", None)):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            refuse(name, "a number is required")
        if most is not None and value > most:
            lose(name, "approximated")
            value = most
        request[name] = value


def stops(request: Request, given: Any, lose: Losses) -> None:
    """`stop`: a string or a list. Messages refuses sequences of nothing but white space."""
    if given is None:
        return
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(s, str) for s in listed):
        refuse("stop", "a string or a list of strings is required")
    kept = [s for s in listed if s.strip()]
    if len(kept) < len(listed):
        lose("stop")
    if kept:
        request["stop_sequences"] = kept


def effort(request: Request, given: Any, where: str, lose: Losses, shown: bool = False) -> None:
    """OpenAI's reasoning effort as adaptive thinking with an effort. `shown`: the client wants to read a summary."""
    if given is None:
        return
    if given == "none":
        request["thinking"] = {"type": "disabled"}
        return
    level = _EFFORTS.get(given) if isinstance(given, str) else None
    if level is None:
        refuse(where, f"one of none, {', '.join(_EFFORTS)} is required")
    if level != given:
        lose(where, "approximated")
    request["thinking"] = {"type": "adaptive", **({"display": "summarized"} if shown else {})}
    request["output_config"] = {**request.get("output_config", {}), "effort": level}


def budget(request: Request, tokens: int) -> None:
    """A token budget for thinking, as relays of many providers take it."""
    request["thinking"] = {"type": "enabled", "budget_tokens": max(_SMALLEST_BUDGET, tokens)}


def answer_format(request: Request, form: Any, schema: Any, where: str, lose: Losses) -> None:
    """`form` is text | json_object | json_schema (None: nothing asked), `schema` the one of json_schema."""
    if form in (None, "text"):
        return
    if form == "json_schema":
        if not isinstance(schema, dict):
            refuse(where, "a JSON Schema object is required")
        config = request.get("output_config", {})
        request["output_config"] = {**config, "format": {"type": "json_schema", "schema": schema}}
    elif form == "json_object":
        lose(where.partition(".")[0], "approximated")
        note = "Answer with one JSON object and nothing else: no code fence, no text around it."
        request["system"] = [*request.get("system", ()), text(note)]
    else:
        lose(where.partition(".")[0])


def tool_choice(request: Request, box: Toolbox, given: Any, parallel: Any, lose: Losses) -> None:
    """tools, tool_choice and parallel_tool_calls. `given` is OpenAI's choice of either API."""
    mode, name = _chosen(given, box, lose)
    if box.deferred:
        lose("tools.defer_loading", "approximated")
    if not box.tools:
        return
    request["tools"] = box.tools
    choice: dict[str, Any] | None = {"type": mode} if mode else None
    if mode == "tool":
        if all(tool["name"] != name for tool in box.tools):
            refuse("tool_choice", "names a tool that is not among the tools")
        choice = {"type": "tool", "name": name}
    if parallel is False and mode != "none":
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        request["tool_choice"] = choice


def _chosen(given: Any, box: Toolbox, lose: Losses) -> tuple[str, str]:
    """(Messages' type of choice or "", name for "tool")."""
    if given is None:
        return "", ""
    if isinstance(given, str):
        if given not in _CHOICES:
            refuse("tool_choice", "one of auto, none, required or an object naming a tool is required")
        return _CHOICES[given], ""
    if not isinstance(given, Mapping):
        refuse("tool_choice", "a string or an object is required")
    kind = str(given.get("type") or "function")
    if kind == "allowed_tools":
        inner = given.get("allowed_tools")
        allowed: Mapping[str, Any] = inner if isinstance(inner, Mapping) else given
        listed = allowed.get("tools")
        box.only(
            {_target(t) for t in listed if isinstance(t, Mapping)} if isinstance(listed, list) else set()
        )
        return _CHOICES.get(str(allowed.get("mode")), "auto"), ""
    name = _target(given)
    if not name or (kind not in ("function", "custom") and all(t["name"] != name for t in box.tools)):
        lose("tool_choice")  # a choice of a hosted tool that nobody else has
        return "", ""
    return "tool", name


def _target(choice: Mapping[str, Any]) -> str:
    """The name a choice means, as it was sent."""
    kind = str(choice.get("type") or "function")
    if kind.startswith("web_search"):
        return "web_search"
    inner = choice.get(kind)
    named: Mapping[str, Any] = inner if isinstance(inner, Mapping) else choice
    name, namespace = named.get("name"), named.get("namespace")
    if not isinstance(name, str):
        return "" if kind in ("function", "custom", "mcp") else kind
    return sent_name(name, namespace if isinstance(namespace, str) else "")


def settle(request: Request, lose: Losses) -> None:
    """Takes out what Messages does not allow together: the rarer wish yields, and the loss is named."""
    thinking = request.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") == "disabled":
        return
    choice = request.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        del request["thinking"]
        lose("thinking")
        return
    tokens = thinking.get("budget_tokens")
    if isinstance(tokens, int) and tokens >= request["max_tokens"]:
        if request["max_tokens"] > _SMALLEST_BUDGET:
            request["thinking"] = {**thinking, "budget_tokens": request["max_tokens"] - 1}
        else:
            del request["thinking"]
            lose("thinking")
            return
    for name in ("temperature", "top_p", "top_k"):
        if name in request and request[name] != 1:
            del request[name]
            lose(name)


def arguments(given: Any) -> tuple[dict[str, Any], bool]:
    """(a call's input, whether it is all of it): JSON text as an object, as far as it is one."""
    if isinstance(given, dict):
        return given, True
    if not isinstance(given, str) or not given.strip():
        return {}, True
    try:
        value = jsontext.loads(given)
    except (ValueError, RecursionError):
        return {"__unparsedToolInput": {"raw": given, "len": len(given)}}, False
    return (value, True) if isinstance(value, dict) else ({"input": value}, False)


def drop_rest(
    body: Mapping[str, Any],
    handled: frozenset[str],
    known: Sequence[str],
    harmless: frozenset[str],
    lose: Losses,
) -> None:
    """Names the fields that nothing was made of: those of the API by their names, all others as one."""
    for name in known:
        if body.get(name) not in (None, False, 0, "", [], {}):
            lose(name)
    if any(
        value is not None and name not in handled and name not in known and name not in harmless
        for name, value in body.items()
    ):
        lose("unknown_field")
