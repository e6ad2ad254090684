"""Claude on Bedrock: InvokeModel with Anthropic's own body, less what Bedrock does not know (DIALECTS 6.4, 12).

Bedrock answers an unknown field or beta with 400, so fields pass by an open list here and a beta goes together with the
fields it brought (R19). The stream carries Anthropic's events, each as base64 in an event-stream message.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from ccm.dialects import anthropic
from ccm.dialects import tools as functions
from ccm.dialects.base import Context, Encoded, Message, Request
from ccm.dialects.bedrock.decode import payload_of
from ccm.dialects.bedrock.messages import messages, without_cache_extras
from ccm.dialects.bedrock.models import base_model, path
from ccm.dialects.reasoning import budget_of
from ccm.errors import BadUpstream
from ccm.messages.events import Event
from ccm.messages.tokens import Usage
from ccm.wire import jsontext
from ccm.wire.eventstream import Frame
from ccm.wire.sse import Frame as SseFrame

VERSION = "bedrock-2023-05-31"
_METRICS = "amazon-bedrock-invocationMetrics"
_SMALLEST_BUDGET = 1_024  # Anthropic's least thinking budget; max_tokens has to be larger
# The fields of an InvokeModel body for Claude. `anthropic_version` and `anthropic_beta` are put in here.
_FIELDS = frozenset(
    (
        "max_tokens",
        "messages",
        "metadata",
        "output_config",
        "stop_sequences",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    )
)
# Betas that Bedrock documents, without their dates: the first and the last version of Claude that takes them. All
# others are dropped, with what they brought: Bedrock answers an unknown one with 400.
_NEWEST = (99, 0)
_BETAS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "computer-use": ((3, 5), _NEWEST),
    "context-1m": ((4, 0), _NEWEST),
    "effort": ((4, 5), _NEWEST),
    "interleaved-thinking": ((4, 0), _NEWEST),
    "output-128k": ((3, 7), (3, 7)),
    "token-efficient-tools": ((3, 7), (3, 7)),
}
_LABEL = re.compile(r"[a-z0-9_.-]{1,48}")  # what a client names may become a label of a counter: bounded
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_CLAUDE_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:-(\d{1,2}))?(?![\d])")
_TOOL_FIELDS = ("type", "name", "description", "input_schema", "cache_control")
_NATIVE_TOOLS = ("bash_", "text_editor_", "computer_")


def version_of(model: str) -> tuple[int, int]:
    """Claude's version in a model id ("…claude-sonnet-4-5-20250929-v1:0" -> (4, 5)); (0, 0) where it has none."""
    match = _CLAUDE_VERSION.search(model.lower())
    return (int(match.group(1)), int(match.group(2) or 0)) if match else (0, 0)


def encode(request: Request, ctx: Context) -> Encoded:
    """The request as POST /model/{id}/invoke or /invoke-with-response-stream. Raises Refusal for Files API references."""
    native = anthropic.DIALECT.encode(request, ctx)
    action = "invoke-with-response-stream" if ctx.stream else "invoke"
    encoded = Encoded(path(ctx.model, action), {}, losses=native.losses)
    body: dict[str, Any] = {"anthropic_version": VERSION}
    for key, value in native.body.items():
        if key in _FIELDS:
            body[key] = value
        elif key not in ("model", "stream") and value:
            _lose(encoded, "", key)
    encoded.body = body
    version = version_of(ctx.model)
    body["messages"] = messages(body.get("messages"), ctx, encoded, hours=version >= (4, 5))
    if isinstance(body.get("system"), list):
        body["system"] = [without_cache_extras(b, version >= (4, 5)) for b in body["system"]]
    _tools(body, encoded, version)
    _thinking(body, request, ctx, encoded)
    _output_config(body, ctx, encoded, version)
    betas = _betas(ctx, body, encoded)
    if betas:
        body["anthropic_beta"] = betas
    return encoded


