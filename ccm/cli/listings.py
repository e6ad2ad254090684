"""`ccmctl models` and `ccmctl config` as pages for people. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli.render import Cell, Screen, count, table
from ccm.observe.log import escape

View = Mapping[str, Any]


def models(view: View, on: Screen) -> str:
    """Where every name goes now, the [models] table, and what each provider has, with windows and prices."""
    parts = [_names(view["names"], on)]
    if view["map"]:
        rows = [[row["name"], _target(row["to"])] for row in view["map"]]
        parts.append(table(["[models]", "GOES TO"], rows, on))
    shown: list[list[str | Cell]] = [
        [provider["name"], row["name"], row["model"], row["from"], *_facts(row)]
        for provider in view["providers"]
        if provider["enabled"]
        for row in provider["models"]
    ]
    head = ["PROVIDER", "NAME", "MODEL", "FROM", "WINDOW", "IN", "OUT", "CACHED"]
    parts.append(table(head, shown, on, right=(4, 5, 6, 7)))
    parts.append("prices in USD per million tokens, - where they are not known")
    return "\n\n".join(part for part in parts if part)


def _names(rows: Sequence[View], on: Screen) -> str:
    shown: list[list[str | Cell]] = []
    for row in rows:
        to = Cell(str(row["goes_to"]), "green") if row["goes_to"] else Cell("nowhere", "red")
        then = ", ".join(row.get("then") or ()) if row["goes_to"] else str(row["why"])
        shown.append([str(row["name"]), to, then])
    return table(["NAME", "GOES TO NOW", "THEN"], shown, on)


def _target(to: Any) -> str:
    return (
        ", ".join(f"{provider}/{model}" for provider, model in to.items())
        if isinstance(to, dict)
        else str(to)
    )


def _facts(row: View) -> list[str | Cell]:
    if not row["known"]:
        return ["?", "-", "-", "-"]
    prices = row["prices_usd"]
    return [
        count(int(row["window_tokens"])),
        *(_price(prices[name]) for name in ("input", "output", "cache_read")),
    ]


def _price(usd: float | None) -> str:
    return "-" if usd is None else f"{usd:.4g}"


def config(view: View, on: Screen) -> str:
    """The configuration in use in TOML's form; behind every value where it comes from. Defaults are dim."""
    head = f"# configuration {view['generation']}: {view['path'] or 'made of the environment'}"
    lines = [on.paint(head, "bold")]
    if view["changed"]:
        lines.append("# the file cannot be read as a configuration now; these values are the ones in use")
    before = None
    for row in view["values"]:
        if row["table"] != before:
            before = row["table"]
            lines += ["", f"[{escape(before)}]"]
        note = f", {row['note']}" if row.get("note") else ""
        text = f"{escape(row['name'])} = {escape(_toml(row['value']))}"
        source = f"  # {escape(str(row['from']) + note)}"
        lines.append(on.paint(text + source, "dim") if row["default"] else text + on.paint(source, "dim"))
    for rule in view["rules"]:
        lines += ["", "[[rules]]", f"name = {_toml(rule['name'])}"]
        lines += [f"{part} = {escape(_toml(rule[part]))}" for part in ("when", "use") if rule[part]]
    lines += [f"# warning: {escape(text)}" for text in view["warnings"]]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return '""'
    return json.dumps(value, ensure_ascii=False)
