"""Every row of the catalogue, every address of it, over real sockets: what arrives at the provider, and what comes back.

Each provider is configured as a user would (no base_url: the catalogue's own), then only its host is replaced by the
scripted upstream's. The requests go through the whole engine, in this process: the door, the router, the dialects.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

from ccm.catalog import models, rows
from ccm.catalog.checks import bundled_text
from ccm.catalog.rows import QUIRKS, RowEndpoint, bundled_rows, load_rows
from ccm.cli.inside import Inside
from ccm.config import load
from ccm.model import TIERS, Snapshot
from ccm.wire.eventstream_encode import encode as eventstream
from tests import answers
from tests.gateway import toml
from tests.http1 import Client, Reply, message
from tests.upstream import Seen, Upstream

CALL = {"name": "Read", "input": {"path": "/tmp/ü.txt", "lines": 3}}
TOOL = {
    "name": "Read",
    "description": "Reads a file.",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
    },
}
TEXT = "Let me look at it."
OPTIONS = {"region": {"bedrock": "eu-west-1", "vertex": "us-east5"}, "project": "proj-1", "resource": "myres"}
# What a client might say of itself; none of it is a provider's business.
LEAKS = {
    "authorization": "Bearer ccm-client-LEAK",
    "cookie": "session=LEAK",
    "user-agent": "LEAKY/1.0",
    "x-forwarded-for": "10.9.8.7",
    "x-private": "LEAK",
    "referer": "http://127.0.0.1/LEAK",
    "x-app": "LEAK",
    "x-stainless-lang": "LEAK",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
}
ALWAYS = {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
# Where the documentation of each says requests go (DIALECTS 11-15): not derived from the catalogue.
DOCUMENTED = {
    ("anthropic", "anthropic"): "https://api.anthropic.com/v1/messages",
    ("openai", "openai_responses"): "https://api.openai.com/v1/responses",
    ("openai", "openai_chat"): "https://api.openai.com/v1/chat/completions",
    ("google", "gemini"): "https://generativelanguage.googleapis.com/v1beta/models/gemini-4-argon:streamGenerateContent?alt=sse",
    ("groq", "openai_chat"): "https://api.groq.com/openai/v1/chat/completions",
    ("deepseek", "anthropic"): "https://api.deepseek.com/anthropic/v1/messages",
    ("mistral", "openai_chat"): "https://api.mistral.ai/v1/chat/completions",
    ("openrouter", "anthropic"): "https://openrouter.ai/api/v1/messages",
    ("openrouter", "openai_chat"): "https://openrouter.ai/api/v1/chat/completions",
    ("xai", "openai_responses"): "https://api.x.ai/v1/responses",
    ("cerebras", "openai_chat"): "https://api.cerebras.ai/v1/chat/completions",
    ("zai", "anthropic"): "https://api.z.ai/api/anthropic/v1/messages",
    ("moonshot", "anthropic"): "https://api.moonshot.ai/anthropic/v1/messages",
    ("alibaba", "anthropic"): "https://dashscope-intl.aliyuncs.com/apps/anthropic/v1/messages",
    ("perplexity", "openai_chat"): "https://api.perplexity.ai/chat/completions",
    ("ollama", "openai_chat"): "http://127.0.0.1:11434/v1/chat/completions",
    ("azure", "openai_chat"): "https://myres.openai.azure.com/openai/v1/chat/completions",
    ("azure-foundry", "anthropic"): "https://myres.services.ai.azure.com/anthropic/v1/messages",
    ("bedrock", "bedrock"): "https://bedrock-runtime.eu-west-1.amazonaws.com/model/eu.anthropic.claude-sonnet-4-6/invoke-with-response-stream",
    ("vertex", "gemini"): "https://us-east5-aiplatform.googleapis.com/v1/projects/proj-1/locations/us-east5/publishers/google/models/gemini-4-argon:streamGenerateContent?alt=sse",
    ("vertex", "anthropic"): "https://us-east5-aiplatform.googleapis.com/v1/projects/proj-1/locations/us-east5/publishers/anthropic/models/claude-sonnet-5-5:streamRawPredict",
}  # fmt: skip


# ... and in which header the key goes there.
BEARER, X_API_KEY = {"authorization"}, {"x-api-key"}
KEY_GOES_IN = {
    "anthropic.anthropic": X_API_KEY, "openai.openai_responses": BEARER, "openai.openai_chat": BEARER,
    "google.gemini": {"x-goog-api-key"}, "google.openai_chat": BEARER, "groq.openai_chat": BEARER,
    "deepseek.anthropic": X_API_KEY, "deepseek.openai_chat": BEARER, "mistral.openai_chat": BEARER,
    "openrouter.anthropic": BEARER, "zai.anthropic": BEARER, "moonshot.anthropic": BEARER, "xai.openai_chat": BEARER,
    "azure.openai_chat": {"api-key"}, "azure-foundry.anthropic": {"api-key", "x-api-key"},
    "bedrock.bedrock": BEARER, "vertex.gemini": BEARER, "vertex.anthropic": BEARER, "ollama.anthropic": BEARER,
    "custom.anthropic": X_API_KEY, "custom.openai_chat": BEARER, "custom.gemini": {"x-goog-api-key"},
    "ollama.anthropic.keyless": set(), "llamacpp.openai_chat.keyless": set(),
}  # fmt: skip


class Case(NamedTuple):
    """One address of one row, under a name of its own in the configuration."""

    name: str
    row: str
    endpoint: RowEndpoint
    key: str
    env: str
    keyless: bool = False

    @property
    def dialect(self) -> str:
        return self.endpoint.dialect

    def tier(self, tier: str) -> str:
        """The model that the catalogue says; our own for rows that map none."""
        return self.endpoint.tiers.get(tier, "the-model").replace("{geo}", "eu")


def cases() -> list[Case]:
    found = []
    for row in bundled_rows().values():
        for endpoint in row.endpoints:
            env = f"KEY_OF_{row.name}_{endpoint.dialect}".upper().replace("-", "_").replace(".", "_")
            name = f"{row.name}.{endpoint.dialect}"
            found.append(Case(name, row.name, endpoint, f"k3y-{name}-0123456789abcdefghij", env))
            if row.auth == "none":
                found.append(Case(f"{name}.keyless", row.name, endpoint, "", "", True))
    return found


CASES = cases()


def table(case: Case) -> str:
    """The configuration of a case, as its user would write it."""
    row = bundled_rows()[case.row]
    keys: dict[str, Any] = {"type": row.name, "dialect": case.dialect}
    if case.key:
        keys["api_key_env"] = case.env
    for option in row.options:
        value = OPTIONS[option]
        keys[option] = value[row.name] if isinstance(value, dict) else value
    if not case.endpoint.base_url:
        keys["base_url"] = "https://llm.example.com"
    if not case.endpoint.tiers:
        keys["models"] = {"default": "the-model"}
    return f'[providers."{case.name}"]\n' + "".join(f"{k} = {toml(v)}\n" for k, v in keys.items())


def loaded(directory: Path, text: str, env: Mapping[str, str]) -> Snapshot:
    path = directory / "ccm-config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load.load(path, {"HOME": str(directory), **env})


def moved(snapshot: Snapshot, up: Upstream) -> Snapshot:
    """The same snapshot with every provider's scheme and host replaced: its path stands behind its name."""
    providers = {
        name: replace(p, base_url=f"{up.url}/{name}{urlsplit(p.base_url).path}")
        for name, p in snapshot.providers.items()
    }
    endpoints = tuple(replace(e, provider=providers[e.provider.name]) for e in snapshot.endpoints)
    return replace(snapshot, providers=providers, endpoints=endpoints)


