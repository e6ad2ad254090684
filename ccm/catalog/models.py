"""What is known of models: windows, output caps, prices, how they think. Facts stand in models.toml, never here.

`ModelBook.find` never fails: an unknown name gets cautious defaults and `known = False`. A price is told only where
the seller is the model's own vendor (or resells at its list price): an unknown price is None, never a guess.
The bundled book is parsed on first use and kept; a user's file (`[catalog] models_file`) goes on top, same format.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ccm.catalog.checks import Checked, bundled_document, parse
from ccm.errors import ConfigError
from ccm.late import LateMap, regex
from ccm.model import ModelFacts, Price, Problem
from ccm.shape import dataclass, replace

THINKING_FORMS = ("", "adaptive", "budget", "effort", "level", "always")
ABILITIES = frozenset({"tools", "images", "documents"})
_PRICE_KEYS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "web_search")
# Seller types that stand for "whoever it is": list prices are the best figure there is.
_ANY_SELLER = frozenset({"", "custom", "litellm", "demo"})

_VENDOR_PREFIX = regex(
    r"^(?:arn:[^/]*/|accounts/[^/]+/(?:models|routers)/|models/|publishers/[^/]+/models/|projects/.*/models/)"
)
_REGION_PREFIX = regex(r"^(?:us-gov|us|eu|apac|ap|au|ca|jp|global)\.(?=[a-z0-9-]+\.)")
_DOTTED_VENDOR = regex(
    r"^(?:anthropic|amazon|meta|mistral|openai|deepseek|qwen|zai|moonshot|moonshotai|minimax|google|cohere|ai21|writer|nvidia)\."
)
_BRACKET = regex(r"\[[^\]]*\]$")
_TAIL = regex(
    r"(?:-v\d+:\d+|-\d+:\d+"  # Bedrock's -v1:0, -1:0
    r"|-20\d{6}|-20\d\d-\d\d-\d\d|-\d\d-20\d\d|@[\w.-]+|:[a-z][\w.-]*"  # dates, Vertex' @date, OpenRouter's :free
    r"|-latest|-1m)$"
)
_CLAUDE_DOTS = regex(r"(?<=\d)\.(?=\d)")
_CLAUDE_SWAPPED = regex(r"^claude-(\d+(?:-\d+)?)-(opus|sonnet|haiku)$")


@dataclass(frozen=True, slots=True)
class _Entry:
    facts: ModelFacts
    sold_by: frozenset[str]
    prefix: bool  # stands for every name that starts so


def bare_name(name: str) -> str:
    """The name without what gateways, clouds and clients put around it: vendor paths, dates, `[1m]`, `:free`, `@date`.

    Claude's version dots become dashes (`claude-sonnet-4.5`). Never empty for a name that is not.
    """
    text = name.strip().lower()
    text = _BRACKET.sub("", text) or text
    text = _VENDOR_PREFIX.sub("", text) or text
    text = text.rpartition("/")[2] or text
    text = _REGION_PREFIX.sub("", text)
    text = _DOTTED_VENDOR.sub("", text) or text
    text = text.lstrip("~")
    while (shorter := _TAIL.sub("", text)) != text and shorter:
        text = shorter
    if text.startswith("claude"):
        text = _CLAUDE_DOTS.sub("-", text)
        if match := _CLAUDE_SWAPPED.match(text):
            major = match[1]
            if (
                major[0] >= "4"
            ):  # "claude-4.5-sonnet", as some gateways write it; Claude 3 was really named so
                text = f"claude-{match[2]}-{major}"
    return text


class ModelBook:
    """Facts by model name. Immutable once made; look-ups are cached, safe from any thread."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = entries
        self._prefixes = sorted(self._entries, key=len, reverse=True)
        self._found: dict[tuple[str, str], ModelFacts] = {}

    def find(self, name: str, provider_type: str = "") -> ModelFacts:
        """What is known of `name` as sold by `provider_type` (a catalogue type); `.name` is the name asked for.

        Exact names first ("groq/openai/gpt-oss-120b" for a seller's own price), then without decorations, then the
        longest known beginning: a variant has its family's window and form of thinking, but no price.
        """
        key = (name, provider_type)
        found = self._found.get(key)
        if found is None:
            found = self._look_up(name, provider_type)
            if len(self._found) < 4096:  # names come from clients: the cache must not grow without end
                self._found[key] = found
        return found

    def names(self) -> tuple[str, ...]:
        """Every full model name the book holds (no families, no sellers' own entries), in file order."""
        return tuple(name for name, entry in self._entries.items() if not entry.prefix and "/" not in name)

    def all(self) -> Iterator[tuple[str, ModelFacts, bool]]:
        """(name, facts, whether it stands for every name that starts so) of each entry, in file order."""
        for name, entry in self._entries.items():
            yield name, replace(entry.facts, name=name), entry.prefix

    def with_entries(self, entries: Mapping[str, _Entry]) -> ModelBook:
        """A book where `entries` stand before this one's of the same name."""
        return ModelBook({**self._entries, **entries})

    def _look_up(self, name: str, seller: str) -> ModelFacts:
        lower, bare = name.strip().lower(), bare_name(name)
        exact = (f"{seller}/{lower}", f"{seller}/{bare}", lower, bare) if seller else (lower, bare)
        for candidate in exact:
            entry = self._entries.get(candidate)
            if entry is not None and not entry.prefix:
                own = bool(seller) and candidate.startswith(f"{seller}/")
                sold = own or seller in _ANY_SELLER or seller in entry.sold_by
                if lower.endswith(":free"):
                    sold = False  # a free variant has its model's facts, not its price
                return replace(entry.facts, name=name, price=entry.facts.price if sold else Price())
        for start in self._prefixes:
            if bare.startswith(start) and (self._entries[start].prefix or bare[len(start)] in "-:@[_"):
                return replace(self._entries[start].facts, name=name, price=Price())
        return ModelFacts(name=name)


