"""Where the time goes in one scenario: py-spy where it is installed, else cProfile in every thread of a ccm process."""

from __future__ import annotations

import os
import pstats
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from tests.bench.harness import Harness

TOP = 45
# What `--profile` starts instead of `ccm` where there is no py-spy: every thread runs under a profile of its own.
_UNDER_CPROFILE = """
import atexit, cProfile, pstats, sys, threading
profiles = []
plain = threading.Thread.run
def run(self):
    profile = cProfile.Profile()
    try:
        profile.enable()
    except ValueError:  # Python 3.12 and newer profile one thread at a time
        return plain(self)
    profiles.append(profile)
    try:
        plain(self)
    finally:
        profile.disable()
threading.Thread.run = run
def save():
    for profile in profiles: profile.disable()
    stats = pstats.Stats(*profiles)
    stats.dump_stats(sys.argv[1])
from ccm.cli.main import main
code = main(sys.argv[2:])
save()
sys.exit(code)
"""


def profile(scenario: str, target: str, seconds: float) -> str:
    """The profile of `target` (ccm or ccm-tr) under a scenario, as text."""
    spy = shutil.which(
        "py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    harness = Harness()
    dump = harness.directory / "profile.pstats"
    if spy is None:
        config = str(harness.directory / "cfg" / "ccm.toml")
        command = [sys.executable, "-c", _UNDER_CPROFILE, str(dump), "start", "--config", config]
        harness = Harness(command=command)
    harness.bench.S[scenario] = (
        *harness.bench.S[scenario][:3], seconds, 0, *harness.bench.S[scenario][5:]
    )  # fmt: skip
    harness.start(["ccm"])
    try:
        if spy is None:
            harness.rounds(1, [scenario], lambda _: [target])
        else:
            return _spied(harness, spy, scenario, target, seconds)
    finally:
        harness.stop(["ccm"])
        harness.stop_stub()
    with (harness.directory / "profile.txt").open("w") as out:
        pstats.Stats(str(dump), stream=out).sort_stats("tottime").print_stats(TOP)
    return Path(out.name).read_text()


def _spied(harness: Harness, spy: str, scenario: str, target: str, seconds: float) -> str:
    raw = harness.directory / f"profile-{scenario}.txt"
    pid = harness.bench.rpid("ccm")
    run = threading.Thread(target=harness.rounds, args=(1, [scenario], lambda _: [target]))
    run.start()
    command = [spy, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds - 0.5)))]
    command += ["--format", "raw", "--rate", "500", "--gil", "--output", str(raw)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    run.join()
    if done.returncode:
        return f"py-spy: {done.stderr.strip()[-400:]}"
    return digest(raw.read_text().splitlines()) + f"\n(stacks: {raw})"


def digest(stacks: list[str]) -> str:
    """py-spy's raw stacks (`a;b;c 12`) as two tables: own samples, and samples below, by function."""
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    total = 0
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        names = [frame.rpartition(":")[0] or frame for frame in frames.split(";")]
        total += int(count)
        own[names[-1]] += int(count)
        for name in set(names):
            below[name] += int(count)
    lines = [f"{total} samples holding the interpreter lock", "", "own %  function"]
    lines += [f"{100 * n / max(1, total):5.1f}  {name}" for name, n in own.most_common(TOP)]
    lines += ["", "with what it calls %  function"]
    lines += [f"{100 * n / max(1, total):5.1f}  {name}" for name, n in below.most_common(TOP)]
    return "\n".join(lines)
