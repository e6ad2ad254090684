"""Drills: how long they last, who meets them, and where in a body a fault strikes. No sockets but pairs."""

from __future__ import annotations

import json
import struct
from functools import partial
from types import SimpleNamespace

import pytest

from ccm.dialects.table import DIALECTS
from ccm.errors import ControlError
from ccm.faults import DRILL_MOST_S, FAULTS
from ccm.model import Endpoint, FailureKind, ModelFacts, Provider, Target
from ccm.proxy import faulty
from ccm.proxy.drill import Drills
from ccm.routing import failures
from ccm.upstream.call import Call
from ccm.wire import http1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drills(clock: Clock) -> Drills:
    return Drills(clock, lambda: 5.0)


def target(name: str = "a") -> Target:
    provider = Provider(name, name, "anthropic", "http://x")
    return Target(Endpoint(f"{name}#2", provider), "m", ModelFacts("m"))


def meets(drills: Drills, id: str, name: str = "a") -> bool:
    return drills.caller(target(name), id) is not Call


def test_nothing_is_on_at_first(drills: Drills) -> None:
    assert drills.active is False and drills.rows() == [] and not meets(drills, "r1")


def test_one_request_within_a_minute_by_default(drills: Drills, clock: Clock) -> None:
    row = drills.start("a", "529")
    assert (row["requests"], row["seconds"], row["on"], row["left_requests"]) == (1, 60.0, True, 1)
    assert drills.active and not meets(drills, "r0", "b")
    assert meets(drills, "r1") and meets(drills, "r1")  # each of its attempts
    assert not meets(drills, "r2")
    row = drills.rows()[0]
    assert (row["on"], row["over"], row["met"], row["count"]) == (False, "after 1 request", ["r1"], 1)
    assert meets(drills, "r1")  # a retry of it, still
    clock.now += 60
    assert not meets(drills, "r1") and drills.active is False
    assert drills.rows()[0]["over"] == "after 1 request"


def test_a_time_alone_is_for_every_request(drills: Drills, clock: Clock) -> None:
    drills.start("a", "hang", seconds=10)
    assert all(meets(drills, f"r{n}") for n in range(50))
    clock.now += 9.9
    assert meets(drills, "r51") and drills.rows()[0]["left_s"] == 0.1
    clock.now += 0.2
    assert not meets(drills, "r52")
    assert drills.rows()[0]["over"] == "its time is over" and drills.active is False


def test_requests_and_a_time_together(drills: Drills, clock: Clock) -> None:
    drills.start("a", "cut", requests=3, seconds=5)
    assert [meets(drills, f"r{n}") for n in range(5)] == [True, True, True, False, False]
    drills.start("a", "cut", requests=3, seconds=5)
    assert meets(drills, "r9")
    clock.now += 5
    assert not meets(drills, "r10")
    assert [row["over"] for row in drills.rows()] == ["its time is over", "after 3 requests"]


def test_a_new_drill_takes_the_place_of_the_old_one(drills: Drills) -> None:
    drills.start("a", "cut", seconds=5)
    drills.start("b", "slow", seconds=5)
    drills.start("a", "429", seconds=5)
    assert [(row["provider"], row["fault"], row["on"]) for row in drills.rows()] == [
        ("a", "429", True),
        ("b", "slow", True),
        ("a", "cut", False),
    ]
    assert [row["provider"] for row in drills.stop("b")] == ["b"] and drills.active
    assert [row["over"] for row in drills.stop()] == ["ended by hand"]
    assert drills.stop() == [] and not drills.active and not meets(drills, "r")


def test_only_the_last_drills_are_remembered(drills: Drills) -> None:
    for _ in range(20):
        drills.start("a", "cut", seconds=5)
    assert len(drills.rows()) == 9 and [row["id"] for row in drills.rows()] == list(range(20, 11, -1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"fault": "plague"}, "known: 429"),
        ({"fault": "529", "requests": 0}, "1 to 1000"),
        ({"fault": "529", "seconds": DRILL_MOST_S + 1}, "1 h"),
        ({"fault": "529", "seconds": 0.0}, "1 h"),
        ({"fault": "529", "after": 3}, "cut, garbage, hang"),
        ({"fault": "cut", "after": -1}, "number of events"),
        ({"fault": "cut", "delay_s": 3.0}, "slow"),
        ({"fault": "slow", "delay_s": 601.0}, "600s"),
    ],
)
def test_what_cannot_be_drilled_is_said(drills: Drills, given: dict, says: str) -> None:
    with pytest.raises(ControlError, match=says):
        drills.start("a", **given)
    assert not drills.active


