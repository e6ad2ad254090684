"""Rules: what is asked for -> model and providers. One test for every condition and every consequence."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ccm.errors import Refusal
from ccm.model import FailureKind as K
from ccm.model import ModelFacts
from ccm.routing.verdict import any_matches, pattern, tagged
from ccm.settings import CLASSES, ROUTE_ORDER, Rule, Use, When
from tests.routing import World, provider, snapshot

A, B, C = provider("a", priority=1), provider("b", priority=2), provider("c", priority=3)
MAIN: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "system": [{"type": "text", "text": "You are a Claude agent."}],
    "tools": [
        {"name": "Bash", "input_schema": {"type": "object"}},
        {"name": "mcp__db__query", "input_schema": {}},
    ],
    "max_tokens": 32000,
    "stream": True,
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
HAIKU = "claude-haiku-4-5"


def world(*rules: Rule, **more: Any) -> World:
    return World(A, B, C, rules=rules, **more)


def rule(when: When, *to: str, **use: Any) -> Rule:
    """Destinations as "provider/model"."""
    pairs = tuple((head, rest) for head, _, rest in (text.partition("/") for text in to))
    return Rule(use.pop("name", "the rule"), when, Use(pairs, **use))


def targets(made: World, *args: Any, **more: Any) -> list[str]:
    more.setdefault("request", MAIN)
    return [target.id for target in made.route(*args, **more).targets]


REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # class -> (changes of the request, further arguments)
    "default": ({}, {}),
    "background": ({"tools": []}, {"model": HAIKU}),
    "title": ({"tools": [], "output_config": {"format": {"type": "json_schema", "schema": {"properties": {"title": {"type": "string"}}}}}}, {}),
    "think": ({"thinking": {"type": "adaptive"}}, {}),
    "long_context": ({}, {"size_bytes": 4 * 60_000}),
    "web_search": ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}, {}),
    "image": ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}]}]}, {}),
    "subagent": ({}, {"headers": {"x-claude-code-agent-id": "x"}}),
    "compaction": ({"messages": [{"role": "user", "content": "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools."}]}, {}),
    "classifier": ({"stop_sequences": ["</severity>"], "thinking": {"type": "disabled"}, "tools": []}, {"stream": False}),
}  # fmt: skip
HINTED = {"subagent": "subagent", "compaction": "compaction", "background": "auxiliary", "default": "main"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_recognised_from_the_request_itself(name: str) -> None:
    changes, more = REQUESTS[name]
    made = world(rule(When(classes=(name,)), "c/special"))
    route = made.route(request={**MAIN, **changes}, **more)
    assert route.targets[0].id == "c/special"
    assert (route.request_class, route.rule) == (name, "the rule")
    assert route.reason.startswith("the rule: ")


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "default"])
def test_and_a_plain_main_turn_is_none_of_them(name: str) -> None:
    made = world(rule(When(classes=(name,)), "c/special"))
    assert targets(made)[0] == "a/a-mid"
    assert made.route(request=MAIN).rule == ""


@pytest.mark.parametrize("name", HINTED)
def test_and_from_the_clients_own_hint(name: str) -> None:
    made = world(rule(When(classes=(name,)), "c/special"))
    assert targets(made, headers={"x-claude-code-request-class": HINTED[name]})[0] == "c/special"


def test_old_budget_thinking_is_thinking_too_and_disabled_is_not() -> None:
    made = world(rule(When(classes=("think",)), "c/special"))
    for form in ("enabled", "adaptive"):
        assert targets(made, request={**MAIN, "thinking": {"type": form}})[0] == "c/special"
    assert targets(made, request={**MAIN, "thinking": {"type": "disabled"}})[0] == "a/a-mid"


def test_a_title_is_background_work_unless_routed_apart() -> None:
    changes, _ = REQUESTS["title"]
    assert targets(world(rule(When(classes=("background",)), "c/x")), request={**MAIN, **changes})[0] == "c/x"


def test_a_count_goes_where_its_message_would_go() -> None:
    made = world(rule(When(classes=("think",)), "c/special"))
    route = made.route(request={**MAIN, "thinking": {"type": "adaptive"}}, surface="count_tokens")
    assert (route.targets[0].id, route.request_class) == ("c/special", "count_tokens")


@pytest.mark.parametrize(
    ("when", "yes", "no"),
    [
        (When(models=("claude-opus-*",)), {"model": "claude-opus-5-5"}, {}),
        (When(models=("CLAUDE-OPUS-*",)), {"model": "claude-opus-5-5[1m]"}, {}),
        (When(models=("/^gpt-|opus/",)), {"model": "gpt-5.2"}, {}),
        (When(tiers=("haiku",)), {"model": HAIKU}, {}),
        (
            When(headers={"x-team": "blue*"}),
            {"headers": {"x-team": "blue-2"}},
            {"headers": {"x-team": "red"}},
        ),
        (When(headers={"x-team": "/^(blue|red)$/"}), {"headers": {"x-team": "red"}}, {}),
        (When(min_input_tokens=1000), {"size_bytes": 4000}, {"size_bytes": 3996}),
        (When(max_input_tokens=1000), {"size_bytes": 4000}, {"size_bytes": 4004}),
        (When(tools=("mcp__*",)), {}, {"request": {**MAIN, "tools": []}}),
        (When(path_prefixes=("team-a",)), {"path_prefix": "team-a"}, {}),
        (When(models=("claude-*",), tiers=("haiku",)), {"model": HAIKU}, {"model": "my-haiku"}),
    ],
)
def test_every_condition(when: When, yes: dict[str, Any], no: dict[str, Any]) -> None:
    made = world(rule(when, "c/special"))
    assert targets(made, **yes)[0] == "c/special"
    assert targets(made, **no)[0] != "c/special"


def test_what_no_rule_asks_for_is_not_looked_at() -> None:
    made = world(rule(When(models=("gpt-*",)), "c/x"), rule(When(headers={"x-team": "blue"}), "b/x"))

    def body() -> dict[str, Any]:
        raise AssertionError("parsed")

    assert made.route(session="s", raw=b'{"model":"m"}', body=body).targets[0].id == "a/a-mid"


# ---- consequences


def test_a_rule_names_who_is_first_and_the_others_stay_behind_it() -> None:
    assert targets(world(rule(When(), "c/x"))) == ["c/x", "a/a-mid", "b/b-mid"]
    assert targets(world(rule(When(), "c/", "b/y"))) == ["c/c-mid", "b/y", "a/a-mid"]
    assert targets(world(rule(When(), "/claude-opus-5-5"))) == ["a/a-big", "b/b-big", "c/c-big"]


def test_unless_it_says_only() -> None:
    assert targets(world(rule(When(), "c/x", "b/y", only=True))) == ["c/x", "b/y"]
    made = World(A, provider("bare", keys=0), rules=(rule(When(), "bare/x", only=True),))
    with pytest.raises(Refusal, match="a rule allows bare only") as caught:
        made.route(request=MAIN)
    assert caught.value.status == 404


def test_two_models_of_one_provider_in_order() -> None:
    made = world(rule(When(), "c/large", "c/small", only=True))
    assert targets(made) == ["c/large", "c/small"]
    made.end(made.route(request=MAIN).targets[0], K.MODEL_GONE)
    assert targets(made) == ["c/small"]


def test_a_provider_without_a_key_is_passed_over() -> None:
    made = World(A, B, provider("bare", keys=0), rules=(rule(When(), "bare/x", "b/y"),))
    assert targets(made) == ["b/y", "a/a-mid"]


def test_health_goes_before_rules() -> None:
    made = world(rule(When(), "c/x"))
    for _ in range(5):
        made.end(made.route(request=MAIN).targets[0], K.TRANSIENT)
    assert targets(made) == ["a/a-mid", "b/b-mid"]


def test_where_and_how_are_decided_apart() -> None:
    made = world(
        rule(When(classes=("default",)), strategy="least-busy", sticky=False, name="how"),
        rule(When(), "c/x", "b/y", strategy="cost", name="where"),
    )
    route = made.route(request=MAIN)
    assert (route.strategy, route.rule) == ("least-busy", "where")
    assert targets(made, model=HAIKU, request={**MAIN, "tools": []})[0] in ("b/y", "c/x")


def test_strategies_by_class_and_by_model() -> None:
    made = world(
        rule(When(classes=("background",)), strategy="round-robin"),
        rule(When(models=("claude-opus-*",)), strategy="weighted"),
    )
    small = {**MAIN, "tools": []}
    assert [made.route(HAIKU, request=small).targets[0].endpoint.id for _ in range(6)] == list("abcabc")
    assert made.route("claude-opus-5-5", request=MAIN).strategy == "weighted"
    assert made.route(request=MAIN).strategy == "priority"


def test_a_strategy_chooses_among_what_the_rule_names() -> None:
    made = world(rule(When(), "b/x", "c/x", strategy="round-robin"))
    assert [targets(made)[0] for _ in range(4)] == ["b/x", "c/x", "b/x", "c/x"]
    assert all(targets(made)[2] == "a/a-mid" for _ in range(4))


def test_the_first_rule_that_matches_decides() -> None:
    made = world(rule(When(tiers=("haiku",)), "b/x"), rule(When(), "c/y"))
    assert targets(made, model=HAIKU)[0] == "b/x"
    assert targets(made)[0] == "c/y"


def test_an_alias_in_models_holds_for_rules_too() -> None:
    made = world(rule(When(classes=("default",)), "/fast"), models={"fast": {"b": "tiny"}})
    assert targets(made)[0] == "b/tiny"


# ---- what goes before rules


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"pin": "b"}, "b/b-mid"),
        ({"path_prefix": "b"}, "b/b-mid"),
        ({"model": "b/claude-sonnet-5-5"}, "b/b-mid"),
        ({"model": "b,claude-sonnet-5-5"}, "b/b-mid"),
    ],
)
def test_a_provider_that_is_named_goes_before_rules(more: dict[str, Any], first: str) -> None:
    assert targets(world(rule(When(), "c/x")), **more) == [first]


def test_a_switch_goes_before_rules_but_not_before_only() -> None:
    made = world(rule(When(), "c/x"))
    made.router.set_primary("b")
    assert targets(made)[0] == "b/b-mid"
    made = world(rule(When(), "c/x", only=True))
    made.router.set_primary("b")
    assert targets(made) == ["c/x"]


def subagent(tag: str, place: str = "system") -> dict[str, Any]:
    text = f"<CCM-SUBAGENT-MODEL>{tag}</CCM-SUBAGENT-MODEL>\nYou are"
    if place == "system":
        return {**MAIN, "system": [*MAIN["system"], {"type": "text", "text": text}]}
    return {**MAIN, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize("place", ["system", "user"])
@pytest.mark.parametrize(
    ("tag", "first"),
    [("c,special", "c/special"), ("c/special", "c/special"), ("c", "c/c-mid"), ("haiku", "a/a-small"), ("c,haiku", "c/c-small")],
)  # fmt: skip
def test_a_subagent_tag_goes_before_rules_r28(tag: str, first: str, place: str) -> None:
    made = world(rule(When(), "b/x"))
    route = made.route(request=subagent(tag, place))
    assert (route.targets[0].id, route.rule, route.note) == (first, "subagent tag", "")
    assert len(route.targets) == 3, "the others can still take over"


@pytest.mark.parametrize("tag", ["nobody,gpt-5", "bare,gpt-5"])
def test_a_tag_that_names_nobody_is_noted_and_passed_over_r28(tag: str) -> None:
    made = World(A, provider("bare", keys=0))
    route = made.route(request=subagent(tag))
    assert route.targets[0].id == "a/a-mid"
    assert tag.partition(",")[0] in route.note and "subagent tag" in route.note


def test_a_tagged_model_that_nobody_knows_is_passed_over() -> None:
    found, note = tagged("martian-9", snapshot(provider("a", tiers={"default": "gpt-5.6"})))
    assert found is None and "martian-9" in note
    assert tagged("gpt-9", snapshot(provider("a", tiers={"default": "gpt-5.6"}))) == (("", "gpt-9"), "")


def test_tags_can_be_switched_off() -> None:
    assert targets(world(tags=False), request=subagent("c,special"))[0] == "a/a-mid"


def test_a_pin_goes_before_a_tag() -> None:
    assert targets(world(), request=subagent("c,special"), pin="b") == ["b/b-mid"]


@pytest.mark.parametrize(
    "name", ["claude-sonnet-5-5[1m]", "claude-sonnet-5-5[1M]", "claude-sonnet-5-5-1m", "sonnet", "sonnet[1m]"]
)
def test_window_suffixes_and_aliases_break_no_look_up_r26(name: str) -> None:
    assert targets(world(), model=name) == ["a/a-mid", "b/b-mid", "c/c-mid"]
    assert targets(world(models={"claude-sonnet-5-5": {"b": "x"}, "sonnet": {"b": "x"}}), model=name) == [
        "b/x"
    ]


@pytest.mark.parametrize(
    "name", ["claude-haiku-4-5-20251001", "claude-sonnet-9", "claude-next", "claude-3-opus"]
)
def test_every_claude_name_resolves_everywhere_r27(name: str) -> None:
    assert len(targets(world(), model=name)) == 3


@pytest.mark.parametrize("tier", ["opus", "sonnet", "haiku"])
def test_tiers_and_headers_route_r29(tier: str) -> None:
    rules = [
        rule(When(tiers=(name,)), f"{to}/own")
        for name, to in zip(("opus", "sonnet", "haiku"), "cba", strict=True)
    ]
    made = world(rule(When(headers={"x-project": "secret"}), "b/local", only=True), *rules)
    expected = {"opus": "c/own", "sonnet": "b/own", "haiku": "a/own"}[tier]
    assert targets(made, model=f"claude-{tier}-5")[0] == expected
    assert targets(made, model=f"claude-{tier}-5", headers={"x-project": "secret"}) == ["b/local"]


def test_capabilities_go_before_rules() -> None:
    def facts(model: str, type: str) -> ModelFacts:
        return ModelFacts(model, abilities=frozenset({"tools"} if type == "c" else {"tools", "images"}))

    made = world(rule(When(classes=("image",)), "c/x"), facts=facts)
    changes, _ = REQUESTS["image"]
    route = made.route(request={**MAIN, **changes})
    assert [t.endpoint.id for t in route.targets] == ["a", "b"]
    assert ("c", "no images") in route.excluded


def test_patterns() -> None:
    assert pattern("gpt-*").search("GPT-5") and not pattern("gpt-*").search("my-gpt-5")
    assert pattern("/gpt/").search("my-gpt-5") and not pattern("/^gpt/").search("GPT-5")
    assert any_matches(("x", "[ab]c"), ("ac",)) and not any_matches((), ("ac",))


def test_routes_ask_for_every_class() -> None:
    assert set(ROUTE_ORDER) == set(CLASSES)


def test_rules_with_sessions_bind_apart() -> None:
    """A subagent that is routed apart leaves its parent where it is."""
    made = world(rule(When(classes=("subagent",)), "c/x", "b/x"))
    made.router.rng = random.Random(1)
    agent = {"x-claude-code-agent-id": "1"}
    made.end(made.route(session="s", request=MAIN).targets[1])  # the parent is at b
    assert targets(made, session="s", headers=agent)[0] == "c/x"
    made.end(made.route(session="s", request=MAIN, headers=agent).targets[0])
    assert targets(made, session="s")[0] == "b/b-mid"
    assert targets(made, session="s", headers=agent)[0] == "c/x"
