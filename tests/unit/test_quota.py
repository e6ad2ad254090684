"""What is left of a provider's limits: read from every family of headers, shown, and obeyed by the router (R40, R50)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest

from ccm.model import FailureKind as K
from ccm.routing import quota
from ccm.routing.quota import Quota, Window
from ccm.settings import Rule, Use, When
from tests.routing import OK, SONNET, World, provider

WALL = 1_797_000_000.0
MONO = 5000.0
TITLE: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}
MAIN: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "adaptive"}}


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(WALL + seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(headers: Mapping[str, str], model: str = "") -> dict[str, tuple[float, float, bool]]:
    """Window -> (share, seconds to its reset, account)."""
    found = quota.read(headers, WALL, MONO, model)
    if found is None:
        return {}
    return {w.what: (round(w.share, 4), round(w.resets_at - MONO, 3), w.account) for w in found.windows}


FAMILIES: dict[str, tuple[dict[str, str], dict[str, tuple[float, float, bool]]]] = {
    "anthropic": (
        {
            "anthropic-ratelimit-requests-limit": "1000", "anthropic-ratelimit-requests-remaining": "999",
            "anthropic-ratelimit-requests-reset": iso(1),
            "anthropic-ratelimit-input-tokens-limit": "80000", "anthropic-ratelimit-input-tokens-remaining": "4000",
            "anthropic-ratelimit-input-tokens-reset": iso(57), "anthropic-organization-id": "x",
        },
        {"requests": (0.999, 1.0, False), "input tokens": (0.05, 57.0, False)},
    ),
    "a subscription": (
        {
            "anthropic-ratelimit-unified-status": "allowed_warning",
            "anthropic-ratelimit-unified-reset": str(int(WALL) + 600),
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
            "anthropic-ratelimit-unified-fallback-percentage": "0.5",
            "anthropic-ratelimit-unified-5h-status": "allowed_warning",
            "anthropic-ratelimit-unified-5h-utilization": "0.93",
            "anthropic-ratelimit-unified-5h-reset": str(int(WALL) + 600),
            "anthropic-ratelimit-unified-5h-surpassed-threshold": "0.9",
            "anthropic-ratelimit-unified-7d-utilization": "0.3", "anthropic-ratelimit-unified-7d-reset": iso(86400),
            "anthropic-ratelimit-unified-overage-status": "rejected",
            "anthropic-ratelimit-unified-overage-disabled-reason": "org_level_disabled",
        },
        {"5h window": (0.07, 600.0, True), "7d window": (0.7, 86400.0, True)},
    ),
    "a subscription that is used up": (
        {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(int(WALL) + 7999),
        },
        {"plan window": (0.0, 7999.0, True)},
    ),
    "openai": (
        {
            "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "20ms", "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "15000", "x-ratelimit-reset-tokens": "6m0s",
        },
        {"requests": (0.9833, 0.02, False), "tokens": (0.1, 360.0, False)},
    ),
    "groq": (
        {
            "x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "2m59.56s",
        },
        {"requests": (0.0, 179.56, False)},
    ),
    "azure": (
        {
            "x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0",
            "x-ratelimit-remaining-requests": "19", "x-ratelimit-limit-requests": "76",
            "x-ratelimit-reset-requests": "10",
        },
        {"requests": (0.25, 10.0, False)},
    ),
    "azure without limits": ({"x-ratelimit-remaining-tokens": "199", "x-ratelimit-remaining-requests": "19"}, {}),
    "cerebras": (
        {
            "x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "250",
            "x-ratelimit-reset-requests-day": "33011.382867", "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-tokens-minute": "30000", "x-ratelimit-reset-tokens-minute": "11.38",
        },
        {"requests per day": (0.25, 33011.383, False), "tokens per minute": (0.5, 11.38, False)},
    ),
    "mistral": (
        {
            "x-ratelimit-limit-tokens-minute": "5000000", "x-ratelimit-remaining-tokens-minute": "1250000",
            "x-ratelimit-tokens-query-cost": "52", "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "717",
        },
        {"tokens per minute": (0.25, 60.0, False), "requests per minute": (0.9958, 60.0, False)},
    ),
    "openrouter": (
        {
            "x-ratelimit-limit": "50", "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(int((WALL + 5400) * 1000)),
        },
        {"requests": (0.0, 5400.0, False)},
    ),
    "nous": (
        {"x-ratelimit-limit-tokens-1h": "100", "x-ratelimit-remaining-tokens-1h": "40"},
        {"tokens per 1h": (0.4, 3600.0, False)},
    ),
    "verb last": (
        {"x-ratelimit-day-limit": "100", "x-ratelimit-day-remaining": "7", "x-ratelimit-day-reset": str(WALL + 60)},
        {"day": (0.07, 60.0, False)},
    ),
    "the draft's old form": (
        {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "30"},
        {"requests": (0.5, 30.0, False)},
    ),
    "the draft's middle form": ({"ratelimit": "limit=100, remaining=20, reset=9"}, {"requests": (0.2, 9.0, False)}),
    "the draft": (
        {
            "ratelimit": '"api";r=489;t=189, "burst";r=1',
            "ratelimit-policy": '"fixed window";"api";q=500;w=300, "burst";q=100;w=60',
        },
        {"api": (0.978, 189.0, False), "burst": (0.01, 60.0, False)},
    ),
    "the draft without a policy": ({"ratelimit": '"default";r=0;t=5'}, {"requests": (0.0, 5.0, False)}),
    "nothing": ({"content-type": "text/event-stream", "retry-after": "5", "x-request-id": "r"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_of_headers_is_read(name: str) -> None:
    headers, expected = FAMILIES[name]
    assert read(headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-tokens": "nan", "x-ratelimit-limit-tokens": "inf"},
        {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-limit-tokens": "0"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"},
        {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": iso(-5)},
        {"anthropic-ratelimit-unified-5h-utilization": "much"},
        {"ratelimit": ";;;,,,\x00", "ratelimit-policy": '"'},
        {"x-ratelimit-": "1", "ratelimit": "", "xratelimitx": "0", "x-ratelimit-reset-tokens": "5s"},
    ],
)
def test_what_cannot_be_understood_says_nothing(headers: dict[str, str]) -> None:
    assert read(headers) == {}


def test_dates_count_from_the_answers_own_clock() -> None:
    headers = {
        "date": "Sun, 06 Dec 2026 10:00:00 GMT",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-12-06T10:00:30Z",
    }
    assert read(headers) == {"requests": (0.0, 30.0, False)}


def test_a_familys_own_window_counts_for_that_family() -> None:
    headers = {
        "anthropic-ratelimit-unified-7d_opus-utilization": "1.02",
        "anthropic-ratelimit-unified-7d_opus-reset": str(int(WALL) + 50),
    }
    assert read(headers, "claude-opus-5") == {"7d opus window": (0.0, 50.0, False)}
    assert read(headers, SONNET) == {}


def test_no_answer_can_grow_memory_or_hold_for_ever() -> None:
    headers = {f"x-ratelimit-remaining-w{n}": "0" for n in range(500)}
    found = quota.read(headers | {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9e9"}, WALL, MONO)
    assert found is not None
    assert len(found.windows) == 24
    late = quota.read({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "90000000"}, WALL, MONO)
    assert late is not None
    assert late.windows[0].resets_at == MONO + 32 * 86400


def test_the_tightest_window_speaks_until_its_reset() -> None:
    found = Quota((Window("tokens", 0.05, 10.0), Window("requests", 0.2, 100.0), Window("day", 0.2, 900.0)))
    assert [w.what if (w := found.tightest(now)) else "" for now in (0.0, 9.9, 10.0, 99.0, 100.0, 900.0)] == [
        "tokens", "tokens", "day", "day", "day", "",
    ]  # fmt: skip
    newer = quota.merged(found.windows, (Window("day", 0.9, 900.0),), 50.0)
    assert {w.what: w.share for w in newer} == {"day": 0.9, "requests": 0.2}


# ---- the router


def world(**more: Any) -> World:
    return World(provider("plan", priority=9, prefer_until="limit"), provider("api", priority=1), **more)


def tell(made: World, id: str, *windows: tuple[str, float, float], account: bool = True, **ask: Any) -> None:
    """An answer of this endpoint that says what is left of it: (what, share, seconds to the reset)."""
    target = next(t for t in made.route(**ask).targets if t.endpoint.id == id)
    ticket = made.router.reserve(target)
    assert ticket is not None
    now = made.clock.now
    told = tuple(Window(what, share, now + seconds, account) for what, share, seconds in windows)
    made.router.quota(ticket, Quota(told))
    made.router.release(ticket, OK)


def test_status_shows_what_is_left_and_when_it_comes_back() -> None:
    made = world()
    assert made.row("plan")["quota"] is None
    tell(made, "plan", ("5h window", 0.123, 600.0), ("7d window", 0.5, 9000.0))
    assert made.row("plan")["quota"] == {"left_percent": 12.3, "resets_s": 600.0, "what": "5h window"}
    made.clock.now += 601
    assert made.row("plan")["quota"]["what"] == "7d window"
    tell(made, "plan", ("tokens", 0.01, 60.0), account=False)
    assert made.row("plan")["quota"]["what"] == "tokens"
    made.router.route(made.asked("claude-opus-5"), made.snapshot, made.facts)
    assert made.row("plan")["quota"]["what"] == "plan-mid: tokens"
    made.router.reset("plan")
    assert made.row("plan")["quota"] is None


def test_a_limit_of_one_model_says_nothing_of_another() -> None:
    made = world()
    tell(made, "plan", ("tokens", 0.0, 60.0), account=False)
    assert made.ids() == ["api", "plan"]
    assert made.ids("claude-opus-5") == ["plan", "api"]
    tell(made, "plan", ("5h window", 0.0, 60.0))
    assert made.ids("claude-opus-5") == ["api", "plan"]


@pytest.mark.parametrize("strategy", ["priority", "round-robin", "weighted", "latency", "cost", "least-busy"])
def test_r40_subscription_first_api_when_the_window_is_spent_back_after_the_reset(strategy: str) -> None:
    """R40 as the user sees it, under every strategy."""
    made = world(strategy=strategy)
    for _ in range(4):
        route = made.route()
        assert [t.endpoint.id for t in route.targets] == ["plan", "api"]
        assert route.reason.startswith("preferred until its limit")
        made.end(route.targets[0])
    tell(made, "plan", ("5h window", 0.0, 3 * 3600.0))
    assert made.ids() == ["api", "plan"], "used up: the next one takes over before it is refused"
    made.clock.now += 3 * 3600 - 1
    assert made.ids() == ["api", "plan"]
    made.clock.now += 1
    assert made.ids() == ["plan", "api"], "and at its reset it comes back by itself"


def test_r40_a_refused_window_takes_it_out_and_the_reset_brings_it_back() -> None:
    made = world()
    made.spoil("plan", K.RATE_LIMIT, wait=1800.0)
    assert made.ids()[0] == "api"
    made.clock.now += 1801
    assert made.ids() == ["plan", "api"]
    made.spoil("plan", K.QUOTA, wait=600.0)
    assert made.ids() == ["api"]
    made.clock.now += 601
    assert made.ids() == ["plan", "api"]


def test_r40_longer_than_a_cool_down_lasts() -> None:
    """A cool-down ends after an hour; a plan's window may take five, or a week."""
    made = world()
    ticket = made.router.reserve(made.route().targets[0])
    assert ticket is not None
    made.router.quota(ticket, Quota((Window("7d window", 0.0, made.clock.now + 86400, True),)))
    made.router.release(ticket, OK)
    made.spoil("plan", K.RATE_LIMIT, wait=3600.0)
    made.clock.now += 3700
    assert made.ids() == ["api", "plan"]


