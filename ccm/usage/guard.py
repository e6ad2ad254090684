"""The runaway guard: an agent that repeats itself, or spends far more than it used to, is warned and then stopped.

Two signs, each off unless it is set: the same tool call with the same arguments so often in a row, without a person
having said anything in between; and the money of the running hour over the median of the conversation's earlier hours.
At the limit there is a warning, at twice the limit every further request of the conversation is refused until
`ccmctl session resume`. Nothing of a request is kept but a checksum. Pure, without a lock: the meter's guards it.
"""

from __future__ import annotations

import json
import statistics
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ccm.settings import GuardSettings
from ccm.shape import dataclass
from ccm.usage.budgets import clock_text, usd

UNNAMED = "unnamed"  # conversations without a session id
MOST_SESSIONS = 2048
MOST_HOURS = 72
LEAST_HOURS = 3  # that must have cost something before their median means anything
LEAST_USD = 0.10  # an hour that costs less is no runaway, whatever the median is
HOUR_S = 3600

Call = tuple[str, int]  # the tool's name, a checksum of its arguments


@dataclass(frozen=True, slots=True)
class Run:
    """The same call `length` times in a row, at the end of a conversation."""

    length: int = 0
    name: str = ""
    digest: int = 0


NO_RUN = Run()


def recent_calls(messages: object) -> Iterator[Call]:
    """The tool calls of a conversation, the newest first, back to where a person spoke last.

    `messages` are those of a Messages request, of any quality. Arguments are compared by value, not by how they were
    written. Lazy: whoever stops asking stops the work.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        return
    for message in reversed(messages):
        if not isinstance(message, Mapping):
            continue
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        kinds = [block.get("type") if isinstance(block, Mapping) else None for block in blocks]
        if message.get("role") == "user" and "tool_result" not in kinds:
            return
        if message.get("role") != "assistant":
            continue
        for kind, block in zip(reversed(kinds), reversed(blocks), strict=True):
            if kind == "tool_use":
                yield str(block.get("name")), _checksum(block.get("input"))


def _checksum(arguments: Any) -> int:
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        text = repr(type(arguments))
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) << 20 | len(text) & 0xFFFFF


def trailing_run(calls: Iterable[Call], most: int = 10_000) -> Run:
    """How often the newest call stands there in a row. Looks no further than to the first other call."""
    first: Call | None = None
    length = 0
    for call in calls:
        if first is None:
            first = call
        elif call != first:
            break
        length += 1
        if length >= most:
            break
    return Run(length, *first) if first is not None else NO_RUN


class _Session:
    __slots__ = ("forgiven", "forgiven_usd", "hours", "since", "stopped", "told_hour", "told_run")

    def __init__(self) -> None:
        self.stopped = ""  # why, for people
        self.since = 0.0
        self.forgiven = NO_RUN  # the run that somebody has seen and let go on
        self.forgiven_usd = (0, 0.0)  # the hour, and what had been spent in it
        self.hours: OrderedDict[int, float] = OrderedDict()
        self.told_run = 0
        self.told_hour = 0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the guard thinks of a request: `stop` and `warning` are sentences, "" = nothing to say."""

    stop: str = ""
    warning: str = ""


CALM = Opinion()