def load_models(text: str, file: str = "models.toml") -> dict[str, _Entry]:
    """The entries of a models file. Raises ConfigError with every unknown key, wrong type and value out of range."""
    checked = Checked(file, text)
    entries = dict(_entries(checked, parse(text, file)))
    checked.raise_all()
    return entries


def _entries(checked: Checked, document: dict[str, Any]) -> Mapping[str, _Entry]:
    """The entries, each made and checked when it is asked for; what stands around them is checked at once."""
    vendors: dict[str, frozenset[str]] = {}
    for vendor, table in checked.tables(document.pop("vendors", {}), ("vendors",)):
        checked.only(table, ("vendors", vendor), ("sold_by",))
        vendors[vendor] = frozenset(checked.strings(table, "sold_by", ("vendors", vendor)))
    tables = {
        name.lower(): (name, table) for name, table in checked.tables(document.pop("models", {}), ("models",))
    }
    checked.only(document, (), ("vendors", "models"))
    return LateMap(tables, lambda _, written: _entry(checked, vendors, *written))


_KEYS = (
    "vendor",
    "prefix",
    "window",
    "output_cap",
    "thinking",
    "efforts",
    "abilities",
    "above",
    *_PRICE_KEYS,
)


def _entry(
    checked: Checked, vendors: Mapping[str, frozenset[str]], name: str, table: Mapping[str, Any]
) -> _Entry:
    where = ("models", name)
    checked.only(table, where, _KEYS)
    vendor = checked.string(table, "vendor", where, "")
    thinking = checked.string(table, "thinking", where, "")
    checked.one_of(thinking, THINKING_FORMS, (*where, "thinking"), "form of thinking")
    abilities = checked.strings(table, "abilities", where, ("tools",))
    checked.all_of(abilities, ABILITIES, (*where, "abilities"), "ability")
    prices = {key: checked.amount(table, key, where) for key in _PRICE_KEYS}
    facts = ModelFacts(
        name=name,
        known=True,
        window=checked.count(table, "window", where, 200_000) or 200_000,
        output_cap=checked.count(table, "output_cap", where, None),
        price=Price(**prices, above=_above(checked, table, where)),
        thinking=thinking,
        efforts=checked.strings(table, "efforts", where),
        abilities=frozenset(abilities),
    )
    # Without a vendor the price holds for whoever sells it: how a user writes down what his own gateway charges.
    sold_by = vendors.get(vendor, frozenset({vendor})) if vendor else _Everyone()
    return _Entry(facts, sold_by, bool(checked.flag(table, "prefix", where)))


class _Everyone(frozenset[str]):
    """A set that holds every seller."""

    def __contains__(self, _item: object) -> bool:
        return True


def _above(
    checked: Checked, table: Mapping[str, Any], where: tuple[str, ...]
) -> tuple[tuple[int, float | None, float | None], ...]:
    steps: list[tuple[int, float | None, float | None]] = []
    rows = table.get("above", [])
    for row in rows if isinstance(rows, list) else [rows]:
        if (
            isinstance(row, list)
            and len(row) == 3
            and isinstance(row[0], int)
            and all(isinstance(x, (int, float)) and not isinstance(x, bool) and x >= 0 for x in row)
        ):
            steps.append((row[0], float(row[1]), float(row[2])))
        else:
            checked.say(
                (*where, "above"),
                "each step is [tokens, input price, output price]",
                "for example [[272000, 8.0, 30.0]]",
            )
    return tuple(sorted(steps, key=lambda step: step[0]))


@functools.cache
def bundled() -> ModelBook:
    """The book that ccm ships with: read once, on first use. A unit test has judged it."""
    text, document = bundled_document("models.toml")
    return ModelBook(_entries(Checked("models.toml", text), document))


def load_book(extra: str | Path = "") -> ModelBook:
    """The bundled book with the user's file on top, "" for none. Raises ConfigError, also for an unreadable file."""
    if not extra:
        return bundled()
    path = Path(extra)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError([Problem(path.name, None, "", f"can't be read: {reason}")]) from None
    return bundled().with_entries(load_models(text, path.name))


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name most like `name`, "" when none is near."""
    found = difflib.get_close_matches(bare_name(name), list(names), 1, 0.75)
    return found[0] if found else ""
