"""A line of the control table, and what its functions read from the arguments they are given. Bad ones raise ControlError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ccm.control import actions
from ccm.control.core import Core
from ccm.errors import ControlError
from ccm.shape import dataclass

JSON = "application/json"
ANY = ("*",)


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table. `call` takes the core and the arguments named in `params`, as received."""

    method: str
    path: str
    call: Callable[[Core, Mapping[str, Any]], Any]
    help: str
    params: tuple[str, ...] = ()  # ANY: whatever comes, `call` judges it
    content_type: str = JSON  # else `call` returns the text itself


def text(args: Mapping[str, Any], name: str) -> str:
    """A text that must be there."""
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise ControlError(f"{name!r} is missing: a text is needed")
    return value


def word(args: Mapping[str, Any], name: str) -> str:
    """A text, or "" where it is left out."""
    value = args.get(name, "")
    if not isinstance(value, str):
        raise ControlError(f"{name!r} must be a text")
    return value


def whole(args: Mapping[str, Any], name: str) -> int | None:
    """A whole number from 0 on, also as digits; None where it is left out."""
    value = args.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or len(str(value)) > 9:
        raise ControlError(f"{name!r} must be a whole number")
    return int(str(value))


def flag(args: Mapping[str, Any], name: str, default: bool) -> bool:
    """true or false, or the default."""
    value = args.get(name, default)
    if not isinstance(value, bool):
        raise ControlError(f"{name!r} must be true or false")
    return value


def seconds(args: Mapping[str, Any], name: str) -> float | None:
    """A duration ("30m") or a number of seconds; None where it is left out."""
    value = args.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ControlError(f"{name!r} must be a duration such as 30m, or a number of seconds")
    if not isinstance(value, str):
        value = f"{value:.0f}s" if value == value and abs(value) < 1e9 else "out of range"
    return actions.parse_duration(value)


def limit(args: Mapping[str, Any]) -> int:
    """How many rows: 20 where it is left out."""
    count = whole(args, "limit")
    return 20 if count is None else count
