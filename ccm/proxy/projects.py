"""Which project a request belongs to, for the account."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ccm.wire.search import find

PROJECT_CHARS = 100
_SESSIONS_MOST = 4096
_DIRECTORY = b"orking directory: "  # as Claude Code tells the model, with a capital letter or without
_PATH = re.compile(rb'[^\\"\n<]{1,1000}')
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class Projects:
    """Which project a request belongs to: what its header says, else the last part of the working directory that the
    client tells the model. That is looked for once in a session. Without a lock: at worst it is looked for twice."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, headers: Mapping[str, str], session: str, raw: bytes) -> str:
        """The name, at most 100 characters; "" where nobody says."""
        if said := headers.get("x-ccm-project"):
            return _UNPRINTABLE.sub("", said)[:PROJECT_CHARS]
        if not session:
            return ""
        known = self._known.get(session)
        if known is None:
            known = _directory(raw)
            if len(self._known) >= _SESSIONS_MOST:
                self._known.clear()
            self._known[session] = known
        return known


def _directory(raw: bytes) -> str:
    at = find(raw, _DIRECTORY)
    match = _PATH.match(raw, at + len(_DIRECTORY)) if at >= 0 else None
    if match is None:
        return ""
    path = match[0].decode("utf-8", "replace").strip().replace("\\", "/").rstrip("/")
    return _UNPRINTABLE.sub("", path.rpartition("/")[2])[:PROJECT_CHARS]
