"""wire.search: the fast search and the plain one say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccm.wire import search

LONG = b"ab" * 6000


@given(st.binary(max_size=40), st.binary(max_size=5), st.integers(0, 13_000))
def test_the_same_as_bytes_find(middle, needle, start):
    data = LONG + middle + b"b" * 9000
    assert search.find(data, needle, start) == data.find(needle, start)
    assert search.contains(data, needle) == (needle in data)


@pytest.mark.parametrize("start", [0, 1, 11_999, 12_000, 12_001, 50_000])
def test_zeros_and_edges(start):
    data = LONG + b"\x00needle\x00" + LONG
    assert search.find(data, b"\x00needle\x00", start) == data.find(b"\x00needle\x00", start)
    assert search.find(data, b"", start) == data.find(b"", start)


def test_short_data():
    assert search.find(b"abc", b"c") == 2
    assert search.find(b"", b"c") == -1


NEEDLES = (b"needle", b"ne", b"\x00end", b"b" * 700, b"middle")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30_000),
            st.integers(0, 40),
            st.lists(st.sampled_from([*NEEDLES, b"nee", b"dle", b"\x00", b"x"]), max_size=3).map(b"".join),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.tuples(st.sampled_from(NEEDLES), st.sampled_from([0, 1, 29, 9_000, 20_000])), max_size=8),
)
def test_what_is_remembered_changes_no_answer(edits, asked):
    """A conversation: each text is the one before it with a piece replaced; some pieces complete a needle at an edge."""
    data = (b"ab" * 6_000) + b"nee" + (b"cd" * 6_000)
    try:
        for at, length, piece in edits:
            data = data[:at] + piece + data[at + length :]
            search.remember(data)
            for needle, start in asked:
                assert search.find(data, needle, start) == data.find(needle, start)
                assert search.find(data, needle, start) == data.find(needle, start)
    finally:
        search.forget()


def test_a_repeated_text_is_not_searched_again(monkeypatch):
    searched = []
    plain = search._find
    monkeypatch.setattr(search, "_find", lambda *a: searched.append(a[3] - a[2]) or plain(*a))
    for n in range(3):
        data = b"[" + b"ab" * 40_000 + b"turn" * n + b"cd" * 40_000 + b"]"
        search.remember(data)
        assert not search.contains(data, b'"thinking"')
        search.forget()
    assert searched[0] > 160_000
    assert all(size < 3_000 for size in searched[1:])


def test_little_is_kept():
    for n in range(40):
        search.remember(bytes([65 + n]) * 300_000)
    assert sum(len(text.data) for text in search._kept) <= search._KEPT_BYTES
    assert len(search._kept) <= search._KEPT
    search.forget()
