"""Gate 4, first half: upstreams that nobody here wrote, asked through ccm and directly.

Every question goes once to the upstream itself, by the official SDK of its API, and then through every door of ccm, by
the official SDKs too. All of them must read the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import boto3
import botocore.config
import botocore.exceptions

from tests.fidelity import sdks, servers
from tests.fidelity.sdks import Ask, Question, Reading, Refused
from tests.fidelity.table import Ledger, Row
from tests.gateway import SUFFIX, Gateway, provider
from tests.upstream import Upstream

_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Bern"]}},
    "required": ["city"],
}
_TOOL = (("get_weather", _CITY),)
_NO_FAILOVER = {"enabled": False, "max_retries": 0}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with a name. `skip` are doors or dialects that it says nothing about; `refused` is the status that
    every reader must get instead of an answer."""

    name: str
    question: Question
    skip: frozenset[str] = frozenset()
    refused: int = 0


# ------------------------------------------------------------------------------------------------ llama.cpp
def _llama_questions() -> list[Asked]:
    def q(*steps: tuple[Any, ...], **more: Any) -> Question:
        return Question(steps, "tiny", **more)

    hi = ("user", "hi")
    called = (("user", "Weather?"), ("call", "toolu_0123456789", "get_weather", {"city": "Oslo"}),
              ("result", "toolu_0123456789", "sunny, 21 °C"))  # fmt: skip
    return [
        Asked("text", q(hi)),
        Asked("system", q(hi, system="Be brief — ünïcödé.")),
        Asked("tool", q(hi, tools=_TOOL, forced=True)),
        Asked("after a tool", q(*called, tools=_TOOL, forced=True)),
        # Responses knows no stop sequences and takes 16 tokens at least
        Asked("length", q(hi, max_tokens=4), frozenset({"openai_responses", "openai-sdk responses"})),
        Asked(
            "stop sequence", q(hi, stop=(" tiny",)), frozenset({"openai_responses", "openai-sdk responses"})
        ),
        Asked("too long", q(("user", "word " * 3000)), refused=400),
    ]


def llama(quick: bool = False) -> list[Row]:
    """llama.cpp's server over Chat Completions, Responses and Messages."""
    dialects = ("openai_chat", "openai_responses", "anthropic")
    with servers.llama() as url, tempfile.TemporaryDirectory(prefix="ccm-") as home:
        tables = "".join(provider(f"{url}{SUFFIX[d]}", d, d) for d in dialects)
        gateway = Gateway(Path(home), tables, failover=_NO_FAILOVER).start()
        ledger = Ledger()
        try:
            for dialect in dialects:
                _compare(ledger, "llama.cpp", gateway, url, dialect, _llama_questions(), quick)
                _count(ledger.row("llama.cpp", dialect, "anthropic-sdk"), gateway, url, dialect)
        finally:
            gateway.stop()
        return ledger.rows


def _compare(
    ledger: Ledger, gate: str, gateway: Gateway, url: str, dialect: str, asked: Sequence[Asked], quick: bool
) -> None:
    route = {"x-ccm-provider": dialect}
    for item in asked:
        if dialect in item.skip:
            continue
        for door, ask in sdks.DOORS.items():
            if door in item.skip:
                continue
            for stream in (True,) if quick else (True, False):
                case = f"{item.name} {'stream' if stream else 'json'}"
                want = _read(sdks.DIRECT[dialect], url, item.question, stream, {})
                got = _read(ask, gateway.base_url, item.question, stream, route)
                ledger.row(gate, dialect, door).note(case, _difference(got, want, item.refused))


def _read(
    ask: Ask, url: str, question: Question, stream: bool, headers: dict[str, str]
) -> Reading | Exception:
    try:
        return ask(url, question, stream, headers)
    except Exception as error:  # whatever an SDK raises is its reading
        return error


def _difference(got: Reading | Exception, want: Reading | Exception, refused: int = 0) -> str | None:
    """None when both readers understood the same."""
    if refused:
        if isinstance(got, Refused) and got.status == refused:
            return (
                None if "prompt is too long" in str(got) else f"the client cannot know what is wrong: {got}"
            )
        return f"expected status {refused}, got {got!r}"
    if isinstance(want, Exception):
        return f"the oracle itself fails: {want!r}"
    if isinstance(got, Exception):
        return f"{type(got).__name__}: {got}"
    for name in ("text", "tools", "stop"):
        if getattr(got, name) != getattr(want, name):
            return f"{name}: {getattr(got, name)!r}, the oracle read {getattr(want, name)!r}"
    if got.reasoning != want.reasoning and want.reasoning:
        return f"reasoning: {got.reasoning!r}, the oracle read {want.reasoning!r}"
    if want.output_tokens and got.output_tokens != want.output_tokens:
        return f"output tokens: {got.output_tokens}, the oracle read {want.output_tokens}"
    if want.input_tokens and abs(got.input_tokens - want.input_tokens) > _slack(want.input_tokens):
        return f"input tokens: {got.input_tokens}, the oracle read {want.input_tokens}"
    return None


