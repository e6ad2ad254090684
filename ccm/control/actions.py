"""What can be done to a running ccm: one function per action, the same for `ccmctl`, curl and the dashboard.

Each takes the core and plain arguments, does the thing, remembers what must survive a restart, and answers with a
dict that holds `text` (one sentence for people) beside its figures. What cannot be done raises ControlError, which says
what would work. Nothing here waits for requests in flight.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from typing import Any

from ccm.control.core import Core
from ccm.errors import ConfigError, ControlError
from ccm.late import regex
from ccm.model import Provider
from ccm.settings import CLASSES

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = regex(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])")
MAX_SECONDS = 366 * 86400.0
LOG_LEVELS = ("debug", "info", "warning", "error")


def switch(core: Core, name: str, seconds: float | None = None, request_class: str = "") -> dict[str, Any]:
    """Puts an enabled provider with a usable key first, for so many seconds or until told otherwise; survives a
    restart. With a class (`settings.CLASSES`) only for its requests. Raises ControlError with the names that can be
    switched to."""
    provider = _find(core, name)
    _check_class(request_class)
    if not provider.enabled:
        raise ControlError(
            f"{name} is disabled in the configuration: set enabled = true there, then `ccmctl reload`", 409
        )
    if name in core.state.disabled:
        raise ControlError(f"{name} is switched off: `ccmctl enable {name}` first", 409)
    if not any(endpoint.provider.name == name for endpoint in core.snapshot.endpoints):
        problems = [key.problem for key in provider.keys if key.problem]
        raise ControlError(f"{name} has no usable key" + (f": {problems[0]}" if problems else ""), 409)
    until = None if seconds is None else time.monotonic() + seconds
    if request_class:
        previous = core.state.class_primaries.get(request_class, (None, None))[0]
        core.router.set_primary(name, until, request_class=request_class)
        core.state.set_class_primary(request_class, name, seconds)
        text = f"{name} is primary for requests of class {request_class} now"
    else:
        previous = core.router.primary
        core.router.set_primary(name, until)
        core.state.set_primary(name, seconds)
        text = f"{name} is primary now"
    text += f" for {spoken(seconds)}" if seconds is not None else ""
    if previous and previous != name:
        text += f" (it was {previous})"
    if name in core.state.drained:
        text += f"; it is being drained, `ccmctl enable {name}` ends that"
    return {"text": text, "primary": name, "previous": previous, "seconds": seconds, "class": request_class}


def auto(core: Core, request_class: str = "") -> dict[str, Any]:
    """Ends all switches, or that of one class: the strategy alone decides again."""
    _check_class(request_class)
    classes = core.state.class_primaries
    ended = [request_class] if request_class else list(classes)
    for name in ended:
        core.router.set_primary(None, None, request_class=name)
        core.state.set_class_primary(name, None)
    strategy = core.snapshot.strategy
    if request_class:
        previous = classes.get(request_class, (None, None))[0]
        text = f"requests of class {request_class} go where all others do" + (
            f" again (it was {previous})" if previous else " already"
        )
        return {"text": text, "primary": core.router.primary, "previous": previous, "class": request_class}
    previous = core.router.primary
    core.router.set_primary(None)
    core.state.set_primary(None)
    was = [previous] if previous else []
    was += [f"{provider} for {name}" for name, (provider, _) in classes.items()]
    text = f"the strategy {strategy} decides" + (f" again (it was {', '.join(was)})" if was else " already")
    return {"text": text, "primary": None, "previous": previous, "strategy": strategy, "class": ""}


def enable(core: Core, name: str) -> dict[str, Any]:
    """Ends `disable` and `drain` of a provider."""
    provider = _find(core, name)
    if not provider.enabled:
        raise ControlError(
            f"{name} is disabled in the configuration: set enabled = true there, then `ccmctl reload`", 409
        )
    core.router.set_enabled(name, True)
    core.router.drain(name, False)
    core.state.set_disabled(name, False)
    core.state.set_drained(name, False)
    return {"text": f"{name} takes requests", "name": name, "enabled": True}


def disable(core: Core, name: str) -> dict[str, Any]:
    """Takes a provider out of every choice until `enable`; running requests go on."""
    _find(core, name)
    core.router.set_enabled(name, False)
    core.state.set_disabled(name, True)
    text = f"{name} gets no requests until `ccmctl enable {name}`"
    if core.state.primary == name:
        core.router.set_primary(None)
        core.state.set_primary(None)
        text += f"; it is no longer primary, the strategy {core.snapshot.strategy} decides"
    for request_class, (primary, _) in core.state.class_primaries.items():
        if primary == name:
            core.router.set_primary(None, None, request_class=request_class)
            core.state.set_class_primary(request_class, None)
            text += f"; no longer primary for class {request_class} either"
    if not _serving(core):
        text += "; no provider is left: every request will be refused"
    return {"text": text, "name": name, "enabled": False, "left": _serving(core)}


def drain(core: Core, name: str) -> dict[str, Any]:
    """Gives a provider no new requests where another can take them; running ones end. `enable` ends it."""
    _find(core, name)
    core.router.drain(name, True)
    core.state.set_drained(name, True)
    running = sum(
        int(row.get("in_flight") or 0) for row in core.router.board() if row.get("provider") == name
    )
    text = f"{name} gets no new requests; {running} still running. `ccmctl enable {name}` ends it"
    return {"text": text, "name": name, "draining": True, "in_flight": running}


def reset(core: Core, name: str | None = None) -> dict[str, Any]:
    """Forgets failures, cool-downs and open breakers of one provider, or (None) of all."""
    if name is not None:
        _find(core, name)
    core.router.reset(name)
    return {"text": f"the failures of {name or 'all providers'} are forgotten", "name": name}


def reload(core: Core) -> dict[str, Any]:
    """Reads the configuration again. A faulty one is refused whole, with all its faults, and nothing changes."""
    try:
        result = core.reload()
    except ConfigError as error:
        raise ControlError(f"the configuration was not reloaded, the old one stays:\n{error}", 409) from None
    restore(core)
    generation = core.snapshot.generation
    answer = {"warnings": [str(problem) for problem in core.snapshot.warnings], **result}
    return {
        "generation": generation,
        **answer,
        "text": _told(f"configuration {generation} is in use", answer),
    }


def preview(core: Core) -> dict[str, Any]:
    """What `reload` would change, in words; nothing happens. Raises ControlError where it would be refused."""
    try:
        answer = core.preview()
    except ConfigError as error:
        raise ControlError(f"the configuration would be refused:\n{error}", 409) from None
    head = "a reload would change" if answer.get("changes") else "a reload would change nothing"
    return {**answer, "dry_run": True, "text": _told(head, answer)}


def _told(head: str, answer: dict[str, Any]) -> str:
    changes, warnings = list(answer.get("changes") or ()), list(answer.get("warnings") or ())
    lines = [head + (f", with {len(warnings)} warnings" if warnings else "") + (":" if changes else "")]
    lines += [f"  {line}" for line in changes]
    lines += [f"  warning: {line}" for line in warnings if line not in changes]
    return "\n".join(lines)


def hand_over(core: Core) -> dict[str, Any]:
    """Begins to start a new process that takes over without losing a request; GET /handover tells how it goes."""
    return core.hand_over()


def set_log_level(core: Core, level: str) -> dict[str, Any]:
    """Sets the log level until the next start."""
    previous = core.log_level
    try:
        core.log_level = level
    except ValueError:
        raise ControlError(f"{level!r} is no log level: one of {', '.join(LOG_LEVELS)}") from None
    return {"text": f"log level {level} (it was {previous})", "level": level, "previous": previous}


def drill(
    core: Core,
    name: str,
    fault: str,
    requests: int | None = None,
    seconds: float | None = None,
    after: int | None = None,
    delay_s: float | None = None,
) -> dict[str, Any]:
    """Puts a fault into a provider's path, for a number of requests or a time; it ends by itself. Raises ControlError."""
    provider = _find(core, name)
    if not any(endpoint.provider.name == provider.name for endpoint in core.snapshot.endpoints):
        raise ControlError(f"{name} gets no requests: it is disabled or has no usable key", 409)
    row = core.drill(name, fault, requests, seconds, after, delay_s)
    core.log.warning(
        "drill begins", provider=name, fault=fault, seconds=row["seconds"], requests=row["requests"]
    )
    many = row["requests"]
    what = (
        f"the next {many} requests" if many and many > 1 else "the next request" if many else "every request"
    )
    text = f"drill: {what} to {name} within {spoken(row['seconds'])} will find that {row['help']}"
    return {"text": text, "drill": row}


