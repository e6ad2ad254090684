"""Which endpoint holds a conversation's prompt cache: conversation x model -> endpoint, bounded.

A cold retry costs four to six times a warm one, so a conversation stays where it was answered: bound on success,
moved when another endpoint answered instead, and then kept there (going back would pay for a second cold prompt).
It is a preference among endpoints that could all serve, never more: health, a pin and a switch come first. The
client's leaving, probes and failures change nothing. Idle entries end after an hour, the oldest go beyond 4096. No
lock of its own: the router's guards it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

Key = tuple[str, str]  # session or fingerprint, model as asked for (and where a rule sends it)

MOST = 4096
IDLE_S = 3600.0


class Affinity:
    """The table. Least recently used first."""

    __slots__ = ("_most", "_table", "_ttl_s", "moves")

    def __init__(self, most: int = MOST, idle_s: float = IDLE_S) -> None:
        self._table: OrderedDict[Key, list[Any]] = OrderedDict()  # [endpoint id, when last used]
        self._most = most
        self._ttl_s = idle_s
        self.moves = 0  # bindings that changed their endpoint

    def __len__(self) -> int:
        return len(self._table)

    def find(self, key: Key, now: float) -> str | None:
        """The endpoint id this conversation is bound to, or None. Using a binding keeps it alive."""
        entry = self._table.get(key)
        if entry is None:
            return None
        endpoint, used = entry
        if now - used > self._ttl_s:
            del self._table[key]
            return None
        entry[1] = now
        self._table.move_to_end(key)
        found: str = endpoint
        return found

    def peek(self, key: Key, now: float) -> str | None:
        """The same without keeping it alive: for those who only want to know."""
        endpoint, used = self._table.get(key) or (None, now)
        return endpoint if now - used <= self._ttl_s else None

    def idle_s(self, key: Key, now: float) -> float | None:
        """How long a binding has not been used; None where there is none."""
        entry = self._table.get(key)
        return None if entry is None else now - entry[1]

    def bind(self, key: Key, endpoint: str, now: float, *, counted: bool = True) -> None:
        """The endpoint has just answered this conversation. Not `counted`: a change is no move of a conversation."""
        table = self._table
        entry = table.get(key)
        if entry is None:
            table[key] = [endpoint, now]
            while len(table) > self._most:
                table.popitem(last=False)
            return
        if entry[0] != endpoint:
            entry[0] = endpoint
            if counted:
                self.moves += 1
        entry[1] = now
        table.move_to_end(key)

    def entries(self) -> Iterator[tuple[Key, str, float]]:
        """(conversation, endpoint, when last used), the least recently used first."""
        return ((key, endpoint, used) for key, (endpoint, used) in self._table.items())

    def forget(self, endpoints: frozenset[str]) -> None:
        """Unbinds everything that is bound to one of these endpoints (they are gone from the configuration)."""
        for key in [key for key, (endpoint, _) in self._table.items() if endpoint in endpoints]:
            del self._table[key]
