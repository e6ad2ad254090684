"""The rows of all endpoints, and what people decided about them: switched to, switched off, drained.

Rows outlive configurations as long as provider, address and key stay the same. No lock of its own: the router's
guards it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ccm.errors import ControlError
from ccm.model import Endpoint, Snapshot
from ccm.routing.health import EndpointHealth
from ccm.settings import ROUTE_ORDER


class Board:
    """Endpoint id -> row, in the order of the configuration."""

    __slots__ = ("_disabled", "_drained", "_rng", "primaries", "rows", "snapshot")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.rows: dict[str, EndpointHealth] = {}
        self.snapshot: Snapshot | None = None
        # request class ("" = all others) -> who was switched to, and until when
        self.primaries: dict[str, tuple[str, float | None]] = {}
        self._disabled: set[str] = set()
        self._drained: set[str] = set()

    def install(self, snapshot: Snapshot) -> frozenset[str]:
        """Takes over a configuration; returns the ids of the endpoints that went. Those that stay keep their health,
        but what was out until a reload may be asked again. Steering stays as it is."""
        rows: dict[str, EndpointHealth] = {}
        for endpoint in snapshot.endpoints:
            row = self.rows.get(endpoint.id)
            if row is None or not same(row.endpoint, endpoint):
                row = EndpointHealth(endpoint, self._rng)
            else:
                row.reloaded(endpoint)
            rows[endpoint.id] = row
        gone = frozenset(self.rows) - frozenset(rows)
        self.rows, self.snapshot = rows, snapshot
        known = snapshot.providers
        self._disabled &= {name for name in self._disabled if name in known}
        self._drained &= {name for name in self._drained if name in known}
        for request_class, (name, _) in list(self.primaries.items()):
            if name not in known and name not in rows:
                del self.primaries[request_class]
        self._mark()
        return gone

    def row(self, endpoint: Endpoint) -> EndpointHealth:
        """The row of an endpoint; one of its own for an endpoint of a configuration that has just been replaced."""
        row = self.rows.get(endpoint.id)
        if row is None or not (row.endpoint is endpoint or same(row.endpoint, endpoint)):
            row = EndpointHealth(endpoint, self._rng)
            if self.snapshot is None:
                self.rows[endpoint.id] = row
        return row

    @property
    def switched_classes(self) -> tuple[str, ...]:
        """The request classes for which somebody was switched to."""
        return tuple(self.primaries)

    def primary(self, now: float, is_a: Callable[[str], bool] | None = None) -> str | None:
        """What was switched to, while that lasts: for a class the request is one of, else for all. The classes are
        asked in the order of [routes]."""
        if not self.primaries:
            return None
        classes = [name for name in ROUTE_ORDER if name in self.primaries] if is_a is not None else []
        for request_class in (*classes, ""):
            found = self.primaries.get(request_class)
            if found is None:
                continue
            name, until = found
            if until is not None and now >= until:
                del self.primaries[request_class]
            elif not request_class or (is_a is not None and is_a(request_class)):
                return name
        return None

    def set_primary(self, name: str | None, until: float | None, request_class: str = "") -> None:
        """Raises ControlError for an unknown name."""
        if name is None:
            self.primaries.pop(request_class, None)
        else:
            self.check(name, endpoints=True)
            self.primaries[request_class] = (name, until)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Raises ControlError for an unknown name."""
        self.check(name)
        (self._disabled.discard if enabled else self._disabled.add)(name)
        self._mark()

    def drain(self, name: str, draining: bool) -> None:
        """Raises ControlError for an unknown name."""
        self.check(name)
        (self._drained.add if draining else self._drained.discard)(name)
        self._mark()

    def reset(self, name: str | None) -> None:
        """Forgets the failures of a provider or endpoint, or of all. Raises ControlError for an unknown name."""
        if name is not None:
            self.check(name, endpoints=True)
        for row in self.rows.values():
            if name in (None, row.endpoint.id, row.endpoint.provider.name):
                row.reset()

    def check(self, name: str, endpoints: bool = False) -> None:
        """Raises ControlError unless a provider (or, where it may be one, an endpoint) has that name."""
        known = set(self.snapshot.providers) if self.snapshot is not None else set()
        if name in known or (endpoints and name in self.rows):
            return
        raise ControlError(f"no provider is called {name!r}; there are: {', '.join(sorted(known))}", 404)

    def _mark(self) -> None:
        for row in self.rows.values():
            name = row.endpoint.provider.name
            row.enabled, row.draining = name not in self._disabled, name in self._drained


def same(old: Endpoint, new: Endpoint) -> bool:
    """Whether health learnt of one endpoint holds for the other."""
    a, b = old.provider, new.provider
    if (a.name, a.type, a.dialect, a.base_url) != (b.name, b.type, b.dialect, b.base_url):
        return False
    if old.key is None or new.key is None:
        return old.key is new.key
    return (old.key.kind, old.key.name, old.key.secret) == (new.key.kind, new.key.name, new.key.secret)
