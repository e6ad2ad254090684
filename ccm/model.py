"""The frozen dataclasses and enums that all rooms share: one word, one meaning. No behaviour beyond properties.

provider  = a service as configured            endpoint = provider x credential: the unit of health
target    = endpoint x model                   attempt  = one upstream call
retry     = another attempt at the same target failover = an attempt at another one
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from ccm.settings import FailoverSettings, RoutingSettings, UsageSettings
from ccm.shape import dataclass, field
from ccm.wire.digest import sha256

# Dialects a provider can speak (DIALECTS: A, OC, OR, G, BC/BI).
DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini", "bedrock")
# Claude's model families, the keys of every tier map; "default" answers for what names none of them.
TIERS = ("opus", "sonnet", "haiku", "fable")
STRATEGIES = ("priority", "round-robin", "weighted", "latency", "cost", "least-busy")

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration. `str()` is the line people read: `file:line key: text (fix)`."""

    file: str
    line: int | None
    key: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = f" {self.key}:" if self.key else ""
        fix = f" ({self.fix})" if self.fix else ""
        return f"{place}{key} {self.text}{fix}"


class Secret:
    """A key in memory. Its value leaves only through `reveal()`, which only `upstream.auth` calls."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self.source = source  # "environment variable OPENAI_API_KEY", "file ~/.keys/openai": never the value

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell two keys apart and say nothing of either."""
        return sha256(self._value.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"<Secret from {self.source}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where one key of a provider comes from: `kind` is env | file | command | none; `name` the variable, path or
    command line. `secret` is None while the key is not there (`problem` then says why) or for a command not yet run."""

    kind: str
    name: str
    secret: Secret | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one attempt, in seconds (RELIABILITY 1a: rows 2, 7, 8, 43, 88)."""

    connect_s: float = 5.0
    header_s: float = 60.0
    first_content_s: float = 120.0
    first_content_thinking_s: float = 240.0
    idle_s: float = 90.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """List prices in USD per million tokens; None = unknown (never 0)."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None
    web_search: float | None = None  # USD per thousand searches that the provider makes
    # (above this many input tokens, input price, output price), ascending
    above: tuple[tuple[int, float | None, float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the catalogue knows of a model. Unknown models get cautious defaults and `known = False`.

    `thinking` names the form the model takes: "" none, "adaptive" (thinking adaptive + output_config.effort),
    "budget" (thinking budget_tokens), "effort" (reasoning_effort), "level" (Gemini thinkingLevel), "always".
    """

    name: str
    known: bool = False
    window: int = 200_000
    output_cap: int | None = None
    price: Price = Price()
    thinking: str = ""
    efforts: tuple[str, ...] = ()
    abilities: frozenset[str] = frozenset({"tools", "images"})


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider as it runs: a catalogue row with the user's changes on top."""

    name: str
    type: str
    dialect: str
    base_url: str
    auth: str = "bearer"
    keys: tuple[KeySource, ...] = ()
    enabled: bool = True
    priority: int = 100
    weight: int = 1
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    models: Mapping[str, str] = field(
        default_factory=lambda: EMPTY
    )  # the user's: tier, name or glob -> model
    tiers: Mapping[str, str] = field(
        default_factory=lambda: EMPTY
    )  # the catalogue's: tier or "default" -> model
    timeouts: Timeouts = Timeouts()
    quirks: frozenset[str] = frozenset()
    abilities: frozenset[str] = frozenset()
    max_in_flight: int = 0  # 0 = no limit of its own
    cache_ttl_s: float = (
        0.0  # how long an unused prompt cache stays warm there; 0 = as long as the request asks
    )
    prefer_until: str = ""  # "limit": asked first until its quota is used up, and again from its reset on
    display: str = ""
    docs: str = ""
    options: Mapping[str, Any] = field(
        default_factory=lambda: EMPTY
    )  # region, project, api_version, ca_bundle, proxy ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Provider x credential: the unit of health, cool-down and concurrency."""

    id: str  # "openai", "openai#2"
    provider: Provider
    key: KeySource | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Endpoint x model: what one attempt is sent to."""

    endpoint: Endpoint
    model: str
    facts: ModelFacts

    @property
    def provider(self) -> Provider:
        return self.endpoint.provider

    @property
    def id(self) -> str:
        return f"{self.endpoint.id}/{self.model}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One immutable configuration, read once per request and swapped by one assignment."""

    generation: int
    path: str  # the file it came from, or "" (environment only)
    host: str
    port: int
    auth_token: str
    allowed_hosts: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]  # enabled providers with a usable key, in file order
    providers: Mapping[str, Provider]  # all of them, also disabled and keyless ones
    failover: FailoverSettings
    strategy: str
    # model name or glob -> model name, or {provider: model}; first match in file order wins
    models: Mapping[str, str | Mapping[str, str]]
    max_in_flight: int = 256
    drain_timeout_s: float = 30.0
    log_level: str = "info"
    log_format: str = ""  # text | json; "": as the environment says
    log_file: str = ""
    warnings: tuple[Problem, ...] = ()
    demo: bool = False
    routing: RoutingSettings = field(default_factory=RoutingSettings)
    usage: UsageSettings = field(default_factory=UsageSettings)
    workers: int = 1
    watch: bool = True  # the file is read again when it changes
    otlp_endpoint: str = ""  # where traces and metrics go (the extra `otel`); "" = nowhere


class FailureKind(Enum):
    """The rows of the failure table (DESIGN 6). What each one leads to stands in `routing.failures`."""

    CONNECT = "connect"
    TRANSIENT = "transient"
    OVERLOADED = "overloaded"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    CREDENTIAL = "credential"
    REGION = "region"
    MODEL_GONE = "model_gone"
    MODEL_ACCESS = "model_access"
    CONTEXT_TOO_LONG = "context_too_long"
    CALLER_FAULT = "caller_fault"
    REFUSED = "refused"
    HEAD_TIMEOUT = "head_timeout"
    FIRST_CONTENT_TIMEOUT = "first_content_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    BROKEN = "broken"
    PROTOCOL = "protocol"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider's error body says, in one shape, before anything is concluded from it.

    Made by `dialect.explain` (status >= 400, or an error inside a 200) and by `upstream.call` (status 0: no answer,
    with `kind` preset to CONNECT, HEAD_TIMEOUT, BROKEN ...). `type` is one of Anthropic's error types, `code` the
    provider's own word (type, code, status name), `message` its text, unshortened, without keys.
    """

    status: int
    type: str
    message: str
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # lower-case names
    body: bytes = b""  # as received, for pass-through to a client of the same dialect
    kind: FailureKind | None = None

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} {self.type}: {self.message}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A `ProviderError` with the conclusion drawn: what it is, and how long the target asked to be left alone."""

    kind: FailureKind
    error: ProviderError
    retry_after_s: float | None = None
    should_retry: bool | None = None  # the provider's x-should-retry, when it sent one


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. Exactly one of: success (`failure` None, `cancelled` False), failure, cancelled."""

    failure: Failure | None = None
    cancelled: bool = False
    first_content_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input: read from, or written to, the provider's prompt cache

    @property
    def ok(self) -> bool:
        return self.failure is None and not self.cancelled
