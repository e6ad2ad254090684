"""Subagent tags (R28): found where agents' files put them, gone from everything that is sent."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ccm.routing.tags import find_tag, may_have_tags, strip_tags

TAG = "<CCM-SUBAGENT-MODEL>openai,gpt-5.6</CCM-SUBAGENT-MODEL>"
OLD = "<CCR-SUBAGENT-MODEL>openrouter/z-ai/glm-4.6</CCR-SUBAGENT-MODEL>"


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def request(system: Any = "You are an agent.", *messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "system": system, "messages": list(messages) or [user("hi")]}


ASSISTANT = {"role": "assistant", "content": [{"type": "text", "text": TAG}]}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (request(f"{TAG}\nYou are"), "openai,gpt-5.6"),
        (request([{"type": "text", "text": "billing"}, {"type": "text", "text": f"You {TAG} are"}]), "openai,gpt-5.6"),
        (request([{"type": "text", "text": str(n)} for n in range(5)] + [{"type": "text", "text": OLD}]), "openrouter/z-ai/glm-4.6"),
        (request("x", {"role": "user", "content": f"{OLD} do it"}), "openrouter/z-ai/glm-4.6"),
        (request("x", user("reminder", f"{TAG}do it")), "openai,gpt-5.6"),
        (request("x", user("a"), ASSISTANT, user(TAG)), "openai,gpt-5.6"),
        (request("x", user("a"), {"role": "system", "content": TAG}), "openai,gpt-5.6"),
        (request("<CCM-SUBAGENT-MODEL> haiku </CCM-SUBAGENT-MODEL>"), "haiku"),
        (request(f"{TAG}{OLD}"), "openai,gpt-5.6"),
        (request("x", user("a"), ASSISTANT, user("b"), ASSISTANT, user(TAG)), ""),
        (request("x", ASSISTANT), ""),
        (request("x", {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": TAG}]}), ""),
        (request("<CCM-SUBAGENT-MODEL>a</CCR-SUBAGENT-MODEL>"), ""),
        (request("<CCM-SUBAGENT-MODEL></CCM-SUBAGENT-MODEL>"), ""),
        (request("<CCM-SUBAGENT-MODEL>" + "x" * 600 + "</CCM-SUBAGENT-MODEL>"), ""),
        ({"messages": "nonsense", "system": 3}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_find(made: dict[str, Any], said: str) -> None:
    assert find_tag(made) == said


def test_strip_leaves_no_tag_in_what_the_model_is_told() -> None:
    made = request(
        [{"type": "text", "text": f"{TAG}\nYou are", "cache_control": {"type": "ephemeral"}}],
        user(f"{OLD}do it"), ASSISTANT, {"role": "user", "content": f"and {TAG}"}, user(TAG, "more"),
    )  # fmt: skip
    before = copy.deepcopy(made)
    done = strip_tags(made)
    assert made == before, "nothing is changed in place"
    assert done["system"] == [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}}]
    assert done["messages"] == [
        user("do it"), ASSISTANT, {"role": "user", "content": "and "}, user("more"),
    ]  # fmt: skip
    assert find_tag(done) == ""
    assert done["messages"][1] is made["messages"][1], "what need not change is shared"


def test_a_request_without_tags_is_itself() -> None:
    made = request()
    assert strip_tags(made) is made
    results = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": TAG}]}
    made = request("x", results, ASSISTANT)
    assert strip_tags(made) is made, "tools' answers and the model's own words are not ours to change"


def test_a_text_that_was_nothing_but_a_tag_is_never_sent_empty() -> None:
    assert strip_tags(request(TAG))["system"] == " "
    assert strip_tags(request("x", user(TAG)))["messages"] == [user(" ")]
    assert strip_tags(request("x", {"role": "user", "content": TAG}))["messages"][0]["content"] == " "


def test_the_cache_breakpoint_of_a_removed_block_moves_forward() -> None:
    system = [
        {"type": "text", "text": "You"},
        {"type": "text", "text": TAG, "cache_control": {"type": "ephemeral"}},
    ]
    assert strip_tags(request(system))["system"] == [
        {"type": "text", "text": "You", "cache_control": {"type": "ephemeral"}}
    ]


def test_bytes_are_searched_for_both_spellings() -> None:
    assert may_have_tags(b'{"system":"<CCM-SUBAGENT-MODEL>a</CCM-SUBAGENT-MODEL>"}')
    assert may_have_tags(b'{"system":"\\u003cCCM-SUBAGENT-MODEL\\u003ea"}')
    assert not may_have_tags(b'{"system":"which subagent model"}')
