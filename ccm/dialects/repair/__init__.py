"""Repairs: what a provider's 400 says is wrong -> the one change that puts it right (R11, R15, R18, R19, R23, R24).

`find` reads an error, `before` and `after` apply what it found: to the Messages request before it is encoded, to the
body after. Pure. A repair never changes the meaning in silence: what it drops or approximates is noted as a Loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ccm.dialects.base import Context, Encoded, Loss, Request
from ccm.dialects.repair.actions import ACTIONS
from ccm.dialects.repair.model import Case, Draft, Repair
from ccm.dialects.repair.rules import RULES
from ccm.model import ProviderError

__all__ = ["ACTIONS", "RULES", "Repair", "after", "before", "find"]

STATUSES = frozenset(status for rule in RULES for status in rule.statuses)
_MAX_TEXT = 4_096  # what matters stands in the first lines; the patterns take longer than linear time
_MAX_BODY = 65_536
_MAX_PLACES = 32


def find(error: ProviderError, request: Request, encoded: Encoded, dialect: str) -> Repair | None:
    """The repair for a refusal, or None where nothing is known to help. `request` is the Messages request as it was
    encoded, `encoded` what was sent (an empty body: the request itself went out)."""
    if error.status not in STATUSES:
        return None
    data = _parsed(error.body)
    places = _places(data)
    case = Case(
        text=f"{error.message}\n{places}"[:_MAX_TEXT] if places else error.message[:_MAX_TEXT],
        code=error.code.lower(),
        param=_param(data),
        request=request,
        body=encoded.body or request,
        encoded=encoded,
        dialect=dialect,
    )
    for rule in RULES:
        if dialect not in rule.dialects or error.status not in rule.statuses:
            continue
        match = rule.pattern.search(case.text)
        if match is not None and (found := rule.make(case, match)) is not None:
            return found
    return None


def before(repairs: Iterable[Repair], request: Request, ctx: Context) -> tuple[Request, Context, list[Loss]]:
    """The request and context to be encoded, and what was lost. `request` itself is not changed."""
    draft = Draft(request, ctx)
    for repair in repairs:
        if (action := ACTIONS[repair.name].before) is not None:
            action(draft, repair.args)
    return draft.request, draft.ctx, draft.losses


def after(repairs: Iterable[Repair], encoded: Encoded, losses: Iterable[Loss] = ()) -> None:
    """Changes the encoded body as the repairs say, and adds the losses of `before`."""
    for loss in losses:
        encoded.lose(*loss)
    for repair in repairs:
        if (action := ACTIONS[repair.name].after) is not None:
            action(encoded, repair.args)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body[:_MAX_BODY]) if body[:1] in (b"{", b"[") else None
    except (ValueError, RecursionError):
        return {}
    data = data[0] if isinstance(data, list) and data else data
    return data if isinstance(data, dict) else {}


def _param(data: dict[str, Any]) -> str:
    """`error.param` of OpenAI's error form and its many copies."""
    error = data.get("error")
    param = (error if isinstance(error, dict) else data).get("param")
    return param[:120] if isinstance(param, str) else ""


def _places(data: dict[str, Any]) -> str:
    """All places that a FastAPI error lists (`detail: [{loc, msg}]`, Mistral has it inside `message`): several unknown
    fields are told at once, and are dropped at once."""
    inner = data.get("message")
    details = data.get("detail") or (inner.get("detail") if isinstance(inner, dict) else None)
    lines = []
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("loc"), list):
            lines.append(f"{'.'.join(map(str, detail['loc']))}: {detail.get('msg')}")
    return "\n".join(lines[:_MAX_PLACES])
