"""What an answer costs: tokens times list prices, or what the provider itself says it charged.

An unknown price makes an unknown cost, None, never 0: a figure that is too low is worse than none. Thinking is part of
the output, as every vendor bills it. Pure: prices come with the record, from the catalogue or the user's own file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord

_PER_TOKENS, _PER_SEARCHES = 1e6, 1e3
# Anthropic: writing for five minutes costs 1.25 times the input price, for an hour 2 times. Every other vendor with a
# price for writing has a single one.
_HOUR_OVER_5M = 2 / 1.25
_MOST_USD = 1e6  # of one request: what a provider reports beyond it is a fault, not a price
# Surfaces that cost nothing anywhere (Anthropic, OpenAI and Google count tokens free of charge).
_FREE_SURFACES = frozenset({"count_tokens"})


def cost_usd(price: Price, usage: Usage) -> float | None:
    """What one answer cost, in USD; None where a price it needs is unknown.

    The provider's own figure (`usage.cost_usd`, OpenRouter) goes before any list: it knows of discounts and fees.
    """
    if usage.cost_usd is not None and math.isfinite(usage.cost_usd) and 0 <= usage.cost_usd <= _MOST_USD:
        return usage.cost_usd
    return at_list_usd(price, usage)


def at_list_usd(price: Price, usage: Usage) -> float | None:
    """The tokens at list prices, whatever the provider says it charged; None where a price they need is unknown.

    Beyond a step of `price.above` the whole request costs that step's
    price, counted by everything that was sent, cached or not; its cache rates grow as its input price does (OpenAI,
    Google, xAI and Anthropic all publish them so). A vendor without a price for reading or writing its cache bills
    these tokens as ordinary input: where there is a discount, the price pages name it, and writing is never cheaper.
    A provider's own web searches are priced where the catalogue has a price for them.
    """
    rate, out = price.input, price.output
    for limit, above_input, above_output in price.above:
        if usage.input_total > limit:
            rate, out = above_input, above_output
    if rate is None or out is None:
        return None
    steeper = rate / price.input if price.input else 1.0
    write = _scaled(price.cache_write_5m, steeper, rate)
    parts = (
        (usage.input, rate),
        (usage.output, out),
        (usage.cache_read, _scaled(price.cache_read, steeper, rate)),
        (usage.cache_write_5m, write),
        (usage.cache_write_1h, _scaled(price.cache_write_1h, steeper, _hour(price, write))),
    )
    searches = usage.web_searches * (price.web_search or 0.0) / _PER_SEARCHES
    return sum(tokens * per_million for tokens, per_million in parts) / _PER_TOKENS + searches


def _scaled(listed: float | None, steeper: float, otherwise: float) -> float:
    return otherwise if listed is None else listed * steeper


def _hour(price: Price, write: float) -> float:
    """Writing for an hour where only writing for five minutes has a price."""
    return write if price.cache_write_5m is None else write * _HOUR_OVER_5M


def settle(record: RequestRecord) -> None:
    """Fills in what the request and each of its attempts cost, and what it would have cost at `list_price`.

    The attempt that answered is paid for by `record.usage` and `record.price`; others by what was seen of them
    (`Attempt.usage`), and where nothing was generated they cost nothing and stay None. The request's cost is the sum;
    one unknown part makes it unknown. May be called again: the result is the same.
    """
    answering = answering_attempt(record)
    parts: list[float | None] = []
    for attempt in record.attempts:
        if attempt is answering:
            continue
        attempt.cost_usd = None
        if attempt.usage is not None:
            attempt.cost_usd = cost_usd(attempt.price or Price(), attempt.usage)
            parts.append(attempt.cost_usd)
    figures = _figures(record.usage)
    free = record.surface in _FREE_SURFACES or (answering is None and not figures)
    own = listed = 0.0 if free else None
    if figures and not free:  # an answer without any figures has a cost; nobody knows it
        own = cost_usd(_price_of(record, answering), record.usage)
        listed = at_list_usd(record.list_price or Price(), record.usage)
    if answering is not None:
        answering.cost_usd = own
    record.cost_usd = _sum([own, *parts])
    record.list_cost_usd = listed


def answering_attempt(record: RequestRecord) -> Attempt | None:
    """The attempt whose tokens are the record's own; None where no attempt answered.

    It is the last one that was accepted ("200") at the record's endpoint and has no figures of its own, or the last
    one at all of those without figures while the record has some (a stream that was cut, or that the client left).
    """
    open_ones = [attempt for attempt in record.attempts if attempt.usage is None]
    here = [a for a in open_ones if (a.endpoint, a.model) == (record.endpoint, record.model)]
    for attempt in reversed(here):
        if attempt.result.startswith("2"):
            return attempt
    if not _figures(record.usage):
        return None
    return here[-1] if here else open_ones[-1] if open_ones else None


def _price_of(record: RequestRecord, answering: Attempt | None) -> Price:
    if record.price is not None:
        return record.price
    return answering.price if answering is not None and answering.price is not None else Price()


def _figures(usage: Usage) -> bool:
    return bool(usage.input_total or usage.output or usage.cost_usd is not None)


def _sum(parts: Iterable[float | None]) -> float | None:
    total = 0.0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
