"""OpenAI's two APIs as surfaces: Chat Completions and Responses. What they share, and what binds their halves together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Loss
from ccm.dialects.inbound import chat_request, finish, responses_request
from ccm.dialects.inbound.chat_answer import Answer, ChatRenderer
from ccm.dialects.inbound.messages import NewId
from ccm.dialects.inbound.parts import Losses
from ccm.dialects.inbound.responses_answer import ResponsesRenderer
from ccm.model import EMPTY

_LATER_SYSTEM_BETA = "mid-conversation-system-2026-04-07"


def _headers(body: Mapping[str, Any], later_system: bool, headers: Mapping[str, str]) -> dict[str, str]:
    """The beta that system messages inside a conversation need, and OpenAI's cache key as the header that ccm knows
    conversations by."""
    extra: dict[str, str] = {}
    if later_system:
        betas = [b.strip() for b in headers.get("anthropic-beta", "").split(",")]
        extra["anthropic-beta"] = ",".join(dict.fromkeys([*filter(None, betas), _LATER_SYSTEM_BETA]))
    key = body.get("prompt_cache_key")
    if isinstance(key, str) and 0 < len(key) <= 128 and key.isascii() and key.isprintable():
        extra["x-claude-code-session-id"] = key
    return extra


class Chat:
    """POST /v1/chat/completions. See `base.Surface`."""

    name = "chat"
    native = False

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The Messages request and what was lost. Raises Refusal (400) naming the field."""
        lose = Losses()
        return chat_request.translate(body, path_model, stream, lose), lose.found

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """See `_headers`."""
        return _headers(body, chat_request.has_later_system(body.get("messages")), headers)

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> ChatRenderer:
        """A renderer of one stream. `original` is the client's body: its tools say what kind a call is."""
        return ChatRenderer(asked_model, original, new_id, created_s)

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """The chat.completion object of a whole Messages answer."""
        answer = Answer(original)
        for event in finish.events_of(message):
            answer.deltas(event)
        choice = {
            "index": 0,
            "message": answer.message(),
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        return {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": created_s,
            "model": asked_model,
            "choices": [choice],
            "usage": answer.usage_object(),
        }

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """OpenAI's error envelope; the request id travels in the headers, as at OpenAI."""
        return {"error": finish.error_object(type, message)}


class Responses:
    """POST /v1/responses. See `base.Surface`."""

    name = "responses"
    native = False

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The Messages request and what was lost. Raises Refusal (400) naming the field."""
        lose = Losses()
        return responses_request.translate(body, path_model, stream, lose), lose.found

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """See `_headers`."""
        return _headers(body, responses_request.has_later_system(body), headers)

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> ResponsesRenderer:
        """A renderer of one stream. `original` is the client's body, which the response echoes."""
        return ResponsesRenderer(asked_model, original, new_id, created_s)

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """The response object of a whole Messages answer."""
        renderer = ResponsesRenderer(asked_model, original, new_id, created_s)
        for event in finish.events_of(message):
            renderer.take(event)
        return renderer.response

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """OpenAI's error envelope; the request id travels in the headers, as at OpenAI."""
        return {"error": finish.error_object(type, message)}


CHAT = Chat()
RESPONSES = Responses()
