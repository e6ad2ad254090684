"""Every dialect by its name: the one place that lists them."""

from __future__ import annotations

from ccm.dialects import anthropic, bedrock, gemini, openai_chat, openai_responses
from ccm.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        anthropic.DIALECT,
        openai_chat.DIALECT,
        openai_responses.DIALECT,
        gemini.DIALECT,
        bedrock.DIALECT,
    )
}
