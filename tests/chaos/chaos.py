"""What chaos scenarios are made of: faults of a provider, answers that repeat their request's number, clients that count,
and what a scenario says in the end.

Each request has a number in its text, and each good answer repeats it with the name of who gave it: an answer that
carries another number is a mixed body. Seeds are printed: the same seed gives the same faults (their order in time
depends on threads). The scenarios themselves stand in the modules beside this one, `suite` has their table.
"""

from __future__ import annotations

import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import answers, grammar
from tests.gateway import Gateway, providers
from tests.http1 import Client, Reply, message
from tests.upstream import Seen, Step, Upstream

TIMEOUTS = {"connect_s": 0.5, "header_s": 0.5, "first_content_s": 0.5, "first_content_thinking_s": 0.5}
FAILOVER = {"enabled": True, "max_retries": 2, "backoff_ms": 20}
_NUMBER = re.compile(r"request-(\d+)-")
_ANSWER = re.compile(r"answer-(\d+)- from (\w+)")
Script = list[Step]


# ---------------------------------------------------------------------------------------------------- the faults
def _status(code: int, headers: dict[str, str] | None = None) -> Callable[[Seen, random.Random], Script]:
    return lambda seen, rng: [("status", code, headers or {}, answers.error("anthropic", code, "no luck"))]


def _same(*steps: Step) -> Callable[[Seen, random.Random], Script]:
    return lambda seen, rng: list(steps)


def _in_stream(seen: Seen, rng: random.Random) -> Script:
    error = answers.error("anthropic", 529, "Overloaded")
    if not seen.json.get("stream"):
        return [("status", 200, {}, error)]
    opening = answers.events("anthropic")[: rng.randrange(3)]
    return [("sse", [*opening, error])]


