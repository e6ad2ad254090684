"""The runaway guard: repetitions and spending, warned of once, stopped, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ccm.settings import GuardSettings
from ccm.usage import guard
from ccm.usage.guard import CALM, Call, Guard, Run, recent_calls, trailing_run

HOUR = 3600.0


def turn(name: str, arguments: Any, said: str = "") -> list[dict[str, Any]]:
    """An assistant's call and its result."""
    text = [{"type": "text", "text": said}] if said else []
    return [
        {"role": "assistant", "content": [*text, {"type": "tool_use", "id": "t", "name": name, "input": arguments}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
    ]  # fmt: skip


def human(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def length(messages: object) -> int:
    return trailing_run(recent_calls(messages)).length


def test_the_same_call_in_a_row_is_counted_by_value() -> None:
    messages = [human("go"), *turn("Read", {"a": 1}), *turn("Bash", {"b": 1, "a": [2]})]
    messages += [*turn("Bash", {"a": [2], "b": 1}, "once more"), *turn("Bash", {"b": 1, "a": [2]})]
    run = trailing_run(recent_calls(messages))
    assert (run.length, run.name) == (3, "Bash")
    assert length(messages + turn("Bash", {"a": [3], "b": 1})) == 1
    assert length(messages + turn("Read", {"b": 1, "a": [2]})) == 1
    assert length([*turn("Bash", {}), *turn("Read", {}), *turn("Bash", {})]) == 1


def test_parallel_calls_of_one_turn_stand_in_their_order() -> None:
    call = {"type": "tool_use", "id": "x", "name": "Bash", "input": {"c": 1}}
    other = {**call, "input": {"c": 2}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}
    assert length([{"role": "assistant", "content": [other, call, call]}, result]) == 2
    assert length([{"role": "assistant", "content": [call, call, other]}, result]) == 1


def test_a_person_in_between_ends_the_row() -> None:
    messages = [human("go"), *turn("Bash", {}), *turn("Bash", {}), human("again"), *turn("Bash", {})]
    assert length(messages) == 1
    assert length(messages[:-2]) == 0, "a person spoke last"
    # what the client adds beside a result (reminders) is no person
    beside = turn("Bash", {})
    beside[1]["content"].append({"type": "text", "text": "<system-reminder>todo</system-reminder>"})
    assert length([*messages, *beside]) == 2
    assert length([{"role": "user", "content": "text"}, *turn("Bash", {})]) == 1


def test_it_stops_looking_at_the_first_other_call() -> None:
    seen = []

    def calls() -> Iterator[Call]:
        for call in (("a", 1), ("a", 1), ("b", 2), ("a", 1)):
            seen.append(call)
            yield call

    assert trailing_run(calls()) == Run(2, "a", 1)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "messages",
    [None, 5, "text", {}, [None, 3, "x"], [{}], [{"role": "assistant"}], [{"role": "assistant", "content": "hi"}],
     [{"role": "assistant", "content": [None, 1, {"type": "text"}]}], [human("hi")]],
)  # fmt: skip
def test_any_history_can_be_looked_at(messages: object) -> None:
    assert length(messages) == 0


def test_arguments_that_json_cannot_write_are_no_fault() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert length([*turn("A", deep), *turn("A", "\ud800"), *turn("A", "\ud800")]) == 2


def watch(repeats: int = 3, factor: float = 0.0) -> Guard:
    return Guard(GuardSettings(repeats, factor))


def test_off_unless_it_is_set() -> None:
    assert not Guard(GuardSettings()).on
    assert watch().on
    assert watch(0, 2.0).on


def test_a_warning_at_the_limit_and_a_stop_at_twice_the_limit() -> None:
    made = watch(3)
    said = [made.judge("s", Run(n, "Bash", 7), 0.0) for n in range(1, 6)]
    assert said[0] is CALM and said[1] is CALM
    assert said[2].warning == (
        "runaway guard: Bash was called with the same arguments 3 times in a row; at 6 the conversation is stopped"
    )
    assert said[3:] == [CALM, CALM], "warned once"
    stop = made.judge("s", Run(6, "Bash", 7), 0.0).stop
    assert "Bash was called with the same arguments 6 times in a row" in stop
    assert "`ccmctl session resume s`" in stop
    assert made.judge("s", Run(0), 0.0).stop == stop, "every further request, whatever it is"
    assert made.judge("other", Run(1, "Bash", 7), 0.0) is CALM
    assert [line["session"] for line in made.stopped()] == ["s"]


def test_resumed_it_may_go_on_until_it_does_the_same_again() -> None:
    made = watch(3)
    assert made.judge("session-1", Run(6, "Bash", 7), 0.0).stop
    assert made.resume("nobody", 0.0) is None
    assert made.resume("", 0.0) is None
    assert made.resume("session", 0.0) == "session-1"
    assert made.resume("session-1", 0.0) is None, "it is not stopped"
    assert made.judge("session-1", Run(6, "Bash", 7), 0.0) is CALM
    assert made.judge("session-1", Run(9, "Bash", 7), 0.0).warning
    assert made.judge("session-1", Run(12, "Bash", 7), 0.0).stop


def test_what_was_forgiven_is_forgotten_with_another_call() -> None:
    made = watch(3)
    made.judge("s", Run(6, "Bash", 7), 0.0)
    made.resume("s", 0.0)
    assert made.judge("s", Run(1, "Read", 8), 0.0) is CALM
    assert made.judge("s", Run(3, "Bash", 7), 0.0).warning


def test_an_ambiguous_beginning_resumes_nobody() -> None:
    made = watch(3)
    for name in ("ab1", "ab2", "ab"):
        made.judge(name, Run(6, "Bash", 7), 0.0)
    assert made.resume("a", 0.0) is None
    assert made.resume("ab", 0.0) == "ab"
    assert made.resume("ab", 0.0) is None
    assert made.resume("ab2", 0.0) == "ab2"


def test_conversations_without_a_name_have_one_together() -> None:
    made = watch(3)
    assert f"session resume {guard.UNNAMED}" in made.judge("", Run(6, "Bash", 7), 0.0).stop
    assert made.resume(guard.UNNAMED, 0.0) == guard.UNNAMED


def spending(factor: float = 2.0) -> Guard:
    """A session whose hours have cost 0.2, 0.3 and 5 dollars: a median of 0.3."""
    made = watch(0, factor)
    for hour, cost in enumerate((0.2, 0.3, 5.0)):
        made.spent("s", cost, hour * HOUR + 5)
    return made


def test_spending_far_above_the_median_hour() -> None:
    made = spending()
    now = 3 * HOUR + 100
    made.spent("s", 0.59, now)
    assert made.judge("s", Run(), now) is CALM
    made.spent("s", 0.02, now)
    said = made.judge("s", Run(), now).warning
    assert said == (
        "runaway guard: this hour has cost $0.61, 2.0 times its median hour ($0.3); "
        "at 4 times the conversation is stopped"
    )
    assert made.judge("s", Run(), now) is CALM, "warned once in an hour"
    made.spent("s", 0.60, now)
    assert "this hour has cost $1.21, 4.0 times its median hour" in made.judge("s", Run(), now).stop
    assert made.resume("s", now) == "s"
    assert made.judge("s", Run(), now) is CALM, "what was spent so far is forgiven"
    made.spent("s", 1.21, now)
    assert made.judge("s", Run(), now).stop


def test_little_history_and_little_money_mean_nothing() -> None:
    young = watch(0, 2.0)
    for hour in range(2):
        young.spent("s", 0.2, hour * HOUR)
    young.spent("s", 90.0, 2 * HOUR)
    assert young.judge("s", Run(), 2 * HOUR) is CALM
    cheap = watch(0, 2.0)
    for hour in range(4):
        cheap.spent("s", 0.001, hour * HOUR)
    cheap.spent("s", 0.09, 4 * HOUR)
    assert cheap.judge("s", Run(), 4 * HOUR) is CALM
    assert spending().judge("", Run(), 3 * HOUR) is CALM


def test_its_memory_is_bounded() -> None:
    made = watch(3, 2.0)
    made.judge("stopped", Run(6, "Bash", 7), 0.0)
    for n in range(guard.MOST_SESSIONS + 100):
        made.judge(f"s{n}", Run(1, "Bash", 7), 0.0)
    for hour in range(500):
        made.spent("s", 1.0, hour * HOUR)
    assert made.line()["watching"] == guard.MOST_SESSIONS
    assert [line["session"] for line in made.stopped()] == ["stopped"], "a stop is not forgotten"
    assert len(made._sessions["s"].hours) == guard.MOST_HOURS
    assert json.loads(json.dumps(made.line()))["on"] is True
