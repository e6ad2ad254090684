"""What keeping figures costs: two ccm side by side, one with the usage store and one without, the same requests to both.

    python -m tests.bench.figures [--rounds 5] [--requests 300]

CPU time of each process per request, from /proc, in interleaved rounds; the ratio is the result. Two kinds of requests:
a small JSON one, where whatever is added shows most, and a streamed one of the size of Claude Code's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.gateway import Gateway, providers
from tests.http1 import Client, message
from tests.upstream import Upstream

_TICK = os.sysconf("SC_CLK_TCK")
KINDS = ("tiny", "streamed")
_PADDING = "All work and no play makes Jack a dull boy. " * 3200  # 140 KB


def cpu_s(pid: int) -> float:
    """CPU time of a process in seconds, user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def load(gateway: Gateway, kind: str, requests: int) -> float:
    """CPU microseconds per request."""
    before = cpu_s(gateway.pid)
    with Client(gateway.base_url, timeout=30) as client:
        for _ in range(requests):
            body = message(stream=False) if kind == "tiny" else message(system=_PADDING)
            assert client.post(body).status == 200
    return 1e6 * (cpu_s(gateway.pid) - before) / requests


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.figures", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args(arguments)
    text = "word " * 600
    with Upstream() as up, tempfile.TemporaryDirectory(prefix="ccm-figures-") as home:
        up.always("/a", ("answer", {"text": text}))
        pair = {}
        for name in ("on", "off"):
            config = providers(up, "a") + f"[usage]\nenabled = {'true' if name == 'on' else 'false'}\n"
            pair[name] = Gateway(Path(home) / name, config).start()
        try:
            for kind in KINDS:
                for gateway in pair.values():
                    load(gateway, kind, 50)
                rounds = []
                for _ in range(given.rounds):
                    rounds.append({name: load(g, kind, given.requests) for name, g in pair.items()})
                ratio = statistics.median(r["on"] / r["off"] for r in rounds)
                on, off = (statistics.median(r[name] for r in rounds) for name in ("on", "off"))
                print(
                    f"{kind:9} with {on:6.0f} us  without {off:6.0f} us  x {ratio:.3f} (median of {given.rounds})"
                )
        finally:
            for gateway in pair.values():
                gateway.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
