"""What the control room needs of a running ccm: the one interface between it and the composition root.

`ccm.app` satisfies `Core`; tests satisfy it with a few lines. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ccm.control.state import State
from ccm.model import Snapshot
from ccm.observe.log import Log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor


class Steering(Protocol):
    """The part of `routing.router` that people steer. `name` is a provider's name. Every call is thread-safe."""

    @property
    def primary(self) -> str | None:
        """The provider that was switched to and still is first; None while the strategy alone decides."""
        ...

    def board(self) -> list[dict[str, Any]]:
        """One row per endpoint: `id`, `provider`, `state` (closed | open | half-open), and as far as they apply
        `cooldown_s` (seconds still to wait), `reason` (why, in words), `in_flight`, `successes`, `failures`,
        `first_content_s`, `enabled`, `draining`. Further keys are handed on as they are."""
        ...

    def set_primary(self, name: str | None, until: float | None = None) -> None:
        """Puts a provider first, until this monotonic instant (None: for good); name None ends it."""
        ...

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Takes a provider out of, or back into, every choice."""
        ...

    def drain(self, name: str, draining: bool = True) -> None:
        """Gives a provider no new requests, except where no other is left; running ones go on. False ends it."""
        ...

    def reset(self, name: str | None = None) -> None:
        """Forgets failures, cool-downs and open breakers of one provider, or of all."""
        ...


class Core(Protocol):
    """A running ccm."""

    version: str
    started_at: float  # monotonic
    metrics: Metrics
    state: State
    redactor: Redactor
    log: Log

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def router(self) -> Steering: ...

    @property
    def recent(self) -> Sequence[RequestRecord]:
        """The last finished requests, oldest first: a bounded deque that others append to meanwhile."""
        ...

    @property
    def address(self) -> str:
        """Where it listens: "127.0.0.1:13456"."""
        ...

    @property
    def in_flight(self) -> int: ...

    @property
    def log_level(self) -> str: ...

    @log_level.setter
    def log_level(self, level: str) -> None:
        """Raises ValueError for what is no level."""
        ...

    @property
    def stopping(self) -> bool: ...

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again and swaps it in whole: {"generation": N, "warnings": [...]}.
        Raises ConfigError, and then nothing has changed."""
        ...

    def request_stop(self, drain: bool) -> None:
        """Begins to stop and returns at once; `drain` lets running requests end first."""
        ...
