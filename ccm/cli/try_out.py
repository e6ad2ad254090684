"""`ccm test`: one small real request to every configured provider and tier, all at once, with a verdict for each.

Exit code 0 when all are good, 1 when one failed, 2 for a configuration that would not run. It spends a little money:
`--dry-run` says how much at most, and what would be sent.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ccm.catalog.models import ModelBook
from ccm.cli import render, trials
from ccm.cli.arguments import FAILED, OK, USAGE, did_you_mean
from ccm.cli.inside import Inside
from ccm.cli.trials import Result, Trial
from ccm.config import load
from ccm.errors import CcmError, ConfigError
from ccm.model import TIERS, Snapshot
from ccm.observe.log import escape
from ccm.shape import replace
from ccm.upstream.demo import PROVIDERS as DEMO_PROVIDERS
from ccm.upstream.demo import DemoUpstream

_DESCRIPTION = """Sends one small real request (streamed, with one tool) to every configured provider, once for each model
that a tier of Claude becomes there, all at the same time and on the very way that real traffic takes. Says for each
whether it works, how soon the first content came, what it used and what it cost. NAME limits it to some providers."""
_EPILOG = """examples:
  ccm test --dry-run            what would be sent, where to, and what it can cost at most
  ccm test deepseek --tier haiku
  ccm test --demo               against the built-in scripted provider: no key, no cost

exit codes:
  0   all good
  1   at least one failed
  2   wrong usage, or a configuration that must not run"""
_COLOURS = {trials.OK: "green", trials.NO_TOOL: "yellow", trials.BROKEN: "red", trials.FAILED: "red"}
_QUIET_S = 1.0  # what takes longer tells how far it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `ccm test` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="providers (default: all that are configured)"
    )
    parser.add_argument("--tier", action="append", choices=TIERS, help="only this tier (may be repeated)")
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: where ccm start finds it)"
    )
    parser.add_argument("--demo", action="store_true", help="against the built-in demo upstream")
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing; say what would be sent and cost"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=60.0, help="for each request (default: 60)"
    )
    parser.add_argument(
        "--json", action="store_true", help="for programs: one JSON object on standard output"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("a number of seconds from 1 to 3600")
    return value


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Asks and reports; returns the exit code."""
    demo = DemoUpstream(word_s=0.0, steady=True) if args.demo else None
    try:
        urls = None
        if demo is not None:
            base = demo.start()
            urls = [(p.name, base + p.path) for p in DEMO_PROVIDERS]
        try:
            snapshot = load.read(args.config, env, demo_urls=urls)
            book = load.book(snapshot)
            wanted = _planned(args, snapshot, book)
        except ConfigError as error:
            return _refused(error, args.json)
        if wanted is None:
            return USAGE
        return _dry_run(wanted, args.json) if args.dry_run else _test(wanted, args, snapshot, book, env)
    finally:
        if demo is not None:
            demo.stop()


def _refused(error: ConfigError, as_json: bool) -> int:
    if as_json:
        problems = [
            {"file": p.file, "line": p.line, "key": p.key, "text": p.text, "fix": p.fix}
            for p in error.problems
        ]
        print(json.dumps({"ok": False, "problems": problems}, indent=2, ensure_ascii=False))
    for problem in error.problems:
        print(escape(str(problem)), file=sys.stderr)
    return USAGE


def _planned(args: argparse.Namespace, snapshot: Snapshot, book: ModelBook) -> list[Trial] | None:
    """The trials; None where a name is wrong, which has then been said."""
    usable = {e.id for e in snapshot.endpoints} | {e.provider.name for e in snapshot.endpoints}
    for name in args.names:
        if name in usable:
            continue
        provider = snapshot.providers.get(name)
        if provider is None:
            told = f"{name!r} is not configured{did_you_mean(name, sorted(usable))}; usable: {', '.join(sorted(usable))}"
        elif not provider.enabled:
            told = f"{name} is switched off in the configuration"
        else:
            told = f"{name} has no usable key: {'; '.join(k.problem for k in provider.keys if k.problem)}"
        print(f"ccm: {escape(told)}", file=sys.stderr)
        return None
    return trials.plan(snapshot, book, args.names, args.tier or ())


