"""The short way to a decision (`routing.usual`) comes to what the long one comes to, whatever happens meanwhile."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from ccm.errors import Refusal
from ccm.model import Failure, ModelFacts, Outcome, ProviderError
from ccm.model import FailureKind as K
from ccm.routing import usual
from ccm.routing.quota import Quota, Window
from ccm.routing.router import Route, Ticket
from ccm.settings import Rule, Use, When
from tests.routing import OK, World, provider, snapshot

WORLDS = 1500 if os.environ.get("CCM_LONG") else 60
MODELS = ("claude-sonnet-5-5", "claude-haiku-4-5", "gpt-5", "a/claude-opus-5")


def facts(model: str, type: str) -> ModelFacts:
    abilities = {"tools", "images"} if len(model + type) % 3 else {"tools"}
    return ModelFacts(model, known=True, abilities=frozenset(abilities))


def world(rng: random.Random, calm: bool) -> World:
    names = "abcd"[: rng.randint(1, 4)]
    providers = []
    for name in names:
        more: dict[str, Any] = {"priority": rng.choice([1, 1, 2])}
        if not calm:
            more |= {"max_in_flight": rng.choice([0, 0, 0, 1]), "prefer_until": rng.choice(["", "", "limit"])}
        if rng.random() < 0.3:
            more["tiers"] = {}
        providers.append(provider(name, keys=rng.choice([1, 1, 2]), **more))
    routing: dict[str, Any] = {"strategy": rng.choice(["priority"] * 5 + ["latency", "weighted", "cost"])}
    if calm:
        routing["strategy"] = "priority"
    routing |= {"sticky": rng.random() < 0.8, "hedge": rng.random() < 0.2, "spare": rng.choice([0, 0, 0, 20])}
    if rng.random() < 0.2:
        routing["rules"] = (
            Rule("r", When(classes=("background",)), Use(to=(("b", ""),), only=rng.random() < 0.2)),
        )
    if rng.random() < 0.2:
        routing["models"] = {"gpt-5": {"a": "gpt-x"}}
    return World(*providers, facts=facts, **routing)


def request(rng: random.Random) -> dict[str, Any]:
    first: Any = rng.choice(
        ["hi", [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}], [{"type": "image"}]]
    )
    messages = [{"role": "user", "content": first}]
    if rng.random() < 0.5:
        messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
    return {"messages": messages, "max_tokens": rng.choice([1, 100, 100])}


def told(route: Route) -> list[Any]:
    trip = route.targets[0].trip  # type: ignore[attr-defined]
    shown = [route.targets, route.tell(), dict(route.unwell), route.list_price]
    return [*shown, trip.key, trip.parent, trip.binds, trip.quiet, trip.force, trip.hedges, trip.learns]


def course_of_events(seed: int) -> tuple[list[Any], int]:
    """What is decided in one world, and how often the short way was enough."""
    rng = random.Random(seed)
    calm = rng.random() < 0.7  # else something happens all the time
    here, short = world(rng, calm), 0
    trace: list[Any] = []
    open_: list[Ticket] = []
    names = list(here.snapshot.providers)
    for _ in range(60):
        here.clock.now += rng.choice([0.0, 0.1, 2.0, 2.0, 40.0])
        event = rng.random() ** (4 if calm else 1)
        router = here.router
        if event < 0.6:
            headers = {"x-claude-code-agent-id": "x"} if rng.random() < 0.1 else {}
            more = {"request": request(rng)} if rng.random() < 0.7 else {}
            session, pin = rng.choice(["", "s", "t"]), rng.choice([""] * 9 + ["a"])
            try:
                route = here.route(
                    rng.choice(MODELS), session, pin, headers=headers, body_key=rng.choice([0, 7]), **more
                )
            except Refusal as refusal:
                trace.append(str(refusal))
                continue
            trace.append(told(route))
            short += len(route.busy) > 1
            for target in route.targets:
                ticket = router.reserve(target, route)
                trace.append(ticket is not None and ticket.permits)
                if ticket is None:
                    continue
                if rng.random() < (0.98 if calm else 0.7):
                    router.first_content(ticket, rng.random(), 10)
                    open_.append(ticket)
                    break
                error = ProviderError(rng.choice([0, 500]), "x", "said")
                router.release(ticket, Outcome(Failure(rng.choice(list(K)), error, rng.choice([None, 50.0]))))
        elif event < 0.85 and open_:
            ticket = open_.pop(rng.randrange(len(open_)))
            router.release(ticket, rng.choice([OK, OK, OK, Outcome(cancelled=True)]))
        elif event < 0.87:
            router.set_primary(rng.choice([*names, None, None]), None, rng.choice(["", "think"]))
        elif event < 0.885:
            router.drain(rng.choice(names), rng.random() < 0.3)
        elif event < 0.9:
            router.set_enabled(rng.choice(names), rng.random() < 0.8)
        elif event < 0.91:
            router.reset(rng.choice([*names, None]))
        elif event < 0.94:
            router.avoid(7, rng.choice(names))
        elif event < 0.96:
            providers = list(here.snapshot.providers.values())
            here.snapshot = snapshot(*providers, strategy=here.snapshot.strategy)
            router.install(here.snapshot)
        elif open_:
            window = Window("5h", rng.choice([0.0, 0.1, 0.5]), here.clock.now + 50, True)
            router.quota(open_[-1], Quota((window,)))
    trace.append(here.router.board())
    trace.append(here.router.tell())
    return trace, short


def test_the_short_way_decides_as_the_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [course_of_events(seed) for seed in range(WORLDS)]
    monkeypatch.setattr(usual, "route", lambda *args: None)
    for seed, (trace, _) in enumerate(quick):
        assert course_of_events(seed)[0] == trace, seed
    assert sum(short for _, short in quick) > 5 * WORLDS, (
        "the short way was hardly ever taken: the test is blind"
    )
