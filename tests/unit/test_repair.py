"""Repairs: an error's text -> the one change that helps, and what that change does to a request.

The table of texts stands in tests/data/repair: one file per dialect, each case an error body and the repair expected of
it (null: none). The request is the same rich one for all, so that "applies only if sent" is tested by what lacks.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects import repair
from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.repair import Repair, paths
from ccm.dialects.repair.actions import ACTIONS
from ccm.dialects.repair.betas import FIELDS
from ccm.dialects.table import DIALECTS
from ccm.model import ModelFacts, ProviderError

DATA = Path(__file__).resolve().parents[1] / "data" / "repair"
RICH: dict[str, Any] = json.loads((DATA / "request.json").read_text())
FILES = {
    path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json")) if path.stem != "request"
}
CASES = [(name, n) for name, file in FILES.items() for n in range(len(file["cases"]))]
BETAS = FILES["anthropic"]["betas"]
# A model of each dialect, with the families that take the most different bodies.
MODELS = {
    "anthropic": "claude-x",
    "openai_chat": "some-model",
    "openai_responses": "gpt-5.2",
    "gemini": "gemini-3-pro",
    "bedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}


def context(dialect: str, **more: Any) -> Context:
    numbers = itertools.count(1)
    more.setdefault("model", MODELS[dialect])
    more.setdefault("facts", ModelFacts("m"))
    more.setdefault("family", f"{dialect}/{'openai' if dialect == 'openai_responses' else 'custom'}")
    more.setdefault("client_headers", {"anthropic-beta": BETAS})
    more.setdefault("stream", True)
    return Context(provider="p", asked_model="x", new_id=lambda p: f"{p}{next(numbers)}", **more)


def error(text: str, status: int = 400, dialect: str = "anthropic") -> ProviderError:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return DIALECTS[dialect].explain(status, {}, json.dumps(body).encode())


def sent_for(request: dict[str, Any], dialect: str, *repairs: Repair, **more: Any) -> Encoded:
    changed, ctx, losses = repair.before(repairs, request, context(dialect, **more))
    encoded = DIALECTS[dialect].encode(changed, ctx)
    repair.after(repairs, encoded, losses)
    return encoded


def rich(**more: Any) -> dict[str, Any]:
    return copy.deepcopy(RICH) | more


def prepared(name: str, case: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the request, what its context differs in) of a case of the table."""
    request = rich(**case.get("with", {}))
    if case.get("gemini_ids"):
        request = json.loads(json.dumps(request).replace("toolu_01A", "g-1"))
    facts = case.get("facts", {})
    known = ModelFacts(
        "m", bool(facts), thinking=facts.get("thinking", ""), efforts=tuple(facts.get("efforts", ()))
    )
    more = {
        "model": case.get("model", FILES[name]["model"]),
        "facts": known,
        "quirks": frozenset(case.get("quirks", ())),
        "stream": bool(request["stream"]),
        "client_headers": {"anthropic-beta": FILES[name].get("betas", "")},
    }
    return request, more


# ---- the table


@pytest.mark.parametrize(("name", "n"), CASES, ids=[f"{name}-{n}" for name, n in CASES])
def test_the_error_leads_to_its_repair(name: str, n: int) -> None:
    case = FILES[name]["cases"][n]
    request, more = prepared(name, case)
    dialect = FILES[name]["dialect"]
    sent = sent_for(request, dialect, **more)
    sent.body = {**sent.body, **case.get("raw", {})}
    refused = DIALECTS[dialect].explain(case.get("status", 400), {}, json.dumps(case["body"]).encode())
    found = repair.find(refused, request, sent, dialect)
    assert (None if found is None else str(found)) == case["repair"], refused.message
    if found is not None:
        assert found.lasting is not case.get("once", False)


