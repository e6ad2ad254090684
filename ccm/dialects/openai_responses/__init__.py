"""OpenAI's Responses API: OpenAI, Azure v1, xAI, DeepSeek, Bedrock Mantle, OpenRouter, LM Studio ... (DIALECTS 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Message, Request
from ccm.dialects.errors import error_of
from ccm.dialects.openai_responses import decode as _decode
from ccm.dialects.openai_responses import encode as _encode
from ccm.errors import BadUpstream
from ccm.model import ProviderError

__all__ = ["DIALECT", "OpenAIResponses"]


class OpenAIResponses:
    """See `base.Dialect`."""

    name = "openai_responses"
    framing = "sse"

    def encode(self, request: Request, ctx: Context) -> Encoded:
        """The request as POST /responses."""
        return _encode.encode(request, ctx)

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        """A whole answer as a message."""
        return _decode.decode(body, ctx, sent)

    def decoder(self, ctx: Context, sent: Encoded) -> _decode.Decoder:
        """A decoder for one streamed answer; its frames are `wire.sse.Frame`s."""
        return _decode.Decoder(ctx, sent)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """An error answer in one shape."""
        return error_of(status, headers, body)

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        """A request for OpenAI's own token count."""
        return _encode.encode_count(request, ctx)

    def decode_count(self, body: Any) -> int:
        """`input_tokens` of that answer."""
        value = body.get("input_tokens") if isinstance(body, dict) else None
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadUpstream("a token count without `input_tokens`")
        return value


DIALECT = OpenAIResponses()
