"""The order of the candidates of one request: what the router decides, as a function of its rows.

From the last word to the first: a target whose stream to this client has just broken goes last; a full one goes
behind; the primary (`ccmctl switch`) goes first; background work leaves what is nearly used up alone (`spare`); the
endpoint that holds the conversation's cache goes first; a recovering target yields; what a rule names comes before the
others, and who speaks the model's name before those who do not; who is preferred until its limit (`prefer_until`); the
strategy. Runs under the router's lock; changes nothing but the turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ccm.errors import Refusal
from ccm.model import EMPTY, Price, Target
from ccm.routing import strategies
from ccm.routing.affinity import Key
from ccm.routing.candidates import FALLBACK, Candidate
from ccm.routing.health import EndpointHealth, ModelHealth
from ccm.shape import dataclass, replace

CACHE_S = 300.0  # how long an unused prompt cache stays warm, where the provider's settings do not say


@dataclass(slots=True)
class Route:
    """The decision for one request, not to be changed. `targets` in the order in which they should be tried; `reason` for people;
    `excluded` are (endpoint id, why not). `panic`: nothing is well, the first gets one attempt; `wait_s` is how long
    it still asked to be left alone. `rule` names the rule that chose the targets ("" = none), `note` says what of the
    request's own wishes could not be obeyed."""

    targets: tuple[Target, ...]
    request_class: str = "default"
    session: str = ""
    strategy: str = "priority"
    reason: str = ""
    excluded: tuple[tuple[str, str], ...] = ()
    panic: bool = False
    wait_s: float = 0.0
    rule: str = ""
    note: str = ""
    list_price: Price | None = (
        None  # of the first candidate by priority: what the request would cost without ccm
    )
    scores: Sequence[strategies.Rival] = ()  # what the strategy looked at
    unwell: Mapping[str, str] = EMPTY  # endpoint id -> why it is only a last resort
    busy: Sequence[int] = ()  # where that was as ever: how many requests each of them had in flight

    def tell(self) -> dict[str, Any]:
        """The decision as plain data, in the keys of `explain.explain`, with the figures of its own moment."""
        lines: list[dict[str, Any]] = []
        rivals = self.scores
        if self.busy:
            rivals = [replace(rival, in_flight=n) for rival, n in zip(rivals, self.busy, strict=True)]
        scores = {rival.id: rival for rival in rivals}
        for place, target in enumerate(self.targets, 1):
            line: dict[str, Any] = {
                "endpoint": target.endpoint.id,
                "provider": target.provider.name,
                "model": target.model,
                "place": place,
                "ruled_out": "",
                "state": self.unwell.get(target.endpoint.id, "ready"),
                "priority": target.provider.priority,
                "weight": target.provider.weight,
            }
            if (rival := scores.get(target.endpoint.id)) is not None:
                line |= {
                    "in_flight": rival.in_flight,
                    "first_content_s": rival.latency_s,
                    "price_usd": rival.price_usd,
                }
            lines.append(line)
        lines += [{"endpoint": id, "ruled_out": why, "place": 0} for id, why in self.excluded]
        return {
            "class": self.request_class,
            "rule": self.rule,
            "note": self.note,
            "session": self.session,
            "strategy": self.strategy,
            "reason": self.reason,
            "panic": self.panic,
            "wait_s": self.wait_s,
            "order": [target.id for target in self.targets],
            "candidates": lines,
        }


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

    def left(self, now: float) -> float:
        """What is left of its nearest limit, 0 .. 1; 1 where none is known."""
        window = self.row.headroom(self.model, now)
        return 1.0 if window is None else window.share

    def called(self, name: str) -> bool:
        """Whether a provider's or endpoint's name means this one."""
        return name in (self.candidate.endpoint.id, self.candidate.endpoint.provider.name)


class Trip:
    """What reserving and releasing must know of a request besides its target."""

    __slots__ = (
        "binds", "caching", "force", "hedges", "key", "learns", "parent", "quiet", "rivals", "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        key: Key | None,
        quiet: bool,
        force: bool,
        rivals: Sequence[Runner],
        binds: bool = True,
        parent: Key | None = None,
        hedges: bool = False,
        learns: bool = False,
        size_bytes: int = 0,
        caching: str = "",
    ) -> None:
        self.key = key  # the conversation
        self.binds = binds  # it is bound to who answers
        self.learns = learns  # its past is remembered, to reckon prices with
        self.parent = parent  # where subagents of this session begin
        self.quiet = quiet  # a probe: never moves health
        self.force = force  # panic: breakers are not asked
        self.rivals = rivals  # who could take over
        self.hedges = hedges
        self.size_bytes = size_bytes
        self.caching = caching


