"""Why a request would go where it would go: the decision told as plain data, for `ccmctl explain` and dry runs (R51).

It reads the same rows and calls the same functions as a real decision, on copies of what a decision would change, so
what it tells is what would happen now.
"""

from __future__ import annotations

from typing import Any

from ccm.errors import Refusal
from ccm.routing import choice
from ccm.routing.candidates import FALLBACK
from ccm.routing.case import Case
from ccm.routing.choice import Circumstances, Runner
from ccm.routing.health import quota_line
from ccm.routing.verdict import matches, rule_line


def explain(case: Case, runners: list[Runner], at: Circumstances) -> dict[str, Any]:
    """One JSON-ready dict. `order` has target ids, best first; `candidates` every endpoint that was considered, with
    what ruled it out ("" = nothing) and the figures the strategy looks at; `rules` every rule and whether it holds;
    `refused` is the error a request would get ("" = none). Times are seconds, prices USD."""
    verdict, ask = case.verdict, case.ask
    refused, reason, panic, wait_s = "", "", False, 0.0
    order: list[Runner] = []
    try:
        decision = choice.decide(runners, at)
    except Refusal as refusal:
        refused = f"{refusal.status} {refusal.type}: {refusal.message}"
    else:
        order, reason, panic, wait_s = decision.order, decision.reason, decision.panic, decision.wait_s
    candidates = [_candidate(runner, order, at) for runner in runners]
    candidates.sort(key=lambda line: (line["place"] == 0, line["place"]))
    candidates += [
        {"endpoint": id, "ruled_out": why, "place": 0, "state": "not asked"} for id, why in case.excluded
    ]
    return {
        "model": ask.model,
        "class": verdict.request_class,
        "classes": [
            name
            for name in sorted(case.settings.classes)
            if ask.is_a(name, case.settings.long_context_tokens)
        ],
        "rule": verdict.rule,
        "note": verdict.note,
        "rules": [
            {"rule": rule_line(rule), "holds": matches(ask, rule.when, case.settings) is not None}
            for rule in case.settings.rules
        ],
        "pin": verdict.pin,
        "pinned_by": case.slate.pinned,
        "needs": sorted(ask.needs(case.slate.lacking)) if case.slate.lacking else [],
        "session": case.session,
        "conversation": case.key[0] if case.key is not None else "",
        "bound_to": at.bound or "",
        "sticky": verdict.sticky,
        "primary": at.primary or "",
        "strategy": verdict.strategy,
        "spare": round(at.spare * 100),
        "reason": case.slate.pinned or reason,
        "input_tokens": ask.input_tokens(),
        "panic": panic,
        "wait_s": round(wait_s, 1),
        "refused": refused,
        "order": [f"{runner.row.endpoint.id}/{runner.candidate.model}" for runner in order],
        "candidates": candidates,
    }


def _candidate(runner: Runner, order: list[Runner], at: Circumstances) -> dict[str, Any]:
    row, candidate, latency = runner.row, runner.candidate, runner.model.latency.value()
    why = runner.why_not(at.now)
    place = order.index(runner) + 1 if runner in order else 0
    price = at.price(runner) if at.price is not None else None
    return {
        "endpoint": row.endpoint.id,
        "provider": row.endpoint.provider.name,
        "model": candidate.model,
        "place": place,
        "state": why or "ready",
        "ruled_out": "" if place else why,
        "stand_in": candidate.stand_in,
        "fallback": candidate.rank >= FALLBACK,
        "bound": row.endpoint.id == at.bound,
        "priority": row.endpoint.provider.priority,
        "weight": row.endpoint.provider.weight,
        "in_flight": row.in_flight,
        "waiting": sum(not waiter.done for waiter in row.waiting),
        "full": row.full(),
        "share": round(row.share(runner.model, at.now), 2),
        "first_content_s": None if latency is None else round(latency, 3),
        "price_usd": None if price is None else round(price, 6),
        "cools_s": round(row.remaining_s(runner.model, at.now), 1),
        "quota": quota_line(row.headroom(runner.model, at.now), at.now),
        "prefer_until": row.endpoint.provider.prefer_until,
        "spared": runner.left(at.now) < at.spare,
    }
