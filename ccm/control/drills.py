"""Drills seen from the control room: who met the fault, what its client saw, and what that cost in time."""

from __future__ import annotations

from typing import Any

from ccm.control import recent
from ccm.control.core import Core
from ccm.observe.record import RequestRecord


def report(core: Core) -> list[dict[str, Any]]:
    """Every known drill, youngest first, with `requests`: what became of each one that met it."""
    known = {record.id: record for record in recent.records(core)}
    return [
        {**row, "requests_met": [_met(id, known.get(id), row) for id in row["met"]]} for row in core.drills()
    ]


def running(core: Core) -> list[dict[str, Any]]:
    """The drills that are on."""
    return [row for row in core.drills() if row["on"]]


def _met(id: str, record: RequestRecord | None, row: dict[str, Any]) -> dict[str, Any]:
    """One request that met a drill. `added_s` is the time that the fault cost; None while it runs or where it is lost."""
    if record is None:
        return {"id": id, "outcome": "running, or no longer known", "done": False, "added_s": None}
    drilled = [one for one in record.attempts if one.endpoint.partition("#")[0] == row["provider"]]
    last = record.attempts[-1] if record.attempts else None
    answered = last.endpoint if last is not None and last.result.startswith("2") else ""
    return {
        "id": id,
        "done": True,
        "at": record.at,
        "stream": record.stream,
        "asked_model": record.asked_model,
        "status": record.status,
        "ending": record.ending,
        "attempts": [f"{one.endpoint} {one.result}" for one in record.attempts],
        "met_as": [one.result for one in drilled],
        "answered_by": answered,
        "failed_over": bool(answered) and answered.partition("#")[0] != row["provider"],
        "added_s": _added_s(record, row, answered),
        "outcome": _outcome(record, row, answered),
        "error": record.error,
    }


def _added_s(record: RequestRecord, row: dict[str, Any], answered: str) -> float | None:
    """What went by before the attempt that answered began; the delay itself where a slow answer came after all."""
    if not answered or record.ending != "complete":
        return None
    last = record.attempts[-1]
    before = last.started_s or sum(one.seconds for one in record.attempts[:-1])
    late = row["delay_s"] if row["delay_s"] and answered.partition("#")[0] == row["provider"] else 0.0
    return round(before + late, 3)


def _outcome(record: RequestRecord, row: dict[str, Any], answered: str) -> str:
    """In words: what the client saw."""
    name = row["provider"]
    if record.ending == "complete" and answered:
        if answered.partition("#")[0] != name:
            return f"answered by {answered} instead"
        if row["delay_s"]:
            return f"answered by {answered}, late"
        return f"answered by {answered} in spite of it"
    if record.ending == "broken":
        return "the stream had begun and broke: the client saw an error event"
    if record.ending == "client_gone":
        return "the client left"
    return f"failed: the client saw {record.status}"