@pytest.mark.parametrize(
    ("name", "n"),
    [(n, i) for n, i in CASES if FILES[n]["cases"][i]["repair"] and "raw" not in FILES[n]["cases"][i]],
)
def test_what_is_sent_changes_and_the_clients_request_does_not(name: str, n: int) -> None:
    """ "unchanged": the rich request has nothing that the repair could take; the caller then sends nothing again."""
    case = FILES[name]["cases"][n]
    request, more = prepared(name, case)
    dialect = FILES[name]["dialect"]
    before = copy.deepcopy(request)
    refused = DIALECTS[dialect].explain(case.get("status", 400), {}, json.dumps(case["body"]).encode())
    first = sent_for(request, dialect, **more)
    found = repair.find(refused, request, first, dialect)
    assert found is not None
    changed, ctx, losses = repair.before((found,), request, context(dialect, **more))
    second = DIALECTS[dialect].encode(changed, ctx)
    repair.after((found,), second, losses)
    changed_what_is_sent = (second.body, second.headers, second.path) != (
        first.body,
        first.headers,
        first.path,
    )
    assert changed_what_is_sent is not case.get("unchanged", False)
    if changed_what_is_sent and found.name in (
        "drop",
        "rename",
        "beta",
        "without_media",
        "without_tool",
        "tool_choice",
    ):
        assert repair.find(refused, changed, second, dialect) is None, "the feature is gone"
    assert request == before
    json.dumps(second.body)


def test_nothing_is_repaired_that_was_not_sent() -> None:
    plain = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    for name, file in FILES.items():
        for case in file["cases"]:
            if case.get("raw") or case["repair"] in (
                "rename(max_tokens,max_completion_tokens)",
                "quirk(alternate,fold_system)",
            ):
                continue
            more = prepared(name, case)[1] | {"stream": False, "client_headers": {}}
            if case["repair"] == "streamed_answer":
                more["stream"] = True
            sent = sent_for(plain, file["dialect"], **more)
            for gone in ("include", "safety_identifier", "generationConfig", "max_output_tokens"):
                sent.body.pop(gone, None)
            refused = DIALECTS[file["dialect"]].explain(
                case.get("status", 400), {}, json.dumps(case["body"]).encode()
            )
            found = repair.find(refused, plain, sent, file["dialect"])
            if case["repair"] == "fill_reasoning" or found is None:
                continue
            pytest.fail(f"{refused.message!r} -> {found}")


@pytest.mark.parametrize("status", [200, 401, 403, 413, 429, 500, 503, 529])
def test_other_statuses_are_never_parameters(status: int) -> None:
    sent = sent_for(rich(), "anthropic")
    assert repair.find(error("`top_k` is not supported", status), rich(), sent, "anthropic") is None
    assert repair.find(error("`top_k` is not supported"), rich(), sent, "anthropic") == Repair(
        "drop", ("top_k",)
    )


@pytest.mark.parametrize("text", (DATA / "none.txt").read_text().splitlines())
def test_other_faults_of_a_request_are_left_to_the_caller(text: str) -> None:
    """Values, order and content of what was sent: nothing that a provider or model would not know."""
    for dialect in DIALECTS:
        for model in (MODELS[dialect], "meta.llama3-8b" if dialect == "bedrock" else "m"):
            sent = sent_for(rich(), dialect, model=model)
            for status in (400, 404, 422, 500):
                refused = ProviderError(status, "invalid_request_error", text, body=text.encode())
                assert repair.find(refused, RICH, sent, dialect) is None, (dialect, status)


def test_several_places_of_one_error_are_dropped_at_once() -> None:
    body = {"detail": [{"type": "extra_forbidden", "loc": ["body", f], "msg": "Extra inputs are not permitted"}
                       for f in ("top_p", "stop_sequences", "nowhere")]}  # fmt: skip
    refused = DIALECTS["anthropic"].explain(422, {}, json.dumps(body).encode())
    found = repair.find(refused, rich(), sent_for(rich(), "anthropic"), "anthropic")
    assert found == Repair("drop", ("top_p", "stop_sequences"))


# ---- what repairs do


