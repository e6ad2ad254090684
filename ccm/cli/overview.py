"""`ccmctl status`: one screen of everything. Pure; fits 80 columns, says more on wider ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccm.cli.render import Cell, Screen, clock, count, cut, duration, money, percent, table
from ccm.observe.log import escape

STATE_COLOURS = {
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
_BUDGET_COLOURS = {"ok": "", "near": "yellow", "over": "red"}
_LABEL = 11
_WIDE = 120  # from this width on the reason has a column of its own

View = Mapping[str, Any]


def status(view: View, on: Screen) -> str:
    """What runs where, who is first, how the providers are, what it costs, what went wrong lately."""
    lines = [headline(view, on), *_lines(view, on), "", providers(view["providers"], on)]
    if view["failures"]:
        lines += ["", on.paint("last failures", "bold")]
        lines += [_within(f"  {clock(row['at'])}  {escape(row['text'])}", on) for row in view["failures"]]
    if view["warnings"]:
        lines += ["", on.paint("warnings", "bold")]
        lines += [f"  {escape(text)}" for text in view["warnings"]]
    return "\n".join(lines)


def headline(view: View, on: Screen) -> str:
    """`ccm 1.0.0 on 127.0.0.1:13456: ok, up 3h 12m`."""
    health = str(view["health"])
    return (
        on.paint(f"ccm {view['version']} on {view['address']}: ", "bold")
        + on.paint(health, _HEALTH_COLOURS.get(health, ""))
        + f", up {duration(view['uptime_s'])}"
    )


def _lines(view: View, on: Screen) -> list[str]:
    totals, lately = view["totals"], view.get("lately") or {}
    endings = ", ".join(f"{number} {name or 'unknown'}" for name, number in totals["endings"].items())
    rows = [("primary", primary(view))]
    rows += [
        ("", f"class {name}: {row['primary']}{_left(row.get('left_s'))}")
        for name, row in (view.get("classes") or {}).items()
    ]
    source = view["config"] or ("the demo" if view.get("demo") else "the environment's keys")
    rows.append(("config", f"{source} (generation {view['generation']})"))
    rows += [("", f"not reloaded: {line}") for line in str(view.get("config_problem") or "").splitlines()[:3]]
    if (view.get("handover") or {}).get("state") in ("running", "failed"):
        rows.append(("handover", str(view["handover"]["text"])))
    rows.append(
        (
            "requests",
            f"{totals['requests']}"
            + (f" ({endings})" if endings else "")
            + f", {view['in_flight']} in flight",
        )
    )
    if lately.get("requests"):
        text = (
            f"{lately['requests']} in {duration(lately['seconds'])}: {percent(lately['success'])} answered well, "
            f"first content p50 {duration(lately['first_content_p50_s'])} p95 {duration(lately['first_content_p95_s'])}"
        )
        rows.append(("lately", text))
    if totals["requests"]:
        text = (
            f"{count(totals['input_tokens'])} in, {count(totals['cache_read_tokens'])} from caches, "
            f"{count(totals['output_tokens'])} out"
        )
        if lately.get("cost_usd") is not None:
            text += f"; {money(lately['cost_usd'])} lately"
        rows.append(("tokens", text))
    rows += [("budget" if n == 0 else "", budget(row)) for n, row in enumerate(view.get("budgets") or ())]
    rows += [("drill" if n == 0 else "", drill(row)) for n, row in enumerate(view.get("drills") or ())]
    return [_within(on.paint(f"{label:<{_LABEL}}", "dim") + escape(text), on) for label, text in rows]


def primary(view: View) -> str:
    """Who is first, and for how long."""
    strategy = f"strategy {view['strategy']}" + ("" if view.get("failover", True) else ", failover off")
    if not view["primary"]:
        return f"none chosen, {strategy}"
    return f"{view['primary']}{_left(view.get('primary_left_s'))}, then {strategy}"


def _left(seconds: float | None) -> str:
    return f" for another {duration(seconds)}" if seconds is not None else ""


def budget(row: View) -> str:
    """`daily: $3.20 of $10.00 (32%)`, with what happens at its end."""
    spent, limit = row.get("spent_usd"), row.get("limit_usd")
    share = f" ({percent(float(spent) / float(limit))})" if spent is not None and limit else ""
    text = f"{row.get('name', '')}: {money(spent)} of {money(limit)} per {row.get('per', 'day')}{share}"
    return text + (f", {row['state']}" if row.get("state") not in (None, "", "ok") else "")


def drill(row: View) -> str:
    """`anthropic 529: for 3 more requests, 43s at most`."""
    left = row.get("left_requests")
    many = "" if left is None else f"for {left} more request{'' if left == 1 else 's'}, "
    return f"{row['provider']} {row['fault']} is on: {many}{duration(row['left_s'])} at most"


def _within(line: str, on: Screen) -> str:
    """A line without colours inside the part that may be cut."""
    if on.width is None or not on.colour:
        return line if on.width is None else cut(line, on.width)
    head, mark, text = line.partition("\x1b[0m")
    return head + mark + cut(text, on.width - _LABEL) if mark else cut(line, on.width)


def reason(row: View) -> str:
    """Why a provider is not simply ready: its state's reason, when it is asked again, else its last error."""
    text = str(row["reason"])
    if row["cooldown_s"]:
        text = f"{text}; again in {duration(row['cooldown_s'])}".lstrip("; ")
    if not text and row.get("last_error"):
        ago = row.get("last_error_ago_s")
        text = f"{duration(ago)} ago: {row['last_error']}" if ago is not None else str(row["last_error"])
    return text


