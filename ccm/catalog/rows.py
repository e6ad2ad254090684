"""The providers ccm knows: rows of providers.toml, strictly checked. A row is data; nothing here knows a provider by name.

Adding a provider means adding a table there. The vocabularies of quirks and abilities are closed and stand below with
their meaning, so that a typing error in the data is an error and not a silently ignored word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from ccm.catalog.checks import Checked, Where, bundled_document, parse
from ccm.catalog.models import ModelBook, bundled
from ccm.late import LateMap
from ccm.model import DIALECTS, TIERS
from ccm.shape import dataclass

AUTH_SCHEMES = (
    "bearer",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "none",
    "sigv4",
    "google",
    "azure",
    "passthrough",
)

# Deviations from a dialect that a row or a user may name; what each type of provider does anyway is the dialect's own
# table (dialects.openai_chat.policy). A unit test holds this list and the dialects' tables together.
QUIRKS: Mapping[str, str] = {
    "no_stream_options": "stream_options is not taken",
    "no_system_role": "system prompts go out as user text",
    "developer_role": "system prompts go out as role developer",
    "fold_system": "a system message in mid-conversation becomes user text",
    "keep_system": "a system message in mid-conversation stays one",
    "max_completion_tokens": "the output cap is called max_completion_tokens",
    "max_tokens": "the output cap is called max_tokens",
    "no_sampling": "temperature and top_p are not taken",
    "no_stop": "stop sequences are not taken; ccm cuts by itself",
    "top_k": "top_k is taken",
    "no_tools": "function calls are not taken",
    "no_forced_tool": "a forced tool choice is not taken",
    "no_parallel": "parallel_tool_calls is not known",
    "no_json_schema": "response_format knows no schema",
    "no_reasoning_replay": "reasoning of earlier turns is left out",
    "reasoning_content": "reasoning of earlier turns goes back as reasoning_content",
    "no_effort": "no effort is sent",
    "enable_thinking": "thinking is switched by enable_thinking and thinking_budget",
    "template_thinking": "thinking is switched by chat_template_kwargs",
    "bridge_after_tool": "a user message must not follow a tool message directly",
    "alternate": "user and assistant must alternate strictly",
    "nine_char_ids": "tool call ids are exactly nine letters and digits",
    "short_ids": "tool call ids have at most 40 characters",
    "pdf": "PDF documents are taken as file parts",
    "cache_control": "cache_control on content parts is honoured",
    "prompt_cache_key": "prompt_cache_key steers the prompt cache",
    "think_tags": "reasoning comes inside <think> tags",
    "lenient_end": "a stream that just ends counts as complete",
    "bedrock_converse": "Bedrock: Claude through Converse instead of InvokeModel",
    "openapi_schema": "Gemini: tools as OpenAPI schemas instead of JSON Schema",
}

# What a provider can do beyond text.
ABILITIES: Mapping[str, str] = {
    "tools": "function calls",
    "images": "images in messages",
    "documents": "PDF documents in messages",
    "count_tokens": "its own token count",
    "web_search": "its own web search, asked for in its dialect's way",
    "web_search_openrouter": "web search as OpenRouter's plugin",
    "web_search_zai": "web search as Z.ai's tool",
    "web_search_perplexity": "every answer is a web search",
    "web_search_groq": "Groq's compound models search by themselves",
}


@dataclass(frozen=True, slots=True)
class RowEndpoint:
    """One way to reach a provider. `base_url` and tiers may hold {region}, {project}, {resource}, {region_host}, {geo};
    "" = the configuration must give it. `classic_url` is the base of Azure's dated API versions, whose paths name the
    deployment; "" elsewhere."""

    dialect: str
    base_url: str
    auth: str
    quirks: frozenset[str]
    abilities: frozenset[str]
    tiers: Mapping[str, str]
    classic_url: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A provider of the catalogue. `endpoints` in order of preference; those of "custom" have no address of their own."""

    name: str
    display: str
    endpoints: tuple[RowEndpoint, ...]
    auth: str
    env: tuple[str, ...]
    auto: bool  # a key in the environment switches it on when there is no configuration file
    aliases: tuple[str, ...]
    headers: Mapping[str, str]
    # option -> variables that may give it, in order; "=text" is the default; none given = must be configured
    options: Mapping[str, tuple[str, ...]]
    forms: Mapping[str, str]  # option -> what its values look like, as a regular expression
    known: Mapping[str, tuple[str, ...]]  # option -> values known when this was written; others get a warning
    constants: Mapping[str, Any]  # go to the dialect as options, unseen by the user
    docs: str
    note: str

    @property
    def dialect(self) -> str:
        """The preferred dialect; "" where the configuration must say."""
        return self.endpoints[0].dialect if self.base_url else ""

    @property
    def base_url(self) -> str:
        """The preferred base URL, possibly with placeholders."""
        return self.endpoints[0].base_url if self.endpoints else ""

    @property
    def tiers(self) -> Mapping[str, str]:
        """The preferred endpoint's tier map."""
        return self.endpoints[0].tiers if self.endpoints else {}

    def endpoint(self, dialect: str = "") -> RowEndpoint | None:
        """The endpoint for a dialect ("" = the preferred one), None where there is none."""
        for endpoint in self.endpoints:
            if dialect in ("", endpoint.dialect):
                return endpoint
        return None


_ROW_KEYS = (
    "display",
    "endpoints",
    "auth",
    "env",
    "auto",
    "aliases",
    "headers",
    "options",
    "forms",
    "known",
    "constants",
    "quirks",
    "abilities",
    "tiers",
    "docs",
    "note",
)
_ENDPOINT_KEYS = ("dialect", "base_url", "classic_url", "auth", "quirks", "abilities", "tiers")


