"""The recorded answers as the usage room sees them: ccm's own `Usage`, the official SDK's figures, and what genai-prices
computes from those. Nothing here computes a price or converts a token count for ccm."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from ccm.catalog.models import bundled
from ccm.dialects.base import Context, Dialect
from ccm.dialects.table import DIALECTS
from ccm.errors import CcmError
from ccm.messages.tokens import Usage
from ccm.model import ModelFacts, Price
from ccm.usage.prices import cost_usd
from ccm.wire import eventstream, sse

_DIALECT_OF = {
    "anthropic": "anthropic", "openai.chat": "openai_chat", "openai.responses": "openai_responses", "gemini": "gemini",
    "bedrock.converse": "bedrock", "bedrock.converse-stream": "bedrock", "bedrock.invoke": "bedrock",
    "bedrock.invoke-stream": "bedrock",
}  # fmt: skip
_FRAMERS: dict[str, Any] = {"sse": sse.Framer, "eventstream": eventstream.Framer}
# The corpus's name of a provider -> the type of a ccm provider, and genai-prices' provider. None: not listed there.
SELLERS: dict[str, tuple[str, str | None]] = {
    "anthropic": ("anthropic", "anthropic"), "openai": ("openai", "openai"), "gemini": ("google", "google"),
    "vertex": ("vertex", "google"), "groq": ("groq", "groq"), "bedrock": ("bedrock", "aws"),
    "openrouter": ("openrouter", "openrouter"), "mistral": ("mistral", "mistral"), "xai": ("xai", "x-ai"),
    "deepseek": ("deepseek", "deepseek"), "ollama": ("ollama", None), "ollama-cloud": ("ollama", None),
    "perplexity": ("perplexity", "perplexity"), "cerebras": ("cerebras", "cerebras"), "huggingface": ("huggingface", None),
    "azure-openai": ("azure", "azure"), "azure-foundry": ("azure-foundry", "azure"), "moonshot": ("moonshot", "moonshotai"),
    "zai": ("zai", "zai"), "alibaba": ("alibaba", None), "bedrock-mantle": ("bedrock", "aws"), "gpustack": ("vllm", None),
    "crusoe": ("crusoe", None), "openai-codex": ("openai-codex", None), "open-responses": ("vllm", None),
}  # fmt: skip
# (dialect, genai-prices' provider) -> the reader of such usage: (provider, flavour, a model that it knows).
_OPENAI_CHAT, _OPENAI_RESPONSES = ("openai", "chat", "gpt-5"), ("openai", "responses", "gpt-5")
_READERS = {
    ("anthropic", "anthropic"): ("anthropic", "default", "claude-sonnet-4-5"),
    ("gemini", "google"): ("google", "default", "gemini-2.5-pro"),
    ("bedrock.converse", "aws"): ("aws", "default", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("openai.chat", "groq"): ("groq", "default", "llama-3.3-70b-versatile"),
    ("openai.chat", "mistral"): ("mistral", "default", "mistral-small-latest"),
    ("openai.chat", "deepseek"): ("deepseek", "chat", "deepseek-chat"),
    ("openai.chat", "moonshotai"): ("moonshotai", "chat", "kimi-k2.5"),
    ("openai.chat", "x-ai"): ("x-ai", "chat", "grok-4"),
    ("openai.responses", "x-ai"): ("x-ai", "responses", "grok-4"),
}
_AT = datetime(2026, 11, 20, 2, 0, tzinfo=timezone.utc)  # some prices change with the time of day
_SPLICED = re.compile(
    rb'"type": ?"(?:message_start|response\.created)"'
)  # more than one: no answer of any provider
_numbers = itertools.count()


@dataclass
class Item:
    """One recorded answer. `usage` is what ccm reads, `sdk` the official SDK's usage object (None: it shows none)."""

    id: str
    dialect: str
    seller: str
    model: str
    usage: Usage
    sdk: dict[str, Any] | None
    stop: str = ""

    @property
    def price(self) -> Price:
        """ccm's list price for it."""
        return bundled().find(self.model, SELLERS[self.seller][0]).price

    @property
    def cost_usd(self) -> float | None:
        """What ccm says it cost."""
        return cost_usd(self.price, self.usage)

    def reference(self) -> tuple[float | None, float | None, str]:
        """What genai-prices makes of the official SDK's figures: (at its own prices, at ccm's prices, why one is None).

        Its own reader reads them, so that its conventions are its own too. At ccm's prices only its calculator works.
        """
        from genai_prices import calc_price, extract_usage

        provider, dialect = SELLERS[self.seller][1], self.dialect.replace("-stream", "")
        reader = _READERS.get((dialect, provider or ""))
        reader = reader or {"openai.chat": _OPENAI_CHAT, "openai.responses": _OPENAI_RESPONSES}.get(dialect)
        if self.sdk is None or reader is None:
            return None, None, "no figures" if self.sdk is None else "no reader"
        key = "usageMetadata" if dialect == "gemini" else "usage"
        body = {key: self.sdk, "model": reader[2], "modelVersion": reader[2]}
        usage = extract_usage(body, provider_id=reader[0], api_flavor=reader[1]).usage
        same = (
            None if self.price.input is None else float(_list_of(self.price).calc_price(usage)["total_price"])
        )
        try:
            own = calc_price(usage, self.model, provider_id=provider, genai_request_timestamp=_AT)
        except LookupError as error:
            return None, same, str(error)
        return float(own.total_price), same, ""


