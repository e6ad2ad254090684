"""One conversation over three APIs and back, with thinking and parallel tools: no upstream refuses anything, and each
sees only the state that it issued itself (R8, R11, R12, R14; DIALECTS 7).

The client is the official anthropic SDK, which hands back what it was given; the upstreams are `issuers`.
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
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.contract.issuers import (
    CITIES,
    TOOLS,
    Issuer,
    Refusal,
    check_anthropic,
    check_gemini,
    check_responses,
)
from tests.gateway import SUFFIX, Gateway, provider
from tests.upstream import Upstream

pytestmark = pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
ROUTE = ("anthropic", "gemini", "openai_responses", "anthropic")
DIALECTS = tuple(dict.fromkeys(ROUTE))
MODELS = {
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3-pro-preview",
    "openai_responses": "gpt-5",
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
        self.route: dict[str, str] = {}  # {"x-ccm-provider": ...} where the client chooses

    def say(self, text: str) -> anthropic.types.Message:
        self.history.append({"role": "user", "content": text})
        return self.ask()

    def ask(self) -> anthropic.types.Message:
        with self.client.messages.stream(
            model="claude-sonnet-4-5", max_tokens=4000, messages=self.history, tools=TOOLS,
            thinking={"type": "enabled", "budget_tokens": 2000}, extra_headers=self.route,
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


def tables(base: Callable[[str], str]) -> str:
    """The three providers, each with a model that needs its state back."""
    models = {d: {"default": MODELS[d]} if d != "anthropic" else {} for d in DIALECTS}
    return "".join(provider(base(d), d, d, models=models[d]) for d in DIALECTS)


@pytest.fixture
def gateway(issuers: dict[str, Issuer], up: Upstream, fresh: Callable[..., Gateway]) -> Gateway:
    return fresh(tables(lambda d: f"{up.url}/{d}{SUFFIX[d]}"), failover={"max_retries": 0})


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
        talk.route = {"x-ccm-provider": asks}
        assert talk.say(f"{asks}, weather and time, please.").stop_reason == "tool_use"
        talk.run_tools()
        talk.route = {"x-ccm-provider": answers_}
        told = talk.ask()
        assert "".join(b.text for b in told.content if b.type == "text") == f"words of {answers_}"
    assert {d: i.refused for d, i in issuers.items()} == {d: [] for d in DIALECTS}
    own_state_only(up, issuers)


def test_back_at_once(up: Upstream, issuers: dict[str, Issuer], gateway: Gateway) -> None:
    """Away for one turn only: the own calls, signed, are still the newest but one."""
    talk = Conversation(gateway)
    for dialect in ("gemini", "anthropic", "gemini", "openai_responses", "gemini"):
        talk.route = {"x-ccm-provider": dialect}
        talk.say("weather and time, please.")
        talk.run_tools()
        talk.ask()
    assert {d: i.refused for d, i in issuers.items()} == {d: [] for d in DIALECTS}
    own_state_only(up, issuers)
    last = up.seen("/gemini")[-1].raw.decode()
    assert [m for m in issuers["gemini"].minted[:-1] if m not in last] == [], "no own signature is forgotten"


@pytest.mark.parametrize("thinking", [None, {"type": "enabled", "budget_tokens": 2000}])
def test_the_upstreams_do_refuse(thinking: dict[str, Any] | None) -> None:
    """The test's own upstreams: without this they might accept anything."""
    foreign = {"type": "thinking", "thinking": "x", "signature": "T0FJsomebody"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}

    def messages(*blocks: Any) -> dict[str, Any]:
        turns = [{"role": "assistant", "content": list(blocks)}, {"role": "user", "content": [result]}]
        return {"messages": turns, "thinking": thinking}

    me = Issuer("anthropic")
    with pytest.raises(Refusal, match="Invalid `signature`"):
        check_anthropic(me, messages(foreign, use))
    check_anthropic(me, messages({**foreign, "signature": me.mint()}, use))
    if thinking:
        with pytest.raises(Refusal, match="but found `tool_use`"):
            check_anthropic(me, messages(use))

    call: dict[str, Any] = {"functionCall": {"name": "weather", "args": {}}}
    reply = {"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {}}}]}
    with pytest.raises(Refusal, match="missing a thought_signature"):
        check_gemini(Issuer("gemini"), {"contents": [{"role": "model", "parts": [call]}, reply]})
    signed = {**call, "thoughtSignature": "QU5Usomebody"}
    with pytest.raises(Refusal, match="Corrupted"):
        check_gemini(Issuer("gemini"), {"contents": [{"role": "model", "parts": [signed]}, reply]})

    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "QU5Usomebody"}
    with pytest.raises(Refusal, match="could not be verified"):
        check_responses(Issuer("openai_responses"), {"input": [reasoning], "store": False})
    with pytest.raises(Refusal, match="No tool output"):
        item = {"type": "function_call", "call_id": "call_1"}
        check_responses(Issuer("openai_responses"), {"input": [item], "store": False})


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
    gateway = fresh(tables(lambda d: f"{stub}{SUFFIX[d]}"), failover={"max_retries": 0})
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
