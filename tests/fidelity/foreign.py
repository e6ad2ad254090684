"""Gate 4, first half: upstreams that nobody here wrote, asked through ccm and directly.

Every question goes once to the upstream itself, by the official SDK of its API, and then through every door of ccm, by
the official SDKs too. All of them must read the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic

from tests.fidelity import sdks, servers
from tests.fidelity.compare import difference, read
from tests.fidelity.sdks import Question, Reading, Refused
from tests.fidelity.table import Ledger, Row
from tests.gateway import SUFFIX, Gateway, provider

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
                want = read(sdks.DIRECT[dialect], url, item.question, stream, {})
                got = read(ask, gateway.base_url, item.question, stream, route)
                ledger.row(gate, dialect, door).note(case, difference(got, want, item.refused))


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
_TWO: list[dict[str, Any]] = [
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
                            got = read(ask, gateway.base_url, question, stream, {"x-ccm-provider": dialect})
                            ledger.row("aimock", dialect, door).note(case, _as_fixture(got, want, door))
                    if dialect in sdks.DIRECT and isinstance(want, Reading):
                        direct = read(sdks.DIRECT[dialect], url, question, True, {})
                        through = read(
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
