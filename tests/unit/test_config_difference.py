"""What a new configuration changes, in words; never a secret."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ccm.config.difference import LATER, difference, later
from ccm.model import Endpoint, KeySource, Provider, Secret, Snapshot, Timeouts
from ccm.settings import Budget, FailoverSettings, RoutingSettings, Rule, UsageSettings, Use, When

KEY = KeySource("env", "GOOGLE_API_KEY", Secret("AIza-canary-1", "environment"))
OTHER = KeySource("env", "GOOGLE_API_KEY", Secret("AIza-canary-2", "environment"))


def provider(name: str, **fields: Any) -> Provider:
    return Provider(name, name, "anthropic", f"https://{name}", keys=(KEY,), **fields)


def snapshot(*providers: Provider, **fields: Any) -> Snapshot:
    table = {one.name: one for one in providers}
    base: dict[str, Any] = {
        "generation": 1,
        "path": "c.toml",
        "host": "127.0.0.1",
        "port": 13456,
        "auth_token": "ccm-canary-token",
        "allowed_hosts": (),
        "endpoints": tuple(Endpoint(one.name, one, KEY) for one in providers),
        "providers": table,
        "failover": FailoverSettings(),
        "strategy": "priority",
        "models": {},
    }
    return Snapshot(**{**base, **fields})


GOOGLE, OPENAI = provider("google", priority=3), provider("openai")


def test_nothing_changes() -> None:
    assert difference(snapshot(GOOGLE), snapshot(GOOGLE, generation=2)) == []


def test_as_issue_6_says_it() -> None:
    new = snapshot(replace(GOOGLE, priority=1))
    told = difference(snapshot(GOOGLE, OPENAI), new, {"openai": 2})
    assert told == ["google: priority 3 -> 1", "openai: removed, 2 streams will finish"]
    assert difference(snapshot(OPENAI), snapshot(), {"openai": 1}) == [
        "openai: removed, 1 stream will finish"
    ]
    assert difference(snapshot(OPENAI), snapshot(), {}) == ["openai: removed"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({}, {"enabled": False}, ["google: disabled"]),
        ({"enabled": False}, {}, ["google: enabled"]),
        ({"base_url": "https://a"}, {"base_url": "https://b"}, ["google: base_url https://a -> https://b"]),
        ({}, {"models": {"opus": "gemini-9"}}, ["google: model opus unset -> gemini-9"]),
        ({"models": {"opus": "x"}}, {"models": {"opus": "y"}}, ["google: model opus x -> y"]),
        ({"models": {"opus": "x"}}, {}, ["google: model opus removed"]),
        ({"models": {"a": "x", "b": "y"}}, {"models": {"b": "y", "a": "x"}}, ["google: model entries in another order"]),
        ({}, {"quirks": frozenset({"b", "a"})}, ["google: quirks none -> a, b"]),
        ({}, {"timeouts": Timeouts(connect_s=9.0)}, ["google: timeout connect_s 5 -> 9"]),
        ({}, {"headers": {"x-a": "canary"}}, ["google: header x-a changed"]),
        ({}, {"options": {"region": "eu"}}, ["google: region unset -> eu"]),
        ({}, {"options": {"proxy_auth": Secret("u:canary", "env")}}, ["google: proxy_auth changed"]),
        ({}, {"options": {"proxy": "http://u:canary@p"}}, ["google: proxy changed"]),
        ({}, {"keys": (KEY, OTHER)}, ["google: 1 -> 2 keys"]),
        ({}, {"keys": (OTHER,)}, [f"google: key changed (fingerprint {KEY.secret.fingerprint} -> fingerprint {OTHER.secret.fingerprint})"]),  # type: ignore[union-attr]
        ({}, {"keys": (replace(KEY, secret=None),)}, [f"google: key changed (fingerprint {KEY.secret.fingerprint} -> no key)"]),  # type: ignore[union-attr]
        ({}, {"keys": (KeySource("command", "pass show canary"),)}, ["google: key comes from a command, not from env GOOGLE_API_KEY"]),
    ],
)  # fmt: skip
def test_a_provider(old: dict[str, Any], new: dict[str, Any], says: list[str]) -> None:
    base = provider("google")
    told = difference(snapshot(replace(base, **old)), snapshot(replace(base, **new)))
    assert told == says
    assert "canary" not in " ".join(told)


RULE = Rule("big", When(models=("*opus*",)), Use(to=(("openai", ""),)))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({}, {"strategy": "cost"}, ["strategy: priority -> cost"]),
        ({}, {"failover": FailoverSettings(enabled=False)}, ["failover: enabled on -> off"]),
        ({}, {"models": {"x": {"openai": "y"}}}, ["models: x unset -> {openai: y}"]),
        ({}, {"routing": RoutingSettings(rules=(RULE,))}, ["routing: rules: big added"]),
        ({"routing": RoutingSettings(rules=(RULE,))}, {}, ["routing: rules: big removed"]),
        (
            {"routing": RoutingSettings(rules=(RULE,))},
            {"routing": RoutingSettings(rules=(replace(RULE, use=Use(only=True)),), sticky=False)},
            ["routing: rules: big changed", "routing: sticky on -> off"],
        ),
        ({}, {"usage": UsageSettings(budgets=(Budget("day", 5.0),))}, ["usage: budgets: day added"]),
        ({}, {"log_level": "debug"}, ["log_level: info -> debug"]),
        ({}, {"auth_token": "canary"}, ["auth_token: changed, clients need the new one at once"]),
    ],
)
def test_the_rest(old: dict[str, Any], new: dict[str, Any], says: list[str]) -> None:
    told = difference(snapshot(**old), snapshot(**new))
    assert told == says
    assert later(snapshot(**old), snapshot(**new)) == [] and "canary" not in " ".join(told)


def test_what_only_a_new_process_can_change() -> None:
    new = snapshot(port=1, workers=2, log_file="/x", strategy="cost")
    assert later(snapshot(), new) == [
        f"listen: 127.0.0.1:13456 -> 127.0.0.1:1, {LATER}",
        f"workers: 1 -> 2, {LATER}",
    ]


def test_every_field_of_a_snapshot_and_a_provider_is_told() -> None:
    """A new setting must not be forgotten here: change each field, and something is said."""
    silent = {"generation", "path", "endpoints", "providers", "warnings", "demo"}
    values: dict[type, Any] = {int: 77, float: 7.5, str: "other", bool: False}
    base = snapshot(GOOGLE)
    for name in Snapshot.__slots__:
        old = getattr(base, name)
        if name in silent or type(old) not in values:
            continue
        new = not old if isinstance(old, bool) else values[type(old)]
        assert difference(base, replace(base, **{name: new})), name
    silent = {"name", "display", "docs"}
    for name in Provider.__slots__:
        old = getattr(GOOGLE, name)
        if name in silent or type(old) not in values:
            continue
        new = not old if isinstance(old, bool) else values[type(old)]
        assert difference(base, snapshot(replace(GOOGLE, **{name: new}))), name
