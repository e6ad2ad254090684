"""Routers of several processes: what one has learnt, all know; none of it passes through a request."""

from __future__ import annotations

import marshal
import random
from typing import Any

from ccm.model import FailureKind as K
from ccm.model import Outcome
from ccm.routing.quota import Quota, Window
from ccm.routing.shared import BOUND_EVERY_S, News, SharedRouter
from tests.routing import Clock, World, provider, snapshot

TWO = (provider("a", priority=1), provider("b", priority=2))


class Pair:
    """Two routers with one clock; `pass_on` carries the news of the first to the second, as plain data."""

    def __init__(self, *providers: Any, **more: Any) -> None:
        self.news: list[News] = []
        self.one, self.other = World(*providers, **more), World(*providers, **more)
        clock = self.one.clock
        self.other.clock = clock
        self.one.router = SharedRouter(self.news.append, clock=clock, rng=random.Random(1))
        self.other.router = self.taker = SharedRouter(clock=clock, rng=random.Random(2))
        for world in (self.one, self.other):
            world.router.install(world.snapshot)

    def pass_on(self) -> list[str]:
        told, self.news[:] = list(self.news), []
        for news in told:
            assert self.taker.apply(marshal.loads(marshal.dumps(news))) is True
        return [news[0] for news in told]


def test_a_cool_down_and_its_end() -> None:
    pair = Pair(*TWO)
    pair.one.spoil("a", K.RATE_LIMIT, wait=60.0)
    assert pair.other.ids()[0] == "a", "nobody has told it yet"
    assert pair.pass_on() == ["health"]
    assert pair.other.ids()[0] == "b"
    row = pair.other.row("a")
    assert row["state"] == "cooling"
    assert abs(row["until_s"] - 60.0) < 0.2
    pair.one.clock.now += 1.0
    late = next(t for t in pair.one.route(pin="a").targets if t.endpoint.id == "a")
    ticket = pair.one.router.reserve(late, pair.one.route(pin="a"))
    assert ticket is not None
    pair.one.router.release(ticket, Outcome(first_content_s=0.1))
    assert "health" in pair.pass_on()
    assert pair.other.row("a")["state"] == "ready", "a success has disproved it"
    assert pair.other.ids()[0] == "a"


def test_a_breaker_opens_and_recovers_everywhere() -> None:
    pair = Pair(*TWO)
    pair.one.spoil("a", K.CONNECT, times=5)
    assert pair.one.row("a")["state"] == "open"
    pair.pass_on()
    assert pair.other.row("a")["state"] == "open"
    assert pair.other.ids()[0] == "b"
    pair.one.clock.now += 60.0
    assert pair.other.row("a")["state"] == "half-open"
    for _ in range(2):
        pair.one.end(next(t for t in pair.one.route().targets if t.endpoint.id == "a"))
    pair.pass_on()
    assert pair.other.row("a")["state"] == "ready"


def test_what_has_not_changed_is_not_told() -> None:
    pair = Pair(*TWO)
    for _ in range(5):
        pair.one.end(pair.one.route().targets[0])
    assert pair.pass_on() == []


def test_a_conversation_is_where_it_was_answered() -> None:
    pair = Pair(provider("a"), provider("b"), strategy="round-robin")
    request = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    for n in range(6):
        session = f"s{n}"
        target = pair.one.route(session=session, request=request).targets[0]
        pair.one.end(target)
        assert set(pair.pass_on()) == {"bound"}
        for _ in range(3):
            assert pair.other.ids(session=session, request=request)[0] == target.endpoint.id
        pair.one.end(target_of(pair, session, request))
        assert pair.pass_on() == [], "it has not moved"
        pair.one.clock.now += BOUND_EVERY_S
        pair.one.end(target_of(pair, session, request))
        assert set(pair.pass_on()) == {"bound"}, "its age is told now and then"


def target_of(pair: Pair, session: str, request: dict[str, Any]) -> Any:
    return pair.one.route(session=session, request=request).targets[0]


def test_quotas_and_broken_streams() -> None:
    pair = Pair(*TWO)
    ticket = pair.one.router.reserve(pair.one.route().targets[0])
    assert ticket is not None
    now = pair.one.clock.now
    pair.one.router.quota(ticket, Quota((Window("5h window", 0.25, now + 100.0, True),)))
    assert pair.pass_on() == ["quota"]
    assert pair.other.row("a")["quota"] == {"left_percent": 25.0, "resets_s": 100.0, "what": "5h window"}
    pair.one.router.quota(ticket, Quota((Window("5h window", 0.24, now + 100.0, True),)))
    assert pair.pass_on() == [], "not with every answer"
    pair.one.router.quota(ticket, Quota((Window("5h window", 0.0, now + 100.0, True),)))
    assert pair.pass_on() == ["quota"], "unless nothing is left"
    pair.one.router.release(ticket, Outcome(cancelled=True))

    pair.one.router.avoid(77, "a")
    assert pair.pass_on() == ["avoid"]
    assert pair.other.ids(body_key=77) == ["b", "a"]
    assert pair.other.ids(body_key=78) == ["a", "b"] or pair.other.row("a")["quota"]["left_percent"] == 0.0


def test_news_of_another_key_and_nonsense_change_nothing() -> None:
    pair = Pair(*TWO)
    pair.one.spoil("a", K.CREDENTIAL)
    news = pair.news[0]
    stranger = SharedRouter(clock=Clock())
    stranger.install(snapshot(provider("a", keys=2), provider("b")))
    wrong = (news[0], "a", "0123456789abcdef", *news[3:])
    assert stranger.apply(wrong) is True
    assert [row["state"] for row in stranger.board()] == ["ready", "ready", "ready"]
    assert pair.taker.apply(("met", "a", "x")) is False, "not the router's"
    assert pair.taker.apply(()) is False
    for nonsense in (
        ("health", "a"),
        ("bound",),
        ("quota", "a", news[2], "m", [1]),
        ("health", "a", news[2], 1, "m", 2),
    ):
        assert pair.taker.apply(nonsense) is True
    assert pair.other.row("a")["state"] == "ready"
