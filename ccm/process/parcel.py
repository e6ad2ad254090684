"""What goes over the line between processes in a form of its own: finished requests as tuples, a configuration whole.

Both ends are the same program of the same user, on a socket pair that nobody else has: a pickle is safe there, and it
is the only form in which all workers get exactly the snapshot that the supervisor has read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.messages.tokens import Usage
from ccm.model import Price, Snapshot
from ccm.observe.record import Attempt, RequestRecord
from ccm.shape import fields

Row = tuple[Any, ...]

_LOCAL = frozenset({"why"})  # stays where the request ran: it holds on to the decision
_SHAPED = frozenset({"attempts", "usage", "price", "list_price"})
_FLAT = tuple([one.name for one in fields(RequestRecord) if one.name not in _LOCAL | _SHAPED])
_ATTEMPT_FLAT = tuple([one.name for one in fields(Attempt) if one.name not in ("usage", "price")])
_USAGE = tuple([one.name for one in fields(Usage)])
_PRICE = tuple([one.name for one in fields(Price)])

_flat: Callable[[RequestRecord], Row] = attrgetter(*_FLAT)
_attempt_flat: Callable[[Attempt], Row] = attrgetter(*_ATTEMPT_FLAT)
_usage: Callable[[Usage], Row] = attrgetter(*_USAGE)
_price: Callable[[Price], Row] = attrgetter(*_PRICE)


def row_of(record: RequestRecord) -> Row:
    """A finished, settled record as plain data."""
    return (
        _flat(record),
        _usage(record.usage),
        _priced(record.price),
        _priced(record.list_price),
        [
            (_attempt_flat(one), None if one.usage is None else _usage(one.usage), _priced(one.price))
            for one in record.attempts
        ],
    )


def _priced(price: Price | None) -> Row | None:
    return None if price is None else _price(price)


def record_of(row: Row) -> RequestRecord:
    """The record again, but for `why`."""
    flat, usage, price, list_price, attempts = row
    return RequestRecord(
        **dict(zip(_FLAT, flat, strict=True)),
        usage=Usage(*usage),
        price=None if price is None else Price(*price),
        list_price=None if list_price is None else Price(*list_price),
        attempts=[
            Attempt(
                **dict(zip(_ATTEMPT_FLAT, one, strict=True)),
                usage=None if used is None else Usage(*used),
                price=None if paid is None else Price(*paid),
            )
            for one, used, paid in attempts
        ],
    )


class _Packer(pickle.Pickler):
    """Knows two things that pickle does not: read-only mappings, and frozen dataclasses with slots."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MappingProxyType):
            return _frozen, (dict(obj),)
        if not isinstance(obj, type) and hasattr(type(obj), "__dataclass_fields__"):
            names = tuple([one.name for one in fields(obj)])
            return _remade, (type(obj), names, tuple([getattr(obj, name) for name in names]))
        return NotImplemented


def _frozen(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


def _remade(shape: type, names: tuple[str, ...], values: Row) -> Any:
    made: Any = object.__new__(shape)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(made, name, value)
    return made


def pack(snapshot: Snapshot, book: ModelBook) -> bytes:
    """A configuration, keys included: for a worker's line and nothing else."""
    out = io.BytesIO()
    _Packer(out, pickle.HIGHEST_PROTOCOL).dump((snapshot, book))
    return out.getvalue()


def unpack(data: bytes) -> tuple[Snapshot, ModelBook]:
    """The same configuration, equal to the one that was packed."""
    snapshot, book = pickle.loads(data)  # noqa: S301 - from our own supervisor, see above
    return snapshot, book
