"""What every model name would go to now: the user's [models] table, each provider's own map and tiers, windows and prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.control.core import Core
from ccm.errors import ControlError, Refusal
from ccm.model import TIERS, ModelFacts, Price, Provider
from ccm.routing import rules

_MOST_NAMES = 200


def read(core: Core, name: str = "") -> dict[str, Any]:
    """`names`: for each model name that the configuration knows of (or just `name`) where a plain request would go now
    and what every provider would be asked for; `map`: the [models] table; `providers`: their maps and the facts."""
    snapshot = core.snapshot
    return {
        "names": [_name(core, one) for one in ([name] if name else _names(core))],
        "map": [
            {"name": key, "to": dict(value) if isinstance(value, Mapping) else value}
            for key, value in snapshot.models.items()
        ],
        "providers": [_provider(core, provider) for provider in snapshot.providers.values()],
    }


def _names(core: Core) -> list[str]:
    """Claude's tiers, then every plain name of the user's tables."""
    snapshot = core.snapshot
    own = [key for provider in snapshot.providers.values() for key in provider.models]
    names = dict.fromkeys([*TIERS, *snapshot.models, *own])
    return [name for name in names if name != "default" and not any(mark in name for mark in "*?[")][
        :_MOST_NAMES
    ]


def _name(core: Core, name: str) -> dict[str, Any]:
    """One name: `goes_to` is the first target of a plain request ("" where none can be asked: `why`)."""
    row: dict[str, Any] = {"name": name, "goes_to": "", "why": "", "at": []}
    body = {"model": name, "max_tokens": 1024, "messages": [{"role": "user", "content": "hi"}]}
    try:
        told = core.explain_request(body, {})
    except Refusal as refusal:
        row["why"] = refusal.message
    except ControlError as error:
        row["why"] = str(error)
    else:
        order = told.get("order") or []
        row["goes_to"] = order[0] if order else ""
        row["why"] = str(told.get("refused") or told.get("reason") or "")
        row["then"] = order[1:]
    for provider in core.snapshot.providers.values():
        restricted = rules.restricted(name, core.snapshot.models)
        if not provider.enabled or (restricted is not None and provider.name not in restricted):
            continue
        model = rules.model_for(provider, name, core.snapshot.models)
        facts = core.find_facts(model, provider.type)
        row["at"].append({"provider": provider.name, "model": model, **_facts(facts)})
    return row


def _provider(core: Core, provider: Provider) -> dict[str, Any]:
    named = {**provider.tiers, **provider.models}
    return {
        "name": provider.name,
        "type": provider.type,
        "enabled": provider.enabled,
        "models": [
            {
                "name": key,
                "model": model,
                "from": "configuration" if key in provider.models else "catalogue",
                **_facts(core.find_facts(model, provider.type)),
            }
            for key, model in named.items()
        ],
    }


def _facts(facts: ModelFacts) -> dict[str, Any]:
    """Window in tokens, prices in USD per million tokens; None = unknown."""
    return {
        "known": facts.known,
        "window_tokens": facts.window,
        "output_cap_tokens": facts.output_cap,
        "prices_usd": _prices(facts.price),
        "thinking": facts.thinking,
        "abilities": sorted(facts.abilities),
    }


def _prices(price: Price) -> dict[str, float | None]:
    return {
        "input": price.input,
        "output": price.output,
        "cache_read": price.cache_read,
        "cache_write": price.cache_write_5m,
    }
