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
