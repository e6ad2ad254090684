"""Decisions told: why a finished request went where it went, and where a request would go now (`ccmctl explain`).

Both answers have the keys of `routing.explain`; nothing here changes anything, and nothing is sent.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from ccm.errors import ControlError
from ccm.observe.record import RequestRecord
from ccm.proxy import parse
from ccm.proxy.engine import Engine
from ccm.routing.classify import Ask


def told(records: Iterable[RequestRecord], id: str) -> dict[str, Any]:
    """How the request `id` was decided ("last": the youngest of the records, which are oldest first), and what became
    of it. Raises ControlError 404 for an id that is not (any longer) known."""
    known = list(records)
    found = next((one for one in reversed(known) if id in ("last", one.id)), None)
    if found is None:
        text = "no request has finished yet" if not known else f"request {id} is not known (any more)"
        raise ControlError(text, 404)
    return {
        **(found.why() if found.why is not None else {}),
        "id": found.id,
        "at": found.at,
        "model": found.asked_model,
        "surface": found.surface,
        "stream": found.stream,
        "class": found.request_class,
        "session": found.session,
        "status": found.status,
        "ending": found.ending,
        "error": found.error,
        "answered_by": found.endpoint,
        "answered_model": found.model,
        "route": found.route,
        "first_content_s": found.first_content_s,
        "total_s": round(found.total_s, 4),
        "input_tokens": found.usage.input_total,
        "output_tokens": found.usage.output,
        "cost_usd": found.cost_usd,
        "losses": list(found.losses),
        "attempts": [
            {
                "endpoint": one.endpoint,
                "model": one.model,
                "result": one.result,
                "started_s": round(one.started_s, 4),
                "seconds": round(one.seconds, 4),
                "error": one.error,
            }
            for one in found.attempts
        ],
    }


def dry_run(engine: Engine, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """What `router.route` would decide now for this Messages request. Raises Refusal as a real request would."""
    parse.check_messages(dict(body))
    raw = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    ask = Ask(
        model=str(body["model"]),
        stream=bool(body.get("stream")),
        headers=headers,
        size_bytes=len(raw),
        body=lambda: dict(body),
        raw=raw,
    )
    ask.body_key = zlib.crc32(ask.session().encode() or raw[:2048])
    return engine.router.explain(ask, engine.snapshot, engine.book.find)
