"""The chaos suite: one command, and the table of its scenarios.

    scripts/chaos [--seed N] [--short] [--requests 10000] [--seconds 60] [--workers 8] [scenario ...]

Every scenario is a function of a Setting; it returns the lines of the table, and what was promised and not kept.
Without names all of them run, in their long form: half an hour. --short is what the test suite runs.

What of RELIABILITY's tables about state is shown where (tests/unit unless said otherwise):

| row | failure | shown by |
|---|---|---|
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import replace

from tests.chaos import books, crowd, cuts, endurance, failing, kills, lifecycle, shortage
from tests.chaos.chaos import Result, Setting, table

Scenario = Callable[[Setting], Result]
SHORT = Setting(seed=20260, requests=400, seconds=16.0, workers=6, full=False)


def _life(scenario: Callable[[lifecycle.Setting], Result]) -> Scenario:
    """A scenario of the process's life: its long or its short form."""
    return lambda setting: scenario(lifecycle.Setting() if setting.full else lifecycle.SHORT)


SCENARIOS: dict[str, Scenario] = {
    "mixed": failing.mixed, "independent": failing.independent, "outage": failing.outage,
    "black-hole": failing.black_hole, "flapping": failing.flapping, "leaving": failing.leaving,
    "slow-clients": crowd.slow_clients, "streams": crowd.streams,
    "cuts": cuts.cuts, "sdk-cuts": cuts.sdk_cuts,
    "kills": kills.kills, "books": books.books,
    "full-disk": shortage.full_disk, "read-only": shortage.read_only, "descriptors": shortage.descriptors,
    "clock": shortage.clock, "log-pipe": shortage.log_pipe,
    "soak": endurance.soak,
}  # fmt: skip
LIFE: dict[str, Scenario] = {
    name: _life(scenario) for name, scenario in lifecycle.SCENARIOS.items()
}  # their short forms are tests of their own


def main(arguments: list[str]) -> int:
    """Prints a table; 1 when a promise was not kept."""
    every = SCENARIOS | LIFE
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", choices=[*every, []], default=[], metavar="scenario")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--short", action="store_true", help="the form that the test suite runs")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of an outage, times four")
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args(arguments)
    seed = given.seed or random.randrange(1, 10**6)
    setting = Setting(seed, given.requests, given.seconds, given.workers)
    if given.short:
        setting = replace(SHORT, seed=seed)
    print(f"seed {seed} (--seed {seed} repeats it)", flush=True)
    broken = 0
    for name in given.scenarios or every:
        result = every[name](setting)
        broken += len(result.broken)
        print(table([result]), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