def test_the_call_is_the_fault(drills: Drills) -> None:
    drills.start("a", "slow", delay_s=2.5)
    made = drills.caller(target(), "r")
    assert isinstance(made, partial) and made.func is faulty.FaultyCall
    assert made.keywords == {"fault": FAULTS["slow"], "after": 0, "delay_s": 2.5}


# ---- the answers of faults with a status


KINDS = {
    429: FailureKind.RATE_LIMIT,
    500: FailureKind.TRANSIENT,
    503: FailureKind.OVERLOADED,
    529: FailureKind.OVERLOADED,
}


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("status", list(KINDS))
def test_an_answer_is_understood_as_the_provider_s_own(dialect: str, status: int) -> None:
    data = faulty.answer(dialect, status)
    end = http1.find_head_end(data)
    head = http1.parse_response_head(data[:end])
    assert head.status == status and int(head.headers["content-length"]) == len(data) - end
    error = DIALECTS[dialect].explain(status, head.headers, data[end:])
    assert "drill" in error.message
    assert failures.classify(error, now_wall=0.0).kind is KINDS[status]


def test_every_fault_with_a_status_has_its_answer() -> None:
    assert {fault.status for fault in FAULTS.values() if fault.status} == set(KINDS)


# ---- where a fault strikes


class FakeCall:
    """Stands for a call: notes what was done to its connection."""

    def __init__(self, content_type: str) -> None:
        self.head = SimpleNamespace(headers={"content-type": content_type})
        self.done: list[str] = []

    def break_off(self) -> None:
        self.done.append("broken")

    def fall_silent(self) -> None:
        self.done.append("silent")


SSE = "".join(f"event: e\ndata: {n}\n\n" for n in range(6)).encode()
EVENT = len(SSE) // 6


def spoiled(
    fault: str, after: int, size: int, type: str = "text/event-stream"
) -> tuple[faulty.Spoiled, FakeCall]:
    call = FakeCall(type)
    return faulty.Spoiled(call, http1.Sized(size), fault, after), call  # type: ignore[arg-type]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_cut_after_three_events_wherever_the_pieces_end(piece: int, end: bytes) -> None:
    data = SSE.replace(b"\n", end)
    body, call = spoiled("cut", 3, len(data))
    out = b"".join(body.feed(data[at : at + piece]) for at in range(0, len(data), piece))
    assert out.rstrip(b"\r\n") == data[: len(data) // 2].rstrip(b"\r\n")
    assert call.done == ["broken"] and not body.done and not body.until_close


def test_garbage_comes_once_and_then_nothing() -> None:
    body, call = spoiled("garbage", 2, len(SSE))
    assert body.feed(SSE[: EVENT * 3]) == SSE[: EVENT * 2] + faulty.GARBAGE
    assert body.feed(SSE[EVENT * 3 :]) == b"" and body.done and call.done == []


def test_silence_from_the_first_byte_on() -> None:
    body, call = spoiled("hang", 0, len(SSE))
    assert body.feed(SSE) == b"" and call.done == ["silent"] and not body.done


def test_a_shorter_stream_passes_whole() -> None:
    body, call = spoiled("cut", 7, len(SSE))
    assert body.feed(SSE) == SSE and body.done and call.done == [] and body.rest == b""


def test_a_whole_answer_is_struck_halfway() -> None:
    data = json.dumps({"a": "x" * 100}).encode()
    body, call = spoiled("cut", 5, len(data), "application/json")
    assert body.feed(data) == data[: len(data) // 2] and call.done == ["broken"]


@pytest.mark.parametrize("piece", [1, 3, 5, 1000])
def test_frames_of_aws_are_counted_by_their_length(piece: int) -> None:
    frames = [struct.pack(">I", size) + b"x" * (size - 4) for size in (16, 40, 17, 300)]
    data = b"".join(frames)
    body, call = spoiled("cut", 2, len(data), "application/vnd.amazon.eventstream")
    out = b"".join(body.feed(data[at : at + piece]) for at in range(0, len(data), piece))
    assert out == frames[0] + frames[1] and call.done == ["broken"]
