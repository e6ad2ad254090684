"""`[load_balancing] hedge = true`: a provider that is unusually slow gets a rival; the first content wins, once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Reply, message, post
from tests.upstream import Upstream

SLOW = {"header_s": 30, "first_content_s": 30}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Upstream, Gateway]]:
    """A ccm that has seen enough quick answers of `a` to know what is unusual, and may hedge twice."""
    with Upstream() as up:
        config = (
            providers(up, "a", "b", timeouts=SLOW) + "[load_balancing]\nstrategy = 'priority'\nhedge = true\n"
        )
        gw = Gateway(tmp_path_factory.mktemp("hedge"), config).start()
        with ThreadPoolExecutor(4) as pool:
            for reply in pool.map(lambda _: post(gw.base_url, message()), range(70)):
                assert reply.headers["x-ccm-provider"] == "a"
        yield up, gw
        gw.stop()


def last(gateway: Gateway) -> dict[str, object]:
    told: dict[str, object] = json.loads(gateway.ctl("requests", "--limit", "1", "--json", check=True).stdout)
    rows = told["requests"]
    assert isinstance(rows, list)
    return dict(rows[0])


def board(gateway: Gateway) -> dict[str, dict[str, object]]:
    told = json.loads(gateway.ctl("providers", "--json", check=True).stdout)
    return {row["name"]: row for row in told["providers"]}


@pytest.mark.slow
def test_the_first_content_wins_and_the_loser_is_cut(world: tuple[Upstream, Gateway]) -> None:
    """R36: a provider that hangs costs seconds, not minutes."""
    up, gw = world
    up.reset()
    up.always("/a", ("stall", 25))
    up.always("/b", ("answer", {"text": "from b"}))

    def ask(stream: bool) -> Reply:
        return post(gw.base_url, message(stream=stream), timeout=30)

    started = time.monotonic()
    reply = ask(True)
    assert (reply.status, reply.text, reply.headers["x-ccm-provider"]) == (200, "from b", "b")
    grammar.check(reply.events)
    assert 5.0 <= time.monotonic() - started < 8.0, "not before five seconds, and then at once"
    assert reply.headers["x-ccm-attempts"] == "a=hedged,b=200"
    (slow,) = up.seen("/a")
    assert slow.answered.wait(2.0) and slow.gone_at is not None, "the loser goes on for nobody"
    rows = board(gw)
    assert all(not row.get("in_flight") for row in rows.values()), rows
    assert last(gw)["provider"] == "b"


@pytest.mark.slow
def test_the_own_lane_may_still_win_and_a_failed_hedge_is_no_harm(world: tuple[Upstream, Gateway]) -> None:
    up, gw = world
    up.reset()
    up.always("/a", [("stall", 6.5), ("answer", {"text": "from a"})])
    up.always("/b", ("status", 500, {}, answers.error("anthropic", 500, "no")))
    reply = post(gw.base_url, message("another conversation"), timeout=30)
    assert (reply.status, reply.text, reply.headers["x-ccm-provider"]) == (200, "from a", "a")
    assert reply.headers["x-ccm-attempts"] == "b=500,a=200"
    assert len(up.seen("/a")) == len(up.seen("/b")) == 1
