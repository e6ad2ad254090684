"""scripts/bench: ccm beside direct and nginx (and peers), as a table with the goals beside the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tests.bench import profiling, regression, translate
from tests.bench.goals import GOALS, GROUPS, TRANSLATED, Goal, Line, lines, number, table
from tests.bench.harness import Harness, Missing, Round

SKIPPED = 0
PEERS = ("litellm", "litellm-tr", "ccr2", "ccr2-tr")
DEFAULT = ("tiny", "big", "rps", "stream", "paced", "translate", "start")
FULL = (*GROUPS, "start", "soak", "dialects")
SOAK_REQUESTS = 100_000
_START = (
    Goal("load.rss", "start", "15 RSS after 256 streams of 146 KB", (), lambda r: 0.0, 50, 30, "MB"),
    Goal("start.ms", "start", "14 process start to first 200", (), lambda r: 0.0, 110, 50, "ms"),
    Goal("start.rss", "start", "15 RSS idle", (), lambda r: 0.0, 28, 22, "MB"),
    Goal("file.ms", "start", "14 the one file", (), lambda r: 0.0, 110, 50, "ms"),
    Goal("file.rss", "start", "15 the one file", (), lambda r: 0.0, 28, 22, "MB"),
    Goal("soak.rss", "soak", f"15 growth over {SOAK_REQUESTS:,} requests", (), lambda r: 0.0, 1, unit="MB"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what was asked for; 1 when `--check` finds a regression."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument(
        "--only", help=f"groups, comma-separated: {', '.join(FULL)} (default: {','.join(DEFAULT)})"
    )
    parser.add_argument("--full", action="store_true", help="all groups")
    parser.add_argument(
        "--peers", action="store_true", help="LiteLLM and claude-code-router too (installs them)"
    )
    parser.add_argument(
        "--profile", metavar="SCENARIO", help="where the time goes (lat-tiny, lat-big, str1-big, pace256 ...)"
    )
    parser.add_argument(
        "--target", choices=("ccm", "ccm-tr"), default="ccm", help="with --profile: passing or translating"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="with --profile")
    parser.add_argument(
        "--check", action="store_true", help="compare with tests/bench/baseline.json; 1 when slower"
    )
    parser.add_argument("--save-baseline", action="store_true", help="make this run's ratios the baseline")
    parser.add_argument("--json", metavar="FILE", help="write the samples there")
    args = parser.parse_args(argv)
    try:
        if args.profile:
            print(profiling.profile(args.profile, args.target, args.seconds))
            return 0
        if args.check or args.save_baseline:
            return _regression(args)
        groups = tuple(args.only.split(",")) if args.only else FULL if args.full else DEFAULT
        unknown = set(groups) - set(FULL)
        if unknown:
            parser.error(f"no such group: {', '.join(sorted(unknown))}")
        return _report(args, groups)
    except Missing as missing:
        if args.check:
            print(f"skipped: {missing}")
            return SKIPPED
        print(f"scripts/bench: {missing}", file=sys.stderr)
        return 2


def _regression(args: argparse.Namespace) -> int:
    goals = [goal for goal in GOALS if goal.key in regression.KEYS]
    harness = Harness()
    rounds = _measure(harness, goals, args.rounds if args.save_baseline else 3, [])
    found = lines(goals, rounds)
    print(table(found))
    if args.save_baseline:
        regression.save(found, _machine())
        return 0
    worse = regression.compare(found, regression.load())
    for line in worse:
        print(f"SLOWER  {line}")
    return 1 if worse else 0


def _report(args: argparse.Namespace, groups: Sequence[str]) -> int:
    peers = list(PEERS) if args.peers else []
    others = [*peers, "ccm-2w"] if "workers" in groups else peers
    goals = [g for g in GOALS if g.group in groups and (not g.peer or g.peer in others)]
    print(_machine())
    print(f"load before: {os.getloadavg()[0]:.2f}")
    found: list[Line] = []
    if goals or "start" in groups or "soak" in groups:
        harness = Harness(args.peers)
        if "start" in groups:
            found += _starts(harness, args.rounds)
        rounds = _measure(harness, goals, args.rounds, others) if goals else []
        found = lines(goals, rounds) + found
        if "soak" in groups:
            found.append(_soak(harness))
        if args.json:
            with open(args.json, "w") as out:
                json.dump([{"|".join(key): sample for key, sample in r.items()} for r in rounds], out)
        if rounds:
            print(_absolute(rounds))
    print(table(found))
    if "dialects" in groups:
        print(translate.table())
    print(f"load after: {os.getloadavg()[0]:.2f}")
    return 0


def _measure(harness: Harness, goals: Sequence[Goal], count: int, others: Sequence[str]) -> list[Round]:
    scenarios = list(dict.fromkeys(name for goal in goals for name in goal.scenarios))
    translating = any(goal.group == "translate" for goal in goals)
    own = [name for name in others if name in ("ccm-2w", "litellm", "ccr2")]
    running = ["nginx", "ccm", *own]

    def targets_of(scenario: str) -> list[str]:
        targets = ["direct", "nginx", "ccm"]
        if translating and scenario in TRANSLATED:
            targets.append("ccm-tr")
        for goal in goals:
            if goal.peer and scenario in goal.scenarios and goal.peer not in targets:
                targets.append(goal.peer)
        return targets

    try:
        harness.start(running)
        return harness.rounds(count, scenarios, targets_of)
    finally:
        harness.stop(running)
        harness.stop_stub()


def _starts(harness: Harness, count: int) -> list[Line]:
    """Start-up times and memory: ccm, installed and as one file, is started `count` times by turns, then loaded with 256
    streams once."""
    names = ["ccm", *harness.one_file()]
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    try:
        for _ in range(max(3, count)):
            for name, (ready, idle) in found.items():
                result = harness.start([name])[name]
                ready.append(result["ready_ms"])
                idle.append(result["rss"])
                harness.stop([name])
        harness.start(["ccm"])
        harness.rounds(1, ["pace256"], lambda _: ["ccm"])
        after = [harness.memory_mb("ccm")]
    finally:
        harness.stop(names)
        harness.stop_stub()
    rows = [after, *found["ccm"], *found.get("ccm-file", ())]
    return [
        Line(goal, statistics.median(values), min(values), max(values))
        for goal, values in zip(_START, rows, strict=False)
    ]


def _soak(harness: Harness) -> Line:
    """What 100,000 requests leave behind, after a warming with a tenth of them."""
    try:
        harness.start(["ccm"])
        harness.load("ccm", "tiny", 16, SOAK_REQUESTS // 10)
        before = harness.memory_mb("ccm")
        harness.load("ccm", "tiny", 16, SOAK_REQUESTS)
        growth = harness.memory_mb("ccm") - before
    finally:
        harness.stop(["ccm"])
        harness.stop_stub()
    return Line(_START[-1], growth, growth, growth)


def _absolute(rounds: Sequence[Round]) -> str:
    """Medians of everything measured, for the curious: absolute figures say something on this machine only."""
    rows = [
        "| scenario | target | errors | p50 us | p99 us | first text us | lag p99 us | requests/s | CPU us | RSS MB | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys(key for r in rounds for key in r)
    for scenario, target in keys:
        samples = [r[scenario, target] for r in rounds if (scenario, target) in r]

        def median(of: Any, samples: Sequence[Any] = samples) -> str:
            return number(statistics.median(of(sample) for sample in samples), "")

        cells = [
            str(sum(s["err"] for s in samples)),
            median(lambda s: s.get("tot", {}).get("p50", 0)),
            median(lambda s: s.get("tot", {}).get("p99", 0)),
            median(lambda s: s.get("ttfd", {}).get("p50", 0)),
            median(lambda s: s.get("lat", {}).get("p99", 0)),
            median(lambda s: s.get("rps", 0)),
            median(lambda s: 1e6 * s["cpu_s"] / s["n"]),
            median(lambda s: s["rss"]),
            median(lambda s: s["load"]),
        ]
        rows.append(f"| {scenario} | {target} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
