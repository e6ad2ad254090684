"""One conversation over three APIs and back, with thinking and parallel tools: no upstream refuses anything, and each
sees only the state that it issued itself (R8, R11, R12, R14; DIALECTS 7).

The client is the official anthropic SDK, which hands back what it was given. The upstreams mint signatures of their own
and answer as the real APIs do when they get somebody else's, or not their own where they demand it.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests import answers
from tests.gateway import SUFFIX, Gateway, provider
from tests.upstream import Seen, Step, Upstream

ROUTE = ("anthropic", "gemini", "openai_responses", "anthropic")
DIALECTS = tuple(dict.fromkeys(ROUTE))
MODELS = {
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3-pro-preview",
    "openai_responses": "gpt-5",
}
MARKS = {"anthropic": "QU5U", "gemini": "R0VN", "openai_responses": "T0FJ"}  # how each one's signatures begin
DUMMY = "skip_thought_signature_validator"  # Google's own stand-in for a signature that never was
CITIES = ("Oslo", "Bern")
TOOLS: Any = [
    {
        "name": name,
        "description": f"The {name} of a city.",
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    for name in ("weather", "time")
]


class Refusal(Exception):
    """What an upstream would answer 400 with."""


@dataclass
class Issuer:
    """An upstream of one API: it mints state, and refuses requests whose state is wrong."""

    dialect: str
    minted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def mint(self) -> str:
        self.minted.append(f"{MARKS[self.dialect]}c2lnbmF0dXJl{len(self.minted):04d}")
        return self.minted[-1]

    def __call__(self, seen: Seen) -> list[Step]:
        try:
            _CHECKS[self.dialect](self, seen.json)
        except Refusal as refusal:
            self.refused.append(str(refusal))
            return [("status", 400, {}, answers.error(self.dialect, 400, str(refusal)))]
        after_results = _ENDS_WITH_RESULTS[self.dialect](seen.json)
        return [("sse", _ANSWERS[self.dialect](self, after_results))]

    def own(self, signature: Any) -> bool:
        return signature in self.minted


# ------------------------------------------------------------------------------------------------ Anthropic
def check_anthropic(me: Issuer, body: Any) -> None:
    thinking = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    for n, message in enumerate(body["messages"]):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in blocks:
            if block["type"] == "thinking" and not me.own(block.get("signature")):
                raise Refusal(f"messages.{n}.content.0: Invalid `signature` in `thinking` block")
    last = [m for m in body["messages"] if m["role"] == "assistant"][-1:]
    uses = last and any(b["type"] == "tool_use" for b in last[0]["content"])
    if thinking and uses and _ENDS_WITH_RESULTS["anthropic"](body):
        first = last[0]["content"][0]["type"]
        if first not in ("thinking", "redacted_thinking"):
            raise Refusal(f"Expected `thinking` or `redacted_thinking`, but found `{first}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block")  # fmt: skip


def answer_anthropic(me: Issuer, after_results: bool) -> list[Any]:
    start: dict[str, Any] = {
        "id": f"msg_{next(me.calls):08d}", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 21, "output_tokens": 1},
    }  # fmt: skip
    out: list[Any] = [{"type": "message_start", "message": start}]

    def block(index: int, empty: dict[str, Any], *deltas: dict[str, Any]) -> None:
        out.append({"type": "content_block_start", "index": index, "content_block": empty})
        out.extend({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        out.append({"type": "content_block_stop", "index": index})

    block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "thoughts of anthropic"},
        {"type": "signature_delta", "signature": me.mint()},
    )
    if after_results:
        block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "words of anthropic"})
    else:
        for index, (tool, city) in enumerate(zip(TOOLS, CITIES, strict=True), 1):
            use = {"type": "tool_use", "id": f"toolu_{next(me.calls):08d}", "name": tool["name"], "input": {}}
            block(index, use, {"type": "input_json_delta", "partial_json": json.dumps({"city": city})})
    delta = {"stop_reason": "end_turn" if after_results else "tool_use", "stop_sequence": None}
    return [
        *out,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


# ------------------------------------------------------------------------------------------------ Gemini
def check_gemini(me: Issuer, body: Any) -> None:
    contents = body["contents"]
    asked = [
        n for n, c in enumerate(contents) if c["role"] == "user" and any("text" in p for p in c["parts"])
    ]
    for n, content in enumerate(contents):
        for part in content["parts"]:
            signature = part.get("thoughtSignature")
            if signature is not None and not me.own(signature) and signature != DUMMY:
                raise Refusal("Corrupted thought signature.")
        calls = [p for p in content["parts"] if "functionCall" in p]
        if calls and n > max(asked, default=-1) and not calls[0].get("thoughtSignature"):
            raise Refusal("Function call is missing a thought_signature in functionCall parts.")
        if calls:
            follow = contents[n + 1]["parts"] if n + 1 < len(contents) else []
            found = [p["functionResponse"]["name"] for p in follow if "functionResponse" in p]
            if found != [p["functionCall"]["name"] for p in calls]:
                raise Refusal("the number of function response parts is not that of the function call parts")


def answer_gemini(me: Issuer, after_results: bool) -> list[Any]:
    parts: list[Any] = [{"text": "thoughts of gemini", "thought": True}]
    if after_results:
        parts += [{"text": "words of "}, {"text": "gemini", "thoughtSignature": me.mint()}]
    else:
        calls = [
            {"functionCall": {"name": tool["name"], "args": {"city": city}}}
            for tool, city in zip(TOOLS, CITIES, strict=True)
        ]
        parts += [{**calls[0], "thoughtSignature": me.mint()}, *calls[1:]]
    usage = {"promptTokenCount": 21, "candidatesTokenCount": 9, "totalTokenCount": 30}
    chunks: list[Any] = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "usageMetadata": usage}
        for part in parts
    ]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    return chunks


# ------------------------------------------------------------------------------------------------ OpenAI Responses
def check_responses(me: Issuer, body: Any) -> None:
    items = body["input"]
    waiting: list[str] = []
    for n, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "reasoning":
            if not me.own(item.get("encrypted_content")):
                raise Refusal("The encrypted content could not be verified.")
            if n + 1 == len(items) or items[n + 1].get("type") not in (
                "function_call",
                "message",
                "reasoning",
            ):
                raise Refusal(
                    "Item 'rs' of type 'reasoning' was provided without its required following item."
                )
        elif kind == "function_call":
            waiting.append(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in waiting:
                raise Refusal(f"No tool call found for function call output with call_id {item['call_id']}.")
            waiting.remove(item["call_id"])
        elif waiting:
            raise Refusal(f"No tool output found for function call {waiting[0]}.")
    if waiting:
        raise Refusal(f"No tool output found for function call {waiting[0]}.")
    if body.get("store") is not False:
        raise Refusal("nobody allowed the conversation to be kept")


def answer_responses(me: Issuer, after_results: bool) -> list[Any]:
    reasoning = {
        "type": "reasoning",
        "id": f"rs_{next(me.calls):08d}",
        "summary": [{"type": "summary_text", "text": "thoughts of openai_responses"}],
        "encrypted_content": me.mint(),
    }
    items: list[dict[str, Any]] = [reasoning]
    if after_results:
        part = {"type": "output_text", "text": "words of openai_responses", "annotations": [], "logprobs": []}
        items.append(
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        )
    else:
        for tool, city in zip(TOOLS, CITIES, strict=True):
            number = next(me.calls)
            items.append(
                {
                    "type": "function_call", "id": f"fc_{number:08d}", "call_id": f"call_{number:08d}",
                    "name": tool["name"], "arguments": json.dumps({"city": city}), "status": "completed",
                }
            )  # fmt: skip
    out: list[dict[str, Any]] = []

    def add(type: str, **fields: Any) -> None:
        out.append({"type": type, "sequence_number": len(out), **fields})

    usage = {"input_tokens": 21, "output_tokens": 9, "total_tokens": 30}
    whole = {"id": "resp_1", "object": "response", "status": "completed", "output": items, "usage": usage}
    add("response.created", response=whole | {"status": "in_progress", "output": [], "usage": None})
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "reasoning":
            add(
                "response.output_item.added",
                output_index=index,
                item=item | {"summary": [], "encrypted_content": ""},
            )
            text = item["summary"][0]["text"]
            add("response.reasoning_summary_text.delta", **at, summary_index=0, delta=text)
        elif item["type"] == "message":
            add("response.output_item.added", output_index=index, item=item | {"content": []})
            add("response.output_text.delta", **at, content_index=0, delta=item["content"][0]["text"])
        else:
            add("response.output_item.added", output_index=index, item=item | {"arguments": ""})
            add("response.function_call_arguments.delta", **at, delta=item["arguments"])
        add("response.output_item.done", output_index=index, item=item)
    add("response.completed", response=whole)
    return out


_CHECKS = {"anthropic": check_anthropic, "gemini": check_gemini, "openai_responses": check_responses}
_ANSWERS = {"anthropic": answer_anthropic, "gemini": answer_gemini, "openai_responses": answer_responses}
_ENDS_WITH_RESULTS: dict[str, Callable[[Any], bool]] = {
    "anthropic": lambda b: any(
        c["type"] == "tool_result" for c in b["messages"][-1]["content"] if isinstance(c, dict)
    ),
    "gemini": lambda b: any("functionResponse" in p for p in b["contents"][-1]["parts"]),
    "openai_responses": lambda b: b["input"][-1].get("type") == "function_call_output",
}


# ------------------------------------------------------------------------------------------------ the client
class Conversation:
    """A client that keeps its history as the SDK hands it out, and runs every tool it is asked to."""

    def __init__(self, gateway: Gateway) -> None:
        self.client = anthropic.Anthropic(
            api_key="ccm-proxy", base_url=gateway.base_url, max_retries=0, timeout=20
        )
        self.history: list[Any] = []
        self.served: list[str] = []

    def say(self, text: str) -> anthropic.types.Message:
        self.history.append({"role": "user", "content": text})
        return self.ask()

    def ask(self) -> anthropic.types.Message:
        with self.client.messages.stream(
            model="claude-sonnet-4-5", max_tokens=4000, messages=self.history, tools=TOOLS,
            thinking={"type": "enabled", "budget_tokens": 2000},
        ) as stream:  # fmt: skip
            self.served.append(stream.response.headers["x-ccm-provider"])
            message = stream.get_final_message()
        self.history.append({"role": "assistant", "content": message.content})
        return message

    def run_tools(self) -> list[Any]:
        """Takes the results of the last answer's calls into the history."""
        calls = [b for b in self.history[-1]["content"] if b.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": c.id, "content": f"{c.name} of {c.input['city']}"}
            for c in calls
        ]
        self.history.append({"role": "user", "content": results})
        return calls