def _slack(tokens: int) -> int:
    """How far input counts may differ: a translated request is written a little differently (tool templates)."""
    return max(8, tokens // 4)


def _count(row: Row, gateway: Gateway, url: str, dialect: str) -> None:
    """count_tokens: the server's own count where its API has one, an estimate of the right size where it has none."""
    body: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi there, how are you?"}]}

    def ask(base: str, headers: dict[str, str]) -> int:
        client = sdks.messages_client(base)
        return client.messages.count_tokens(**body, extra_headers=headers).input_tokens

    try:
        want, got = ask(url, {}), ask(gateway.base_url, {"x-ccm-provider": dialect})
    except anthropic.APIError as error:
        row.note("count_tokens", f"{type(error).__name__}: {error}")
        return
    exact = dialect != "openai_chat"
    right = got == want if exact else 0 < got < 10 * want
    row.note("count_tokens", None if right else f"{got}, the server counts {want}")


# ------------------------------------------------------------------------------------------------ aimock
_TEXT = 'Grüße — "quoted" \\ back\\nslash {"json": [1, 2]}\nline two 🎉 </tag> & end'
_TWO = [
    {
        "name": "read_file",
        "arguments": {"path": "/tmp/ü.txt", "lines": [1, 2], "deep": {"a": None, "b": 1.5}},
    },
    {"name": "get_weather", "arguments": {"city": "Bern"}},
]


def _fixtures() -> list[dict[str, Any]]:
    """The longest words first: a fixture answers when the last user message contains its words."""

    def fixture(words: str, **response: Any) -> dict[str, Any]:
        return {"match": {"userMessage": words}, "response": response}

    error = {"message": "the words of the provider", "type": "invalid_request_error"}
    return [
        {
            "match": {"userMessage": "then what", "hasToolResult": True},
            "response": {"content": "Done, 21 °C."},
        },
        fixture("say something", content=_TEXT),
        fixture("think first", content="So be it.", reasoning="Let me think — 思考."),
        fixture("one tool", toolCalls=_TWO[1:]),
        fixture("two tools", toolCalls=_TWO),
        fixture("talk and call", content="I look.", toolCalls=_TWO[:1]),
        fixture("be cut", content="and so it en", finishReason="length"),
        {"match": {"userMessage": "be refused"}, "response": {"error": error, "status": 400}},
        {
            "match": {"userMessage": "be limited"},
            "response": {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429},
        },
    ]


def _aimock_questions(model: str) -> list[tuple[str, Question, Reading | int]]:
    """(name, question, what must be read: a Reading, or a status)."""
    object_ = {"type": "object", "properties": {}}
    tools = (("read_file", object_), ("get_weather", object_))

    def q(words: str) -> Question:
        return Question((("user", words),), model, tools=tools, max_tokens=1000)

    calls = [(c["name"], c["arguments"]) for c in _TWO]
    after = Question(
        (("user", "then what"), ("call", "toolu_0123456789", "get_weather", {"city": "Oslo"}),
         ("result", "toolu_0123456789", "21 °C")), model, tools=tools,
    )  # fmt: skip
    return [
        ("text", q("say something"), Reading(_TEXT, stop="end")),
        ("reasoning", q("think first"), Reading("So be it.", "Let me think — 思考.", stop="end")),
        ("one tool", q("one tool"), Reading(tools=calls[1:], stop="tool")),
        ("two tools", q("two tools"), Reading(tools=calls, stop="tool")),
        ("text and tool", q("talk and call"), Reading("I look.", tools=calls[:1], stop="tool")),
        ("length", q("be cut"), Reading("and so it en", stop="length")),
        ("after a tool", after, Reading("Done, 21 °C.", stop="end")),
        ("refused", q("be refused"), 400),
        ("limited", q("be limited"), 429),
    ]


_AIMOCK_MODELS = {
    "anthropic": "claude-sonnet-4-5",
    "openai_chat": "gpt-5",
    "openai_responses": "gpt-5",
    "gemini": "gemini-2.5-flash",
    "bedrock": "us.amazon.nova-pro-v1:0",
}


def aimock(quick: bool = False) -> list[Row]:
    """aimock over every dialect (of Bedrock only whole answers: its streams are not Amazon's)."""
    with servers.aimock(_fixtures()) as url, tempfile.TemporaryDirectory(prefix="ccm-") as home:
        tables = "".join(provider(f"{url}{SUFFIX[d]}", d, d) for d in _AIMOCK_MODELS)
        gateway = Gateway(Path(home), tables, failover=_NO_FAILOVER).start()
        ledger = Ledger()
        try:
            for dialect, model in _AIMOCK_MODELS.items():
                for name, question, want in _aimock_questions(model):
                    for door, ask in sdks.DOORS.items():
                        for stream in (True,) if quick and dialect != "bedrock" else (True, False):
                            if stream and dialect == "bedrock":
                                continue
                            gateway.reset()
                            case = f"{name} {'stream' if stream else 'json'}"
                            got = _read(ask, gateway.base_url, question, stream, {"x-ccm-provider": dialect})
                            ledger.row("aimock", dialect, door).note(case, _as_fixture(got, want, door))
                    if dialect in sdks.DIRECT and isinstance(want, Reading):
                        direct = _read(sdks.DIRECT[dialect], url, question, True, {})
                        through = _read(
                            sdks.ask_messages, gateway.base_url, question, True, {"x-ccm-provider": dialect}
                        )
                        row = ledger.row("aimock", dialect, "as its own SDK reads")
                        row.note(name, _alike(through, direct))
        finally:
            gateway.stop()
        return ledger.rows


def _as_fixture(got: Reading | Exception, want: Reading | int, door: str) -> str | None:
    if isinstance(want, int):
        right = isinstance(got, Refused) and got.status == want
        return None if right else f"expected status {want}, got {got!r}"
    if isinstance(got, Exception):
        return f"{type(got).__name__}: {got}"
    names = ("text", "tools", "stop", "reasoning")
    for name in names:
        if getattr(got, name) != getattr(want, name):
            return f"{name}: {getattr(got, name)!r}, the fixture says {getattr(want, name)!r}"
    return None


def _alike(through: Reading | Exception, direct: Reading | Exception) -> str | None:
    if isinstance(direct, Exception):
        return f"the oracle itself fails: {direct!r}"
    if isinstance(through, Exception):
        return f"{type(through).__name__}: {through}"
    for name in ("text", "tools", "stop"):
        if getattr(through, name) != getattr(direct, name):
            return f"{name}: {getattr(through, name)!r}, its SDK read {getattr(direct, name)!r}"
    return None


# ------------------------------------------------------------------------------------------------ Bedrock
Event = dict[str, Any]
_NOVA = "us.amazon.nova-pro-v1:0"


def _event(type: str, **payload: Any) -> Event:
    return {"event": type, "payload": payload}


def _stream(*blocks: list[Event], stop: str) -> list[Event]:
    usage = {"inputTokens": 21, "outputTokens": 9, "totalTokens": 30}
    inner = [e for block in blocks for e in block]
    tail = [_event("messageStop", stopReason=stop), _event("metadata", usage=usage, metrics={"latencyMs": 5})]
    return [_event("messageStart", role="assistant"), *inner, *tail]


def _text_block(index: int, *pieces: str) -> list[Event]:
    deltas = [_event("contentBlockDelta", contentBlockIndex=index, delta={"text": p}) for p in pieces]
    return [*deltas, _event("contentBlockStop", contentBlockIndex=index)]


def _tool_block(index: int, id: str, name: str, *pieces: str) -> list[Event]:
    start = {"toolUse": {"toolUseId": id, "name": name}}
    return [
        _event("contentBlockStart", contentBlockIndex=index, start=start),
        *(
            _event("contentBlockDelta", contentBlockIndex=index, delta={"toolUse": {"input": p}})
            for p in pieces
        ),
        _event("contentBlockStop", contentBlockIndex=index),
    ]


def _thought_block(index: int, *pieces: str) -> list[Event]:
    deltas = [
        _event("contentBlockDelta", contentBlockIndex=index, delta={"reasoningContent": {"text": p}})
        for p in pieces
    ]
    signature = {"reasoningContent": {"signature": "c2lnbmF0dXJl"}}
    return [
        *deltas,
        _event("contentBlockDelta", contentBlockIndex=index, delta=signature),
        _event("contentBlockStop", contentBlockIndex=index),
    ]


def _bedrock_streams() -> dict[str, list[Event]]:
    text = _text_block(0, "Grüße — ", "思考 🎉", "\nend")
    arguments = json.dumps(_TWO[0]["arguments"], ensure_ascii=False)
    third = len(arguments) // 3
    pieces = (arguments[:third], arguments[third : 2 * third], arguments[2 * third :])
    tool = _tool_block(1, "tooluse_a", "read_file", *pieces)
    begun = _stream(text[:2], stop="end_turn")[:3]
    return {
        "text": _stream(text, stop="end_turn"),
        "text and tool": _stream(text, tool, stop="tool_use"),
        "two tools": _stream(
            _tool_block(0, "tooluse_a", "read_file", *pieces),
            _tool_block(1, "tooluse_b", "get_weather", '{"city":', ' "Bern"}'),
            stop="tool_use",
        ),
        "reasoning": _stream(_thought_block(0, "Let me ", "think."), _text_block(1, "So."), stop="end_turn"),
        "length": _stream(_text_block(0, "and so it en"), stop="max_tokens"),
        "throttled inside": [
            *begun,
            {"exception": "throttlingException", "payload": {"message": "slow down"}},
        ],
        "broken inside": [
            *begun,
            {"exception": "modelStreamErrorException", "payload": {"message": "it fell over"}},
        ],
    }


def bedrock() -> list[Row]:
    """Converse streams written by Smithy's encoder, read by boto3 directly and by the SDKs through ccm."""
    ledger = Ledger()
    with Upstream() as up, tempfile.TemporaryDirectory(prefix="ccm-") as home:
        keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        gateway = Gateway(
            Path(home), provider(up, "bedrock", "bedrock"), failover=_NO_FAILOVER, env=keys
        ).start()
        client: Any = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=f"{up.url}/direct",
            aws_access_key_id="AKIATEST", aws_secret_access_key="secret",
            config=botocore.config.Config(retries={"max_attempts": 0}),
        )  # fmt: skip
        try:
            for name, events in _bedrock_streams().items():
                data = servers.event_stream(events)
                head = ("head", 200, {"content-type": "application/vnd.amazon.eventstream"})
                for prefix in ("/direct", "/bedrock"):
                    up.always(prefix, [head, ("bytes", data)])
                question = Question((("user", name),), _NOVA, tools=(("read_file", {"type": "object"}),))
                want = _read(lambda *_: _boto(client, name), "", question, True, {})
                for door, ask in sdks.DOORS.items():
                    gateway.reset()
                    got = _read(ask, gateway.base_url, question, True, {})
                    ledger.row("smithy", "bedrock", door).note(name, _as_boto(got, want))
                sent = [s.path for s in up.seen("/bedrock")][-1].removeprefix("/bedrock")
                meant = [s.path for s in up.seen("/direct")][-1].removeprefix("/direct")
                ledger.row("smithy", "bedrock", "boto3's path").note(
                    name, None if sent == meant else f"{sent} != {meant}"
                )
        finally:
            gateway.stop()
    return ledger.rows


