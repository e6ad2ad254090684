"""Names: which model a provider is asked for when a client names one. Pure; the user's tables first, data over guesses.

Decisions, in one place:
- "provider/model" and "provider,model" pin a provider only when the prefix is the name of a configured provider, and
  the whole name is not itself a key of [models]. With a provider named openai, "openai/gpt-5" means that provider; to
  reach OpenRouter's model of that name write "openrouter/openai/gpt-5" or "openrouter,openai/gpt-5". Without one, the
  name stays whole and OpenRouter gets what it expects.
- Every Claude name and alias resolves at every provider that has any tier at all (R27).
- Another vendor's name goes out unchanged. Where one candidate speaks that vendor's names and another does not, the
  other stands in with its default model, after all that do (`speaks`, `stand_in`): a failover beats a 404.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

from ccm.late import regex
from ccm.model import EMPTY, TIERS, Provider

Entry = TypeVar("Entry")

_ONE_MILLION = regex(r"\[1m\]$", re.IGNORECASE)
# as Anthropic itself spells its models; other platforms have dots, dates with @, prefixes
_ANTHROPIC_NAME = regex(r"claude-[a-z0-9-]+$")
_DOTTED = regex(r"\d\.\d")
_WORD = regex(r"[a-z]+")

# Claude Code's aliases -> tier ("" = whatever the default is). `opusplan` plans with opus.
ALIASES: Mapping[str, str] = {
    "opus": "opus",
    "opusplan": "opus",
    "best": "opus",
    "sonnet": "sonnet",
    "haiku": "haiku",
    "fable": "fable",
    "default": "",
    "inherit": "",
}
_OLD_FAMILIES = {"instant": "haiku"}  # claude-instant-1.2
# Where a provider names no model for a tier and no default: the nearest that it does name.
_NEAREST = ("sonnet", "opus", "haiku", "fable")


def plain(name: str) -> str:
    """The name without the client's window suffix: "claude-sonnet-5[1m]" -> "claude-sonnet-5"."""
    return _ONE_MILLION.sub("", name.strip())


def split_model(name: str, providers: Collection[str] = (), listed: Collection[str] = ()) -> tuple[str, str]:
    """The provider a name pins ("" for none) and the model, without "[1m]".

    `providers` are the configured providers' names, `listed` the keys of [models]: a name found there is never split.
    """
    name = plain(name)
    if name in listed:
        return "", name
    for mark in (",", "/"):
        head, found, rest = name.partition(mark)
        if found and rest.strip() and head.strip() in providers:
            return head.strip(), rest.strip()
    return "", name


def is_claude(model: str) -> bool:
    """Whether the name is one of Claude's, in any spelling of any platform, or an alias of Claude Code."""
    lower = plain(model).lower()
    return "claude" in lower or lower in ALIASES


@lru_cache(maxsize=512)
def tier_of(model: str) -> str:
    """The tier of a Claude name: "opus", "sonnet", "haiku", "fable"; "" where it names none or is not Claude's.

    Old and new order of words, platform prefixes and dates do not matter: claude-3-5-sonnet-20241022,
    claude-opus-5-5, us.anthropic.claude-haiku-4-5-20251001-v1:0, claude-opus-4@20250514, anthropic/claude-sonnet-4.5.
    """
    lower = plain(model).lower()
    alias = ALIASES.get(lower)
    if alias is not None:
        return alias
    at = lower.find("claude")
    if at < 0:
        return ""
    for match in _WORD.finditer(lower, at + len("claude")):
        word = str(match[0])
        if word in TIERS:
            return word
        if word in _OLD_FAMILIES:
            return _OLD_FAMILIES[word]
    return ""


def find_entry(asked: str, mapping: Mapping[str, Entry]) -> Entry | None:
    """The first entry of a table that matches, in file order: by exact name, by tier name, or by glob.

    Names are compared in lower case and without "[1m]". A trailing "-1m" of a Claude name is ignored as well (R26).
    """
    if not mapping:
        return None
    names = _spellings(asked)
    tier = tier_of(asked) if is_claude(asked) else ""
    for key, value in mapping.items():
        lower = plain(key).lower()
        if lower in names or (tier and lower == tier) or any(_matches(name, lower) for name in names):
            return value
    return None


