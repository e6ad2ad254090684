"""The line that Claude Code shows below its prompt, made here because this process is warm and that one is not.

Pure reading of what is in memory: the last requests, the router's board, the budgets. Names come from strangers and go
to a terminal: they are escaped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccm.control.core import Core
from ccm.control.gauges import budget_rows
from ccm.observe.access import escape
from ccm.observe.record import RequestRecord

MAX_NAME = 40
QUOTA_TOLD_PERCENT = 25.0  # more than that left is nothing to tell
BUDGET_TOLD = 0.5  # nor is a budget of which less was spent
_COLOURS = {"good": "32", "warn": "33", "bad": "31", "dim": "2", "bold": "1"}
_BAD = ("open", "key rejected")


def line(core: Core, args: Mapping[str, Any], wall: Callable[[], float] = time.time) -> str:
    """The line for what Claude Code piped in (`claude`: its JSON, or None), with or without `colour`."""
    claude = args.get("claude")
    claude = claude if isinstance(claude, Mapping) else {}
    paint = _painter(args.get("colour") is not False)
    session = claude.get("session_id")
    records = list(core.recent)
    mine = [record for record in records if record.session and record.session == session]
    last = next((record for record in reversed(mine or records) if record.provider), None)
    board = core.router.board()
    parts = [
        _target(core, last, board, paint),
        _money(mine, claude),
        _cache(mine, paint),
        _context(claude, paint),
        *_budgets(core, paint),
        _quota(last, board, paint, wall),
    ]
    return " · ".join([part for part in parts if part])


def _painter(colour: bool) -> Callable[[str, str], str]:
    if not colour:
        return lambda text, _name: text
    return lambda text, name: f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"


def _short(text: str) -> str:
    text = escape(text)
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 1] + "…"


def _target(
    core: Core, last: RequestRecord | None, board: list[dict[str, Any]], paint: Callable[[str, str], str]
) -> str:
    """Who answered last and with what; before the first request, who would be asked."""
    if core.stopping:
        return paint("ccm is stopping", "warn")
    if last is None:
        name = core.router.primary or next((str(row.get("provider", "")) for row in board), "")
        return paint(_short(name), "bold") if name else paint("ccm: no provider can be asked", "bad")
    name = _short(last.endpoint or last.provider)
    if last.ending == "failed":
        return paint(f"{name} failed", "bad") + f" · {_short(last.model)}"
    moved = len({attempt.endpoint for attempt in last.attempts}) > 1
    shown = paint(name, "warn" if moved else "good")
    if moved:
        shown += paint(
            f" (not {_short(last.attempts[0].endpoint)}: {escape(last.attempts[0].result)})", "dim"
        )
    return f"{shown} · {_short(last.model)}"


def _money(mine: list[RequestRecord], claude: Mapping[str, Any]) -> str:
    """What the session cost: ccm's figure; `+?` where some of it is unknown. Without any, the client's estimate."""
    known = [record.cost_usd for record in mine if record.cost_usd is not None]
    unknown = any(record.cost_usd is None and (record.usage.output or record.usage.input) for record in mine)
    if known:
        return usd(sum(known)) + ("+?" if unknown else "")
    cost = claude.get("cost")
    spent = _figure(cost.get("total_cost_usd")) if isinstance(cost, Mapping) else None
    return f"~{usd(spent)}" if spent else ""


def usd(value: float) -> str:
    """Money as people read it: `$0.0042`, `$0.42`, `$12.30`."""
    return f"${value:.4f}" if 0 < value < 0.01 else f"${value:.2f}"


def _cache(mine: list[RequestRecord], paint: Callable[[str, str], str]) -> str:
    sent = sum(record.usage.input_total for record in mine)
    if not sent:
        return ""
    share = sum(record.usage.cache_read for record in mine) / sent
    return paint(f"cache {share:.0%}", "dim")


def _context(claude: Mapping[str, Any], paint: Callable[[str, str], str]) -> str:
    window = claude.get("context_window")
    used = _figure(window.get("used_percentage")) if isinstance(window, Mapping) else None
    if used is None:
        return ""
    return paint(f"context {used:.0f}%", "bad" if used >= 90 else "warn" if used >= 75 else "dim")


def _budgets(core: Core, paint: Callable[[str, str], str]) -> list[str]:
    """The budgets of which much is spent, the fullest first."""
    found = []
    for row in budget_rows(core):
        spent, limit = _figure(row.get("spent_usd")), _figure(row.get("limit_usd"))
        if spent is None or not limit or spent / limit < BUDGET_TOLD:
            continue
        share = spent / limit
        colour = "bad" if share >= 1 else "warn" if share >= 0.8 else "dim"
        found.append((-share, paint(f"{_short(str(row.get('name', 'budget')))} {share:.0%}", colour)))
    return [text for _, text in sorted(found)][:2]


def _quota(
    last: RequestRecord | None,
    board: list[dict[str, Any]],
    paint: Callable[[str, str], str],
    wall: Callable[[], float],
) -> str:
    """What is left of the quota of the endpoint that answered last, where that is little; or what is wrong with it."""
    row = next((row for row in board if last is not None and row.get("id") == last.endpoint), None)
    if row is None:
        return ""
    wait = _figure(row.get("cooldown_s"))
    if wait:
        return paint(f"back at {_clock(wall() + wait)}", "warn")
    if row.get("state") in _BAD:
        return paint(_short(str(row.get("reason") or row["state"])), "bad")
    quota = row.get("quota")
    left = _figure(quota.get("left_percent")) if isinstance(quota, Mapping) else None
    if left is None or left > QUOTA_TOLD_PERCENT:
        return ""
    resets = _figure(quota.get("resets_s")) if isinstance(quota, Mapping) else None
    text = f"{left:.0f}% quota left" + (f" until {_clock(wall() + resets)}" if resets else "")
    return paint(text, "bad" if left < 5 else "warn")


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
