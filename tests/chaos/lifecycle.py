"""The life of the process under load: upgrades, broken builds, reloads; nobody may notice.

    python -m tests.chaos.lifecycle [--full] [--clients 16] [upgrades broken reloads]

Clients stream in a loop over kept connections and never repeat a request: whatever is not a whole answer to the very
request that was sent counts as failed. A `ccmctl` asks all the time, too. --full is 20,000 requests through ten upgrades,
10,000 through five broken builds (one of them hangs for the ten seconds it is given) and 10,000 through 1,000 reloads,
half of them invalid: four minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccm.cli.handover import follow
from ccm.control.client import ask
from ccm.errors import ControlError
from tests import grammar
from tests.chaos.chaos import Result, good, table
from tests.gateway import REPO, Gateway, provider, providers
from tests.http1 import Client, message
from tests.upstream import Seen, Step, Upstream

BUILD = f"""import sys
sys.path.insert(0, {str(REPO)!r})
from ccm.cli.main import main
sys.exit(main())
"""
# What a broken build may do; each must be rolled back without anybody noticing.
_READY = f"""import os, sys
sys.path.insert(0, {str(REPO)!r})
from ccm.process import heir
inherited = heir.find(os.environ)
"""
BROKEN = {
    "does not start": "this is no Python\n",
    "ends at once": "import sys\nsys.exit(3)\n",
    "dies when it is its turn": _READY + "inherited.ready('9.9.9')\nos._exit(1)\n",
    "says nonsense": _READY + "inherited.channel.sock.sendall(b'hello?\\n')\nimport time\ntime.sleep(30)\n",
}
HANGS = "import time\ntime.sleep(60)\n"


@dataclass(frozen=True, slots=True)
class Setting:
    """How much of it. `load_s`: how long the clients go on at least, around what happens meanwhile."""

    clients: int = 16
    upgrades: int = 10
    requests: int = 20_000
    reloads: int = 1000
    hang: bool = True


SHORT = Setting(clients=8, upgrades=3, requests=400, reloads=20, hang=False)


@dataclass
class Seenby:
    """What the clients and the one who asks over the control socket saw."""

    asked: int = 0
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    reused: int = 0
    control: int = 0
    control_failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


@contextmanager
def load(gateway: Gateway, clients: int, least: int) -> Iterator[Seenby]:
    """Clients that go on until the body is done and they have had `least` answers in all."""
    seen, lock, done = Seenby(), threading.Lock(), threading.Event()
    numbers = iter(range(1 << 30))

    def work() -> None:
        client: Client | None = None
        while not done.is_set() or seen.asked < least:
            with lock:
                number = next(numbers)
                seen.asked += 1
            try:
                if client is None:
                    client = Client(gateway.base_url, timeout=30)
                else:
                    seen.reused += 1
                reply = client.post(message(f"request-{number}- please"))
                if reply.status != 200 or not reply.ended:
                    raise AssertionError(f"{reply.status}, ended {reply.ended}: {reply.body[-200:]!r}")
                grammar.check(reply.events)
                if f"answer-{number}-" not in reply.text:
                    raise AssertionError(f"a mixed body: {reply.text[:60]!r}")
            except (OSError, AssertionError, KeyError, ValueError) as error:
                client = None
                with lock:
                    seen.failed.append(f"request {number}: {type(error).__name__}: {error}"[:300])
                continue
            with lock:
                seen.answered += 1
                seen.slowest_s = max(seen.slowest_s, reply.total_s)
            if reply.headers.get("connection", "").lower() == "close":
                client.close()
                client = None

    def watch() -> None:
        while not done.wait(0.01):
            seen.control += 1
            try:
                ask(gateway.env["CCM_SOCKET"], "GET", "/health")
            except ControlError as error:
                seen.control_failed.append(str(error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    threads.append(threading.Thread(target=watch, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


@contextmanager
def running(config: Callable[[Upstream], str], **proxy: Any) -> Iterator[tuple[Upstream, Gateway]]:
    """A ccm that is a program on disk, so that a new build can be put in its place; nothing of it is left behind."""
    with tempfile.TemporaryDirectory(prefix="ccm-life-") as home, Upstream() as up:
        up.always("/", slowly)
        gateway = Gateway(Path(home), config(up), proxy={"log_level": "info", **proxy})
        gateway.program = [str(Path(home) / "ccm-build.py")]
        install(gateway, BUILD)
        gateway.start()
        pids = {gateway.pid}
        try:
            yield up, gateway
        finally:
            try:
                pids.add(pid_of(gateway))
                ask(gateway.env["CCM_SOCKET"], "POST", "/stop", {"drain": False})
            except ControlError:
                pass
            for pid in pids:
                _gone(gateway, pid)
            assert gateway.process is None or gateway.process.poll() is not None


def slowly(seen: Seen) -> list[Step]:
    """The good answer; one in twenty takes its time, so that there are always streams that outlive a process."""
    (step,) = good(seen)
    (_, what) = step
    pause = 1.0 if random.random() < 0.05 else 0.005
    return [("stall", pause), ("answer", what)]


def install(gateway: Gateway, build: str) -> None:
    """Puts a build in place, as an installer does: by renaming."""
    target = Path(gateway.program[0])
    new = target.with_suffix(".new")
    new.write_text(build)
    os.replace(new, target)


def pid_of(gateway: Gateway) -> int:
    """The process that answers at the control socket."""
    return int(ask(gateway.env["CCM_SOCKET"], "GET", "/health")["pid"])


def hand_over(gateway: Gateway) -> dict[str, Any]:
    """A handover, waited for. Raises ControlError where there was none."""
    path = gateway.env["CCM_SOCKET"]
    return dict(follow(path, ask(path, "POST", "/handover")))


def alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and is not yet reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _gone(gateway: Gateway, pid: int) -> None:
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        if gateway.process is not None:
            gateway.process.poll()
        time.sleep(0.02)
    if alive(pid):
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"process {pid} has not ended:\n{gateway.log()[-2000:]}")
    if gateway.process is not None:
        gateway.process.poll()


def _both(up: Upstream) -> str:
    return providers(up, "a", "b")


def _judge(seen: Seenby, broken: list[str]) -> list[tuple[str, str]]:
    if seen.failed:
        broken.append(f"{len(seen.failed)} of {seen.asked} requests failed: {seen.failed[:3]}")
    if seen.control_failed:
        broken.append(
            f"{len(seen.control_failed)} of {seen.control} ccmctl failed: {seen.control_failed[:3]}"
        )
    if seen.answered + len(seen.failed) != seen.asked:
        broken.append(f"{seen.asked - seen.answered - len(seen.failed)} requests have not come back")
    return [
        ("requests", f"{seen.asked}, {len(seen.failed)} failed, {seen.reused} on kept connections"),
        ("slowest", f"{seen.slowest_s * 1e3:.0f} ms (a stream of 1,000 ms is among them)"),
        ("ccmctl", f"{seen.control} asked, {len(seen.control_failed)} failed"),
    ]


def upgrades(setting: Setting) -> Result:
    """Handover after handover while clients stream (A12); every process but the last one ends by itself."""
    broken: list[str] = []
    times, pids = list[float](), list[int]()
    with running(_both) as (_, gateway):
        pids.append(gateway.pid)
        with load(gateway, setting.clients, setting.requests) as seen:
            for number in range(setting.upgrades):
                time.sleep(0.3)
                while seen.asked < setting.requests * number // setting.upgrades:  # spread over the load
                    time.sleep(0.01)
                began = time.monotonic()
                if number % 3 == 2:
                    os.kill(pids[-1], signal.SIGUSR2)
                    while pid_of(gateway) == pids[-1] and time.monotonic() < began + 10:
                        time.sleep(0.02)
                else:
                    hand_over(gateway)
                times.append(time.monotonic() - began)
                pids.append(pid_of(gateway))
            time.sleep(0.3)
        if len(set(pids)) != setting.upgrades + 1:
            broken.append(f"{len(set(pids)) - 1} new processes of {setting.upgrades}")
        for pid in pids[:-1]:
            _gone(gateway, pid)
        if "Traceback" in gateway.log() or "internal error" in gateway.log():
            broken.append("the log has a traceback")
        lines = _judge(seen, broken)
    lines.append(
        ("upgrades", f"{setting.upgrades}, {sum(times) / len(times):.2f} s each, {max(times):.2f} at most")
    )
    return Result("upgrades", lines, broken)


def broken_builds(setting: Setting) -> Result:
    """A build that does not work is rolled back: the old process goes on, and says so; a good one still gets in."""
    broken: list[str] = []
    told: list[tuple[str, str]] = []
    builds = BROKEN | ({"hangs": HANGS} if setting.hang else {})
    with running(_both) as (_, gateway):
        with load(gateway, setting.clients, setting.requests // 2) as seen:
            for name, build in builds.items():
                install(gateway, build)
                try:
                    hand_over(gateway)
                    broken.append(f"a build that {name} has taken over")
                except ControlError as error:
                    told.append((name, str(error)[:160]))
                if pid_of(gateway) != gateway.pid:
                    broken.append(f"another process serves after a build that {name}")
            install(gateway, BUILD)
            hand_over(gateway)
            if pid_of(gateway) == gateway.pid:
                broken.append("the good build has not taken over")
        lines = _judge(seen, broken)
    return Result("broken builds", lines + told, broken)


def reloads(setting: Setting) -> Result:
    """Valid and invalid configurations in turn, under load: running requests keep theirs, bad ones change nothing
    (A13)."""
    broken: list[str] = []
    outcomes: Counter[str] = Counter()
    bad = (
        "[providers.a\n", "[providers.a]\nprioritty = 1\n", "", "[proxy]\nmax_in_flight = \"many\"\n", "\xff\xfe",
    )  # fmt: skip
    with running(_both, watch=False) as (up, gateway):
        path = gateway.env["CCM_SOCKET"]
        with load(gateway, setting.clients, setting.requests // 2) as seen:
            for number in range(setting.reloads):
                generation = ask(path, "GET", "/status")["generation"]
                if valid := number % 2 == 0:
                    order = ("a", "b") if number % 4 else ("b", "a")
                    one = providers(up, *order, weight=1 + number % 7)
                    gateway.write(one if number % 6 else one + provider(up, "c", priority=9))
                else:
                    gateway.config_path.write_text(bad[number // 2 % len(bad)], "latin-1")
                try:
                    ask(path, "POST", "/reload", timeout_s=30)
                    outcomes["taken"] += 1
                    if not valid:
                        broken.append(f"reload {number}: {gateway.config_path.read_bytes()!r} was taken")
                except ControlError as error:
                    outcomes["refused"] += 1
                    if valid:
                        broken.append(f"reload {number}: {error}")
                status = ask(path, "GET", "/status")
                if status["generation"] != generation + valid or bool(status["config_problem"]) == valid:
                    broken.append(f"reload {number}: {status['generation']}, {status['config_problem']!r}")
        lines = _judge(seen, broken)
    lines.append(("reloads", ", ".join(f"{count} {name}" for name, count in outcomes.items())))
    return Result("reloads", lines, broken)


SCENARIOS: dict[str, Callable[[Setting], Result]] = {
    "upgrades": upgrades,
    "broken": broken_builds,
    "reloads": reloads,
}


def main() -> int:
    """Prints a table; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="20,000 requests, ten upgrades, 1,000 reloads")
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[], metavar="scenario")
    given = parser.parse_args()
    setting = Setting() if given.full else SHORT
    if given.clients:
        setting = Setting(given.clients, setting.upgrades, setting.requests, setting.reloads, setting.hang)
    results = [SCENARIOS[name](setting) for name in given.scenarios or SCENARIOS]
    print(table(results))
    return 1 if any(result.broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
