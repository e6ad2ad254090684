"""Claude Code and Anthropic's SDKs in Bedrock and Vertex mode: the Messages API in the clouds' wrapping (DIALECTS 12).

The model stands in the path, the version and (at Bedrock) the betas in the body; Bedrock streams AWS event-stream
messages with each event in base64, Vertex plain server-sent events.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ccm.dialects.base import Loss
from ccm.dialects.inbound.messages import MessagesRenderer, NewId, dumps, envelope
from ccm.dialects.inbound.parts import refuse
from ccm.messages.events import PING, Event
from ccm.messages.tokens import Usage
from ccm.model import EMPTY
from ccm.wire.eventstream_encode import encode

EVENT_STREAM = "application/vnd.amazon.eventstream"
_CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
# the clouds' names of the API's first version; dates are versions of the API itself
_VERSION = "2023-06-01"
_VERSIONS = {"bedrock-2023-05-31": _VERSION, "vertex-2023-10-16": _VERSION}
# Anthropic's error type -> AWS's exception, of a whole answer and inside a stream
_EXCEPTIONS = {
    "invalid_request_error": ("ValidationException", "validationException"),
    "request_too_large": ("ValidationException", "validationException"),
    "authentication_error": ("UnrecognizedClientException", "validationException"),
    "permission_error": ("AccessDeniedException", "validationException"),
    "billing_error": ("AccessDeniedException", "validationException"),
    "not_found_error": ("ResourceNotFoundException", "validationException"),
    "rate_limit_error": ("ThrottlingException", "throttlingException"),
    "overloaded_error": ("ServiceUnavailableException", "serviceUnavailableException"),
    "timeout_error": ("ModelTimeoutException", "modelTimeoutException"),
    "api_error": ("InternalServerException", "internalServerException"),
}
_GOOGLE = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED", 529: "UNAVAILABLE",
}  # fmt: skip


def _wrapped(body: Mapping[str, Any], path_model: str) -> dict[str, Any]:
    """The Messages request inside a cloud's body: all of its fields, less the wrapping."""
    model = unquote(path_model) or body.get("model")
    if not isinstance(model, str) or not model:
        refuse("model", "a model name is required in the path")
    rest = {k: v for k, v in body.items() if k not in ("model", "anthropic_version", "anthropic_beta")}
    return {"model": model, **rest}


def _version(body: Mapping[str, Any]) -> dict[str, str]:
    version = body.get("anthropic_version")
    if not isinstance(version, str) or not version:
        return {}
    return {"anthropic-version": _VERSIONS.get(version, version if version[:2] == "20" else _VERSION)}


class BedrockRenderer:
    """One streamed answer as event-stream messages. See `base.Renderer`."""

    content_type = EVENT_STREAM

    def __init__(self) -> None:
        self._usage = Usage()

    def render(self, event: Event) -> bytes:
        """One message; the last one carries Bedrock's own figures."""
        kind = event["type"]
        if kind == "message_start":
            self._usage.update(event["message"].get("usage"))
        elif kind == "message_delta":
            self._usage.update(event.get("usage"))
        elif kind == "message_stop":
            metrics = {
                "inputTokenCount": self._usage.input,
                "outputTokenCount": self._usage.output,
                "cacheReadInputTokenCount": self._usage.cache_read,
                "cacheWriteInputTokenCount": self._usage.cache_write,
            }
            event = {**event, "amazon-bedrock-invocationMetrics": metrics}
        elif kind == "error":
            error = event.get("error") or {}
            return self.fail(str(error.get("type")), str(error.get("message")), "")
        packed = base64.b64encode(dumps(event).encode()).decode()
        return encode(_CHUNK, dumps({"bytes": packed}).encode())

    def fail(self, type: str, message: str, request_id: str) -> bytes:
        """An exception message: what Bedrock ends a broken stream with."""
        name = _EXCEPTIONS.get(type, _EXCEPTIONS["api_error"])[1]
        headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
        return encode(headers, dumps({"message": message}).encode())

    def alive(self) -> bytes:
        """A ping event."""
        return self.render(PING)