# ---- what would be sent


def _dry_run(wanted: Sequence[Trial], as_json: bool) -> int:
    rows = [_would(trial) for trial in wanted]
    known = [row["most_usd"] for row in rows if row["most_usd"] is not None]
    total = {"requests": len(rows), "most_usd": sum(known), "without_price": len(rows) - len(known)}
    if as_json:
        print(json.dumps({"would_send": rows, **total}, indent=2, ensure_ascii=False))
        return OK
    on = render.screen()
    head = ["PROVIDER", "TIERS", "MODEL", "POST TO", "AT MOST"]
    cells = [
        [r["endpoint"], " ".join(r["tiers"]), r["model"], r["url"] or r["error"], _usd(r["most_usd"])]
        for r in rows
    ]
    print(render.table(head, cells, on, right=(4,)))
    unpriced = f", {total['without_price']} of them at unknown prices" if total["without_price"] else ""
    print(
        f"\n{_requests(len(rows))} of about 100 tokens in and {trials.MAX_TOKENS} out at most, "
        f"{_usd(total['most_usd'])} together at list prices{unpriced}\nnothing was sent; next: `ccm test`"
    )
    return OK


def _would(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {
        **_named(trial),
        "dialect": trial.provider.dialect,
        "url": None,
        "error": None,
        "body": None,
        "losses": [],
        "most_usd": trials.most_usd(trial),
    }
    try:
        sent = trials.encoded(trial)
    except CcmError as error:
        row["error"] = str(error)
        return row
    row |= {"url": trial.provider.base_url + sent.path, "body": sent.body}
    row["losses"] = [f"{loss.feature}={loss.how}" for loss in sent.losses]
    return row


def _named(trial: Trial) -> dict[str, Any]:
    return {
        "provider": trial.provider.name,
        "endpoint": trial.endpoint.id,
        "tiers": list(trial.tiers),
        "model": trial.model,
    }


# ---- the real thing


def _test(
    wanted: Sequence[Trial],
    args: argparse.Namespace,
    snapshot: Snapshot,
    book: ModelBook,
    env: Mapping[str, str],
) -> int:
    results = _ask_all(wanted, args.timeout, snapshot, book, env)
    bad = [r for r in results if r.verdict != trials.OK]
    if args.json:
        shown = {"ok": not bad, "failed": len(bad), "results": [_report(r) for r in results]}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        print(_text(results, bad, render.screen()))
    return FAILED if bad else OK


def _ask_all(
    wanted: Sequence[Trial], timeout_s: float, snapshot: Snapshot, book: ModelBook, env: Mapping[str, str]
) -> list[Result]:
    """All at once; each endpoint has a ccm of its own, so that no failure of one colours another's result."""
    insides: dict[str, Inside] = {}
    answers: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()
    try:
        for trial in wanted:
            if trial.endpoint.id not in insides:
                inside = Inside(replace(snapshot, endpoints=(trial.endpoint,)), book, env)
                insides[trial.endpoint.id] = inside.__enter__()
        for number, trial in enumerate(wanted):
            # daemons: Ctrl-C ends the command, not the slowest provider
            threading.Thread(
                target=lambda n, t: answers.put((n, trials.ask(insides[t.endpoint.id], t, timeout_s))),
                args=(number, trial),
                name=f"ccm-test-{number}",
                daemon=True,
            ).start()
        return _collect(answers, len(wanted))
    except KeyboardInterrupt:
        insides.clear()  # all their threads are daemons: the process ends now, not when the slowest provider does
        raise
    finally:
        for inside in insides.values():
            inside.__exit__(None, None, None)


def _collect(answers: queue.SimpleQueue[tuple[int, Result]], count: int) -> list[Result]:
    found: dict[int, Result] = {}
    began, shown = time.monotonic(), False
    tell = sys.stderr.isatty()
    while len(found) < count:
        try:
            number, result = answers.get(timeout=_QUIET_S)
            found[number] = result
        except queue.Empty:
            pass
        if tell and time.monotonic() - began > _QUIET_S and len(found) < count:
            shown = True
            print(f"\r{len(found)} of {count} have answered ...", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    return [found[number] for number in range(count)]


def _report(result: Result) -> dict[str, Any]:
    usage = result.usage
    return {
        **_named(result.trial),
        "verdict": result.verdict,
        "error": result.error or None,
        "hint": _hint(result) or None,
        "status": result.status,
        "how": result.how or None,
        "first_content_s": _rounded(result.first_content_s),
        "total_s": _rounded(result.total_s),
        "input_tokens": usage.input_total,
        "output_tokens": usage.output,
        "cost_usd": result.cost_usd,
        "losses": result.losses,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _text(results: Sequence[Result], bad: Sequence[Result], on: render.Screen) -> str:
    head = ["PROVIDER", "TIERS", "MODEL", "VERDICT", "FIRST", "TOTAL", "IN", "OUT", "COST"]
    cells: list[list[str | render.Cell]] = []
    for r in results:
        good = r.status == 200
        cells.append(
            [
                r.trial.endpoint.id,
                " ".join(r.trial.tiers),
                r.trial.model,
                render.Cell(_verdict(r), _COLOURS[r.verdict]),
                render.duration(r.first_content_s),
                render.duration(r.total_s),
                render.count(r.usage.input_total) if good else "-",
                render.count(r.usage.output) if good else "-",
                _usd(r.cost_usd) if good else "-",
            ]
        )
    parts = [render.table(head, cells, on, right=(4, 5, 6, 7, 8))]
    lines = []
    for r in bad:
        hint = _hint(r)
        lines.append(f"{on.paint(f'{r.trial.endpoint.id}/{r.trial.model}', 'bold')}: {escape(r.error)}")
        lines += [f"  {escape(hint)}"] if hint else []
    if lines:
        parts.append("\n".join(lines))
    spent = sum(r.cost_usd or 0.0 for r in results)
    unpriced = sum(1 for r in results if r.cost_usd is None and r.status == 200)
    tail = f", {unpriced} at unknown prices" if unpriced else ""
    told = f"{len(results) - len(bad)} of {len(results)} good, {_usd(spent)} spent at list prices{tail}"
    parts.append(told + ("\nnext: `ccm check` shows keys and models" if bad else "\nnext: `ccm start`"))
    return "\n\n".join(parts)


def _verdict(result: Result) -> str:
    if result.verdict == trials.OK and not result.trial.tools:
        return "ok (takes no tools)"
    if result.verdict != trials.FAILED:
        return result.verdict
    return f"failed, {result.status or result.how}" if result.status != 200 else result.verdict


def _hint(result: Result) -> str:
    """What to do about it, where the provider's own words do not say."""
    trial, name = result.trial, result.trial.provider.name
    if result.verdict == trials.OK:
        return ""
    if trial.unmapped:
        return f'Claude\'s own name was sent: map models with [providers.{name}.models] default = "..."'
    if result.verdict == trials.NO_TOOL:
        return f"Claude Code needs tool calls: try again, or map another model in [providers.{name}.models]"
    if result.status == 404:
        return f"map another model in [providers.{name}.models]; `ccm models` lists those that are known"
    return f"see {trial.provider.docs}" if trial.provider.docs else ""


def _usd(value: float | None) -> str:
    if value is None:
        return "-"
    return (
        f"${value:.2f}" if value >= 0.995 or value == 0 else f"${value:.2g}" if value >= 1e-4 else "<$0.0001"
    )


def _requests(count: int) -> str:
    return f"{count} request{'s' if count != 1 else ''}"
