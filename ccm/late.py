"""What is made when it is first used: what most runs never need, or not before the first request.

`Late("requests")` stands for a module, `LateTable` for a table whose values live in modules of their own. The only two
ways of importing late outside the command lines; the layers test reads their names like import statements.
`regex` is `re.compile` that compiles at the first use: the 200 patterns of ccm take 20 ms, and a start uses a few.
`postpone` does the same to modules of the standard library for everybody's import statements, also the library's own.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    regex = re.compile
else:

    class LatePattern:
        """A pattern of `re` that is not compiled yet. Its methods become those of the compiled one, so that a search
        costs what it costs there; a pattern that is used for every request is better compiled at once."""

        __slots__ = (
            "_flags",
            "_source",
            "findall",
            "finditer",
            "fullmatch",
            "match",
            "search",
            "split",
            "sub",
            "subn",
        )

        def __init__(self, source, flags):
            self._source, self._flags = source, flags

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            made = re.compile(self._source, self._flags)
            for method in self.__slots__[2:]:
                setattr(self, method, getattr(made, method))
            return getattr(made, name)

    def regex(pattern, flags=0):
        """`re.compile` at the first use; a fault in the pattern is found then, or by the unit test that uses them all."""
        return LatePattern(pattern, flags)


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


class _Postponed(ModuleType):
    """Stands in `sys.modules` until somebody wants anything of the module; whoever has it already keeps it for a proxy.
    The import itself is the ordinary one, with its locks, so that any number of threads may want it at once."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            sys.modules.pop(name, None)
        return getattr(importlib.import_module(name), attribute)


def postpone(names: Iterable[str]) -> None:
    """Lets `import name` give a proxy that imports the module when it is used. Only for modules that their importers
    use inside functions: a base class, or `from name import something`, imports at once."""
    for name in names:
        if name not in sys.modules:
            above, _, last = name.rpartition(".")
            made = sys.modules[name] = _Postponed(name)
            if above:
                setattr(importlib.import_module(above), last, made)


class LateMap(Mapping[str, T]):
    """Name -> value, where `make` makes the value of what stands under the name in `raw`, when it is asked for."""

    def __init__(self, raw: Mapping[str, Any], make: Callable[[str, Any], T]) -> None:
        self._raw, self._make = raw, make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = self._make(name, self._raw[name])
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


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
