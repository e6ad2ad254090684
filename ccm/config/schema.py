"""Every key of ccm-config.toml in one table: path, type, default, check, help. Pure.

`KEYS` is what the loader checks a file against, what `ccm check` explains, and what the documentation is made from. A
key that is not here is an error with the nearest one named. `*` in a path stands for a name the user chooses.
Checks take a value of the right type and return "" or what is wrong with it; they never show a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ccm.catalog.rows import AUTH_SCHEMES
from ccm.config import checks
from ccm.config.checks import Check
from ccm.late import regex
from ccm.model import DIALECTS, STRATEGIES, Timeouts
from ccm.settings import CLASSES, LONG_CONTEXT_TOKENS, ROUTE_ORDER, FailoverSettings
from ccm.shape import dataclass

Path = tuple[str, ...]

DEFAULT_LISTEN = "127.0.0.1:13456"
DEFAULT_TOKEN = "ccm-proxy"  # noqa: S105 - what every client sends by default; it only marks the caller as ours
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
PROVIDER_NAME = regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `kind` names the TOML type: see `KINDS`. `path` may hold `*`."""

    path: Path
    kind: str
    default: Any
    help: str
    check: Check | None = None
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As a user writes it: "providers.<name>.priority"."""
        return ".".join("<name>" if part == "*" else part for part in self.path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


# kind -> (test of the TOML value, how to say it)
KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "flag": (lambda v: isinstance(v, bool), "true or false"),
    "count": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "number": (_is_number, "a number"),
    "text": (lambda v: isinstance(v, str), "a string"),
    "texts": (_is_strings, "a list of strings"),
    "text or texts": (lambda v: isinstance(v, str) or _is_strings(v), "a string or a list of strings"),
    "model map": (lambda v: isinstance(v, (str, dict)), "a model name, or a table of provider = model"),
    "route": (
        lambda v: isinstance(v, (str, list, dict)),
        "a provider/model, a list of them, or a table like a rule's use",
    ),
    "rules": (lambda v: isinstance(v, list) and all(isinstance(r, dict) for r in v), "written as [[rules]]"),
    "never": (lambda _v: True, ""),
}


_T, _F = Timeouts(), FailoverSettings()
_P: Path = ("providers", "*")
_B: Path = ("budgets", "*")
_LIMIT_S = checks.between(0.1, 86_400, "seconds")

# fmt: off
KEYS: tuple[Key, ...] = (
    Key(("proxy", "listen"), "text", DEFAULT_LISTEN, "host:port to listen on; port 0 takes a free one", checks.listen),
    Key(("proxy", "auth_token"), "text", DEFAULT_TOKEN, "what clients send as their API key", checks.token),
    Key(("proxy", "allow_remote"), "flag", False, "needed to listen beyond this machine, beside an auth_token of your own"),
    Key(("proxy", "allowed_hosts"), "texts", (), "further names clients may call this proxy by (Host header)", checks.host_names),
    Key(("proxy", "max_in_flight"), "count", 256, "requests at the same time; more wait, then get 503", checks.between(1, 65_536)),
    Key(("proxy", "drain_timeout_s"), "number", 30.0, "how long a stop waits for running requests", checks.between(0, 3600, "seconds"), ("drain_timeout",)),
    Key(("proxy", "workers"), "count", 1, "processes that share the work; needs a restart", checks.between(1, 64)),
    Key(("proxy", "watch"), "flag", True, "read this file again when it changes"),
    Key(("proxy", "log_level"), "text", "info", "debug, info, warning or error", checks.one_of(*LOG_LEVELS)),
    Key((*_P, "enabled"), "flag", True, "false keeps the table but not the provider"),
    Key((*_P, "type"), "text", "", "which provider of the catalogue; the table's name where left out"),
    Key((*_P, "dialect"), "text", "", "the API to speak, where a provider has several; needed for custom", checks.one_of(*DIALECTS)),
    Key((*_P, "base_url"), "text", "", "another address than the catalogue's; needed for custom", checks.filled),
    Key((*_P, "auth"), "text", "", "how the key is sent, where it differs from the catalogue", checks.one_of(*AUTH_SCHEMES)),
    Key((*_P, "api_key_env"), "text or texts", "", "variable with the key; several = several keys in rotation", checks.variables),
    Key((*_P, "api_key_file"), "text or texts", "", "file with the key, readable by you alone", checks.no_secret),
    Key((*_P, "api_key_command"), "text or texts", "", "command that prints the key; a list runs without a shell", checks.command),
    Key((*_P, "api_key"), "never", None, "not taken: keys don't belong in this file", checks.api_key),
    Key((*_P, "priority"), "count", 100, "1 comes before 2", checks.between(0, 10_000)),
    Key((*_P, "weight"), "count", 1, "share under strategy weighted", checks.between(1, 10_000)),
    Key((*_P, "quirks"), "texts", (), "how a custom endpoint deviates from its dialect; see the catalogue", checks.quirks),
    Key((*_P, "headers", "*"), "text", None, "a header sent with every request", checks.header),
    Key((*_P, "models", "*"), "text", None, "tier (opus, sonnet, haiku, fable, default), model or glob -> its model", checks.model),
    Key((*_P, "timeouts", "connect_s"), "number", _T.connect_s, "to connect, TLS included", _LIMIT_S, ("connect",)),
    Key((*_P, "timeouts", "header_s"), "number", _T.header_s, "to the head of the answer", _LIMIT_S, ("header",)),
    Key((*_P, "timeouts", "first_content_s"), "number", _T.first_content_s, "to the first content", _LIMIT_S, ("first_token", "first_token_s", "first_content")),
    Key((*_P, "timeouts", "first_content_thinking_s"), "number", _T.first_content_thinking_s, "the same for a model that thinks", _LIMIT_S, ("first_token_thinking", "first_content_thinking")),
    Key((*_P, "timeouts", "idle_s"), "number", _T.idle_s, "between two pieces of a stream", _LIMIT_S, ("idle",)),
    Key((*_P, "timeouts", "total_s"), "number", _T.total_s, "one attempt in all", _LIMIT_S, ("total",)),
    Key((*_P, "max_in_flight"), "count", 0, "requests at the same time to this provider; 0 = no limit", checks.between(0, 65_536)),
    Key((*_P, "cache_ttl_s"), "number", 0.0, "how long an unused prompt cache stays warm there; 0 = 5 minutes, or the hour a request asks for", checks.between(0, 86_400, "seconds")),
    Key((*_P, "prefer_until"), "text", "", '"limit": asked first until its quota is used up, and again from its reset on', checks.one_of("limit")),
    Key((*_P, "allow_http"), "flag", False, "plain http to a private network"),
    Key((*_P, "ca_bundle"), "text", "", "file of further certificate authorities (PEM)", checks.filled),
    Key((*_P, "client_cert"), "text", "", "file with a client certificate and its key (PEM)", checks.filled),
    Key((*_P, "client_key"), "text", "", "file with the client certificate's private key, where it is one of its own (PEM)", checks.filled),
    Key((*_P, "proxy"), "text", "", 'HTTP proxy to reach the provider through; "env" takes the one the environment names', checks.proxy),
    Key((*_P, "proxy_auth_env"), "text", "", "variable with the proxy's user:password", checks.variables),
    Key((*_P, "profile"), "text", "", "AWS profile (bedrock)", checks.filled),
    Key((*_P, "region"), "text", "", "cloud region (bedrock, vertex)", checks.matching(checks.LABEL, "is not a region", 'for example "us-east-1"')),
    Key((*_P, "project"), "text", "", "Google Cloud project (vertex)", checks.matching(checks.PROJECT, "is not a project id")),
    Key((*_P, "resource"), "text", "", "name of the Azure resource", checks.matching(checks.LABEL, "is not the name of a resource", 'only the name: "myresource" of https://myresource.openai.azure.com')),
    Key((*_P, "api_version"), "text", "", "api-version of classic Azure deployments", checks.matching(checks.API_VERSION, "is not an API version", 'for example "2024-10-21"')),
    Key(("failover", "enabled"), "flag", _F.enabled, "try the next provider when one fails"),
    Key(("failover", "max_retries"), "count", _F.max_retries, "further attempts after the first", checks.between(0, 20)),
    Key(("failover", "backoff_ms"), "count", _F.backoff_ms, "base of the wait before the same provider is tried again; doubles", checks.between(0, 60_000, "milliseconds")),
    Key(("failover", "deadline_s"), "number", _F.deadline_s, "for everything before the first content", checks.between(1, 3600, "seconds"), ("deadline",)),
    Key(("failover", "midstream"), "text", _F.midstream, "what becomes of a stream that breaks: error, or continue with a second request", checks.one_of("error", "continue")),
    Key(("load_balancing", "strategy"), "text", "priority", ", ".join(STRATEGIES), checks.strategy),
    Key(("load_balancing", "sticky"), "flag", True, "a conversation stays where its prompt cache is"),
    Key(("load_balancing", "hedge"), "flag", False, "ask a second provider when the first is unusually slow"),
    Key(("load_balancing", "spare"), "count", 0, "percent of a quota below which an endpoint gets no background work", checks.between(0, 90, "percent")),
    *(Key(("routes", name), "route", None, f"where requests of class {name} go: provider/model, or a list") for name in ROUTE_ORDER),
    Key(("routes", "long_context_tokens"), "count", LONG_CONTEXT_TOKENS, "from how many input tokens on a request is of class long_context", checks.between(1, 100_000_000)),
    Key(("routes", "subagent_tags"), "flag", True, "obey <CCM-SUBAGENT-MODEL> tags"),
    Key(("rules",), "rules", (), "[[rules]]: when = {...}, use = {...}; asked before [routes], in the order of the file"),
    Key(("models", "*"), "model map", None, "model name or glob -> model, or provider -> model", checks.model),
    Key(("usage", "enabled"), "flag", True, "keep tokens and costs of every request (never its text)"),
    Key(("usage", "file"), "text", "", "the database, where not ~/.claude-code-mux/usage.db", checks.filled),
    Key(("usage", "retention_days"), "count", 90, "how long single requests are kept; daily totals stay", checks.between(1, 3650, "days")),
    Key((*_B, "limit_usd"), "number", None, "how much may be spent; needed", checks.between(0.000001, 1_000_000_000, "USD")),
    Key((*_B, "per"), "text", "day", "day, week, month (local time) or session", checks.one_of("day", "week", "month", "session")),
    Key((*_B, "provider"), "text", "", "only what this provider costs", checks.filled),
    Key((*_B, "model"), "text", "", "only what this model (name or glob) costs", checks.filled),
    Key((*_B, "class"), "text", "", "only requests of this class", checks.one_of(*CLASSES)),
    Key((*_B, "project"), "text", "", "only requests of this project", checks.filled),
    Key((*_B, "then"), "text", "stop", "at the limit: stop, downgrade or warn", checks.one_of("stop", "downgrade", "warn")),
    Key((*_B, "downgrade_to"), "text", "", "provider/model, a provider or a model that requests go to instead", checks.filled),
    Key(("guard", "repeats"), "count", 0, "warn when a tool call is repeated so often, stop at twice that; 0 = off", checks.between(0, 10_000)),
    Key(("guard", "spend_factor"), "number", 0.0, "the same for spending over the conversation's median hour; 0 = off", checks.between(0, 10_000)),
    Key(("telemetry", "otlp_endpoint"), "text", "", "OpenTelemetry collector (http://host:4318) for traces and metrics; needs the extra otel", checks.filled),
    Key(("logging", "level"), "text", "info", "as [proxy] log_level", checks.one_of(*LOG_LEVELS)),
    Key(("logging", "format"), "text", "", "text (default) or json", checks.one_of(*LOG_FORMATS)),
    Key(("logging", "file"), "text", "", "file instead of standard error", checks.filled),
    Key(("catalog", "models_file"), "text", "", "file of model facts and prices that overrule the catalogue's", checks.filled),
)
# fmt: on

_BY_PATH: Mapping[Path, Key] = {
    (*key.path[:-1], name): key for key in KEYS for name in (key.path[-1], *key.aliases)
}
TABLES: frozenset[Path] = frozenset(key.path[:n] for key in KEYS for n in range(1, len(key.path)))


def generic(path: Path) -> Path:
    """The path with the user's own names replaced by `*`, so that it can be looked up."""
    out: Path = ()
    for part in path:
        exact = (*out, part)
        starred = (*out, "*")
        known = exact in _BY_PATH or exact in TABLES
        out = starred if not known and (starred in _BY_PATH or starred in TABLES) else exact
    return out


def find_key(path: Path) -> Key | None:
    """The key at a path as written in a file (aliases too), None for an unknown one or a table."""
    return _BY_PATH.get(generic(path))


def is_table(path: Path) -> bool:
    """Whether a path is a table that holds keys."""
    return generic(path) in TABLES


def neighbours(path: Path) -> list[str]:
    """The names that would be valid in place of the last part of an unknown path."""
    table = generic(path[:-1])
    names = {p[len(table)] for p in (*_BY_PATH, *TABLES) if len(p) > len(table) and p[: len(table)] == table}
    return sorted(names - {"*", "api_key"})


def elsewhere(name: str) -> list[str]:
    """Where a key of that name does belong, for one put into the wrong table."""
    return sorted({key.name for path, key in _BY_PATH.items() if path[-1] == name and key.kind != "never"})
