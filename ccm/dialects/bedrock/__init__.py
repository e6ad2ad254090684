"""Amazon Bedrock: Converse for every model, InvokeModel with Anthropic's own body for Claude (DIALECTS 12, 13).

Which of the two a request takes depends on the model alone, so the answer is read by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Decoder, Encoded, Message, Request
from ccm.dialects.bedrock import decode as converse
from ccm.dialects.bedrock import encode as converse_request
from ccm.dialects.bedrock import invoke
from ccm.dialects.bedrock.models import invokes
from ccm.dialects.errors import error_of
from ccm.errors import BadUpstream
from ccm.model import ProviderError

__all__ = ["DIALECT", "Bedrock"]


class Bedrock:
    """See `base.Dialect`."""

    name = "bedrock"
    framing = "eventstream"

    def encode(self, request: Request, ctx: Context) -> Encoded:
        """The request for Converse or InvokeModel, streamed or not."""
        return (invoke.encode if invokes(ctx) else converse_request.encode)(request, ctx)

    def decode(self, body: Any, ctx: Context, sent: Encoded) -> Message:
        """A whole answer as a message."""
        return (invoke.decode if invokes(ctx) else converse.decode)(body, ctx, sent)

    def decoder(self, ctx: Context, sent: Encoded) -> Decoder:
        """A decoder for one streamed answer; its frames are `wire.eventstream.Frame`s."""
        return invoke.Decoder(ctx, sent) if invokes(ctx) else converse.Decoder(ctx, sent)

    def explain(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """An error answer in one shape; the type stands in `x-amzn-errortype`."""
        return error_of(status, headers, body)

    def encode_count(self, request: Request, ctx: Context) -> Encoded | None:
        """A request for Bedrock's own token count, which only Claude models have."""
        return invoke.encode_count(request, ctx) if invokes(ctx) else None

    def decode_count(self, body: Any) -> int:
        """`inputTokens` of that answer."""
        value = body.get("inputTokens") if isinstance(body, dict) else None
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadUpstream("a token count without `inputTokens`")
        return value


DIALECT = Bedrock()
