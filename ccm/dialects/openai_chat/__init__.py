"""The OpenAI Chat Completions dialect, and the dialect of the many providers that are compatible with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Decoder, Encoded, Message, Request
from ccm.dialects.errors import error_of
from ccm.dialects.openai_chat.decode import StreamDecoder
from ccm.dialects.openai_chat.decode import decode as _decode
from ccm.dialects.openai_chat.encode import encode as _encode
from ccm.errors import BadUpstream
from ccm.messages.tokens import count
from ccm.model import ProviderError


class OpenAIChat:
    """See `dialects.base.Dialect`."""

    name = "openai_chat"
    framing = "sse"

    def encode(self, request: Request, ctx: Context) -> Encoded:
        return _encode(request, ctx)

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        return _decode(body, ctx, sent)

    def decoder(self, ctx: Context, sent: Encoded) -> Decoder:
        return StreamDecoder(ctx, sent)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return error_of(status, headers, body)

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        return None  # the API has no such endpoint

    def decode_count(self, body: Any) -> int:
        if not isinstance(body, dict) or "input_tokens" not in body:
            raise BadUpstream("a token count without input_tokens")
        return count(body["input_tokens"])


DIALECT = OpenAIChat()
