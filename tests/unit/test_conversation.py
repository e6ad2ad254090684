"""Conversations of clients that name no session (R46, R47)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.routing.conversation import continues, fingerprint

SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=aaaa;"},
    {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
]
FIRST = {
    "role": "user",
    "content": [{"type": "text", "text": "do it", "cache_control": {"type": "ephemeral"}}],
}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "done"}]}
AGAIN = {"role": "user", "content": "more"}


def encoded(body: dict[str, Any], separators: tuple[str, str] = (",", ":")) -> bytes:
    return json.dumps(body, separators=separators).encode()


def never() -> dict[str, Any]:
    raise AssertionError("parsed")


def key(body: dict[str, Any], **more: Any) -> str:
    raw = encoded(body, **more)
    return fingerprint(raw, lambda: json.loads(raw))


BODY = {"model": "m", "messages": [FIRST], "system": SYSTEM, "stream": True}


def test_turns_of_a_conversation_agree_whatever_moves_from_turn_to_turn() -> None:
    plain_first = {"role": "user", "content": [{"type": "text", "text": "do it"}]}
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=bbbb;"}
    later = {
        **BODY,
        "messages": [plain_first, ANSWER, AGAIN],
        "system": [billing, SYSTEM[1]],
        "max_tokens": 7,
    }
    assert key(BODY) == key(later) == key(later, separators=(", ", ": "))
    assert len(key(BODY)) == 24
    assert key(BODY) == key({**BODY, "system": [SYSTEM[1]]}), "the billing line does not count"


@pytest.mark.parametrize(
    "changes",
    [
        {"system": "You are another."},
        {"messages": [{"role": "user", "content": "do something else"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "AA"}}]}]},
        {"system": None},
    ],
)
def test_other_conversations_differ(changes: dict[str, Any]) -> None:
    assert key({**BODY, **changes}) != key(BODY)


def test_nothing_is_parsed_where_the_keys_are_plain() -> None:
    assert fingerprint(encoded(BODY), never) == key(BODY)
    assert fingerprint(encoded({"model": "m", "messages": [AGAIN]}), never)


def test_where_it_is_not_plain_the_body_decides() -> None:
    tool = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {"system": "no"}}],
    }
    odd = {**BODY, "messages": [FIRST, tool, AGAIN]}
    assert key(odd) == key(BODY)
    assert key({**BODY, "messages": [{"role": "system", "content": "env"}, FIRST]}) == key(BODY)
    assert fingerprint(b"", lambda: BODY) == key(BODY)


def test_no_messages_no_conversation() -> None:
    assert fingerprint(b"{}", dict) == ""


def test_a_long_first_turn_is_told_by_its_beginning() -> None:
    long = {"role": "user", "content": "word " * 40_000}
    a, b = {**BODY, "messages": [long]}, {**BODY, "messages": [long, ANSWER, AGAIN]}
    assert fingerprint(encoded(a), never) == fingerprint(encoded(b), never) != key(BODY)
    other = {**BODY, "messages": [{"role": "user", "content": "other " * 40_000}]}
    assert fingerprint(encoded(other), never) != fingerprint(encoded(a), never)


def test_the_other_apis_words() -> None:
    chat = {"model": "m", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]}
    assert key(chat) and key(chat) == key({**chat, "messages": [*chat["messages"], ANSWER, AGAIN]})
    responses = {"model": "m", "instructions": "S", "input": [{"role": "user", "content": "hi"}]}
    assert key(responses) and key(responses) != key({**responses, "instructions": "T"})


def test_only_an_answer_makes_a_further_turn() -> None:
    assert not continues(encoded(BODY))
    assert continues(encoded({**BODY, "messages": [FIRST, ANSWER, AGAIN]}, (", ", ": ")))
    assert not continues(encoded({**BODY, "messages": [{"role": "user", "content": '"role":"assistant"'}]}))
    assert continues(encoded({"input": [{"type": "function_call", "name": "x"}]}))
