"""The Gemini dialect: generateContent of AI Studio and of Vertex AI. `DIALECT` is what the table lists.

`schema` lowers tool schemas, `model` knows the generations, `tools` and `parts` make a request, `encode` puts it
together; `decode` reads answers, with `partial` and `search` for two of their forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Dialect, Encoded, Message, Request
from ccm.dialects.errors import error_of
from ccm.dialects.gemini.decode import GeminiDecoder, decode
from ccm.dialects.gemini.encode import encode, encode_count
from ccm.errors import BadUpstream
from ccm.model import ProviderError


class GeminiDialect:
    """See `dialects.base.Dialect`."""

    name = "gemini"
    framing = "sse"

    def encode(self, request: Request, ctx: Context) -> Encoded:
        return encode(request, ctx)

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        return decode(body, ctx, sent)

    def decoder(self, ctx: Context, sent: Encoded) -> GeminiDecoder:
        return GeminiDecoder(ctx, sent)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Google's error object, alone or in the array that a stream without alt=sse is."""
        return error_of(status, headers, body)

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        return encode_count(request, ctx)

    def decode_count(self, body: Any) -> int:
        """`totalTokens`. Raises BadUpstream where there is none."""
        tokens = body.get("totalTokens") if isinstance(body, dict) else None
        if isinstance(tokens, bool) or not isinstance(tokens, int):
            raise BadUpstream("countTokens gave no totalTokens")
        return tokens


DIALECT: Dialect = GeminiDialect()
