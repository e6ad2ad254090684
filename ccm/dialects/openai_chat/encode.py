"""A Messages request as a chat.completions request (DIALECTS 2, 7, 10, 15)."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from ccm.dialects import history, tools
from ccm.dialects.base import Context, Request
from ccm.dialects.names import name_map, short_name
from ccm.dialects.openai_chat.knobs import KNOBS
from ccm.dialects.openai_chat.messages import Messages
from ccm.dialects.openai_chat.policy import Policy, kind_of, policy_of
from ccm.dialects.openai_chat.search import MEANS, Sent, means_of, query_of
from ccm.dialects.reasoning import effort_of
from ccm.wire.jsontext import Shared

_LONGEST_KEY = 64  # prompt_cache_key, safety_identifier
# request fields without a counterpart; what needs thought stands in `encode`
_UNKNOWN = (
    "container", "context_management", "diagnostics", "mcp_servers", "inference_geo", "safeguards", "betas",
)  # fmt: skip


def encode(request: Request, ctx: Context) -> Sent:
    """The request for `POST {base_url}/chat/completions`. Raises Refusal (400) for Files API references."""
    policy = policy_of(ctx)
    sent = Sent(path=_path(ctx), body={})
    sent.seen_ids = history.call_ids(request)
    effort = effort_of(request)
    past = history.read(request, sent.lose)
    offered = tools.read(request, sent.lose)
    schema = _schema(request)
    extra = ""
    if schema is not None and not policy.json_schema:
        extra = "Answer only with JSON that this JSON Schema describes:\n" + json.dumps(
            schema, ensure_ascii=False
        )
    body = sent.body
    body["model"] = ctx.model
    body["messages"] = Messages(ctx, policy, sent, effort != "off").build(past, extra)
    _limits(body, request, ctx, policy, sent)
    if ctx.stream:
        body["stream"] = True
        if policy.stream_usage:
            body["stream_options"] = {"include_usage": True}
    _tools(body, offered, past, policy, sent, thinking=effort not in (None, "off"))
    _search(body, request, ctx, offered, sent)
    if effort is not None:
        _knobs(body, effort, request, ctx, policy)
    elif body.get("tools") and not policy.tools_with_effort:
        body["reasoning_effort"] = "none"
    if schema is not None:
        body["response_format"] = _format(schema) if policy.json_schema else {"type": "json_object"}
    _identity(body, request, ctx, policy, sent)
    for field in _UNKNOWN:
        if request.get(field):
            sent.lose(field)
    return sent


def _path(ctx: Context) -> str:
    """Azure's dated API versions name the deployment in the path and the version in the query (DIALECTS 14)."""
    version = ctx.options.get("api_version")
    deployment = f"/deployments/{quote(ctx.model, safe='')}" if ctx.options.get("deployments") else ""
    return f"{deployment}/chat/completions" + (f"?api-version={version}" if version else "")


def _limits(body: dict[str, Any], request: Request, ctx: Context, policy: Policy, sent: Sent) -> None:
    """max_tokens, sampling and stop sequences."""
    limit = request.get("max_tokens")
    if isinstance(limit, int) and not isinstance(limit, bool):
        cap = ctx.facts.output_cap
        body[policy.max_tokens] = min(limit, cap) if cap else limit
    for field in ("temperature", "top_p"):
        if request.get(field) is not None:
            if policy.sampling:
                body[field] = request[field]
            else:
                sent.lose(field)
    if request.get("top_k") is not None:
        if policy.top_k:
            body["top_k"] = request["top_k"]
        else:
            sent.lose("top_k")
    given = request.get("stop_sequences")
    stops = [s for s in given if isinstance(s, str) and s] if isinstance(given, list) else []
    # OpenAI's API never says which sequence it stopped at, and drops it: what it takes saves tokens, the rest is cut here.
    if stops[: policy.stops]:
        body["stop"] = stops[: policy.stops]
    sent.cut = tuple(stops[policy.stops :])


