"""What a router tells its successor in another process: who holds whose prompt cache, who asked to be left alone.

Plain data for JSON, bounded, with ages instead of instants. It is advice: whatever cannot be read, concerns an endpoint
that is configured otherwise now, or has run out meanwhile is passed over. Counters and averages are not in it: they are
learnt again within a few requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.model import Endpoint, FailureKind
from ccm.routing.affinity import IDLE_S, Affinity
from ccm.routing.board import Board
from ccm.routing.breaker import OPEN_LONGEST_S, Breaker, State
from ccm.routing.cooldown import CAP_S, Cooldown
from ccm.wire.digest import sha256

VERSION = 1
_MODELS_MOST = 64
_TEXT_MOST = 500


def tell(board: Board, affinity: Affinity, now: float) -> dict[str, Any]:
    """Everything worth knowing, as plain data."""
    return {
        "version": VERSION,
        "affinity": [[*key, endpoint, round(now - used, 1)] for key, endpoint, used in affinity.entries()],
        "endpoints": {
            id: {
                "identity": identity_of(row.endpoint),
                "own": clocks_of(row.cool, row.breaker, now),
                "models": {
                    name: clocks_of(model.cool, model.breaker, now)
                    for name, model in row.models.items()
                    if not model.idle(now)
                },
            }
            for id, row in board.rows.items()
        },
    }


def take(told: Mapping[str, Any], board: Board, affinity: Affinity, now: float) -> None:
    """Takes over what fits this board. Never raises, whatever it is given."""
    if told.get("version") != VERSION:
        return
    known = set()
    for id, row in board.rows.items():
        try:
            theirs = told["endpoints"][id]
            if theirs["identity"] != identity_of(row.endpoint):
                continue
            known.add(id)
            set_clocks(row.cool, row.breaker, theirs["own"], now)
            for name, clocks in list(theirs["models"].items())[:_MODELS_MOST]:
                model = row.model(str(name), now)
                set_clocks(model.cool, model.breaker, clocks, now)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    try:
        for session, model_name, endpoint, age in told["affinity"]:
            if endpoint in known and 0 <= age <= IDLE_S:
                affinity.bind((str(session), str(model_name)), str(endpoint), now - float(age), counted=False)
    except (KeyError, TypeError, ValueError):
        return


def identity_of(endpoint: Endpoint) -> str:
    """The same provider, address and key: what learnt health holds for (`board.same`)."""
    provider = endpoint.provider
    key = endpoint.key
    secret = key.secret.fingerprint if key is not None and key.secret is not None else ""
    parts = (
        provider.name, provider.type, provider.dialect, provider.base_url,
        key.kind if key else "", key.name if key else "", secret,
    )  # fmt: skip
    return sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def clocks_of(cool: Cooldown, breaker: Breaker, now: float) -> dict[str, Any]:
    """What runs against a target: `cool` and `open`, each only while it does."""
    found: dict[str, Any] = {}
    if cool.active(now) and cool.kind is not None:
        found["cool"] = {
            "left_s": round(cool.until - now, 2),
            "set_ago_s": round(now - cool.set_at, 2),
            "streak": cool.streak,
            "kind": cool.kind.value,
            "reason": cool.reason[:_TEXT_MOST],
        }
    state = breaker.state(now)
    if state is not State.CLOSED:
        left_s = breaker.until - now if state is State.OPEN else 0.0
        found["open"] = {"left_s": round(max(0.0, left_s), 2), "openings": breaker.openings}
    return found


def set_clocks(cool: Cooldown, breaker: Breaker, clocks: Mapping[str, Any], now: float) -> None:
    """Sets what `clocks_of` told; the rest stays. Raises KeyError, TypeError and ValueError for what it did not tell."""
    if "cool" in clocks:
        told = clocks["cool"]
        kind = FailureKind(told["kind"])
        cool.until = now + min(CAP_S, max(0.0, float(told["left_s"])))
        cool.set_at = now - max(0.0, float(told["set_ago_s"]))
        cool.streak = max(1, int(told["streak"]))
        cool.kind, cool.reason = kind, str(told["reason"])[:_TEXT_MOST]
    if "open" in clocks:
        told = clocks["open"]
        left_s = min(2 * OPEN_LONGEST_S, max(0.0, float(told["left_s"])))
        breaker.reopen(now + left_s, max(1, int(told["openings"])))
