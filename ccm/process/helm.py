"""What people steer and see, where several processes serve: each thing is done here and told to all workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccm.observe.bodies import DEFAULT_S, Bodies
from ccm.observe.log import Log
from ccm.process.line import Message
from ccm.routing.shared import SharedRouter
from ccm.settings import UsageSettings
from ccm.usage.shared import SharedMeter
from ccm.usage.store import Store

Tell = Callable[[Message], None]
Rows = list[dict[str, Any]]

_SUMMED = ("in_flight", "waiting", "requests", "successes", "failures")
_AVERAGED = ("first_content_s", "tokens_per_s")


class Helm:
    """The router's steering (`control.core.Steering`). `router` knows what all have learnt; `boards` are the workers'."""

    def __init__(self, router: SharedRouter, tell: Tell, boards: Callable[[], Sequence[Rows]]) -> None:
        self._router, self._tell, self._boards = router, tell, boards

    @property
    def primary(self) -> str | None:
        """Who was switched to, while that lasts."""
        return self._router.primary

    def board(self) -> Rows:
        """One row per endpoint: health as all know it, counters of all workers together."""
        return summed(self._router.board(), self._boards())

    def set_primary(self, name: str | None, until: float | None = None, request_class: str = "") -> None:
        """As the router's; raises ControlError before any worker hears of it."""
        self._router.set_primary(name, until, request_class)
        self._tell(primary_message(self._router, name, until, request_class))

    def set_enabled(self, name: str, enabled: bool) -> None:
        """As the router's."""
        self._router.set_enabled(name, enabled)
        self._tell(("steer", "enabled", name, enabled))

    def drain(self, name: str, draining: bool = True) -> None:
        """As the router's."""
        self._router.drain(name, draining)
        self._tell(("steer", "drain", name, draining))

    def reset(self, name: str | None = None) -> None:
        """As the router's."""
        self._router.reset(name)
        self._tell(("steer", "reset", name))


def primary_message(
    router: SharedRouter, name: str | None, until: float | None, request_class: str
) -> Message:
    """A switch for a worker, with the time that is left instead of an instant of our clock."""
    left_s = None if until is None else until - router.clock()
    return ("steer", "primary", name, left_s, request_class)


def summed(own: Rows, theirs: Sequence[Rows]) -> Rows:
    """The rows of `own`, with the counters of `theirs`. Averages weigh by successes; the youngest error is the last."""
    found = []
    for row in own:
        same = [one for rows in theirs for one in rows if one["id"] == row["id"]]
        sums: dict[str, Any] = {name: sum(one[name] for one in same) for name in _SUMMED}
        for name in _AVERAGED:
            known = [(one[name], max(1, one["successes"])) for one in same if one[name] is not None]
            weight = sum(many for _, many in known)
            sums[name] = round(sum(value * many for value, many in known) / weight, 4) if known else None
        first = sums["first_content_s"]
        sums["first_content_ms"] = None if first is None else round(first * 1000)
        failed = [one for one in same if one["last_error_ago_s"] is not None]
        if failed:
            last = min(failed, key=lambda one: float(one["last_error_ago_s"]))
            sums["last_error"], sums["last_error_ago_s"] = last["last_error"], last["last_error_ago_s"]
        if row["state"] == "draining":
            sums["reason"] = f"{sums['in_flight']} in flight"
        found.append({**row, **sums})
    return found


def past(row: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of the row of a worker that has ended: its counters."""
    return {**row, "in_flight": 0, "waiting": 0, "last_error": "", "last_error_ago_s": None}


class HelmMeter(SharedMeter):
    """Budgets of all workers: the sums are here, what is reserved is known to the workers (`lines`)."""

    def __init__(
        self, settings: UsageSettings, store: Store | None, tell: Tell, lines: Callable[[], Sequence[Rows]]
    ) -> None:
        super().__init__(settings, store)
        self._to_all, self._lines = tell, lines

    def status(self) -> dict[str, Any]:
        """As the meter's, with what the workers have reserved."""
        told = super().status()
        for row in told["budgets"]:
            same = [one for lines in self._lines() for one in lines if one["name"] == row["name"]]
            row["reserved_usd"] = round(sum(one["reserved_usd"] for one in same), 6)
            row["running"] = sum(one["running"] for one in same)
            left = row["limit_usd"] - row["spent_usd"] - row["reserved_usd"]
            row["left_usd"] = round(max(0.0, left), 6)
            if left <= 0 and row["state"] not in ("used up", "lifted"):
                row["state"] = "reserved"
        return told

    def lift(self, name: str, seconds: float | None = None) -> dict[str, Any]:
        """As the meter's, in all workers."""
        answer = super().lift(name, seconds)
        for news in self.lifted():
            self._to_all(("news", news))
        return answer

    def restore(self, name: str) -> dict[str, Any]:
        """As the meter's, in all workers."""
        answer = super().restore(name)
        self._to_all(("news", ("lifted", name, float("-inf"))))
        return answer

    def resume_session(self, name: str) -> dict[str, Any]:
        """As the meter's, in all workers."""
        answer = super().resume_session(name)
        self._to_all(("news", ("resumed", answer["session"])))
        return answer


class HelmBodies(Bodies):
    """Bodies of all workers in one file; each of them opens it, and writes whole lines."""

    def __init__(self, clean: Callable[[str], str], log: Log, tell: Tell) -> None:
        super().__init__(clean, log)
        self._tell = tell

    def start(self, path: str, seconds: float = DEFAULT_S) -> None:
        """As in one process; raises before any worker hears of it."""
        super().start(path, seconds)
        self._tell(("bodies", path, seconds))

    def stop(self, why: str = "asked to") -> bool:
        """As in one process."""
        was = super().stop(why)
        if was:
            self._tell(("bodies", "", 0.0))
        return was


class Recorder:
    """Steering that only notes what would be said to the workers: for one that has just begun."""

    def __init__(self, router: SharedRouter) -> None:
        self._router = router
        self.messages: list[Message] = []

    def set_primary(self, name: str | None, until: float | None = None, request_class: str = "") -> None:
        """Noted."""
        self.messages.append(primary_message(self._router, name, until, request_class))

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Noted."""
        self.messages.append(("steer", "enabled", name, enabled))

    def drain(self, name: str, draining: bool = True) -> None:
        """Noted."""
        self.messages.append(("steer", "drain", name, draining))
