"""What answers cost: tiers, cache rates, reported costs, and that unknown is never 0."""

from __future__ import annotations

import math

import pytest

from ccm.messages.tokens import Usage
from ccm.model import Price
from ccm.observe.record import Attempt, RequestRecord
from ccm.shape import replace
from ccm.usage.prices import answering_attempt, at_list_usd, cost_usd, settle
from tests.spending import many

SONNET = Price(3.0, 15.0, 0.3, 3.75, 6.0)
GPT = Price(2.5, 15.0, 0.25, above=((272_000, 5.0, 22.5),))


@pytest.mark.parametrize(
    ("price", "usage", "millionths"),
    [
        (Price(), Usage(input=1), None),
        (Price(1.0, 2.0, web_search=10.0), Usage(input=1, web_searches=2), 1 + 20_000),
        (Price(1.0, 2.0), Usage(input=1, web_searches=2, web_fetches=3), 1),
        (Price(input=1.0), Usage(input=1), None),
        (Price(output=1.0), Usage(output=1), None),
        (Price(), Usage(), None),
        (Price(0.0, 0.0), Usage(input=10, output=10), 0),
        (SONNET, Usage(1000, 500, 200, 100, 10, thinking=8), 3000 + 150 + 750 + 600 + 150),
        # Nothing said of the cache: these tokens are ordinary input.
        (Price(2.0, 10.0), Usage(1000, 500, 200, 100, 10), 3600 + 100),
        # A price for five minutes alone: an hour costs Anthropic's 2 / 1.25 of it.
        (Price(2.0, 10.0, 0.2, 2.5), Usage(0, 0, 100, 100, 0), 250 + 400),
        # Everything that was sent counts towards the step, cached or not; its cache costs grow with it.
        (GPT, Usage(272_000, 0, 0, 0, 1), 680_000 + 15),
        (GPT, Usage(1, 272_000, 0, 0, 1), 5 + 272_000 * 0.5 + 22.5),
        (Price(1.0, 2.0, above=((100, 3.0, 4.0), (1000, 5.0, 6.0))), Usage(input=101, output=1), 307),
        (Price(1.0, 2.0, above=((100, 3.0, 4.0), (1000, 5.0, 6.0))), Usage(input=1001, output=1), 5011),
        (Price(1.0, 2.0, above=((100, None, 4.0),)), Usage(input=101), None),
        (Price(0.0, 2.0, 0.5, above=((100, 3.0, 4.0),)), Usage(input=100, cache_read=10, output=1), 300 + 5 + 4),
    ],
)  # fmt: skip
def test_cost_at_list_prices(price: Price, usage: Usage, millionths: float | None) -> None:
    expected = None if millionths is None else pytest.approx(millionths / 1e6)
    assert cost_usd(price, usage) == expected
    assert at_list_usd(price, usage) == expected


@pytest.mark.parametrize("price", [Price(), SONNET])
def test_what_the_provider_charged_goes_before_any_list(price: Price) -> None:
    assert cost_usd(price, Usage(input=1000, cost_usd=0.25)) == 0.25
    assert cost_usd(price, Usage(input=1000, cost_usd=0.0)) == 0.0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.01, 1e9])
def test_a_nonsensical_report_is_no_price(nonsense: float) -> None:
    assert cost_usd(SONNET, Usage(input=1000, cost_usd=nonsense)) == pytest.approx(0.003)
    assert cost_usd(Price(), Usage(input=1000, cost_usd=nonsense)) is None


def test_a_report_says_nothing_of_list_prices() -> None:
    assert at_list_usd(SONNET, Usage(input=1000, cost_usd=0.25)) == pytest.approx(0.003)


def answered(*before: Attempt, **fields: object) -> RequestRecord:
    record = RequestRecord(
        "r", 0.0, provider="a", endpoint="a", model="m", ending="complete", usage=Usage(input=1000, output=100),
        price=SONNET, list_price=Price(5.0, 25.0), attempts=[*before, Attempt("a", "m", "200", 1.0)],
    )  # fmt: skip
    for name, value in fields.items():
        setattr(record, name, value)
    settle(record)
    return record


