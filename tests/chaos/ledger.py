"""Exactly-once accounting, from three sides: what the scripted provider served, what the clients saw, and what stands in
the usage database. Every request names itself as its project, so that its row is found whatever became of it.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import answers, grammar
from tests.chaos.chaos import number_of
from tests.gateway import Gateway
from tests.http1 import Client, message
from tests.upstream import Seen, Step

SAFE_S = 1.0  # what was acknowledged longer ago than this survives kill -9
SAFE_SHORT_S = 3.0  # the same in the test suite, where a busy machine is no news
TOKENS = ("input", "cache_read", "output")


# ---------------------------------------------------------------------------------------------------- the provider
def spent(number: int) -> dict[str, int]:
    """What the answer to a request costs, by the provider's own word."""
    return {"input": 100 + number % 977, "cache_read": 64 * (number % 5), "output": 10 + number % 89}


def priced(dialect: str, body: Any, tokens: dict[str, int]) -> Any:
    """An answer, or its events, with these figures in it, in the way of its API."""
    if isinstance(body, list):
        return [priced(dialect, item, tokens) for item in body]
    if not isinstance(body, dict):
        return body
    out = {key: priced(dialect, value, tokens) for key, value in body.items()}
    usage = out.get("usage")
    if not usage:
        return out
    if dialect == "openai_chat":
        total = tokens["input"] + tokens["cache_read"]
        out["usage"] = {
            "prompt_tokens": total, "completion_tokens": tokens["output"], "total_tokens": total + tokens["output"],
            "prompt_tokens_details": {"cached_tokens": tokens["cache_read"]},
        }  # fmt: skip
    elif "input_tokens" in usage:
        known = {"input_tokens": tokens["input"], "cache_read_input_tokens": tokens["cache_read"]}
        out["usage"] = usage | known | {"output_tokens": 1 if out.get("content") == [] else tokens["output"]}
    else:
        out["usage"] = usage | {"output_tokens": tokens["output"]}
    return out


@dataclass
class Served:
    """What one request has met: at whom, in order, and how ("answer" for a whole one)."""

    legs: list[tuple[str, str]] = field(default_factory=list)
    at: float = 0.0


class Books:
    """The provider's ledger. `fate(number, nth)` says what the nth call for a request meets: "answer", or the name of
    a script in `scripts`."""

    def __init__(
        self, fate: Callable[[int, int], str], scripts: dict[str, Callable[[Seen, random.Random], list[Step]]]
    ) -> None:
        self._fate, self._scripts = fate, scripts
        self._lock = threading.Lock()
        self.served: dict[int, Served] = {}

    def answer(self, seen: Seen) -> list[Step]:
        """The script of one call, and its entry."""
        number, name = number_of(seen), seen.path.split("/")[1]
        with self._lock:
            entry = self.served.setdefault(number, Served(at=time.monotonic()))
            fate = self._fate(number, len(entry.legs))
            entry.legs.append((name, fate))
        if fate != "answer":
            return self._scripts[fate](seen, random.Random(number))
        return whole(seen, number, f"answer-{number}- from {name} ")


def whole(seen: Seen, number: int, text: str) -> list[Step]:
    """A good answer with its figures."""
    dialect = answers.dialect_of(seen.path)
    if seen.json.get("stream"):
        return [("sse", priced(dialect, answers.events(dialect, text), spent(number)))]
    return [("status", 200, {}, priced(dialect, answers.whole(dialect, text), spent(number)))]


# ---------------------------------------------------------------------------------------------------- the clients
@dataclass
class Entry:
    """What a client saw of one request: "complete", "error event", "status <n>", "left" (it went away itself), "died"
    (the connection broke: ccm was killed)."""

    number: int
    outcome: str
    id: str = ""
    began: float = 0.0  # monotonic, when it was sent
    at: float = 0.0  # when it was over for the client
    usage: dict[str, Any] = field(default_factory=dict)
    attempts: str = ""


