"""kill -9 again and again, under load (A11): nothing corrupt, nothing lost that was acknowledged more than a second
before, and back within two seconds."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ccm.control.client import ask
from ccm.errors import ControlError
from tests.chaos.chaos import FAILOVER, Result, Setting, promise
from tests.chaos.ledger import SAFE_S, SAFE_SHORT_S, Audit, Books, Crowd, database, report, sound
from tests.gateway import Gateway, provider
from tests.upstream import Upstream

BACK_S = 2.0


@dataclass
class Nemesis:
    """Kills a gateway and starts it again; meanwhile somebody switches providers. Everything that was found wrong is in
    `broken`."""

    gateway: Gateway
    seed: int
    kills: list[float] = field(default_factory=list)  # monotonic
    back_s: list[float] = field(default_factory=list)
    switches: int = 0
    litter: int = 0  # temporary files a kill left behind, at most at one time
    broken: list[str] = field(default_factory=list)
    _acknowledged: str | None = None
    _tried: set[str] = field(default_factory=set)

    def run(self, times: int, least_s: float, most_s: float, names: list[str]) -> None:
        """So many kills, each after a random time."""
        rng = random.Random(self.seed)
        for _ in range(times):
            until = time.monotonic() + rng.uniform(least_s, most_s)
            killer = threading.Timer(max(0.0, until - time.monotonic()), self._kill)
            killer.start()
            while killer.is_alive():
                self._switch(rng.choice(names))
                time.sleep(rng.uniform(0, 0.05))
            killer.join()
            self._check_files()
            self._start_again()
            self._check_switch()

    def _kill(self) -> None:
        self.kills.append(time.monotonic())
        os.kill(self.gateway.pid, signal.SIGKILL)

    def _switch(self, name: str) -> None:
        """Puts a provider first. What was acknowledged must outlive a kill; what was not, may."""
        self._tried.add(name)
        try:
            ask(self.gateway.env["CCM_SOCKET"], "POST", "/switch", {"name": name})
        except ControlError:
            return
        self._acknowledged, self._tried = name, set()
        self.switches += 1

    def _check_files(self) -> None:
        process = self.gateway.process
        assert process is not None
        process.wait(10)
        folder = database(self.gateway).parent
        state = folder / "state.json"
        try:
            if state.exists():
                json.loads(state.read_bytes())
        except ValueError as error:
            self.broken.append(f"kill {len(self.kills)}: the state file is corrupt: {error}")
        if database(self.gateway).exists() and (wrong := sound(database(self.gateway))):
            self.broken.append(f"kill {len(self.kills)}: the usage database: {wrong}")
        self.litter = max(self.litter, len(list(folder.glob(".*.tmp"))))

    def _start_again(self) -> None:
        began = time.monotonic()
        self.gateway.start()
        self.back_s.append(time.monotonic() - began)

    def _check_switch(self) -> None:
        primary = ask(self.gateway.env["CCM_SOCKET"], "GET", "/status").get("primary")
        if self._acknowledged is not None and primary not in {self._acknowledged, *self._tried}:
            self.broken.append(
                f"kill {len(self.kills)}: {self._acknowledged} was switched to, {primary} is first"
            )
        self._acknowledged, self._tried = primary, set()


@contextmanager
def world(
    books: Books, failover: dict[str, object] | None = None, more: str = "", **timeouts: float
) -> Iterator[tuple[Upstream, Gateway]]:
    """A running ccm in front of three providers that keep these books; two dialects."""
    limits = {
        "connect_s": 2,
        "header_s": 12,
        "first_content_s": 12,
        "first_content_thinking_s": 12,
        **timeouts,
    }
    with tempfile.TemporaryDirectory(prefix="ccm-books-") as home, Upstream() as up:
        config = "".join(
            provider(up, name, dialect, priority=n + 1, timeouts=limits)
            for n, (name, dialect) in enumerate(
                (("a", "anthropic"), ("b", "openai_chat"), ("c", "anthropic"))
            )
        )
        for name in "abc":
            up.always(f"/{name}", books.answer)
        gateway = Gateway(
            Path(home), config + more, failover=FAILOVER | (failover or {}), proxy={"log_level": "warning"}
        )
        gateway.start()
        try:
            yield up, gateway
        finally:
            if gateway.process is not None:
                assert gateway.stop() == 0, gateway.log()[-2000:]


def finish(crowd: Crowd, threads: list[threading.Thread], gateway: Gateway) -> None:
    """Lets the clients come to their end, and ccm stop in order."""
    for thread in threads:
        thread.join(60)
    if any(thread.is_alive() for thread in threads):
        crowd.broken.append("clients have not come back")
        crowd.stop.set()
    status = gateway.stop()
    if status != 0:
        crowd.broken.append(f"ccm ended with {status}:\n{gateway.log()[-1500:]}")


def kills(setting: Setting) -> Result:
    """Two hundred kills under load."""
    times = setting.of(200, 3)
    fate: Callable[[int, int], str] = lambda number, nth: "answer"  # noqa: E731
    books = Books(fate, {})
    with world(books) as (_, gateway):
        config = gateway.config_path.read_bytes()
        crowd = Crowd(gateway, wait_s=0.01)
        threads = crowd.start(setting.of(6, 4), 1 << 30)
        nemesis = Nemesis(gateway, setting.seed)
        nemesis.run(times, 0.2, setting.of(24, 20) / 10, ["a", "b", "c"])
        time.sleep(0.3)
        crowd.stop.set()
        finish(crowd, threads, gateway)
        broken = [*nemesis.broken[:5], *crowd.broken[:5]]
        promise(broken, gateway.config_path.read_bytes() == config, "the configuration has changed")
        audit = Audit(
            crowd.journal, books.served, nemesis.kills, SAFE_S if setting.full else SAFE_SHORT_S
        ).run(database(gateway))
    broken += audit.broken[:8]
    ordered = sorted(nemesis.back_s)
    middle, slowest = ordered[len(ordered) // 2], ordered[-1]
    promise(broken, not audit.broken, f"{len(audit.broken)} entries differ")
    # A machine that is busy with other things may take its time once in a while.
    promise(
        broken, middle < BACK_S and slowest < 3 * BACK_S, f"back after {middle:.2f}, {slowest:.2f} s at most"
    )
    late = sum(seconds >= BACK_S for seconds in ordered)
    lines = [
        ("kills", f"{len(nemesis.kills)}, {nemesis.switches} switches acknowledged, none forgotten"),
        ("back after", f"{middle:.2f} s, {slowest:.2f} at most, {late} times more than {BACK_S:.0f}"),
        ("left lying", f"{nemesis.litter} temporary files"),
        *report(audit, crowd.journal),
    ]
    return Result("kill -9", lines, broken)
