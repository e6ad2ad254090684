"""[routes] and [[rules]]: what they become, and what is said of mistakes."""

from __future__ import annotations

import pytest

from ccm.config import load
from ccm.config.read import Reading
from ccm.config.routes import build_routing
from ccm.errors import ConfigError
from ccm.model import Endpoint, Provider
from ccm.settings import LONG_CONTEXT_TOKENS, ROUTE_ORDER, RoutingSettings

HEAD = '[providers.openai]\napi_key_env = "K"\n[providers.groq]\napi_key_env = "K"\n[providers.xai]\napi_key_env = "GONE"\n'
PROVIDERS = {name: Provider(name, name, "openai_chat", "https://x") for name in ("openai", "groq", "xai")}
ENDPOINTS = [
    Endpoint("openai", PROVIDERS["openai"]),
    Endpoint("openai#2", PROVIDERS["openai"]),
    Endpoint("groq", PROVIDERS["groq"]),
]


def read(text: str) -> tuple[RoutingSettings, Reading]:
    reading = Reading(HEAD + text, "ccm-config.toml")
    return build_routing(reading, PROVIDERS, ENDPOINTS), reading


def good(text: str) -> RoutingSettings:
    settings, reading = read(text)
    assert reading.problems == []
    return settings


def test_nothing_said_nothing_ruled() -> None:
    assert good("") == RoutingSettings()
    assert RoutingSettings().long_context_tokens == LONG_CONTEXT_TOKENS


@pytest.mark.parametrize(
    ("value", "to"),
    [
        ('"groq/llama-4"', (("groq", "llama-4"),)),
        ('"groq,llama-4"', (("groq", "llama-4"),)),
        ('"groq"', (("groq", ""),)),
        ('"openai#2/gpt-5.6"', (("openai#2", "gpt-5.6"),)),
        ('"gpt-5.6"', (("", "gpt-5.6"),)),
        ('"z-ai/glm-4.6"', (("", "z-ai/glm-4.6"),)),
        ('["groq/a", "openai/b", "groq/a"]', (("groq", "a"), ("openai", "b"))),
        ('{ provider = "groq", model = "a" }', (("groq", "a"),)),
        ('{ provider = ["groq", "openai"] }', (("groq", ""), ("openai", ""))),
        ('{ to = ["groq/a"], only = true }', (("groq", "a"),)),
    ],
)
def test_every_way_to_say_where(value: str, to: tuple[tuple[str, str], ...]) -> None:
    (rule,) = good(f"[routes]\nbackground = {value}\n").rules
    assert (rule.name, rule.when.classes, rule.use.to) == ("routes.background", ("background",), to)


def test_routes_are_asked_from_the_particular_to_the_general_and_rules_before_them() -> None:
    lines = "\n".join(f'{name} = "groq"' for name in reversed(ROUTE_ORDER))
    settings = good(
        f'[routes]\n{lines}\n[[rules]]\nname = "mine"\nwhen = {{ tier = "opus" }}\nuse = "openai"\n'
    )
    assert [rule.name for rule in settings.rules] == ["mine", *(f"routes.{name}" for name in ROUTE_ORDER)]
    assert settings.rules[-1].when.classes == (), "the default is for everything else"