def texts(node: Any) -> Iterator[str]:
    """Every text and tool a model reads, wherever a dialect puts it: compared as a set before and after."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def test_thinking_becomes_the_other_form() -> None:
    sent = sent_for(rich(), "anthropic", Repair("thinking_form", ("budget",)))
    assert sent.body["thinking"] == {"type": "enabled", "budget_tokens": 32768, "display": "updates"}
    assert "effort" not in sent.body["output_config"]
    back = sent_for(rich(thinking={"type": "enabled", "budget_tokens": 9000}, output_config={}), "anthropic",
                    Repair("thinking_form", ("adaptive",)))  # fmt: skip
    assert (back.body["thinking"], back.body["output_config"]) == ({"type": "adaptive"}, {"effort": "medium"})
    for encoded in (sent, back):
        assert Loss("thinking", "approximated") in encoded.losses


def test_a_budget_stays_below_max_tokens_or_thinking_is_off() -> None:
    form = Repair("thinking_form", ("budget",))
    assert sent_for(rich(max_tokens=5000), "anthropic", form).body["thinking"]["budget_tokens"] == 4999
    assert sent_for(rich(max_tokens=800), "anthropic", form).body["thinking"] == {"type": "disabled"}
    enabled = {"thinking": {"type": "enabled", "budget_tokens": 50_000}}
    assert (
        sent_for(rich(**enabled), "anthropic", Repair("cap", ("8192",))).body["thinking"]["budget_tokens"]
        == 8191
    )
    assert sent_for(rich(**enabled), "anthropic", Repair("cap", ("900",))).body["thinking"] == {
        "type": "disabled"
    }


def test_a_catalogued_form_of_thinking_does_not_turn_the_repair_back() -> None:
    facts = ModelFacts("m", True, thinking="adaptive", efforts=("low", "high"))
    sent = sent_for(rich(), "anthropic", Repair("thinking_form", ("budget",)), facts=facts)
    assert sent.body["thinking"]["type"] == "enabled"


def test_foreign_thinking_is_stripped_and_a_bare_tool_turn_thinks_not() -> None:
    request = rich(thinking={"type": "enabled", "budget_tokens": 2000})
    request["messages"].pop()  # the tool's results alone: the turn is still being answered
    request["messages"].append(
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01A", "content": "r"}]}
    )
    sent = sent_for(request, "anthropic", Repair("strip_thinking"))
    kinds = [b["type"] for m in sent.body["messages"] for b in m["content"] if isinstance(m["content"], list)]
    assert "thinking" not in kinds and "tool_use" in kinds
    assert Loss("thinking") in sent.losses


def test_system_messages_become_reminders_beside_their_place() -> None:
    sent = sent_for(rich(), "anthropic", Repair("system_inline"))
    assert [m["role"] for m in sent.body["messages"]] == ["user", "assistant", "user"]
    assert (
        sent.body["messages"][0]["content"][-1]["text"]
        == "<system-reminder>\nThe date is today.\n</system-reminder>"
    )
    between = rich()["messages"]
    between.insert(3, {"role": "system", "content": "Tools changed."})
    sent = sent_for(rich(messages=between), "anthropic", Repair("system_inline"))
    kinds = [b["type"] for b in sent.body["messages"][2]["content"]]
    assert kinds == ["tool_result", "text", "text"], "never between a call and its result"
    assert "Tools changed." in sent.body["messages"][2]["content"][1]["text"]
    alone = sent_for(
        rich(messages=[{"role": "system", "content": "S"}]), "anthropic", Repair("system_inline")
    )
    assert alone.body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>\nS\n</system-reminder>"}]}
    ]


def test_a_beta_goes_with_its_fields_and_only_those() -> None:
    sent = sent_for(rich(), "anthropic", Repair("beta", ("advanced-tool-use",)))
    assert sent.body["tools"][1] == {
        k: RICH["tools"][1][k] for k in ("name", "description", "input_schema", "cache_control")
    }
    left = sent.headers["anthropic-beta"].split(",")
    assert left == [b for b in BETAS.split(",") if not b.startswith("advanced-tool-use")]
    assert sent.body["context_management"] == RICH["context_management"]
    assert {Loss("beta.advanced-tool-use"), Loss("tools.defer_loading"), Loss("tools.input_examples")} <= set(
        sent.losses
    )


def test_without_any_beta_nothing_of_them_is_left() -> None:
    sent = sent_for(rich(), "anthropic", Repair("beta", ("*",)))
    assert "anthropic-beta" not in sent.headers
    for field in ("context_management", "defer_loading", "scope", "effort", "display"):
        assert not any(field in holder for _, holder in paths.positions(sent.body)), field
    assert sent.body["thinking"] == {"type": "adaptive"}
    assert "format" in sent.body["output_config"], "structured-outputs was not among the betas sent"


def test_cache_control_goes_only_where_it_is_the_apis() -> None:
    sent = sent_for(rich(), "anthropic", Repair("cache", ("",)))
    kept = json.dumps(sent.body).count("cache_control")
    assert kept == 2 == json.dumps([sent.body["messages"][2]["content"][2]["input"], sent.body["tools"][0]["input_schema"]]).count("cache_control")  # fmt: skip
    ttl = sent_for(rich(), "anthropic", Repair("cache", ("ttl",)))
    assert ttl.body["system"][0]["cache_control"] == {"type": "ephemeral", "scope": "global"}
    assert ttl.body["tools"][1]["cache_control"] == {"type": "ephemeral"}


def test_at_most_four_marks_are_left() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": str(n), **mark}]} for n in range(5)]
    sent = sent_for(rich(messages=messages), "anthropic", Repair("cache", ("limit",)))
    marked = ["cache_control" in m["content"][0] for m in sent.body["messages"]]
    assert marked == [False, False, False, True, True]
    assert "cache_control" in sent.body["system"][0] and "cache_control" in sent.body["tools"][1]


def test_images_leave_a_marker() -> None:
    for dialect in DIALECTS:
        sent = sent_for(rich(), dialect, Repair("without_media", ("image",)))
        told = list(texts(sent.body))
        assert sum("image omitted: model" in t for t in told) == 2, dialect
        assert not any("iVBORw0KGgo" in t for t in told), dialect
        assert Loss("image") in sent.losses
    only = sent_for(rich(), "anthropic", Repair("without_media", ("image", "results")))
    assert [json.dumps(m).count("iVBORw0KGgo") for m in only.body["messages"]] == [1, 0, 0, 0]


def test_stop_sequences_that_are_refused_are_cut_here() -> None:
    for dialect, name in (
        ("anthropic", "stop_sequences"),
        ("bedrock", "stop_sequences"),
        ("gemini", "generationConfig.stopSequences"),
    ):
        sent = sent_for(rich(), dialect, Repair("drop", (name,)))
        assert sent.cut == ("END", "STOP"), dialect
        assert Loss("stop_sequences") not in sent.losses
    assert sent_for(rich(), "openai_chat", Repair("quirk", ("no_stop",))).cut == ("END", "STOP")


def test_a_structured_answer_is_asked_for_in_words() -> None:
    for dialect in ("anthropic", "openai_responses", "gemini"):
        sent = sent_for(rich(), dialect, Repair("format_as_text"))
        assert any(
            "Answer only with one JSON value" in t and '"required":["t"]' in t for t in texts(sent.body)
        ), dialect
        assert Loss("output_config.format", "approximated") in sent.losses
    assert sent_for(rich(), "anthropic", Repair("format_as_text")).body["output_config"] == {
        "effort": "xhigh"
    }


def test_a_server_tool_goes_with_its_choice() -> None:
    request = rich(tool_choice={"type": "tool", "name": "web_search"})
    sent = sent_for(request, "anthropic", Repair("without_tool", ("web_search_20250305",)))
    assert [t["name"] for t in sent.body["tools"]] == ["Read", "Rare"] and "tool_choice" not in sent.body


def test_reasoning_is_filled_on_every_assistant_turn() -> None:
    request = rich(
        messages=[
            *RICH["messages"],
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "Thanks."},
        ]
    )
    sent = sent_for(request, "openai_chat", Repair("fill_reasoning"))
    given = [m.get("reasoning_content") for m in sent.body["messages"] if m["role"] == "assistant"]
    assert given[0] == "Hm." and given[1].strip() == "" and given[1], "never an empty string: Kimi refuses it"


def test_gemini_calls_are_signed() -> None:
    old = {"role": "model", "parts": [{"text": "t", "thought": True, "thoughtSignature": "x"}, {"text": "", "thoughtSignature": "y"},
                                      {"functionCall": {"name": "A", "args": {}}, "thoughtSignature": "z"},
                                      {"functionCall": {"name": "B", "args": {}}}]}  # fmt: skip
    sent = Encoded("/", {"contents": [{"role": "user", "parts": [{"text": "q"}]}, old]})
    repair.after((Repair("sign_calls", ("anew",)),), sent)
    calls = sent.body["contents"][1]["parts"]
    assert [p.get("thoughtSignature") for p in calls] == ["skip_thought_signature_validator", None]
    kept = Encoded("/", {"contents": [old]})
    repair.after((Repair("sign_calls"),), kept)
    assert kept.body["contents"] == [old], "what is signed stays"
    bare = Encoded("/", {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "A"}}]}]})
    repair.after((Repair("sign_calls"),), bare)
    assert bare.body["contents"][0]["parts"][0]["thoughtSignature"] == "skip_thought_signature_validator"


def test_whole_and_streamed_answers() -> None:
    assert "stream" not in sent_for(rich(), "openai_chat", Repair("whole_answer")).body
    assert sent_for(rich(), "anthropic", Repair("whole_answer")).body["stream"] is False
    assert sent_for(rich(), "bedrock", Repair("whole_answer")).path.endswith("/invoke")
    assert (
        sent_for(rich(stream=False), "openai_responses", Repair("streamed_answer"), stream=False).body[
            "stream"
        ]
        is True
    )


def test_the_providers_word_outranks_a_configured_quirk() -> None:
    fold = sent_for(
        rich(), "openai_chat", Repair("quirk", ("fold_system",)), quirks=frozenset({"keep_system"})
    )
    assert [m["role"] for m in fold.body["messages"]].count("system") == 1


def test_caps_are_kept_in_every_dialect() -> None:
    where = {
        "anthropic": ("max_tokens",), "bedrock": ("max_tokens",), "openai_chat": ("max_tokens",),
        "openai_responses": ("max_output_tokens",), "gemini": ("generationConfig", "maxOutputTokens"),
    }  # fmt: skip
    for dialect, path in where.items():
        sent = sent_for(rich(), dialect, Repair("cap", ("8192",)), facts=ModelFacts("m", output_cap=32_000))
        assert paths.value_at(sent.body, path) == 8192, dialect
        assert Loss("max_tokens", "approximated") in sent.losses
        low = sent_for(
            rich(max_tokens=4000, thinking={"type": "disabled"}), dialect, Repair("cap", ("8192",))
        )
        assert paths.value_at(low.body, path) <= 8192 and Loss("max_tokens", "approximated") not in low.losses


def test_what_a_look_alike_left_in_the_history_is_mended() -> None:
    """Ids outside Anthropic's alphabet, in call and result alike; thinking without a signature, and only that."""
    odd = "functions.Write:0|x y"
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": ""},
        {"type": "thinking", "thinking": "b", "signature": "sig"},
        {"type": "tool_use", "id": odd, "name": "Write", "input": {"id": odd}},
    ]
    request = rich(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": odd, "content": "ok"}]},
        ]
    )
    ids = sent_for(request, "anthropic", Repair("clean_ids")).body["messages"]
    call, result = ids[1]["content"][-1], ids[2]["content"][0]
    assert call["id"] == result["tool_use_id"] != odd
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", call["id"]) and call["input"] == {"id": odd}
    sent = sent_for(request, "anthropic", Repair("strip_unsigned"))
    assert [b.get("thinking") for b in sent.body["messages"][1]["content"]] == ["b", None]
    assert blocks[0]["thinking"] == "a", "the client's request is not touched"
    for text, name in (
        ("messages.1.content.2.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'", "clean_ids"),
        ("messages.1.content.0.thinking.signature: Field required", "strip_unsigned"),
    ):
        error = ProviderError(400, "invalid_request_error", text)
        found = repair.find(error, request, Encoded("/v1/messages", request), "anthropic")
        assert found is not None and (found.name, found.lasting) == (name, True)


