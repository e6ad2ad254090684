"""`dataclass`, `field` and `replace` as the standard library has them, for a third of a millisecond less per class.

The standard library compiles six methods for every class, and imports `inspect` to do it: 70 ms for the 80 classes that
ccm has at start. Here one `__init__` is made per class, when the first object is; the other methods are the same functions
for all. What is
offered is what ccm uses: `frozen`, `slots` and `eq`. To everybody else (`dataclasses.fields`, `asdict`, `replace`,
pattern matching, type checkers) these classes are dataclasses.
"""

from __future__ import annotations

from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING

from ccm.late import Late

__all__ = ["dataclass", "field", "fields", "is_dataclass", "replace"]

if TYPE_CHECKING:
    import dataclasses
    from dataclasses import dataclass, field, fields, is_dataclass, replace
else:
    dataclasses = Late("dataclasses")
    _MISSING = type("missing", (), {"__repr__": lambda self: "<missing>"})()
    _MUTABLE = (list, dict, set)
    _forms = {}  # (frozen, has a __post_init__, kinds of the fields) -> the code of `__init__`

    class _Field:
        __slots__ = ("compare", "default", "factory", "init", "name", "repr", "type")

        def __init__(self, default, factory, init, repr, compare):
            self.name = self.type = ""
            self.default, self.factory = default, factory
            self.init, self.repr, self.compare = init, repr, compare

    def field(*, default=_MISSING, default_factory=_MISSING, init=True, repr=True, compare=True):
        """As `dataclasses.field`."""
        return _Field(default, default_factory, init, repr, compare)

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True):
        """As `dataclasses.dataclass`."""
        return (lambda cls: _made(cls, frozen, slots, eq)) if cls is None else _made(cls, frozen, slots, eq)

    def replace(obj, /, **changes):
        """As `dataclasses.replace`."""
        shape = getattr(type(obj), "__ccm_shape__", None)
        if shape is None:
            return dataclasses.replace(obj, **changes)
        for f in shape.values():
            if not f.init:
                if f.name in changes:
                    raise ValueError(
                        f"field {f.name} is declared with init=False, it cannot be specified with replace()"
                    )
            elif f.name not in changes:
                changes[f.name] = getattr(obj, f.name)
        return type(obj)(**changes)

    def fields(obj):
        """As `dataclasses.fields`."""
        return dataclasses.fields(obj)

    def is_dataclass(obj):
        """As `dataclasses.is_dataclass`."""
        return dataclasses.is_dataclass(obj)

    def _made(cls, frozen, slots, eq):
        shape = {}
        for base in reversed(cls.__mro__[1:]):
            shape.update(getattr(base, "__ccm_shape__", None) or {})
        own = {}
        for name, type_ in cls.__annotations__.items():
            if "ClassVar" in str(type_):
                continue
            given = cls.__dict__.get(name, _MISSING)
            f = given if isinstance(given, _Field) else _Field(given, _MISSING, True, True, True)
            if isinstance(f.default, _MUTABLE):
                raise ValueError(
                    f"mutable default {type(f.default)} for field {name} is not allowed: use default_factory"
                )
            f.name, f.type = name, type_
            own[name] = f
            if f.default is not _MISSING and not slots:
                setattr(cls, name, f.default)
            elif name in cls.__dict__ and not slots:
                delattr(cls, name)
        shape.update(own)
        if slots:
            cls = _slotted(cls, own)
        cls.__ccm_shape__ = shape
        cls.__dataclass_fields__ = _Fields()
        compared = [name for name, f in shape.items() if f.compare]
        cls.__ccm_key__ = staticmethod(_key(compared))
        _check_order(shape)
        methods = {"__init__": _late_init(cls, shape, frozen), "__repr__": _repr}
        methods["__match_args__"] = tuple(name for name, f in shape.items() if f.init)
        if eq:
            methods["__eq__"] = _eq
            methods["__hash__"] = _hash if frozen else None
        if frozen:
            methods["__setattr__"], methods["__delattr__"] = _refuse_set, _refuse_delete
            if slots:
                methods["__getstate__"], methods["__setstate__"] = _state, _restore
        for name, method in methods.items():
            if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
                setattr(cls, name, method)
        return cls

    def _slotted(cls, own):
        namespace = {
            k: v for k, v in cls.__dict__.items() if k not in own and k not in ("__dict__", "__weakref__")
        }
        namespace["__slots__"] = tuple(own)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    def _late_init(cls, shape, frozen):
        """Stands in for `__init__` until the first object is made: half of the classes have none for long."""

        def __init__(self, *args, **kwargs):
            made = _init(cls, shape, frozen)
            if cls.__dict__.get("__init__") is __init__:
                cls.__init__ = made
            made(self, *args, **kwargs)

        __init__.__qualname__, __init__.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
        return __init__

    def _check_order(shape):
        optional = False
        for name, f in shape.items():
            if not f.init:
                continue
            if f.default is not _MISSING or f.factory is not _MISSING:
                optional = True
            elif optional:
                raise TypeError(f"non-default argument {name!r} follows default argument")

    def _init(cls, shape, frozen):
        """`__init__`, compiled: the only method that is worth it. Classes of one form share the compiled code, which is
        written for fields a0, a1, ... and gets the names of each: a quarter of the time of compiling."""
        known = {"_missing": _MISSING, "_set": object.__setattr__}
        kinds, names, defaults = [], {}, []
        for n, (name, f) in enumerate(shape.items()):
            names[f"a{n}"] = name
            if f.factory is not _MISSING:
                known[f"_make_a{n}"] = f.factory
                kinds.append("factory" if f.init else "made")
            elif not f.init:
                known[f"_is_a{n}"] = f.default
                kinds.append("fixed")
            else:
                kinds.append("given")
            if f.init and (f.default is not _MISSING or f.factory is not _MISSING):
                defaults.append(f.default)
        form = (frozen, hasattr(cls, "__post_init__"), *kinds)
        code = _forms.get(form)
        if code is None:
            code = _forms[form] = _compiled(*form)
        code = code.replace(
            co_varnames=tuple([names.get(word, word) for word in code.co_varnames]),
            co_names=tuple([names.get(word, word) for word in code.co_names]),
            co_consts=tuple([names.get(word, word) for word in code.co_consts]),
        )
        made = FunctionType(code, known, "__init__", tuple(defaults))
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        made.__module__ = cls.__module__
        return made

    def _compiled(frozen, ends, *kinds):
        parameters, lines = ["self"], []
        for n, kind in enumerate(kinds):
            field = f"a{n}"
            value = {
                "given": field,
                "factory": f"_make_{field}() if {field} is _missing else {field}",
                "made": f"_make_{field}()",
                "fixed": f"_is_{field}",
            }[kind]
            if kind in ("given", "factory"):
                parameters.append(field)
            lines.append(f" _set(self,{field!r},{value})" if frozen else f" self.{field}={value}")
        if ends:
            lines.append(" self.__post_init__()")
        found = {}
        exec(f"def __init__({','.join(parameters)}):\n" + ("\n".join(lines) or " pass"), found)  # noqa: S102
        return found["__init__"].__code__

    def _key(names):
        if len(names) > 1:
            return attrgetter(*names)
        return (lambda one: (getattr(one, names[0]),)) if names else (lambda one: ())

    def _eq(self, other):
        if other.__class__ is self.__class__:
            return self.__ccm_key__(self) == other.__ccm_key__(other)
        return NotImplemented

    def _hash(self):
        return hash(self.__ccm_key__(self))

    def _repr(self):
        shown = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}" for f in self.__ccm_shape__.values() if f.repr
        )
        return f"{self.__class__.__qualname__}({shown})"

    def _refuse_set(self, name, value):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def _state(self):
        return [getattr(self, name) for name in self.__ccm_shape__]

    def _restore(self, state):
        for name, value in zip(self.__ccm_shape__, state, strict=True):
            object.__setattr__(self, name, value)

    class _Fields:
        """What makes a class a dataclass for the standard library, put together when that asks."""

        __slots__ = ("_found",)

        def __get__(self, instance, owner):
            found = getattr(self, "_found", None)
            if found is None:
                missing = dataclasses.MISSING
                found = {}
                for name, f in owner.__ccm_shape__.items():
                    default = missing if f.default is _MISSING else f.default
                    factory = missing if f.factory is _MISSING else f.factory
                    made = dataclasses.field(
                        default=default,
                        default_factory=factory,
                        init=f.init,
                        repr=f.repr,
                        compare=f.compare,
                        kw_only=False,
                    )
                    made.name, made.type, made._field_type = name, f.type, dataclasses._FIELD
                    found[name] = made
                self._found = found
            return found