def end_drills(core: Core, name: str | None = None) -> dict[str, Any]:
    """Ends the drill of a provider, or (None) all."""
    if name is not None:
        _find(core, name)
    ended = core.end_drills(name)
    names = ", ".join(f"{row['provider']} {row['fault']}" for row in ended)
    return {"text": f"ended: {names}" if names else "no drill was on", "ended": ended}


def stop(core: Core, drain: bool = True) -> dict[str, Any]:
    """Begins to stop: running requests end first (up to the configured time), or at once with `drain` False."""
    running = core.in_flight
    core.request_stop(drain)
    text = "stopping" + (f" when {running} running requests have ended" if drain and running else "")
    return {"text": text, "in_flight": running, "drain": drain}


def restore(core: Core, clock: Callable[[], float] = time.monotonic) -> None:
    """Gives the router what the last run's people decided. For the start and for every reload; names that the
    configuration no longer has stay remembered, without effect."""
    known = core.snapshot.providers
    for name in known:
        core.router.set_enabled(name, name not in core.state.disabled)
        core.router.drain(name, name in core.state.drained)
    primary, left = core.state.primary, core.state.primary_left_s
    if primary is not None and primary in known and known[primary].enabled:
        core.router.set_primary(primary, None if left is None else clock() + left)
    else:
        core.router.set_primary(None)
    for request_class, (name, left) in core.state.class_primaries.items():
        if request_class in CLASSES and name in known and known[name].enabled:
            core.router.set_primary(
                name, None if left is None else clock() + left, request_class=request_class
            )


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "1h30m", "2d" or of a bare number of seconds. Raises ControlError."""
    compact = text.strip().lower().replace(" ", "")
    parts = _DURATION.findall(compact)
    if compact.isascii() and compact.isdigit():
        seconds = float(compact[:12])
    elif parts and "".join(number + unit for number, unit in parts) == compact:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise ControlError(f"{text!r} is no duration: write 90s, 30m, 2h or 1d")
    if not 0 < seconds <= MAX_SECONDS:
        raise ControlError(f"{text!r} is out of range: from 1s to 366d")
    return seconds


def _check_class(name: str) -> None:
    if name and name not in CLASSES:
        close = difflib.get_close_matches(name, CLASSES, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ControlError(f"there is no request class {name!r}{hint}; known: {', '.join(CLASSES)}")


def _find(core: Core, name: str) -> Provider:
    known = core.snapshot.providers
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ControlError(f"there is no provider {name!r}{hint}; configured: {', '.join(known) or 'none'}", 404)


def _serving(core: Core) -> list[str]:
    """Providers that can take requests: with an endpoint and not switched off."""
    names = dict.fromkeys(endpoint.provider.name for endpoint in core.snapshot.endpoints)
    return [name for name in names if name not in core.state.disabled]


def spoken(seconds: float) -> str:
    """A duration as people write it: 30m, 90s, 2h."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"
