"""Runs one target on many inputs: guided by coverage with atheris where it is installed, or on random changes of what
that found, which is two to four times as fast.

A finding is an exception that the target did not expect. It is kept as a file, once per place in the code, and the run
goes on; the caller looks at `findings`.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

CORPUS = Path(__file__).with_name("corpus")
LONGEST = 512  # bytes of an input: they are decisions, not documents
SLOW_S = 10.0  # of the processor's time for one input: an execution that needs more is a finding


class Slow(Exception):
    """One input took too long."""


def place(error: BaseException) -> str:
    """Where an exception came from: its kind and the innermost lines of ccm and of the target."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/ccm/" in f.filename or "/fuzz/" in f.filename
    ]
    lines = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-2:])
    return f"{type(error).__name__} {' '.join(lines)}"


def seeds(name: str) -> list[bytes]:
    """The kept inputs of a target, and a few programs to begin with."""
    kept = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    chance = random.Random(name)
    made = [
        bytes(chance.randrange(256) for _ in range(size))
        for size in (0, 8, 16, 32, 64, 64, 128)
        for _ in range(6)
    ]
    return [path.read_bytes() for path in kept] + made


class Findings:
    """Calls the target, notes what it did not expect."""

    def __init__(self, name: str, where: Path, most: int = 20, slow_s: float = 0.0) -> None:
        from tests.fuzz.targets import TARGETS

        self.name, self.where, self.most = name, where, most
        self.target = TARGETS[name]
        self.found: dict[str, Path] = {}
        self.runs = 0
        self.slow_s = slow_s
        if slow_s:
            signal.signal(signal.SIGVTALRM, _slow)

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        try:
            if self.slow_s:  # of our own time: a process that was stopped or crowded out is not slow
                signal.setitimer(signal.ITIMER_VIRTUAL, self.slow_s)
            self.target(data)
        except Exception as error:
            self.note(data, error)

    def note(self, data: bytes, error: Exception) -> None:
        """Keeps the first, then every shorter input of a place."""
        at = place(error)
        known = self.found.get(at)
        if known is not None and known.stat().st_size <= len(data):
            return
        self.where.mkdir(parents=True, exist_ok=True)
        path = known or self.where / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
        path.write_bytes(data)
        if known is None:
            self.found[at] = path
            print(f"\n==== {self.name}: {at}", file=sys.stderr)
            traceback.print_exception(error, limit=-6, file=sys.stderr)
            print(f"case: {path}\n      TARGETS[{self.name!r}]({data!r})", file=sys.stderr, flush=True)
            if len(self.found) >= self.most:
                sys.exit(f"{self.name}: {self.most} findings are enough")


def _slow(number: int, frame: FrameType | None) -> None:
    raise Slow(f"more than {SLOW_S:g} s for one input")


def changed(chance: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them changed, added or taken away."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(out) + 1)
        how = chance.randrange(4)
        if how == 0:
            out[at : at + 1] = bytes([chance.randrange(256)])
        elif how == 1:
            del out[at : at + chance.randint(1, 8)]
        elif how == 2:
            out[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 16)))
        else:
            out[at:at] = out[:: chance.choice((1, -1))][: chance.randint(1, 16)]
    return bytes(out[:LONGEST])


def plainly(findings: Findings, runs: int, seconds: float, seed: int = 0, more: Sequence[bytes] = ()) -> None:
    """Random changes of the seeds and of `more`, the same for the same `seed`."""
    chance = random.Random(seed)
    pool = [*seeds(findings.name), *more]
    ends = time.monotonic() + seconds if seconds else float("inf")
    for data in pool:
        findings(data)
    for n in range(runs):
        if n % 64 == 0 and time.monotonic() > ends:
            break
        data = changed(chance, chance.choice(pool))
        if more and n % 4 == 0:  # the end of another one
            data = (data + chance.choice(pool)[chance.randrange(64) :])[:LONGEST]
        findings(data)


def main() -> None:
    """`python -m tests.fuzz.run NAME RUNS SECONDS DIRECTORY [plain]`: the worker of one target."""
    name, runs, seconds, where = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    corpus = where / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    try:
        if "plain" in sys.argv[5:]:
            raise ImportError
        import atheris
    except ImportError:
        findings = Findings(name, where, slow_s=SLOW_S)
        grown = [path.read_bytes() for path in sorted(corpus.iterdir())]
        seed = int.from_bytes(os.urandom(4), "big")
        print(f"{name}: changes of {len(grown)} grown inputs, seed {seed}", flush=True)
        plainly(findings, runs or 1 << 62, seconds, seed, grown)
        print(f"{name}: {findings.runs} runs without coverage", flush=True)
        return
    with atheris.instrument_imports(include=["ccm"]):
        findings = Findings(name, where, slow_s=SLOW_S)
    for n, data in enumerate(seeds(name)):
        (corpus / f"seed-{n:03d}").write_bytes(data)
    options = [
        f"-max_len={LONGEST}",
        "-timeout=600",  # by the clock on the wall, for what the interpreter cannot interrupt
        "-report_slow_units=600",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={where}/crash-",
    ]
    options += [f"-runs={runs}"] if runs else []
    options += [f"-max_total_time={int(seconds)}"] if seconds else []
    atheris.Setup([sys.argv[0], *options, str(corpus)], findings)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
