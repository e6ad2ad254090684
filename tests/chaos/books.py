"""The account under everything at once (A17): failovers, cancels, continued streams, hedges, and kill -9 at random; then
every request has one row, and the sums are the provider's own."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter

from tests import answers
from tests.chaos.chaos import FAULTS, Result, Script, Setting, number_of, promise
from tests.chaos.kills import Nemesis, finish, world
from tests.chaos.ledger import (
    SAFE_S,
    SAFE_SHORT_S,
    Audit,
    Books,
    Crowd,
    database,
    priced,
    report,
    spent,
    whole,
)
from tests.http1 import Client
from tests.upstream import Seen, Upstream

# Faults that are one call each for sure: a reset on a kept connection may be tried again without counting (row 6).
QUICK = ("500", "502", "503", "529", "429", "html", "empty", "error-in-200", "garbage")
_SAID = "answer-{number}- and a sentence long enough to be continued by somebody else, which goes like this:"
_REST = " and so it ends."
_QUOTE = re.compile(r"characters:\n\n(.*?)\n\nRepeat", re.S)


def _broken(seen: Seen, rng: random.Random) -> Script:
    """A stream that breaks in its text; a JSON answer comes whole, for it cannot be continued."""
    number, dialect = number_of(seen), answers.dialect_of(seen.path)
    if not seen.json.get("stream"):
        return whole(seen, number, f"answer-{number}- whole")
    events = priced(dialect, answers.events(dialect, _SAID.format(number=number)), spent(number))
    if dialect == "anthropic":
        events = events[: next(i for i, e in enumerate(events) if e["type"] == "content_block_stop")]
    else:
        events = [e for e in events if isinstance(e, dict) and not e.get("usage")]
        events = [e for e in events if e["choices"] and not e["choices"][0].get("finish_reason")]
    return [("sse", events), ("stall", 0.02), ("cut", rng.choice(("rst", "fin")))]


def _continuation(seen: Seen, rng: random.Random) -> Script:
    """Goes on where it is asked to; otherwise answers anew (a repetition of a broken request)."""
    number = number_of(seen)
    last = seen.json["messages"][-1]["content"]
    text = last if isinstance(last, str) else "".join(part.get("text", "") for part in last)
    found = _QUOTE.search(text)
    return whole(seen, number, found[1] + _REST if found else f"answer-{number}- anew")


def _slow(seen: Seen, rng: random.Random) -> Script:
    return [("stall", 20)]


SCRIPTS = {name: FAULTS[name] for name in QUICK} | {
    "broken": _broken, "continuation": _continuation, "slow": _slow, "hedge": _slow,
}  # fmt: skip


class Fates:
    """What befalls each request; by its number alone, so that a seed repeats it."""

    def __init__(self, seed: int, hedged: range) -> None:
        self._seed, self._hedged = seed, hedged

    def of(self, number: int) -> str:
        """ "plain", "fault", "two faults", "broken", "early" or "midway"."""
        draw = random.Random(f"{self._seed} {number}").random()
        for share, name in (
            (0.14, "fault"),
            (0.03, "two faults"),
            (0.08, "broken"),
            (0.05, "early"),
            (0.05, "midway"),
        ):
            if draw < share:
                return name
            draw -= share
        return "plain"

    def call(self, number: int, nth: int) -> str:
        """What the nth call for a request meets."""
        if number in self._hedged:
            return "hedge" if nth == 0 else "answer"
        if number < self._hedged.stop:
            return "answer"
        kind = self.of(number)
        if kind in ("fault", "two faults"):
            faults = 2 if kind == "two faults" else 1
            return random.Random(f"{number} {nth}").choice(QUICK) if nth < faults else "answer"
        if kind == "broken":
            return "broken" if nth == 0 else "continuation"
        if kind == "early":
            return "slow"
        return "answer"

    def leaves(self, number: int) -> str:
        """Where the client leaves, if it does."""
        kind = self.of(number) if number >= self._hedged.stop else ""
        return kind if kind in ("early", "midway") else ""


def _hedges(crowd: Crowd, numbers: range) -> None:
    """Requests that are answered by a second provider after five seconds, side by side."""

    def one(number: int) -> None:
        with Client(crowd.gateway.base_url, timeout=30) as client:
            entry, _ = crowd.ask(client, number, stream=True)
            crowd.journal.append(entry)

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def books(setting: Setting) -> Result:
    """Two thousand requests of all kinds, and a kill every two seconds (issue 7, must show 2)."""
    count, times = setting.of(2000, 150), setting.of(8, 1)
    warm, hedges = setting.of(100, 0), setting.of(4, 0)
    fates = Fates(setting.seed, range(warm, warm + hedges))
    ledger = Books(fates.call, SCRIPTS)
    more = "[load_balancing]\nstrategy = 'priority'\nhedge = true\n"
    with world(ledger, {"midstream": "continue", "backoff_ms": 10}, more) as (up, gateway):
        crowd = Crowd(gateway, fates.leaves)
        for thread in crowd.start(4, warm):
            thread.join(60)
        _hedges(crowd, range(warm, warm + hedges))
        crowd.next = warm + hedges
        crowd.wait_s = setting.of(40, 10) / 1000
        threads = crowd.start(6, count)
        nemesis = Nemesis(gateway, setting.seed)
        nemesis.run(times, setting.of(20, 8) / 10, setting.of(30, 12) / 10, ["a", "c"])
        finish(crowd, threads, gateway)
        time.sleep(0.1)
        audit = Audit(
            crowd.journal, ledger.served, nemesis.kills, SAFE_S if setting.full else SAFE_SHORT_S
        ).run(database(gateway))
    broken = [*nemesis.broken[:3], *crowd.broken[:5], *audit.broken[:8]]
    promise(broken, not audit.broken, f"{len(audit.broken)} entries differ")
    promise(
        broken, len(crowd.journal) == count, f"{len(crowd.journal)} of {count} requests have come to an end"
    )
    lines = report(audit, crowd.journal)
    lines += _met(crowd, up, ledger, broken, hedges)
    lines.append(("kills", f"{len(nemesis.kills)}, back after {max(nemesis.back_s):.2f} s at most"))
    return Result("books", lines, broken)


def _met(crowd: Crowd, up: Upstream, ledger: Books, broken: list[str], hedges: int) -> list[tuple[str, str]]:
    """What the run was made of: without failovers, seams and hedges it would show little."""
    done = {entry.number: entry for entry in crowd.journal if entry.outcome == "complete"}
    met: Counter[str] = Counter()
    for number, entry in done.items():
        legs = ledger.served[number].legs
        met["failed over"] += len(legs) > 1 and "broken" not in dict(legs).values() and legs[0][1] != "hedge"
        met["continued"] += any(fate == "continuation" for _, fate in legs) and len(legs) > 1
        met["hedged"] += "hedged" in entry.attempts
    for name, least in (("failed over", 5), ("continued", 1), ("hedged", hedges)):
        promise(broken, met[name] >= least, f"only {met[name]} requests were {name}")
    return [("of those complete", ", ".join(f"{n} {name}" for name, n in sorted(met.items())))]
