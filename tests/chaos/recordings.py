"""Twelve recorded streams of `$CCM_SHARED`, by dialect and content: what `cuts` plays."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.chaos import swarm
from tests.gateway import REPO

MODEL = "claude-sonnet-4-5"
# recorded dialect -> (ours, how many streams of it, suffix of the base address)
DIALECTS = {
    "anthropic": ("anthropic", 3, ""),
    "openai.chat": ("openai_chat", 3, "/v1"),
    "openai.responses": ("openai_responses", 2, "/v1"),
    "gemini": ("gemini", 2, "/v1beta"),
    "bedrock.converse-stream": ("bedrock", 2, ""),
}
_KINDS = ("toolcall", "reasoning", "signature", "")  # what a dialect's streams should have, in this order


class Missing(Exception):
    """The recordings, or what reads them, are not here."""


@dataclass
class Recorded:
    """One stream, and what a client gets of it when nothing is cut."""

    id: str
    number: int
    dialect: str  # ours
    provider: str
    body: bytes
    type: str
    names: list[str]  # of its tools
    thinking: bool
    blocks: list[dict[str, Any]] = field(default_factory=list)
    stop: str | None = None
    outcomes: Counter[str] = field(default_factory=Counter)

    def request(self, tag: str) -> bytes:
        """A request that this stream could answer."""
        more: dict[str, Any] = {"max_tokens": 4096, "model": MODEL}
        if self.names:
            schema = {"type": "object", "properties": {}, "additionalProperties": True}
            more["tools"] = [
                {"name": name, "description": f"tool {name}", "input_schema": schema} for name in self.names
            ]
        if self.thinking:
            more["thinking"] = {"type": "enabled", "budget_tokens": 2048}
        return swarm.request(f"{tag} Go on, please.", **more)


def _shared() -> Path:
    path = Path(os.environ.get("CCM_SHARED") or REPO.parent / "shared").resolve()
    if not (path / "corpus" / "index.json").is_file():
        raise Missing(f"no recorded material at {path} (set CCM_SHARED)")
    return path


@contextmanager
def tools(*names: str) -> Iterator[list[ModuleType]]:
    """Modules of the shared tools."""
    sys.path.insert(0, str(_shared() / "tools"))
    try:
        yield [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise Missing(str(error)) from None
    finally:
        sys.path.pop(0)


def recordings() -> list[Recorded]:
    """Twelve streams: of each dialect the smallest with a tool call, with reasoning, and so on. Raises Missing."""
    root = _shared() / "corpus"
    index = json.loads((root / "index.json").read_text())
    expected = json.loads((root / "expected.json").read_text())
    sound = {name for name, told in expected.items() if _has_content(told["official_sdk"])}
    found: list[Recorded] = []
    with tools("gate") as (gate,):
        for dialect, (ours, count, _) in DIALECTS.items():
            items = [
                e
                for e in index
                if e["dialect"] == dialect and e["stream"] and e["content_type"] and e["id"] in sound
            ]
            items.sort(key=lambda entry: (root / entry["response"]).stat().st_size)
            chosen: list[dict[str, Any]] = []
            for kind in _KINDS * count:
                entry = next(
                    (e for e in items if e not in chosen and (not kind or kind in e["features"])), None
                )
                if entry is not None and len(chosen) < count:
                    chosen.append(entry)
            for entry in chosen:
                file = root / entry["request"] if entry.get("request") else None
                asked = json.loads(file.read_text()) if file is not None and file.is_file() else {}
                found.append(
                    Recorded(
                        entry["id"],
                        len(found),
                        ours,
                        dialect.replace(".", "-"),
                        (root / entry["response"]).read_bytes(),
                        entry["content_type"],
                        gate.tool_names(asked),
                        "reasoning" in entry["features"],
                    )
                )
    return found


def _has_content(told: dict[str, Any]) -> bool:
    """Whether the provider's own SDK reads an answer in a recording, and its end."""
    return bool(told["ok"] and told.get("stop") and (told.get("text") or told.get("tools")))
