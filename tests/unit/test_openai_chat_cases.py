"""Golden cases: tests/data/openai_chat/<case>/ request.json -> wire.json, response.* -> events.jsonl or message.json.

After a wanted change: CCM_WRITE_GOLDEN=1 pytest tests/unit/test_openai_chat_cases.py, then read the diff.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.base import Context
from ccm.dialects.openai_chat import DIALECT
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer
from tests.grammar import check

CASES = sorted((Path(__file__).parent.parent / "data" / "openai_chat").iterdir())


def context(case: Path, request: dict[str, Any]) -> Context:
    numbers = itertools.count(1)
    facts = ModelFacts("m", abilities=frozenset({"tools", "images"}), output_cap=16_000)
    return Context(
        provider="p",
        family=json.loads((case / "case.json").read_text())["family"],
        model="upstream-model",
        asked_model=request["model"],
        facts=facts,
        new_id=lambda prefix: f"{prefix}{next(numbers):04d}",
        stream=bool(request.get("stream")),
        estimate_tokens=11,
    )


def golden(path: Path, text: str) -> None:
    if os.environ.get("CCM_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Path) -> None:
    request = json.loads((case / "request.json").read_text())
    ctx = context(case, request)
    before = json.dumps(request)
    sent = DIALECT.encode(request, ctx)
    assert json.dumps(request) == before  # a request belongs to the client
    wire = {
        "path": sent.path,
        "body": sent.body,
        "losses": sent.losses,
        "cut": sent.cut,
        "headers": sent.headers,
    }
    golden(case / "wire.json", json.dumps(wire, indent=1, ensure_ascii=False) + "\n")
    streamed = case / "response.sse"
    if not streamed.exists():
        message = DIALECT.decode(json.loads((case / "response.json").read_text()), ctx, sent)
        golden(case / "message.json", json.dumps(message, indent=1, ensure_ascii=False) + "\n")
        return
    decoder, framer, events = DIALECT.decoder(ctx, sent), Framer(), []
    for frame in [*framer.feed(streamed.read_bytes()), *framer.end()]:
        events += decoder.feed(frame)
    events += decoder.end()
    check(events)
    assert decoder.finished
    golden(case / "events.jsonl", "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events))
    golden(case / "message.json", json.dumps(fold(events), indent=1, ensure_ascii=False) + "\n")
