"""Which endpoint keeps a conversation."""

from __future__ import annotations

from ccm.routing.affinity import IDLE_S, MOST, Affinity


def test_bound_moved_and_kept() -> None:
    table = Affinity()
    assert table.find(("s", "m"), 0.0) is None
    table.bind(("s", "m"), "a", 0.0)
    assert table.find(("s", "m"), 1.0) == "a"
    table.bind(("s", "m"), "b", 2.0)
    assert (table.find(("s", "m"), 3.0), table.moves) == ("b", 1)
    assert table.find(("s", "other"), 3.0) is None


def test_binding_again_is_no_move() -> None:
    table = Affinity()
    table.bind(("s", "m"), "a", 0.0)
    table.bind(("s", "m"), "a", 1.0)
    assert table.moves == 0


def test_idle_entries_end_and_use_keeps_them() -> None:
    table = Affinity()
    table.bind(("s", "m"), "a", 0.0)
    assert table.find(("s", "m"), IDLE_S) == "a"
    assert table.find(("s", "m"), 2 * IDLE_S) == "a"
    assert table.find(("s", "m"), 3 * IDLE_S + 1) is None
    assert len(table) == 0


def test_bounded_and_the_least_recently_used_goes_first() -> None:
    table = Affinity()
    for n in range(MOST):
        table.bind((str(n), "m"), "a", 0.0)
    table.find(("0", "m"), 1.0)
    table.bind(("new", "m"), "a", 1.0)
    assert len(table) == MOST
    assert table.find(("0", "m"), 2.0) == "a"
    assert table.find(("1", "m"), 2.0) is None


def test_forget_endpoints() -> None:
    table = Affinity()
    table.bind(("s", "m"), "a", 0.0)
    table.bind(("t", "m"), "b", 0.0)
    table.forget(frozenset({"a"}))
    assert (table.find(("s", "m"), 1.0), table.find(("t", "m"), 1.0)) == (None, "b")
