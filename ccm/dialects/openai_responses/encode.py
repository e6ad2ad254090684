"""Messages -> OpenAI Responses: the request fields around the input items (DIALECTS 4, 7, 10)."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from ccm.dialects.base import Context, Encoded, Request
from ccm.dialects.history import call_ids, has_cache_marks, read
from ccm.dialects.openai_responses.tools import add_tools
from ccm.dialects.openai_responses.turns import input_items
from ccm.dialects.reasoning import effort_of, nearest, wants_thinking
from ccm.dialects.schemas import openai_strict

PATH = "/responses"
COUNT_PATH = "/responses/input_tokens"
_MIN_OUTPUT_TOKENS = 16
_MAX_KEY = 64  # characters of prompt_cache_key and safety_identifier
_COUNTED = (
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "text",
)

# OpenAI's reasoning models and their efforts, where the catalogue does not say (first match; developers.openai.com).
_EFFORTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"o1-(mini|preview)", ()),
    (r"o\d", ("low", "medium", "high")),
    (r"gpt-oss", ("low", "medium", "high")),
    (r"gpt-5(\.\d+)?-chat", ()),
    (r"gpt-5-pro", ("high",)),
    (r"gpt-\d+(\.\d+)?-pro", ("medium", "high", "xhigh")),
    (r"gpt-5(\.1)?-codex(-mini)?(?!-max)", ("low", "medium", "high")),
    (r"gpt-\d+(\.\d+)?-codex", ("low", "medium", "high", "xhigh")),
    (r"gpt-5(?!\.)", ("minimal", "low", "medium", "high")),
    (r"gpt-5\.1", ("none", "low", "medium", "high")),
    (r"gpt-([5-9]|\d\d)", ("none", "low", "medium", "high", "xhigh")),
)
_MODEL = r"(?:^|[/.:])"  # behind a vendor prefix too: "openai/gpt-5", "openai.gpt-oss-20b"
_EFFORT_TABLE = tuple((re.compile(_MODEL + pattern, re.I), efforts) for pattern, efforts in _EFFORTS)
# Models that refuse everything about reasoning, `include` too: "Encrypted content is not supported with this model".
_NO_REASONING = re.compile(_MODEL + r"(gpt-[34]|chatgpt-|gpt-5(\.\d+)?-chat|text-|davinci)", re.I)
# Fields of Anthropic's own services that have no counterpart here.
_DROPPED = ("top_k", "container", "context_management", "mcp_servers", "inference_geo", "safeguards")


def encode(request: Request, ctx: Context) -> Encoded:
    """The request as POST /responses. Raises Refusal (400) for files of Anthropic's Files API."""
    encoded = Encoded(PATH, {}, seen_ids=call_ids(request))
    history = read(request, encoded.lose)
    body = encoded.body
    body["model"] = ctx.model
    if history.system:
        body["instructions"] = history.system_text
    body["input"] = input_items(history.turns, ctx, encoded)
    if history.turns and history.turns[-1].role == "assistant":
        encoded.lose("prefill", "approximated")
    hosted = add_tools(request, ctx, encoded)
    _limits(request, ctx, encoded)
    _reasoning(request, ctx, encoded, hosted)
    _format(request, body)
    _account(request, ctx, body)
    include = []
    if not _NO_REASONING.search(ctx.model):
        include.append("reasoning.encrypted_content")
    if hosted and is_openai(ctx):
        include.append("web_search_call.action.sources")
    if include:
        body["include"] = include
    body["store"] = False
    body["stream"] = ctx.stream
    if has_cache_marks(request):
        encoded.lose("cache_control")
    for feature in _DROPPED:
        if request.get(feature):
            encoded.lose(feature)
    return encoded


def encode_count(request: Request, ctx: Context) -> Encoded | None:
    """POST /responses/input_tokens: OpenAI's own count; None for relays and providers that are not known to have it."""
    if "count_tokens" not in ctx.abilities and ctx.family.partition("/")[2] not in ("openai", "custom"):
        return None
    encoded = encode(request, ctx)
    encoded.path = COUNT_PATH
    encoded.body = {key: encoded.body[key] for key in _COUNTED if key in encoded.body}
    return encoded


def is_openai(ctx: Context) -> bool:
    """Whether OpenAI itself (or Azure's copy of it) is at the other end."""
    return ctx.family.partition("/")[2].startswith(("openai", "azure"))


def _limits(request: Request, ctx: Context, encoded: Encoded) -> None:
    body = encoded.body
    asked = request.get("max_tokens")
    if isinstance(asked, int) and not isinstance(asked, bool):
        cap = ctx.facts.output_cap
        body["max_output_tokens"] = max(_MIN_OUTPUT_TOKENS, asked if cap is None else min(asked, cap))
    given = request.get("stop_sequences")
    stops = [s for s in given if isinstance(s, str) and s] if isinstance(given, list) else []
    if stops:
        encoded.cut = tuple(stops)  # this API has no stop parameter
    reasons = bool(efforts_of(ctx)) and not _NO_REASONING.search(ctx.model)
    for key in ("temperature", "top_p"):
        if request.get(key) is None:
            continue
        if reasons:
            encoded.lose(key)
        else:
            body[key] = request[key]


def efforts_of(ctx: Context) -> tuple[str, ...]:
    """The efforts the model takes: the catalogue's word first, then OpenAI's names; () = it takes none, or unknown."""
    if ctx.facts.efforts:
        return ctx.facts.efforts
    return next((efforts for pattern, efforts in _EFFORT_TABLE if pattern.search(ctx.model)), ())


def _reasoning(request: Request, ctx: Context, encoded: Encoded, hosted: bool) -> None:
    """`reasoning: {effort, summary}` in the model's own words; nothing where the client said nothing."""
    efforts = efforts_of(ctx)
    effort = effort_of(request)
    if not efforts or effort is None:
        return
    if effort == "off":
        word = "none" if "none" in efforts else efforts[0]
    else:
        word = nearest(effort, efforts)
        if word != effort:
            encoded.lose("output_config.effort", "approximated")
    if hosted and word == "minimal":
        word = "low"  # "The following tools cannot be used with reasoning.effort 'minimal': web_search"
    encoded.body["reasoning"] = {"effort": word}
    thinking = request.get("thinking")
    if wants_thinking(request) and isinstance(thinking, dict) and thinking.get("display") != "omitted":
        encoded.body["reasoning"]["summary"] = "auto"


def _format(request: Request, body: dict[str, Any]) -> None:
    """Structured output: strict where the schema can be said in OpenAI's strict subset, else as it is."""
    config = request.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    wanted = wanted or request.get("output_format")
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return
    schema = wanted.get("schema")
    lost: set[str] = set()
    strict = openai_strict(schema, lost)
    body["text"] = {
        "format": {
            "type": "json_schema",
            "name": "output",
            "schema": schema if lost else strict,
            "strict": not lost,
        }
    }


def _account(request: Request, ctx: Context, body: dict[str, Any]) -> None:
    """Who asks, and which conversation it is: OpenAI's own fields, sent to OpenAI only."""
    if not is_openai(ctx):
        return
    if ctx.session:
        body["prompt_cache_key"] = _bounded(ctx.session)
    metadata = request.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if isinstance(user, str) and user:
        body["safety_identifier"] = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
    if request.get("speed") == "fast":
        body["service_tier"] = "priority"


def _bounded(key: str) -> str:
    return key if len(key) <= _MAX_KEY else hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
