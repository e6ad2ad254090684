"""Messages -> Bedrock Converse (DIALECTS 13). Turns must alternate and begin with the user; blank text is refused."""

from __future__ import annotations

import json
from typing import Any

from ccm.dialects import tools as functions
from ccm.dialects.base import Context, Encoded, Request
from ccm.dialects.bedrock.blocks import Blocks
from ccm.dialects.bedrock.models import Traits, path, traits_of
from ccm.dialects.history import Block, History, Turn, call_ids, fold_system, read
from ccm.dialects.names import short_name
from ccm.dialects.reasoning import budget_of, effort_of
from ccm.dialects.schemas import plain
from ccm.wire.jsontext import Shared

_MAX_CACHE_POINTS = 4
_DROPPED = ("container", "context_management", "mcp_servers", "inference_geo", "safeguards", "metadata")
_OPENER = "Go on."  # where a history begins with the assistant


def encode(request: Request, ctx: Context) -> Encoded:
    """The request as POST /model/{id}/converse or /converse-stream. Raises Refusal (400) for Files API references."""
    encoded = Encoded(
        path(ctx.model, "converse-stream" if ctx.stream else "converse"), {}, seen_ids=call_ids(request)
    )
    history = read(request, encoded.lose)
    traits = traits_of(ctx.model)
    cache = _CachePoints(traits, request)
    body = encoded.body
    blocks = Blocks(ctx, traits, encoded)
    turns = fold_system(history.turns)
    # Cache points are few: tools and system come before the messages in what is cached.
    tool_config = _tools(request, turns, traits, cache, encoded)
    system = _system(history, request, traits, cache)
    body["messages"] = _messages(turns, blocks, cache)
    if system:
        body["system"] = system
    body["inferenceConfig"] = _inference(request, ctx)
    if tool_config:
        body["toolConfig"] = tool_config
    more = _more(request, ctx, traits, encoded)
    if more:
        body["additionalModelRequestFields"] = more
    wanted = _format(request)
    if wanted is not None and traits.formats:
        body["outputConfig"] = {"textFormat": _text_format(wanted)}
    if cache.dropped:
        encoded.lose("cache_control")
    for feature in _DROPPED:
        if request.get(feature):
            encoded.lose(feature)
    return encoded


class _CachePoints:
    """Where the client put `cache_control`, as far as the model and the limit of four allow."""

    def __init__(self, traits: Traits, request: Request) -> None:
        self._allowed = traits.caches
        self._ttl = traits.formats  # the models that take an hour are those of Claude
        self._left = _MAX_CACHE_POINTS
        self.dropped = False
        self.tools = self._allowed and traits.formats and self._marked(request.get("tools"))

    @staticmethod
    def _marked(tools: Any) -> bool:
        return any(isinstance(t, dict) and t.get("cache_control") for t in tools or ())

    def after(self, block: Block) -> list[Block]:
        """The cachePoint that follows a block, or nothing."""
        control = block.get("cache_control")
        if not isinstance(control, dict):
            return []
        if not self._allowed or self._left == 0:
            self.dropped = True
            return []
        return [self.point(control.get("ttl"))]

    def point(self, ttl: Any = None) -> Block:
        """One cachePoint; only an hour needs to be said."""
        self._left -= 1
        point = {"type": "default"}
        if ttl == "1h" and self._ttl:
            point["ttl"] = "1h"
        return {"cachePoint": point}


def _system(history: History, request: Request, traits: Traits, cache: _CachePoints) -> list[Block]:
    out: list[Block] = []
    for block in history.system:
        out += [{"text": block["text"]}, *cache.after(block)]
    wanted = _format(request)
    if wanted is not None and not traits.formats:
        schema = json.dumps(wanted, ensure_ascii=False)
        out.append({"text": f"Answer with one JSON document only, which matches this JSON Schema:\n{schema}"})
    return out


def _messages(turns: list[Turn], blocks: Blocks, cache: _CachePoints) -> list[Block]:
    out: list[Block] = []
    for turn in turns:
        role = "assistant" if turn.role == "assistant" else "user"
        content: list[Block] = []
        for result in turn.results:
            content += blocks.result(result)
        content += blocks.late_media()
        for block in turn.blocks:
            made = blocks.assistant(block) if role == "assistant" else blocks.user(block)
            if made:
                content += [*made, *cache.after(block)]
        if role == "user":
            content = blocks.with_text(content)
        if not content:
            continue
        if out and out[-1]["role"] == role:  # what stood between them was nothing that could be sent
            out[-1]["content"] += content
        else:
            out.append({"role": role, "content": content})
    if not out or out[0]["role"] == "assistant":
        out.insert(0, {"role": "user", "content": [{"text": _OPENER}]})
    return out