def test_a_warm_conversation_finishes_where_it_is_and_a_cold_one_comes_back() -> None:
    made = world()
    tell(made, "plan", ("5h window", 0.0, 100.0), session="s")
    route = made.route(session="s")
    assert [t.endpoint.id for t in route.targets] == ["api", "plan"], "no turn is spent on a certain refusal"
    made.end(route.targets[0])
    made.clock.now += 101
    assert made.ids(session="new")[0] == "plan", "new conversations return at once"
    for _ in range(3):
        route = made.route(session="s")
        assert route.targets[0].endpoint.id == "api", "its cache is there"
        made.end(route.targets[0])
        made.clock.now += 299
    made.clock.now += 2
    assert made.explain(session="s")["order"][0].startswith("plan/")
    assert made.ids(session="s")[0] == "plan", "cold: nothing is lost by returning"


def test_a_subagent_of_a_conversation_elsewhere_returns_at_once() -> None:
    made = world()
    tell(made, "plan", ("5h window", 0.0, 100.0), session="s")
    made.end(made.route(session="s").targets[0])
    made.clock.now += 101
    agent = {"x-claude-code-agent-id": "a1"}
    assert made.ids(session="s")[0] == "api"
    assert made.ids("claude-haiku-5", session="s", headers=agent)[0] == "plan"


