"""History to contents: results, media, ids and signatures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.gemini import DIALECT
from ccm.dialects.gemini.parts import NO_SIGNATURE
from ccm.dialects.state import wrap
from ccm.model import ModelFacts

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def encode(messages: list[dict[str, Any]], model: str = "gemini-3.8-flash", **changes: Any) -> Encoded:
    values: dict[str, Any] = {
        "provider": "google", "family": "gemini/google", "model": model, "asked_model": "c", "facts": ModelFacts(model),
        "new_id": lambda prefix: prefix + "1", **changes,
    }  # fmt: skip
    return DIALECT.encode({"messages": messages}, Context(**values))


def user(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": b} if isinstance(b, str) else b for b in blocks],
    }


def call(id: str, **args: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "Read", "input": args}


def result(id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def model_says(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def state(
    text: str = "", family: str = "gemini/google", m: str = "gemini-3", **payload: Any
) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": wrap(family, {"m": m, **payload})}


def parts(out: Encoded, role: str) -> list[list[dict[str, Any]]]:
    return [c["parts"] for c in out.body["contents"] if c["role"] == role]


def signatures(out: Encoded) -> list[Any]:
    return [p.get("thoughtSignature") for content in parts(out, "model") for p in content]


def test_results_follow_the_order_of_the_calls_in_one_content_and_text_comes_after() -> None:
    out = encode([
        user("go"),
        model_says(call("toolu_a", n=1), call("toolu_b", n=2)),
        user("and hurry", result("toolu_b", "second"), result("toolu_a", "first")),
    ])  # fmt: skip
    answers, text = parts(out, "user")[1:]
    assert [a["functionResponse"]["response"] for a in answers] == [{"output": "first"}, {"output": "second"}]
    assert text == [{"text": "and hurry"}]


def test_a_missing_result_is_made_and_a_stray_one_dropped() -> None:
    out = encode([user("go"), model_says(call("toolu_a")), user(result("toolu_zz"), "so?")])
    assert [list(p) for p in parts(out, "user")[1]] == [["functionResponse"]]
    assert "error" in parts(out, "user")[1][0]["functionResponse"]["response"]
    assert {loss.feature for loss in out.losses} == {"tool_use.orphan", "tool_result.orphan"}


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ('{"a": 1, "b": [true, null, 0.5]}', {"a": 1, "b": [True, None, 0.5]}),
        ('{"id": 12345678901234567890}', None),
        ('{"a": 1, "a": 2}', None),
        ('{"x": 0.12345678901234567890}', None),
        ('{"x": NaN}', None),
        ('{"error": "no"}', None),
        ("{}", None),
        ("[1]", None),
        ("{broken", None),
        ("", None),
    ],
)
def test_only_objects_that_lose_nothing_go_as_objects(text: str, response: Any) -> None:
    out = encode([user("go"), model_says(call("toolu_a")), user(result("toolu_a", text))])
    sent = parts(out, "user")[1][0]["functionResponse"]["response"]
    assert sent == ({"output": text} if response is None else response)


def test_errors_are_named_so() -> None:
    out = encode([user("go"), model_says(call("toolu_a")), user(result("toolu_a", '{"a":1}', is_error=True))])
    assert parts(out, "user")[1][0]["functionResponse"]["response"] == {"error": '{"a":1}'}


def test_media_of_results() -> None:
    history = [
        user("go"),
        model_says(call("toolu_a")),
        user(result("toolu_a", [{"type": "text", "text": "seen"}, PNG])),
    ]
    inline = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    (answer,) = parts(encode(history), "user")[1]
    assert answer["functionResponse"]["parts"] == [inline]
    answers, beside = parts(encode(history, "gemini-2.5-pro"), "user")[1:]
    assert "parts" not in answers[0]["functionResponse"]
    assert answers[0]["functionResponse"]["response"] == {"output": "seen"}
    assert beside == [{"text": "[attachment of the result of Read]"}, inline]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (PNG, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        ({"type": "image", "source": {"type": "url", "url": "https://x/y.JPG?a=1"}},
         {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/y.JPG?a=1"}}),
        ({"type": "image", "source": {"type": "url", "url": "https://x/y"}}, {"fileData": {"fileUri": "https://x/y"}}),
        ({"type": "image", "source": {"type": "url", "url": "data:image/gif;base64,BBBB"}},
         {"inlineData": {"mimeType": "image/gif", "data": "BBBB"}}),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "CC"}},
         {"inlineData": {"mimeType": "application/pdf", "data": "CC"}}),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}}, {"text": "plain"}),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}},
         {"text": "[image omitted: it cannot be sent to google]"}),
    ],
)  # fmt: skip
def test_media(block: dict[str, Any], part: dict[str, Any]) -> None:
    assert parts(encode([user(block)]), "user") == [[part]]


def test_a_model_without_eyes_is_told() -> None:
    facts = ModelFacts("gemma-3-1b", known=True, abilities=frozenset({"tools"}))
    out = encode([user("look", PNG)], "gemma-3-1b", facts=facts)
    assert parts(out, "user")[0][1] == {"text": "[image omitted: gemma-3-1b is text-only]"}
    assert Loss("image") in out.losses


def test_vertex_is_always_told_the_type() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x/y"}}
    out = encode([user(image)], options={"vertex": True})
    assert parts(out, "user") == [[{"fileData": {"mimeType": "image/png", "fileUri": "https://x/y"}}]]


def test_only_ids_that_gemini_made_go_back() -> None:
    ids = ["toolu_01", "call_9", "tooluse_x", "srvtoolu_1", "chatcmpl-tool-1", "96c1su3s", "function-call-17"]
    history = [user("go"), model_says(*(call(i) for i in ids)), user(*(result(i) for i in ids))]
    out = encode(history)
    sent = [p["functionCall"].get("id") for p in parts(out, "model")[0]]
    assert sent == [None, None, None, None, None, "96c1su3s", "function-call-17"]
    assert [p["functionResponse"].get("id") for p in parts(out, "user")[1]] == sent
    assert out.seen_ids == set(ids)


def test_signatures_return_to_their_parts() -> None:
    out = encode([
        user("go"),
        model_says(
            state("hm", on="thought", sig="T"),
            state(on="text", sig="X"),
            {"type": "text", "text": "abc"},
            state(on="tail", at=[[1, 2, "Y"]]),
            state("why", on="call", sig="C"),
            call("toolu_a"),
            call("toolu_b"),
            state(on="part", part={"toolCall": {"id": "q"}, "thoughtSignature": "S"}),
            state(on="empty", sig="E"),
        ),
        user(result("toolu_a"), result("toolu_b")),
    ])  # fmt: skip
    thought, a, b, c, first, second, server, empty = parts(out, "model")[0]
    assert thought == {"text": "hm", "thought": True, "thoughtSignature": "T"}
    assert [a, b, c] == [
        {"text": "a", "thoughtSignature": "X"}, {"text": "b", "thoughtSignature": "Y"}, {"text": "c"}
    ]  # fmt: skip
    assert first["thoughtSignature"] == "C" and "thoughtSignature" not in second
    assert server == {"toolCall": {"id": "q"}, "thoughtSignature": "S"}
    assert empty == {"text": "", "thoughtSignature": "E"}
    assert out.losses == []


def test_a_changed_text_loses_the_signatures_of_its_pieces() -> None:
    out = encode(
        [
            user("go"),
            model_says({"type": "text", "text": "ab"}, state(on="tail", at=[[1, 9, "Y"]])),
            user("on"),
        ]
    )
    assert parts(out, "model") == [[{"text": "ab"}]]


@pytest.mark.parametrize(
    "foreign",
    [
        {"type": "thinking", "thinking": "native", "signature": "EqQBCgIYAhIM"},
        {"type": "thinking", "thinking": "", "signature": wrap("openai_responses/openai", {"enc": "x"})},
        {"type": "redacted_thinking", "data": "abc"},
        {
            "type": "thinking",
            "thinking": "",
            "signature": wrap("gemini/google", {"m": "gemini-2", "on": "call", "sig": "OLD"}),
        },
    ],
)
def test_lost_signatures_are_stood_in_for_on_the_first_call_of_each_step_of_the_turn(
    foreign: dict[str, Any],
) -> None:
    history = [
        user("before"), model_says(call("toolu_0")), user(result("toolu_0")), model_says({"type": "text", "text": "done"}),
        user("now"),
        model_says(foreign, call("toolu_a"), call("toolu_b")), user(result("toolu_a"), result("toolu_b"), "a reminder"),
        model_says(state(on="call", sig="REAL"), call("toolu_c")), user(result("toolu_c")),
        model_says({"type": "text", "text": "next"}, call("toolu_d")), user(result("toolu_d")),
    ]  # fmt: skip
    out = encode(history)
    assert signatures(out) == [None, None, NO_SIGNATURE, None, "REAL", None, NO_SIGNATURE]
    assert NO_SIGNATURE not in json.dumps(encode(history, "gemini-2.5-pro").body)
    if foreign.get("thinking") or "data" in foreign:
        assert Loss("thinking") in out.losses


def test_the_conversation_begins_with_the_user_and_has_no_empty_content() -> None:
    out = encode([model_says({"type": "text", "text": "hello"}), user(" ", "x"), user("y")])
    assert [c["role"] for c in out.body["contents"]] == ["user", "model", "user"]
    assert parts(out, "user")[1] == [{"text": "x"}, {"text": "y"}]
    assert all(c["parts"] for c in out.body["contents"])


def test_system_messages_inside_become_reminders_and_unknown_blocks_text() -> None:
    out = encode([
        user("x"), {"role": "system", "content": "It is May."},
        model_says({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}),
        user({"type": "tool_reference", "tool_name": "WebFetch"}),
    ])  # fmt: skip
    assert "It is May." in parts(out, "user")[0][1]["text"]
    assert "web_search" in parts(out, "model")[0][0]["text"]
    assert "WebFetch" in parts(out, "user")[1][0]["text"]
