"""What a repair is, and the request while it is being repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context, Encoded, Loss, Request
from ccm.dialects.repair.paths import GONE, Path, edit, value_at
from ccm.shape import dataclass, field, replace

_OPPOSITES = {"fold_system": "keep_system", "no_system_role": "developer_role"}


@dataclass(frozen=True, slots=True)
class Repair:
    """One change to a request. `name` is a row of `actions.ACTIONS`, `args` its arguments. `lasting`: it follows from the
    nature of the model or its provider, so the next request needs it too; otherwise from this conversation's state."""

    name: str
    args: tuple[str, ...] = ()
    lasting: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"{self.name}({','.join(self.args)})" if self.args else self.name


@dataclass(slots=True)
class Draft:
    """A Messages request and its context before the dialect encodes them. Nothing in `request` is changed in place."""

    request: Request
    ctx: Context
    losses: list[Loss] = field(default_factory=list)

    def lose(self, feature: str, how: str = "dropped") -> None:
        """Notes a loss once."""
        if (loss := Loss(feature, how)) not in self.losses:
            self.losses.append(loss)

    def edit(self, path: Path, change: Any) -> bool:
        """Changes what stands at `path`; whether anything changed."""
        made = edit(self.request, path, change)
        changed = made is not self.request
        self.request = made
        return changed

    def drop(self, *path: str) -> bool:
        """Removes what stands at `path`; whether anything did."""
        return self.edit(path, lambda _: GONE)

    def quirk(self, *names: str) -> None:
        """What the encoder knows how to do by itself. The provider's word outranks a configured quirk that says the
        opposite."""
        opposed = {_OPPOSITES.get(name, "") for name in names}
        self.ctx = replace(self.ctx, quirks=(self.ctx.quirks - opposed) | frozenset(names))


@dataclass(frozen=True, slots=True)
class Case:
    """A refused request: what the provider said, what the client asked, what was sent."""

    text: str  # the provider's message
    code: str  # its own word for the error, lower case
    param: str  # the parameter it names in a field of its own, or ""
    request: Request
    body: Mapping[str, Any]  # as sent
    encoded: Encoded
    dialect: str

    def sent(self, *path: str) -> Any:
        """The first value at a path of the body as sent."""
        return value_at(self.body, path)