def _inference(request: Request, ctx: Context) -> dict[str, Any]:
    config: dict[str, Any] = {}
    tokens = request.get("max_tokens")
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        cap = ctx.facts.output_cap
        config["maxTokens"] = tokens if cap is None else min(tokens, cap)
    for key, name in (("temperature", "temperature"), ("top_p", "topP")):
        if isinstance(request.get(key), (int, float)):
            config[name] = request[key]
    given = request.get("stop_sequences")
    stops = [s for s in given if isinstance(s, str) and s] if isinstance(given, list) else []
    if stops:
        config["stopSequences"] = stops
    return config


def _tools(
    request: Request, turns: list[Turn], traits: Traits, cache: _CachePoints, encoded: Encoded
) -> dict[str, Any] | None:
    """toolConfig. A history with tool blocks needs one even where the client offers no tools (any more)."""
    given = functions.read(request, encoded.lose)
    functions.lose_server(given, encoded.lose)
    called = {call["name"]: None for turn in turns for call in turn.calls}
    if given.choice == "none" and not called:
        return None
    offered = given.functions or [
        functions.Function(n, "", {"type": "object", "properties": {}}) for n in called
    ]
    specs: list[Block] = functions.written(
        offered, "converse", encoded, lambda noted: Shared([_spec(f, noted) for f in offered])
    )
    if not specs:
        return None
    if cache.tools:
        specs = [*specs, cache.point()]
    config: dict[str, Any] = {"tools": specs}
    if given.choice in traits.forced:
        config["toolChoice"] = (
            {"any": {}} if given.choice == "any" else {"tool": {"name": short_name(given.choice_name)}}
        )
    elif given.choice in ("any", "tool", "none"):
        encoded.lose("tool_choice")
    if not given.parallel:
        encoded.lose("tool_choice.disable_parallel_tool_use")
    return config


def _spec(function: functions.Function, encoded: Encoded) -> Block:
    name = short_name(function.name)
    if name != function.name:
        encoded.names[name] = function.name
    schema = plain(function.schema)
    schema["type"] = "object"
    schema.setdefault("properties", {})
    # A description is optional, but an empty one is refused.
    described = {"description": function.description} if function.description.strip() else {}
    return {"toolSpec": {"name": name, **described, "inputSchema": {"json": schema}}}


def _more(request: Request, ctx: Context, traits: Traits, encoded: Encoded) -> dict[str, Any]:
    """additionalModelRequestFields: what Converse itself has no field for."""
    more: dict[str, Any] = {}
    if request.get("top_k") is not None:
        if traits.top_k == "nova":
            more["inferenceConfig"] = {"topK": request["top_k"]}
        elif traits.top_k:
            more["top_k"] = request["top_k"]
        else:
            encoded.lose("top_k")
    add = _EFFORTS.get(traits.effort)
    effort = effort_of(request)
    if effort is not None and add is not None:
        add(request, ctx, effort, more)
    elif effort not in (None, "off"):
        encoded.lose("thinking")
    return more


def _claude_effort(request: Request, ctx: Context, effort: str, more: dict[str, Any]) -> None:
    thinking = request.get("thinking")
    if effort == "off" or not isinstance(thinking, dict):
        return
    if ctx.facts.thinking == "budget" and thinking.get("type") != "enabled":
        more["thinking"] = {"type": "enabled", "budget_tokens": budget_of(request, _room(request))}
        return
    more["thinking"] = {k: v for k, v in thinking.items() if k in ("type", "budget_tokens")}
    config = request.get("output_config")
    if isinstance(config, dict) and config.get("effort") and thinking.get("type") == "adaptive":
        more["output_config"] = {"effort": config["effort"]}


def _room(request: Request) -> int:
    """The largest thinking budget: it has to stay below max_tokens, and 1024 is the least there is."""
    tokens = request.get("max_tokens")
    return max(1024, tokens - 1) if isinstance(tokens, int) else 4096


def _nova_effort(request: Request, ctx: Context, effort: str, more: dict[str, Any]) -> None:
    if effort == "off":
        return
    # "high" forbids maxTokens, temperature and topP: medium is the highest that can be bounded.
    more["reasoningConfig"] = {
        "type": "enabled",
        "maxReasoningEffort": "low" if effort == "low" else "medium",
    }


def _openai_effort(request: Request, ctx: Context, effort: str, more: dict[str, Any]) -> None:
    more["reasoning_effort"] = {"off": "low", "low": "low", "medium": "medium"}.get(effort, "high")


_EFFORTS = {"claude": _claude_effort, "nova": _nova_effort, "openai": _openai_effort}


def _format(request: Request) -> Any:
    """The JSON Schema the answer has to match, or None."""
    config = request.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return wanted.get("schema")
    return None


def _text_format(schema: Any) -> Block:
    text = json.dumps(schema, ensure_ascii=False)
    return {"type": "json_schema", "structure": {"jsonSchema": {"name": "output", "schema": text}}}
