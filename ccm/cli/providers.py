"""`ccm providers`: the catalogue as a table, and one provider in full with a snippet for the configuration.

It says where a key was found, never the key. Light: nothing here may pull in the HTTP libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.catalog.rows import ABILITIES, QUIRKS, Row, bundled_rows, find_row
from ccm.cli import listing, render
from ccm.cli.arguments import EXIT_CODES, OK, USAGE, did_you_mean
from ccm.config import load, schema
from ccm.config.options import fill
from ccm.config.providers import Surroundings, default_key
from ccm.errors import ConfigError
from ccm.model import TIERS, KeySource, Provider, Snapshot
from ccm.observe.log import escape

_DESCRIPTION = """Lists the providers that ccm knows: the API they speak, where their key was found (never the key), the
model each tier of Claude becomes, and what they can do. With a NAME: everything about it, and a snippet that is ready
for the configuration. Asks no provider anything."""
_EPILOG = """examples:
  ccm providers
  ccm providers deepseek        in full, with a snippet for ccm-config.toml

"""
# What a snippet says where only the user can know.
_EXAMPLES = {"project": "my-project", "resource": "my-resource"}
_WIDE = 150  # columns of a terminal on which the whole table can be read
_NOT_THERE = ("is set", "is not set", "no application default credentials")  # not: there, but unusable
_CUSTOM = 'dialect = "openai_chat"              # {dialects}\nbase_url = "https://llm.example.com/v1"\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `ccm providers` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG + EXIT_CODES
    parser.add_argument("name", metavar="NAME", nargs="?", help="one provider in full")
    listing.add_arguments(
        parser, "the configuration that says which are in use (default: where ccm start finds it)"
    )


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Lists; returns the exit code."""
    try:
        snapshot, book = listing.configured(args.config, env)
    except ConfigError as error:
        print(escape(str(error)), file=sys.stderr)
        return USAGE
    view = _View(snapshot, book, env)
    if not args.name:
        return _all(view, args.json)
    row = _find(args.name, snapshot)
    if row is None:
        names = [*bundled_rows(), *(snapshot.providers if snapshot else ())]
        print(
            f"ccm: {args.name!r} is no provider of the catalogue{did_you_mean(args.name, names)}; "
            'type = "custom" takes any endpoint (`ccm providers custom`)',
            file=sys.stderr,
        )
        return USAGE
    if args.json:
        print(json.dumps(view.report(row), indent=2, ensure_ascii=False))
    else:
        print(_full(row, view, render.screen()))
    return OK


def _find(name: str, snapshot: Snapshot | None) -> Row | None:
    row = find_row(name)
    if row is None and snapshot is not None and name in snapshot.providers:
        return find_row(snapshot.providers[name].type)
    return row


class _View:
    """The catalogue as one user sees it: with his keys and his configuration."""

    def __init__(self, snapshot: Snapshot | None, book: ModelBook, env: Mapping[str, str]) -> None:
        self.book = book
        token = snapshot.auth_token if snapshot else schema.DEFAULT_TOKEN
        self._around = Surroundings(env, Path.cwd(), load.home_of(env), token, "", book)
        self._usable = {e.provider.name for e in snapshot.endpoints} if snapshot else set()
        self._providers = list(snapshot.providers.values()) if snapshot else []
        self.from_file = bool(snapshot and snapshot.path)

    def configured(self, row: Row) -> list[Provider]:
        """The user's providers of this type."""
        return [p for p in self._providers if p.type == row.name]

    def keys(self, row: Row) -> list[KeySource]:
        """Where keys are, as configured, else where ccm would look by itself."""
        mine = [key for provider in self.configured(row) for key in provider.keys]
        if mine:
            return mine
        endpoint = row.endpoints[0]
        return [default_key(row, endpoint, endpoint.auth, self._around)]

    def state(self, provider: Provider) -> str:
        """ready, off, or no key."""
        if not provider.enabled:
            return "off"
        return "ready" if provider.name in self._usable else "no key"

    def report(self, row: Row) -> dict[str, Any]:
        """One provider for programs."""
        return {
            "name": row.name,
            "display": row.display,
            "aliases": list(row.aliases),
            "dialect": row.dialect or None,
            "keys": [_key_json(key) for key in self.keys(row)],
            "key_variables": list(row.env),
            "configured": [{"name": p.name, "state": self.state(p)} for p in self.configured(row)],
            "tiers": dict(row.tiers),
            "abilities": sorted(row.endpoints[0].abilities),
            "endpoints": [
                {
                    "dialect": e.dialect,
                    "base_url": e.base_url or None,
                    "auth": e.auth,
                    "quirks": sorted(e.quirks),
                    "abilities": sorted(e.abilities),
                    "tiers": dict(e.tiers),
                }
                for e in row.endpoints
            ],
            "headers": dict(row.headers),
            "options": {option: [s for s in v if s[:1] != "="] for option, v in row.options.items()},
            "docs": row.docs or None,
            "note": row.note or None,
            "snippet": snippet(row),
        }