@pytest.fixture
def issuers(up: Upstream) -> dict[str, Issuer]:
    up.reset()
    made = {dialect: Issuer(dialect) for dialect in DIALECTS}
    for dialect, issuer in made.items():
        up.always(f"/{dialect}", issuer)
    return made


@pytest.fixture
def gateway(issuers: dict[str, Issuer], up: Upstream, fresh: Callable[..., Gateway]) -> Gateway:
    tables = "".join(
        provider(up, d, d, models={"default": MODELS[d]} if d != "anthropic" else {}) for d in DIALECTS
    )
    return fresh(tables, failover={"max_retries": 0})


def own_state_only(up: Upstream, issuers: dict[str, Issuer]) -> None:
    """What each upstream was sent holds nothing that another one minted, and nothing of ccm's own wrapping."""
    for dialect in DIALECTS:
        for seen in up.seen(f"/{dialect}"):
            raw = seen.raw.decode()
            assert "ccm1." not in raw, f"{dialect} got ccm's own wrapping"
            for other in DIALECTS:
                if other != dialect:
                    strange = [mark for mark in issuers[other].minted if mark in raw]
                    assert not strange, f"{dialect} got what {other} minted"


def test_switching_between_turns(
    up: Upstream, issuers: dict[str, Issuer], gateway: Gateway, strict: Any
) -> None:
    talk = Conversation(gateway)
    for number, dialect in enumerate(ROUTE, 1):
        gateway.ctl("switch", dialect, check=True)
        asked = talk.say(f"Question {number}: weather and time, please.")
        assert asked.stop_reason == "tool_use"
        assert [b.type for b in asked.content] == ["thinking", "tool_use", "tool_use"]
        assert [(c.name, c.input) for c in talk.run_tools()] == [
            (tool["name"], {"city": city}) for tool, city in zip(TOOLS, CITIES, strict=True)
        ]
        told = talk.ask()
        assert told.stop_reason == "end_turn"
        assert "".join(b.text for b in told.content if b.type == "text") == f"words of {dialect}"
        thoughts = "".join(b.thinking for b in told.content if b.type == "thinking")
        assert thoughts == f"thoughts of {dialect}"
    assert talk.served == [d for d in ROUTE for _ in range(2)]
    assert {d: i.refused for d, i in issuers.items()} == {d: [] for d in DIALECTS}
    assert len(up.seen()) == 8, "nothing was tried twice"
    ids = [
        b.id for m in talk.history if m["role"] == "assistant" for b in m["content"] if b.type == "tool_use"
    ]
    assert len(set(ids)) == 8
    own_state_only(up, issuers)
    every_call_and_result_arrives(up)
    own_state_returns(up, issuers)
    requests_are_valid(up, strict)


