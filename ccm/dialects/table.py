"""Every dialect by its name: the one place that lists them. A dialect is imported when a request first needs it."""

from __future__ import annotations

from ccm.dialects.base import Dialect
from ccm.late import LateTable

DIALECTS: LateTable[Dialect] = LateTable(
    {
        "anthropic": "ccm.dialects.anthropic:DIALECT",
        "openai_chat": "ccm.dialects.openai_chat:DIALECT",
        "openai_responses": "ccm.dialects.openai_responses:DIALECT",
        "gemini": "ccm.dialects.gemini:DIALECT",
        "bedrock": "ccm.dialects.bedrock:DIALECT",
    }
)