def _key_json(key: KeySource) -> dict[str, Any]:
    found = None if key.kind == "command" else not key.problem
    return {"kind": key.kind, "place": key.name or None, "found": found, "problem": key.problem or None}


def _all(view: _View, as_json: bool) -> int:
    rows = list(bundled_rows().values())
    if as_json:
        print(json.dumps({"providers": [view.report(row) for row in rows]}, indent=2, ensure_ascii=False))
        return OK
    on = render.screen()
    narrow = on.width is not None and on.width < _WIDE  # then what matters most keeps its letters
    tiers = TIERS[:3] if narrow else TIERS
    in_use = any(view.configured(row) for row in rows)
    head = ["PROVIDER", "DIALECT", "KEY", *(["IN USE"] if in_use else []), *(tier.upper() for tier in tiers)]
    head += [] if narrow else ["ABILITIES"]
    cells: list[list[str | render.Cell]] = []
    for row in rows:
        line: list[str | render.Cell] = [row.name, row.dialect or "any", _key_cell(view.keys(row))]
        line += [_use_cell(view, row)] if in_use else []
        line += [fill(row.tiers.get(tier, "-"), {}) for tier in tiers]
        line += [] if narrow else [", ".join(_plain(row.endpoints[0].abilities))]
        cells.append(line)
    print(render.table(head, cells, on))
    print(
        f"\n{len(rows)} providers; - is a tier that the configuration has to map, or that cannot be served."
        "\nnext: `ccm providers NAME` shows one in full, with a snippet for the configuration"
    )
    return OK


def _plain(abilities: frozenset[str]) -> list[str]:
    return sorted(ability for ability in abilities if not ability.startswith("web_search_"))


def _key_cell(keys: Sequence[KeySource]) -> render.Cell:
    """Where the first usable key is; what to set where there is none."""
    for key in keys:
        if key.kind == "command":
            return render.Cell(f"command {key.name}", "green")
        if not key.problem:
            place = {"file": f"file {key.name}", "none": key.name or "none needed"}.get(key.kind, key.name)
            return render.Cell(place, "green" if key.name else "dim")
    key = keys[0]
    held = not any(words in key.problem for words in _NOT_THERE)
    return render.Cell(key.problem if held else f"not set: {key.name}", "yellow" if held else "dim")


def _use_cell(view: _View, row: Row) -> render.Cell:
    mine = view.configured(row)
    if not mine:
        return render.Cell("")
    states = {view.state(provider) for provider in mine}
    colour = "green" if states == {"ready"} else "dim" if states == {"off"} else "yellow"
    shown = [view.state(p) if p.name == row.name else f"{view.state(p)} as {p.name}" for p in mine]
    return render.Cell(", ".join(shown), colour)