# ---- every repair on recorded and on random requests

EVERY = [
    *(Repair("beta", (name,)) for name in FIELDS),
    Repair("beta", ("*",)),
    Repair("blocks_as_text", ("tool_reference",)),
    Repair("budget", ("128", "32768")),
    Repair("budget", ("", "")),
    *(Repair("cache", (what,)) for what in ("", "ttl", "scope", "limit")),
    Repair("cap", ("8192",)),
    Repair("clean_ids"),
    Repair("strip_unsigned"),
    Repair("developer_as_system"),
    Repair("drop", ("temperature", "top_p", "top_k", "metadata", "context_management", "output_config", "stream_options",
                    "prompt_cache_key", "safety_identifier", "reasoning", "generationConfig.thinkingConfig", "service_tier",
                    "parallel_tool_calls", "stop", "include", "store", "contents.*.parts.*.functionCall.id")),
    # paths of what must never go
    Repair("drop", ("messages", "tools", "model", "system", "messages.*.content", "tools.*.input_schema", "input",
                    "contents", "tools.*.function", "messages.*.content.*.text", "contents.*.parts")),
    Repair("effort", ("low", "medium", "high")),
    Repair("effort", ("high",)),
    Repair("fill_reasoning"),
    Repair("format_as_text"),
    Repair("go_on"),
    Repair("no_system"),
    Repair("no_thinking"),
    *(Repair("quirk", (q,)) for q in ("no_stop", "no_json_schema", "fold_system", "no_system_role", "bridge_after_tool",
                                      "nine_char_ids", "short_ids", "openapi_schema", "alternate")),
    Repair("rename", ("max_tokens", "max_completion_tokens")),
    Repair("set_effort", ("reasoning_effort", "none")),
    Repair("sign_calls"),
    Repair("sign_calls", ("anew",)),
    Repair("streamed_answer"),
    Repair("strip_thinking"),
    Repair("system_inline"),
    Repair("thinking_form", ("budget",)),
    Repair("thinking_form", ("adaptive",)),
    Repair("thinking_off"),
    Repair("tool_choice", ("auto",)),
    Repair("unstrict"),
    Repair("whole_answer"),
    Repair("without_include", ("reasoning.encrypted_content",)),
    Repair("without_media", ("image",)),
    Repair("without_media", ("document",)),
    Repair("without_search"),
    Repair("without_tool", ("web_search_20250305",)),
]  # fmt: skip
# Only one dialect's API knows what these make; the finder names them for that one alone.
ONLY = {
    "rename": "openai_chat",
    "set_effort": "openai_chat",
    "fill_reasoning": "openai_chat",
    "sign_calls": "gemini",
    "without_search": "gemini",
}


