"""A Messages request as a generateContent request, for AI Studio and for Vertex (DIALECTS 11).

The provider's base_url ends before `/models/...`; the key travels in a header, never in the URL. What cannot be
carried is named in `losses` by its Messages field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ccm.dialects.base import Context, Encoded, Request
from ccm.dialects.gemini.model import Generation, generation, is_vertex, output_tokens, thinking_config
from ccm.dialects.gemini.parts import contents
from ccm.dialects.gemini.schema import gemini_json_schema
from ccm.dialects.gemini.tools import add_tools
from ccm.dialects.history import call_ids, fold_system, has_cache_marks, read
from ccm.dialects.reasoning import wants_thinking
from ccm.errors import Refusal

_MAX_STOPS = 5
# Request fields that have no counterpart; what they ask for is not done.
_DROPPED = (
    "metadata", "service_tier", "speed", "container", "context_management", "mcp_servers", "inference_geo",
    "diagnostics", "safeguards", "cache_control",
)  # fmt: skip
# The categories that both APIs know.
_HARMS = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
)
_THRESHOLDS = ("BLOCK_NONE", "OFF", "BLOCK_ONLY_HIGH", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_LOW_AND_ABOVE")


def encode(request: Request, ctx: Context) -> Encoded:
    """The request. Raises Refusal (400) when no message has any content."""
    verb = "streamGenerateContent?alt=sse" if ctx.stream else "generateContent"
    gen = generation(ctx.model, ctx.facts)
    out = _conversation(request, ctx, gen, f"{model_path(ctx.model)}:{verb}")
    config = _config(request, ctx, gen, out)
    if config:
        out.body["generationConfig"] = config
    threshold = str(ctx.options.get("safety") or "").upper()
    if threshold in _THRESHOLDS:
        out.body["safetySettings"] = [{"category": c, "threshold": threshold} for c in _HARMS]
    for key in _DROPPED:
        if request.get(key):
            out.lose(key)
    return out


def encode_count(request: Request, ctx: Context) -> Encoded:
    """The same conversation for `:countTokens` (DIALECTS 9): AI Studio wraps it, Vertex takes it at the top level."""
    gen = generation(ctx.model, ctx.facts)
    out = _conversation(request, ctx, gen, f"{model_path(ctx.model)}:countTokens")
    out.body.pop("toolConfig", None)
    if not is_vertex(ctx):
        name = model_path(ctx.model).lstrip("/")
        out.body = {"generateContentRequest": {"model": name, **out.body}}
    return out


def model_path(model: str) -> str:
    """`/models/<id>`, or the name itself where it says what it is (`tunedModels/x`, `endpoints/1`, `models/x`)."""
    path = quote(model.strip("/"), safe="/@:.-_~")
    return f"/{path}" if "/" in path else f"/models/{path}"


def _conversation(request: Request, ctx: Context, gen: Generation, path: str) -> Encoded:
    out = Encoded(path, {}, seen_ids=call_ids(request))
    history = read(request, out.lose)
    if has_cache_marks(request):
        out.lose("cache_control")
    made = contents(fold_system(history.turns), ctx, gen, out)
    if not made:
        raise Refusal(400, "invalid_request_error", "messages: at least one message with content is required")
    if made[-1]["role"] == "model":
        out.lose("messages.prefill", "approximated")
    out.body["contents"] = made
    system = [{"text": block["text"]} for block in history.system]
    add_tools(request, ctx, gen, out)
    note = _format_note(request, gen, out)
    if note:
        system.append({"text": note})
    if system:
        out.body["systemInstruction"] = {"parts": system}
    return out


def _config(request: Request, ctx: Context, gen: Generation, out: Encoded) -> dict[str, Any]:
    config: dict[str, Any] = {}
    thinking = thinking_config(request, gen, ctx.facts)
    tokens = output_tokens(request, gen, thinking)
    if tokens is not None:
        config["maxOutputTokens"] = tokens
    if isinstance(request.get("max_tokens"), int) and request["max_tokens"] > gen.cap:
        out.lose("max_tokens", "approximated")
    for key, name in (("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK")):
        value = request.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            config[name] = value
    given = request.get("stop_sequences")
    stops = [s for s in given if isinstance(s, str) and s] if isinstance(given, list) else []
    if stops:
        config["stopSequences"] = stops[:_MAX_STOPS]
        out.cut = tuple(stops[_MAX_STOPS:])
    schema = _output_schema(request)
    if schema is not None and not _clashes(gen, out):
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = gemini_json_schema(schema)
    if thinking:
        config["thinkingConfig"] = thinking
    elif wants_thinking(request):
        out.lose("thinking")
    return config


def _output_schema(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = request.get("output_config")
    form = config.get("format") if isinstance(config, Mapping) else None
    form = form or request.get("output_format")
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return None
    schema = form.get("schema")
    return schema if isinstance(schema, Mapping) else None


def _clashes(gen: Generation, out: Encoded) -> bool:
    """2.x: "Function calling with a response mime type: 'application/json' is unsupported"."""
    return bool(out.body.get("tools")) and not gen.is_3


def _format_note(request: Mapping[str, Any], gen: Generation, out: Encoded) -> str:
    schema = _output_schema(request)
    if schema is None or not _clashes(gen, out):
        return ""
    out.lose("output_config.format", "approximated")
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return (
        f"Your final answer must be one JSON value that matches this JSON Schema, and nothing else:\n{text}"
    )