def test_the_providers_own_time_of_a_cold_cache_holds() -> None:
    made = World(provider("plan", prefer_until="limit"), provider("api", cache_ttl_s=3600.0))
    tell(made, "plan", ("5h window", 0.0, 10.0), session="s")
    made.end(made.route(session="s").targets[0])
    made.clock.now += 1000
    assert made.ids(session="s")[0] == "api"


def test_switching_and_rules_say_more_than_a_preference() -> None:
    made = world()
    made.router.set_primary("api")
    assert made.ids()[0] == "api"
    ruled = world(rules=(Rule("all", When(), Use((("api", ""), ("plan", "")))),))
    assert ruled.ids() == ["api", "plan"]


def background(made: World, **more: Any) -> list[str]:
    return made.ids("claude-haiku-5", request=TITLE, **more)


def test_spare_keeps_background_work_off_what_is_nearly_used_up() -> None:
    made = World(provider("a", priority=1), provider("b", priority=2), spare=10)
    tell(made, "a", ("5h window", 0.1, 600.0))
    assert background(made) == ["a", "b"], "10 % is not less than 10 %"
    tell(made, "a", ("5h window", 0.09, 600.0), session="s")
    assert background(made) == ["b", "a"]
    assert background(made, session="s") == ["b", "a"], "also where the conversation is"
    assert made.ids(request=MAIN) == ["a", "b"], "the work itself goes on there"
    tell(made, "b", ("tokens", 0.01, 600.0))
    assert background(made) == ["a", "b"], "nobody has anything to spare"
    made.clock.now += 601
    assert background(made) == ["a", "b"]