def test_every_action_is_tried_below() -> None:
    assert {r.name for r in EVERY} == set(ACTIONS)


def recorded(shared: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    for path in sorted((shared / "corpus/clients/claude-code-recorded").glob("*.json")):
        data = json.loads(path.read_text())
        body = data.get("body")
        if isinstance(body, dict) and "messages" in body and "max_tokens" in body:
            headers = {name.lower(): value for name, value in data["headers"]}
            yield path.stem, body, headers


def said(request: dict[str, Any]) -> list[str]:
    """The client's texts: system prompt, messages, tool results, tools' names and descriptions."""
    out = []
    for block in request.get("system") or ():
        out.append(block["text"] if isinstance(block, dict) else str(block))
    for message in request["messages"]:
        content = message["content"]
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            inner = block.get("content")
            out += (
                [inner]
                if isinstance(inner, str)
                else [b["text"] for b in inner or () if b.get("type") == "text"]
            )
            out += [block["text"]] if block.get("type") == "text" else []
    for tool in request.get("tools") or ():
        out += [tool["name"], tool.get("description", "")] if "input_schema" in tool else []
    return [t.strip() for t in out if t.strip() and not t.startswith("x-anthropic-billing-header")]


def invalid(strict: Any, dialect: str, encoded: Encoded) -> set[str]:
    """Where the official description of this API finds something wrong."""
    body = json.loads(json.dumps(encoded.body))
    check = {
        "anthropic": strict.anthropic_request,
        "openai_chat": strict.openai_request,
        "openai_responses": lambda d: strict.openai_request(d, "CreateResponse"),
        "gemini": strict.google_request,
        "bedrock": lambda d: [] if "anthropic_version" in d else strict.converse_request(d),
    }[dialect]
    # DeepSeek's own field is no field of OpenAI's
    return {e.partition(": ")[0] for e in check(body) if "reasoning_content" not in e}


@pytest.fixture(scope="module")
def strict(shared: Path) -> Any:
    sys.path.insert(0, str(shared / "tools"))
    try:
        return importlib.import_module("strict")
    finally:
        sys.path.pop(0)


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "model"), [*MODELS.items(), ("bedrock", "meta.llama3-8b")])
def test_recorded_requests_keep_their_texts_and_tools_and_stay_valid(
    dialect: str, model: str, shared: Path, strict: Any
) -> None:
    tried = 0
    for name, request, headers in recorded(shared):
        frozen = json.dumps(request)
        more: dict[str, Any] = {
            "client_headers": headers,
            "stream": bool(request.get("stream")),
            "model": model,
        }
        base = sent_for(request, dialect, **more)
        wrong = invalid(strict, dialect, base)
        read = "\n".join(texts(base.body))
        kept = [
            t for t in said(request) if t in read
        ]  # a dialect may leave out a server tool, or wrap a text
        for each in EVERY:
            if ONLY.get(each.name, dialect) != dialect:
                continue
            sent = sent_for(request, dialect, each, **more)
            told = "\n".join(texts(sent.body))
            missing = [t[:60] for t in kept if t not in told]
            assert not missing, (name, str(each), missing)
            if sent.body != base.body:
                assert not invalid(strict, dialect, sent) - wrong, (name, str(each))
            tried += 1
        assert json.dumps(request) == frozen, name
    assert tried > 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["content", "type", "text", "role", "thinking", "cache_control", "ttl", "name", "input", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
BLOCKS = st.lists(
    st.dictionaries(
        st.sampled_from(["type", "text", "content", "cache_control", "thinking", "input"]), JSON, max_size=4
    ),
    max_size=4,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=5) | BLOCKS}
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    MESSAGES,
    st.dictionaries(
        st.sampled_from(["thinking", "output_config", "system", "tools", "tool_choice", "metadata"]),
        JSON,
        max_size=4,
    ),
)
def test_no_request_breaks_a_repair(messages: list[Any], more: dict[str, Any]) -> None:
    """Whatever a client sends: a repair gives a request, and leaves the client's own untouched."""
    request = {"model": "m", "max_tokens": 2000, "messages": messages, **more}
    frozen = copy.deepcopy(request)
    for each in EVERY:
        changed, _, losses = repair.before((each,), request, context("anthropic"))
        encoded = Encoded("/", dict(changed))
        repair.after((each,), encoded, losses)
        assert isinstance(encoded.body["messages"], list)
    assert request == frozen


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([c["body"] for f in FILES.values() for c in f["cases"]]), st.sampled_from(sorted(DIALECTS)), MESSAGES,
       st.dictionaries(st.sampled_from(["thinking", "output_config", "system", "tools", "tool_choice"]), JSON, max_size=4))  # fmt: skip
