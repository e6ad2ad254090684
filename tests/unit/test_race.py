"""Who is cut when a race ends: the other lane while it runs, never a connection that was given back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ccm.proxy.race import HEDGE, OWN, Race

Pair = tuple[Any, socket.socket]


@pytest.fixture
def calls() -> Iterator[list[Pair]]:
    """Two running calls, each with the provider's end of its connection."""
    made = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        made.append((SimpleNamespace(sock=ours, held=True), theirs))
    yield made
    for call, theirs in made:
        call.sock.close()
        theirs.close()


def is_cut(theirs: socket.socket) -> bool:
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


def race(calls: list[Pair]) -> Race:
    one: Any = Race(SimpleNamespace(), lambda race: None)  # type: ignore[arg-type]
    for lane, (call, _) in zip((OWN, HEDGE), calls, strict=True):
        assert one.enter(lane, call)
        one.start(lane, SimpleNamespace(), 0.0)
    return one  # type: ignore[no-any-return]


def test_the_winner_cuts_the_other_lane(calls: list[Pair]) -> None:
    one: Any = race(calls)
    assert one.win(HEDGE, SimpleNamespace(), SimpleNamespace())
    assert [is_cut(theirs) for _, theirs in calls] == [True, False]


def test_a_lane_that_failed_by_itself_is_cut_by_nobody(calls: list[Pair]) -> None:
    """A refusal that was read to its end has given its connection back: it may be another request's by now."""
    one: Any = race(calls)
    assert one.fail(OWN)
    assert one.win(HEDGE, SimpleNamespace(), SimpleNamespace())
    assert [is_cut(theirs) for _, theirs in calls] == [False, False]


def test_a_race_without_a_winner_cuts_only_who_still_runs(calls: list[Pair]) -> None:
    one: Any = race(calls)
    assert one.fail(OWN)
    one.close()
    assert [is_cut(theirs) for _, theirs in calls] == [False, True]


def test_a_connection_that_was_given_back_is_left_alone(calls: list[Pair]) -> None:
    one: Any = race(calls)
    calls[OWN][0].held = False  # given back, and its failure not yet told
    one.close()
    assert [is_cut(theirs) for _, theirs in calls] == [False, True]