def answer(seen: Seen) -> list[Any]:
    """A good answer with a tool call; in the clouds' wrapping where the path is one of theirs."""
    path = seen.path.partition("?")[0]
    if re.search(r":(streamR|r)awPredict$", path):
        if path.endswith(":rawPredict"):
            return [("status", 200, {}, answers.whole("anthropic", TEXT, CALL))]
        return [
            ("head",),
            *(("bytes", answers.frame("anthropic", e)) for e in answers.events("anthropic", TEXT, CALL)),
        ]
    if path.endswith("/invoke"):
        return [("status", 200, {}, answers.whole("anthropic", TEXT, CALL))]
    if path.endswith("/invoke-with-response-stream"):
        head = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
        packed = (
            {"bytes": base64.b64encode(json.dumps(e).encode()).decode()}
            for e in answers.events("anthropic", TEXT, CALL)
        )
        frames = [eventstream(head, json.dumps(p).encode()) for p in packed]
        return [
            ("head", 200, {"content-type": "application/vnd.amazon.eventstream"}),
            *(("bytes", f) for f in frames),
        ]
    if path.endswith("/converse"):
        return [("status", 200, {}, CONVERSED)]
    if path.endswith("/converse-stream"):
        return [
            ("head", 200, {"content-type": "application/vnd.amazon.eventstream"}),
            *(("bytes", _converse_frame(kind, event)) for kind, event in CONVERSE_EVENTS),
        ]
    return [("answer", {"text": TEXT, "tool": CALL})]


