"""[routes] and [[rules]]: what is asked for -> model and providers.

    [routes]                                   # a class of requests -> where it goes
    background = "groq/llama-4-scout"          # provider/model; or only a provider, or only a model
    think = ["anthropic", "openai/gpt-5.6"]    # in order of preference
    long_context = { to = "google/gemini-3.5-pro", only = true }

    [[rules]]                                  # anything more particular; asked before [routes], in file order
    name = "the blue team"
    when = { class = "default", model = "claude-*", header = { x-team = "blue" }, tools = "mcp__*" }
    use = { provider = "openai", model = "gpt-5.6", strategy = "cost", only = false, sticky = true }

Every field of `when` must hold, of a list any one. Patterns are globs, or regular expressions between slashes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ccm.config import checks
from ccm.config.read import Reading
from ccm.model import TIERS, Endpoint, Provider
from ccm.routing.rules import split_model
from ccm.routing.verdict import pattern
from ccm.settings import CLASSES, ROUTE_ORDER, Destination, RoutingSettings, Rule, Use, When

Path = tuple[str, ...]
_RULE = ("name", "when", "use")
_WHEN = ("class", "model", "tier", "header", "path_prefix", "tools", "min_input_tokens", "max_input_tokens")
_USE = ("to", "provider", "model", "only", "strategy", "sticky")


def build_routing(
    reading: Reading, providers: Mapping[str, Provider], endpoints: Sequence[Endpoint]
) -> RoutingSettings:
    """The routing settings of a configuration; faults are noted on the reading."""
    names = {*reading.names("providers"), *(endpoint.id for endpoint in endpoints)}
    rules = [
        rule
        for n, table in enumerate(reading.get("rules") or ())
        if (rule := _rule(reading, ("rules", str(n)), table, f"rule {n + 1}", names)) is not None
    ]
    for name in ROUTE_ORDER:
        value = reading.get("routes", name)
        if value is not None:
            use = _use(reading, ("routes", name), value, names)
            when = When() if name == "default" else When(classes=(name,))
            rules.append(Rule(f"routes.{name}", when, use))
    usable = {name for e in endpoints for name in (e.id, e.provider.name)}
    for rule in rules:
        lost = [provider for provider, _ in rule.use.to if provider and provider not in usable]
        if lost and endpoints:
            what = (
                "requests for it will fail"
                if rule.use.only and len(lost) == len(rule.use.to)
                else "passed over"
            )
            reading.warn(_place(reading, rule), f"{rule.name}: {', '.join(lost)} is not usable: {what}")
    return RoutingSettings(
        tuple(rules),
        sticky=bool(reading.get("load_balancing", "sticky")),
        hedge=bool(reading.get("load_balancing", "hedge")),
        spare=reading.get("load_balancing", "spare"),
        tags=bool(reading.get("routes", "subagent_tags")),
        long_context_tokens=int(reading.get("routes", "long_context_tokens")),
    )


def _place(reading: Reading, rule: Rule) -> Path:
    head, _, name = rule.name.partition(".")
    return (head, name) if head == "routes" and reading.given(head, name) else ("rules",)


def _rule(reading: Reading, at: Path, table: Any, name: str, names: Collection[str]) -> Rule | None:
    if not _known(reading, at, table, _RULE):
        return None
    own = table.get("name", name)
    if not isinstance(own, str) or not re.fullmatch(r"[^\x00-\x1f\x7f]{1,64}", own):
        reading.problem((*at, "name"), "must be a short text of one line")
        own = name
    if "use" not in table:
        reading.problem(at, "says nothing: use is missing", 'for example use = "openai/gpt-5.6"')
        return None
    when = _when(reading, (*at, "when"), table.get("when", {}))
    return Rule(own, when, _use(reading, (*at, "use"), table["use"], names))


def _when(reading: Reading, at: Path, table: Any) -> When:
    if not _known(reading, at, table, _WHEN):
        return When()
    least, most = (_count(reading, at, table, name) for name in ("min_input_tokens", "max_input_tokens"))
    if most and least > most:
        reading.problem((*at, "max_input_tokens"), "is less than min_input_tokens: nothing can be both")
    return When(
        _words(reading, at, table, "class", CLASSES),
        _patterns(reading, at, table, "model"),
        _words(reading, at, table, "tier", TIERS),
        _headers(reading, (*at, "header"), table.get("header", {})),
        _texts(reading, (*at, "path_prefix"), table.get("path_prefix", [])),
        _patterns(reading, at, table, "tools"),
        least,
        most,
    )


def _use(reading: Reading, at: Path, value: Any, names: Collection[str]) -> Use:
    if not isinstance(value, dict):
        return Use(_destinations(reading, at, value, names))
    if not _known(reading, at, value, _USE):
        return Use()
    to = _destinations(reading, (*at, "to"), value["to"], names) if "to" in value else ()
    if "provider" in value or "model" in value:
        if to:
            reading.problem(at, "to says it already", "leave out either to, or provider and model")
        to = _pairs(reading, at, value, names)
    strategy = value.get("strategy", "")
    if strategy != "":
        fault = checks.strategy(strategy) if isinstance(strategy, str) else ("must be a string", "")
        if fault:
            reading.problem((*at, "strategy"), *fault)
            strategy = ""
    only, sticky = value.get("only", False), value.get("sticky")
    for name, flag in (("only", only), ("sticky", sticky)):
        if flag is not None and not isinstance(flag, bool):
            reading.problem((*at, name), "must be true or false")
            only, sticky = False, None
    if only and not to:
        reading.problem((*at, "only"), "needs to know where", "name a provider")
    if not to and not strategy and sticky is None:
        reading.problem(at, "says nothing", f"known are {', '.join(_USE)}")
    return Use(to, only, strategy.replace("_", "-"), sticky)


def _pairs(
    reading: Reading, at: Path, value: Mapping[str, Any], names: Collection[str]
) -> tuple[Destination, ...]:
    providers = _texts(reading, (*at, "provider"), value.get("provider", []))
    models = _texts(reading, (*at, "model"), value.get("model", []))
    for name in providers:
        if name not in names:
            _unknown(reading, (*at, "provider"), name, names)
    for name in models:
        if fault := checks.model(name):
            reading.problem((*at, "model"), *fault)
    return tuple((provider, model) for model in models or ("",) for provider in providers or ("",))


def _destinations(reading: Reading, at: Path, value: Any, names: Collection[str]) -> tuple[Destination, ...]:
    found: list[Destination] = []
    for text in _texts(reading, at, value):
        head, rest = split_model(text, names)
        if not head and rest in names:
            found.append((rest, ""))
        elif not head and "," in rest:
            _unknown(reading, at, rest.partition(",")[0].strip(), names)
        elif fault := checks.model(rest):
            reading.problem(at, *fault)
        else:
            found.append((head, rest))
    if not found and not reading.problems:
        reading.problem(at, "must name a provider or a model", 'for example "openai/gpt-5.6"')
    return tuple(dict.fromkeys(found))


def _unknown(reading: Reading, at: Path, name: str, names: Collection[str]) -> None:
    near = checks.nearest(name, names)
    fix = f"did you mean {near}?" if near else f"add a table [providers.{name}]"
    reading.problem(at, f"no provider {name!r} is configured", fix)


def _known(reading: Reading, at: Path, table: Any, names: Collection[str]) -> bool:
    """Whether this is a table; what it holds beyond the known names is noted."""
    if not isinstance(table, dict):
        reading.problem(at, "must be a table", f"with {', '.join(names)}")
        return False
    for name in table:
        if name not in names:
            near = checks.nearest(name, names)
            reading.problem(
                (*at, name),
                "unknown key",
                f"did you mean {near}?" if near else f"known are {', '.join(names)}",
            )
    return True


def _texts(reading: Reading, at: Path, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        reading.problem(at, "must be a string or a list of strings")
        return ()
    return tuple(text.strip() for text in texts)


def _words(
    reading: Reading, at: Path, table: Mapping[str, Any], name: str, known: Collection[str]
) -> tuple[str, ...]:
    words = _texts(reading, (*at, name), table.get(name, []))
    for word in words:
        if fault := checks.one_of(*known)(word):
            reading.problem((*at, name), f"{word!r} {fault[0]}", fault[1])
    return tuple(word for word in words if word in known)


def _patterns(reading: Reading, at: Path, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = _texts(reading, (*at, name), table.get(name, []))
    return tuple(text for text in texts if _is_pattern(reading, (*at, name), text))


def _is_pattern(reading: Reading, at: Path, text: str) -> bool:
    try:
        pattern(text)
    except re.error as error:
        reading.problem(at, f"is not a regular expression: {error}", "globs are written without slashes")
        return False
    return True


def _headers(reading: Reading, at: Path, table: Any) -> Mapping[str, str]:
    found: dict[str, str] = {}
    if not isinstance(table, dict):
        reading.problem(at, "must be a table of header name = pattern", 'for example { x-team = "blue" }')
        return MappingProxyType(found)
    for name, text in table.items():
        fault = checks.check_header_name(name)
        if fault and fault[0] != "is set by ccm itself":
            reading.problem((*at, name), *fault)
        elif not isinstance(text, str):
            reading.problem((*at, name), "must be a string")
        elif _is_pattern(reading, (*at, name), text):
            found[name.lower()] = text
    return MappingProxyType(found)


def _count(reading: Reading, at: Path, table: Mapping[str, Any], name: str) -> int:
    value = table.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        reading.problem((*at, name), "must be a whole number")
        return 0
    return value
