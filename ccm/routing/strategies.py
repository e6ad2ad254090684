"""The order in which equal targets are tried: one function per strategy, found in one table.

A strategy sees rivals (endpoints that could all serve this request now) and returns all of them, best first: what
comes after the first is the order of failover. Health, capability, pins, the primary and affinity are the router's
business, before and after. The caller holds the router's lock while a strategy runs; `Turns` is the only state.
With `turns=None` nothing is counted: the request takes no turn (its session is bound, or it is a probe).
"""

from __future__ import annotations

import math
import random
import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from ccm.shape import dataclass, field


@dataclass(slots=True)
class Rival:
    """One endpoint as a strategy sees it. `index` is its place in the configuration, `price_usd` the expected price
    of this request (None = unknown), `latency_s` its time to first content (None = never measured), `due` whether it
    has not been measured for so long that it should be (`latency` gives it one request then)."""

    id: str
    provider: str
    index: int
    priority: int = 100
    weight: int = 1
    in_flight: int = 0
    latency_s: float | None = None
    due: bool = False
    price_usd: float | None = None
    place: int = 0  # the caller's own mark


@dataclass(slots=True)
class Turns:
    """Whose turn it is, for one model: current weights of smooth weighted round-robin, by provider name, and by
    endpoint id among the keys of one provider."""

    providers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Turns:
        """The same turns, to be taken without consequence."""
        return Turns(dict(self.providers), dict(self.keys))


class TurnTable:
    """Turns per model asked for: were they shared, a client that alternates between two models would send all of one
    to the first endpoint and all of the other to the second. Bounded."""

    __slots__ = ("_most", "_table")

    def __init__(self, most: int = 256) -> None:
        self._table: OrderedDict[str, Turns] = OrderedDict()
        self._most = most

    def of(self, model: str, *, kept: bool = True) -> Turns:
        """The turns of a model. Not `kept`: asking leaves no trace."""
        turns = self._table.get(model)
        if not kept:
            return turns or Turns()
        if turns is None:
            turns = self._table[model] = Turns()
            if len(self._table) > self._most:
                self._table.popitem(last=False)
        self._table.move_to_end(model)
        return turns


Strategy = Callable[[Sequence[Rival], "Turns | None", random.Random], list[Rival]]


def priority(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """The lowest priority number first, then the order of the file."""
    return sorted(rivals, key=_place)


def weighted(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """Smooth weighted round-robin: 5:3:2 comes out exactly within every ten picks, evenly interleaved.

    A weight is the provider's: its keys share it equally. Weight 0 is only used when nothing else is there.
    """
    return _take_turns(rivals, turns, {rival.provider: max(0, rival.weight) for rival in rivals})


def round_robin(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """Providers in turn, and each provider's keys in turn."""
    return _take_turns(rivals, turns, {rival.provider: 1 for rival in rivals})


def latency(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """Two at random, the better of them first; better is the lower time to first content x (in flight + 1).

    What was never measured counts as the median of the others, so that it gets its chance without a rush; what is due
    gets one request, whatever it was like when it was last measured: how else would its recovery be noticed.
    """
    known = [rival.latency_s for rival in rivals if rival.latency_s is not None]
    middle = statistics.median(known) if known else 1.0

    def cost(rival: Rival) -> tuple[float, int, int]:
        seconds = middle if rival.latency_s is None else rival.latency_s
        return seconds * (rival.in_flight + 1), rival.priority, rival.index

    if len(rivals) < 2:
        return list(rivals)
    due = next((rival for rival in rivals if rival.due), None) if turns is not None else None
    if due is not None:
        return [due, *sorted((rival for rival in rivals if rival is not due), key=cost)]
    first, second = rng.sample(list(rivals), 2)
    winner = min(first, second, key=cost) if cost(first)[0] != cost(second)[0] else first
    return [winner, *sorted((rival for rival in rivals if rival is not winner), key=cost)]


def cost(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """The lowest expected price of this request first; unknown prices last, in order of priority."""
    return sorted(rivals, key=lambda rival: (_or_last(rival.price_usd), rival.in_flight, *_place(rival)))


def least_busy(rivals: Sequence[Rival], turns: Turns | None, rng: random.Random) -> list[Rival]:
    """The fewest requests in flight for its weight first."""
    return sorted(rivals, key=lambda rival: (rival.in_flight / max(1, rival.weight), *_place(rival)))


TABLE: Mapping[str, Strategy] = {
    "priority": priority,
    "round-robin": round_robin,
    "weighted": weighted,
    "latency": latency,
    "cost": cost,
    "least-busy": least_busy,
}


def _place(rival: Rival) -> tuple[int, int]:
    return rival.priority, rival.index


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value


def _take_turns(rivals: Sequence[Rival], turns: Turns | None, weights: Mapping[str, int]) -> list[Rival]:
    """A provider by its weight, then one of its keys in turn; the others follow, nearest to their turn first."""
    if turns is None:
        return sorted(rivals, key=lambda rival: (weights[rival.provider] == 0, *_place(rival)))
    weighty = {rival.provider: weights[rival.provider] for rival in rivals if weights[rival.provider] > 0}
    if not weighty:
        return sorted(rivals, key=_place)
    provider = _smooth(turns.providers, weighty)
    keys = [rival for rival in rivals if rival.provider == provider]
    winner = keys[0]
    if len(keys) > 1:
        id = _smooth(turns.keys, {rival.id: 1 for rival in keys})
        winner = next(rival for rival in keys if rival.id == id)

    def rest(rival: Rival) -> tuple[bool, int, int, int, int]:
        nearest = -turns.providers.get(rival.provider, 0), -turns.keys.get(rival.id, 0)
        return weights[rival.provider] == 0, *nearest, *_place(rival)

    return [winner, *sorted((rival for rival in rivals if rival is not winner), key=rest)]


def _smooth(current: dict[str, int], weights: Mapping[str, int]) -> str:
    """One step of nginx's smooth weighted round-robin: everyone gains its weight, the richest (of equals the first)
    pays the total and is picked. Who is not there neither gains nor pays."""
    if len(current) > 4 * len(weights) + 64:  # names that went with old configurations
        for name in [name for name in current if name not in weights]:
            del current[name]
    picked = ""
    for name, weight in weights.items():
        current[name] = current.get(name, 0) + weight
        if not picked or current[name] > current[picked]:
            picked = name
    current[picked] -= sum(weights.values())
    return picked
