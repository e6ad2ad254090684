"""Several keys of one provider: each stands and falls for itself, and the work goes to those that are well.

`api_key_env` with three names makes the endpoints "pool", "pool#2" and "pool#3".
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers
from tests.gateway import Gateway, provider
from tests.http1 import Client, message, post
from tests.upstream import Seen, Step, Upstream

KEYS = {name: f"sk-pool-{name}-0123456789abcdef" for name in ("one", "two", "three")}
ENV = {f"POOL_{name.upper()}": key for name, key in KEYS.items()}
IDS = {"one": "pool", "two": "pool#2", "three": "pool#3"}
REVOKED: Step = ("status", 401, {}, answers.error("anthropic", 401, f"invalid x-api-key: {KEYS['one']}"))
LIMITED: Step = ("status", 429, {"retry-after": "600"}, answers.error("anthropic", 429, "slow down"))
BROKE: Step = ("status", 402, {}, answers.error("anthropic", 402, "Your credit balance is too low"))
FORBIDDEN: Step = ("status", 403, {}, answers.error("anthropic", 403, "This key was disabled"))


def pool(up: Upstream, **more: Any) -> str:
    return provider(up, "pool", api_key_env=list(ENV), priority=1, **more)


def answer_by_key(up: Upstream, **bad: Step) -> None:
    """Every key answers well but the named ones."""

    def script(seen: Seen) -> list[Step]:
        name = next(name for name, key in KEYS.items() if seen.headers["x-api-key"] == key)
        return [bad.get(name, ("answer",))]

    up.reset()
    up.always("/pool", script)


def used(up: Upstream) -> Counter[str]:
    names = {key: name for name, key in KEYS.items()}
    return Counter(names[seen.headers["x-api-key"]] for seen in up.seen("/pool"))


def many(gw: Gateway, count: int, threads: int = 8) -> list[int]:
    """The statuses of `count` requests over a few kept connections; every second one is a stream."""
    statuses: list[int] = []
    left = iter(range(count))

    def work() -> None:
        with Client(gw.base_url) as client:
            for n in left:
                reply = client.post(message(stream=n % 2 == 0))
                good = reply.status != 200 or (reply.ended and reply.text == answers.TEXT)
                statuses.append(reply.status if good else -1)

    pool = [threading.Thread(target=work) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(60)
    return statuses


def status(gw: Gateway) -> dict[str, Any]:
    found = json.loads(gw.ctl("status", "--json", check=True).stdout)
    (row,) = [row for row in found["providers"] if row["name"] == "pool"]
    return row


def endpoints(gw: Gateway) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in status(gw)["endpoints"]}


def test_five_hundred_requests_on_the_one_good_key(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up, one=REVOKED, two=LIMITED)
    gw = fresh(pool(up), env=ENV)
    first = post(gw.base_url, message())
    assert first.status == 200 and first.text == answers.TEXT, first.body
    assert first.headers["x-ccm-attempts"] == "pool=401,pool#2=429,pool#3=200"
    began = time.monotonic()
    assert Counter(many(gw, 499)) == {200: 499}
    assert time.monotonic() - began < 50
    assert used(up) == {"one": 1, "two": 1, "three": 500}

    row, board = status(gw), endpoints(gw)
    assert row["state"] == "ready", row
    assert {id: board[id]["state"] for id in board} == {
        "pool": "key rejected", "pool#2": "cooling", "pool#3": "ready",
    }, board  # fmt: skip
    assert "pool: key rejected" in row["reason"] and "pool#2: cooling" in row["reason"]
    assert "401" in board["pool"]["reason"] and "429" in board["pool#2"]["reason"]
    assert 500 < board["pool#2"]["cooldown_s"] <= 600
    assert (board["pool#3"]["successes"], board["pool#3"]["failures"]) == (500, 0)
    assert [key["from"] for key in row["keys"]] == [f"env {name}" for name in ENV]
    everything = json.dumps(row) + gw.ctl("status").stdout + gw.ctl("requests").stdout + gw.log()
    for key in KEYS.values():
        assert key not in everything


@pytest.mark.parametrize(
    ("fault", "state"),
    [(REVOKED, "key rejected"), (FORBIDDEN, "key rejected"), (BROKE, "cooling"), (LIMITED, "cooling")],
    ids=["401", "403", "402", "429"],
)
def test_each_refusal_concerns_its_key_alone(
    up: Upstream, shared_gateway: Callable[..., Gateway], fault: Step, state: str
) -> None:
    gw = shared_gateway("pool", pool(up), env=ENV)
    gw.reset()
    answer_by_key(up, one=fault)
    for _ in range(5):
        assert post(gw.base_url, message()).status == 200
    assert used(up) == {"one": 1, "two": 5}
    assert {id: row["state"] for id, row in endpoints(gw).items()} == {
        "pool": state, "pool#2": "ready", "pool#3": "ready",
    }  # fmt: skip


def test_the_other_keys_come_before_the_other_provider(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up, one=REVOKED, two=REVOKED)
    up.always("/spare", ("answer", {"text": "from spare"}))
    gw = fresh(pool(up) + provider(up, "spare", priority=2), env=ENV)
    assert post(gw.base_url, message()).headers["x-ccm-provider"] == "pool"
    answer_by_key(up, one=REVOKED, two=REVOKED, three=LIMITED)
    up.always("/spare", ("answer", {"text": "from spare"}))
    assert post(gw.base_url, message()).text == "from spare"


def test_all_keys_refused_is_told_with_every_place(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up, one=REVOKED, two=FORBIDDEN, three=REVOKED)
    gw = fresh(pool(up), env=ENV)
    reply = post(gw.base_url, message())
    assert reply.status == 403
    for name in ENV:
        assert name in reply.error["message"], reply.error
    assert not [key for key in KEYS.values() if key in reply.body.decode() + gw.log()]


def test_round_robin_turns_through_the_keys(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up)
    gw = fresh(pool(up) + '\n[load_balancing]\nstrategy = "round-robin"\n', env=ENV)
    assert Counter(many(gw, 60, threads=1)) == {200: 60}
    counts = used(up)
    assert sum(counts.values()) == 60 and all(15 <= counts[name] <= 25 for name in KEYS), counts


def test_a_reload_asks_a_rejected_key_again(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up, one=REVOKED)
    gw = fresh(pool(up), env=ENV)
    assert [post(gw.base_url, message()).status for _ in range(3)] == [200] * 3
    assert used(up) == {"one": 1, "two": 3}
    answer_by_key(up)
    gw.ctl("reload", check=True)
    assert post(gw.base_url, message()).status == 200
    assert used(up) == {"one": 1}


def test_a_missing_key_leaves_the_numbers_as_they_are(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    answer_by_key(up, one=LIMITED)
    gw = fresh(pool(up), env={k: v for k, v in ENV.items() if k != "POOL_TWO"})
    assert post(gw.base_url, message()).headers["x-ccm-attempts"] == "pool=429,pool#3=200"
    assert list(endpoints(gw)) == ["pool", "pool#3"]
    assert [key["usable"] for key in status(gw)["keys"]] == [True, False, True]