def test_spare_is_off_unless_it_is_set_and_yields_to_a_switch() -> None:
    made = World(provider("a", priority=1), provider("b", priority=2))
    tell(made, "a", ("5h window", 0.0, 600.0))
    assert background(made) == ["a", "b"]
    switched = World(provider("a", priority=1), provider("b", priority=2), spare=50)
    tell(switched, "a", ("5h window", 0.2, 600.0))
    switched.router.set_primary("a")
    assert background(switched) == ["a", "b"]


def test_explain_shows_both() -> None:
    made = world(spare=20)
    tell(made, "plan", ("5h window", 0.15, 600.0))
    told = made.explain("claude-haiku-5", request=TITLE)
    lines = {line["endpoint"]: line for line in told["candidates"]}
    assert told["reason"] == "priority (sparing plan: 15% left of its 5h window)"
    assert told["spare"] == 20
    assert lines["plan"]["quota"] == {"left_percent": 15.0, "resets_s": 600.0, "what": "5h window"}
    assert (lines["plan"]["prefer_until"], lines["plan"]["spared"]) == ("limit", True)
    assert (lines["api"]["quota"], lines["api"]["prefer_until"], lines["api"]["spared"]) == (None, "", False)
    assert made.explain(request=MAIN)["reason"] == "preferred until its limit"