_USAGE = {"inputTokens": 21, "outputTokens": 5, "totalTokens": 26}
CONVERSED = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"text": TEXT},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "Read", "input": CALL["input"]}},
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": _USAGE,
}
CONVERSE_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": TEXT}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "tooluse_1", "name": "Read"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": json.dumps(CALL["input"])}}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": _USAGE, "metrics": {"latencyMs": 1}}),
]  # fmt: skip


def _converse_frame(kind: str, event: dict[str, Any]) -> bytes:
    head = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return eventstream(head, json.dumps(event).encode())


class Bench(NamedTuple):
    """Everything in its place: the providers by case, an open door, and what arrives."""

    up: Upstream
    inside: Inside
    snapshot: Snapshot  # before the hosts were replaced

    def ask(self, provider: str, body: dict[str, Any], **headers: str) -> tuple[Reply, Seen]:
        """One request to one provider; the reply and what the provider got."""
        before = len(self.up.seen(f"/{provider}/"))
        with Client(f"http://127.0.0.1:{self.inside.port}", token=self.inside.token) as client:
            reply = client.post(body, headers={**LEAKS, **headers, "x-ccm-provider": provider})
        (seen,) = self.up.seen(f"/{provider}/")[before:]
        return reply, seen


def question(tier: str = "sonnet", stream: bool = True, **more: Any) -> dict[str, Any]:
    """A turn of an agent: a system prompt, a tool, an earlier call with its result."""
    history = [
        {"role": "user", "content": "What is in the file?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_01ABC", "name": "Read", "input": {"path": "/a"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01ABC", "content": "nothing"}]},
    ]  # fmt: skip
    model = bundled_rows()["anthropic"].tiers[tier]
    fields = {"model": model, "system": "Be brief.", "tools": [TOOL], "messages": history, **more}
    return message("x", stream, **fields)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """All rows at once in one configuration, one ccm, one upstream."""
    directory = tmp_path_factory.mktemp("catalogue")
    env = {case.env: case.key for case in CASES if case.key}
    snapshot = loaded(directory, "\n".join(map(table, CASES)), env)
    with Upstream() as up:
        for case in CASES:
            up.always(f"/{case.name}", answer)
        with Inside(moved(snapshot, up), models.bundled(), env) as inside:
            yield Bench(up, inside, snapshot)


def operation(case: Case, model: str, stream: bool) -> str:
    """The path behind the base URL, as the APIs document it."""
    if (case.row, case.dialect) == ("vertex", "anthropic"):
        return f"/models/{model}:{'streamRawPredict' if stream else 'rawPredict'}"
    if case.dialect == "gemini":
        return f"/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
    if case.dialect == "bedrock":
        claude = "claude" in model
        verb = ("invoke-with-response-stream", "converse-stream") if stream else ("invoke", "converse")
        return f"/model/{quote(model, safe='')}/{verb[0 if claude else 1]}"
    return {
        "anthropic": "/v1/messages",
        "openai_chat": "/chat/completions",
        "openai_responses": "/responses",
    }[case.dialect]


def key_headers(case: Case) -> dict[str, str]:
    """Which headers carry the key, and how."""
    if not case.key:
        return {}
    bearer = {"authorization": f"Bearer {case.key}"}
    return {
        "x-api-key": {"x-api-key": case.key},
        "api-key": {"api-key": case.key},
        "x-goog-api-key": {"x-goog-api-key": case.key},
        "azure": {"api-key": case.key, **({"x-api-key": case.key} if case.dialect == "anthropic" else {})},
    }.get(case.endpoint.auth, bearer)


def check_request(case: Case, seen: Seen, bench: Bench, tier: str, stream: bool) -> None:
    model = case.tier(tier)
    base = urlsplit(bench.snapshot.providers[case.name].base_url).path
    assert seen.method == "POST"
    assert seen.path == f"/{case.name}{base}{operation(case, model, stream)}"
    in_path = case.dialect in ("gemini", "bedrock") or (case.row, case.dialect) == ("vertex", "anthropic")
    assert seen.json.get("model") == (None if in_path else model)
    # the key, there and nowhere else
    keys = key_headers(case)
    assert {k: v for k, v in seen.headers.items() if k in keys} == keys
    if case.key:
        assert sum(v.count(case.key) for v in seen.headers.values()) == len(keys)
        assert case.key not in seen.path and case.key.encode() not in seen.raw
    # what the row and the dialect want, and nothing of the client's
    wanted = {k.lower(): v for k, v in bundled_rows()[case.row].headers.items()}
    assert {k: seen.headers.get(k) for k in wanted} == wanted
    allowed = ALWAYS | keys.keys() | wanted.keys()
    if case.dialect == "anthropic":
        allowed |= {"anthropic-version", "anthropic-beta"}
        assert "claude-code-20250219" in seen.headers["anthropic-beta"]
        if case.row != "vertex":
            assert seen.headers["anthropic-version"] == "2023-06-01"
    assert set(seen.headers) <= allowed, "a header too many"
    told = json.dumps(seen.headers) + seen.raw.decode()
    assert "LEAK" not in told and bench.inside.token not in told and "10.9.8.7" not in told
    assert seen.headers["user-agent"] == "claude-code-mux"
    if case.dialect in ("anthropic", "openai_chat", "openai_responses"):
        assert bool(seen.json.get("stream")) == stream


def check_answer(case: Case, reply: Reply, stream: bool) -> None:
    assert reply.status == 200, reply.body
    blocks = folded(reply) if stream else reply.json()["content"]
    assert [b["text"] for b in blocks if b["type"] == "text"] == [TEXT]
    if "tools" in case.endpoint.abilities:
        (call,) = [b for b in blocks if b["type"] == "tool_use"]
        assert (call["name"], call["input"]) == (CALL["name"], CALL["input"])


def folded(reply: Reply) -> list[dict[str, Any]]:
    """The blocks of a streamed answer, put together by hand."""
    blocks: list[dict[str, Any]] = []
    for event in reply.events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            blocks[event["index"]]["json"] += delta.get("partial_json", "")
            if delta["type"] == "text_delta":
                blocks[event["index"]]["text"] += delta["text"]
    assert reply.events[-1]["type"] == "message_stop"
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"])
    return blocks


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_address_of_every_row(case: Case, stream: bool, bench: Bench) -> None:
    reply, seen = bench.ask(case.name, question(stream=stream))
    check_request(case, seen, bench, "sonnet", stream)
    check_answer(case, reply, stream)
    offered = json.dumps(seen.json)
    assert ('"Read"' in offered and "Reads a file." in offered) == ("tools" in case.endpoint.abilities)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_tier_reaches_its_model(case: Case, bench: Bench) -> None:
    for tier in TIERS:
        reply, seen = bench.ask(case.name, question(tier))
        assert reply.status == 200
        check_request(case, seen, bench, tier, True)


@pytest.mark.parametrize(("row", "dialect"), sorted(DOCUMENTED))
def test_the_addresses_are_the_documented_ones(row: str, dialect: str, bench: Bench) -> None:
    case = next(c for c in CASES if (c.row, c.dialect) == (row, dialect))
    _, seen = bench.ask(case.name, question())
    real = urlsplit(bench.snapshot.providers[case.name].base_url)
    assert (
        f"{real.scheme}://{real.netloc}" + seen.path.removeprefix(f"/{case.name}") == DOCUMENTED[row, dialect]
    )


@pytest.mark.parametrize("name", sorted(KEY_GOES_IN))
def test_the_key_goes_where_the_documentation_says(name: str, bench: Bench) -> None:
    _, seen = bench.ask(name, question())
    known = {"authorization", "x-api-key", "api-key", "x-goog-api-key"}
    assert known & set(seen.headers) == KEY_GOES_IN[name]


def test_there_are_enough_rows_and_each_says_what_it_cannot() -> None:
    assert len(bundled_rows()) >= 35
    for row in bundled_rows().values():
        for endpoint in row.endpoints:
            tools = "tools" in endpoint.abilities
            if endpoint.tiers:
                assert tools and set(endpoint.tiers) >= set(TIERS), row.name
            elif not tools:
                assert "take no tools" in row.note and "can't work with it" in row.note, row.name
            else:
                assert "map them" in row.note or "dialect" in row.note or row.tiers, row.name
        if not row.tiers:
            assert "no tier" in row.note, f"{row.name}: why can it not serve a tier?"


def test_a_provider_without_tools_is_passed_over_where_tools_are_wanted(tmp_path: Path) -> None:
    env = {"KEY": "k3y-0123456789abcdefghij"}
    text = (
        '[providers.perplexity]\napi_key_env = "KEY"\npriority = 1\n[providers.perplexity.models]\n"*" = "sonar-pro"\n'
        '[providers.groq]\napi_key_env = "KEY"\npriority = 2\n'
    )
    with Upstream() as up:
        snapshot = moved(loaded(tmp_path, text, env), up)
        with Inside(snapshot, models.bundled(), env) as inside:
            url = f"http://127.0.0.1:{inside.port}"
            with Client(url, token=inside.token) as client:
                client.post(question())
                client.post(message("no tools here"))
        assert [len(up.seen(f"/{name}/")) for name in ("groq", "perplexity")] == [1, 1]
        assert up.seen("/perplexity/")[0].json["model"] == "sonar-pro"
        assert "tools" not in up.seen("/perplexity/")[0].json


# ---- what a cloud does besides


def test_azures_classic_address(tmp_path: Path) -> None:
    env = {"KEY": "k3y-0123456789abcdefghij"}
    text = (
        '[providers.azure]\nresource = "myres"\napi_key_env = "KEY"\napi_version = "2024-10-21"\n'
        'models = { default = "my deployment/1" }\n'.replace("my deployment", "my-deployment")
    )
    snapshot = loaded(tmp_path, text, env)
    assert snapshot.providers["azure"].base_url == "https://myres.openai.azure.com/openai"
    with Upstream() as up, Inside(moved(snapshot, up), models.bundled(), env) as inside:
        reply, seen = Bench(up, inside, snapshot).ask("azure", question())
    assert reply.status == 200
    assert seen.path == "/azure/openai/deployments/my-deployment%2F1/chat/completions?api-version=2024-10-21"
    assert seen.headers["api-key"] == env["KEY"]


def test_azure_takes_an_entra_token_as_bearer(tmp_path: Path) -> None:
    env = {"KEY": "eyJhbGciOiJub25l.eyJzdWIiOiJtZSJ9.c2ln"}
    text = '[providers.azure-foundry]\nresource = "myres"\napi_key_env = "KEY"\n'
    snapshot = loaded(tmp_path, text, env)
    with Upstream() as up, Inside(moved(snapshot, up), models.bundled(), env) as inside:
        _, seen = Bench(up, inside, snapshot).ask("azure-foundry", question())
    assert seen.headers["authorization"] == f"Bearer {env['KEY']}"
    assert "api-key" not in seen.headers and "x-api-key" not in seen.headers


def test_bedrock_signs_where_there_is_no_bearer_key(tmp_path: Path) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE0123456",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "eu-west-1",
    }
    snapshot = loaded(tmp_path, "[providers.bedrock]\n", env)
    with Upstream() as up, Inside(moved(snapshot, up), models.bundled(), env) as inside:
        up.always("/bedrock", answer)
        reply, seen = Bench(up, inside, snapshot).ask("bedrock", question())
    assert reply.status == 200
    assert re.match(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE0123456/\d{8}/eu-west-1/bedrock/aws4_request, ",
        seen.headers["authorization"],
    )
    assert env["AWS_SECRET_ACCESS_KEY"] not in json.dumps(seen.headers) + seen.raw.decode()
    assert seen.json["anthropic_version"] == "bedrock-2023-05-31" and "stream" not in seen.json


# ---- deviations that rows have by their type


ROW_QUIRKS: list[tuple[str, dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ("mistral.openai_chat", {"tool_choice": {"type": "any"}}, lambda b: b["tool_choice"] == "any"),
    ("mistral.openai_chat", {}, lambda b: re.fullmatch("[A-Za-z0-9]{9}", b["messages"][-1]["tool_call_id"]) is not None),
    ("mistral.openai_chat", {}, lambda b: "stream_options" not in b),
    ("groq.openai_chat", {}, lambda b: b["stream_options"] == {"include_usage": True}),
    ("groq.openai_chat", {"tool_choice": {"type": "any"}}, lambda b: b["tool_choice"] == "required"),
    ("openai.openai_chat", {"temperature": 0.5}, lambda b: "max_completion_tokens" in b and "temperature" not in b),
    ("openai.openai_chat", {}, lambda b: b["messages"][0]["role"] == "developer"),
    ("openai.openai_responses", {}, lambda b: b["store"] is False and "reasoning.encrypted_content" in b["include"]),
    ("openrouter.openai_chat", {"top_k": 7}, lambda b: b["top_k"] == 7),
    ("together.openai_chat", {"top_k": 7}, lambda b: b["top_k"] == 7),
    ("nvidia.openai_chat", {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, lambda b: "parallel_tool_calls" not in b),
    ("perplexity.openai_chat", {}, lambda b: "tools" not in b and [m["role"] for m in b["messages"]][1:] in (["user", "assistant", "user"], ["user"])),
    ("google.gemini", {}, lambda b: b["tools"][0]["functionDeclarations"][0]["name"] == "Read"),
    ("vertex.anthropic", {}, lambda b: b["anthropic_version"] == "vertex-2023-10-16" and b["stream"] is True),
    ("bedrock.bedrock", {}, lambda b: b["anthropic_version"] == "bedrock-2023-05-31"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "more", "holds"), ROW_QUIRKS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_a_type_of_provider_wants_differently(
    provider: str, more: dict[str, Any], holds: Callable[[dict[str, Any]], bool], bench: Bench
) -> None:
    reply, seen = bench.ask(provider, question(**more))
    assert reply.status == 200 and holds(seen.json), seen.json


def test_a_rows_header_wins_over_the_clients(bench: Bench) -> None:
    _, seen = bench.ask("zenmux.anthropic", question(), **{"anthropic-version": "2026-10-21"})
    assert seen.headers["anthropic-version"] == "2023-06-01"
    _, seen = bench.ask("anthropic.anthropic", question(), **{"anthropic-version": "2026-10-21"})
    assert seen.headers["anthropic-version"] == "2026-10-21"


# ---- deviations that a configuration names


PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK"},
}
SCHEMA = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}}  # fmt: skip
CHOICE = {"tool_choice": {"type": "tool", "name": "Read", "disable_parallel_tool_use": True}}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 9000}
AFTER_TOOL = [
    *question()["messages"][:2],
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_01ABC", "content": "nothing"},
            {"type": "text", "text": "Go on."},
        ],
    },
]
SYSTEM_LATE = [*question()["messages"], {"role": "system", "content": "Mind this."}]
LONG_ID = "toolu_" + "x" * 60
LONG_IDS = json.loads(json.dumps(question()["messages"]).replace("toolu_01ABC", LONG_ID))
TWO_USERS = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
MARKED = [
    {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}
]