def encode_count(request: Request, ctx: Context) -> Encoded:
    """POST /model/{id}/count-tokens: the model itself, not its inference profile, and the body in base64."""
    encoded = encode(request, ctx)
    body = {k: v for k, v in encoded.body.items() if k not in ("stop_sequences", "metadata")}
    budget = body["thinking"].get("budget_tokens") if isinstance(body.get("thinking"), dict) else None
    body["max_tokens"] = budget + 1 if isinstance(budget, int) else 1024
    packed = base64.b64encode(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")).decode()
    return Encoded(
        path(base_model(ctx.model), "count-tokens"),
        {"input": {"invokeModel": {"body": packed}}},
        losses=encoded.losses,
    )


def decode(body: Any, ctx: Context, sent: Encoded) -> Message:
    """A whole answer: Anthropic's message as it is."""
    return anthropic.DIALECT.decode(body, ctx, sent)


class Decoder:
    """One streamed answer: Anthropic's own decoder behind the base64. See `base.Decoder`."""

    def __init__(self, ctx: Context, sent: Encoded) -> None:
        self._inner = anthropic.DIALECT.decoder(ctx, sent)
        self.usage: Usage = self._inner.usage
        self.finished = False

    def feed(self, frame: Frame) -> list[Event]:
        """Events of one message. Raises UpstreamError for an exception in the stream."""
        if self.finished:
            return []
        packed = payload_of(frame).get("bytes")
        if not isinstance(packed, str):
            return []
        try:
            data = base64.b64decode(packed, validate=True)
        except ValueError as error:
            raise BadUpstream("a chunk whose bytes are no base64") from error
        if _METRICS.encode() in data:
            data = _without_metrics(data)
        events = self._inner.feed(SseFrame("", data))
        self.finished = self._inner.finished
        return events

    def end(self) -> list[Event]:
        """The body ended: the last events, or IncompleteStream."""
        events = self._inner.end()
        self.finished = self._inner.finished
        return events


def _without_metrics(data: bytes) -> bytes:
    try:
        event = jsontext.event(data)
    except ValueError:
        return data  # the inner decoder says what is wrong with it
    if isinstance(event, dict):
        event.pop(_METRICS, None)
    return json.dumps(event, ensure_ascii=False).encode()


def _tools(body: dict[str, Any], encoded: Encoded, version: tuple[int, int]) -> None:
    """Custom tools and Anthropic's typed client tools; server tools run at Anthropic only, with them goes the choice."""
    given = body.pop("tools", None)
    kept: list[dict[str, Any]] = []
    for tool in given if isinstance(given, list) else ():
        if not isinstance(tool, dict):
            continue
        kind = str(tool.get("type") or "custom")
        if kind.startswith(_NATIVE_TOOLS):
            kept.append(without_cache_extras(tool, version >= (4, 5)))
            continue
        for feature in sorted(set(tool) - set(_TOOL_FIELDS)):
            if tool[feature]:  # deferred tools are sent whole; the others bring what only newer betas know
                _lose(encoded, "tools.", feature)
        if isinstance(tool.get("input_schema"), dict):
            custom = {k: tool[k] for k in _TOOL_FIELDS if k in tool}
            kept.append(without_cache_extras(custom, version >= (4, 5)))
            continue
        read = functions.read({"tools": [tool]}, encoded.lose)
        functions.lose_server(read, encoded.lose)
        kept += [
            {"name": f.name, "description": f.description, "input_schema": f.schema} for f in read.functions
        ]
    if kept:
        body["tools"] = kept
    choice = body.get("tool_choice")
    named = choice.get("name") if isinstance(choice, dict) else None
    if choice is not None and (not kept or (named and all(tool.get("name") != named for tool in kept))):
        del body["tool_choice"]
        encoded.lose("tool_choice")


def _thinking(body: dict[str, Any], request: Request, ctx: Context, encoded: Encoded) -> None:
    """The thinking form of the model, by its version where the catalogue does not know it (R15)."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict):
        return
    version = version_of(ctx.model)
    if thinking.get("display") == "updates":  # a beta of 2026 that Bedrock lacks
        thinking = body["thinking"] = {k: v for k, v in thinking.items() if k != "display"}
        encoded.lose("thinking.display")
    if ctx.facts.known or version == (0, 0) or thinking.get("type") == "disabled":
        return
    limit = body.get("max_tokens")
    if version < (3, 7) or (isinstance(limit, int) and limit <= _SMALLEST_BUDGET):
        del body["thinking"]
        encoded.lose("thinking")
    elif version < (4, 6) and thinking.get("type") != "enabled":
        budget = budget_of(request, limit - 1 if isinstance(limit, int) else None)
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        encoded.lose("thinking", "approximated")


def _output_config(body: dict[str, Any], ctx: Context, encoded: Encoded, version: tuple[int, int]) -> None:
    """`effort` and `format` stay for the models that have them; unknown members go."""
    config = body.pop("output_config", None)
    if not isinstance(config, dict):
        return
    has_effort = bool(ctx.facts.efforts) or version >= (4, 6) or (version == (4, 5) and "opus" in ctx.model)
    allowed = {"effort": has_effort, "format": version >= (4, 5)}
    kept = {k: v for k, v in config.items() if allowed.get(k)}
    for key in config.keys() - kept.keys():
        _lose(encoded, "output_config.", key)
    if kept:
        body["output_config"] = kept


def _betas(ctx: Context, body: dict[str, Any], encoded: Encoded) -> list[str]:
    """The client's betas that Bedrock knows for this model."""
    asked = [b.strip() for b in ctx.client_headers.get("anthropic-beta", "").split(",")]
    version = version_of(ctx.model)
    kept = []
    for beta in dict.fromkeys(filter(None, asked)):
        name = _DATE.sub("", beta)
        first, last = _BETAS.get(name, (_NEWEST, (0, 0)))
        known = first <= version <= last
        if name == "effort":
            known = known and "effort" in body.get("output_config", {})
        elif name == "context-1m":  # of the models before 4.6 only Sonnet has the window
            known = known and (version >= (4, 6) or "sonnet" in ctx.model)
        if known:
            kept.append(beta)
        else:
            _lose(encoded, "beta.", name)
    return kept


def _lose(encoded: Encoded, prefix: str, name: str) -> None:
    encoded.lose(prefix + (name if _LABEL.fullmatch(name) else "other"))
