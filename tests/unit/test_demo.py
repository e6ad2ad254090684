"""The demo upstream's answers and its plan of failures, without its port (that is tests/contract/test_demo.py)."""

from __future__ import annotations

import json

import pytest

from ccm.messages.fold import fold
from ccm.upstream import demo

BODY = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1000,
    "tools": [{"name": "A"}, {"name": "B"}],
    "messages": [{"role": "user", "content": "How do you do?"}],
}


def answer(body: dict | None = None, size: int = 400) -> demo.Answer:
    return demo.compose(BODY if body is None else body, size, "x1")


def data(frames: list[bytes]) -> list[str]:
    assert all(f.endswith(b"\n\n") for f in frames)
    return [f.decode().split("data: ", 1)[1].strip() for f in frames]


def test_the_answer_echoes_model_tools_and_question() -> None:
    text = "".join(answer().words)
    assert "`claude-sonnet-4-5`" in text
    assert "1 message and 2 tools" in text
    assert "“How do you do?”" in text


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "old"}, {"type": "text", "text": "new"}]}], "“new”"),
        ([{"role": "user", "content": "mine"}, {"role": "assistant", "content": "yours"}], "“mine”"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "real"}, {"type": "text", "text": "<system-reminder>x"}]}],
            "“real”",
        ),
        ([{"role": "user", "content": "a\n\n b"}], "“a b”"),
        ([{"role": "user", "content": "y" * 500}], "“" + "y" * 157 + "...”"),
    ],
)  # fmt: skip
def test_the_question_is_the_users_last_own_text(messages: list, expected: str) -> None:
    assert expected in "".join(answer({"model": "m", "messages": messages}).words)


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": "no list"}, {"messages": [1, {"role": "user"}], "tools": 7}, {"max_tokens": True}],
)
def test_odd_requests_get_an_answer_all_the_same(body: dict) -> None:
    made = answer(body)
    assert made.stop == "end_turn"
    assert fold_text(made).startswith("Hello from ccm's demo provider.")


def fold_text(made: demo.Answer) -> str:
    (block,) = demo.anthropic_message(made)["content"]
    return block["text"]


def test_stream_and_json_say_the_same_in_both_dialects() -> None:
    made = answer()
    text = "".join(made.words)
    events = [json.loads(d) for d in data(list(demo.anthropic_frames(made)))]
    assert fold(events) == demo.anthropic_message(made)
    assert fold_text(made) == text
    *chunks, done = data(list(demo.chat_frames(made, with_usage=True)))
    assert done == "[DONE]"
    parsed = [json.loads(c) for c in chunks]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in parsed if c["choices"]) == text
    whole = demo.chat_message(made)
    assert whole["choices"][0]["message"]["content"] == text
    assert parsed[-1]["usage"] == whole["usage"]
    assert whole["choices"][0]["finish_reason"] == "stop"


def test_chat_usage_only_when_asked() -> None:
    chunks = data(list(demo.chat_frames(answer(), with_usage=False)))
    assert not any('"usage"' in c for c in chunks)


def test_it_streams_word_by_word() -> None:
    deltas = [f for f in demo.anthropic_frames(answer()) if b"text_delta" in f]
    assert len(deltas) == len(answer().words) > 40


def test_usage_grows_with_the_request_and_counts_the_answer() -> None:
    small, large = answer(size=400), answer(size=40_000)
    assert (small.input_tokens, large.input_tokens) == (100, 10_000)
    usage = demo.anthropic_message(small)["usage"]
    assert usage["input_tokens"] == 100
    assert usage["output_tokens"] == small.output_tokens > 40


def test_max_tokens_cuts_the_answer_and_says_so() -> None:
    made = answer(BODY | {"max_tokens": 12})
    assert made.stop == "max_tokens"
    assert made.output_tokens <= 12
    assert demo.anthropic_message(made)["stop_reason"] == "max_tokens"
    assert demo.chat_message(made)["choices"][0]["finish_reason"] == "length"


def test_every_third_question_fails_each_time_otherwise() -> None:
    plan = demo.FaultPlan()
    told = [plan.decide(b"q%d" % n, n * 10.0) for n in range(12)]
    assert told == ["", "", "529", "", "", "500", "", "", "event", "", "", "529"]


def test_a_retry_of_a_failed_question_fails_too_and_is_not_counted() -> None:
    plan = demo.FaultPlan()
    told = [plan.decide(b, t) for b, t in ((b"1", 0), (b"2", 1), (b"3", 2), (b"3", 2.2), (b"4", 2.4))]
    assert told == ["", "", "529", "529", ""]


def test_the_same_question_later_is_a_new_one() -> None:
    plan = demo.FaultPlan()
    for _ in range(2):
        plan.decide(b"same", 0)
    assert plan.decide(b"same", 1) == "529"
    assert plan.decide(b"same", 1 + demo.RETRY_WINDOW_S) == ""


def test_the_provider_rows_name_the_two_surfaces() -> None:
    assert [(p.name, p.dialect, p.priority) for p in demo.PROVIDERS] == [
        ("demo-flaky", "anthropic", 1),
        ("demo-steady", "openai_chat", 2),
    ]


CALL = {"type": "object", "properties": {"word": {"type": "string"}, "n": {"type": "integer"}}}


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "say_it", "input_schema": CALL},
        {"type": "function", "function": {"name": "say_it", "parameters": CALL}},
    ],
)
def test_the_one_tool_is_called_when_the_question_names_it(tool: dict) -> None:
    body = {"model": "m", "tools": [tool], "messages": [{"role": "user", "content": "Call say_it now"}]}
    made = answer(body)
    assert made.call == ("say_it", '{"word": "demo", "n": 1}')
    message = demo.anthropic_message(made)
    assert message["stop_reason"] == "tool_use"
    assert [b["type"] for b in message["content"]] == ["text", "tool_use"]
    assert message["content"][1]["input"] == {"word": "demo", "n": 1}
    chat = demo.chat_message(made)["choices"][0]
    assert chat["finish_reason"] == "tool_calls"
    assert chat["message"]["tool_calls"][0]["function"] == {"name": "say_it", "arguments": made.call[1]}
    chunks = [json.loads(d) for d in data(list(demo.chat_frames(made, False)))[:-1]]
    assert chunks[-2]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


def test_tools_that_were_not_asked_for_are_not_called() -> None:
    tool = {"name": "say_it", "input_schema": CALL}
    question = {"role": "user", "content": "Call say_it now"}
    for tools, content in (
        ([tool, tool], question),
        ([tool], {"role": "user", "content": "hi"}),
        ([{}], question),
    ):
        made = answer({"model": "m", "tools": tools, "messages": [content]})
        assert made.call == ("", "") and made.stop == "end_turn"