Holds = Callable[[dict[str, Any]], Any]


def roles(body: dict[str, Any]) -> list[str]:
    return [m["role"] for m in body["messages"]]


# quirk -> (what the request has besides, what holds of the provider's request with the quirk and not without it)
ASKED: dict[str, tuple[dict[str, Any], Holds]] = {
    "no_stream_options": ({}, lambda b: "stream_options" not in b),
    "no_system_role": ({}, lambda b: "system" not in roles(b) and "Be brief." in json.dumps(b)),
    "developer_role": ({}, lambda b: roles(b)[0] == "developer"),
    "keep_system": ({"messages": SYSTEM_LATE}, lambda b: roles(b)[-1] == "system"),
    "max_completion_tokens": ({}, lambda b: b.get("max_completion_tokens") == 256 and "max_tokens" not in b),
    "no_sampling": ({"temperature": 0.5, "top_p": 0.5}, lambda b: not b.keys() & {"temperature", "top_p"}),
    "no_stop": ({"stop_sequences": ["END"]}, lambda b: "stop" not in b),
    "top_k": ({"top_k": 7}, lambda b: b.get("top_k") == 7),
    "no_tools": ({}, lambda b: "tools" not in b),
    "no_forced_tool": (CHOICE, lambda b: b.get("tool_choice") in (None, "auto")),
    "no_parallel": (CHOICE, lambda b: "parallel_tool_calls" not in b),
    "no_json_schema": ({"output_config": {"format": SCHEMA}}, lambda b: b["response_format"] == {"type": "json_object"}),
    "no_effort": (THINK, lambda b: "reasoning_effort" not in b),
    "enable_thinking": (THINK, lambda b: b.get("enable_thinking") is True),
    "template_thinking": (THINK, lambda b: b.get("chat_template_kwargs")),
    "bridge_after_tool": ({"messages": AFTER_TOOL}, lambda b: roles(b)[-3:] == ["tool", "assistant", "user"]),
    "alternate": ({"messages": TWO_USERS}, lambda b: roles(b) == ["user"]),
    "nine_char_ids": ({}, lambda b: re.fullmatch("[A-Za-z0-9]{9}", b["messages"][-1]["tool_call_id"])),
    "short_ids": ({"messages": LONG_IDS}, lambda b: len(b["messages"][-1]["tool_call_id"]) <= 40),
    "pdf": ({"messages": [{"role": "user", "content": [PDF]}]}, lambda b: '"file"' in json.dumps(b)),
    "cache_control": ({"messages": MARKED}, lambda b: "ephemeral" in json.dumps(b)),
    "prompt_cache_key": ({"metadata": {"user_id": "user_1_account__session_0a1b2c3d-0000-4000-8000-000000000000"}}, lambda b: b.get("prompt_cache_key")),
}  # fmt: skip
# Quirks that only show where the type of the provider says otherwise: (type, dialect, request, holds).
TYPED: dict[str, tuple[str, str, dict[str, Any], Holds]] = {
    "fold_system": (
        "openai",
        "openai_chat",
        {"messages": SYSTEM_LATE},
        lambda b: "system" not in roles(b)[1:],
    ),
    "max_tokens": ("openai", "openai_chat", {}, lambda b: b.get("max_tokens") == 256),
    "no_reasoning_replay": (
        "deepseek",
        "openai_chat",
        THINK,
        lambda b: "reasoning_content" not in json.dumps(b),
    ),
    "reasoning_content": ("custom", "openai_chat", THINK, lambda b: "reasoning_content" in json.dumps(b)),
    "openapi_schema": ("google", "gemini", {}, lambda b: '"parameters"' in json.dumps(b)),
}
HISTORY = [
    {"role": "user", "content": "q"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I should read.", "signature": ""},
            {"type": "tool_use", "id": "toolu_01ABC", "name": "Read", "input": {"path": "/a"}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_01ABC", "content": "nothing"}],
    },
]
# What a quirk needs in order to show: a model of a certain kind, or another quirk on both sides.
MODEL = {"max_tokens": "gpt-5", "no_effort": "gpt-oss-120b"}
BESIDE = {"alternate": ["no_system_role"]}
# Quirks of the way back, and of the address.
OTHERS = {"think_tags", "lenient_end", "bedrock_converse"}


@pytest.fixture(scope="module")
def quirky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two providers for each quirk, alike but for it."""
    text = ""
    fields: dict[str, Any]
    for quirk in QUIRKS:
        kind, dialect = TYPED[quirk][:2] if quirk in TYPED else ("custom", "openai_chat")
        if quirk == "bedrock_converse":
            kind, dialect = "custom", "bedrock"
        beside = BESIDE.get(quirk, [])
        for name, words in (("with", [quirk, *beside]), ("without", beside)):
            fields = {"type": kind, "dialect": dialect, "api_key_env": "KEY"}
            fields["models"] = {"default": MODEL.get(quirk, "some-model")}
            fields |= {"quirks": words} if words else {}
            fields["base_url"] = "https://llm.example.com"
            if quirk == "bedrock_converse":
                fields["models"] = {"default": "anthropic.claude-sonnet-4-5-20250929-v1:0"}
            text += f'[providers."{name}.{quirk}"]\n' + "".join(
                f"{k} = {toml(v)}\n" for k, v in fields.items()
            )
    env = {"KEY": "k3y-0123456789abcdefghij"}
    snapshot = loaded(tmp_path_factory.mktemp("quirks"), text, env)
    with Upstream() as up, Inside(moved(snapshot, up), models.bundled(), env) as inside:
        for name in snapshot.providers:
            up.always(f"/{name}", answer)
        yield Bench(up, inside, snapshot)


def test_every_quirk_is_tried() -> None:
    assert set(ASKED) | set(TYPED) | OTHERS == set(QUIRKS)


@pytest.mark.parametrize("quirk", sorted({*ASKED, *TYPED}))
def test_a_configured_quirk_changes_what_is_sent(quirk: str, quirky: Bench) -> None:
    more, holds = ASKED[quirk] if quirk in ASKED else TYPED[quirk][2:]
    if quirk in ("no_reasoning_replay", "reasoning_content"):
        more = {**more, "messages": HISTORY}
    sent = {}
    for name in ("with", "without"):
        reply, seen = quirky.ask(f"{name}.{quirk}", question(**more))
        assert reply.status == 200, reply.body
        sent[name] = seen.json
    assert holds(sent["with"]), sent["with"]
    assert not holds(sent["without"]), "the quirk would change nothing"


def test_claude_by_converse(quirky: Bench) -> None:
    for name, verb in (("with", "converse-stream"), ("without", "invoke-with-response-stream")):
        reply, seen = quirky.ask(f"{name}.bedrock_converse", question())
        assert seen.path.endswith(f"/{verb}")
        assert [b["input"] for b in folded(reply) if b["type"] == "tool_use"] == [CALL["input"]]


def test_thinking_in_tags(quirky: Bench) -> None:
    for name, kinds in (("with", ["thinking", "text"]), ("without", ["text"])):
        quirky.up.script(f"/{name}.think_tags", [("answer", {"text": "<think>hm</think>yes"})])
        reply, _ = quirky.ask(f"{name}.think_tags", question())
        assert [b["type"] for b in folded(reply)] == kinds


def test_a_stream_that_just_ends(quirky: Bench) -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": None}]
    for name, last in (("with", "message_stop"), ("without", "error")):
        quirky.up.script(f"/{name}.lenient_end", [("head",), ("event", chunk)])
        reply, _ = quirky.ask(f"{name}.lenient_end", question())
        assert reply.events[-1]["type"] == last


# ---- one table and no code


def test_adding_a_provider_takes_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = """
[newcomer]
display = "Newcomer AI"
aliases = ["nc"]
auth = "api-key"
env = ["NEWCOMER_API_KEY"]
endpoints = [{ dialect = "openai_chat", base_url = "https://api.newcomer.example/compat/v2" }]
headers = { "X-Caller" = "ccm" }
abilities = ["tools"]
quirks = ["no_stream_options"]
tiers = { opus = "big-1", sonnet = "big-1", haiku = "small-1", fable = "big-1", default = "big-1" }
"""
    with_it = load_rows(bundled_text("providers.toml") + new)
    monkeypatch.setattr(rows, "bundled_rows", lambda: with_it)
    monkeypatch.setattr(
        rows, "_aliases", lambda: {a: name for name, row in with_it.items() for a in row.aliases}
    )
    env = {"NEWCOMER_API_KEY": "k3y-0123456789abcdefghij"}
    snapshot = loaded(tmp_path, "[providers.nc]\n", env)
    assert snapshot.providers["nc"].base_url == "https://api.newcomer.example/compat/v2"
    with Upstream() as up, Inside(moved(snapshot, up), models.bundled(), env) as inside:
        up.always("/nc", answer)
        reply, seen = Bench(up, inside, snapshot).ask("nc", question("haiku"))
    assert (seen.path, seen.json["model"]) == ("/nc/compat/v2/chat/completions", "small-1")
    assert (seen.headers["api-key"], seen.headers["x-caller"]) == (env["NEWCOMER_API_KEY"], "ccm")
    assert "stream_options" not in seen.json
    assert [b["input"] for b in folded(reply) if b["type"] == "tool_use"] == [CALL["input"]]
