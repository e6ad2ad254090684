"""What the user wants, beside providers and their keys: failover, routing, money. Frozen data, the defaults in it.

A rule has two halves that are decided apart: where a request goes (`to`), and how a target is chosen there (`strategy`,
`sticky`). For each half the first rule decides that matches and says something about it. So a rule with only a
strategy does not keep a later one from naming a provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ccm.shape import dataclass, field

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FailoverSettings:
    """`max_retries` counts further attempts after the first; `backoff_ms` is the base of the jittered wait before the
    same target is tried again (DESIGN 6). `deadline_s` bounds everything before the first content byte.
    `midstream` says what becomes of a stream that breaks after it: "error", or "continue" (RELIABILITY 3.7)."""

    enabled: bool = True
    max_retries: int = 2
    backoff_ms: int = 250
    deadline_s: float = 240.0
    midstream: str = "error"


# What a request can be; `routing.classify` says how each is recognised. A request may be several of them at once (a
# subagent that thinks about an image).
CLASSES = (
    "default", "background", "title", "think", "long_context", "web_search", "image", "subagent", "compaction",
    "classifier",
)  # fmt: skip
# In this order [routes] asks: what is special about a request goes before what most requests are.
ROUTE_ORDER = (
    "classifier", "web_search", "compaction", "title", "background", "subagent", "image", "long_context", "think",
    "default",
)  # fmt: skip
LONG_CONTEXT_TOKENS = 60_000

# (provider or endpoint, model): "" for any provider, "" for the model that was asked for
Destination = tuple[str, str]


@dataclass(frozen=True, slots=True)
class When:
    """What a request must be for a rule to hold: every field that is given, and of a field's values any one.

    `models`, `headers` and `tools` hold patterns: a glob, or a regular expression between slashes. Model patterns see
    the name as the client wrote it; `tiers` its tier. Header names are lower-case.
    """

    classes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    path_prefixes: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    min_input_tokens: int = 0
    max_input_tokens: int = 0  # 0 = no limit


@dataclass(frozen=True, slots=True)
class Use:
    """What a rule leads to. `to` in order of preference; the other providers come after them, unless `only`.
    `strategy` "" and `sticky` None leave the choice to later rules and the general settings."""

    to: tuple[Destination, ...] = ()
    only: bool = False
    strategy: str = ""
    sticky: bool | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `name` is what people see in x-ccm-route and `ccmctl explain`."""

    name: str
    when: When = When()
    use: Use = Use()


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """The rules in order, and what holds where none does. `tags`: whether subagent tags are obeyed."""

    rules: tuple[Rule, ...] = ()
    sticky: bool = True
    hedge: bool = False
    spare: int = 0  # percent of a quota below which an endpoint gets no background work
    tags: bool = True
    long_context_tokens: int = LONG_CONTEXT_TOKENS

    @property
    def classes(self) -> frozenset[str]:
        """The classes that any rule asks for: no others are worth looking for in a request."""
        return frozenset(name for rule in self.rules for name in rule.when.classes)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit of money. It counts requests of one `per` (day | week | month, in local time; session: one conversation),
    and of these only those of the given provider, model, class or project ("" = any).

    `then` says what happens at the limit: "stop" refuses, "downgrade" sends requests to `downgrade_to` (provider/model,
    a provider or a model), "warn" only tells.
    """

    name: str
    limit_usd: float
    per: str = "day"
    provider: str = ""
    model: str = ""  # name or glob
    request_class: str = ""
    project: str = ""
    then: str = "stop"
    downgrade_to: str = ""


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The runaway guard. `repeats`: the same tool call with the same arguments so often in a row (0 = off);
    `spend_factor`: a conversation's spending in an hour over its median hour (0 = off). At the limit it warns, at
    twice the limit the conversation stops until `ccmctl session resume`."""

    repeats: int = 0
    spend_factor: float = 0.0


@dataclass(frozen=True, slots=True)
class UsageSettings:
    """The usage store. `path` "" = usage.db in ccm's own directory."""

    enabled: bool = True
    path: str = ""
    retention_days: int = 90
    budgets: tuple[Budget, ...] = ()
    guard: GuardSettings = GuardSettings()
