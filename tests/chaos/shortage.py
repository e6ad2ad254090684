"""What a machine may lack (A16): room on the disk, the right to write, descriptors, a clock that runs evenly, somebody who
reads the log. Requests are served all the same, 99.9 % of them at least, and ccm says what it lacks."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccm.control.client import ask
from tests.chaos import ledger
from tests.chaos.chaos import FAILOVER, Result, Setting, Tally, drive, good, left_behind, promise
from tests.chaos.cramped import NO_RIGHTS
from tests.gateway import Gateway, providers
from tests.http1 import Client
from tests.upstream import Upstream

CRAMPED = str(Path(__file__).with_name("cramped.py"))
SERVED = 0.999


class Cannot(Exception):
    """The condition can't be made on this machine; says why."""


@contextmanager
def cramped(
    *conditions: str, env: dict[str, str] | None = None, before: Callable[[Path], None] = lambda disk: None,
    **proxy: Any,
) -> Iterator[tuple[Upstream, Gateway, Path]]:  # fmt: skip
    """A ccm in these conditions; `{disk}` in them is its HOME, a directory apart from its configuration. Raises
    Cannot."""
    with tempfile.TemporaryDirectory(prefix="ccm-cramped-") as home, Upstream() as up:
        for name in "ab":
            up.always(f"/{name}", good)
        disk = Path(home) / "disk"
        disk.mkdir()
        before(disk)
        own = {"HOME": str(disk), "XDG_STATE_HOME": str(disk / "state"), **(env or {})}
        gateway = Gateway(
            Path(home),
            providers(up, "a", "b"),
            failover=FAILOVER,
            env=own,
            proxy={"log_level": "info", **proxy},
        )
        gateway.program = [CRAMPED, *(c.format(disk=disk) for c in conditions), "--", "-m", "ccm"]
        try:
            gateway.start()
        except AssertionError as error:
            if gateway.process is not None and gateway.process.poll() == NO_RIGHTS:
                raise Cannot(str(error).splitlines()[-1]) from None
            raise
        try:
            yield up, gateway, disk
        finally:
            assert gateway.stop() == 0, gateway.log()[-2000:]


def _serve(gateway: Gateway, setting: Setting, broken: list[str], workers: int = 8) -> tuple[Tally, str]:
    """A load, judged; and its line in the table."""
    tally = drive(gateway, setting.of(4000, 150), workers)
    broken += tally.broken[:3]
    promise(broken, tally.rate >= SERVED, f"{tally.rate:.2%} served: {dict(tally.statuses)} {tally.told[:2]}")
    late_ms = tally.percentile(0.99) * 1e3
    return tally, f"{tally.rate:.3%} of {tally.replies}, p99 {late_ms:.0f} ms"


def _problem(gateway: Gateway) -> str:
    """What status says of usage that cannot be kept; "" when it is kept."""
    warnings = ask(gateway.env["CCM_SOCKET"], "GET", "/status", timeout_s=10)["warnings"]
    return next((str(text) for text in warnings if "usage" in text), "")