@dataclass
class Crowd:
    """Clients that never send a request twice. `leaves(number)`: "" or where it leaves ("early", "midway")."""

    gateway: Gateway
    leaves: Callable[[int], str] = lambda number: ""
    journal: list[Entry] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    wait_s: float = 0.0
    next: int = 0
    until: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, clients: int, until: int) -> list[threading.Thread]:
        """Threads that send requests up to number `until`, or until `stop` is set."""
        self.until = until
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        return threads

    def _work(self) -> None:
        client: Client | None = None
        while not self.stop.is_set():
            with self._lock:
                number = self.next
                if number >= self.until:
                    break
                self.next += 1
            if client is None:
                client = self._connect()
                if client is None:
                    break
            entry, kept = self.ask(client, number)
            with self._lock:
                self.journal.append(entry)
            if not kept:
                client.close()
                client = None
            if self.wait_s:
                time.sleep(self.wait_s)
        if client is not None:
            client.close()

    def _connect(self) -> Client | None:
        """A connection; ccm may just be starting again."""
        while not self.stop.is_set():
            try:
                return Client(self.gateway.base_url, timeout=30)
            except OSError:
                time.sleep(0.02)
        return None

    def ask(self, client: Client, number: int, stream: bool | None = None) -> tuple[Entry, bool]:
        """One request; True where the connection can be used again."""
        streamed = number % 3 != 0 if stream is None else stream
        leaves = self.leaves(number)
        body = message(f"request-{number}- please", stream=streamed or leaves == "midway")
        began = time.monotonic()
        entry = Entry(number, "died", began=began)
        try:
            client.send("POST", "/v1/messages", body, {"x-ccm-project": f"n{number}"})
            if leaves == "early":
                time.sleep(0.05)
                entry.outcome, entry.at = "left", time.monotonic()
                return entry, False
            reply = client.begin(began)
            entry.id = reply.headers.get("x-ccm-request-id", "")
            entry.attempts = reply.headers.get("x-ccm-attempts", "")
            pieces = client.pieces(reply, began)
            if leaves == "midway":
                next(pieces, None)
                entry.outcome, entry.at = "left", time.monotonic()
                return entry, False
            for _ in pieces:
                pass
            entry.at = time.monotonic()
            if not reply.ended:
                return entry, False
            self._judge(entry, reply, streamed)
            return entry, reply.headers.get("connection", "").lower() != "close"
        except (OSError, IndexError, ValueError):  # also a head that was cut
            entry.at = time.monotonic()
            return entry, False
        except (AssertionError, KeyError) as error:
            self.broken.append(f"request {number}: {error}"[:300])
            return entry, False

    def _judge(self, entry: Entry, reply: Any, streamed: bool) -> None:
        if reply.status != 200:
            entry.outcome = f"status {reply.status}"
            assert reply.error["message"]
            return
        if streamed:
            events = reply.events
            grammar.check(events)
            if events[-1]["type"] == "error":
                entry.outcome = "error event"
                return
            entry.usage = next(e["message"]["usage"] for e in events if e["type"] == "message_start")
            for event in events:
                if event["type"] == "message_delta":
                    entry.usage = entry.usage | event["usage"]
        else:
            entry.usage = reply.json()["usage"]
        assert f"answer-{entry.number}-" in reply.text, f"a mixed body: {reply.text[:60]!r}"
        entry.outcome = "complete"


# ---------------------------------------------------------------------------------------------------- the audit
Row = dict[str, Any]


def database(gateway: Gateway) -> Path:
    """The usage database of a gateway's home."""
    return Path(gateway.env["HOME"]) / ".claude-code-mux" / "usage.db"


def rows(path: Path) -> tuple[dict[str, list[Row]], dict[int, list[Row]]]:
    """(requests by project, attempts by request), read as an outsider would."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        requests: dict[str, list[Row]] = {}
        for row in db.execute("SELECT * FROM requests"):
            requests.setdefault(row["project"], []).append(dict(row))
        attempts: dict[int, list[Row]] = {}
        for row in db.execute("SELECT * FROM attempts ORDER BY request, n"):
            attempts.setdefault(row["request"], []).append(dict(row))
    return requests, attempts


def sound(path: Path) -> str:
    """ "" for a sound database, else what is wrong; sums that differ from their rows are wrong, too."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            (told,) = db.execute("PRAGMA integrity_check").fetchone()
            if told != "ok":
                return str(told)
            if db.execute("PRAGMA user_version").fetchone() == (0,):
                return ""  # killed before it had any table
            counted = "SELECT sum(surface <> 'count_tokens'), sum(attempts) FROM requests"
            if (rows := db.execute(counted).fetchone()) != (
                sums := db.execute("SELECT sum(requests), sum(attempts) FROM hours").fetchone()
            ):
                return f"the rows have {rows}, their sums {sums}"
            for name in TOKENS:
                (one,) = db.execute(
                    f"SELECT coalesce((SELECT sum({name}) FROM requests), 0) + "
                    f"coalesce((SELECT sum({name}) FROM attempts WHERE partial), 0)"
                ).fetchone()
                (other,) = db.execute(f"SELECT coalesce(sum({name}), 0) FROM hours").fetchone()
                if one != other:
                    return f"{name} adds up to {one}, the sums say {other}"
    except sqlite3.Error as error:
        return str(error)
    return ""


