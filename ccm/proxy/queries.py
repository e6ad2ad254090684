"""The questions beside messages: how many tokens, which models."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.inbound.clouds import Bedrock, Vertex
from ccm.dialects.inbound.messages import MessagesRenderer
from ccm.dialects.table import DIALECTS
from ccm.errors import CcmError, ClientGone, Refusal, UpstreamError
from ccm.messages.estimate import estimate
from ccm.model import TIERS, Outcome, Snapshot, Target
from ccm.observe.record import RequestRecord
from ccm.proxy import parse
from ccm.proxy.attempt import Wanted, context, refuse_bad_status, send
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import Engine, new_id
from ccm.proxy.entry import Entry
from ccm.routing import tags
from ccm.routing.classify import Ask
from ccm.routing.rules import tier_of
from ccm.wire import jsontext

_COUNT_LIMIT_S = 10.0
_MAX_COUNT_BYTES = 64 * 1024


def count_tokens(
    engine: Engine, raw: bytes, headers: Mapping[str, str], entry: Entry, down: Downstream
) -> None:
    """POST /v1/messages/count_tokens: the provider's own count where it has one, else an estimate that says so
    (header `x-ccm-estimated`). Never moves health, never fails because a provider does (R41, R45)."""
    began = time.monotonic()
    record = RequestRecord(new_id("req_"), time.time(), surface="count_tokens", bytes_in=len(raw))
    body = parse.parse(raw)
    surface = SURFACES[entry.surface]
    if isinstance(surface, (Bedrock, Vertex)):
        body = surface.counting(body, entry.model)
        raw = json.dumps(body, separators=(",", ":")).encode()
    parse.check_messages(body, counting=True)
    record.asked_model, record.request_class = body["model"], "count_tokens"
    ask = Ask(
        model=body["model"], stream=False, headers=headers, size_bytes=len(raw), path_prefix=entry.prefix,
        body=lambda: body, raw=raw, surface="count_tokens",
    )  # fmt: skip
    snapshot = engine.snapshot
    route = engine.router.route(ask, snapshot, engine.book.find)
    if tags.may_have_tags(raw):
        body = tags.strip_tags(body)
    answer_headers = {"request-id": record.id}
    tokens: int | None = None
    if route.targets:
        target = route.targets[0]
        record.provider, record.model = target.provider.name, target.model
        answer_headers["x-ccm-provider"] = target.provider.name
        tokens = _ask_provider(engine, target, body, raw, headers, down)
    if tokens is None:
        tokens = estimate(body)
        answer_headers["x-ccm-estimated"] = "true"
    record.status, record.ending, record.total_s = 200, "complete", time.monotonic() - began
    record.usage.input, record.usage.estimated = 0, True
    engine.observe(record)
    counted = surface.counted(tokens) if isinstance(surface, (Bedrock, Vertex)) else {"input_tokens": tokens}
    down.answer_json(200, counted, answer_headers)


def _ask_provider(
    engine: Engine,
    target: Target,
    body: dict[str, Any],
    raw: bytes,
    headers: Mapping[str, str],
    down: Downstream,
) -> int | None:
    """The provider's count; None where it has no such endpoint, or none that answers now."""
    dialect = DIALECTS[target.provider.dialect]
    want = Wanted(raw, lambda: body, body["model"], False, headers, "", MessagesRenderer)
    ticket = engine.router.reserve(target) if engine.counts(target.id) else None
    if ticket is None:
        return None
    try:
        encoded = dialect.encode_count(body, context(want, target, new_id, False))
        if encoded is None:
            return None
        deadline = time.monotonic() + _COUNT_LIMIT_S
        payload = jsontext.dumps(encoded.body)
        call = send(engine, target, encoded, payload, down, deadline, False, headers)
        refuse_bad_status(call, dialect, deadline)
        try:
            answer = call.read_all(deadline, _MAX_COUNT_BYTES)
        except CcmError:
            call.close()
            raise
        call.release()
        return dialect.decode_count(json.loads(answer))
    except ClientGone:
        raise
    except UpstreamError as error:
        if error.error.status in (404, 405, 501):
            engine.cannot_count(target.id)
        return None
    except (CcmError, ValueError, KeyError, TypeError):
        return None  # an estimate serves the client better than an error it cannot act on
    finally:
        engine.router.release(ticket, Outcome(cancelled=True))


# What a client sees that asks for models: the Claude names, which every provider resolves, then the providers' own.
_CLAUDE_NAMES = {
    "opus": ("claude-opus-5-5", "Claude Opus 5.5"),
    "sonnet": ("claude-sonnet-5-5", "Claude Sonnet 5.5"),
    "haiku": ("claude-haiku-5-5", "Claude Haiku 5.5"),
    "fable": ("claude-fable-5-1", "Claude Fable 5.1"),
}
_CREATED = "2026-01-01T00:00:00Z"
_CREATED_S = 1767225600


def _names(snapshot: Snapshot) -> dict[str, str]:
    names = {id: name for tier in TIERS for id, name in (_CLAUDE_NAMES[tier],)}
    names.update({name: name for name in snapshot.models if "*" not in name and "?" not in name})
    for endpoint in snapshot.endpoints:
        provider = endpoint.provider
        for model in (*provider.tiers.values(), *provider.models.values()):
            if not tier_of(model):
                names.setdefault(f"{provider.name}/{model}", f"{model} ({provider.display or provider.name})")
    return names


def models(engine: Engine, headers: Mapping[str, str], id: str, down: Downstream) -> None:
    """GET /v1/models[/{id}] in the shape the caller's headers ask for: Anthropic's with `anthropic-version`, OpenAI's
    otherwise (DIALECTS 1). Raises Refusal 404 for a name that is not there."""
    anthropic = "anthropic-version" in headers or "x-api-key" in headers
    shape = _anthropic_model if anthropic else _openai_model
    names = _names(engine.snapshot)
    if id:
        if id not in names and not tier_of(id):
            raise Refusal(404, "not_found_error", f"model: {id[:200]}")
        down.answer_json(200, shape(engine, id, names.get(id, id)))
        return
    data = [shape(engine, name, display) for name, display in names.items()]
    if anthropic:
        page = {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
        down.answer_json(200, page)
    else:
        down.answer_json(200, {"object": "list", "data": data})


def _anthropic_model(engine: Engine, id: str, display: str) -> dict[str, Any]:
    facts = engine.book.find(id.rpartition("/")[2])
    model: dict[str, Any] = {"type": "model", "id": id, "display_name": display, "created_at": _CREATED}
    if facts.known:
        model |= {"max_input_tokens": facts.window, "max_tokens": facts.output_cap}
    return model


def _openai_model(engine: Engine, id: str, display: str) -> dict[str, Any]:
    return {
        "id": id,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": id.partition("/")[0] if "/" in id else "ccm",
    }