def _boto(client: Any, words: str) -> Reading:
    made = client.converse_stream(modelId=_NOVA, messages=[{"role": "user", "content": [{"text": words}]}])
    out = Reading()
    raw: dict[int, list[str]] = {}
    for event in made["stream"]:
        (kind, body), *_ = event.items()
        if kind == "contentBlockStart":
            raw[body["contentBlockIndex"]] = []
            out.tools.append((body["start"]["toolUse"]["name"], raw[body["contentBlockIndex"]]))
        elif kind == "contentBlockDelta":
            delta = body["delta"]
            out.text += delta.get("text", "")
            out.reasoning += delta.get("reasoningContent", {}).get("text", "")
            if "toolUse" in delta:
                raw[body["contentBlockIndex"]].append(delta["toolUse"]["input"])
        elif kind == "messageStop":
            out.stop = {"end_turn": "end", "tool_use": "tool", "max_tokens": "length"}[body["stopReason"]]
        elif kind == "metadata":
            out.input_tokens, out.output_tokens = body["usage"]["inputTokens"], body["usage"]["outputTokens"]
    out.tools = [(name, json.loads("".join(pieces))) for name, pieces in out.tools]
    return out


def _as_boto(got: Reading | Exception, want: Reading | Exception) -> str | None:
    if isinstance(want, botocore.exceptions.EventStreamError):
        return None if isinstance(got, Exception) else f"boto3 raises {want}, but the client read {got!r}"
    return _difference(got, want)


PARTS: dict[str, Callable[[], list[Row]]] = {"llama.cpp": llama, "aimock": aimock, "smithy": bedrock}