def test_an_answer_at_once() -> None:
    record = answered()
    assert record.cost_usd == pytest.approx(0.0045)
    assert record.attempts[0].cost_usd == record.cost_usd
    assert record.list_cost_usd == pytest.approx(0.0075)


def test_an_attempt_that_generated_nothing_costs_nothing() -> None:
    record = answered(Attempt("b", "n", "529", 0.1), Attempt("b", "n", "connect", 0.1))
    assert [attempt.cost_usd for attempt in record.attempts] == [None, None, pytest.approx(0.0045)]
    assert record.cost_usd == pytest.approx(0.0045)


def test_what_was_seen_of_a_cut_attempt_is_paid_for_too() -> None:
    cut = Attempt("b", "n", "cancelled", 0.1, usage=Usage(input=1000), assumed_billed=True, price=GPT)
    record = answered(cut)
    assert cut.cost_usd == pytest.approx(0.0025)
    assert record.cost_usd == pytest.approx(0.0070)
    assert record.list_cost_usd == pytest.approx(0.0075)  # without ccm nobody would have asked twice
    settle(record)
    assert record.cost_usd == pytest.approx(0.0070)


def test_one_unknown_part_makes_the_sum_unknown() -> None:
    record = answered(Attempt("b", "n", "cancelled", 0.1, usage=Usage(input=1000)))
    assert record.cost_usd is None
    assert record.attempts[1].cost_usd == pytest.approx(0.0045)
    assert answered(price=None).cost_usd is None
    assert answered(list_price=None).list_cost_usd is None


def test_where_the_record_has_no_price_its_attempt_may_have_one() -> None:
    record = answered(price=None)
    record.attempts[0].price = GPT
    settle(record)
    assert record.cost_usd == pytest.approx(0.0040)


def test_a_request_that_nobody_answered_costs_nothing() -> None:
    record = answered(ending="failed", usage=Usage(), attempts=[Attempt("a", "m", "529", 0.1)])
    assert (record.cost_usd, record.list_cost_usd, record.attempts[0].cost_usd) == (0.0, 0.0, None)
    assert answered(ending="refused", usage=Usage(), attempts=[]).cost_usd == 0.0


def test_an_answer_without_figures_costs_nobody_knows_what() -> None:
    record = answered(usage=Usage())
    assert (record.cost_usd, record.list_cost_usd) == (None, None)


def test_counting_tokens_is_free() -> None:
    record = answered(surface="count_tokens", usage=Usage(estimated=True), price=None)
    assert (record.cost_usd, record.list_cost_usd) == (0.0, 0.0)


def test_which_attempt_the_figures_belong_to() -> None:
    assert answering_attempt(answered()) is not None
    cut = Attempt("a", "m", "cancelled", 1.0)
    assert answering_attempt(answered(attempts=[Attempt("a", "m", "529", 0.1), cut])) is cut
    lost = Attempt("b", "n", "200", 1.0, usage=Usage(input=1))
    first = Attempt("a", "m", "200", 1.0)
    assert answering_attempt(answered(attempts=[first, lost])) is first
    assert answering_attempt(answered(attempts=[lost], usage=Usage())) is None
    assert answering_attempt(answered(attempts=[])) is None


def test_one_look_at_the_list_is_as_good_as_two() -> None:
    """Where the price that is paid is the very one on the list, it is looked up once."""
    for one in many(100, 1764000000.0, 1.0):
        other = replace(one, attempts=[replace(attempt) for attempt in one.attempts])
        other.price = None if one.price is None else replace(one.price)
        other.list_price = None if one.price is None else replace(one.price)
        one.list_price = one.price
        settle(one)
        settle(other)
        assert (one.cost_usd, one.list_cost_usd) == (other.cost_usd, other.list_cost_usd)
        assert [attempt.cost_usd for attempt in one.attempts] == [a.cost_usd for a in other.attempts]
