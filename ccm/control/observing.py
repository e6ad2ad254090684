"""What shows a running ccm to other programs: figures for Prometheus, Claude Code's status line, bodies in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ccm.control import actions, arguments, gauges, statusline
from ccm.control.arguments import Route
from ccm.control.core import Core
from ccm.errors import ControlError
from ccm.observe import bodies
from ccm.observe.metrics import CONTENT_TYPE

TEXT = "text/plain; charset=utf-8"


def debug_bodies(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    """Begins to write bodies into `path` `for` a while, or ends that (`off`); without either, says what is on."""
    if arguments.flag(args, "off", False):
        was = core.bodies.stop()
        return {
            "text": "bodies are written no more" if was else "no bodies were being written",
            "active": False,
        }
    if "path" not in args:
        now = core.bodies.status()
        text = f"bodies are written to {now['file']}" if now["active"] else "no bodies are written"
        return {"text": text, **now}
    path = os.path.expanduser(arguments.text(args, "path"))
    seconds = arguments.seconds(args, "for") or bodies.DEFAULT_S
    try:
        core.bodies.start(path, seconds)
    except ValueError as error:
        raise ControlError(str(error)) from None
    except OSError as error:
        raise ControlError(f"{path} cannot be written: {error.strerror}") from None
    spoken = actions.spoken(seconds)
    text = f"prompts and answers are written to {path} for {spoken}, without keys; `ccmctl debug-bodies off` ends it"
    return {"text": text, **core.bodies.status()}


ROUTES = (
    Route("GET", "/metrics.prom", lambda core, args: gauges.exposition(core), "the same for Prometheus", (), CONTENT_TYPE),
    Route("POST", "/statusline", statusline.line, "the line below Claude Code's prompt", ("claude", "colour"), TEXT),
    Route(
        "POST", "/debug-bodies", debug_bodies, "write bodies into a file for a while, or stop that",
        ("path", "for", "off"),
    ),
)  # fmt: skip