def load_rows(text: str, book: ModelBook | None = None, file: str = "providers.toml") -> dict[str, Row]:
    """The rows of a providers file by name, in file order.

    Raises ConfigError with every fault: unknown keys, wrong types, words outside a vocabulary, a tier mapped to a model
    that `book` (the bundled one) knows to take no tools, a name or alias given twice.
    """
    document = parse(text, file)
    checked = Checked(file, text)
    models = book or bundled()
    rows: dict[str, Row] = {}
    taken: dict[str, str] = {}
    for name, table in checked.tables(document, ()):
        row = rows[name] = _row(checked, models, name, table)
        for alias in (name, *row.aliases):
            if taken.setdefault(alias, name) != name:
                checked.say((name, "aliases"), f"{alias!r} is already the name of {taken[alias]}")
    checked.raise_all()
    return rows


def _row(checked: Checked, book: ModelBook, name: str, table: Mapping[str, Any]) -> Row:
    where = (name,)
    checked.only(table, where, _ROW_KEYS)
    auth = checked.string(table, "auth", where, "bearer")
    checked.one_of(auth, AUTH_SCHEMES, (name, "auth"), "auth scheme")
    quirks = _words(checked, table, "quirks", where, QUIRKS)
    abilities = _words(checked, table, "abilities", where, ABILITIES)
    tiers = _tiers(checked, book, table, where, {})
    endpoints = []
    listed = table.get("endpoints", [])
    if not isinstance(listed, list):
        checked.say((name, "endpoints"), "must be a list of tables")
        listed = []
    for n, entry in enumerate(listed):
        at = (name, "endpoints", str(n))
        if not isinstance(entry, dict):
            checked.say(at, "must be a table")
            continue
        checked.only(entry, at, _ENDPOINT_KEYS)
        dialect = checked.string(entry, "dialect", at, "")
        checked.one_of(dialect, DIALECTS, (*at, "dialect"), "dialect")
        own_auth = checked.string(entry, "auth", at, auth)
        checked.one_of(own_auth, AUTH_SCHEMES, (*at, "auth"), "auth scheme")
        for key in ("base_url", "classic_url"):
            url = checked.string(entry, key, at, "")
            if url and not url.startswith(("https://", "http://127.0.0.1:")):
                checked.say((*at, key), "must be an https URL, or http on 127.0.0.1")
        endpoints.append(
            RowEndpoint(
                dialect=dialect,
                base_url=checked.string(entry, "base_url", at, ""),
                auth=own_auth,
                quirks=quirks | _words(checked, entry, "quirks", at, QUIRKS),
                abilities=abilities | _words(checked, entry, "abilities", at, ABILITIES),
                tiers=_tiers(checked, book, entry, at, tiers),
                classic_url=checked.string(entry, "classic_url", at, ""),
            )
        )
    constants = table.get("constants", {})
    if not isinstance(constants, dict):
        checked.say((name, "constants"), "must be a table")
        constants = {}
    forms = checked.string_map(table, "forms", where)
    for option, form in forms.items():
        try:
            re.compile(form)
        except re.error as error:
            checked.say((name, "forms", option), f"is not a regular expression: {error}")
    return Row(
        name=name,
        display=checked.string(table, "display", where, name),
        endpoints=tuple(endpoints),
        auth=auth,
        env=checked.strings(table, "env", where),
        auto=checked.flag(table, "auto", where, True),
        aliases=checked.strings(table, "aliases", where),
        headers=checked.string_map(table, "headers", where),
        options=checked.tables_of_strings(table, "options", where),
        forms=forms,
        known=checked.tables_of_strings(table, "known", where),
        constants=constants,
        docs=checked.string(table, "docs", where, ""),
        note=checked.string(table, "note", where, ""),
    )


def _words(
    checked: Checked, table: Mapping[str, Any], key: str, where: Where, known: Mapping[str, str]
) -> frozenset[str]:
    words = checked.strings(table, key, where)
    checked.all_of(words, known, (*where, key), {"quirks": "quirk", "abilities": "ability"}[key])
    return frozenset(words)


def _tiers(
    checked: Checked, book: ModelBook, table: Mapping[str, Any], where: Where, default: Mapping[str, str]
) -> Mapping[str, str]:
    if "tiers" not in table:
        return default
    tiers = checked.string_map(table, "tiers", where)
    for tier, model in tiers.items():
        at = (*where, "tiers", tier)
        checked.one_of(tier, (*TIERS, "default"), at, "tier")
        facts = book.find(model.replace("{geo}", "us"))
        if facts.known and "tools" not in facts.abilities:
            checked.say(
                at, f"{model} takes no tools, and a tier must", "map it to another model, or leave it out"
            )
    return tiers


@functools.cache
def bundled_rows() -> Mapping[str, Row]:
    """The rows ccm ships with, in file order: read once, on first use, and each made when it is asked for. A unit test
    has judged them all."""
    text, document = bundled_document("providers.toml")
    checked = Checked("providers.toml", text)
    return LateMap(document, lambda name, table: _row(checked, bundled(), name, table))


@functools.cache
def _aliases() -> Mapping[str, str]:
    _, document = bundled_document("providers.toml")
    return {alias: name for name, table in document.items() for alias in table.get("aliases", ())}


def find_row(name: str) -> Row | None:
    """The row of that name or alias (case does not matter), None when there is none."""
    rows = bundled_rows()
    wanted = name.lower()
    return rows.get(wanted if wanted in rows else _aliases().get(wanted, ""))