def quota(row: View) -> str:
    """`62% left`, and when it begins anew."""
    found = row.get("quota")
    if not found:
        return "-"
    left = found.get("left_percent")
    resets = found.get("resets_s")
    text = "?" if left is None else f"{float(left):.0f}%"
    return text + (f" ({duration(resets)})" if resets is not None else "")


def key_of(row: View, full: bool) -> str:
    """The state of a provider's keys; with `full` also where they come from, and their fingerprints."""
    word = str(row.get("key", ""))
    if not full:
        return word
    shown = [
        f"{key['from']} {key['fingerprint']}".strip() for key in row.get("keys", ()) if key.get("fingerprint")
    ]
    return f"{word}: {', '.join(shown)}" if shown else word


def providers(rows: Sequence[View], on: Screen) -> str:
    """One line each, `*` marks the primary; where the screen is narrow a reason has a line of its own below."""
    if not rows:
        return "no provider is configured"
    wide = on.width is None or on.width >= _WIDE
    shown: list[list[str | Cell]] = []
    for row in rows:
        state = str(row["state"])
        cells: list[str | Cell] = [
            ("* " if row["primary"] else "  ") + str(row["name"]),
            Cell(state, STATE_COLOURS.get(state, "")),
            key_of(row, wide),
            str(row["in_flight"]),
            count(int(row["requests"])),
            percent(row.get("success")),
            duration(row["first_content_p50_s"]),
            duration(row.get("first_content_p95_s")),
            quota(row),
        ]
        shown.append([*cells, reason(row)] if wide else cells)
    head = ["  PROVIDER", "STATE", "KEY", "NOW", "REQUESTS", "WELL", "p50", "p95", "QUOTA"]
    if wide:
        return table([*head, "WHY"], shown, on, right=(3, 4, 5, 6, 7))
    top, *lines = table(head, shown, on, right=(3, 4, 5, 6, 7)).split("\n")
    out = [top]
    for row, line in zip(rows, lines, strict=True):
        out.append(line)
        if why := reason(row):
            out.append(on.paint(cut(f"    {escape(why)}", on.width or 80), "dim"))
    return "\n".join(out)
