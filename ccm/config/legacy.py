"""Configurations in the form of claude-code-mux 0.x: read, translated, and shown in the new form.

    [server] host, port, log_level         ->  [proxy] listen, log_level
    [router] default, background, think, websearch, auto_map_regex, background_regex
                                           ->  [[rules]], the special ones first
    [[providers]] name, provider_type, api_key, base_url, enabled, models
                                           ->  [providers.NAME]
    [[models]] name, mappings              ->  [[rules]] when the model is asked for, in order of priority

Pure: text in, text out. The new text is what gets loaded, and what the warnings quote, so that a user can copy it.
What has no counterpart is named in a warning, never silently dropped. Keys in the file stay refused, as in any form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ccm.catalog.checks import parse
from ccm.config.locate import Lines
from ccm.late import regex
from ccm.model import Problem

_OLD_TABLES = ("server", "router")
_VARIABLE = regex(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
# keys are not shown, whatever the file holds
_SECRET = regex(r"^(api_key|auth_token|headers) = .*$", re.MULTILINE)
_PLACES = r"\1 = ..."
_BARE = regex(r"[A-Za-z0-9_-]+")
_TYPES = {
    "z.ai": "zai",
    "gemini": "google",
    "azure-openai": "azure",
    "vertex-ai": "vertex",
    "aws-bedrock": "bedrock",
}
_ROUTER = ("default", "background", "think", "websearch", "auto_map_regex", "background_regex")
_LEVELS = {"trace": "debug", "warn": "warning"}
# [[providers]] keys that mean nothing here, and why
_DROPPED = {
    "auth_type": "the kind of key follows from the provider",
    "oauth_provider": "ccm uses keys, not logins",
    "models": "models are named in [routes], [[rules]] and [models]",
}


def is_old(document: Mapping[str, Any]) -> bool:
    """Whether a parsed configuration is in the old form: one of its tables is."""
    return (
        any(isinstance(document.get(name), dict) for name in _OLD_TABLES)
        or isinstance(document.get("providers"), list)
        or isinstance(document.get("models"), list)
    )


def modern(text: str, file: str) -> tuple[str, list[Problem]]:
    """The text in the new form, and one warning per old table that shows what it becomes; the very same text and no
    warnings where it is new already. Raises ConfigError for what is not TOML."""
    document = parse(text, file)
    if not is_old(document):
        return text, []
    translation = _Translation(document, Lines(text), file)
    return translation.text(), translation.warnings


class _Translation:
    def __init__(self, document: dict[str, Any], lines: Lines, file: str) -> None:
        self._document = document
        self._lines = lines
        self._file = file
        self._parts: list[str] = []
        self.warnings: list[Problem] = []
        self._names = _new_names(_tables(document.get("providers")))
        self._routes = self._mappings()

    def text(self) -> str:
        proxy = self._proxy()
        if proxy:
            self._add(("server",), proxy)
        for n, table in enumerate(_tables(self._document.get("providers"))):
            self._add(("providers", str(n)), self._provider(n, table))
        router = self._document.get("router")
        classes, default = self._router(router) if isinstance(router, dict) else ("", "")
        models = "\n\n".join(self._model_rules())
        # what is special about a request goes before its name, and a name before the rest
        self._parts += [classes, models, default]
        if models:
            self._show(("models",), models)
        if classes or default:
            self._show(("router",), "\n\n".join(part for part in (classes, default) if part))
        rest = {
            name: value
            for name, value in self._document.items()
            if not (name in _OLD_TABLES or (name in ("providers", "models") and isinstance(value, list)))
        }
        self._parts += _tables_text(rest)
        return "\n\n".join(part for part in self._parts if part) + "\n"

    def _add(self, at: tuple[str, ...], part: str) -> None:
        self._parts.append(part)
        if part:
            self._show(at, part)

    def _show(self, at: tuple[str, ...], part: str) -> None:
        self._warn(
            at,
            "is the form of claude-code-mux 0.x, read all the same",
            f"write it as:\n{_SECRET.sub(_PLACES, part)}",
        )

    def _warn(self, at: tuple[str, ...], text: str, fix: str = "") -> None:
        key = ".".join(part for part in at if not part.isdigit())
        self.warnings.append(Problem(self._file, self._lines.of(at), key, text, fix))

    def _proxy(self) -> str:
        server = self._document.get("server")
        if not isinstance(server, dict):
            return ""
        fields: dict[str, Any] = {}
        if "host" in server or "port" in server:
            host, port = server.get("host", "127.0.0.1"), server.get("port", 13456)
            fields["listen"] = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
        if isinstance(level := server.get("log_level"), str):
            fields["log_level"] = _LEVELS.get(level.lower(), level.lower())
        if isinstance(token := server.get("api_key"), str) and token:
            fields["auth_token"] = token
        for name in server.keys() - {"host", "port", "log_level", "api_key"}:
            self._warn(("server", name), "has no counterpart and is left out")
        return _table_text("proxy", fields)

    def _provider(self, n: int, table: Mapping[str, Any]) -> str:
        at = ("providers", str(n))
        old = str(table.get("provider_type", ""))
        type = _TYPES.get(old.lower(), old.lower())
        fields: dict[str, Any] = {"type": type} if type else {}
        for name in ("enabled", "base_url", "priority", "weight", "region", "headers"):
            if name in table:
                fields[name] = table[name]
        if "project_id" in table:
            fields["project"] = table["project_id"]
        if "location" in table:
            fields["region"] = table["location"]
        key = table.get("api_key")
        if isinstance(key, str) and key:
            match = _VARIABLE.fullmatch(key)
            fields["api_key_env" if match else "api_key"] = match[1] if match else key
        known = {"name", "provider_type", "api_key", "project_id", "location", *fields}
        for name in table:
            if name not in known:
                why = _DROPPED.get(name, "it has no counterpart")
                if table[name] not in ([], "", "apikey", "ApiKey", "api_key"):
                    self._warn((*at, name), f"is left out: {why}")
        return _table_text(f"providers.{_key(self._names[str(table.get('name', n))])}", fields)

    def _mappings(self) -> dict[str, list[str]]:
        """Model name -> destinations, in order of priority."""
        found: dict[str, list[str]] = {}
        for n, model in enumerate(_tables(self._document.get("models"))):
            mappings = _tables(model.get("mappings"))
            mappings.sort(key=lambda m: m["priority"] if isinstance(m.get("priority"), int) else 1 << 30)
            to = []
            for mapping in mappings:
                provider = str(mapping.get("provider", ""))
                actual = str(mapping.get("actual_model", model.get("name", "")))
                to.append(f"{self._names.get(provider, provider)},{actual}")
            name = model.get("name")
            if isinstance(name, str) and name and to:
                found[name] = to
            else:
                self._warn(("models", str(n)), "has no name or no mappings and is left out")
        return found

    def _model_rules(self) -> Iterable[str]:
        for name, to in self._routes.items():
            literal = "/^" + re.escape(name).replace("\\-", "-") + "$/"
            when = {"model": name if not set(name) & set("*?[/") else literal}
            use = {"to": to, "only": True, "strategy": "priority"}
            yield _rule_text(name[:64], when, use)

    def _router(self, router: Mapping[str, Any]) -> tuple[str, str]:
        """(the rules for classes, the rule for everything else)."""
        rules = []

        def rule(name: str, when: Mapping[str, Any], to: Any) -> None:
            if isinstance(to, str) and to:
                rules.append(_rule_text(name, when, self._routes.get(to, to)))

        rule("websearch", {"class": "web_search"}, router.get("websearch"))
        background, expression = router.get("background"), router.get("background_regex")
        if isinstance(expression, str) and expression:
            rule("background_regex", {"model": f"/{expression}/"}, background)
        rule("background", {"class": "background"}, background)
        rule("think", {"class": "think"}, router.get("think"))
        classes, rules = "\n\n".join(rules), []
        expression = router.get("auto_map_regex")
        pattern = f"/{expression}/" if isinstance(expression, str) and expression else "claude-*"
        rule("default", {"model": pattern}, router.get("default"))
        for name in router.keys() - {*_ROUTER}:
            self._warn(("router", name), "has no counterpart and is left out")
        return classes, "".join(rules)


def _tables(value: Any) -> list[dict[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def _new_names(providers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Old name -> a name that may stand in paths and headers."""
    names: dict[str, str] = {}
    for n, table in enumerate(providers):
        old = str(table.get("name", n))
        new = re.sub(r"[^A-Za-z0-9_.-]+", "-", old).strip("-.") or f"provider-{n + 1}"
        while new.lower() in {taken.lower() for taken in names.values()}:
            new += "-2"
        names[old] = new
    return names


# ---- TOML text


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if not isinstance(value, str):  # dates and times
        return str(value.isoformat())
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _rule_text(name: str, when: Mapping[str, Any], use: Any) -> str:
    return f"[[rules]]\nname = {_value(name)}\nwhen = {_value(when)}\nuse = {_value(use)}"


def _table_text(name: str, fields: Mapping[str, Any]) -> str:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in fields.items()]
    return "\n".join([f"[{name}]", *lines]) if lines else ""


def _tables_text(document: Mapping[str, Any]) -> list[str]:
    """Tables in the new form already, unchanged but for their notation."""
    plain = {name: value for name, value in document.items() if not isinstance(value, dict)}
    parts = [f"{_key(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in document.items():
        if isinstance(value, dict):
            parts.append(
                "\n".join([f"[{_key(name)}]", *(f"{_key(k)} = {_value(v)}" for k, v in value.items())])
            )
    return parts