def _cut(seen: Seen, rng: random.Random) -> Script:
    if not seen.json.get("stream"):
        return [
            ("raw", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"),
            ("cut", "fin"),
        ]
    return [("sse", answers.events("anthropic")[:2]), ("cut", rng.choice(("rst", "fin", "chunk")))]


FAULTS: dict[str, Callable[[Seen, random.Random], Script]] = {
    "500": _status(500), "502": _status(502), "503": _status(503), "504": _status(504), "520": _status(520),
    "529": _status(529), "429": _status(429, {"retry-after-ms": "200"}), "408": _status(408),
    "rst": _same(("cut", "rst")), "fin": _same(("cut", "fin")),
    "html": _same(("status", 200, {"content-type": "text/html"}, "<!doctype html><title>wifi</title>")),
    "empty": _same(("status", 200, {}, b"")), "204": _same(("status", 204, {}, b"")),
    "redirect": _same(("status", 302, {"location": "http://127.0.0.1:1/"}, b"")),
    "error-in-200": _in_stream, "cut": _cut, "silent": _same(("stall", 2.0)),
    "garbage": _same(("head",), ("bytes", b"event: message_start\ndata: {\"ty\n\n"), ("cut", "fin")),
}  # fmt: skip


# a connection that dies on reuse is replaced without counting as an attempt (row 6); silence only takes time
UNCOUNTED = {"rst", "fin", "silent"}


def good(seen: Seen) -> Script:
    """The answer that repeats the number of its request."""
    text = seen.json["messages"][-1]["content"]
    found = _NUMBER.search(text if isinstance(text, str) else text[0]["text"])
    number = found[1] if found else "?"
    name = seen.path.split("/")[1]
    return [
        ("answer", {"text": f"answer-{number}- from {name} " + "x" * (int(number) % 300 if found else 0)})
    ]


def number_of(seen: Seen) -> int:
    found = _NUMBER.search(seen.raw.decode("utf-8", "replace"))
    return int(found[1]) if found else -1


# ---------------------------------------------------------------------------------------------------- the clients
@dataclass
class Tally:
    """What the clients saw, and what was promised and not kept."""

    replies: int = 0
    good: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # what the refused were told
    total_s: list[float] = field(default_factory=list)
    good_at: list[float] = field(default_factory=list)
    from_whom: Counter[str] = field(default_factory=Counter)

    def take(self, number: int, reply: Reply | None, stream: bool) -> None:
        """One answer. None: the connection failed before any."""
        self.replies += 1
        if reply is None:
            self.statuses["no answer"] += 1
            self.broken.append(f"request {number}: ccm closed without an answer")
            return
        self.statuses[str(reply.status)] += 1
        self.total_s.append(reply.total_s)
        if reply.status != 200:
            self.told.append(f"request {number}: {reply.status} {reply.headers.get('x-ccm-attempts', '')}")
            if not reply.headers.get("content-type", "").startswith("application/json"):
                self.broken.append(f"request {number}: {reply.status} is no JSON")
            return
        try:
            if stream:
                grammar.check(reply.events)
            found = _ANSWER.findall(reply.text)
        except (AssertionError, KeyError, ValueError) as error:
            self.broken.append(f"request {number}: {error}"[:200])
            return
        if len(found) != 1 or int(found[0][0]) != number:
            self.broken.append(f"request {number}: a mixed body: {reply.text[:80]!r}")
            return
        self.good += 1
        self.good_at.append(time.monotonic())
        self.from_whom[found[0][1]] += 1

    @property
    def rate(self) -> float:
        return self.good / max(1, self.replies)

    def percentile(self, share: float) -> float:
        """Of all answers' times, in seconds."""
        ordered = sorted(self.total_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def drive(gateway: Gateway, count: int, workers: int, *, every_s: float = 0.0, stop_at: float = 0.0) -> Tally:
    """Sends requests 0 .. count-1 over `workers` connections, half of them streamed; each worker waits `every_s`
    after an answer. With `stop_at` (monotonic) no request begins after it."""
    tally, lock, numbers = Tally(), threading.Lock(), iter(range(count))

    def work() -> None:
        client: Client | None = None
        while not stop_at or time.monotonic() < stop_at:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            stream, reply = number % 2 == 0, None
            for _ in range(2):  # a kept connection may have been closed meanwhile
                try:
                    client = client or Client(gateway.base_url, timeout=30)
                    reply = client.post(message(f"request-{number}- please", stream=stream))
                    break
                except OSError:
                    client = None
            if reply is not None and (
                not reply.ended or reply.headers.get("connection", "").lower() == "close"
            ):
                client = None
            with lock:
                tally.take(number, reply, stream)
            if every_s:
                time.sleep(every_s)
        if client is not None:
            client.close()

    threads = [threading.Thread(target=work, name=f"client-{n}", daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


# ---------------------------------------------------------------------------------------------------- what a scenario is
@dataclass
class Setting:
    """How much of it. `full` False: the short form that the test suite runs."""

    seed: int = 1
    requests: int = 10_000
    seconds: float = 60.0
    workers: int = 8
    full: bool = True

    def of(self, full: int, short: int) -> int:
        """How many of something that --requests does not scale."""
        return full if self.full else short


@dataclass
class Result:
    """The lines of the printed table, and every promise that was not kept."""

    name: str
    lines: list[tuple[str, str]]
    broken: list[str]


def run(config: Callable[[Upstream], str], scenario: Callable[[Upstream, Gateway], Result]) -> Result:
    """One scenario in front of one upstream and one ccm, which must end as it should."""
    with tempfile.TemporaryDirectory(prefix="ccm-chaos-") as home, Upstream() as up:
        gateway = Gateway(Path(home), config(up), failover=FAILOVER, proxy={"log_level": "error"})
        gateway.start()
        try:
            return scenario(up, gateway)
        finally:
            status = gateway.stop()
            assert status == 0, f"ccm ended with {status}:\n{gateway.log()[-2000:]}"


def three(up: Upstream) -> str:
    """Three providers of equal worth, in this order."""
    return providers(up, "a", "b", "c", timeouts=TIMEOUTS)


def sent_on(up: Upstream) -> Counter[int]:
    """How often each request was sent on."""
    return Counter(number_of(seen) for seen in up.seen())


def promise(broken: list[str], kept: bool, text: str) -> None:
    """Notes a promise that was not kept."""
    if not kept:
        broken.append(text)


def left_behind(gateway: Gateway) -> tuple[int, int]:
    """Threads and descriptors of the process; 0 descriptors where only root may count them."""
    proc = Path(f"/proc/{gateway.pid}")
    try:
        descriptors = len(list((proc / "fd").iterdir()))
    except PermissionError:
        descriptors = 0
    return len(list((proc / "task").iterdir())), descriptors


def table(results: list[Result]) -> str:
    """What to print."""
    out = []
    for result in results:
        out.append(f"{result.name}: {'ok' if not result.broken else 'NOT KEPT'}")
        wide = max([17, *(len(what) for what, _ in result.lines)])
        out += [f"  {what:<{wide}} {figure}" for what, figure in result.lines]
        out += [f"  ! {line}" for line in result.broken]
    return "\n".join(out)
