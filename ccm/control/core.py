"""What the control room needs of a running ccm: the one interface between it and the composition root.

`ccm.app` satisfies `Core`; tests satisfy it with a few lines. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ccm.control.state import State
from ccm.model import ModelFacts, Snapshot
from ccm.observe.bodies import Bodies
from ccm.observe.log import Log
from ccm.observe.metrics import Metrics
from ccm.observe.record import RequestRecord
from ccm.observe.redact import Redactor
from ccm.usage.meter import Meter


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

    def set_primary(self, name: str | None, until: float | None = None, request_class: str = "") -> None:
        """Puts a provider first, until this monotonic instant (None: for good); name None ends it. With a class the
        switch is for requests of that class alone, and goes before the general one there; each is ended by itself."""
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
    bodies: Bodies
    meter: Meter

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

    @property
    def workers(self) -> Sequence[dict[str, Any]]:
        """One row per process that serves beside this one ([proxy] workers): number, pid, in_flight, connections ..."""
        ...

    def find_facts(self, model: str, type: str) -> ModelFacts:
        """What the catalogue (and the user's models file) knows of a model at a provider of this type."""
        ...

    def explain(self, id: str) -> dict[str, Any]:
        """How the request `id` ("last": the last one) was decided and what became of it: `routing.explain`'s dict with
        `id`, `at`, `status`, `ending`, `error`, `total_s` and `attempts`. Raises ControlError 404."""
        ...

    def explain_request(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """How this Messages request would be decided now; nothing is sent. Raises Refusal and ControlError."""
        ...

    def drill(
        self,
        provider: str,
        fault: str,
        requests: int | None,
        seconds: float | None,
        after: int | None,
        delay_s: float | None,
    ) -> dict[str, Any]:
        """Begins a drill (`proxy.drill.Drills.start`) and returns its row. Raises ControlError."""
        ...

    def end_drills(self, provider: str | None) -> list[dict[str, Any]]:
        """Ends the drill of a provider, or (None) all; the rows of those that were on."""
        ...

    def drills(self) -> list[dict[str, Any]]:
        """The drills that are on and the last ones that are over, youngest first."""
        ...

    @property
    def config_problem(self) -> str:
        """What is wrong with the configuration on disk since it was last read; "" = nothing."""
        ...

    def reload(self) -> dict[str, Any]:
        """Reads the configuration again and swaps it in whole: {"generation": N, "changes": [...], "warnings": [...]}.
        Raises ConfigError, and then nothing has changed."""
        ...

    def preview(self) -> dict[str, Any]:
        """What `reload` would change: {"changes": [...], "warnings": [...]}, sentences. Raises ConfigError."""
        ...

    def hand_over(self) -> dict[str, Any]:
        """Begins to start a successor and returns at once. Raises ControlError where there can be none."""
        ...

    @property
    def handover(self) -> dict[str, Any]:
        """The last handover: {"state": none | running | done | failed, "text": ...}, and pid, version where known."""
        ...

    def request_stop(self, drain: bool) -> None:
        """Begins to stop and returns at once; `drain` lets running requests end first."""
        ...
