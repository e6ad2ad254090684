"""Refusals that say what would help: repaired once at the same provider, remembered, and the next request sent right.

Through a running ccm. The upstream's first answer is a provider's real error body (tests/data/repair), its second a good
one; a second provider stands by and must never be asked.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Reply, message, post
from tests.upstream import Seen, Upstream

DATA = Path(__file__).resolve().parents[1] / "data" / "repair"
FILES = {
    name: json.loads((DATA / f"{name}.json").read_text())
    for name in ("anthropic", "openai_chat", "gemini", "openai_responses")
}
RICH = json.loads((DATA / "request.json").read_text())
TEXT = "Repaired: ünïcödé."
BETAS = "context-management-2025-06-27,effort-2025-11-24"
_models = itertools.count(1)


@pytest.fixture
def ccm(up: Upstream, shared_gateway: Callable[..., Gateway]) -> Callable[[str], Gateway]:
    def start(dialect: str) -> Gateway:
        config = providers(up, "a", "b", dialect=dialect)
        gw = shared_gateway(dialect, config)
        up.reset()
        gw.reset()
        up.always("/a", ("answer", {"text": TEXT}))
        up.always("/b", ("answer", {"text": "from the wrong provider"}))
        return gw

    return start


def fresh_model() -> str:
    """A model of its own for every test: what is learned of it is nobody else's."""
    return f"model-{next(_models)}"


def body_of(dialect: str, part: str) -> Any:
    """A recorded or documented error body of the table, by its text."""
    return next(
        c["body"] for c in FILES[dialect]["cases"] if part in json.dumps(c["body"], ensure_ascii=False)
    )


def refuse(up: Upstream, body: Any, status: int = 400, times: int = 1) -> None:
    up.script("/a", *([("status", status, {}, body)] for _ in range(times)))


def check(reply: Reply, stream: bool = True) -> None:
    assert (reply.status, reply.ended) == (200, True), reply.body[:400]
    assert reply.text == TEXT
    assert reply.headers["x-ccm-provider"] == "a"
    assert reply.headers["x-ccm-attempts"] == "a=200", "one attempt: a repair is no failure"
    if stream:
        grammar.check(reply.events)


def ask(gw: Gateway, model: str, stream: bool = True, **fields: Any) -> Reply:
    headers = fields.pop("headers", {})
    return post(gw.base_url, message(stream=stream, **({"model": model} | fields)), headers=headers)


def healthy(gw: Gateway) -> None:
    rows = json.loads(gw.ctl("providers", "--json", check=True).stdout)
    told = json.dumps(rows)
    assert '"a"' in told
    assert not any(word in told for word in ('"open"', '"half-open"', '"cooling"')), told


