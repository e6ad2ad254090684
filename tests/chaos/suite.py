"""The chaos suite: one command, and the table of its scenarios.

    scripts/chaos [--seed N] [--short] [--requests 10000] [--seconds 60] [--workers 8] [scenario ...]

Every scenario is a function of a Setting; it returns the lines of the table, and what was promised and not kept.
Without names all of them run, in their long form: half an hour. --short is what the test suite runs.

What of RELIABILITY's table about process and state is shown where (names of scenarios, else of tests):

| row | shown by |
|---|---|
| 64 stop while streams run | test_state: ..._leaves_no_stream_without_an_end, ..._providers_that_say_nothing |
| 65 second SIGTERM | e2e/test_handover: test_a_second_sigterm_ends_at_once; unit/test_process_signals |
| 66, 79 kill -9 | kills, books; contract/test_start: test_kill_9_is_survived_with_the_switch |
| 67, 68 upgrade, broken build | lifecycle: upgrades, broken; e2e/test_handover; unit/test_process_successor |
| 69-71 reload, bad files, a provider removed | lifecycle: reloads; contract/test_reload; unit/test_config_files |
| 72 saved by rename, link, in place | unit/test_process_watch; contract/test_reload |
| 73 crash while writing state | kills (state.json, a switch acknowledged is kept); unit/test_control_state |
| 74, 75 full disk, read-only | full-disk, read-only; unit/test_store: test_a_full_disk_is_waited_out |
| 76 database locked, queue bounded | unit/test_store: test_a_lock_is_waited_out, test_the_queue_is_bounded_... |
| 77 corrupt files | test_state: test_any_damage_...; unit/test_store (3); unit/test_control_state (state.json) |
| 78 newer schema, two versions side by side | unit/test_store: test_a_newer_schema_..., test_two_stores_...; unit/test_usage_schema |
| 80 descriptors | descriptors |
| 81 no more threads | test_state: test_where_no_thread_can_be_had_... |
| 82 memory for bodies | contract/test_body_memory |
| 83 wall clock jumps | clock |
| 84 stopped and continued | test_state: test_a_process_that_slept_goes_on; contract/test_connections: test_old_connections_... |
| 85, 86 log: closed or full pipe, rotation | log-pipe; unit/test_log |
| 89, 90, S33, S34 control socket, port, lock | contract/test_control_socket, test_control_abuse, test_start |
| 95 attempts in all | mixed, outage |
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
    parser.add_argument("--seconds", type=float, default=60.0, help="of an outage")
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