def renamed(asked: str, mapping: Mapping[str, str | Mapping[str, str]]) -> str:
    """The name after the string entries of [models], which hold for all providers; itself where none matches."""
    entry = find_entry(asked, mapping)
    return entry if isinstance(entry, str) else asked


def restricted(asked: str, mapping: Mapping[str, str | Mapping[str, str]]) -> Mapping[str, str] | None:
    """The {provider: model} entry of [models] that matches, or None: only those providers are candidates then."""
    entry = find_entry(asked, mapping)
    return entry if isinstance(entry, Mapping) else None


def model_for(provider: Provider, asked: str, mapping: Mapping[str, str | Mapping[str, str]] = EMPTY) -> str:
    """The model this provider is asked for.

    In this order: the [models] entry; the provider's own `models` (exact name, then tier name, then globs in file
    order, then "default" for Claude names); the name itself where the provider speaks it; the catalogue's tier, its
    "default", its nearest tier; else the name unchanged.
    """
    entry = find_entry(asked, mapping)
    if isinstance(entry, Mapping):
        if provider.name in entry:
            return entry[provider.name]
    elif isinstance(entry, str):
        head, model = split_model(entry, (provider.name,))
        asked = model if head else plain(entry)
    asked = plain(asked)
    claude = is_claude(asked)
    tier = tier_of(asked) if claude else ""
    if provider.models:
        own = _own_model(provider.models, asked, tier, claude)
        if own is not None:
            return own
    tiers = provider.tiers
    if not claude:
        return asked
    if not tiers:
        # the user's own tables are all there is: a Claude name means nothing to another API, so any entry is better
        foreign = provider.models and provider.dialect != "anthropic"
        return (stand_in(provider) or next(iter(provider.models.values()))) if foreign else asked
    if asked in tiers.values() or _own_spelling(provider, asked):
        return asked
    return tiers.get(tier) or stand_in(provider) or asked


def stand_in(provider: Provider) -> str:
    """What a provider offers for a name that it does not speak: its default, else its nearest tier, else ""."""
    for table in (provider.models, provider.tiers):
        for key in ("default", *_NEAREST):
            if table.get(key):
                return table[key]
    return ""


def speaks(provider: Provider, model: str) -> bool:
    """Whether a name looks like one of this provider's, judged by the names of its own tables.

    "gpt-5.2" looks like "gpt-5-mini"; "vendor/model" names belong to providers that list such. A provider without
    any table (type "custom") speaks everything.
    """
    own = {*provider.models.values(), *provider.tiers.values()}
    if not own or model in own or model in provider.models:
        return True
    if find_entry(model, provider.models) is not None:
        return True
    if "/" in model:
        return any("/" in name for name in own)
    stem = _stem(model)
    return bool(stem) and any(_stem(name) == stem for name in own if "/" not in name)


def _own_spelling(provider: Provider, asked: str) -> bool:
    """Whether a Claude name is spelled as this provider spells them: plainly at Anthropic, with its vendor prefix at
    OpenRouter and Bedrock, with dotted versions elsewhere. Then the user means exactly that model."""
    if provider.type == "anthropic":
        return _ANTHROPIC_NAME.match(asked) is not None
    head = asked[: asked.lower().find("claude")] if "claude" in asked.lower() else ""
    for own in provider.tiers.values():
        at = own.find("claude")
        if at < 0:
            continue
        own_head = own[:at]
        if head and (head == own_head or (head.endswith("anthropic.") and own_head.endswith("anthropic."))):
            return True
        if not head and not own_head and _DOTTED.search(asked) and _DOTTED.search(own):
            return True
    return False


def _own_model(models: Mapping[str, str], asked: str, tier: str, claude: bool) -> str | None:
    names = _spellings(asked)
    lowered = {plain(key).lower(): value for key, value in models.items()}
    for name in (*names, tier):
        if name and name in lowered:
            return lowered[name]
    for key, value in lowered.items():
        if any(_matches(name, key) for name in names):
            return value
    return lowered.get("default") if claude else None


def _spellings(asked: str) -> tuple[str, ...]:
    lower = plain(asked).lower()
    if lower.startswith("claude") and lower.endswith("-1m"):
        return lower, lower[:-3]
    return (lower,)


def _matches(name: str, pattern: str) -> bool:
    return any(mark in pattern for mark in "*?[") and fnmatchcase(name, pattern)


def _stem(name: str) -> str:
    match = _WORD.match(name.lower())
    return match[0] if match else ""
