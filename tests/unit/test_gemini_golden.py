"""Whole cases: a Messages request, what goes to Gemini, what comes back, and the message made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.gemini import DIALECT
from ccm.dialects.state import unwrap
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer

DATA = Path(__file__).resolve().parent.parent / "data" / "gemini"


def context(model: str = "gemini-3.1-pro-preview", **changes: Any) -> Context:
    n = iter(range(1, 1000))
    values: dict[str, Any] = {
        "provider": "google",
        "family": "gemini/google",
        "model": model,
        "asked_model": "claude-x",
        "facts": ModelFacts(model),
        "new_id": lambda prefix: f"{prefix}{next(n)}",
        "stream": True,
        **changes,
    }
    return Context(**values)


def answer(case: str, ctx: Context, sent: Encoded) -> dict[str, Any]:
    decoder, framer = DIALECT.decoder(ctx, sent), Framer()
    data = (DATA / case / "response.sse").read_bytes()
    events = [e for f in [*framer.feed(data), *framer.end()] for e in decoder.feed(f)]
    return readable(fold([*events, *decoder.end()]))


def readable(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the state in its signatures laid open: their bytes depend on the zlib at hand."""
    for block in message["content"]:
        if "signature" in block:
            block["signature"] = unwrap(block["signature"], "gemini/google")
    return message


@pytest.mark.parametrize("case", sorted(path.name for path in DATA.iterdir()))
def test_case(case: str) -> None:
    ctx = context()
    sent = DIALECT.encode(json.loads((DATA / case / "request.json").read_text()), ctx)
    wire = {"path": sent.path, "losses": [list(loss) for loss in sent.losses], "body": sent.body}
    assert wire == json.loads((DATA / case / "wire.json").read_text())
    assert answer(case, ctx, sent) == json.loads((DATA / case / "message.json").read_text())