def test_everything_a_rule_can_say() -> None:
    settings = good("""
[load_balancing]
sticky = false
hedge = true
[routes]
long_context_tokens = 100000
subagent_tags = false
[[rules]]
when = { class = ["think", "image"], model = ["claude-*", "/^gpt/"], tier = "opus", header = { X-Team = "blue" }, path_prefix = "a", tools = "mcp__*", min_input_tokens = 5, max_input_tokens = 9 }
use = { provider = "openai", model = "gpt-5.6", strategy = "round_robin", only = true, sticky = true }
""")
    assert (settings.sticky, settings.hedge, settings.tags, settings.long_context_tokens) == (
        False,
        True,
        False,
        100_000,
    )
    (rule,) = settings.rules
    when, use = rule.when, rule.use
    assert (rule.name, when.classes, when.models, when.tiers) == (
        "rule 1",
        ("think", "image"),
        ("claude-*", "/^gpt/"),
        ("opus",),
    )
    assert (dict(when.headers), when.path_prefixes, when.tools) == ({"x-team": "blue"}, ("a",), ("mcp__*",))
    assert (when.min_input_tokens, when.max_input_tokens) == (5, 9)
    assert (use.to, use.only, use.strategy, use.sticky) == (
        (("openai", "gpt-5.6"),),
        True,
        "round-robin",
        True,
    )
    assert settings.classes == {"think", "image"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[routes]\nbackgruond = "groq"', "8 routes.backgruond: unknown key (did you mean background?)"),
        ('[routes]\nthink = 3', "routes.think: must be a provider/model, a list of them"),
        ('[routes]\nthink = "grok,x"', "routes.think: no provider 'grok' is configured (did you mean groq?)"),
        ('[routes]\nthink = []', "routes.think: must name a provider or a model"),
        ('[routes]\nthink = "a b"', "'a b' is not a model name"),
        ('rules = 3', "must be written as [[rules]]"),
        ('[[rules]]\nwhen = {}', "rules.0: says nothing: use is missing"),
        ('[[rules]]\nuse = {}', "rules.0.use: says nothing"),
        ('[[rules]]\nuse = "groq"\nwen = 1', "9 rules.0.wen: unknown key (did you mean when?)"),
        ('[[rules]]\nuse = "groq"\n[[rules]]\nname = 3\nuse = "groq"', "10 rules.1.name: must be a short text"),
        ('[[rules]]\nuse = "groq"\nwhen = 3', "rules.0.when: must be a table"),
        ('[[rules]]\nuse = "groq"\nwhen = { clas = "think" }', "rules.0.when.clas: unknown key (did you mean class?)"),
        ('[[rules]]\nuse = "groq"\nwhen = { class = "thnk" }', "'thnk' is none of"),
        ('[[rules]]\nuse = "groq"\nwhen = { tier = 3 }', "rules.0.when.tier: must be a string or a list"),
        ('[[rules]]\nuse = "groq"\nwhen = { model = "/(/" }', "is not a regular expression"),
        ('[[rules]]\nuse = "groq"\nwhen = { header = { "a b" = "x" } }', "is not a header name"),
        ('[[rules]]\nuse = "groq"\nwhen = { header = { x-api-key = "x" } }', "carries a key"),
        ('[[rules]]\nuse = "groq"\nwhen = { header = { a = 3 } }', "must be a string"),
        ('[[rules]]\nuse = "groq"\nwhen = { header = 3 }', "must be a table of header name"),
        ('[[rules]]\nuse = "groq"\nwhen = { min_input_tokens = -1 }', "must be a whole number"),
        ('[[rules]]\nuse = "groq"\nwhen = { min_input_tokens = 9, max_input_tokens = 5 }', "nothing can be both"),
        ('[[rules]]\nuse = { provider = "grok" }', "no provider 'grok' is configured (did you mean groq?)"),
        ('[[rules]]\nuse = { provider = "groq", to = "groq" }', "to says it already"),
        ('[[rules]]\nuse = { model = "a b" }', "'a b' is not a model name"),
        ('[[rules]]\nuse = { strategy = "cheapest" }', "rules.0.use.strategy: is none of priority"),
        ('[[rules]]\nuse = { only = true, strategy = "cost" }', "rules.0.use.only: needs to know where"),
        ('[[rules]]\nuse = { provider = "groq", sticky = 1 }', "must be true or false"),
        ('[[rules]]\nuse = { porvider = "groq" }', "did you mean provider?"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(text: str, said: str) -> None:
    _, reading = read(text)
    if text.startswith("rules"):
        reading = Reading(text + "\n" + HEAD, "ccm-config.toml")
    problems = [str(problem) for problem in reading.problems]
    assert any(said in problem for problem in problems), problems


def test_a_provider_without_a_key_is_warned_of() -> None:
    _, reading = read('[routes]\nthink = "xai"\n[[rules]]\nuse = { provider = "xai", only = true }\n')
    assert [problem.text for problem in reading.warnings] == [
        "rule 1: xai is not usable: requests for it will fail",
        "routes.think: xai is not usable: passed over",
    ]


def test_the_snapshot_carries_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "ccm-config.toml"
    path.write_text(HEAD + '[routes]\nbackground = "groq/llama-4"\n')
    path.chmod(0o600)
    snapshot = load.load(path, {"K": "sk-x", "HOME": "/nonexistent"})
    assert [rule.name for rule in snapshot.routing.rules] == ["routes.background"]  # type: ignore[attr-defined]
    path.write_text(HEAD + '[routes]\nbackground = "grok,x"\n')
    with pytest.raises(ConfigError, match="did you mean groq"):
        load.load(path, {"K": "sk-x", "HOME": "/nonexistent"})