def _tools(
    body: dict[str, Any],
    offered: tools.Tools,
    past: history.History,
    policy: Policy,
    sent: Sent,
    thinking: bool,
) -> None:
    """tools, tool_choice, parallel_tool_calls, and the map of names that had to be shortened."""
    called = (call["name"] for turn in past.turns for call in turn.calls)
    sent.names = name_map(dict.fromkeys([*(f.name for f in offered.functions), *called]))
    if offered.functions and not policy.tools:
        sent.lose("tools")
        return
    most = policy.most_tools or len(offered.functions)
    if len(offered.functions) > most:
        sent.lose("tools")
    if not offered.functions:
        return
    body["tools"] = tools.written(
        offered.functions,
        ("chat", most),
        sent,
        lambda _: Shared([_function(f) for f in offered.functions[:most]]),
    )
    forced = policy.forced_tool and (policy.forced_tool_thinking or not thinking)
    choice: Any = {"auto": "auto", "none": "none"}.get(offered.choice)
    if offered.choice == "any":
        choice = policy.any_choice if forced else "auto"
    elif offered.choice == "tool":
        named = {"type": "function", "function": {"name": short_name(offered.choice_name)}}
        choice = named if forced else "auto"
    if offered.choice in ("any", "tool") and not forced:
        sent.lose("tool_choice", "approximated")
    if choice is not None:
        body["tool_choice"] = choice
    if not offered.parallel:
        if policy.parallel:
            body["parallel_tool_calls"] = False
        else:
            sent.lose("tool_choice.disable_parallel_tool_use")


def _function(function: tools.Function) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": short_name(function.name)}
    if function.description:
        spec["description"] = function.description
    spec["parameters"] = function.schema
    if function.strict:
        spec["strict"] = _is_strict(function.schema)
    return {"type": "function", "function": spec}


def _search(body: dict[str, Any], request: Request, ctx: Context, offered: tools.Tools, sent: Sent) -> None:
    """Anthropic's web_search by the provider's own means; other server tools are left out, together with a choice of
    them (`tools.read` saw to that)."""
    means = means_of(ctx.abilities) if offered.search is not None else None
    tools.lose_server(offered, sent.lose, offered.search if means else None)
    if means is None or offered.search is None:
        return
    uses = offered.search.get("max_uses")
    sent.search = query_of(request)
    for field, value in MEANS[means](uses if isinstance(uses, int) and uses > 0 else 5).items():
        body[field] = [*body.get(field, ()), *value]


def _knobs(body: dict[str, Any], effort: str, request: Request, ctx: Context, policy: Policy) -> None:
    body.update(KNOBS[policy.effort](effort, request, ctx))
    if body.get("tools") and not policy.tools_with_effort:
        body["reasoning_effort"] = "none"


def _schema(request: Request) -> dict[str, Any] | None:
    """The JSON Schema of a structured answer, under its new name or its old one."""
    config = request.get("output_config")
    form = (config.get("format") if isinstance(config, dict) else None) or request.get("output_format")
    schema = form.get("schema") if isinstance(form, dict) and form.get("type") == "json_schema" else None
    return schema if isinstance(schema, dict) else None


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in schema.items() if k != "$schema"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": plain, "strict": _is_strict(plain)},
    }


def _is_strict(schema: Any, root: bool = True) -> bool:
    """Whether a schema keeps OpenAI's rules of strict mode: closed objects, all keys required, root an object."""
    if isinstance(schema, list):
        return all(_is_strict(s, False) for s in schema)
    if not isinstance(schema, dict):
        return True
    if root and (schema.get("type") != "object" or "anyOf" in schema):
        return False
    if schema.keys() & {"oneOf", "allOf", "not", "if", "patternProperties", "propertyNames", "default"}:
        return False
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = list(properties) if isinstance(properties, dict) else []
        required = schema.get("required") or []
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if any(name not in names for name in required) or any(name not in required for name in names):
            return False
    inner = list(properties.values()) if isinstance(properties, dict) else []
    inner += [schema[k] for k in ("items", "anyOf") if k in schema]
    for key in ("$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            inner += list(schema[key].values())
    return all(_is_strict(s, False) for s in inner)


def _identity(body: dict[str, Any], request: Request, ctx: Context, policy: Policy, sent: Sent) -> None:
    """Who asks and which conversation it is, where the provider has a field for it: hashed, never as it came."""
    metadata = request.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if isinstance(user, str) and user:
        if policy.user_field:
            body[policy.user_field] = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
        else:
            sent.lose("metadata.user_id")
    if ctx.session:
        key = ctx.session
        if len(key) > _LONGEST_KEY:
            key = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
        if policy.cache_key:
            body["prompt_cache_key"] = key
        if policy.session_header and key.isascii() and key.isprintable():
            sent.headers[policy.session_header] = key
    if request.get("speed") == "fast":
        if policy.priority_tier:
            body["service_tier"] = "priority"
        else:
            sent.lose("speed")
    if request.get("service_tier") and kind_of(ctx.family) != "openai":
        sent.lose("service_tier")
