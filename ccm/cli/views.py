"""The answers of the control room as pages for people: providers, metrics, requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli.overview import STATE_COLOURS, key_of, quota, reason
from ccm.cli.render import Cell, Screen, clock, count, cut, duration, money, percent, table
from ccm.observe.log import escape

ENDING_COLOURS = {"failed": "red", "broken": "red", "refused": "yellow", "complete": "green"}

_WIDE = 120

View = Mapping[str, Any]


def providers(rows: Sequence[View], on: Screen) -> str:
    """`ccmctl providers`: what is configured and how it does; `*` marks the primary."""
    if not rows:
        return "no provider is configured"
    shown: list[list[str | Cell]] = [
        [
            ("* " if row["primary"] else "  ") + str(row["name"]),
            Cell(str(row["state"]), STATE_COLOURS.get(str(row["state"]), "")),
            str(row["priority"]),
            str(row["weight"]),
            str(row["in_flight"]),
            count(int(row["requests"])),
            percent(row.get("success")),
            duration(row["first_content_p50_s"]),
            str(row["dialect"]),
            key_of(row, True),
            quota(row),
            reason(row),
        ]
        for row in rows
    ]
    head = [
        "  PROVIDER", "STATE", "PRIO", "WEIGHT", "NOW", "REQUESTS", "WELL", "FIRST", "DIALECT", "KEY", "QUOTA", "WHY",
    ]  # fmt: skip
    return table(head, shown, on, right=(2, 3, 4, 5, 6, 7))


def metrics(view: View, on: Screen) -> str:
    """`ccmctl metrics`: figures per model, how upstream calls ended, what was lost in translation."""
    parts = []
    models = [
        [
            str(row["provider"]),
            str(row["model"]),
            count(int(row["requests"])),
            duration(row["first_content_p50_s"]),
            duration(row["first_content_p95_s"]),
            duration(row["total_p50_s"]),
            duration(row["total_p95_s"]),
            count(int(row["input_tokens"])),
            count(int(row["cache_read_tokens"])),
            count(int(row["output_tokens"])),
            # of some requests no price may be known: then it is at least so much
            (f"${row['cost_usd']:.2f}" if row["cost_usd"] else "-")
            + ("+?" if row["unpriced_requests"] else ""),
        ]
        for row in view["models"]
    ]
    head = [
        "PROVIDER",
        "MODEL",
        "REQUESTS",
        "FIRST p50",
        "p95",
        "TOTAL p50",
        "p95",
        "IN",
        "CACHED",
        "OUT",
        "COST",
    ]
    parts.append(table(head, models, on, right=range(2, 11)))
    parts.append(_counted(view["attempts"], ("endpoint", "result"), "UPSTREAM CALLS", on))
    parts.append(_counted(view["retries"], ("endpoint",), "ASKED AGAIN", on))
    parts.append(_counted(view["failovers"], ("endpoint",), "LEFT FOR ANOTHER", on))
    ended = [row for row in view["requests"] if row["ending"] != "complete"]
    parts.append(_counted(ended, ("provider", "status", "ending"), "NOT COMPLETE", on))
    parts.append(_counted(view["losses"], ("provider", "feature"), "NOT TRANSLATED", on))
    total = f"{view['totals']['requests']} requests since the start"
    return "\n\n".join([total, *(part for part in parts if part)])


def _counted(rows: Sequence[View], names: Sequence[str], title: str, on: Screen) -> str:
    summed: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = tuple(str(row[name]) or "-" for name in names)
        summed[key] = summed.get(key, 0) + int(row["count"])
    head = [*(name.upper() for name in names), title]
    return table(head, [[*key, count(number)] for key, number in summed.items()], on, right=(len(names),))


def way(row: View) -> str:
    """`anthropic 529 > openai 200`: the attempts of a request."""
    return " > ".join(f"{attempt['endpoint']} {attempt['result']}" for attempt in row["attempts"]) or "-"


def requests(rows: Sequence[View], on: Screen) -> str:
    """`ccmctl requests`: the last finished requests, youngest first, with the way each one took."""
    if not rows:
        return "no request has finished yet"
    narrow = on.width is not None and on.width < _WIDE
    shown: list[list[str | Cell]] = []
    for row in rows:
        ending = str(row["ending"])
        state = Cell(ending, ENDING_COLOURS.get(ending, ""))
        asked = str(row["asked_model"])
        tokens = [count(_input(row)), count(int(row["output_tokens"]))]
        if narrow:
            shown.append([clock(row["at"]), state, asked, way(row), duration(row["total_s"]), *tokens])
            continue
        times = [duration(row["first_content_s"]), duration(row["total_s"])]
        rest = [money(row.get("cost_usd")), str(row["model"]), str(row.get("id", "")), str(row["error"])]
        shown.append([clock(row["at"]), str(row["status"]), state, asked, way(row), *times, *tokens, *rest])
    if narrow:
        head = ["AT", "ENDING", "ASKED", "WAY", "TOTAL", "IN", "OUT"]
        return table(head, shown, on, right=(4, 5, 6))
    head = [
        "AT", "STATUS", "ENDING", "ASKED", "WAY", "FIRST", "TOTAL", "IN", "OUT", "COST", "MODEL", "ID", "ERROR",
    ]  # fmt: skip
    return table(head, shown, on, right=(5, 6, 7, 8, 9))


def request_line(row: View, on: Screen) -> str:
    """One finished request in one line of its own: what `requests -f` writes."""
    ending = str(row["ending"])
    parts = [
        f"{clock(row['at'])} {row['status']} {ending}",
        f"{row['asked_model'] or row['surface']}: {way(row)}",
        f"{duration(row['first_content_s'])}/{duration(row['total_s'])}",
        f"{count(_input(row))}+{count(int(row['output_tokens']))} tokens",
    ]
    if row.get("cost_usd") is not None:
        parts.append(money(row["cost_usd"]))
    parts.append(str(row["id"]))
    if row["error"]:
        parts.append(str(row["error"]))
    line = escape("  ".join(parts))
    if on.width is not None:
        line = cut(line, on.width)
    colour = ENDING_COLOURS.get(ending, "")
    return line.replace(ending, on.paint(ending, colour), 1) if colour else line


def _input(row: View) -> int:
    return int(row["input_tokens"]) + int(row["cache_read_tokens"]) + int(row["cache_write_tokens"])
