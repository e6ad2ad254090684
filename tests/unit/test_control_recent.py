"""What the last requests tell: windows, quantiles, and a cursor that neither misses nor repeats."""

from __future__ import annotations

import random
from collections import deque

import pytest

from ccm.control import drills, recent
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord


def record(number: int, at: float = 0.0, ending: str = "complete", **fields) -> RequestRecord:
    defaults = {
        "id": f"r{number}", "at": at, "status": 200, "ending": ending, "provider": "openai", "endpoint": "openai",
        "total_s": 1.0, "first_content_s": 0.5, "usage": Usage(input=100, cache_read=50, output=10),
        "attempts": [Attempt("openai", "m", "200", 0.5)],
    }  # fmt: skip
    return RequestRecord(**{**defaults, **fields})


def ids(answer: dict) -> list[str]:
    return [row["id"] for row in answer["requests"]]


def test_the_last_ones_youngest_first(fake_core) -> None:
    assert recent.requests(fake_core) == {"requests": [], "cursor": "", "more": False, "gap": False}
    fake_core.recent.extend(record(n) for n in range(10))
    answer = recent.requests(fake_core, 3)
    assert ids(answer) == ["r9", "r8", "r7"] and answer["cursor"] == "r9"
    assert ids(recent.requests(fake_core, 0)) == []
    assert answer["requests"][0]["attempts"][0]["result"] == "200"


def test_a_cursor_goes_on_where_it_was(fake_core) -> None:
    fake_core.recent.extend(record(n) for n in range(10))
    answer = recent.requests(fake_core, 4, "r2")
    assert ids(answer) == ["r6", "r5", "r4", "r3"] and answer["more"] and not answer["gap"]
    answer = recent.requests(fake_core, 4, answer["cursor"])
    assert ids(answer) == ["r9", "r8", "r7"] and not answer["more"]
    answer = recent.requests(fake_core, 4, answer["cursor"])
    assert ids(answer) == [] and answer["cursor"] == "r9"
    assert ids(recent.requests(fake_core, 2, "")) == ["r1", "r0"]


def test_a_forgotten_cursor_is_said(fake_core) -> None:
    fake_core.recent.extend(record(n) for n in range(3))
    answer = recent.requests(fake_core, 10, "gone")
    assert answer["gap"] and ids(answer) == ["r2", "r1", "r0"]
    fake_core.recent.clear()
    assert recent.requests(fake_core, 10, "gone")["cursor"] == ""


def test_nobody_who_follows_misses_or_repeats_one(fake_core) -> None:
    fake_core.recent = deque(maxlen=50)
    rng, seen, cursor, made = random.Random(7), [], "", 0
    while made < 2000:
        for _ in range(rng.randrange(0, 40)):
            fake_core.recent.append(record(made))
            made += 1
        while True:
            answer = recent.requests(fake_core, rng.choice((1, 7, 30)), cursor)
            assert not answer["gap"]
            seen += reversed(ids(answer))
            cursor = answer["cursor"]
            if not answer["more"]:
                break
    assert seen == [f"r{n}" for n in range(made)]


@pytest.mark.parametrize(
    ("values", "share", "is_"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([float(n) for n in range(1, 101)], 0.95, 95.0)],
)  # fmt: skip
def test_quantiles(values: list[float], share: float, is_: float | None) -> None:
    assert recent.quantile(values, share) == is_


def test_a_window_counts_what_ended_in_it(fake_core) -> None:
    fake_core.recent.extend(record(n, at=1000.0 + n, cost_usd=0.5 if n % 2 else None) for n in range(100))
    seen = recent.window(fake_core, 10.0, lambda: 1100.0)
    assert (
        seen["all"]["requests"] == 11 and seen["span_s"] == 10.0
    )  # the one that ended right at its edge as well
    assert seen["all"]["output_tokens"] == 110 and seen["all"]["output_tokens_per_s"] == 11.0
    assert seen["all"]["cost_usd"] == 3.0 and seen["all"]["list_cost_usd"] is None
    assert seen["providers"]["openai"]["per_s"] == 1.1 and seen["providers"]["anthropic"]["requests"] == 0


def test_a_window_is_shorter_where_memory_is(fake_core) -> None:
    fake_core.recent = deque((record(n, at=1000.0 + n) for n in range(200)), maxlen=100)
    seen = recent.window(fake_core, 900.0, lambda: 1201.0)
    assert seen["all"]["requests"] == 100 and seen["span_s"] == 100.0 and seen["all"]["per_s"] == 1.0


def test_success_is_that_of_attempts_and_of_requests(fake_core) -> None:
    fail = [Attempt("openai#2", "m", "529", 0.1), Attempt("anthropic", "m", "200", 0.1)]
    fake_core.recent.append(record(0, attempts=fail, provider="anthropic"))
    fake_core.recent.append(record(1, ending="broken"))
    fake_core.recent.append(
        record(2, ending="client_gone", attempts=[Attempt("openai", "m", "cancelled", 1.0)])
    )
    seen = recent.window(fake_core, 60.0, lambda: 2.0)
    assert (seen["all"]["success"], seen["all"]["outcomes"]) == (0.5, 2)
    assert (seen["providers"]["openai"]["success"], seen["providers"]["openai"]["outcomes"]) == (0.0, 2)
    assert seen["providers"]["anthropic"]["success"] == 1.0
    assert seen["providers"]["groq"]["success"] is None


# ---- drills: what became of who met them


def drilled(fake_core, fault: str, *records: RequestRecord) -> list[dict]:
    fake_core.drill("openai", fault, 10, None, None, None)
    for one in records:
        fake_core.fake_drills.caller(_target(), one.id)
        fake_core.recent.append(one)
    return drills.report(fake_core)[0]["requests_met"]


def _target():
    from ccm.model import Endpoint, ModelFacts, Provider, Target

    return Target(
        Endpoint("openai", Provider("openai", "openai", "openai_chat", "http://x")), "m", ModelFacts("m")
    )


def test_a_drill_tells_what_the_client_saw(fake_core) -> None:
    over = [Attempt("openai", "m", "529", 0.2), Attempt("anthropic", "m", "200", 0.3, started_s=0.7)]
    again = [Attempt("openai", "m", "529", 0.2), Attempt("openai", "m", "200", 0.3)]
    failed = [Attempt("openai", "m", "529", 0.2)]
    met = drilled(
        fake_core,
        "529",
        record(1, attempts=over),
        record(2, attempts=again),
        record(3, attempts=failed, ending="failed", status=503),
        record(4, ending="broken"),
        record(5, ending="client_gone"),
    )
    assert [one["outcome"] for one in met] == [
        "answered by anthropic instead",
        "answered by openai in spite of it",
        "failed: the client saw 503",
        "the stream had begun and broke: the client saw an error event",
        "the client left",
    ]
    assert [one["added_s"] for one in met] == [0.7, 0.2, None, None, None]
    assert [one["failed_over"] for one in met] == [True, False, False, False, False]


def test_a_slow_answer_costs_its_delay(fake_core) -> None:
    assert drilled(fake_core, "slow", record(1))[0]["added_s"] == 10.0


def test_a_request_that_still_runs_is_not_done(fake_core) -> None:
    fake_core.drill("openai", "hang", 1, None, None, None)
    fake_core.fake_drills.caller(_target(), "r1")
    (met,) = drills.report(fake_core)[0]["requests_met"]
    assert not met["done"] and met["added_s"] is None
