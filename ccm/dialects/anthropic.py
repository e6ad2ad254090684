"""The Messages API itself, of Anthropic and of the many that offer it too.

Where nothing must change the client's bytes go out as they came (`splice`, `needs_change`); `encode` is for the rest:
a renamed model, thinking of other providers in the history, a thinking form the model does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ccm.dialects import anthropic_cloud as cloud
from ccm.dialects.anthropic_stream import StreamDecoder, fault_of, figures
from ccm.dialects.base import Context, Decoder, Encoded, Message, Request
from ccm.dialects.errors import error_inside, error_of
from ccm.dialects.reasoning import BUDGETS, effort_of, nearest
from ccm.dialects.state import PREFIX, is_wrapped
from ccm.errors import BadUpstream, UpstreamError
from ccm.messages.tokens import Usage, count
from ccm.model import ProviderError
from ccm.wire.search import contains

VERSION = "2023-06-01"
# The families where Claude itself answers: it signs all its thinking, at Anthropic and on the clouds.
_ITSELF = frozenset({"anthropic/anthropic", "anthropic/vertex", "anthropic/azure-foundry"})
_LEADING_MODEL = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\\x00-\x1f]*)"')
_WRAPPED = b'"' + PREFIX.encode()
_PASSED_HEADERS = ("anthropic-version", "anthropic-beta")
_SMALLEST_BUDGET = 1_024
# What count_tokens does not take.
_NOT_COUNTED = (
    "max_tokens",
    "stream",
    "metadata",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "service_tier",
)


def splice(raw: bytes, model: str) -> bytes | None:
    """The body with only its leading "model" value replaced, all other bytes as they came; None where that cannot be
    proved: the model does not stand first, is escaped, or stands twice with the last one differing."""
    match = _LEADING_MODEL.match(raw)
    if match is None:
        return None
    out = b"".join((raw[: match.start(1) - 1], json.dumps(model).encode(), raw[match.end(1) + 1 :]))
    if raw.count(b'"model"') == 1 and b"\\u00" not in raw:
        return out
    # The word occurs again, mostly as a property in some tool's schema. A second key on the top level would win over
    # ours in most parsers, so the parser is asked.
    try:
        value = json.loads(out)
    except (ValueError, RecursionError):
        return None
    return out if isinstance(value, dict) and value.get("model") == model else None


def can_pass(ctx: Context) -> bool:
    """Whether a client's body may go to this provider as it came, at `/v1/messages`: not to Vertex, whose path and
    body differ."""
    return not cloud.is_vertex(ctx)


def needs_change(raw: bytes) -> bool:
    """Whether the body may hold thinking that ccm wrapped for another provider: then `encode` must take it out."""
    return contains(raw, _WRAPPED)


def without_foreign_thinking(
    request: Request, unsigned: bool = False, every: bool = False
) -> tuple[Request, int]:
    """(the request without thinking blocks that ccm wrapped, how many they were).

    `unsigned`: also those without a signature, for Anthropic itself, which signs all. `every`: all of them, for the
    second try after `Invalid signature in thinking block` (R11).
    """

    def foreign(block: Any) -> bool:
        if not isinstance(block, dict) or block.get("type") not in ("thinking", "redacted_thinking"):
            return False
        bare = unsigned and block["type"] == "thinking" and not block.get("signature")
        return every or bare or is_wrapped(block.get("signature"))

    messages: list[Any] = []
    gone = 0
    for message in request.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        kept = [b for b in content if not foreign(b)] if isinstance(content, list) else []
        if not isinstance(content, list) or len(kept) == len(content):
            messages.append(message)
            continue
        gone += len(content) - len(kept)
        if kept:
            messages.append({**message, "content": kept})
        # an assistant turn of nothing but foreign thinking is no turn: the user turns around it may stand together
    return ({**request, "messages": messages}, gone) if gone else (request, 0)


def _lacks_thinking(request: Request) -> bool:
    """Whether the last assistant turn with tool calls, still being answered, begins without thinking (R12)."""
    for message in reversed(request.get("messages") or []):
        role, content = message.get("role"), message.get("content")
        if role == "assistant":
            if not isinstance(content, list) or not any(b.get("type") == "tool_use" for b in content):
                return False
            return content[0].get("type") not in ("thinking", "redacted_thinking")
        if role == "user" and not (
            isinstance(content, list) and any(b.get("type") == "tool_result" for b in content)
        ):
            return False
    return False


def _thinking(request: Request, ctx: Context, sent: Encoded) -> None:
    """The thinking form that the model knows (R15); only for models the catalogue knows."""
    body, facts = sent.body, ctx.facts
    thinking = body.get("thinking")
    form = thinking.get("type") if isinstance(thinking, dict) else None
    effort = effort_of(request)
    if not facts.known or effort is None:
        return
    if facts.thinking == "adaptive":
        if form == "enabled":
            shown = (
                {k: v for k, v in thinking.items() if k == "display"} if isinstance(thinking, dict) else {}
            )
            body["thinking"] = {"type": "adaptive", **shown}
            config = body.get("output_config")
            body["output_config"] = {
                **(config if isinstance(config, dict) else {}),
                "effort": nearest(effort, facts.efforts),
            }
    elif facts.thinking == "budget":
        _drop_effort(body, sent)
        if form not in (None, "disabled", "enabled"):
            body["thinking"] = {"type": "enabled", "budget_tokens": BUDGETS.get(effort, BUDGETS["high"])}
    elif facts.thinking == "":
        _drop_effort(body, sent)
        if body.pop("thinking", None) is not None and form != "disabled":
            sent.lose("thinking")


def _drop_effort(body: dict[str, Any], sent: Encoded) -> None:
    config = body.get("output_config")
    if isinstance(config, dict) and "effort" in config:
        rest = {k: v for k, v in config.items() if k != "effort"}
        body.pop("output_config")
        if rest:
            body["output_config"] = rest
        sent.lose("output_config.effort")


def _sampling(sent: Encoded, ctx: Context) -> None:
    """Models with adaptive thinking, and the API version 2026-10-21, refuse sampling parameters (DIALECTS 0.1)."""
    if ctx.facts.thinking != "adaptive" and sent.headers.get("anthropic-version") != "2026-10-21":
        return
    for name in ("temperature", "top_p", "top_k"):
        if sent.body.pop(name, None) is not None:
            sent.lose(name)


def _limits(body: dict[str, Any], ctx: Context) -> None:
    """max_tokens within what the model gives, a budget below max_tokens, at least the smallest one allowed."""
    limit, cap = body.get("max_tokens"), ctx.facts.output_cap
    if isinstance(limit, int) and cap and limit > cap:
        body["max_tokens"] = limit = cap
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(limit, int) and isinstance(budget, int) and isinstance(thinking, dict) and budget >= limit:
        if limit > _SMALLEST_BUDGET:
            body["thinking"] = {**thinking, "budget_tokens": limit - 1}
        else:
            body["thinking"] = {"type": "disabled"}


def headers(ctx: Context) -> dict[str, str]:
    """The client's `anthropic-version` and `anthropic-beta`, byte for byte (DIALECTS 1)."""
    passed = {name: ctx.client_headers[name] for name in _PASSED_HEADERS if name in ctx.client_headers}
    return {"anthropic-version": VERSION, **passed}


