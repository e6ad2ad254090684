"""ccm's dataclasses behave as the standard library's: both are made from the same text and compared."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from ccm import shape

TEXT = '''
@dataclass(frozen=True, slots=True)
class Frozen:
    """Words."""
    a: int
    b: str = "b"
    c: list = field(default_factory=list)
    d: int = field(default=4, compare=False, repr=False)
    def twice(self): return self.a * 2
    @property
    def text(self): return f"{self.a}{self.b}"

@dataclass(slots=True)
class Open:
    x: Any
    y: dict = field(default_factory=dict)
    _hidden: str | None = field(default=None, init=False, repr=False, compare=False)
    _made: list = field(default_factory=list, init=False, repr=False, compare=False)

@dataclass(slots=True)
class Below(Open):
    z: int = 3

@dataclass(slots=True, eq=False)
class Itself:
    n: int = 1

@dataclass(frozen=True, slots=True)
class Spoken:
    n: int
    def __repr__(self): return "mine"
    def __eq__(self, other): return True
    def __hash__(self): return 7

@dataclass
class Loose:
    n: int = 1
    m: list = field(default_factory=list)

@dataclass(frozen=True, slots=True)
class Empty:
    pass

@dataclass(frozen=True, slots=True)
class Single:
    n: int
'''


def made(module: Any) -> Any:
    names = {"dataclass": module.dataclass, "field": module.field, "Any": Any, "__name__": __name__}
    exec("from __future__ import annotations\n" + TEXT, names)
    return type("Classes", (), {k: v for k, v in names.items() if isinstance(v, type)})


OURS, THEIRS = made(shape), made(dataclasses)
BOTH = pytest.mark.parametrize("of", [OURS, THEIRS], ids=["ours", "theirs"])
Frozen, Spoken = OURS.Frozen, OURS.Spoken  # where pickle looks for them


@pytest.mark.parametrize(
    "expression",
    [
        "Frozen(1)", "Frozen(1, 'x', [2], 5)", "Frozen(a=1, d=9)", "Open(1)", "Open(1, {2: 3})", "Below(1)", "Below(1, {}, 9)",
        "Itself()", "Spoken(3)", "Loose()", "Loose(2, [1])", "Empty()", "Single(1)", "Frozen(1).text", "Frozen(2).twice()",
        "Frozen(1) == Frozen(1)", "Frozen(1) == Frozen(2)", "Frozen(1, d=1) == Frozen(1, d=2)", "Frozen(1) != 1",
        "Open(1) == Open(1)", "Open(1) == Below(1)", "Itself() == Itself()", "Spoken(1) == Spoken(2)", "Empty() == Empty()",
        "hash(Single(1)) == hash(Single(1))", "hash(Spoken(1))", "len({Single(1), Single(1), Single(2)})", "Open.__hash__",
        "Open(1)._made", "Open(1)._hidden", "Frozen.__doc__", "Frozen.__slots__", "Frozen.__match_args__", "Open.__match_args__",
        "Below.__slots__", "Frozen.__qualname__", "Frozen.__init__.__qualname__", "hasattr(Frozen(1), '__dict__')",
        "hasattr(Loose(), '__dict__')", "Loose.n",
    ],
)  # fmt: skip
def test_the_same_is_said(expression: str) -> None:
    ours, theirs = (eval(expression, dict(vars(of))) for of in (OURS, THEIRS))
    assert (repr(ours), type(ours).__name__) == (repr(theirs), type(theirs).__name__)


@pytest.mark.parametrize(
    "statement",
    ["Frozen()", "Frozen(1, e=2)", "Frozen(1, 2, 3, 4, 5)", "Open(1, _hidden=2)", "Open(1, {}, 2)", "hash(Open(1))",
     "hash(Frozen(1))", "Frozen(1).a = 2", "del Frozen(1).a", "Open(1).other = 2"],
)  # fmt: skip
def test_the_same_is_refused(statement: str) -> None:
    refusals = []
    for of in (OURS, THEIRS):
        with pytest.raises(Exception) as caught:
            exec(statement, dict(vars(of)))
        refusals.append((caught.type, str(caught.value).removeprefix("Frozen.").removeprefix("Open.")))
    assert refusals[0] == refusals[1]


@BOTH
def test_the_standard_library_takes_them_for_its_own(of: Any) -> None:
    one = of.Frozen(1, c=[of.Single(2)])
    assert dataclasses.is_dataclass(of.Frozen) and dataclasses.is_dataclass(one)
    assert [f.name for f in dataclasses.fields(of.Below)] == ["x", "y", "_hidden", "_made", "z"]
    assert [(f.init, f.repr, f.compare) for f in dataclasses.fields(one)][3] == (True, False, False)
    assert dataclasses.asdict(one) == {"a": 1, "b": "b", "c": [{"n": 2}], "d": 4}
    assert dataclasses.replace(one, a=5) == of.Frozen(5, c=[of.Single(2)])
    match one:
        case of.Frozen(1, b):
            assert b == "b"
        case _:
            pytest.fail("no match")
    assert list(inspect.signature(of.Frozen).parameters) == ["a", "b", "c", "d"]


@BOTH
def test_copies(of: Any) -> None:
    one = of.Frozen(1, c=[1])
    assert copy.copy(one) == one and copy.deepcopy(one) == one and copy.deepcopy(one).c is not one.c
    opened = of.Open([1])
    assert copy.deepcopy(opened) == opened and copy.copy(opened).x is opened.x


def test_pickle() -> None:
    assert pickle.loads(pickle.dumps(Frozen(1, c=[2]))) == Frozen(1, c=[2])


def test_replace() -> None:
    assert shape.replace(OURS.Frozen(1), b="x") == OURS.Frozen(1, "x")
    assert shape.replace(THEIRS.Frozen(1), b="x") == THEIRS.Frozen(1, "x")
    with pytest.raises(ValueError):
        shape.replace(OURS.Open(1), _hidden="x")
    with pytest.raises(TypeError):
        shape.replace(OURS.Frozen(1), nothing=1)


@BOTH
def test_mutable_defaults_and_wrong_order_are_refused(of: Any) -> None:
    module = shape if of is OURS else dataclasses
    with pytest.raises(ValueError):
        module.dataclass(type("Bad", (), {"__annotations__": {"a": "list"}, "a": []}))
    with pytest.raises(TypeError):
        module.dataclass(type("Bad", (), {"__annotations__": {"a": "int", "b": "int"}, "a": 1}))
