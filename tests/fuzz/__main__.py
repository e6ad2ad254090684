"""`scripts/fuzz [TARGET ...] [--runs N] [--guided N] [--seconds S]`: each target in a process of its own, findings printed as cases.

Without targets all of them run, one after the other. Ends with 1 when anything was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]


def fuzz(name: str, runs: int, guided: int, seconds: float, where: Path) -> tuple[str, int]:
    """One target, in two steps where only some of the runs are to be guided. (what to say, findings)"""
    began = time.monotonic()
    place = where / name
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("crash-*"):
        old.unlink()
    steps = [(runs, "guided")] if not guided or guided >= runs else [(guided, "guided"), (0, "plain")]
    made = found = 0
    ending = ""
    for count, way in steps:
        log = place / f"log-{way}"
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.run",
            name,
            str(count or runs - made),
            str(seconds),
            str(place),
        ]
        with log.open("w") as out:
            done = subprocess.run([*command, way], cwd=ROOT, stdout=out, stderr=out, check=False)
        text = log.read_text(errors="replace")
        for part in re.findall(r"^==== .*?^case: .*?$\n.*?$", text, re.S | re.M):
            print(part, flush=True)
        counted = re.findall(r"number_of_executed_units: (\d+)|: (\d+) runs without", text)
        made += next((int(a or b) for a, b in counted), 0)
        found = len(list(place.glob("crash-*")))
        if done.returncode:
            ending = f", ended with {done.returncode} (see {log})"
            break
    took = time.monotonic() - began
    said = f"{name:24s} {made:9,d} runs in {took:6.0f} s, {found} findings{ending}"
    return said, found + (bool(ending) and not found)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help=f"one of: {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=0, help="executions of each target")
    parser.add_argument(
        "--guided", type=int, default=0, help="how many of them are guided by coverage (default all)"
    )
    parser.add_argument("--seconds", type=float, default=0, help="time for each target (default 10)")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / ".cache" / "fuzz", help="where corpora and findings go"
    )
    parser.add_argument("--replay", type=Path, help="run one target on one kept input, with its traceback")
    given = parser.parse_args()
    unknown = [name for name in given.target if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if given.replay:
        TARGETS[given.target[0]](given.replay.read_bytes())
        return 0
    seconds = given.seconds or (0 if given.runs else 10)
    found = 0
    for name in given.target or TARGETS:
        said, more = fuzz(name, given.runs, given.guided, seconds, given.keep)
        found += more
        print(said, flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