def every_call_and_result_arrives(up: Upstream) -> None:
    """In its last request each upstream sees the whole conversation so far: calls, results and words of the others."""
    before = {"gemini": 2, "openai_responses": 3, "anthropic": 4}  # turns with calls, the own one included
    for dialect, turns in before.items():
        raw = up.seen(f"/{dialect}")[-1].raw.decode()
        assert len(re.findall(r"weather of Oslo", raw)) == turns, dialect
        assert len(re.findall(r"time of Bern", raw)) == turns, dialect
        assert [n for n in range(1, turns + 1) if f"Question {n}:" not in raw] == [], dialect
        for earlier in ROUTE[: turns - 1]:
            if f"words of {earlier}" not in raw:
                # Gemini's own text may come back in the pieces that its signatures sat on
                assert f"words of {earlier}" in raw.replace('"},{"text":"', ""), (dialect, earlier)


def own_state_returns(up: Upstream, issuers: dict[str, Issuer]) -> None:
    """With the results of a tool the state of the calls goes back to whoever issued it, on the part it came with."""
    results = up.seen("/gemini")[1].json["contents"]
    (step,) = [c["parts"] for c in results[-2:] if c["role"] == "model"]
    called = [p for p in step if "functionCall" in p]
    assert [p.get("thoughtSignature") for p in called] == [issuers["gemini"].minted[0], None]

    items = up.seen("/openai_responses")[1].json["input"]
    kinds = [i.get("type", "message") for i in items]
    at = kinds.index("reasoning")
    assert items[at]["encrypted_content"] == issuers["openai_responses"].minted[0]
    assert kinds[at : at + 5] == ["reasoning", *["function_call"] * 2, *["function_call_output"] * 2]

    first, second, third, fourth = (s.json["messages"] for s in up.seen("/anthropic"))
    mine = issuers["anthropic"].minted
    assert signatures(first) == [] and signatures(second) == mine[:1]
    assert signatures(third) == mine[:2], "its own thinking is still there after two others"
    assert signatures(fourth) == mine[:3]