class Guard:
    """All conversations that are watched, the least recently used forgotten first."""

    __slots__ = ("_sessions", "settings")

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    @property
    def on(self) -> bool:
        return self.settings.repeats > 0 or self.settings.spend_factor > 0

    def judge(self, session: str, run: Run, now: float) -> Opinion:
        """What to do with the next request of a conversation that ends in this run of calls."""
        found = self._session(session or UNNAMED)
        if found.stopped:
            return Opinion(_refusal(session or UNNAMED, found))
        stop, warning = self._of_calls(found, run)
        if not stop and session:
            stop, money = self._of_money(found, now)
            warning = warning or money
        if not stop:
            return Opinion(warning=f"runaway guard: {warning}") if warning else CALM
        found.stopped, found.since = stop, now
        return Opinion(_refusal(session or UNNAMED, found))

    def spent(self, session: str, cost_usd: float, at: float) -> None:
        """A request of this conversation has cost so much."""
        if not session or not self.settings.spend_factor:
            return
        hours = self._session(session).hours
        hour = int(at // HOUR_S)
        hours[hour] = hours.get(hour, 0.0) + cost_usd
        while len(hours) > MOST_HOURS:
            del hours[min(hours)]

    def resume(self, name: str, now: float) -> str | None:
        """Lets a stopped conversation go on; returns its full name, None where none of that name (or beginning of a
        name) is stopped. What made it stop is forgiven; the same again stops it again."""
        stopped = [key for key, one in self._sessions.items() if one.stopped]
        found = [key for key in stopped if key == name] or [key for key in stopped if key.startswith(name)]
        if len(found) != 1 or not name:
            return None
        session = self._sessions[found[0]]
        session.stopped = ""
        hour = int(now // HOUR_S)
        session.forgiven_usd = (hour, session.hours.get(hour, 0.0))
        session.told_run = session.told_hour = 0
        return found[0]

    def stopped(self) -> list[dict[str, Any]]:
        """{"session", "why", "since" (epoch seconds)} of every stopped conversation."""
        return [
            {"session": key, "why": one.stopped, "since": one.since}
            for key, one in self._sessions.items()
            if one.stopped
        ]

    def stopped_why(self, name: str) -> str:
        """Why a conversation is stopped; "" where it is not."""
        found = self._sessions.get(name)
        return found.stopped if found is not None else ""

    def stop(self, name: str, why: str, since: float, run: Run) -> None:
        """Stops a conversation as another process has done; `run` is what `resume` would forgive."""
        found = self._session(name)
        found.stopped, found.since = why, since
        if self.settings.repeats and run.length >= 2 * self.settings.repeats:
            found.forgiven = run

    def forgiven(self, name: str) -> tuple[int, str, int]:
        """What `resume` would forgive a stopped conversation: a run's length, name and digest."""
        found = self._sessions.get(name)
        run = found.forgiven if found is not None else NO_RUN
        return run.length, run.name, run.digest

    def hours(self, names: set[str] | None) -> dict[str, dict[int, float]]:
        """What these conversations (None: all) have cost, by the hour."""
        if not self.settings.spend_factor:
            return {}
        chosen = self._sessions if names is None else [name for name in names if name in self._sessions]
        return {name: dict(self._sessions[name].hours) for name in chosen}

    def take_hours(self, told: dict[str, dict[int, float]]) -> None:
        """Takes over what `hours` told elsewhere; of two figures the larger one."""
        for name, hours in told.items():
            mine = self._session(name).hours
            for hour, amount in hours.items():
                mine[hour] = max(mine.get(hour, 0.0), amount)

    def line(self) -> dict[str, Any]:
        """The guard as status shows it."""
        return {
            "on": self.on,
            "repeats": self.settings.repeats,
            "spend_factor": self.settings.spend_factor,
            "watching": len(self._sessions),
            "stopped": self.stopped(),
        }

    def _session(self, key: str) -> _Session:
        found = self._sessions.get(key)
        if found is None:
            found = self._sessions[key] = _Session()
            if len(self._sessions) > MOST_SESSIONS:
                idle = (name for name, one in self._sessions.items() if not one.stopped and name != key)
                del self._sessions[next(idle, next(iter(self._sessions)))]
        else:
            self._sessions.move_to_end(key)
        return found

    def _of_calls(self, session: _Session, run: Run) -> tuple[str, str]:
        """(why to stop, why to warn) because of repetitions."""
        limit = self.settings.repeats
        if not limit:
            return "", ""
        length, forgiven = run.length, session.forgiven
        if forgiven.digest == run.digest and forgiven.length <= length:
            length -= forgiven.length
        else:
            session.forgiven = NO_RUN
        said = f"{run.name} was called with the same arguments {length} times in a row"
        if length >= 2 * limit:
            session.forgiven = run  # should somebody let it go on
            return said, ""
        if length < limit or session.told_run == run.digest:
            if length < limit:
                session.told_run = 0
            return "", ""
        session.told_run = run.digest
        return "", f"{said}; at {2 * limit} the conversation is stopped"

    def _of_money(self, session: _Session, now: float) -> tuple[str, str]:
        """(why to stop, why to warn) because of what this hour has cost."""
        factor, hour = self.settings.spend_factor, int(now // HOUR_S)
        if not factor:
            return "", ""
        before = [amount for at, amount in session.hours.items() if at < hour and amount > 0]
        amount = session.hours.get(hour, 0.0)
        if session.forgiven_usd[0] == hour:
            amount -= session.forgiven_usd[1]
        if len(before) < LEAST_HOURS or amount < LEAST_USD:
            return "", ""
        usual = statistics.median(before)
        said = f"this hour has cost {usd(amount)}, {amount / usual:.1f} times its median hour ({usd(usual)})"
        if amount >= 2 * factor * usual:
            return said, ""
        if amount < factor * usual or session.told_hour == hour:
            return "", ""
        session.told_hour = hour
        return "", f"{said}; at {2 * factor:g} times the conversation is stopped"


def _refusal(name: str, session: _Session) -> str:
    return (
        f"the runaway guard stopped this conversation ({clock_text(session.since)}): {session.stopped}. "
        f"Look at what it is doing; `ccmctl session resume {name}` lets it go on."
    )
