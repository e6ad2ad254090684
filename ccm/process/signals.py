"""Signals: what each one asks for. The work is done in threads; a handler only starts it."""

from __future__ import annotations

import contextlib
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
        def on_signal(_number: int, _frame: object) -> None:
            try:
                threading.Thread(target=work, name=name, daemon=True).start()
            except (
                RuntimeError
            ):  # no thread to be had; raised from here it would end the main thread, and with it ccm
                with contextlib.suppress(OSError):
                    os.write(2, f"ccm: no thread can be started for {name}: send the signal again\n".encode())

        return on_signal

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGHUP, in_thread(reload, "ccm-reload"))
    if hand_over is not None:
        signal.signal(signal.SIGUSR2, in_thread(hand_over, "ccm-handover"))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
