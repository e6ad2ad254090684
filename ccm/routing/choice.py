"""The order of the candidates of one request: what the router decides, as a function of its rows.

From the last word to the first: a target whose stream to this client has just broken goes last; a full one goes
behind; the primary (`ccmctl switch`) goes first; the endpoint that holds the conversation's cache goes first; a
recovering target yields; who does not speak the model's name comes after those who do; the strategy. Runs under the
router's lock; changes nothing but the turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ccm.errors import Refusal
from ccm.model import Target
from ccm.routing import strategies
from ccm.routing.affinity import Key
from ccm.routing.candidates import Candidate
from ccm.routing.health import EndpointHealth, ModelHealth


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one request. `targets` in the order in which they should be tried; `reason` for people;
    `excluded` are (endpoint id, why not). `panic`: nothing is well, the first gets one attempt; `wait_s` is how long
    it still asked to be left alone."""

    targets: tuple[Target, ...]
    request_class: str = "default"
    session: str = ""
    strategy: str = "priority"
    reason: str = ""
    excluded: tuple[tuple[str, str], ...] = ()
    panic: bool = False
    wait_s: float = 0.0


class Runner:
    """A candidate with its live rows."""

    __slots__ = ("candidate", "model", "row")

    def __init__(self, candidate: Candidate, row: EndpointHealth, model: ModelHealth) -> None:
        self.candidate = candidate
        self.row = row
        self.model = model

    def ready(self, now: float) -> bool:
        return self.row.ready(self.model, now)

    def why_not(self, now: float) -> str:
        return self.row.why_not(self.candidate.model, self.model, now)

    def called(self, name: str) -> bool:
        """Whether a provider's or endpoint's name means this one."""
        return name in (self.candidate.endpoint.id, self.candidate.endpoint.provider.name)


class Trip:
    """What reserving and releasing must know of a request besides its target."""

    __slots__ = ("force", "key", "quiet", "rivals")

    def __init__(self, key: Key | None, quiet: bool, force: bool, rivals: Sequence[Runner]) -> None:
        self.key = key  # binds this conversation on success
        self.quiet = quiet  # a probe: never moves health
        self.force = force  # panic: breakers are not asked
        self.rivals = rivals  # who could take over


class Routed(Target):
    """A target that knows its trip."""

    __slots__ = ("trip",)
    trip: Trip


def routed(runner: Runner, trip: Trip) -> Target:
    candidate = runner.candidate
    target = Routed(candidate.endpoint, candidate.model, candidate.facts)
    object.__setattr__(target, "trip", trip)
    return target


@dataclass(slots=True)
class Circumstances:
    """What the order depends on besides the rows. `turns` None: this request takes none. `bound` is the endpoint of
    the conversation, `avoided` tells the endpoints that have just failed this very request."""

    strategy: str
    now: float
    rng: random.Random
    input_tokens: int = 0
    turns: strategies.Turns | None = None
    bound: str | None = None
    primary: str | None = None
    avoided: Callable[[str], bool] | None = None


def order(ready: list[Runner], at: Circumstances) -> tuple[list[Runner], str]:
    """All ready runners (two or more), best first, and why the first is first."""
    hit = next((runner for runner in ready if runner.row.endpoint.id == at.bound), None) if at.bound else None
    found = _by_strategy(ready, at, at.turns if hit is None else None)
    found.sort(key=lambda runner: runner.candidate.stand_in)
    if hit is not None:
        found.sort(key=lambda runner: runner is not hit)
    elif at.turns is not None:
        share = found[0].row.share(found[0].model, at.now)
        if share < 1 and at.rng.random() > share:
            found[0], found[1] = found[1], found[0]
    if at.primary is not None:
        name = at.primary
        found.sort(key=lambda runner: not runner.called(name))
    found.sort(key=lambda runner: runner.row.full())
    if at.avoided is not None:
        avoided = at.avoided
        found.sort(key=lambda runner: avoided(runner.row.endpoint.id))
    reason = reason_for(found[0], at.bound, at.primary, at.strategy)
    if at.primary is None and at.strategy == "cost" and reason == "cost" and len(found) > 1:
        unpriced = [r.row.endpoint.id for r in found if _price(r, at) is None]
        if unpriced:
            reason = f"cost (price unknown: {', '.join(unpriced)})"
    return found, reason


def reason_for(first: Runner, bound: str | None, primary: str | None, strategy: str) -> str:
    """Why this one is first, for people."""
    reason = "affinity hit" if bound is not None and first.row.endpoint.id == bound else strategy
    if primary is None:
        return reason
    return "primary" if first.called(primary) else f"{reason} (primary {primary} cannot take it)"


def least_bad(runners: Sequence[Runner], now: float) -> tuple[list[Runner], str, bool]:
    """Whom to try when nobody is ready: (runners, why, whether that is a panic).

    A draining target that is well serves as if nothing were; else the panic rule gives the least bad one its chance,
    and after it those that are alive and only cooling. Raises Refusal 503 when all are switched off.
    """
    usable = [runner for runner in runners if runner.row.enabled]
    if not usable:
        names = ", ".join(dict.fromkeys(runner.row.endpoint.provider.name for runner in runners))
        text = f"every provider for this request is switched off ({names}): `ccmctl enable <name>`"
        raise Refusal(503, "api_error", text, {"x-should-retry": "false"})
    drained = [r for r in usable if r.row.draining and r.row.ready_but_draining(r.model, now)]
    if drained:
        return drained, "draining, but no other is left", False
    usable.sort(key=lambda r: (r.row.badness(r.model, now), r.candidate.stand_in, r.candidate.index))
    least, *others = usable
    others = [runner for runner in others if runner.row.resting(runner.model, now)]
    return [least, *others], f"panic: {least.why_not(now)}", True


def _by_strategy(ready: list[Runner], at: Circumstances, turns: strategies.Turns | None) -> list[Runner]:
    timed, priced = at.strategy == "latency", at.strategy == "cost"
    middle = 0.0
    if timed:
        known = [value for r in ready if (value := r.model.latency.value()) is not None]
        middle = median(known) if known else 0.0
    runners, rivals = {}, []
    for runner in ready:
        endpoint, provider = runner.candidate.endpoint, runner.candidate.endpoint.provider
        runners[endpoint.id] = runner
        rivals.append(
            strategies.Rival(
                endpoint.id,
                provider.name,
                runner.candidate.index,
                provider.priority,
                provider.weight,
                runner.row.in_flight,
                runner.model.latency.faded(at.now, middle) if timed else None,
                _price(runner, at) if priced else None,
            )
        )
    choose = strategies.TABLE.get(at.strategy, strategies.priority)
    return [runners[rival.id] for rival in choose(rivals, turns, at.rng)]


def _price(runner: Runner, at: Circumstances) -> float | None:
    return strategies.expected_price(runner.candidate.facts, at.input_tokens)
