"""`ccm models`: what the catalogue knows of models: windows, output caps, how they think, list prices.

A name that is not listed is looked up as a request would look it up, and what is only assumed is said to be. Light:
nothing here may pull in the HTTP libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from ccm.catalog.models import ModelBook, nearest
from ccm.catalog.rows import find_row
from ccm.cli import listing, render
from ccm.cli.arguments import EXIT_CODES, FAILED, OK, USAGE
from ccm.errors import ConfigError
from ccm.model import ModelFacts
from ccm.observe.log import escape

_DESCRIPTION = """Lists the models of the catalogue with context window, output cap, form of thinking and list prices in USD
per million tokens. A PATTERN is a part of a name, a glob ("gpt-5*"), or any model's whole name, also as
PROVIDER/MODEL: then it says what ccm takes for granted about it."""
_EPILOG = """examples:
  ccm models claude                      all with "claude" in their name
  ccm models "gpt-5*"                    a glob
  ccm models groq/openai/gpt-oss-120b    as Groq sells it
  ccm models my-own-model                what ccm assumes of a model it does not know

"""
_NAMES = {"": "none", "always": "always on"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `ccm models` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG + EXIT_CODES
    parser.add_argument(
        "pattern", metavar="PATTERN", nargs="?", default="", help="which models (default: all)"
    )
    listing.add_arguments(parser, "a configuration whose [catalog] models_file is to be read too")


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Lists; returns the exit code: 1 where a glob matches nothing."""
    try:
        _, book = listing.configured(args.config, env, by_environment=False)
    except ConfigError as error:
        print(escape(str(error)), file=sys.stderr)
        return USAGE
    found = _matching(book, args.pattern)
    assumed = ""
    if not found:
        if any(mark in args.pattern for mark in "*?["):
            print(f"ccm: no model matches {args.pattern!r} (`ccm models` lists all)", file=sys.stderr)
            return FAILED
        facts = _look_up(book, args.pattern)
        found = [(args.pattern, facts, False)]
        assumed = _assumed(book, args.pattern, facts)
    if args.json:
        rows = [report(name, facts, prefix) for name, facts, prefix in found]
        print(json.dumps({"models": rows, "note": assumed or None}, indent=2, ensure_ascii=False))
        return OK
    on = render.screen()
    print(_table(found, on))
    if assumed:
        print(f"\n{on.paint('note', 'yellow')} {escape(assumed)}")
    else:
        print(
            "\nUSD per million tokens; - is an unknown price, not a free one; > marks prices that rise with the input.\n"
            'next: map one with [providers.NAME.models] opus = "MODEL"; `ccm providers` lists who sells them'
        )
    return OK


def report(name: str, facts: ModelFacts, prefix: bool) -> dict[str, Any]:
    """One model for programs. `family`: it stands for every name that starts so."""
    return {
        "name": name,
        "family": prefix,
        "known": facts.known,
        "window": facts.window,
        "output_cap": facts.output_cap,
        "thinking": facts.thinking,
        "efforts": list(facts.efforts),
        "abilities": sorted(facts.abilities),
        "price": listing.price_json(facts.price),
    }


def _matching(book: ModelBook, pattern: str) -> list[tuple[str, ModelFacts, bool]]:
    wanted = pattern.lower()
    if any(mark in wanted for mark in "*?["):
        return [entry for entry in book.all() if fnmatchcase(entry[0], wanted)]
    return [entry for entry in book.all() if wanted in entry[0]]


def _look_up(book: ModelBook, name: str) -> ModelFacts:
    """As a request for it would; a provider in front says who sells it."""
    head, slash, rest = name.partition("/")
    row = find_row(head) if slash and rest else None
    return book.find(rest, row.name) if row is not None else book.find(name)


def _assumed(book: ModelBook, name: str, facts: ModelFacts) -> str:
    if facts.known and facts.price.input is not None:
        return f"{name} is not listed by this name; it is a spelling of a model that is"
    if facts.known:
        return f"{name} is not listed by this name: its family's window and thinking are taken, its price is unknown"
    near = nearest(name, book.names())
    hint = f" (did you mean {near}?)" if near else ""
    return (
        f"{name} is not in the catalogue{hint}: cautious defaults are taken, and its price is unknown. "
        "[catalog] models_file in the configuration can tell more."
    )


def _table(entries: list[tuple[str, ModelFacts, bool]], on: render.Screen) -> str:
    head = ["MODEL", "WINDOW", "OUTPUT", "THINKING", "IN", "OUT", "CACHE READ", "WRITE", "ABILITIES"]
    rows: list[list[str | render.Cell]] = []
    for name, facts, prefix in entries:
        price = facts.price
        more = ">" if price.above else ""
        rows.append(
            [
                f"{name}*" if prefix else name,
                listing.tokens(facts.window),
                listing.tokens(facts.output_cap),
                _thinking(facts),
                listing.amount(price.input) + more,
                listing.amount(price.output) + more,
                listing.amount(price.cache_read),
                listing.amount(price.cache_write_5m),
                ", ".join(sorted(facts.abilities)) or render.Cell("no tools", "yellow"),
            ]
        )
    return render.table(head, rows, on, right=(1, 2, 4, 5, 6, 7))


def _thinking(facts: ModelFacts) -> str:
    name = _NAMES.get(facts.thinking, facts.thinking)
    if not facts.known:
        return "unknown"
    return f"{name} {facts.efforts[0]}..{facts.efforts[-1]}" if facts.efforts else name