def signatures(messages: list[Any]) -> list[str]:
    lists = [m["content"] for m in messages if isinstance(m["content"], list)]
    return [b["signature"] for blocks in lists for b in blocks if b["type"] == "thinking"]


def requests_are_valid(up: Upstream, strict: Any) -> None:
    """By the providers' official files. (OpenAI's demands ids of input items that its API does without.)"""
    for seen in up.seen("/anthropic"):
        assert strict.anthropic_request(seen.json) == []
    for seen in up.seen("/gemini"):
        assert strict.google_request(seen.json) == []
    for seen in up.seen("/openai_responses"):
        wrong = strict.openai_request(seen.json, "CreateResponse")
        assert [w for w in wrong if not w.endswith("required")] == []


def test_switching_between_calls_and_their_results(
    up: Upstream, issuers: dict[str, Issuer], gateway: Gateway
) -> None:
    """The harder place: whoever gets the results has not made the calls, and thinking is on."""
    talk = Conversation(gateway)
    route = ("anthropic", "gemini", "openai_responses", "anthropic", "gemini")
    for asks, answers_ in itertools.pairwise(route):
        gateway.ctl("switch", asks, check=True)
        assert talk.say(f"{asks}, weather and time, please.").stop_reason == "tool_use"
        talk.run_tools()
        gateway.ctl("switch", answers_, check=True)
        told = talk.ask()
        assert "".join(b.text for b in told.content if b.type == "text") == f"words of {answers_}"
    assert {d: i.refused for d, i in issuers.items()} == {d: [] for d in DIALECTS}
    own_state_only(up, issuers)


