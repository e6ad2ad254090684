"""`ccmctl handover` (also `ccmctl restart --handover`): waits until a new process serves, or says why none does."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ccm.control.client import Unanswered, ask
from ccm.errors import ControlError

PATIENCE_S = 20.0  # ccm itself gives the new process 10 s to be ready and 5 to serve
_LOOK_S = 0.1


def follow(path: str, begun: Any) -> Any:
    """The end of the handover that was begun. Raises ControlError where no process has taken over."""
    answer, end = begun, time.monotonic() + PATIENCE_S
    while answer["state"] == "running":
        if time.monotonic() >= end:
            raise ControlError(f"no end of the handover after {PATIENCE_S:g} s: {answer['text']}")
        time.sleep(_LOOK_S)
        try:
            answer = ask(path, "GET", "/handover")
        except Unanswered:  # asked in the very moment of the change
            continue
    if answer["state"] != "done":
        raise ControlError(str(answer["text"]))
    return answer


def reload_arguments(parser: argparse.ArgumentParser) -> None:
    """What `ccmctl reload` takes."""
    parser.add_argument("--dry-run", action="store_true", help="only tell what would change, in words")
