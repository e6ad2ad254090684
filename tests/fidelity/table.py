"""What a gate found, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """One line of a gate's table: so many cases of one dialect and one provider (or reader), so many of them right."""

    gate: str
    dialect: str
    provider: str
    items: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)  # "<case>: <why>", one for each that is not right

    def note(self, case: str, why: str | None) -> None:
        """Counts one case; `why` is None when it is right."""
        self.items += 1
        if why is None:
            self.right += 1
        else:
            self.wrong.append(f"{case}: {why}")

    @property
    def percent(self) -> float:
        return 100.0 * self.right / self.items if self.items else 0.0


class Ledger:
    """The rows of a gate in the order they were begun."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}

    def row(self, gate: str, dialect: str, provider: str) -> Row:
        """The row of that name, new or known."""
        return self._rows.setdefault((gate, dialect, provider), Row(gate, dialect, provider))

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())


def fallen(rows: Sequence[Row], floor: float) -> list[Row]:
    """The rows below `floor` percent. A row without a case is one of them: nothing was shown."""
    return [row for row in rows if not row.items or row.percent < floor]


def render(title: str, rows: Sequence[Row]) -> str:
    """An aligned table: gate, dialect, provider, items, right, percent; then the sum."""
    items, right = sum(r.items for r in rows), sum(r.right for r in rows)
    lines: list[tuple[str, ...]] = [("gate", "dialect", "provider", "items", "right", "")]
    lines += [
        (r.gate, r.dialect, r.provider, str(r.items), str(r.right), f"{r.percent:.2f}%")
        for r in sorted(rows, key=lambda r: (r.gate, r.dialect, r.provider))
    ]
    lines.append(
        ("all", "", "", str(items), str(right), f"{100.0 * right / items:.2f}%" if items else "nothing ran")
    )
    widths = [max(len(line[n]) for line in lines) for n in range(6)]
    return "\n".join([f"== {title}", *(_line(line, widths) for line in lines)])


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    left = (0, 1, 2)
    return "  ".join(
        c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))
    )


def complaints(rows: Sequence[Row], limit: int = 40) -> list[str]:
    """What is wrong, one line each, at most `limit`."""
    found = [f"{r.gate}  {r.dialect}  {r.provider}  {why}" for r in rows for why in r.wrong]
    more = [f"... {len(found) - limit} more"] if len(found) > limit else []
    return [*found[:limit], *more]