# (dialect, part of the error, request fields, what the second body must (not) have, part of x-ccm-loss or "" for none)
Test = Callable[[Seen], bool]
LEARNED: dict[str, tuple[str, str, dict[str, Any], Test, str]] = {
    "max_completion_tokens": (
        "openai_chat", "Use 'max_completion_tokens'", {},
        lambda s: "max_tokens" not in s.json and s.json["max_completion_tokens"] == 256, ""),
    "temperature": (
        "openai_chat", "'temperature' does not support", {"temperature": 0.2}, lambda s: "temperature" not in s.json, "temperature=dropped"),
    "stop": (
        "openai_chat", "'stop' is not supported", {"stop_sequences": ["@@"]}, lambda s: "stop" not in s.json, ""),
    "stream_options": (
        "openai_chat", "argument supplied: stream_options", {}, lambda s: "stream_options" not in s.json, "usage=dropped"),
    "cap": (
        "openai_chat", "at most 16384", {"max_tokens": 64000}, lambda s: s.json["max_tokens"] == 16384, "max_tokens=approximated"),
    "several": (
        "openai_chat", "top_k", {"top_p": 0.5, "temperature": 0.5}, lambda s: "top_p" not in s.json and "temperature" in s.json, "top_p=dropped"),
    "thinking-form": (
        "anthropic", "adaptive thinking is not supported", {"thinking": {"type": "adaptive"}, "max_tokens": 8000},
        lambda s: s.json["thinking"] == {"type": "enabled", "budget_tokens": 7999}, "thinking=approximated"),
    "effort-level": (
        "anthropic", "does not support effort level", {"output_config": {"effort": "xhigh"}, "thinking": {"type": "adaptive"}},
        lambda s: s.json["output_config"] == {"effort": "high"}, "output_config.effort=approximated"),
    "context_management": (
        "anthropic", "context_management: Extra", {"context_management": RICH["context_management"]},
        lambda s: "context_management" not in s.json and s.headers["anthropic-beta"] == "effort-2025-11-24", "context_management=dropped"),
    "beta": (
        "anthropic", "Unexpected value(s)", {"context_management": RICH["context_management"]},
        lambda s: "context_management" not in s.json and s.headers["anthropic-beta"] == "effort-2025-11-24", "beta.context-management=dropped"),
    "cache_control": (
        "anthropic", "system.0.cache_control: Extra", {"system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]},
        lambda s: b"cache_control" not in s.raw, "cache_control=dropped"),
    "role-system": (
        "anthropic", "messages.1.role", {"messages": [{"role": "user", "content": "q"}, {"role": "system", "content": "Note."}]},
        lambda s: [m["role"] for m in s.json["messages"]] == ["user"] and b"system-reminder" in s.raw, "messages.role.system=approximated"),
    "defer_loading": (
        "anthropic", "defer_loading", {"tools": RICH["tools"][:2]}, lambda s: b"defer_loading" not in s.raw and len(s.json["tools"]) == 2,
        "tools.defer_loading=dropped"),
    "max_tokens": (
        "anthropic", "64000 > 32000", {"max_tokens": 64000}, lambda s: s.json["max_tokens"] == 32000, "max_tokens=approximated"),
    "gemini-schema": (
        "gemini", "parametersJsonSchema", {"tools": RICH["tools"][:1]},
        lambda s: "parameters" in s.json["tools"][0]["functionDeclarations"][0], ""),
    "gemini-cap": (
        "gemini", "maxOutputTokens", {"max_tokens": 64000}, lambda s: s.json["generationConfig"]["maxOutputTokens"] == 8192, "max_tokens=approximated"),
    "responses-temperature": (
        "openai_responses", "'temperature' is not supported", {"temperature": 0.3}, lambda s: "temperature" not in s.json, "temperature=dropped"),
    "images": (
        "openai_chat", "image input is not supported", {"messages": [{"role": "user", "content": RICH["messages"][0]["content"]}]},
        lambda s: b"image omitted: model" in s.raw and b"image_url" not in s.raw, "image=dropped"),
}  # fmt: skip


# stream_options are not sent without streaming
HOW = [(n, s) for n in LEARNED for s in (True, False) if s or n != "stream_options"]


@pytest.mark.parametrize(("name", "stream"), HOW, ids=[f"{n}-{'stream' if s else 'json'}" for n, s in HOW])
def test_repaired_once_then_known(
    name: str, stream: bool, up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    dialect, part, fields, adapted, loss = LEARNED[name]
    if name == "several":
        dialect_body: Any = {"detail": [{"type": "extra_forbidden", "loc": ["body", f], "msg": "Extra inputs are not permitted"} for f in ("top_p", "top_k")]}  # fmt: skip
    else:
        dialect_body = body_of(dialect, part)
    gw, model = ccm(dialect), fresh_model()
    fields = {"headers": {"anthropic-beta": BETAS}, **fields}
    refuse(up, dialect_body, 500 if name == "images" else 422 if name == "several" else 400)
    first = ask(gw, model, stream, **fields)
    check(first, stream)
    seen = up.seen("/a")
    assert len(seen) == 2 and not adapted(seen[0]) and adapted(seen[1]), seen[1].json
    assert loss in first.headers.get("x-ccm-loss", "")
    assert "x-ccm-repair" in first.headers

    second = ask(gw, model, stream, **fields)
    check(second, stream)
    seen = up.seen("/a")
    assert len(seen) == 3 and adapted(seen[2]), "adapted before it was sent"
    assert loss in second.headers.get("x-ccm-loss", "")
    assert second.headers["x-ccm-repair"] == first.headers["x-ccm-repair"]
    assert up.seen("/b") == []

    other = ask(gw, fresh_model(), stream, **fields)
    check(other, stream)
    assert not adapted(up.seen("/a")[3]), "what was learned is that model's alone"
    assert "x-ccm-repair" not in other.headers


def test_a_repair_leaves_the_health_as_it_was(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    gw = ccm("openai_chat")
    for _ in range(12):  # more than any breaker lets pass
        refuse(up, body_of("openai_chat", "'temperature' does not support"))
        check(ask(gw, fresh_model(), temperature=0.2))
    healthy(gw)
    assert len(up.seen("/a")) == 24 and up.seen("/b") == []


def test_a_foreign_signature_is_this_conversations_affair(
    up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    gw, model = ccm("anthropic"), fresh_model()
    history = {"messages": [*RICH["messages"][:1], *RICH["messages"][2:]]}
    refuse(up, body_of("anthropic", "Invalid `signature`"))
    reply = ask(gw, model, **history)
    check(reply)
    seen = up.seen("/a")
    assert len(seen) == 2 and b'"signature"' in seen[0].raw and b'"signature"' not in seen[1].raw
    assert [b["type"] for b in seen[1].json["messages"][1]["content"]] == ["text", "tool_use"]
    assert "thinking=dropped" in reply.headers["x-ccm-loss"]
    check(ask(gw, model, **history))
    assert b'"signature"' in up.seen("/a")[2].raw, (
        "another conversation's thinking may well be the provider's own"
    )
    healthy(gw)


def test_prompt_and_answer_too_long_together(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    """Lowered for this request only: the next prompt has another length."""
    gw, model = ccm("openai_chat"), fresh_model()
    refuse(up, body_of("openai_chat", "64000 in the completion"))
    check(ask(gw, model, max_tokens=64000))
    check(ask(gw, model, max_tokens=64000))
    assert [s.json["max_tokens"] for s in up.seen("/a")] == [64000, 60520, 64000]


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat", "gemini"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
def test_an_unknown_refusal_goes_to_the_client_at_once(
    dialect: str, stream: bool, up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    gw = ccm(dialect)
    body = answers.error(dialect, 400, "messages.0: the moon is in the wrong phase")
    up.always("/a", ("status", 400, {}, body))
    reply = ask(gw, fresh_model(), stream, temperature=0.5)
    assert reply.status == 400 and reply.error["type"] == "invalid_request_error"
    assert reply.error["message"] == "messages.0: the moon is in the wrong phase"
    if dialect == "anthropic":
        assert reply.json() == body, "unchanged: its wording is what Claude Code looks for"
    assert len(up.seen("/a")) == 1 and up.seen("/b") == []
    healthy(gw)


def test_claude_codes_own_overflow_wording_is_left_to_it(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    gw = ccm("anthropic")
    body = body_of("anthropic", "exceed context limit")
    up.always("/a", ("status", 400, {}, body))
    reply = ask(gw, fresh_model(), max_tokens=64000)
    assert (reply.status, reply.json()) == (400, body)
    assert len(up.seen("/a")) == 1


def test_one_repair_at_a_time_and_each_is_kept(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    """A model that refuses two things: the client sees the second refusal once, then all is known."""
    gw, model = ccm("openai_chat"), fresh_model()
    limit, heat = (
        body_of("openai_chat", "Use 'max_completion_tokens'"),
        body_of("openai_chat", "'temperature' does not support"),
    )
    refuse(up, limit)
    refuse(up, heat)
    reply = ask(gw, model, temperature=0.2)
    assert reply.status == 400 and "temperature" in reply.error["message"]
    assert len(up.seen("/a")) == 2, "never more than one corrected repetition"
    refuse(up, heat)
    check(ask(gw, model, temperature=0.2))
    check(ask(gw, model, temperature=0.2))
    kept = [
        sorted(s.json.keys() & {"max_tokens", "max_completion_tokens", "temperature"}) for s in up.seen("/a")
    ]
    assert kept == [
        ["max_tokens", "temperature"], ["max_completion_tokens", "temperature"],
        ["max_completion_tokens", "temperature"], ["max_completion_tokens"], ["max_completion_tokens"],
    ]  # fmt: skip


def test_a_repair_that_does_not_help_is_not_kept(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    gw, model = ccm("openai_chat"), fresh_model()
    refuse(up, body_of("openai_chat", "'temperature' does not support"), times=2)
    reply = ask(gw, model, temperature=0.2)
    assert reply.status == 400 and "temperature" in reply.error["message"]
    check(ask(gw, model, temperature=0.2))
    assert ["temperature" in s.json for s in up.seen("/a")] == [True, False, True]


def test_what_fails_after_the_repair_is_a_failure_like_any_other(
    up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    """529 at the corrected repetition: the next provider answers."""
    gw = ccm("openai_chat")
    refuse(up, body_of("openai_chat", "'temperature' does not support"))
    up.script("/a", ("status", 429, {"retry-after": "30"}, answers.error("openai_chat", 429, "slow down")))
    reply = ask(gw, fresh_model(), temperature=0.2)
    assert (reply.status, reply.headers["x-ccm-provider"]) == (200, "b")
    assert len(up.seen("/a")) == 2 and up.seen("/b")[0].json["temperature"] == 0.2, "the repair is a's alone"


def test_a_refusal_inside_a_stream_is_repaired_too(up: Upstream, ccm: Callable[[str], Gateway]) -> None:
    gw, model = ccm("openai_chat"), fresh_model()
    body = body_of("openai_chat", "'temperature' does not support")
    body = {"error": {**body["error"], "code": 400}}
    up.script("/a", [("head",), ("event", json.loads(json.dumps(body)))])
    check(ask(gw, model, temperature=0.2))
    check(ask(gw, model, temperature=0.2))
    assert ["temperature" in s.json for s in up.seen("/a")] == [True, False, False]


def test_a_provider_that_only_streams_and_one_that_never_does(
    up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    gw = ccm("openai_responses")
    refuse(up, body_of("openai_responses", "Stream must be set to true"))
    check(ask(gw, fresh_model(), stream=False), stream=False)
    assert [s.json["stream"] for s in up.seen("/a")] == [False, True]
    gw = ccm("openai_chat")
    refuse(up, body_of("openai_chat", "verified to stream"))
    check(ask(gw, fresh_model()))
    assert [s.json.get("stream", False) for s in up.seen("/a")] == [True, False]


def test_stop_sequences_are_cut_here_once_they_are_refused(
    up: Upstream, ccm: Callable[[str], Gateway]
) -> None:
    for dialect, part in (("anthropic", "stop_sequences: Extra"), ("openai_chat", "'stop' is not supported")):
        gw, model = ccm(dialect), fresh_model()
        refuse(up, body_of(dialect, part))
        up.always("/a", ("answer", {"text": "one @@ two"}))
        for stream in (True, True, False):
            reply = ask(gw, model, stream, stop_sequences=["@@"])
            assert (reply.status, reply.text) == (200, "one "), dialect
        assert len(up.seen("/a")) == 4