def _list_of(price: Price) -> Any:
    """ccm's price as genai-prices writes one."""
    from genai_prices.types import ModelPrice, Tier, TieredPrices

    def tiered(base: float | None, place: int) -> Any:
        if base is None or not price.above:
            return None if base is None else Decimal(str(base))
        steps = [(step[0], step[place], step[1]) for step in price.above]
        return TieredPrices(
            Decimal(str(base)),
            [
                Tier(start, Decimal(str(listed if place else base * (above or 0) / (price.input or 1))))
                for start, listed, above in steps
            ],
        )

    told = {
        "input_mtok": tiered(price.input, 1), "output_mtok": tiered(price.output, 2),
        "cache_read_mtok": tiered(price.cache_read, 0), "cache_write_mtok": tiered(price.cache_write_5m, 0),
        "cache_write_1h_mtok": tiered(price.cache_write_1h, 0),
        "web_searches_kcount": None if price.web_search is None else Decimal(str(price.web_search)),
    }  # fmt: skip
    return ModelPrice(**{name: value for name, value in told.items() if value is not None})


def items(shared: Path) -> Iterator[Item]:
    """Every answer of the development corpus that is one (status 200, a message or a stream of one)."""
    root = shared / "corpus"
    expected = json.loads((root / "expected.json").read_text())
    for entry in json.loads((root / "index.json").read_text()):
        name = _DIALECT_OF.get(entry["dialect"])
        if name is None or entry["status"] != 200 or not entry["model"]:
            continue
        told = expected[entry["id"]].get("official_sdk") or {}
        body = (root / entry["response"]).read_bytes()
        if len(_SPLICED.findall(body)) > 1:
            continue
        usage = read(DIALECTS[name], entry, body)
        if usage is not None:
            sdk = told.get("usage") if told.get("ok") else None
            yield Item(
                entry["id"],
                entry["dialect"],
                entry["provider"],
                entry["model"],
                usage,
                sdk,
                str(told.get("stop")),
            )


def read(dialect: Dialect, entry: Mapping[str, Any], body: bytes) -> Usage | None:
    """The usage of a recorded answer as ccm reads it; None for what is no message."""
    ctx = Context(
        "gate", f"{dialect.name}/custom", entry["model"], "claude-sonnet-4-5", ModelFacts(entry["model"]),
        lambda prefix: f"{prefix}{next(_numbers):024d}", entry["stream"],
        options={"vertex": True} if entry["provider"] == "vertex" else {},
    )  # fmt: skip
    request = {"model": "claude-sonnet-4-5", "max_tokens": 4096, "stream": entry["stream"],
               "messages": [{"role": "user", "content": "Go on."}]}  # fmt: skip
    sent = dialect.encode(request, ctx)
    usage = Usage()
    try:
        if not entry["stream"]:
            usage.update(dialect.decode(json.loads(body), ctx, sent).get("usage"))
            return usage
        framer, decoder = _FRAMERS[dialect.framing](), dialect.decoder(ctx, sent)
        for frame in (*framer.feed(body), *framer.end()):
            decoder.feed(frame)
        decoder.end()
    except (CcmError, ValueError):
        return None
    return decoder.usage
