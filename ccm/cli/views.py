"""The answers of the control room as pages for people: status, providers, metrics, requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli.render import Cell, Screen, clock, count, cut, duration, table
from ccm.observe.log import escape

_STATE_COLOURS = {
    "ready": "green",
    "recovering": "yellow",
    "cooling": "yellow",
    "draining": "yellow",
    "open": "red",
    "key rejected": "red",
    "no key": "red",
    "disabled": "dim",
}
_HEALTH_COLOURS = {"ok": "green", "degraded": "red", "stopping": "yellow"}
_ENDING_COLOURS = {"failed": "red", "broken": "red", "refused": "yellow", "complete": "green"}
_LABEL = 11

View = Mapping[str, Any]


def status(view: View, on: Screen) -> str:
    """`ccmctl status`: what runs where, who is first, how the providers are, what went wrong lately."""
    health = str(view["health"])
    title = f"ccm {view['version']} on {view['address']}: "
    lines = [
        on.paint(title, "bold")
        + on.paint(health, _HEALTH_COLOURS.get(health, ""))
        + f", up {duration(view['uptime_s'])}"
    ]
    lines.append(_labelled("primary", _primary(view), on))
    source = view["config"] or ("the demo" if view.get("demo") else "the environment's keys")
    lines.append(_labelled("config", f"{source} (generation {view['generation']})", on))
    totals = view["totals"]
    endings = ", ".join(f"{number} {name or 'unknown'}" for name, number in totals["endings"].items())
    text = f"{totals['requests']}" + (f" ({endings})" if endings else "") + f", {view['in_flight']} in flight"
    lines.append(_labelled("requests", text, on))
    if totals["requests"]:
        lines.append(
            _labelled(
                "tokens",
                f"{count(totals['input_tokens'])} in, {count(totals['cache_read_tokens'])} from caches, "
                f"{count(totals['output_tokens'])} out",
                on,
            )
        )
    lines += ["", providers(view["providers"], on)]
    if view["failures"]:
        lines += ["", on.paint("last failures", "bold")]
        lines += [_within(f"  {clock(row['at'])}  {escape(row['text'])}", on) for row in view["failures"]]
    if view["warnings"]:
        lines += ["", on.paint("warnings", "bold")]
        lines += [f"  {escape(text)}" for text in view["warnings"]]
    return "\n".join(lines)


def _primary(view: View) -> str:
    strategy = f"strategy {view['strategy']}" + ("" if view.get("failover", True) else ", failover off")
    if not view["primary"]:
        return f"none chosen, {strategy}"
    left = view.get("primary_left_s")
    return (
        f"{view['primary']}"
        + (f" for another {duration(left)}" if left is not None else "")
        + f", then {strategy}"
    )


def _labelled(label: str, text: str, on: Screen) -> str:
    return on.paint(f"{label:<{_LABEL}}", "dim") + escape(text)


def _within(line: str, on: Screen) -> str:
    return line if on.width is None else cut(line, on.width)


def providers(rows: Sequence[View], on: Screen) -> str:
    """`ccmctl providers`: one line each; `*` marks the primary."""
    if not rows:
        return "no provider is configured"
    shown: list[list[str | Cell]] = []
    for row in rows:
        reason = str(row["reason"])
        if row["cooldown_s"]:
            reason = f"{reason}; again in {duration(row['cooldown_s'])}".lstrip("; ")
        shown.append(
            [
                ("* " if row["primary"] else "  ") + str(row["name"]),
                Cell(str(row["state"]), _STATE_COLOURS.get(str(row["state"]), "")),
                str(row["priority"]),
                str(row["weight"]),
                str(row["in_flight"]),
                count(int(row["requests"])),
                duration(row["first_content_p50_s"]),
                str(row["dialect"]),
                reason,
            ]
        )
    head = ["  PROVIDER", "STATE", "PRIO", "WEIGHT", "NOW", "REQUESTS", "FIRST", "DIALECT", "WHY"]
    return table(head, shown, on, right=(2, 3, 4, 5, 6))


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
        ]
        for row in view["models"]
    ]
    head = ["PROVIDER", "MODEL", "REQUESTS", "FIRST p50", "p95", "TOTAL p50", "p95", "IN", "CACHED", "OUT"]
    parts.append(table(head, models, on, right=range(2, 10)))
    parts.append(_counted(view["attempts"], ("endpoint", "result"), "UPSTREAM CALLS", on))
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


def requests(rows: Sequence[View], on: Screen) -> str:
    """`ccmctl requests`: the last finished requests, youngest first, with the way each one took."""
    if not rows:
        return "no request has finished yet"
    shown: list[list[str | Cell]] = [
        [
            clock(row["at"]),
            str(row["status"]),
            Cell(str(row["ending"]), _ENDING_COLOURS.get(str(row["ending"]), "")),
            str(row["asked_model"]),
            " > ".join(f"{attempt['endpoint']} {attempt['result']}" for attempt in row["attempts"]) or "-",
            str(row["model"]),
            duration(row["first_content_s"]),
            duration(row["total_s"]),
            count(int(row["input_tokens"]) + int(row["cache_read_tokens"]) + int(row["cache_write_tokens"])),
            count(int(row["output_tokens"])),
            str(row["error"]),
        ]
        for row in rows
    ]
    head = ["AT", "STATUS", "ENDING", "ASKED", "WAY", "MODEL", "FIRST", "TOTAL", "IN", "OUT", "ERROR"]
    return table(head, shown, on, right=(6, 7, 8, 9))