@dataclass
class Audit:
    """The three sides compared. `kills` are monotonic instants."""

    journal: list[Entry]
    served: dict[int, Served]
    kills: list[float]
    safe_s: float = SAFE_S
    broken: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)  # as the ledger has them
    booked: Counter[str] = field(default_factory=Counter)  # as the rows have them

    def acknowledged(self, entry: Entry) -> bool:
        """Whether a request must be in the database: no kill while it ran, nor within a second of its end. (A client
        may read the end of its answer when ccm is dead already.)"""
        return all(not entry.began < kill < entry.at + self.safe_s for kill in self.kills)

    def run(self, path: Path) -> Audit:
        """Compares; call it when ccm has stopped in order."""
        requests, attempts = rows(path)
        if wrong := sound(path):
            self.broken.append(f"the database is not sound: {wrong}")
        for entry in self.journal:
            found = requests.get(f"n{entry.number}", [])
            self._count(entry, found)
            if len(found) == 1:
                self._compare(entry, found[0], attempts.get(found[0]["seq"], []))
        known = {f"n{entry.number}" for entry in self.journal}
        strange = [name for name in requests if name.startswith("n") and name not in known]
        if strange:
            self.broken.append(f"{len(strange)} rows of requests that nobody sent: {strange[:3]}")
        if self.tokens != self.booked:
            self.broken.append(f"the ledger says {dict(self.tokens)}, the rows {dict(self.booked)}")
        return self

    def _count(self, entry: Entry, found: list[Row]) -> None:
        safe = self.acknowledged(entry) and entry.outcome != "died"
        if entry.outcome == "left":  # it may not have arrived, and its end is noticed a little later
            served = self.served.get(entry.number)
            safe = served is not None and all(not entry.began < kill < entry.at + 4 for kill in self.kills)
        self.found["certain" if safe else "uncertain"] += 1
        self.found["rows"] += len(found)
        if len(found) > 1:
            self.broken.append(f"request {entry.number} ({entry.outcome}) has {len(found)} rows")
        elif safe and not found:
            late = min((kill - entry.at for kill in self.kills if kill > entry.at), default=-1.0)
            self.broken.append(
                f"request {entry.number} ({entry.outcome}) has no row; killed {late:.2f} s later"
            )
        elif not found:
            self.found["lost within 1 s of a kill"] += 1

    def _compare(self, entry: Entry, row: Row, attempts: list[Row]) -> None:
        if entry.outcome == "died":
            return
        where, served = f"request {entry.number} ({entry.outcome})", self.served.get(entry.number, Served())
        endings = {
            "complete": {"complete"}, "error event": {"broken"}, "left": {"client_gone", "complete", "failed"},
        }  # fmt: skip
        expected = endings.get(entry.outcome, {"failed", "refused"})
        if row["ending"] not in expected:
            self.broken.append(f"{where} is booked as {row['ending']}")
        if entry.id and entry.id != row["id"]:
            self.broken.append(f"{where} was told the id {entry.id}, its row has {row['id']}")
        if entry.outcome != "left" and len(attempts) != len(served.legs):
            told = [a["result"] for a in attempts]
            self.broken.append(
                f"{where}: {len(served.legs)} calls ({served.legs}), {len(attempts)} rows: {told}"
            )
        if row["attempts"] != len(attempts):
            self.broken.append(f"{where} says {row['attempts']} attempts, and has {len(attempts)}")
        if entry.outcome == "complete":
            self._tokens(where, entry, row, attempts, served)

    def _tokens(self, where: str, entry: Entry, row: Row, attempts: list[Row], served: Served) -> None:
        expected, mine = spent(entry.number), {name: row[name] for name in TOKENS}
        self.tokens.update(expected)
        self.booked.update(mine)
        if mine != expected:
            self.broken.append(f"{where}: the provider says {expected}, the row {mine} ({served.legs})")
        whole = [a for a in attempts if a["result"] == "200"]
        if len(whole) != 1:
            self.broken.append(f"{where}: {len(whole)} attempts are booked as answered")
        seen = {
            "input": entry.usage.get("input_tokens"),
            "cache_read": entry.usage.get("cache_read_input_tokens") or 0,
        }
        continued = any(fate == "broken" for _, fate in served.legs)
        if not continued and (seen["input"], seen["cache_read"]) != (
            expected["input"],
            expected["cache_read"],
        ):
            late = entry.usage.get("input_tokens") is None
            if not late:
                self.broken.append(
                    f"{where}: the client was told {entry.usage}, the provider says {expected}"
                )
        extra = sum(a["output"] for a in attempts if a["partial"])
        if entry.usage.get("output_tokens") != expected["output"] + (extra if continued else 0):
            self.broken.append(
                f"{where}: the client was told {entry.usage.get('output_tokens')} tokens of output, "
                f"the provider says {expected['output']} and {extra} before the seam"
            )


def report(audit: Audit, journal: list[Entry]) -> list[tuple[str, str]]:
    """The lines of the table."""
    outcomes = Counter(entry.outcome for entry in journal)
    return [
        ("requests", f"{len(journal)}: " + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))),
        ("rows", ", ".join(f"{n} {name}" for name, n in sorted(audit.found.items()))),
        ("ledger", json.dumps(dict(audit.tokens)) + " in complete answers"),
        ("booked", json.dumps(dict(audit.booked))),
    ]
