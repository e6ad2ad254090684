"""`ccmctl explain`: why a request went where it went, or would go, in plain lines. Pure but for reading a dry run's body."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from ccm.cli.render import Screen, clock, count, cut, duration, money
from ccm.errors import ControlError
from ccm.observe.log import escape

_LABEL = 12
_MOST_BYTES = 8 * 1024 * 1024 - 64 * 1024  # what the control socket takes, less its head

View = Mapping[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `ccmctl explain` takes."""
    parser.add_argument(
        "id", metavar="ID", nargs="?", help="a request's id, or last (which is what nothing means)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="a Messages request from standard input: where would it go?"
    )
    parser.add_argument(
        "--header", metavar="NAME:VALUE", action="append", default=[], help="with --dry-run: a header it would have"
    )  # fmt: skip


def args(given: argparse.Namespace) -> dict[str, Any]:
    """The id; or, for a dry run, the request from standard input. Raises ControlError for what is none."""
    if not given.dry_run:
        if given.header:
            given.parser.error("--header goes with --dry-run")
        return {"id": given.id or "last"}
    if given.id:
        given.parser.error("--dry-run takes its request from standard input, not an ID")
    data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ControlError(f"the request has more than {_MOST_BYTES} bytes")
    try:
        request = json.loads(data)
    except ValueError as error:
        raise ControlError(f"standard input is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise ControlError("standard input is no request: an object with model and messages")
    headers = dict(line.partition(":")[::2] for line in given.header)
    return {"request": request, "headers": {name.strip(): value.strip() for name, value in headers.items()}}


def explain(view: View, on: Screen) -> str:
    """The decision from the request to the target: class, rule, candidates with scores, attempts with times."""
    lines = []
    if view.get("id"):
        title = f"{view['id']} at {clock(view['at'])}: {view['status']} {view['ending']}, {duration(view['total_s'])}"
        lines.append(on.paint(title, "bold"))
    elif view.get("refused"):
        lines.append(on.paint("it would be refused", "bold"))
    else:
        order = view.get("order") or ["nowhere"]
        lines.append(on.paint(f"it would go to {order[0]}", "bold"))
    lines += [_labelled(label, text, on) for label, text in _facts(view) if text]
    if view.get("rules"):
        lines.append(on.paint("rules", "dim"))
        lines += [_line("holds" if rule["holds"] else "-", str(rule["rule"]), on) for rule in view["rules"]]
    if view.get("candidates"):
        lines.append(on.paint("candidates", "dim"))
        lines += [_candidate(row, on) for row in view["candidates"]]
    if view.get("attempts"):
        lines.append(on.paint("attempts", "dim"))
        lines += [_attempt(row, on) for row in view["attempts"]]
    if view.get("id"):
        lines.append(_labelled("in the end", _end(view), on))
    return "\n".join(lines)


def _facts(view: View) -> list[tuple[str, str]]:
    asked = str(view.get("model", ""))
    if view.get("stream"):
        asked += ", as a stream"
    if view.get("input_tokens"):
        asked += f", {'' if view.get('id') else 'about '}{count(int(view['input_tokens']))} tokens of input"
    others = [name for name in view.get("classes") or () if name != view.get("class")]
    kind = str(view.get("class", "")) + (f" (also {', '.join(others)})" if others else "")
    strategy = str(view.get("strategy", ""))
    if view.get("bound_to"):
        strategy += f"; this conversation's cache is at {view['bound_to']}"
    if view.get("primary"):
        strategy += f"; switched to {view['primary']}"
    return [
        ("asked for", asked),
        ("class", kind),
        ("rule", str(view.get("rule") or ("none holds" if view.get("rules") else ""))),
        ("note", str(view.get("note") or "")),
        ("needs", ", ".join(view.get("needs") or ())),
        ("pinned to", f"{view['pin']} by {view.get('pinned_by')}" if view.get("pin") else ""),
        ("session", str(view.get("session") or view.get("conversation") or "")),
        ("strategy", strategy),
        ("decided", str(view.get("reason") or view.get("route") or "")),
        ("refused", str(view.get("refused") or "")),
        ("", "nobody is well: the least bad one is tried" if view.get("panic") else ""),
        ("wait", f"{duration(view['wait_s'])} for a free place" if view.get("wait_s") else ""),
    ]


def _candidate(row: View, on: Screen) -> str:
    name = str(row["endpoint"]) + (f"/{row['model']}" if row.get("model") else "")
    if not row.get("place"):
        return _line("-", f"{name}: {row.get('ruled_out') or 'not chosen'}", on)
    scores = [
        f"priority {row['priority']}" if row.get("priority") is not None else "",
        f"weight {row['weight']}" if row.get("weight") not in (None, 1) else "",
        f"{row['in_flight']} in flight" if row.get("in_flight") else "",
        f"first content {duration(row['first_content_s'])}" if row.get("first_content_s") is not None else "",
        f"{money(row['price_usd'])} expected" if row.get("price_usd") is not None else "",
        f"share {row['share']:.0%}" if row.get("share") not in (None, 1, 1.0) else "",
        "its cache is warm" if row.get("bound") else "",
        "full" if row.get("full") else "",
        "stands in for the name" if row.get("stand_in") else "",
        "behind what the rule names" if row.get("fallback") else "",
        "spared: its quota is low" if row.get("spared") else "",
        "" if row.get("state") in (None, "ready", "") else str(row["state"]),
    ]
    told = ", ".join(text for text in scores if text)
    return _line(f"{row['place']}.", f"{name}: {told}" if told else name, on)


def _attempt(row: View, on: Screen) -> str:
    text = f"{row['endpoint']}/{row['model']}: {row['result']} after {duration(row['seconds'])}"
    if row.get("error"):
        text += f": {row['error']}"
    return _line(f"+{duration(row.get('started_s') or 0.0)}", text, on)


def _end(view: View) -> str:
    if view["ending"] != "complete":
        return f"{view['ending']}: {view['error']}" if view.get("error") else str(view["ending"])
    text = f"answered by {view['answered_by']}/{view['answered_model']}"
    text += f", first content after {duration(view['first_content_s'])}, {count(int(view['output_tokens']))} tokens"
    if view.get("cost_usd") is not None:
        text += f", {money(view['cost_usd'])}"
    if view.get("losses"):
        text += f"; not translated: {', '.join(view['losses'])}"
    return text


def _labelled(label: str, text: str, on: Screen) -> str:
    return on.paint(f"{label:<{_LABEL}}", "dim") + _cut(escape(text), on, _LABEL)


def _line(mark: str, text: str, on: Screen) -> str:
    return f"  {mark:<{_LABEL - 4}}  {_cut(escape(text), on, _LABEL)}"


def _cut(text: str, on: Screen, used: int) -> str:
    return text if on.width is None else cut(text, on.width - used)
