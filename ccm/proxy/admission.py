"""What a request must pass between its route and its first attempt: budgets and the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ccm.observe.record import RequestRecord
from ccm.proxy.engine import Engine
from ccm.routing.classify import Ask
from ccm.routing.router import Route
from ccm.shape import replace
from ccm.usage.guard import recent_calls


def admit(
    engine: Engine, record: RequestRecord, ask: Ask, route: Route, body: Callable[[], dict[str, Any]]
) -> Route:
    """The route as budgets leave it: without targets whose money is used up, or another one altogether. Raises Refusal
    where they leave none, or where the guard stops the conversation."""
    meter = engine.meter
    if not meter.watches:
        return route
    admission = None
    while True:
        admission = meter.admit(
            record,
            route.targets[0].facts.price,
            ask.input_tokens(),
            ask.max_output_tokens(),
            lambda: recent_calls(body().get("messages")),
            targets=route.targets,
            after=admission,
        )
        if not admission.downgrade_to:
            break
        ask = _redirected(ask, admission.downgrade_to, engine)
        route = engine.router.route(ask, engine.snapshot, engine.book.find)
    if admission.avoid:
        left = tuple([target for target in route.targets if target.id not in admission.avoid])
        route = replace(route, targets=left)
    return route


def _redirected(ask: Ask, to: str, engine: Engine) -> Ask:
    """The same request for another model, or pinned to another provider."""
    headers, model = dict(ask.headers), to
    if to in engine.snapshot.providers:
        headers["x-ccm-provider"], model = to, ask.model
    other = Ask(
        model=model,
        stream=ask.stream,
        headers=headers,
        size_bytes=ask.size_bytes,
        path_prefix="",
        body=ask.body,
        raw=ask.raw,
    )
    other.body_key = ask.body_key
    return other
