"""Times to first content: what a target is chosen by, and when a hedge may begin."""

from __future__ import annotations

import pytest

from ccm.routing.latency import PeakEwma, normalised


def test_long_inputs_are_allowed_for() -> None:
    assert normalised(3.0, 0) == 3.0
    assert normalised(3.0, 50_000) == pytest.approx(1.5)
    assert normalised(3.0, 100_000) == pytest.approx(1.0)


def test_bad_news_is_believed_at_once_and_good_news_by_its_age() -> None:
    ewma = PeakEwma()
    assert ewma.value() is None
    ewma.add(1.0, 0.0)
    ewma.add(5.0, 1.0)
    assert ewma.value() == 5.0
    ewma.add(1.0, 1.0)
    assert ewma.value() == 5.0
    ewma.add(1.0, 11.0)
    assert ewma.value() == pytest.approx(1 + 4 * 0.36788, rel=1e-3)


def test_who_always_loses_is_measured_again_after_twenty_choices_and_twenty_seconds() -> None:
    ewma = PeakEwma()
    for _ in range(50):
        ewma.chosen(False)
    assert not ewma.due(1000.0)  # never measured: it is not slow, it is new
    ewma.add(2.0, 0.0)
    for _ in range(20):
        assert not ewma.due(30.0)
        ewma.chosen(False)
    assert ewma.due(30.0) and not ewma.due(19.0)
    ewma.chosen(True)
    assert not ewma.due(30.0)


def test_p95_needs_ten_samples_and_grows_with_the_input() -> None:
    ewma = PeakEwma()
    for n in range(9):
        ewma.add(1.0, n)
    assert ewma.p95_s(0) is None
    ewma.add(1.0, 9.0)
    assert ewma.p95_s(0) == 1.0
    for n in range(90):
        ewma.add(20.0 if n % 10 == 0 else 2.0, n)
    assert ewma.p95_s(0) == 20.0
    assert ewma.p95_s(50_000) == 40.0
