"""A function call that arrives in pieces: `partialArgs` with JSON paths (Vertex, streamFunctionCallArguments).

ccm never asks for it, but routes in between may. The call is put together here and handed on when it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_MAX_INDEX = 100_000
_VALUES = ("stringValue", "numberValue", "boolValue")


class PartialCall:
    """One call under way; `args` is what has arrived of its arguments."""

    def __init__(self, id: str, name: str, signature: str) -> None:
        self.id = id
        self.name = name
        self.signature = signature
        self.args: Any = {}

    def add(self, call: Mapping[str, Any]) -> None:
        """Takes in one `functionCall` of this call: whole `args`, pieces of them, or nothing."""
        given = call.get("args")
        if given is not None:
            self.args = (
                {**self.args, **given} if isinstance(given, dict) and isinstance(self.args, dict) else given
            )
        pieces = call.get("partialArgs")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, Mapping):
                self._place(piece)

    def _place(self, piece: Mapping[str, Any]) -> None:
        steps = _steps(str(piece.get("jsonPath") or ""))
        key = next((k for k in _VALUES if k in piece), None)
        if not steps or (key is None and "nullValue" not in piece):
            return
        value = piece[key] if key else None
        holder = self.args
        for step, after in pairwise(steps):
            holder = _enter(holder, step, [] if isinstance(after, int) else {})
            if holder is None:
                return
        last = steps[-1]
        if isinstance(holder, dict) and isinstance(last, str):
            before = holder.get(last)
            # strings arrive in pieces, to be joined
            holder[last] = before + value if isinstance(before, str) and isinstance(value, str) else value
        elif isinstance(holder, list) and isinstance(last, int) and last <= _MAX_INDEX:
            holder.extend([None] * (last + 1 - len(holder)))
            before = holder[last]
            holder[last] = before + value if isinstance(before, str) and isinstance(value, str) else value


def _enter(holder: Any, step: str | int, empty: Any) -> Any:
    """The container at `step`, made where there is none; None where the path does not fit what is there."""
    if isinstance(holder, dict) and isinstance(step, str):
        if holder.get(step) is None:
            holder[step] = empty
        return holder[step]
    if isinstance(holder, list) and isinstance(step, int) and step <= _MAX_INDEX:
        holder.extend([None] * (step + 1 - len(holder)))
        if holder[step] is None:
            holder[step] = empty
        return holder[step]
    return None


def _steps(path: str) -> list[str | int]:
    """`$.a[0]['b c']` as ["a", 0, "b c"]; [] for what is no such path."""
    if not path.startswith("$"):
        return []
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            return []
        name, index, single, double = match.groups()
        if index is not None:
            steps.append(int(index))
        else:
            quoted = single if single is not None else double
            steps.append(name if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = match.end()
    return steps
