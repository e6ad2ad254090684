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
_NO_PRICE = Price()


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
    rate, out, sent = price.input, price.output, usage.input
    read, five, hour = usage.cache_read, usage.cache_write_5m, usage.cache_write_1h
    if price.above:
        total = sent + read + five + hour
        for limit, above_input, above_output in price.above:
            if total > limit:
                rate, out = above_input, above_output
    if rate is None or out is None:
        return None
    cost = sent * rate + usage.output * out
    if read or five or hour:
        steeper = rate / price.input if price.input else 1.0
        write = _scaled(price.cache_write_5m, steeper, rate)
        cost += read * _scaled(price.cache_read, steeper, rate)
        cost += five * write
        cost += hour * _scaled(price.cache_write_1h, steeper, _hour(price, write))
    cost /= _PER_TOKENS
    if usage.web_searches:
        cost += usage.web_searches * (price.web_search or 0.0) / _PER_SEARCHES
    return cost


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
            attempt.cost_usd = cost_usd(attempt.price or _NO_PRICE, attempt.usage)
            parts.append(attempt.cost_usd)
    usage = record.usage
    figures = _figures(usage)
    free = record.surface in _FREE_SURFACES or (answering is None and not figures)
    own = listed = 0.0 if free else None
    if figures and not free:  # an answer without any figures has a cost; nobody knows it
        price, list_price = _price_of(record, answering), record.list_price or _NO_PRICE
        listed = at_list_usd(list_price, usage)
        same = price is list_price and usage.cost_usd is None
        own = listed if same else cost_usd(price, usage)
    if answering is not None:
        answering.cost_usd = own
    record.cost_usd = _sum(own, parts)
    record.list_cost_usd = listed


def answering_attempt(record: RequestRecord) -> Attempt | None:
    """The attempt whose tokens are the record's own; None where no attempt answered.

    It is the last one that was accepted ("200") at the record's endpoint and has no figures of its own, or the last
    one at all of those without figures while the record has some (a stream that was cut, or that the client left).
    """
    attempts = record.attempts
    if len(attempts) == 1:  # nearly every request
        only = attempts[0]
        if only.usage is None and only.endpoint == record.endpoint and only.model == record.model:
            return only if only.result[:1] == "2" or _figures(record.usage) else None
    open_ones = [attempt for attempt in attempts if attempt.usage is None]
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
    return answering.price if answering is not None and answering.price is not None else _NO_PRICE


def _figures(usage: Usage) -> bool:
    return bool(usage.input or usage.output or usage.input_total or usage.cost_usd is not None)


def _sum(own: float | None, parts: Iterable[float | None]) -> float | None:
    if own is None:
        return None
    total = 0.0 + own
    for part in parts:
        if part is None:
            return None
        total += part
    return total
