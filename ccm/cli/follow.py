"""Commands that go on: `requests -f`, and `--watch` of any command that only reads. Both end with Ctrl-C, which is no fault."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ccm.cli import render, views
from ccm.control.client import NotRunning, Unanswered

POLL_S = 0.5
_BATCH = 1000
_HOME_AND_CLEAR = "\x1b[H\x1b[2J"

Ask = Callable[..., Any]


def requests(
    given: argparse.Namespace, path: str, ask: Ask, pause: Callable[[float], None] = time.sleep
) -> int:
    """The last requests, oldest first, then every further one as it ends: none twice, none left out. A ccm that is
    started again is waited for; what may have been missed is said."""
    rows = ask(path, "GET", "/requests", {"limit": given.limit})
    _write(reversed(rows["requests"]), given.json)
    cursor, away = rows["cursor"], False
    while True:
        try:
            rows = ask(path, "GET", "/requests", {"limit": _BATCH, "after": cursor})
        except (NotRunning, Unanswered) as error:
            if not away:
                print(f"ccmctl: {error}; waiting for it", file=sys.stderr)
            away = True
            pause(POLL_S * 2)
            continue
        away = False
        if rows["gap"]:
            print(
                "ccmctl: ccm was started again, or many requests ended at once: some may be missing",
                file=sys.stderr,
            )
        _write(reversed(rows["requests"]), given.json)
        cursor = rows["cursor"]
        if not rows["more"]:
            pause(POLL_S)


def _write(rows: Any, as_json: bool) -> None:
    on = render.screen()
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if as_json else views.request_line(row, on))
    sys.stdout.flush()


def watch(seconds: float, once: Callable[[], int], pause: Callable[[float], None] = time.sleep) -> int:
    """Runs a command every so many seconds: in place on a terminal, one block after the other in a pipe. Ends with
    its first failure's code."""
    live = sys.stdout.isatty() and render.screen().width is not None
    first = True
    while True:
        if live:
            sys.stdout.write(_HOME_AND_CLEAR)
        elif not first:
            sys.stdout.write("\n")
        first = False
        code = once()
        sys.stdout.flush()
        if code:
            return code
        pause(seconds)
