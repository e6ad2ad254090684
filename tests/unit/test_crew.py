"""What goes between a supervisor and its workers, and how they share limits, drills and connections."""

from __future__ import annotations

import os
import socket
import threading
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from ccm.config import load
from ccm.errors import ConfigError
from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord
from ccm.process import helm, parcel, scales, shares
from ccm.process.drills import SharedDrills
from ccm.process.line import Line, Message, frame, receive
from ccm.shape import replace
from tests.routing import provider, snapshot

PRICE = Price(1.0, 2.0, above=((200_000, 3.0, None),))


def test_a_record_arrives_as_it_was() -> None:
    one = RequestRecord(
        "req_1", 5.5, session="s", status=200, ending="complete", provider="a", endpoint="a#2", model="m\ud800",
        attempts=[
            Attempt("a", "m", "529", 0.1, "no", 0.0, Usage(output=3), True, 0.25, PRICE),
            Attempt("a#2", "m", "200", 0.2),
        ],
        usage=Usage(input=7, thinking=2, cost_usd=0.5), price=PRICE, losses=["x=dropped"], warned=["w"],
        cost_usd=1.5, first_content_s=0.3, why=dict,
    )  # fmt: skip
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.sendall(frame([("done", parcel.row_of(one))]))
        messages = receive(reader)
    assert messages is not None
    assert parcel.record_of(messages[0][1]) == replace(one, why=None)


def test_a_configuration_arrives_whole() -> None:
    made = snapshot(provider("a", keys=2, headers=MappingProxyType({"x": "y"})), provider("b"))
    book = load.book(made)
    again, their_book = parcel.unpack(parcel.pack(made, book))
    assert again == made
    key = again.endpoints[0].key
    assert key is not None
    assert key.secret is not None
    assert key.secret.reveal() == "a0"
    assert again.endpoints[0].provider is again.providers["a"], "one object, as before"
    with pytest.raises(TypeError):
        again.providers["a"].headers["x"] = "z"  # type: ignore[index]
    assert their_book.find("claude-opus-4-1", "anthropic") == book.find("claude-opus-4-1", "anthropic")


class End:
    """One end of a line."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[Message] = []
        self.faults: list[str] = []
        self.arrived, self.over = threading.Semaphore(0), threading.Event()
        self.line = Line(sock, self.take, self.over.set, lambda fault, where: self.faults.append(where))

    def take(self, messages: list[Message]) -> None:
        for message in messages:
            self.heard.append(message)
            self.arrived.release()
            if message[0] == "bad":
                raise ValueError("cannot be taken")


def test_a_line_keeps_order_and_outlives_faults() -> None:
    a, b = (End(sock) for sock in socket.socketpair())
    for n in range(5000):
        a.line.put(("n", n), urgent=n % 7 == 0)
    a.line.put(("bad",), urgent=True)
    a.line.put(("object", object()), urgent=True)
    a.line.put(("last", 1.5, None, [1], {"k": b"v"}), urgent=True)
    a.line.start()
    b.line.start()
    for _ in range(5002):
        assert b.arrived.acquire(timeout=5)
    assert [message[1] for message in b.heard[:5000]] == list(range(5000))
    assert b.heard[5000:] == [("bad",), ("last", 1.5, None, [1], {"k": b"v"})]
    assert b.faults == ["line"]
    assert a.faults == ["line, object"]
    a.line.put(("bye",))
    a.line.finish(5)
    assert b.over.wait(5)
    assert b.heard[-1] == ("bye",), "what was said before the end arrives"
    b.line.finish(5)
    b.line.put(("to nobody",))
    assert b.line.dropped == 1


@pytest.mark.parametrize(("limit", "workers"), [(0, 3), (3, 3), (7, 2), (256, 3)])
def test_shares_add_up(limit: int, workers: int) -> None:
    parts = [shares.share(limit, number, workers) for number in range(1, workers + 1)]
    assert sum(parts) == limit
    assert max(parts) - min(parts) <= 1


def test_each_worker_has_its_share_or_the_configuration_is_refused() -> None:
    made = replace(snapshot(provider("a", max_in_flight=5), provider("b")), workers=2, max_in_flight=9)
    shares.check(made)
    one, other = (shares.of_worker(made, number) for number in (1, 2))
    assert [one.providers["a"].max_in_flight, other.providers["a"].max_in_flight] == [3, 2]
    assert [one.max_in_flight, other.max_in_flight] == [5, 4]
    assert one.endpoints[0].provider is one.providers["a"]
    assert one.providers["b"] is made.providers["b"]
    with pytest.raises(ConfigError, match=r"providers\.a\.max_in_flight: 1 cannot be shared"):
        shares.check(replace(snapshot(provider("a", max_in_flight=1)), workers=2))


def test_a_drill_of_two_requests_is_of_two_in_all() -> None:
    told: list[Any] = []
    one, other = SharedDrills(told.append), SharedDrills()
    target: Any = SimpleNamespace(provider=SimpleNamespace(name="a"))
    for drills in (one, other):
        drills.start("a", "529", 2)
    one.caller(target, "r1")
    one.caller(target, "r1")
    assert told == [("met", "a", "r1")], "each request once"
    assert other.apply(told[0]) is True
    assert other.apply(told[0]) is True
    assert other.rows()[0]["left_requests"] == 1
    other.caller(target, "r2")
    one.apply(("met", "a", "r2"))
    assert [drills.rows()[0]["on"] for drills in (one, other)] == [False, False]
    assert one.caller(target, "r3") is other.caller(target, "r3"), "the plain call, for both"
    assert one.apply(("bound",)) is False


def test_whoever_has_more_lets_others_accept() -> None:
    made = scales.make(2)
    one, other = scales.Scales(made.fd, 2, 1), scales.Scales(made.fd, 2, 2)
    one.put(3)
    assert not one.heavy(), "there is nobody else"
    other.put(2)
    assert one.heavy()
    assert not other.heavy()
    made.leave(2)
    assert not one.heavy(), "nobody waits for one who is gone"
    os.close(made.fd)


def row(**more: Any) -> dict[str, Any]:
    return {
        "id": "a", "state": "ready", "in_flight": 0, "waiting": 0, "requests": 0, "successes": 0, "failures": 0,
        "first_content_s": None, "tokens_per_s": None, "last_error": "", "last_error_ago_s": None, "reason": "", **more,
    }  # fmt: skip


def test_rows_of_several_boards() -> None:
    one = row(
        requests=3,
        successes=2,
        failures=1,
        in_flight=1,
        first_content_s=0.1,
        last_error="x",
        last_error_ago_s=9.0,
    )
    other = row(requests=6, successes=6, first_content_s=0.5, last_error="y", last_error_ago_s=2.0)
    (found,) = helm.summed([row(state="cooling")], [[one], [other], [helm.past(one)]])
    assert found["state"] == "cooling"
    assert (found["requests"], found["successes"], found["failures"], found["in_flight"]) == (12, 10, 2, 1)
    assert found["first_content_s"] == pytest.approx((0.1 * 2 + 0.5 * 6 + 0.1 * 2) / 10)
    assert found["last_error"] == "y"
    assert helm.summed([row()], [])[0]["first_content_s"] is None
