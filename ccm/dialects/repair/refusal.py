"""A refusal read: which rule fits a provider's words. Imported with the first refusal; the patterns take 20 ms to compile."""

from __future__ import annotations

import json
from typing import Any

from ccm.dialects.base import Encoded, Request
from ccm.dialects.repair.model import Case, Repair
from ccm.dialects.repair.rules import RULES
from ccm.model import ProviderError

_MAX_TEXT = 4_096  # what matters stands in the first lines; the patterns take longer than linear time
_MAX_BODY = 65_536
_MAX_PLACES = 32


def find(error: ProviderError, request: Request, encoded: Encoded, dialect: str) -> Repair | None:
    """The repair for a refusal, or None where nothing is known to help. `request` is the Messages request as it was
    encoded, `encoded` what was sent (an empty body: the request itself went out)."""
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
