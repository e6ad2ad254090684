"""Strict reading of the catalogue's TOML files: every fault found is kept with its place, none is passed over.

Pure but for reading ccm's own data files out of the package (which may be a zip). The user's configuration has its
own table of keys (`config.schema`); here the tables are few and the shapes repeat.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import tomli

from ccm.config.locate import Lines
from ccm.errors import ConfigError
from ccm.late import regex
from ccm.model import Problem
from ccm.wire.digest import blake2b

Where = tuple[str, ...]
_AT = regex(r"\(at line (\d+), column (\d+)\)")
_TWICE = regex(r"cannot declare \((.*)\) twice")


def bundled_text(name: str) -> str:
    """The text of a data file of `ccm.catalog`."""
    path = os.path.join(os.path.dirname(__file__), name)
    loader: Any = (
        __spec__.loader  # the file's or the zip's; `importlib.resources` costs 6 ms at start to ask the same
    )
    return str(loader.get_data(path), "utf-8")


def bundled_document(name: str) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file of `ccm.catalog`, and the document. `scripts/build-catalogue` keeps the document as JSON
    beside it, since reading TOML takes 4 ms where it is compiled and 11 ms where it is not; one that was made from
    another text is not taken."""
    text = bundled_text(name)
    try:
        kept = json.loads(bundled_text(f"{name}.json"))
    except (OSError, ValueError):
        kept = {}
    if kept.get("of") == fingerprint(text):
        return text, kept["document"]
    return text, parse(text, name)


def fingerprint(text: str) -> str:
    """What a kept document says of the text that it was made from."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def parse(text: str, file: str) -> dict[str, Any]:
    """The TOML document. Raises ConfigError naming line and column of the first syntax error."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line, column, message = syntax_error(error)
        twice = _TWICE.match(message)
        if twice:
            key = ".".join(re.findall(r"'([^']*)'", twice[1]))
            fix = (
                "give one of them another name, and a type" if key.startswith("providers.") else "make it one"
            )
            raise ConfigError([Problem(file, line, key, "has a table already", fix)]) from None
        place = f"column {column}: " if column else ""
        raise ConfigError([Problem(file, line, "", f"{place}{message}")]) from None
    except RecursionError:
        raise ConfigError([Problem(file, None, "", "is nested too deeply")]) from None


def syntax_error(error: ValueError) -> tuple[int | None, int | None, str]:
    """Line, column and bare text of a tomli error (its attributes exist since tomli 2.2, the text always did)."""
    text = str(error)
    at = _AT.search(text)
    message = _AT.sub("", text).strip()
    line = getattr(error, "lineno", None) or (int(at[1]) if at else None)
    column = getattr(error, "colno", None) or (int(at[2]) if at else None)
    return line, column, message[:1].lower() + message[1:]


class Checked:
    """Collects the faults of one file. The getters return a usable value whatever they found."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._text = text
        self._lines: Lines | None = None  # made on the first fault: a good file never pays for it
        self.problems: list[Problem] = []

    def say(self, where: Where, text: str, fix: str = "") -> None:
        """Notes a fault at a key path."""
        if self._lines is None:
            self._lines = Lines(self._text)
        self.problems.append(Problem(self.file, self._lines.of(where), ".".join(where), text, fix))

    def raise_all(self) -> None:
        """Raises ConfigError when anything was noted."""
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda p: p.line or 0))

    def tables(self, value: Any, where: Where) -> Iterator[tuple[str, dict[str, Any]]]:
        """The sub-tables of a table; what is not one is noted and left out."""
        if not isinstance(value, dict):
            self.say(where, "must be a table")
            return
        for name, table in value.items():
            if isinstance(table, dict):
                yield name, table
            else:
                self.say((*where, name), "must be a table")

    def only(self, table: Mapping[str, Any], where: Where, known: Sequence[str]) -> None:
        """Notes every key that is not among `known`."""
        for key in table:
            if key not in known:
                self.say((*where, key), "unknown key", f"known are {', '.join(known)}")

    def one_of(self, value: str, known: Collection[str], where: Where, what: str) -> None:
        """Notes a value outside its vocabulary."""
        if value not in known:
            self.say(
                where, f"unknown {what} {value!r}", f"known are {', '.join(k for k in sorted(known) if k)}"
            )

    def all_of(self, values: Sequence[str], known: Collection[str], where: Where, what: str) -> None:
        """The same for each of several values."""
        for value in values:
            self.one_of(value, known, where, what)

    def string(self, table: Mapping[str, Any], key: str, where: Where, default: str) -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self.say((*where, key), "must be a string")
        return default

    def strings(
        self, table: Mapping[str, Any], key: str, where: Where, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        value = table.get(key, default)
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(cast("Sequence[str]", value))
        self.say((*where, key), "must be a list of strings")
        return tuple(default)

    def string_map(self, table: Mapping[str, Any], key: str, where: Where) -> dict[str, str]:
        value = table.get(key, {})
        if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            return value
        self.say((*where, key), "must be a table of strings")
        return {}

    def tables_of_strings(
        self, table: Mapping[str, Any], key: str, where: Where
    ) -> dict[str, tuple[str, ...]]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            self.say((*where, key), "must be a table of lists of strings")
            return {}
        return {name: self.strings(value, name, (*where, key)) for name in value}

    def flag(self, table: Mapping[str, Any], key: str, where: Where, default: bool = False) -> bool:
        value = table.get(key, default)
        if isinstance(value, bool):
            return value
        self.say((*where, key), "must be true or false")
        return default

    def count(self, table: Mapping[str, Any], key: str, where: Where, default: int | None) -> int | None:
        value = table.get(key, default)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self.say((*where, key), "must be a whole number above 0")
        return default

    def amount(self, table: Mapping[str, Any], key: str, where: Where) -> float | None:
        value = table.get(key)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 100_000:
            return float(value)
        self.say((*where, key), "must be a price in USD per million tokens")
        return None
