"""Claude on Google's Vertex AI: the Messages API with the model in the path and the version in the body (DIALECTS 12).

The answer is Anthropic's own, streamed or not. The request is narrower than at Anthropic: an unknown field or beta is a
400 there, so fields pass by an open list, and what newer betas brought is taken out with them (R19). Pure.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from ccm.dialects.base import Context, Encoded, Request
from ccm.dialects.history import block_text, reminder
from ccm.late import regex

VERTEX_VERSION = "vertex-2023-10-16"
COUNT_PATH = "/models/count-tokens:rawPredict"
# The fields of a rawPredict body for Claude; `anthropic_version` is put in here, `model` stands in the path.
_FIELDS = frozenset((
    "max_tokens", "messages", "metadata", "output_config", "stop_sequences", "stream", "system", "temperature",
    "thinking", "tool_choice", "tools", "top_k", "top_p",
))  # fmt: skip
_NOT_COUNTED = frozenset(
    ("max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p")
)
# Betas without their dates: those that Claude Code sends to Vertex, and the window that Google documents.
_BETAS = frozenset(("claude-code", "interleaved-thinking", "web-search", "context-1m"))
_TOOL_FIELDS = frozenset(("type", "name", "description", "input_schema", "cache_control"))
# Tools that Claude on Vertex knows by their type: those the client runs, and the search.
_TYPED_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "web_search_")
_DATE = regex(r"-\d{4}-?\d{2}-?\d{2}$")
_LABEL = regex(r"[a-z0-9_.-]{1,48}")  # what a client names may become a label of a counter: bounded


def is_vertex(ctx: Context) -> bool:
    """Whether the upstream is Vertex AI: the catalogue's row says so."""
    return bool(ctx.options.get("vertex"))


def vertex(native: Encoded, ctx: Context) -> Encoded:
    """A Messages request of `dialects.anthropic` as `:rawPredict` or `:streamRawPredict`; base_url ends in
    `/publishers/anthropic`."""
    verb = "streamRawPredict" if ctx.stream else "rawPredict"
    sent = Encoded(f"/models/{quote(ctx.model, safe='@.-_~')}:{verb}", {}, losses=native.losses)
    sent.body = _body(native.body, ctx, sent)
    betas = _betas(ctx, sent)
    if betas:
        sent.headers["anthropic-beta"] = betas
    return sent


def vertex_count(native: Encoded, ctx: Context) -> Encoded:
    """The same for counting: one path for all models, the model in the body."""
    sent = Encoded(COUNT_PATH, {}, losses=native.losses)
    body = _body(native.body, ctx, sent)
    sent.body = {"model": ctx.model, **{k: v for k, v in body.items() if k not in _NOT_COUNTED}}
    betas = _betas(ctx, sent)
    if betas:
        sent.headers["anthropic-beta"] = betas
    return sent


def _body(given: Request, ctx: Context, sent: Encoded) -> dict[str, Any]:
    body: dict[str, Any] = {"anthropic_version": VERTEX_VERSION}
    for key, value in given.items():
        if key in _FIELDS:
            body[key] = value
        elif key != "model" and value:
            _lose(sent, "", key)
    body["messages"] = [_unscoped(message) for message in _folded(body.get("messages"))]
    if isinstance(body.get("system"), list):
        body["system"] = [_plain(block) for block in body["system"]]
    _tools(body, sent)
    config = body.get("output_config")
    if isinstance(config, dict) and "effort" in config and ctx.facts.known and not ctx.facts.efforts:
        rest = {k: v for k, v in config.items() if k != "effort"}
        del body["output_config"]
        if rest:
            body["output_config"] = rest
        sent.lose("output_config.effort")
    return body


def _folded(messages: Any) -> list[dict[str, Any]]:
    """The messages with system ones in mid-conversation as reminders in user text, behind tool results (R20)."""
    out: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for message in messages if isinstance(messages, list) else ():
        role = message.get("role")
        if role == "system":
            text = "\n\n".join(filter(None, (block_text(b) for b in _blocks(message.get("content")))))
            if text.strip():
                waiting.append({"type": "text", "text": reminder(text)})
            continue
        if waiting and role == "user":
            blocks = _blocks(message.get("content"))
            results = [b for b in blocks if b.get("type") == "tool_result"]
            others = [b for b in blocks if b.get("type") != "tool_result"]
            message, waiting = {**message, "content": [*results, *waiting, *others]}, []
        elif waiting:
            waiting = _add(out, waiting)
        out.append(message)
    if waiting:
        _add(out, waiting)
    return out


def _add(out: list[dict[str, Any]], blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts text to the end of the last user turn, or makes a turn of it; nothing is left waiting."""
    if out and out[-1].get("role") == "user":
        out[-1] = {**out[-1], "content": [*_blocks(out[-1].get("content")), *blocks]}
    else:
        out.append({"role": "user", "content": blocks})
    return []


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def _unscoped(message: dict[str, Any]) -> dict[str, Any]:
    """The message with cache marks as Vertex knows them, those inside tool results too."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_plain(block) for block in content]}


def _plain(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    control = block.get("cache_control")
    if isinstance(control, dict) and control.keys() - {"type", "ttl"}:
        block = {**block, "cache_control": {k: v for k, v in control.items() if k in ("type", "ttl")}}
    inner = block.get("content")
    if block.get("type") == "tool_result" and isinstance(inner, list):
        return {**block, "content": [_plain(part) for part in inner]}
    return block


def _tools(body: dict[str, Any], sent: Encoded) -> None:
    """Custom tools with the fields that need no beta, typed tools that Vertex has; a choice of another goes with it."""
    given = body.pop("tools", None)
    kept: list[dict[str, Any]] = []
    for tool in given if isinstance(given, list) else ():
        if not isinstance(tool, dict):
            continue
        kind = str(tool.get("type") or "custom")
        if kind.startswith(_TYPED_TOOLS):
            kept.append(_plain(tool))
        elif kind == "custom":
            for feature in sorted(tool.keys() - _TOOL_FIELDS):
                if tool[feature]:  # deferred tools are sent whole
                    _lose(sent, "tools.", feature)
            kept.append(_plain({k: v for k, v in tool.items() if k in _TOOL_FIELDS}))
        else:
            _lose(sent, "tools.", re.sub(r"_\d{8}$", "", kind))
    if kept:
        body["tools"] = kept
    choice = body.get("tool_choice")
    named = choice.get("name") if isinstance(choice, dict) else None
    if choice is not None and (not kept or (named and all(tool.get("name") != named for tool in kept))):
        del body["tool_choice"]
        sent.lose("tool_choice")


def _betas(ctx: Context, sent: Encoded) -> str:
    """The client's betas that Vertex knows, as the header's value."""
    kept = []
    for beta in ctx.client_headers.get("anthropic-beta", "").split(","):
        name = _DATE.sub("", beta.strip())
        if name in _BETAS and beta.strip() not in kept:
            kept.append(beta.strip())
        elif name and name not in _BETAS:
            _lose(sent, "beta.", name)
    return ",".join(kept)


def _lose(sent: Encoded, prefix: str, name: str) -> None:
    sent.lose(prefix + (name if _LABEL.fullmatch(name) else "other"))
