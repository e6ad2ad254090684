"""Gate 4, second half: recorded answers, read out of ccm by readers that nobody here wrote.

Recorded bytes come from a replay upstream; ccm translates them; the official anthropic SDK, `@ai-sdk/anthropic` (whose
schemas refuse unknown forms) and the official openai SDK at the other two doors read. What each read must be what the
provider's own SDK reads in the recorded bytes (the corpus' `expected.json`).
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import openai

from tests.fidelity import places
from tests.fidelity.sdks import KEY, final_response, messages_client, openai_client
from tests.fidelity.table import Ledger, Row
from tests.gateway import SUFFIX, Gateway, provider

HERE = Path(__file__).resolve().parent
# corpus dialect -> (dialect of ccm, provider, model that the client names)
_ROUTES = {
    "anthropic": ("anthropic", "anthropic", "claude-sonnet-4-5"),
    "openai.chat": ("openai_chat", "openai-chat", "claude-sonnet-4-5"),
    "openai.responses": ("openai_responses", "openai-responses", "claude-sonnet-4-5"),
    "gemini": ("gemini", "gemini", "claude-sonnet-4-5"),
    "bedrock.converse": ("bedrock", "bedrock", "us.amazon.nova-pro-v1:0"),
    "bedrock.converse-stream": ("bedrock", "bedrock", "us.amazon.nova-pro-v1:0"),
    "bedrock.invoke": ("bedrock", "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "bedrock.invoke-stream": ("bedrock", "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
# what each door calls the ends: the stop reasons of Messages that it may stand for
_STOPS = {
    "stop": {"end_turn", "stop_sequence", "pause_turn"},
    "tool_calls": {"tool_use"},
    "length": {"max_tokens", "model_context_window_exceeded"},
    "max_output_tokens": {"max_tokens", "model_context_window_exceeded"},
    "content_filter": {"refusal"},
    "completed": {"end_turn", "stop_sequence", "tool_use", "pause_turn"},
    "incomplete": {"max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"},
}
# Places of citations that the Messages API has and that reader's schema does not: nothing can be learned from it there.
_UNKNOWN = {
    "@ai-sdk/anthropic": re.compile(rb"content_block_location|search_?result_?location|documentChunk", re.I)
}
Digest = dict[str, Any]  # text, reasoning (None: this reader cannot tell), tools, stop (a set), or error
Reader = Callable[[dict[str, Any]], Digest]


def judge() -> ModuleType:
    """The shared judge as a module: its corpus loader, its replay upstream, its measure of sameness."""
    sys.path.insert(0, str(places.shared() / "tools"))
    try:
        gate, reader = importlib.import_module("gate"), importlib.import_module("gate_read")
        gate.strict = reader.strict = importlib.import_module("strict")  # type: ignore[attr-defined]
        gate.jiter = importlib.import_module("jiter")  # type: ignore[attr-defined]
    finally:
        sys.path.pop(0)
    return gate


def _items(gate: ModuleType, quick: bool) -> Iterator[tuple[dict[str, Any], Any]]:
    root = places.corpus()
    expected = json.loads((root / "expected.json").read_text())
    seen: dict[str, int] = {}
    for entry in json.loads((root / "index.json").read_text()):
        if entry["dialect"] not in _ROUTES:
            continue
        item = gate.load_item(str(root), entry, expected[entry["id"]])
        if isinstance(item, str) or item.kind != "message":
            continue
        seen[entry["dialect"]] = seen.get(entry["dialect"], 0) + 1
        if not quick or seen[entry["dialect"]] % 5 == 1:
            yield entry, item


def run(quick: bool = False) -> list[Row]:
    """Every recorded answer (in the quick form: every fifth), once by each reader."""
    gate, ledger = judge(), Ledger()
    up = gate.Upstream()
    base = f"http://127.0.0.1:{up.port}/up"
    names = {(dialect, name) for dialect, name, _ in _ROUTES.values()}
    tables = "".join(
        provider(f"{base}/{name}{SUFFIX[dialect]}", name, dialect) for dialect, name in sorted(names)
    )
    with tempfile.TemporaryDirectory(prefix="ccm-") as home:
        gateway = Gateway(Path(home), tables, failover={"enabled": False, "max_retries": 0}).start()
        try:
            with _readers(gateway.base_url) as readers:
                for entry, item in _items(gate, quick):
                    answer = {"body": item.body, "ctype": item.ctype, "status": item.status}
                    question = _question(gate, entry, item)
                    for name, read in readers.items():
                        if name in _UNKNOWN and _UNKNOWN[name].search(item.body):
                            continue
                        up.answer = dict(answer)
                        why = _judged(gate, item, read(question))
                        ledger.row("readers", entry["dialect"], name).note(entry["id"], why)
        finally:
            gateway.stop()
            up.srv.shutdown()
    return ledger.rows


def _question(gate: ModuleType, entry: dict[str, Any], item: Any) -> dict[str, Any]:
    _, name, model = _ROUTES[entry["dialect"]]
    thinking = "reasoning" in entry["features"] or bool(item.readings[0]["reasoning"])
    return {
        "provider": name,
        "model": model,
        "tools": [n for n in gate.tool_names(item.req) if n],
        "thinking": thinking,
        "stream": item.stream,
    }


def _judged(gate: ModuleType, item: Any, got: Digest) -> str | None:
    """None when the reading is one of those that the recording allows."""
    classes = gate.stop_classes(item.dialect, item.readings[0])
    if got.get("error"):
        return None if "error" in classes else got["error"]
    whys = []
    for reading in item.readings:
        stops = gate.stop_classes(item.dialect, reading)
        meant = sorted(map(str, got["stop"] & {str(s) for s in stops})) or sorted(got["stop"])
        digest = {
            "text": got["text"],
            "reasoning": reading["reasoning"] if got["reasoning"] is None else got["reasoning"],
            "tools": got["tools"],
            "stop": meant[0] if meant else None,
            "usage": None,
        }
        why = gate.differs(item, digest, reading, usage=False)
        if why is None:
            return None
        whys.append(why)
    return str(whys[0])


# ------------------------------------------------------------------------------------------------ the readers
@contextmanager
def _readers(base_url: str) -> Iterator[dict[str, Reader]]:
    modules = places.node_modules()
    command = ["node", str(HERE / "read_ai_sdk.mjs"), str(modules), base_url, KEY]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        messages, doors = messages_client(base_url), openai_client(base_url)
        yield {
            "@ai-sdk/anthropic": lambda q: _by_ai_sdk(node, q),
            "anthropic-sdk": lambda q: _guarded(lambda: _by_messages(messages, q)),
            "openai-sdk chat": lambda q: _guarded(lambda: _by_chat(doors, q)),
            "openai-sdk responses": lambda q: _guarded(lambda: _by_responses(doors, q)),
        }
    finally:
        node.kill()
        node.wait()


def _guarded(read: Callable[[], Digest]) -> Digest:
    try:
        return read()
    except Exception as error:  # whatever an SDK raises is its reading
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _by_ai_sdk(node: subprocess.Popen[str], question: dict[str, Any]) -> Digest:
    assert node.stdin is not None and node.stdout is not None
    node.stdin.write(json.dumps(question) + "\n")
    node.stdin.flush()
    line = node.stdout.readline()
    if not line:
        return {"error": "the reader ended"}
    read = json.loads(line)
    if read["errors"]:
        return {"error": read["errors"][0][:200]}
    tools = [[name, _arguments(raw)] for name, raw in read["tools"]]
    return {"text": read["text"], "reasoning": read["reasoning"], "tools": tools, "stop": {str(read["stop"])}}


def _arguments(raw: Any) -> Any:
    """Arguments as an object; those that the provider broke off stay what they are."""
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw or "{}")
    except ValueError:
        return {"__raw__": raw}


def _schema() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": True}


def _by_messages(client: anthropic.Anthropic, q: dict[str, Any]) -> Digest:
    options: dict[str, Any] = {
        "model": q["model"],
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Go on, please."}],
        "extra_headers": {"x-ccm-provider": q["provider"]},
    }
    if q["tools"]:
        options["tools"] = [{"name": n, "description": n, "input_schema": _schema()} for n in q["tools"]]
    if q["thinking"]:
        options["thinking"] = {"type": "enabled", "budget_tokens": 2048}
    if q["stream"]:
        with client.beta.messages.stream(**options) as events:
            made: Any = events.get_final_message()
    else:
        made = client.beta.messages.create(**options)
    blocks = made.content
    return {
        "text": "".join(b.text or "" for b in blocks if b.type == "text"),
        "reasoning": "".join(b.thinking for b in blocks if b.type == "thinking"),
        "tools": [[b.name, b.input] for b in blocks if b.type == "tool_use"],
        "stop": {str(made.stop_reason)},
    }


def _by_chat(client: openai.OpenAI, q: dict[str, Any]) -> Digest:
    options: dict[str, Any] = {
        "model": q["model"],
        "max_completion_tokens": 4096,
        "messages": [{"role": "user", "content": "Go on, please."}],
        "extra_headers": {"x-ccm-provider": q["provider"]},
    }
    if q["tools"]:
        options["tools"] = [
            {"type": "function", "function": {"name": n, "description": n, "parameters": _schema()}}
            for n in q["tools"]
        ]
    if q["thinking"]:
        options["reasoning_effort"] = "low"
    try:
        if q["stream"]:
            with client.chat.completions.stream(**options) as events:
                made: Any = events.get_final_completion()
        else:
            made = client.chat.completions.create(**options)
    except openai.LengthFinishReasonError as cut:
        made = cut.completion  # the helper's way to say so
    choice = made.choices[0]
    text = (choice.message.content or "") or (choice.message.refusal or "")
    calls = [[c.function.name, _arguments(c.function.arguments)] for c in choice.message.tool_calls or ()]
    stop = _STOPS.get(str(choice.finish_reason), {str(choice.finish_reason)})
    return {"text": text, "reasoning": None, "tools": calls, "stop": stop}


def _by_responses(client: openai.OpenAI, q: dict[str, Any]) -> Digest:
    options: dict[str, Any] = {
        "model": q["model"],
        "max_output_tokens": 4096,
        "input": "Go on, please.",
        "store": False,
        "extra_headers": {"x-ccm-provider": q["provider"]},
    }
    if q["tools"]:
        options["tools"] = [
            {"type": "function", "name": n, "description": n, "parameters": _schema(), "strict": False}
            for n in q["tools"]
        ]
    if q["thinking"]:
        options["reasoning"] = {"effort": "low", "summary": "auto"}
    if q["stream"]:
        made: Any = final_response(client.responses.create(**options, stream=True))
    else:
        made = client.responses.create(**options)
    if made.status == "failed":
        return {"error": f"failed: {made.error}"}
    text = "".join(
        getattr(part, "text", "") or getattr(part, "refusal", "") or ""
        for item in made.output if item.type == "message" for part in item.content
    )  # fmt: skip
    calls = [[i.name, _arguments(i.arguments)] for i in made.output if i.type == "function_call"]
    reason = made.incomplete_details.reason if made.incomplete_details else None
    stop = _STOPS.get(str(reason or made.status), {str(reason or made.status)})
    return {"text": text, "reasoning": None, "tools": calls, "stop": stop}