class Routed(Target):
    """A target that knows its trip."""

    __slots__ = ("trip",)
    trip: Trip

    if not TYPE_CHECKING:
        # Two are made for every request. What is frozen sets its fields by calls, each of which costs as much as
        # setting all of them.
        __setattr__, __delattr__ = object.__setattr__, object.__delattr__

        def __init__(self, endpoint, model, facts, trip):
            self.endpoint = endpoint
            self.model = model
            self.facts = facts
            self.trip = trip


def routed(runner: Runner, trip: Trip) -> Target:
    candidate = runner.candidate
    return to_target(candidate.endpoint, candidate.model, candidate.facts, trip)


to_target: Callable[..., Target] = Routed


@dataclass(slots=True)
class Circumstances:
    """What the order depends on besides the rows. `turns` None: this request takes none. `bound` is the endpoint of
    the conversation, `price` what the request would cost at a runner in USD (None: unknown), `avoided` tells the
    endpoints that have just failed this very request."""

    strategy: str
    now: float
    rng: random.Random
    price: Callable[[Runner], float | None] | None = None
    turns: strategies.Turns | None = None
    bound: str | None = None
    primary: str | None = None
    avoided: Callable[[str], bool] | None = None
    spare: float = 0.0  # background work: leave an endpoint alone that has less than this share left
    idle_s: float = 0.0  # since the conversation was last answered there
    dry: bool = False  # only to be explained: nothing may be noted
    scores: tuple[strategies.Rival, ...] = ()  # filled in by the order


@dataclass(slots=True)
class Decision:
    """Runners in the order in which they are tried, and everything `Route` says about them."""

    order: list[Runner]
    reason: str
    excluded: tuple[tuple[str, str], ...]
    panic: bool = False
    wait_s: float = 0.0
    unwell: Mapping[str, str] = EMPTY  # endpoint id -> why, of those in the order that come last for it


def decide(runners: Sequence[Runner], at: Circumstances) -> Decision:
    """Whom to try, in order, and who is left out. Raises Refusal 503 when all are switched off."""
    now = at.now
    ready = [runner for runner in runners if runner.ready(now)]
    panic, wait_s = False, 0.0
    resting: list[Runner] = []
    if ready:
        if len(ready) == 1:
            first = ready[0]
            reason = reason_for(first, at.bound, at.primary, at.strategy)
            # marked: it would be out, were there another
            panic = first.row.breaker.marked() or first.model.breaker.marked()
        else:
            ready, reason = order(ready, at)
        # the last resort, behind all that are well: who only cools down
        resting = [r for r in runners if r not in ready and r.row.resting(r.model, now)]
        ready += resting
    else:
        ready, reason, panic = least_bad(runners, now)
        wait_s = ready[0].row.remaining_s(ready[0].model, now)
        resting = ready
    excluded: tuple[tuple[str, str], ...] = ()
    if len(ready) < len(runners):
        excluded = tuple([(r.row.endpoint.id, r.why_not(now)) for r in runners if r not in ready])
    unwell = {r.row.endpoint.id: r.why_not(now) for r in resting}
    return Decision(ready, reason, excluded, panic, wait_s, unwell)


def order(ready: list[Runner], at: Circumstances) -> tuple[list[Runner], str]:
    """All ready runners (two or more), best first, and why the first is first."""
    hit = next((runner for runner in ready if runner.row.endpoint.id == at.bound), None) if at.bound else None
    if hit is not None and at.price is not None and _is_dearer(hit, ready, at.price):
        hit = None
    preferring = any(runner.row.preferred() for runner in ready)
    if hit is not None and preferring and _comes_back(hit, ready, at):
        hit = None
    turns = at.turns if hit is None else None
    if any(r.candidate.rank or r.candidate.stand_in for r in ready):
        found = _in_groups(ready, at, turns)
    else:
        found = _by_strategy(ready, at, turns)
    if preferring:
        _prefer(found, at)
    if hit is not None:
        if found[0] is not hit:
            found.sort(key=lambda runner: runner is not hit)
    elif turns is not None:
        share = found[0].row.share(found[0].model, at.now)
        if share < 1 and at.rng.random() > share:
            found[0], found[1] = found[1], found[0]
    spared = _spare(found, at) if at.spare else ""
    if at.primary is not None:
        name = at.primary
        found.sort(key=lambda runner: not runner.called(name))
    if any(runner.candidate.endpoint.provider.max_in_flight for runner in found):
        found.sort(key=lambda runner: runner.row.full())
    if at.avoided is not None:
        avoided = at.avoided
        found.sort(key=lambda runner: avoided(runner.row.endpoint.id))
    if turns is not None and at.strategy == "latency" and not at.dry:
        for runner in found:
            runner.model.latency.chosen(runner is found[0])
    first = found[0]
    reason = reason_for(first, at.bound, at.primary, at.strategy)
    if (
        reason == at.strategy
        and preferring
        and first.row.preferred()
        and not first.row.spent(first.model, at.now)
    ):
        reason = "preferred until its limit"
    if spared:
        reason = f"{reason} ({spared})"
    if at.primary is None and reason == "cost" and at.price is not None:
        unpriced = [r.row.endpoint.id for r in found if at.price(r) is None]
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


