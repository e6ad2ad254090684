"""A TOML text -> checked values, every fault at once. Pure: it sees no file, no environment, no catalogue of names.

What it returns can be trusted in type and range; what the values mean together is `config.build`'s business.
"""

from __future__ import annotations

from typing import Any

from ccm.catalog.checks import parse
from ccm.config import checks, schema
from ccm.config.locate import Lines
from ccm.errors import ConfigError
from ccm.late import regex
from ccm.model import Problem

Path = schema.Path
_BARE = regex(r"[A-Za-z0-9_-]+")


def key_text(path: Path) -> str:
    """The path as TOML writes it: parts with dots or other odd characters are quoted."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)


class Reading:
    """The values of one text by canonical path (aliases resolved), and everything wrong with them."""

    def __init__(self, text: str, file: str, located: bool = True) -> None:
        """`file` is the name problems carry, with lines when `located`. Raises ConfigError for what is not TOML."""
        self.file = file
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._values: dict[Path, Any] = {}
        self._written: dict[Path, Path] = {}  # canonical -> as written
        document = parse(text, file)
        self._lines = Lines(text if located else "")
        self._table(document, ())

    def get(self, *path: str) -> Any:
        """The value at a canonical path, or the schema's default."""
        if path in self._values:
            return self._values[path]
        key = schema.find_key(path)
        return key.default if key else None

    def given(self, *path: str) -> bool:
        """Whether the file says so itself."""
        return path in self._values

    def names(self, *table: str) -> list[str]:
        """The user's own names in a table (providers, models, headers), in file order."""
        return list(
            dict.fromkeys(
                path[len(table)]
                for path in self._written
                if path[: len(table)] == table and len(path) > len(table)
            )
        )

    def problem(self, path: Path, text: str, fix: str = "") -> None:
        """Notes a fault at a key."""
        self.problems.append(self._at(path, text, fix))

    def warn(self, path: Path, text: str, fix: str = "") -> None:
        """Notes something to know, which stops nothing."""
        self.warnings.append(self._at(path, text, fix))

    def raise_all(self) -> None:
        """Raises ConfigError with every problem, in file order, when there is any."""
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda p: p.line or 0))

    def _at(self, path: Path, text: str, fix: str) -> Problem:
        written = self._written.get(path, path)
        return Problem(self.file, self._lines.of(written), key_text(written), text, fix)

    def _table(self, table: dict[str, Any], at: Path) -> None:
        for name, value in table.items():
            path = (*at, name)
            key = schema.find_key(path)
            if key is not None:
                self._key(key, path, value)
            elif not schema.is_table(path):
                self._unknown(path)
            elif not isinstance(value, dict):
                self.problem(path, "must be a table", f"write it as [{key_text(path)}]")
            else:
                self._written.setdefault(path, path)
                self._table(value, path)

    def _key(self, key: schema.Key, path: Path, value: Any) -> None:
        # The user's names stay, only the last part may be an alias.
        canonical = path if key.path[-1] == "*" else (*path[:-1], key.path[-1])
        test, said = schema.KINDS[key.kind]
        if canonical in self._written and self._written[canonical] != path:
            self.problem(path, f"is given twice: {canonical[-1]} says the same", "leave one of them out")
            return
        self._written[canonical] = path
        if not test(value):
            self.problem(path, f"must be {said}, not {_type_name(value)}")
            return
        fault = key.check(value) if key.check else None
        if fault:
            self.problem(path, *fault)
            return
        self._values[canonical] = value

    def _unknown(self, path: Path) -> None:
        known = schema.neighbours(path)
        near = checks.nearest(path[-1], known)
        if near:
            fix = f"did you mean {near}?"
        elif places := schema.elsewhere(path[-1]):
            fix = f"it belongs to {places[0]}"
        else:
            fix = f"known are {', '.join(known)}" if known else ""
        self.problem(
            path,
            "unknown key"
            if len(path) > 1 or near not in {t[0] for t in schema.TABLES if len(t) == 1}
            else "unknown table",
            fix,
        )


def _type_name(value: Any) -> str:
    """The TOML word for a value's type; the value itself is not shown, it may be a secret."""
    if isinstance(value, bool):
        return "true or false"
    for kind, said in (
        (int, "a whole number"),
        (float, "a decimal number"),
        (str, "a string"),
        (dict, "a table"),
    ):
        if isinstance(value, kind):
            return said
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    return "a date or time"
