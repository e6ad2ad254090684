"""Files in which people keep keys, beside the environment: which known names stand in them, and the value of one of
them once its owner has agreed. A look for names keeps no value and shows none; shell files are looked at for names only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ccm.shape import dataclass

_MAX_BYTES = 1024 * 1024
_SHELL_FILES = (
    ".bashrc", ".bash_profile", ".bash_login", ".profile", ".zshrc", ".zshenv", ".zprofile", ".config/fish/config.fish",
    ".pam_environment",
)  # fmt: skip
_EXPORT = re.compile(
    r"^[ \t]*(?:export[ \t]+|set[ \t]+(?:-\S+[ \t]+)+)?([A-Z][A-Z0-9_]{2,63})(?:=|[ \t]+\S)", re.M
)
_DOTENV = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Z][A-Z0-9_]{2,63})[ \t]*=[ \t]*(.*?)[ \t\r]*$", re.M)

Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """A file with keys in it: `names` are the known variables that it gives a value to."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[Path], Values]

    def value(self, name: str) -> str:
        """The value of one name; "" where it is gone since. To be called only after the user agreed."""
        return self.read(self.path).get(name, "")


def places(home: Path, folder: Path, known: Iterable[str]) -> list[Place]:
    """The files that hold values of `known` names, in the order in which they are believed."""
    wanted = set(known)
    claude = home / ".claude" / "settings.json"
    readers: tuple[tuple[Path, Callable[[Path], Values]], ...] = (
        (folder / ".env", dotenv),
        (folder / ".env.local", dotenv),
        (home / ".env", dotenv),
        (home / ".gemini" / ".env", dotenv),
        (claude, _claude_settings),
        (folder / ".claude" / "settings.local.json", _claude_settings),
        (home / ".codex" / "auth.json", _members),
    )
    found = []
    for path, read in dict(readers).items():
        names = tuple(name for name, value in read(path).items() if name in wanted and value)
        if names:
            found.append(Place(path, names, read))
    return found


def exported(home: Path, known: Iterable[str]) -> dict[str, Path]:
    """Known names that a start file of the user's shells sets, with the file. No value is looked at."""
    wanted = set(known)
    found: dict[str, Path] = {}
    for path in (home / name for name in _SHELL_FILES):
        for match in _EXPORT.finditer(_text(path)):
            if match[1] in wanted:
                found.setdefault(match[1], path)
    return found


def dotenv(path: Path) -> Values:
    """NAME=value lines, values with or without quotes; what holds a $ or ` would need a shell and is left out."""
    found = {}
    for name, raw in _DOTENV.findall(_text(path)):
        quote = raw[:1]
        if quote in ("'", '"') and raw.find(quote, 1) > 0:
            value = raw[1 : raw.find(quote, 1)]
        else:
            value = raw.partition(" #")[0].strip()
        if value and (quote == "'" or not set(value) & {"$", "`"}):
            found[name] = value
    return found


def _claude_settings(path: Path) -> Values:
    value = _json(path).get("env")
    return _strings(value) if isinstance(value, dict) else {}


def _members(path: Path) -> Values:
    return _strings(_json(path))


def _strings(value: Mapping[str, Any]) -> Values:
    return {name: text for name, text in value.items() if isinstance(text, str)}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    """A regular file's text; "" for what is not there, is no file, or can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