def _is_dearer(hit: Runner, ready: Sequence[Runner], price: Callable[[Runner], float | None]) -> bool:
    """Whether the conversation would be cheaper elsewhere, although its cache is warm here: prices know of caches."""
    own = price(hit)
    if own is None:
        return False
    others = (price(runner) for runner in ready if _group(runner) == _group(hit))
    return any(other is not None and other < own for other in others)


def _comes_back(hit: Runner, ready: Sequence[Runner], at: Circumstances) -> bool:
    """Whether a conversation leaves the endpoint it is bound to, because of who is preferred until its limit: one that
    is used up would only refuse it; and one that went elsewhere meanwhile comes back when its cache there has gone
    cold. While that is warm it stays: going back would pay for a second cold prompt."""
    if hit.row.preferred():
        return hit.row.spent(hit.model, at.now)
    if at.idle_s <= (hit.candidate.endpoint.provider.cache_ttl_s or CACHE_S):
        return False
    return any(
        runner.row.preferred()
        and not runner.row.spent(runner.model, at.now)
        and _group(runner) <= _group(hit)
        for runner in ready
    )


def _prefer(found: list[Runner], at: Circumstances) -> None:
    """Who is preferred until its limit comes first among equals, and last when the limit is reached. The order that a
    rule lists stays: it says more than the provider's own setting."""
    listed = at.strategy == "priority"

    def place(runner: Runner) -> tuple[tuple[bool, bool], bool, int, bool]:
        own = runner.row.preferred()
        out = own and runner.row.spent(runner.model, at.now)
        return _group(runner), out, runner.candidate.rank if listed else 0, not own

    found.sort(key=place)


def _spare(found: list[Runner], at: Circumstances) -> str:
    """Puts behind whoever has too little left for background work; says whom, where that changed the first."""
    first = found[0]
    left = first.left(at.now)
    found.sort(key=lambda runner: runner.left(at.now) < at.spare)
    window = first.row.headroom(first.model, at.now)
    if found[0] is first or window is None:
        return ""
    return f"sparing {first.row.endpoint.id}: {left:.0%} left of its {window.what}"


def _group(runner: Runner) -> tuple[bool, bool]:
    """Who is asked before whom, whatever the strategy says."""
    return runner.candidate.rank >= FALLBACK, runner.candidate.stand_in


def _in_groups(ready: list[Runner], at: Circumstances, turns: strategies.Turns | None) -> list[Runner]:
    """By the strategy within each group; only the best group takes turns."""
    best = min(map(_group, ready))
    found = _by_strategy([runner for runner in ready if _group(runner) == best], at, turns)
    rest = [runner for runner in ready if _group(runner) != best]
    if rest:
        found += sorted(_by_strategy(rest, at, None), key=_group)
    if at.strategy == "priority":  # what a rule lists is an order; for the others it is a choice among equals
        found.sort(key=lambda runner: runner.candidate.rank)
    return found


def _by_strategy(ready: list[Runner], at: Circumstances, turns: strategies.Turns | None) -> list[Runner]:
    """By the strategy alone. One endpoint may run with several models, so runners are known by their place."""
    if len(ready) == 1:
        return list(ready)
    rivals = []
    timed = at.strategy == "latency"
    for place, runner in enumerate(ready):
        endpoint, provider = runner.candidate.endpoint, runner.candidate.endpoint.provider
        rivals.append(
            strategies.Rival(
                endpoint.id,
                provider.name,
                runner.candidate.index,
                provider.priority,
                provider.weight,
                runner.row.in_flight,
                runner.model.latency.value() if timed else None,
                timed and runner.model.latency.due(at.now),
                at.price(runner) if at.price is not None else None,
                place,
            )
        )
    at.scores += tuple(rivals)
    choose = strategies.TABLE.get(at.strategy, strategies.priority)
    return [ready[rival.place] for rival in choose(rivals, turns, at.rng)]
