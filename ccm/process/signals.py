"""Signals: what each one asks for. The work is done in threads; a handler only starts it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def install(
    stop: Callable[[], None], reload: Callable[[], None], hand_over: Callable[[], None] | None = None
) -> None:
    """SIGTERM and SIGINT stop, and end everything at once when they come again; SIGHUP reloads; SIGUSR2 hands over.

    To be called in the main thread. `reload` and `hand_over` run in threads of their own.
    """
    asked: list[int] = []

    def on_stop(number: int, _frame: object) -> None:
        if asked:
            os._exit(128 + number)  # a second signal means now
        asked.append(number)
        stop()

    def in_thread(work: Callable[[], None], name: str) -> Callable[[int, object], None]:
        return lambda _number, _frame: threading.Thread(target=work, name=name, daemon=True).start()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGHUP, in_thread(reload, "ccm-reload"))
    if hand_over is not None:
        signal.signal(signal.SIGUSR2, in_thread(hand_over, "ccm-handover"))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
