"""The usage store as a process that dies: kill -9, a full disk, a million rows. Long forms with CCM_LONG=1."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccm.usage import database, queries
from ccm.usage.rows import rows_of
from ccm.usage.store import Store, _commit
from tests.spending import many, record

ROOT = Path(__file__).resolve().parents[2]
LONG = bool(os.environ.get("CCM_LONG"))
LOST_S = 1.0  # nothing acknowledged longer ago than this may be lost

# Puts requests as fast as asked and says of each when it was acknowledged.
_WRITER = """
import sys, time
from ccm.usage.store import Store
from tests.spending import record
store = Store(sys.argv[1], 90, lambda text: print("said", text, flush=True))
store.start()
for n in range(1_000_000):
    store.put(record(f"{sys.argv[2]}-{n}", time.time(), session=f"s{n % 7}", provider=("a", "b")[n % 2]))
    print("put", f"{sys.argv[2]}-{n}", repr(time.monotonic()), flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_kill_9_never_corrupts_and_loses_less_than_a_second(tmp_path: Path) -> None:
    path, said, dice = str(tmp_path / "usage.db"), tmp_path / "said", random.Random(7)
    must: set[str] = set()
    for turn in range(200 if LONG else 20):
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", _WRITER, path, str(turn), "0.002"],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out,
            )  # fmt: skip
        while not said.stat().st_size and process.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.uniform(1.1, 1.7) if turn % 5 == 0 else dice.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
        lines = [line.split() for line in said.read_text().split("\n")[:-1]]  # the last one may be cut
        assert lines and not [line for line in lines if line[0] == "said"], lines
        must |= {id for _, id, at in lines if killed - float(at) > LOST_S}
        db = database.open_for_writing(path)  # runs quick_check: raises where the file is damaged
        ids = [row[0] for row in db.execute("SELECT id FROM requests")]
        db.close()
        assert len(ids) == len(set(ids))
        assert must <= set(ids), f"{len(must - set(ids))} lost in turn {turn}"
    assert len(must) > 100
    with contextlib.closing(database.open_for_reading(path)) as reading:
        assert reading.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        number = reading.execute("SELECT count(*) FROM requests").fetchone()[0]
        assert reading.execute("SELECT count(*) FROM attempts").fetchone()[0] == number
    for by in queries.BY:  # sums are of the same transaction as the rows
        total = queries.costs(path, by, 0.0)["total"]
        assert (total["requests"], total["cost_usd"]) == (number, pytest.approx(number * 0.0045))


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root and unshare"
)
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 400 kB: the writer says so, holds what it can, and reads still work."""
    script = f"""
mount -t tmpfs -o size=400k none {tmp_path} || exit 77
exec {sys.executable} - <<'END'
import json, time
from ccm.usage import queries, store
from tests.spending import many
store.PAUSES_S = (0.05,)
told = []
one = store.Store("{tmp_path}/usage.db", 90, told.append)
one.start()
for made in many(3000, time.time(), 5.0):
    one.put(made)
end = time.monotonic() + 20
while not one.status()["problem"] and time.monotonic() < end:
    one.flush(0.1)
full = one.status()
kept = queries.costs(one.path, "model", 0.0)["total"]["requests"] if full["rows"] else 0
one.stop(10)
print(json.dumps({{"full": full, "kept": kept, "told": told, "end": one.status()}}))
END"""
    found = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if found.returncode == 77 or "unshare failed" in found.stderr:
        pytest.skip("no mounting here")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert "cannot be kept" in told["full"]["problem"] and told["told"]
    assert told["full"]["rows"] + told["full"]["waiting"] == 3000
    assert told["kept"] == told["full"]["rows"]
    assert told["end"]["rows"] + told["end"]["dropped"] == 3000


def test_putting_costs_a_request_next_to_nothing(tmp_path: Path) -> None:
    one = Store(str(tmp_path / "usage.db"), 90, lambda text: None)
    one.start()
    made = [record(f"r{n}", time.time()) for n in range(2000)]
    slices = []
    for start in range(0, 2000, 100):  # the best of many: the machine is shared
        began = time.perf_counter()
        for each in made[start : start + 100]:
            one.put(each)
        slices.append((time.perf_counter() - began) / 100)
        one.flush()
    assert one.stop(10)
    assert min(slices) < 10e-6


@pytest.mark.skipif(not LONG, reason="a million rows take a minute: CCM_LONG=1")
def test_costs_over_a_million_rows_within_a_second(tmp_path: Path) -> None:
    path, now, number, days = str(tmp_path / "usage.db"), time.time(), 1_000_000, 89.0
    db, step = database.open_for_writing(path), 20_000
    sample = many(step, now, 1.0)
    for part in range(number // step):
        rows = []
        for n, each in enumerate(sample):
            each.id, each.session = f"{part}-{n}", f"s{part}-{n // 50}"
            each.at = now - days * 86400 * (1 - (part * step + n) / number)
            rows.append(rows_of(each))
        for start in range(0, step, 1000):
            _commit(db, rows[start : start + 1000])
    db.close()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = {}
    for by in queries.BY:
        command = [
            sys.executable,
            "-m",
            "ccm.cli.ctl",
            "costs",
            "--database",
            path,
            "--by",
            by,
            "--since",
            "90d",
        ]
        took = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, env=env, check=True, capture_output=True, cwd=ROOT)
            took.append(time.perf_counter() - began)
        slow[by] = min(took)
    print("seconds of `ccmctl costs` over a million rows:", {by: round(s, 2) for by, s in slow.items()})
    assert queries.costs(path, "model", 0.0)["total"]["requests"] == number
    assert max(slow.values()) < 1.0, slow
