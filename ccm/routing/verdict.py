"""What a request asks for: the first of pin, subagent tag, name and rules that has something to say.

In this order: x-ccm-provider; the path's provider; a subagent tag; a provider named in the model; the rules. Only the
first two and a name with a provider bind (nobody else is asked); a tag or a rule names whom to ask first, and leaves
the others behind them, unless a rule says `only`. A tag that names what is not there is passed over, and said so: a
subagent's answer from the default beats a 502 (R28). How to choose (strategy, sticky) is the rules' in every case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

from ccm.model import STRATEGIES, Snapshot
from ccm.routing import rules
from ccm.routing.classify import Ask
from ccm.settings import Destination, RoutingSettings, Rule, When
from ccm.shape import dataclass

_VALUE_CHARS = 1024  # of a header that a pattern is tried on


@dataclass(slots=True)
class Verdict:
    """Where a request is to go and how to choose there. `pin` ("" = none) restricts, `to` prefers, `by` says who
    decided, for people; `note` what could not be obeyed. `affinity` tells routes of one conversation apart that lead
    to different places."""

    pin: str = ""
    by: str = ""
    to: tuple[Destination, ...] = ()
    only: bool = False
    strategy: str = ""
    sticky: bool = True
    rule: str = ""
    request_class: str = "default"
    note: str = ""
    affinity: str = ""


def judge(ask: Ask, snapshot: Snapshot, settings: RoutingSettings) -> Verdict:
    """The verdict for one request. Never raises for what a request says; looks only at what a rule asks for."""
    pin, by = ask.headers.get("x-ccm-provider", "").strip(), "x-ccm-provider"
    prefix = ask.path_prefix
    # a prefix that rules speak of is theirs; any other one is a provider's name
    if not pin and prefix and not any(prefix in rule.when.path_prefixes for rule in settings.rules):
        pin, by = prefix, "the path"
    where, how_strategy, how_sticky, kind = None, "", None, ""
    for rule in settings.rules:
        use = rule.use
        asks = (
            (where is None and use.to)
            or (use.strategy and not how_strategy)
            or (use.sticky is not None and how_sticky is None)
        )
        if not asks:
            continue
        matched = matches(ask, rule.when, settings)
        if matched is None:
            continue
        kind = kind or matched
        if where is None and use.to:
            where = rule
        how_strategy = how_strategy or use.strategy
        how_sticky = use.sticky if how_sticky is None else how_sticky
    wished = ask.headers.get("x-ccm-strategy", "").strip()
    strategy = (wished if wished in STRATEGIES else how_strategy) or snapshot.strategy
    sticky = settings.sticky if how_sticky is None else how_sticky
    request_class = ask.quiet() or kind or ask.request_class(settings.classes)
    to: tuple[Destination, ...] = ()
    only, rule_name, note = False, "", ""
    if not pin:
        said = ask.tag() if settings.tags else ""
        if said:
            destination, note = tagged(said, snapshot)
            if destination is not None:
                to, rule_name = (destination,), "subagent tag"
        if not to and where is not None and not _names_provider(ask.model, snapshot):
            to, only, rule_name = where.use.to, where.use.only, where.name
    return Verdict(
        pin, by if pin else "", to, only, strategy, sticky, rule_name, request_class, note,
        ",".join(map("/".join, to)) if to else "",
    )  # fmt: skip


def matches(ask: Ask, when: When, settings: RoutingSettings) -> str | None:
    """None where the rule does not hold, else the class by which it does ("" where it names none). The cheap
    conditions first; a tool's name is looked for last, because it needs the parsed body."""
    if when.tiers and rules.tier_of(ask.model) not in when.tiers:
        return None
    if when.models and not any_matches(when.models, _spellings(ask.model)):
        return None
    if when.path_prefixes and ask.path_prefix not in when.path_prefixes:
        return None
    if when.min_input_tokens and ask.input_tokens() < when.min_input_tokens:
        return None
    if when.max_input_tokens and ask.input_tokens() > when.max_input_tokens:
        return None
    for name, wanted in when.headers.items():
        value = ask.headers.get(name)
        if value is None or not pattern(wanted).search(value[:_VALUE_CHARS]):
            return None
    found = ""
    if when.classes:
        found = next((name for name in when.classes if ask.is_a(name, settings.long_context_tokens)), "")
        if not found:
            return None
    if when.tools and not any_matches(when.tools, ask.tool_names()):
        return None
    return found


def tagged(said: str, snapshot: Snapshot) -> tuple[Destination | None, str]:
    """Where a tag leads, or None and why not."""
    usable = {name for e in snapshot.endpoints for name in (e.id, e.provider.name)}
    head, model = rules.split_model(said, usable, snapshot.models)
    if head:
        return (head, model), ""
    if model in usable:
        return (model, ""), ""
    if "," in model:
        name = model.partition(",")[0].strip()
        return None, f"the subagent tag names provider {name!r}, which is not configured or has no usable key"
    known = rules.is_claude(model) or rules.find_entry(model, snapshot.models) is not None
    if known or any(rules.speaks(e.provider, model) for e in snapshot.endpoints):
        return ("", model), ""
    return None, f"the subagent tag names {model!r}, which no provider knows"


def any_matches(patterns: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether any of the patterns fits any of the texts."""
    return any(pattern(one).search(text) is not None for one in patterns for text in texts)


@lru_cache(maxsize=1024)
def pattern(text: str) -> re.Pattern[str]:
    """A pattern of the configuration: a glob over the whole text without regard to case, or /a regular expression/
    found anywhere. Raises re.error for what is none: the configuration's check has seen to that."""
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        return re.compile(text[1:-1])
    return re.compile(r"\A" + translate(text), re.IGNORECASE)


def _names_provider(model: str, snapshot: Snapshot) -> bool:
    return ("/" in model or "," in model) and rules.split_model(model, snapshot.providers, snapshot.models)[
        0
    ] != ""


def _spellings(model: str) -> tuple[str, ...]:
    """As written, and without the window suffix: `[` and `]` mean something in globs."""
    bare = rules.plain(model)
    return (model,) if bare == model else (bare, model)


def rule_line(rule: Rule) -> str:
    """A rule in one line, for people."""
    use = rule.use
    parts = [f"to {', '.join(p + ('/' if p and m else '') + m for p, m in use.to)}"] if use.to else []
    parts += ["and nowhere else"] if use.only else []
    parts += [f"by {use.strategy}"] if use.strategy else []
    parts += ["sticky" if use.sticky else "not sticky"] if use.sticky is not None else []
    return f"{rule.name}: {' '.join(parts) or 'nothing'}"