def _full(row: Row, view: _View, on: render.Screen) -> str:
    names = ", ".join((row.name, *row.aliases))
    facts = [("provider", f"{row.display} ({names})")]
    for key in view.keys(row):
        facts.append(("key", _key_line(key)))
    for provider in view.configured(row):
        facts.append(("in use", f"as {provider.name}, {view.state(provider)}, at {provider.base_url}"))
    for option, sources in row.options.items():
        default = next((f"; {s[1:]} where nothing says" for s in sources if s.startswith("=")), "")
        variables = " or ".join(s for s in sources if not s.startswith("="))
        facts.append((option, f'{option} = "..." in the configuration, or {variables}{default}'))
    for name, value in row.headers.items():
        facts.append(("header", f"{name}: {value}"))
    if row.docs:
        facts.append(("docs", row.docs))
    if row.note:
        facts.append(("note", row.note))
    parts = ["\n".join(f"{on.paint(name.ljust(9), 'dim')} {escape(value)}" for name, value in facts)]
    parts.append(
        render.table(
            ["DIALECT", "ADDRESS", "KEY SENT AS", "ABILITIES"],
            [
                [
                    e.dialect + (" (preferred)" if n == 0 and row.dialect and len(row.endpoints) > 1 else ""),
                    e.base_url or "base_url",
                    e.auth,
                    ", ".join(_plain(e.abilities)),
                ]
                for n, e in enumerate(row.endpoints)
            ],
            on,
        )
    )
    words = sorted({w for e in row.endpoints for w in e.quirks})
    if words:
        parts.append("\n".join(f"quirk {word}: {QUIRKS[word]}" for word in words))
    parts.append(_tiers(row, view.book, on))
    lacks = sorted({"tools", "images", "documents"} - row.endpoints[0].abilities)
    if lacks:
        parts.append("not taken: " + ", ".join(ABILITIES[ability] for ability in lacks))
    parts.append(f"{on.paint('for the configuration:', 'dim')}\n\n{snippet(row)}".rstrip())
    if view.from_file and view.configured(row):
        parts.append(f"next: `ccm test {view.configured(row)[0].name}` asks it one small question")
    else:
        parts.append("next: put it into ~/config/ccm-config.toml, then `ccm check`")
    return "\n\n".join(part for part in parts if part)


def _key_line(key: KeySource) -> str:
    if key.kind == "command":
        return f"printed by the command {key.name}"
    if key.problem:
        return f"missing: {key.problem}"
    if key.kind == "none":
        return f"found: {key.name}" if key.name else "none needed"
    return f"found in {'file' if key.kind == 'file' else 'environment variable'} {key.name}"


def _tiers(row: Row, book: ModelBook, on: render.Screen) -> str:
    if not row.tiers:
        return "No tier of Claude is mapped; see the note."
    rows = []
    for tier in (*TIERS, "default"):
        model = fill(row.tiers.get(tier, ""), {})
        facts = book.find(model, row.name)
        window = listing.tokens(facts.window) if facts.known else "?"
        price = facts.price
        rows.append([tier, model, window, listing.amount(price.input), listing.amount(price.output)])
    return render.table(["TIER", "MODEL", "WINDOW", "USD/M IN", "OUT"], rows, on, right=(2, 3, 4))


def snippet(row: Row) -> str:
    """A [providers.NAME] table that is right as it stands, but for what only the user can know."""
    name = "my-server" if row.name == "custom" else row.name
    lines = [f"[providers.{name}]"]
    if row.name == "custom":
        lines.append('type = "custom"')
        lines += _CUSTOM.format(dialects=", ".join(e.dialect for e in row.endpoints)).splitlines()
        lines.append(
            '# api_key_env = "MY_SERVER_KEY"      # or api_key_file, api_key_command; none: no key is sent'
        )
    elif row.env and row.auth != "none":
        pad = " " * max(1, 20 - len(row.env[0]))
        lines.append(f'api_key_env = "{row.env[0]}"{pad}# or api_key_file, api_key_command')
    elif row.env:
        lines.append(f'# api_key_env = "{row.env[0]}"      # only where it asks for a key')
    for option in row.options:
        example = _EXAMPLES.get(option) or (row.known.get(option) or ("",))[0]
        lines.append(f'{option} = "{example}"')
    lines.append("priority = 1")
    others = [e.dialect for e in row.endpoints[1:]]
    if row.dialect and others:
        lines.append(f'# dialect = "{others[0]}"   # instead of {row.dialect}; there is {", ".join(others)}')
    if not row.tiers and "tools" in row.endpoints[0].abilities:
        lines += [
            "",
            f"[providers.{name}.models]",
            'default = "the-model"                # or opus, sonnet, haiku and fable',
        ]
    return "\n".join(lines) + "\n"
