"""What the last finished requests tell: rates, success, times, tokens and money of a window, and the requests themselves.

The record in memory is bounded (app.RECENT). Where it does not reach back as far as a window, the window is shorter:
`span_s` says how long it really is. Exact figures, not buckets: nearest-rank quantiles over at most that many values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ccm.control.core import Core
from ccm.observe.record import RequestRecord

WINDOW_S = 900.0  # what `status` looks back on
PULSE_S = 60.0  # what `top` does
MAX_REQUESTS = 1000
_SAID_NOTHING = frozenset(
    {"cancelled", "hedged", "client_gone"}
)  # attempts that say nothing of their endpoint


def records(core: Core) -> list[RequestRecord]:
    """A copy, made in one step, of a deque that other threads append to: a loop over it would raise when they do."""
    return list(core.recent)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile of sorted values; None without any."""
    if not values:
        return None
    return values[max(0, math.ceil(share * len(values)) - 1)]


def window(core: Core, seconds: float, wall: Callable[[], float] = time.time) -> dict[str, Any]:
    """The figures of the requests that ended within the last `seconds`: `all` together, and `providers` by name.

    Money is None where no request has a known price. Rates are per second of `span_s`.
    """
    now = wall()
    found = records(core)
    since = now - seconds
    inside = [record for record in found if record.at + record.total_s >= since]
    span = seconds
    if found and len(inside) == len(found) and len(found) >= getattr(core.recent, "maxlen", 0):
        span = max(
            1.0, now - min(record.at + record.total_s for record in found)
        )  # older ones have been forgotten
    names = dict.fromkeys(
        [*core.snapshot.providers, *(record.provider for record in inside if record.provider)]
    )
    attempts: dict[str, list[bool]] = {}
    for record in inside:
        for name, good in _outcomes(record):
            attempts.setdefault(name, []).append(good)
    return {
        "seconds": seconds,
        "span_s": round(span, 1),
        "all": {**_figures(inside, span), **_success([r.ending == "complete" for r in inside if _counts(r)])},
        "providers": {
            name: {
                **_figures([record for record in inside if record.provider == name], span),
                **_success(attempts.get(name, [])),
            }
            for name in names
        },
    }


def _counts(record: RequestRecord) -> bool:
    """Whether a request says something of ccm's success: not one that its client left, or that we had to refuse."""
    return record.ending in ("complete", "failed", "broken")


def _outcomes(record: RequestRecord) -> Iterable[tuple[str, bool]]:
    """(provider, whether it answered well) of every attempt that says something."""
    last = len(record.attempts) - 1
    for n, attempt in enumerate(record.attempts):
        if attempt.result in _SAID_NOTHING:
            continue
        good = attempt.result.startswith("2") and not (n == last and record.ending == "broken")
        yield attempt.endpoint.partition("#")[0], good


def _success(outcomes: Sequence[bool]) -> dict[str, Any]:
    good = sum(outcomes)
    return {
        "outcomes": len(outcomes),
        "success": round(good / len(outcomes), 4) if outcomes else None,
    }


def _figures(rows: Sequence[RequestRecord], span: float) -> dict[str, Any]:
    firsts = sorted(row.first_content_s for row in rows if row.first_content_s is not None)
    totals = sorted(row.total_s for row in rows if row.ending == "complete")
    output = sum(row.usage.output for row in rows)
    return {
        "requests": len(rows),
        "per_s": round(len(rows) / span, 4),
        "first_content_p50_s": quantile(firsts, 0.5),
        "first_content_p95_s": quantile(firsts, 0.95),
        "total_p50_s": quantile(totals, 0.5),
        "total_p95_s": quantile(totals, 0.95),
        "input_tokens": sum(row.usage.input_total for row in rows),
        "cache_read_tokens": sum(row.usage.cache_read for row in rows),
        "output_tokens": output,
        "output_tokens_per_s": round(output / span, 2),
        "cost_usd": _sum(row.cost_usd for row in rows),
        "list_cost_usd": _sum(row.list_cost_usd for row in rows),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None


def requests(core: Core, limit: int = 20, after: str | None = None) -> dict[str, Any]:
    """Finished requests, youngest first, as {"requests", "cursor", "more", "gap"}.

    Without `after` the last `limit`. With it the *oldest* `limit` that ended after the request of that id ("" = from the
    beginning), so that nobody who goes on with `cursor` misses or repeats one; `more` says that there are further ones.
    `gap`: that id is no longer known (forgotten, or ccm was started again), so some may have been missed.
    """
    found = records(core)
    count = max(0, min(limit, MAX_REQUESTS))
    gap = more = False
    if after is None:
        chosen = found[len(found) - count :] if count < len(found) else found
    else:
        at = next((n for n in range(len(found) - 1, -1, -1) if found[n].id == after), -1)
        gap = at < 0 and bool(after)
        rest = found[at + 1 :]
        chosen, more = rest[:count], len(rest) > count
    cursor = chosen[-1].id if chosen else (after if after is not None and not gap else "")
    return {"requests": [line(one) for one in reversed(chosen)], "cursor": cursor, "more": more, "gap": gap}


def line(record: RequestRecord) -> dict[str, Any]:
    """One finished request as plain data. Times are seconds, money USD (None = unknown)."""
    return {
        "id": record.id,
        "at": record.at,
        "status": record.status,
        "ending": record.ending,
        "surface": record.surface,
        "stream": record.stream,
        "asked_model": record.asked_model,
        "class": record.request_class,
        "project": record.project,
        "provider": record.provider,
        "endpoint": record.endpoint,
        "model": record.model,
        "route": record.route,
        "attempts": [
            {
                "endpoint": attempt.endpoint,
                "model": attempt.model,
                "result": attempt.result,
                "seconds": round(attempt.seconds, 4),
                "started_s": round(attempt.started_s, 4),
                "error": attempt.error,
            }
            for attempt in record.attempts
        ],
        "first_content_s": record.first_content_s,
        "total_s": round(record.total_s, 4),
        "input_tokens": record.usage.input,
        "cache_read_tokens": record.usage.cache_read,
        "cache_write_tokens": record.usage.cache_write,
        "output_tokens": record.usage.output,
        "cost_usd": record.cost_usd,
        "stop_reason": record.stop_reason,
        "losses": list(record.losses),
        "error": record.error,
    }
