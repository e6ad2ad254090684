"""A finished request as rows of the usage database. Names and figures only: no text of a request, answer or error.

What comes from clients and providers is made storable here: bounded length, valid Unicode, finite figures. Pure.
"""

from __future__ import annotations

import functools
import time
from math import isfinite
from typing import Any

from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord
from ccm.usage.prices import answering_attempt

MAX_NAME = 200
_MOST = 2**53  # whole numbers up to here survive every reader (JSON, spreadsheets)
_QUARTER_S = 900

Row = tuple[Any, ...]


def rows_of(record: RequestRecord) -> tuple[Row, list[Row], list[Row]]:
    """(the request's row without its `seq`; its attempts' rows without `request`: those that stand for themselves, those
    that generated tokens which the request's own figures lack), in schema.py's order of columns."""
    answering = answering_attempt(record)
    usage, attempts = record.usage, record.attempts
    names: tuple[str, ...] = (
        record.id, record.asked_model, record.request_class, record.session, record.project, record.provider,
        record.endpoint, record.model, record.stop_reason or "",
    )  # fmt: skip
    joined = "".join(names)  # one look at all of them
    if len(joined) > MAX_NAME or not joined.isascii():
        names = tuple([_text(name) for name in names])
    id, asked, kind, session, project, provider, endpoint, model, reason = names
    request = (
        id, float(record.at), hour_of(record.at), record.surface, asked, kind, session, project, provider, endpoint,
        model, record.status, record.ending, None if record.stop_reason is None else reason, record.stream,
        _real(record.first_content_s), _real(record.total_s) or 0.0, len(attempts), *_tokens(usage),
        usage.estimated and record.surface != "count_tokens", answering is not None and answering.assumed_billed,
        _answer_cost(record, answering), _real(record.cost_usd), _real(record.list_cost_usd),
    )  # fmt: skip
    plain: list[Row] = []
    partial: list[Row] = []
    for n, attempt in enumerate(attempts):
        if attempt is answering and attempt.endpoint == record.endpoint:
            where, who = endpoint, provider
        else:
            where = _text(attempt.endpoint)
            who = provider if where == endpoint else where.partition("#")[0]
        row = (
            n, who, where, model if attempt.model == record.model else _text(attempt.model),
            _text(attempt.result), _real(attempt.started_s) or 0.0, _real(attempt.seconds) or 0.0,
            attempt.assumed_billed, _real(attempt.cost_usd),
        )  # fmt: skip
        if attempt.usage is None:
            plain.append(row)
        else:
            partial.append((*row, True, attempt.usage.estimated, *_tokens(attempt.usage)))
    return request, plain, partial


def _answer_cost(record: RequestRecord, answering: Attempt | None) -> float | None:
    """What the answer alone cost, without the attempts before it; None where it is unknown."""
    if answering is not None:
        return _real(answering.cost_usd)
    partial = [attempt.cost_usd or 0.0 for attempt in record.attempts if attempt.usage is not None]
    if (
        record.cost_usd is None
    ):  # without an answer the unknown part is one of the attempts, unless there is none
        return 0.0 if partial else None
    return _real(record.cost_usd - sum(partial))


def _tokens(usage: Usage) -> Row:
    """The figures in the order of schema.TOKENS, none below 0, none beyond what every reader of numbers can hold."""
    figures = (
        usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.output, usage.thinking or 0,
        usage.web_searches, usage.web_fetches,
    )  # fmt: skip
    for figure in figures:
        if not 0 <= figure <= _MOST:
            return tuple([min(max(figure, 0), _MOST) for figure in figures])
    return figures


def hour_of(at: float) -> int:
    """The beginning of the local hour of an instant, so that hours never straddle two local days."""
    begins = _begins(int(at // _QUARTER_S))
    return int(at - begins) // 3600 * 3600 + begins


@functools.lru_cache(16)
def _begins(quarter: int) -> int:
    """How far into an hour of UTC the local hours begin, at this quarter of an hour (offsets change on the quarter)."""
    return -time.localtime(quarter * _QUARTER_S).tm_gmtoff % 3600


def _text(value: str) -> str:
    if len(value) > MAX_NAME:
        value = value[:MAX_NAME]
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _real(value: float | None) -> float | None:
    return float(value) if value is not None and isfinite(value) else None