def _sound(body: dict[str, Any], ctx: Context) -> Message:
    """The message itself, or a copy with figures and a stop reason where it has none. Raises BadUpstream for blocks that
    are none."""
    tools = False
    for block in body["content"]:
        fault = fault_of(block) if isinstance(block, dict) and "type" in block else "of no type"
        if fault:
            raise BadUpstream(f"{ctx.provider}: the answer has a block {fault}")
        tools = tools or block["type"] == "tool_use"
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise BadUpstream(f"{ctx.provider}: the answer has a text block without text")
    changed: dict[str, Any] = {}
    if "usage" in body:
        given, told = body["usage"], Usage()
        told.update(given)
        if (usage := figures(given, told)) is not given:
            changed["usage"] = usage
    if "stop_reason" in body and not (isinstance(body["stop_reason"], str) and body["stop_reason"]):
        changed["stop_reason"] = "tool_use" if tools else "end_turn"
    return {**body, **changed} if changed else body


class Anthropic:
    """See `dialects.base.Dialect`."""

    name = "anthropic"
    framing = "sse"

    def encode(self, request: Request, ctx: Context) -> Encoded:
        request, gone = without_foreign_thinking(request, unsigned=ctx.family in _ITSELF)
        sent = Encoded(path="/v1/messages", body={**request, "model": ctx.model}, headers=headers(ctx))
        if gone:
            sent.lose("thinking")
        if not ctx.native or ctx.model != request.get("model"):
            _thinking(request, ctx, sent)
            _limits(sent.body, ctx)
            _sampling(sent, ctx)
        thinking = sent.body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") == "enabled" and _lacks_thinking(request):
            sent.body["thinking"] = {"type": "disabled"}
            sent.lose("thinking", "approximated")
        if ctx.stream != bool(request.get("stream")):
            sent.body["stream"] = ctx.stream
        return cloud.vertex(sent, ctx) if cloud.is_vertex(ctx) else sent

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        if not isinstance(body, dict):
            raise BadUpstream(f"{ctx.provider}: the answer is not a JSON object")
        if body.get("type") == "error" or (body.get("error") and "content" not in body):
            raise UpstreamError(error_inside(body))
        if not isinstance(body.get("content"), list):
            raise BadUpstream(f"{ctx.provider}: the answer is not a message (no content list)")
        return _sound(body, ctx)

    def decoder(self, ctx: Context, sent: Encoded) -> Decoder:
        return StreamDecoder(ctx)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return error_of(status, headers, body)

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        request, _ = without_foreign_thinking(request, unsigned=ctx.family in _ITSELF)
        body = {k: v for k, v in request.items() if k not in _NOT_COUNTED}
        body["model"] = ctx.model
        sent = Encoded(path="/v1/messages/count_tokens", body=body, headers=headers(ctx))
        return cloud.vertex_count(sent, ctx) if cloud.is_vertex(ctx) else sent

    def decode_count(self, body: Any) -> int:
        if not isinstance(body, dict) or "input_tokens" not in body:
            raise BadUpstream("a token count without input_tokens")
        return count(body["input_tokens"])


DIALECT = Anthropic()
