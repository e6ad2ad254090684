"""Modules that are imported when they are first used: what most runs never need, or not before the first request.

`Late("requests")` stands for a module, `LateTable` for a table whose values live in modules of their own. The only two
ways of importing late outside the command lines; the layers test reads their names like import statements.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Late:
    """Its attributes are those of the module `name`, which is imported for the first of them. For type checkers, import
    the module itself under TYPE_CHECKING and put this into the other branch."""

    __slots__ = ("_late_module", "_late_name")

    def __init__(self, name: str) -> None:
        self._late_name = name
        self._late_module: Any = None

    def __getattr__(self, attribute: str) -> Any:
        module = self._late_module
        if module is None:
            module = self._late_module = importlib.import_module(self._late_name)
        return getattr(module, attribute)


class LateTable(Mapping[str, T]):
    """Name -> value, where `places` says in which module the value is: "module:attribute"."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._found: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        found = self._found.get(name)
        if found is None:
            module, _, attribute = self._places[name].partition(":")
            found = self._found[name] = getattr(importlib.import_module(module), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