def test_back_at_once(up: Upstream, issuers: dict[str, Issuer], gateway: Gateway) -> None:
    """Away for one turn only: the own calls, signed, are still the newest but one."""
    talk = Conversation(gateway)
    for dialect in ("gemini", "anthropic", "gemini", "openai_responses", "gemini"):
        gateway.ctl("switch", dialect, check=True)
        talk.say("weather and time, please.")
        talk.run_tools()
        talk.ask()
    assert {d: i.refused for d, i in issuers.items()} == {d: [] for d in DIALECTS}
    own_state_only(up, issuers)
    last = up.seen("/gemini")[-1].raw.decode()
    assert [m for m in issuers["gemini"].minted[:-1] if m not in last] == [], "no own signature is forgotten"


# ------------------------------------------------------------------------------------------------ the shared stub
@pytest.fixture
def stub(shared: Path, tmp_path: Path) -> Iterator[str]:
    """The shared strict stub, which demands Gemini's signatures back: its URL."""
    port_file = tmp_path / "stub.port"
    command = [sys.executable, str(shared / "tools/claude_stub.py"), "--port-file", str(port_file)]
    command += ["--strict", "--reasoning", "--gemini-signature"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not port_file.exists():
            assert process.poll() is None and time.monotonic() < end, "the stub did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}"
    finally:
        process.kill()
        process.wait()


def test_the_scripted_task_over_three_apis(stub: str, fresh: Callable[..., Gateway]) -> None:
    """The stub's task, a provider further at each step: every step's results go to somebody who never saw the call."""
    gateway = fresh(
        "".join(provider(f"{stub}{SUFFIX[d]}", d, d) for d in DIALECTS), failover={"max_retries": 0}
    )
    token = "tok1234abcd"
    client = anthropic.Anthropic(api_key="ccm-proxy", base_url=gateway.base_url, max_retries=0, timeout=20)
    tools: Any = [
        {"name": name, "description": name, "input_schema": {"type": "object", "properties": {}}}
        for name in ("Write", "Bash", "Read")
    ]
    history: list[Any] = [{"role": "user", "content": f"Do the task. E2E_DIR=/nowhere E2E_TOKEN={token}"}]
    outputs = iter(["File created.", f"hello {token}", f"hello {token}", f"HELLO {token.upper()}"])
    text = ""
    for dialect in ROUTE:
        with client.messages.stream(
            model="claude-sonnet-4-5", max_tokens=4000, messages=history, tools=tools,
            thinking={"type": "enabled", "budget_tokens": 2000}, extra_headers={"x-ccm-provider": dialect},
        ) as stream:  # fmt: skip
            assert stream.response.headers["x-ccm-provider"] == dialect
            message = stream.get_final_message()
        text = "".join(b.text for b in message.content if b.type == "text")
        assert "E2E-FAIL" not in text
        history.append({"role": "assistant", "content": message.content})
        results = [
            {"type": "tool_result", "tool_use_id": b.id, "content": next(outputs)}
            for b in message.content
            if b.type == "tool_use"
        ]
        history.append({"role": "user", "content": results})
    assert text == f"E2E-OK {token}"
    with urllib.request.urlopen(f"{stub}/__stub/log", timeout=5) as answer:
        log = [entry for entry in json.load(answer) if entry.get("dialect")]
    assert [entry["dialect"] for entry in log] == ["anthropic", "gemini", "responses", "anthropic"]
    assert [entry.get("problems", []) for entry in log] == [[]] * 4
    assert [entry["status"] for entry in log] == [200] * 4
    assert [entry["n_results"] for entry in log] == [0, 1, 3, 4]
