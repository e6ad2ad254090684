"""What can be done to a running ccm: one function per action, the same for `ccmctl`, curl and the dashboard.

Each takes the core and plain arguments, does the thing, remembers what must survive a restart, and answers with a
dict that holds `text` (one sentence for people) beside its figures. What cannot be done raises ControlError, which says
what would work. Nothing here waits for requests in flight.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from typing import Any

from ccm.control.core import Core
from ccm.errors import ConfigError, ControlError
from ccm.model import Provider

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])")
MAX_SECONDS = 366 * 86400.0
LOG_LEVELS = ("debug", "info", "warning", "error")


def switch(core: Core, name: str, seconds: float | None = None) -> dict[str, Any]:
    """Puts an enabled provider with a usable key first, for so many seconds or until told otherwise; survives a
    restart. Raises ControlError with the names that can be switched to."""
    provider = _find(core, name)
    if not provider.enabled:
        raise ControlError(
            f"{name} is disabled in the configuration: set enabled = true there, then `ccmctl reload`", 409
        )
    if name in core.state.disabled:
        raise ControlError(f"{name} is switched off: `ccmctl enable {name}` first", 409)
    if not any(endpoint.provider.name == name for endpoint in core.snapshot.endpoints):
        problems = [key.problem for key in provider.keys if key.problem]
        raise ControlError(f"{name} has no usable key" + (f": {problems[0]}" if problems else ""), 409)
    previous = core.router.primary
    core.router.set_primary(name, None if seconds is None else time.monotonic() + seconds)
    core.state.set_primary(name, seconds)
    text = f"{name} is primary now" + (f" for {_spoken(seconds)}" if seconds is not None else "")
    if previous and previous != name:
        text += f" (it was {previous})"
    if name in core.state.drained:
        text += f"; it is being drained, `ccmctl enable {name}` ends that"
    return {"text": text, "primary": name, "previous": previous, "seconds": seconds}


def auto(core: Core) -> dict[str, Any]:
    """Ends a switch: the strategy alone decides again."""
    previous = core.router.primary
    core.router.set_primary(None)
    core.state.set_primary(None)
    strategy = core.snapshot.strategy
    text = f"the strategy {strategy} decides" + (f" again (it was {previous})" if previous else " already")
    return {"text": text, "primary": None, "previous": previous, "strategy": strategy}


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
    warnings = [str(problem) for problem in core.snapshot.warnings]
    text = f"configuration {generation} is in use" + (f", with {len(warnings)} warnings" if warnings else "")
    return {"generation": generation, "warnings": warnings, **result, "text": text}


def set_log_level(core: Core, level: str) -> dict[str, Any]:
    """Sets the log level until the next start."""
    previous = core.log_level
    try:
        core.log_level = level
    except ValueError:
        raise ControlError(f"{level!r} is no log level: one of {', '.join(LOG_LEVELS)}") from None
    return {"text": f"log level {level} (it was {previous})", "level": level, "previous": previous}


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


def _spoken(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"
