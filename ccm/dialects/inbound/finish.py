"""The end of an answer in OpenAI's words: usage, stop reasons, errors. Shared by both of its APIs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ccm.messages.events import Event
from ccm.messages.fold import unfold
from ccm.messages.tokens import Usage

CONTEXT = re.compile(r"prompt is too long|context (?:window|length|limit)|exceed context", re.IGNORECASE)
_UNPARSED = '{"__unparsedToolInput"'
# A refusal of ours begins with the field it is about: "messages.3.content: ..."
_FIELD = re.compile(
    r"(model|messages|input|tools|functions|tool_choice|response_format|text|stop|n|stream|max_tokens|reasoning"
    r"|max_completion_tokens|max_output_tokens|temperature|top_p|top_k|reasoning_effort|modalities|instructions"
    r"|previous_response_id|conversation|prompt|background)((?:\.\w+)*): "
)
# Anthropic's error types -> OpenAI's (type, code)
_ERRORS: dict[str, tuple[str, str | None]] = {
    "invalid_request_error": ("invalid_request_error", None),
    "authentication_error": ("invalid_request_error", "invalid_api_key"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "permission_error": ("invalid_request_error", "permission_denied"),
    "not_found_error": ("invalid_request_error", "model_not_found"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout_error": ("server_error", "timeout"),
    "overloaded_error": ("server_error", "server_is_overloaded"),
    "api_error": ("server_error", "server_error"),
}


def error_object(type: str, message: str) -> dict[str, Any]:
    """OpenAI's `error`: message, type, param and code. Codes are the ones its clients act on: `context_length_exceeded`
    (Codex compacts), `insufficient_quota` (no retry), `rate_limit_exceeded`, `server_is_overloaded` (retry)."""
    kind, code = _ERRORS.get(type, ("server_error", "server_error"))
    param: str | None = None
    if type == "invalid_request_error":
        if CONTEXT.search(message):
            code = "context_length_exceeded"
        elif found := _FIELD.match(message):
            param = found[1] + found[2]
    return {"message": message, "type": kind, "param": param, "code": code}


def counts(usage: Usage) -> tuple[int, int, int, int]:
    """(all input, of that read from cache, all output, of that reasoning): OpenAI counts inclusively."""
    return usage.input_total, usage.cache_read, usage.output, usage.thinking or 0


def url_citations(citations: list[Any], start: int, end: int) -> list[dict[str, Any]]:
    """Web citations of one stretch of text, as `url_citation` with the stretch's place in the whole text."""
    out: list[dict[str, Any]] = []
    for citation in citations:
        url = citation.get("url") if isinstance(citation, dict) else None
        if isinstance(url, str) and url and all(url != seen["url"] for seen in out):
            title = str(citation.get("title") or url)
            out.append(
                {"type": "url_citation", "start_index": start, "end_index": end, "url": url, "title": title}
            )
    return out


def events_of(message: dict[str, Any]) -> Iterator[Event]:
    """The events of a whole answer. A call whose arguments were no JSON (`messages.fold` keeps them in a wrapping that
    Claude Code knows) says them again as they came: OpenAI's clients read arguments as text."""
    for event in unfold(message):
        piece = event.get("delta", {}).get("partial_json")
        if isinstance(piece, str) and piece.startswith(_UNPARSED):
            raw = dumped(json.loads(piece))
            event = {**event, "delta": {**event["delta"], "partial_json": raw}}
        yield event


def dumped(input: Any) -> str:
    """A call's input as JSON text; what was no JSON when it came goes out as it came."""
    if isinstance(input, dict) and set(input) == {"__unparsedToolInput"}:
        raw = input["__unparsedToolInput"]
        if isinstance(raw, dict) and isinstance(raw.get("raw"), str):
            return str(raw["raw"])
    return json.dumps(input if input is not None else {}, ensure_ascii=False, separators=(",", ":"))
