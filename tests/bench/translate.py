"""What translation costs inside the process, per dialect: CPU of a 146 KB request, of its parts, and of one delta."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.inbound.messages import MessagesRenderer
from ccm.dialects.table import DIALECTS
from ccm.messages.estimate import estimate
from ccm.model import ModelFacts
from ccm.proxy.relay import TranslateRelay
from ccm.wire import eventstream, sse
from tests.bench.harness import ROOT
from tests.property.streams import MAKERS, Block

WORDS = "The quick brown fox jumps over the lazy dog. "
SHOWN = ("openai_chat", "openai_responses", "gemini", "bedrock")
_MODELS = {"openai_chat": "gpt-4.1", "openai_responses": "gpt-5.1"}


def body() -> bytes:
    """The bench's 146 KB request, else one of our own of that size."""
    made = Path(os.environ.get("BENCH_DIR") or ROOT / ".cache" / "bench") / "bodies" / "ant-big-s.json"
    if made.is_file():
        return made.read_bytes()
    tool = {"name": "t", "description": WORDS * 30, "input_schema": {"type": "object", "properties": {}}}
    request = {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": [{"type": "text", "text": WORDS * 2000}]}],
        "system": WORDS * 300,
        "tools": [{**tool, "name": f"tool_{n}"} for n in range(30)],
        "max_tokens": 32000,
        "stream": True,
    }
    return json.dumps(request, separators=(",", ":")).encode()


def context(name: str) -> Context:
    """What the dialect is told about its target."""
    _, dialect, model = MAKERS[name]
    model = _MODELS.get(name, model)
    family, facts = f"{dialect}/custom", ModelFacts(model)
    return Context("p", family, model, "claude-x", facts, lambda prefix: prefix + "0" * 24, stream=True)


def cpu_us(work: Callable[[], object], batch: int = 20, batches: int = 15) -> float:
    """CPU of one call in us: the least of several batches, which is what the work costs when nobody disturbs it."""
    best = float("inf")
    for _ in range(batches):
        began = time.process_time_ns()
        for _ in range(batch):
            work()
        best = min(best, time.process_time_ns() - began)
    return best / batch / 1000


def stream(name: str, deltas: int) -> list[bytes]:
    """A stream of the dialect with so many text deltas, one frame each."""
    blocks: list[Block] = [("text", WORDS * 2)]
    frames = MAKERS[name][0](blocks)
    at = next(n for n, frame in enumerate(frames) if WORDS.encode() in frame)
    return [*frames[:at], *[frames[at]] * deltas, *frames[at + 1 :]]


def play(name: str, frames: list[bytes]) -> int:
    """Relays a stream as the pump does; the bytes that the client gets."""
    dialect = DIALECTS[MAKERS[name][1]]
    framer: Any = eventstream.Framer() if dialect.framing == "eventstream" else sse.Framer()
    decoder = dialect.decoder(context(name), Encoded("", {}))
    relay = TranslateRelay(framer, decoder, MessagesRenderer())
    size = 0
    for frame in frames:
        size += len(relay.feed(frame))
    return size + len(relay.end())


def delta_us(name: str) -> float:
    """CPU per delta: what 800 deltas cost more than 200."""
    few, many = stream(name, 200), stream(name, 800)
    return (cpu_us(lambda: play(name, many), 2) - cpu_us(lambda: play(name, few), 2)) / 600


def figures(name: str) -> dict[str, float]:
    """parse, encode, dump and whole of the 146 KB request; one delta. us of CPU."""
    raw = body()
    request = json.loads(raw)
    dialect = DIALECTS[MAKERS[name][1]]
    ctx = replace(context(name), session="s")
    sent = dialect.encode(request, ctx)

    def whole() -> bytes:
        parsed = json.loads(raw)
        return json.dumps(dialect.encode(parsed, ctx).body, separators=(",", ":")).encode()

    return {
        "parse": cpu_us(lambda: json.loads(raw)),
        "estimate": cpu_us(lambda: estimate(request)),
        "encode": cpu_us(lambda: dialect.encode(request, ctx)),
        "dump": cpu_us(lambda: json.dumps(sent.body, separators=(",", ":")).encode()),
        "whole": cpu_us(whole),
        "delta": delta_us(name),
    }


def table() -> str:
    """All dialects, and what they cost of the first one (goal 13: at most 1.5)."""
    rows = ["| dialect, 146 KB, CPU us | parse | estimate | encode | dump | whole | of chat | per delta |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    chat = 0.0
    for name in SHOWN:
        found = figures(name)
        chat = chat or found["whole"]
        cells = [f"{found[k]:.0f}" for k in ("parse", "estimate", "encode", "dump", "whole")]
        rows.append(f"| {name} | {' | '.join(cells)} | {found['whole'] / chat:.2f}x | {found['delta']:.1f} |")
    return "\n".join(rows)
