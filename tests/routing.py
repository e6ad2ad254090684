"""A router with a configuration and a clock of its own: what tests of routing drive.

world = World(provider("a", priority=1), provider("b"), strategy="weighted")
world.route(session="s").targets ... world.end(target, K.TRANSIENT) ... world.clock.now += 30
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from ccm.model import (
    Endpoint,
    Failure,
    KeySource,
    ModelFacts,
    Outcome,
    Provider,
    ProviderError,
    Secret,
    Snapshot,
    Target,
)
from ccm.model import FailureKind as K
from ccm.routing.classify import Ask
from ccm.routing.router import Route, Router
from ccm.settings import FailoverSettings, RoutingSettings

TIERS = {"opus": "big", "sonnet": "mid", "haiku": "small", "default": "mid"}
OK = Outcome(first_content_s=0.5, input_tokens=10, output_tokens=20)
SONNET = "claude-sonnet-5-5"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def provider(name: str, keys: int = 1, **more: Any) -> Provider:
    sources = tuple(KeySource("env", f"{name}_{n}", Secret(f"{name}{n}", "env")) for n in range(keys))
    more.setdefault("tiers", {key: f"{name}-{value}" for key, value in TIERS.items()})
    return Provider(
        name,
        more.pop("type", name),
        more.pop("dialect", "openai_chat"),
        f"https://{name}",
        keys=sources,
        **more,
    )


def snapshot(*providers: Provider, **more: Any) -> Snapshot:
    """A configuration of these providers; `more` are its strategy, models and routing settings."""
    endpoints = []
    for one in providers:
        if one.enabled:
            for n, key in enumerate(key for key in one.keys if key.secret):
                endpoints.append(Endpoint(one.name if n == 0 else f"{one.name}#{n + 1}", one, key))
    return Snapshot(
        1, "", "127.0.0.1", 13456, "", (), tuple(endpoints), {p.name: p for p in providers},
        FailoverSettings(), more.pop("strategy", "priority"), more.pop("models", {}),
        routing=RoutingSettings(**more),
    )  # fmt: skip


def find_facts(model: str, type: str) -> ModelFacts:
    return ModelFacts(model, known=True)


class World:
    """A router with a configuration and a clock."""

    def __init__(self, *providers: Provider, facts: Any = find_facts, **more: Any) -> None:
        self.clock = Clock()
        self.router = Router(clock=self.clock, rng=random.Random(11))
        self.snapshot = snapshot(*providers, **more)
        self.router.install(self.snapshot)
        self.facts = facts

    def asked(self, model: str = SONNET, session: str = "", pin: str = "", **more: Any) -> Ask:
        """A request. `request` is its document; else it has no body."""
        headers = {"x-claude-code-session-id": session} if session else {}
        if pin:
            headers["x-ccm-provider"] = pin
        headers.update(more.pop("headers", {}))
        if (request := more.pop("request", None)) is not None:
            raw = json.dumps({"model": model, **request}, separators=(",", ":"), ensure_ascii=False).encode()
            more = {"raw": raw, "size_bytes": len(raw), "body": lambda: json.loads(raw), **more}
        return Ask(model, more.pop("stream", True), headers, **more)

    def route(self, *args: Any, **more: Any) -> Route:
        return self.router.route(self.asked(*args, **more), self.snapshot, self.facts)

    def explain(self, *args: Any, **more: Any) -> dict[str, Any]:
        return self.router.explain(self.asked(*args, **more), self.snapshot, self.facts)

    def ids(self, *args: Any, **more: Any) -> list[str]:
        return [target.endpoint.id for target in self.route(*args, **more).targets]

    def end(
        self, target: Target, outcome: Outcome | K = OK, wait: float | None = None, status: int = 0
    ) -> None:
        ticket = self.router.reserve(target)
        assert ticket is not None
        if isinstance(outcome, K):
            outcome = Outcome(Failure(outcome, ProviderError(status, "x", "said"), wait))
        self.router.release(ticket, outcome)

    def spoil(self, id: str, kind: K, times: int = 1, wait: float | None = None) -> None:
        """Failures of one endpoint, of requests that could have gone elsewhere."""
        for _ in range(times):
            target = next(t for t in self.route().targets if t.endpoint.id == id)
            self.end(target, kind, wait)

    def row(self, id: str) -> Mapping[str, Any]:
        return next(row for row in self.router.board() if row["endpoint"] == id)