class Bedrock:
    """POST /model/{id}/invoke and /invoke-with-response-stream. See `base.Surface`."""

    name = "bedrock"
    native = False

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The Messages request: the model of the path (percent-encoded or not), the stream of the path."""
        return {**_wrapped(body, path_model), "stream": bool(stream)}, []

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """The body's version and betas as the headers they are elsewhere, together with those already there."""
        listed = body.get("anthropic_beta")
        betas = [b.strip() for b in headers.get("anthropic-beta", "").split(",")]
        betas += [b for b in listed if isinstance(b, str)] if isinstance(listed, list) else []
        # a header value: what could break the head of a request is no name of a beta
        known = dict.fromkeys(b for b in betas if b and b.isascii() and b.isprintable())
        return {**_version(body), **({"anthropic-beta": ",".join(known)} if known else {})}

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> BedrockRenderer:
        """A renderer of one stream."""
        return BedrockRenderer()

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """The message itself: InvokeModel answers with Anthropic's own body."""
        return message

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """AWS's fields (`__type`, `message`) and Anthropic's: either kind of client finds its own."""
        name = _EXCEPTIONS.get(type, _EXCEPTIONS["api_error"])[0]
        return {"__type": name, "message": message, **envelope(type, message, request_id)}

    def counting(self, body: Mapping[str, Any], path_model: str) -> dict[str, Any]:
        """The Messages request inside a CountTokens body ({"input": {"invokeModel": {"body": base64}}})."""
        given = body.get("input")
        invoke = given.get("invokeModel") if isinstance(given, Mapping) else None
        packed = invoke.get("body") if isinstance(invoke, Mapping) else None
        try:
            inner = json.loads(base64.b64decode(packed)) if isinstance(packed, str) else None
        except (binascii.Error, ValueError, RecursionError):
            inner = None
        if not isinstance(inner, dict):
            refuse("input.invokeModel.body", "a request body in base64 is required")
        return _wrapped(inner, path_model)

    def counted(self, tokens: int) -> dict[str, Any]:
        """CountTokens' answer."""
        return {"inputTokens": tokens}


class Vertex:
    """POST .../publishers/anthropic/models/{model}:rawPredict and :streamRawPredict. See `base.Surface`."""

    name = "vertex"
    native = False

    def request(
        self,
        body: dict[str, Any],
        path_model: str,
        stream: bool | None,
        headers: Mapping[str, str],
        new_id: NewId,
    ) -> tuple[dict[str, Any], list[Loss]]:
        """The Messages request. The body says whether it streams; without that the path does."""
        wanted = body.get("stream")
        return {**_wrapped(body, path_model), "stream": bool(stream if wanted is None else wanted)}, []

    def extra_headers(self, body: Mapping[str, Any], headers: Mapping[str, str] = EMPTY) -> dict[str, str]:
        """The body's version as the header it is elsewhere; betas are a header at Vertex too."""
        return _version(body)

    def renderer(
        self,
        asked_model: str,
        request: dict[str, Any],
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> MessagesRenderer:
        """A renderer of one stream: the Messages API's own."""
        return MessagesRenderer()

    def message(
        self,
        message: dict[str, Any],
        asked_model: str,
        original: dict[str, Any],
        new_id: NewId,
        created_s: int,
    ) -> dict[str, Any]:
        """The message itself."""
        return message

    def error(self, status: int, type: str, message: str, request_id: str) -> dict[str, Any]:
        """Anthropic's envelope with Google's code and status in its error."""
        out = envelope(type, message, request_id)
        out["error"] |= {"code": status, "status": _GOOGLE.get(status, "INTERNAL")}
        return out

    def counting(self, body: Mapping[str, Any], path_model: str) -> dict[str, Any]:
        """The Messages request inside a count-tokens:rawPredict body, whose model stands in the body."""
        return _wrapped(body, "")

    def counted(self, tokens: int) -> dict[str, Any]:
        """Its answer: Anthropic's own."""
        return {"input_tokens": tokens}


BEDROCK = Bedrock()
VERTEX = Vertex()