def _kept(gateway: Gateway) -> int:
    return int(ask(gateway.env["CCM_SOCKET"], "GET", "/usage", timeout_s=10)["store"]["rows"])


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def full_disk(setting: Setting) -> Result:
    """The disk of the user's own directory fills up, and is emptied again: rows are kept again."""
    broken, lines = list[str](), list[tuple[str, str]]()

    def fill(place: Path) -> None:
        with (place / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    try:
        with cramped("full={disk}") as (_, gateway, disk):
            inside = Path(f"/proc/{gateway.pid}/root{disk}")
            first, line = _serve(gateway, setting, broken)
            lines.append(("room left", line))
            fill(inside)
            second, line = _serve(gateway, setting, broken)
            lines.append(("full", line))
            promise(broken, _wait(lambda: bool(_problem(gateway)), 5), "status says nothing of it")
            lines.append(("status says", _problem(gateway)[:200]))
            (inside / "ballast").unlink()
            promise(broken, _wait(lambda: not _problem(gateway), 45), f"still: {_problem(gateway)}")
            total = first.replies + second.replies
            promise(broken, _wait(lambda: _kept(gateway) >= total, 15), f"{_kept(gateway)} rows of {total}")
            lines.append(("room again", f"{_kept(gateway)} rows of {total} requests"))
    except Cannot as why:
        return _small_files(setting, str(why))
    return Result("full disk", lines, broken)


def _small_files(setting: Setting, why: str) -> Result:
    """The same without the right to mount: no file may grow beyond 200 KB."""
    broken = list[str]()
    with cramped("file-size=200000") as (_, gateway, _disk):
        _, line = _serve(gateway, setting, broken)
        said = _problem(gateway)
    lines = [("no mounts here", why), ("files of 200 KB", line), ("status says", said or "all rows are kept")]
    return Result("full disk", lines, broken)


def read_only(setting: Setting) -> Result:
    """The user's own directory cannot be written: ccm starts, serves, and says so."""
    broken, lines = list[str](), list[tuple[str, str]]()
    try:
        with cramped("read-only={disk}") as (_, gateway, _disk):
            _, line = _serve(gateway, setting, broken)
            promise(broken, _wait(lambda: bool(_problem(gateway)), 5), "status says nothing of it")
            problem = _problem(gateway)
            ask(gateway.env["CCM_SOCKET"], "POST", "/switch", {"name": "b"}, timeout_s=10)
            told = gateway.ctl("status").stdout
            promise(
                broken, "cannot be saved" in told, f"a switch that cannot be kept is not told:\n{told[:800]}"
            )
            with Client(gateway.base_url) as client:
                reply = client.post(_message(1))
            promise(broken, reply.headers.get("x-ccm-provider") == "b", "the switch does not hold")
            lines += [("served", line), ("status says", problem[:160])]
    except Cannot as why:
        lines.append(("skipped", str(why)))
    return Result("read-only home", lines, broken)


def _message(number: int) -> dict[str, Any]:
    from_answer: dict[str, Any] = {
        "model": "claude-sonnet-5-5", "max_tokens": 64,
        "messages": [{"role": "user", "content": f"request-{number}- please"}],
    }  # fmt: skip
    return from_answer


def descriptors(setting: Setting) -> Result:
    """64 descriptors: requests are served, a storm of connections costs no CPU, and ccm recovers."""
    broken, lines = list[str](), list[tuple[str, str]]()
    with cramped("descriptors=64") as (_, gateway, _disk):
        _, line = _serve(gateway, setting, broken, workers=6)
        lines.append(("6 clients", line))
        before = left_behind(gateway)[1]
        storm = []
        for _ in range(100):
            try:
                storm.append(Client(gateway.base_url, timeout=2))
            except OSError:
                break
        time.sleep(0.3)
        began, spent_s = time.monotonic(), _cpu_s(gateway.pid)
        time.sleep(setting.of(3, 1))
        share = (_cpu_s(gateway.pid) - spent_s) / (time.monotonic() - began)
        promise(
            broken, share < 0.10, f"{share:.0%} of a CPU while {len(storm)} connections wait, 10 % promised"
        )
        for client in storm:
            client.close()
        lines.append((f"{len(storm)} connections", f"{share:.1%} of a CPU meanwhile"))
        time.sleep(0.5)
        _, line = _serve(gateway, setting, broken, workers=6)
        after = left_behind(gateway)[1]
        promise(broken, after < 60, f"descriptors {before} -> {after}")
        lines.append(("afterwards", f"{line}; descriptors {before} -> {after}"))
    return Result("64 descriptors", lines, broken)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _faketime() -> str:
    """The library that lies about the time. Raises Cannot."""
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        raise Cannot("libfaketime is not installed (pip install libfaketime)")
    found = sorted(Path(spec.origin).parent.rglob("libfaketime.so.1"))
    if not found:
        raise Cannot("libfaketime has no library for this system")
    return str(found[0])


def clock(setting: Setting) -> Result:
    """The wall clock jumps by a day, forward and back, again and again: nothing but labels may follow it."""
    broken, lines = list[str](), list[tuple[str, str]]()
    try:
        library = _faketime()
    except Cannot as why:
        return Result("clock jumps", [("skipped", str(why))], broken)
    with tempfile.TemporaryDirectory(prefix="ccm-clock-") as folder:
        kept: dict[str, list[dict[str, Any]]] = {}
        stamp = Path(folder) / "stamp"
        stamp.write_text("+0s\n")
        env = {
            "LD_PRELOAD": library, "FAKETIME_NO_CACHE": "1", "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        with cramped(env=env) as (_, gateway, _disk):
            done, jumps = threading.Event(), list[str]()

            def jump() -> None:
                while not done.wait(setting.of(500, 30) / 1000):
                    jumps.append("+86400s" if len(jumps) % 2 == 0 else "-86400s")
                    new = stamp.with_suffix(".new")
                    new.write_text(jumps[-1] + "\n")
                    os.replace(new, stamp)

            thread = threading.Thread(target=jump, daemon=True)
            thread.start()
            try:
                tally, line = _serve(gateway, setting, broken)
            finally:
                done.set()
                thread.join()
            shown = ask(gateway.env["CCM_SOCKET"], "GET", "/status", timeout_s=10)
            held = [p["name"] for p in shown["providers"] if p["state"] != "ready"]
            _wait(lambda: _rows(gateway) >= tally.replies, 5)
            kept, _ = ledger.rows(ledger.database(gateway))
        days = {int(row["at"] // 86400) for found in kept.values() for row in found}
        count = sum(map(len, kept.values()))
        promise(broken, count == tally.replies, f"{count} rows of {tally.replies} requests")
        promise(
            broken, len(days) >= 2 and len(jumps) >= 2, f"the clock did not jump: {sorted(days)}, {jumps}"
        )
        promise(broken, not held, f"out of service: {held}")
        lines += [
            ("served", line),
            ("jumps", f"{len(jumps)} of a day"),
            ("rows", f"{count}, labelled with {len(days)} days"),
        ]
    return Result("clock jumps", lines, broken)


def _rows(gateway: Gateway) -> int:
    path = ledger.database(gateway)
    return sum(map(len, ledger.rows(path)[0].values())) if path.exists() else 0


def log_pipe(setting: Setting) -> Result:
    """Nobody reads the log: its pipe is closed, or full. Lines are lost and counted, requests are not."""
    broken, lines = list[str](), list[tuple[str, str]]()
    for state in ("closed", "full"):
        with cramped(f"pipe={state}") as (_, gateway, _disk):
            _, line = _serve(gateway, setting, broken)
            told = str(ask(gateway.env["CCM_SOCKET"], "GET", "/metrics.prom", timeout_s=10))
            found = re.search(r"^ccm_log_lines_dropped_total (\d+)", told, re.M)
            dropped = int(found[1]) if found else 0
            promise(broken, dropped > 0, "lines were lost, and nobody counted")
            lines.append((f"{state} pipe", f"{line}; {dropped} lines lost and counted"))
    return Result("log pipe", lines, broken)
