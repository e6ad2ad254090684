"""What signals ask for. The handlers of the test run are put back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ccm.process import signals

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGPIPE)


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_signal_asks_for_its_own() -> None:
    asked: list[str] = []
    reloaded, handed = threading.Event(), threading.Event()
    signals.install(lambda: asked.append("stop"), reloaded.set, handed.set)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGPIPE)
    assert reloaded.wait(2) and handed.wait(2) and asked == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked == ["stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_one_means_now(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    signals.install(lambda: None, lambda: None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert codes == []
    os.kill(os.getpid(), number)
    assert codes == [128 + number]