def test_no_pair_of_error_and_request_breaks_the_search(
    body: Any, dialect: str, messages: list[Any], more: dict[str, Any]
) -> None:
    request = {"model": "m", "max_tokens": 2000, "messages": messages, **more}
    refused = DIALECTS[dialect].explain(400, {}, json.dumps(body).encode())
    found = repair.find(refused, request, Encoded("/", request), dialect)
    assert found is None or found.name in ACTIONS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    refused = ProviderError(400, "invalid_request_error", text, body=text.encode("utf-8", "replace"))
    repair.find(refused, RICH, Encoded("/", RICH), "anthropic")


# ---- places


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tools.1.custom.defer_loading", ("tools", "*", "defer_loading")),
        ("body.tools.1.defer_loading", ("tools", "*", "defer_loading")),
        ("body -> tools -> 1 -> defer_loading", ("tools", "*", "defer_loading")),
        ("tools[1].defer_loading", ("tools", "*", "defer_loading")),
        ("defer_loading", ("tools", "*", "defer_loading")),
        ("messages.2.content.0.thinking.signature", ("messages", "*", "content", "*", "signature")),
        ("system.0.cache_control.ephemeral.ttl", ("system", "*", "cache_control", "ttl")),
        ("thinking.adaptive.display", ("thinking", "display")),
        ("stop_sequences", ("stop_sequences",)),
        ("tools.9.custom.defer_loading", None),
        ("tools.0.custom.defer_loading", None),
        ("nothing", None),
        ("tools.0.input_schema.properties.temperature", None),
        ("", None),
    ],
)
def test_places_are_found(name: str, path: tuple[str, ...] | None) -> None:
    assert paths.find(RICH, name) == path


def test_edits_copy_only_what_they_change() -> None:
    body = {"a": [{"x": 1, "y": {}}, {"y": 2}], "b": {"c": 3}}
    made = paths.edit(body, ("a", "*", "x"), lambda _: paths.GONE)
    assert made == {"a": [{"y": {}}, {"y": 2}], "b": {"c": 3}}
    assert made["b"] is body["b"] and made["a"][1] is body["a"][1] and body["a"][0]["x"] == 1
    assert paths.edit(body, ("a", "*", "z"), lambda _: paths.GONE) is body
