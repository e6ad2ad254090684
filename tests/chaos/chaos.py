"""Chaos: many requests through a real ccm in front of scripted providers that fail in every way of RELIABILITY 1a.

    scripts/chaos [--seed N] [--requests 10000] [--seconds 60] [--workers 8] [scenario ...]

Every scenario is a function; it returns the lines of the table, and what was promised and not kept. Each request has a
number in its text, and each good answer repeats it with the name of who gave it: an answer that carries another number
is a mixed body. The ledger of the scripted providers says how often each request was sent on. Seeds are printed:
the same seed gives the same faults (their order in time depends on threads).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import answers, grammar
from tests.gateway import Gateway, provider, providers
from tests.http1 import Client, Reply, message
from tests.upstream import Seen, Step, Upstream

TIMEOUTS = {"connect_s": 0.5, "header_s": 0.5, "first_content_s": 0.5, "first_content_thinking_s": 0.5}
_THINKS_S = 0.05  # how long a provider takes to say no
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
_UNCOUNTED = {"rst", "fin", "silent"}


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


# ---------------------------------------------------------------------------------------------------- the scenarios
@dataclass
class Setting:
    """How much of it."""

    seed: int = 1
    requests: int = 10_000
    seconds: float = 60.0
    workers: int = 8


@dataclass
class Result:
    name: str
    lines: list[tuple[str, str]]
    broken: list[str]


def _run(config: Callable[[Upstream], str], scenario: Callable[[Upstream, Gateway], Result]) -> Result:
    with tempfile.TemporaryDirectory(prefix="ccm-chaos-") as home, Upstream() as up:
        gateway = Gateway(Path(home), config(up), failover=FAILOVER, proxy={"log_level": "error"})
        gateway.start()
        try:
            return scenario(up, gateway)
        finally:
            status = gateway.stop()
            assert status == 0, f"ccm ended with {status}:\n{gateway.log()[-2000:]}"


def _three(up: Upstream) -> str:
    return providers(up, "a", "b", "c", timeouts=TIMEOUTS)


def _calls(up: Upstream) -> Counter[int]:
    return Counter(number_of(seen) for seen in up.seen())


def _promise(broken: list[str], kept: bool, text: str) -> None:
    if not kept:
        broken.append(text)


def mixed(setting: Setting) -> Result:
    """A fifth of all requests meets a fault of any kind at whoever is asked first, and one in fifty a second one: what
    three providers can make good, ccm must (A7)."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        kinds, met, lock = sorted(FAULTS), Counter[str](), threading.Lock()
        asked: Counter[int] = Counter()

        def answer(seen: Seen) -> Script:
            number = number_of(seen)
            rng = random.Random(f"{setting.seed} {number}")
            faults = (rng.random() < 0.2) + (rng.random() < 0.02)
            with lock:
                asked[number] += 1
                nth = asked[number]
            if nth > faults:
                return good(seen)
            kind = rng.choice(kinds)
            with lock:
                met[kind] += 1
            return FAULTS[kind](seen, rng)

        for name in "abc":
            up.always(f"/{name}", answer)
        began = time.monotonic()
        tally = drive(gateway, setting.requests, setting.workers)
        seconds = time.monotonic() - began
        most = max(asked.values())
        broken = list(tally.broken[:5])
        _promise(
            broken, tally.rate >= 0.999, f"{tally.rate:.2%} succeed, 99.9 % promised: {dict(tally.statuses)}"
        )
        _promise(broken, most <= 3, f"{most} attempts for one request, 3 promised")
        _promise(broken, len(met) == len(kinds) or setting.requests < 2000, f"only {sorted(met)} were met")
        return Result(
            "mixed faults",
            [
                (
                    "requests",
                    f"{tally.replies} in {seconds:.1f} s, {sum(met.values())} faults of {len(met)} kinds",
                ),
                ("succeeded", f"{tally.rate:.3%}"),
                ("refused", "; ".join(tally.told[:3]) or "none"),
                ("mixed bodies", str(len(tally.broken))),
                ("attempts", f"{sum(asked.values()) / max(1, len(asked)):.3f} a request, {most} at most"),
                (
                    "time",
                    f"p50 {tally.percentile(0.5) * 1e3:.0f} ms, p99 {tally.percentile(0.99) * 1e3:.0f} ms",
                ),
                ("answered by", ", ".join(f"{k} {v}" for k, v in sorted(tally.from_whom.items()))),
            ],
            broken,
        )

    return _run(_three, scenario)


def independent(setting: Setting) -> Result:
    """Every single call fails with 20 %: three attempts can't do better than 1 - 0.2^3 = 99.2 %, and must do as well."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        kinds, lock, rng = sorted(set(FAULTS) - _UNCOUNTED), threading.Lock(), random.Random(setting.seed)

        def answer(seen: Seen) -> Script:
            with lock:
                fault = rng.choice(kinds) if rng.random() < 0.2 else ""
            return FAULTS[fault](seen, random.Random(1)) if fault else good(seen)

        for name in "abc":
            up.always(f"/{name}", answer)
        count = setting.requests // 4
        tally = drive(gateway, count, setting.workers)
        calls = _calls(up)
        broken = list(tally.broken[:5])
        bound = 0.985 if count >= 500 else 0.96
        _promise(broken, tally.rate >= bound, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        _promise(broken, max(calls.values()) <= 3, f"{max(calls.values())} attempts for one request")
        return Result(
            "independent faults",
            [
                ("requests", str(tally.replies)),
                ("succeeded", f"{tally.rate:.2%} (three attempts can do 99.2 %)"),
                ("mixed bodies", str(len(tally.broken))),
                (
                    "attempts",
                    f"{sum(calls.values()) / max(1, len(calls)):.3f} a request, {max(calls.values())} at most",
                ),
            ],
            broken,
        )

    return _run(_three, scenario)


def outage(setting: Setting) -> Result:
    """Everybody is down for a while: calls <= 1.2 x requests, 503 with a retry-after, back at once (A8)."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        rng, seconds = random.Random(setting.seed), setting.seconds / 4
        down = threading.Event()
        down.set()
        lock, began = threading.Lock(), time.monotonic()

        def answer(seen: Seen) -> Script:
            if not down.is_set():
                return good(seen)
            with lock:
                kind = rng.choice(("500", "502", "503", "529", "504"))
            return [("stall", _THINKS_S), *FAULTS[kind](seen, rng)]

        for name in "abc":
            up.always(f"/{name}", answer)
        end = time.monotonic() + seconds
        tally = drive(gateway, 1 << 30, 4, every_s=0.2, stop_at=end)
        calls, requests = len(up.seen()), tally.replies
        probes = [
            seen for seen in up.seen() if seen.at > began + 3.0
        ]  # by then everybody is known to be down
        at_once = max(
            (
                sum(other.path == one.path and one.at <= other.at < one.at + _THINKS_S for other in probes)
                for one in probes
            ),
            default=0,
        )
        down.clear()
        recovered = time.monotonic()
        after = drive(gateway, 1 << 30, 4, every_s=0.1, stop_at=recovered + min(35.0, seconds))
        back_s = min(after.good_at, default=recovered + 999) - recovered
        broken = [*tally.broken[:3], *after.broken[:3]]
        _promise(broken, tally.good == 0, "something answered although everybody was down")
        _promise(broken, set(tally.statuses) <= {"503", "502"}, f"statuses {dict(tally.statuses)}")
        _promise(broken, calls <= 1.2 * requests, f"{calls} calls for {requests} requests, 1.2 x promised")
        _promise(broken, at_once <= 1, f"{at_once} probes in flight at one provider, 1 promised")
        _promise(broken, back_s <= 35, f"first success {back_s:.1f} s after recovery, 35 promised")
        return Result(
            "full outage",
            [
                (
                    "outage",
                    f"{seconds:.0f} s, {requests} requests, {calls} calls: {calls / max(1, requests):.2f} x",
                ),
                ("probes at once", f"{at_once} at one provider, {len(probes)} in all"),
                ("answers", ", ".join(f"{v} x {k}" for k, v in sorted(tally.statuses.items()))),
                (
                    "time",
                    f"p50 {tally.percentile(0.5) * 1e3:.0f} ms, p99 {tally.percentile(0.99) * 1e3:.0f} ms",
                ),
                ("back", f"{back_s:.2f} s after recovery, then {after.rate:.1%} of {after.replies}"),
            ],
            broken,
        )

    return _run(_three, scenario)


def black_hole(setting: Setting) -> Result:
    """The first provider takes no connection and refuses none: one connect limit, then nobody waits for it any more."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    plugs = []
    for _ in range(8):  # a full backlog: further SYNs are dropped
        plug = socket.socket()
        plug.setblocking(False)
        try:
            plug.connect(hole.getsockname())
        except BlockingIOError:
            pass
        plugs.append(plug)

    def config(up: Upstream) -> str:
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        first = provider(url, "a", priority=1, timeouts=TIMEOUTS)
        return (
            first
            + provider(up, "b", priority=2, timeouts=TIMEOUTS)
            + provider(up, "c", priority=3, timeouts=TIMEOUTS)
        )

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        up.always("/b", good)
        up.always("/c", good)
        tally = drive(gateway, max(60, setting.requests // 50), 2)
        slow = sum(seconds > 0.4 for seconds in tally.total_s)
        broken = list(tally.broken[:5])
        _promise(broken, tally.rate == 1.0, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        _promise(broken, max(tally.total_s) <= 1.5, f"{max(tally.total_s):.1f} s for one request")
        _promise(broken, slow <= 12, f"{slow} requests waited for the black hole")
        return Result(
            "black hole",
            [
                ("requests", f"{tally.replies}, {tally.rate:.2%} succeeded"),
                ("waited for it", f"{slow}, {max(tally.total_s):.2f} s at most (connect limit 0.5 s)"),
                ("time", f"p50 {statistics.median(tally.total_s) * 1e3:.0f} ms"),
            ],
            broken,
        )

    try:
        return _run(config, scenario)
    finally:
        for plug in (*plugs, hole):
            plug.close()


def flapping(setting: Setting) -> Result:
    """The first provider is good and bad by turns: clients see nothing of it, and it gets less and less traffic."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        period = max(0.5, setting.seconds / 40)
        began = time.monotonic()

        def answer(seen: Seen) -> Script:
            bad = int((time.monotonic() - began) / period) % 2 == 1
            return [("status", 500, {}, answers.error("anthropic", 500, "down"))] if bad else good(seen)

        up.always("/a", answer)
        up.always("/b", good)
        up.always("/c", good)
        end = began + period * 10
        tally = drive(gateway, 1 << 30, 4, every_s=0.01, stop_at=end)
        half = began + period * 5
        early = [seen for seen in up.seen("/a") if seen.at < half]
        late = [seen for seen in up.seen("/a") if seen.at >= half]
        failed = len(_calls(up)) and sum(_calls(up).values()) - tally.replies
        broken = list(tally.broken[:5])
        _promise(broken, tally.rate >= 0.999, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        _promise(broken, failed <= 60, f"{failed} calls met the bad phases")
        return Result(
            "flapping",
            [
                ("requests", f"{tally.replies} in {period * 10:.0f} s, {tally.rate:.2%} succeeded"),
                ("calls lost to it", f"{failed} of {len(early) + len(late)} (phases of {period:.1f} s)"),
                ("answered by", ", ".join(f"{k} {v}" for k, v in sorted(tally.from_whom.items()))),
            ],
            broken,
        )

    return _run(_three, scenario)


def leaving(setting: Setting) -> Result:
    """Clients leave before the first token, in mid-stream and while they wait for JSON: the provider sees each close
    within two seconds, nothing is left behind, and nobody's health suffers (R37)."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        each = max(20, setting.requests // 100)
        events = answers.events("anthropic", "word " * 200)
        phases: dict[str, tuple[bool, Script]] = {
            "before the first token": (True, [("stall", 20)]),
            "in mid-stream": (True, [("sse", events[:40]), ("stall", 20)]),
            "waiting for JSON": (False, [("stall", 20)]),
        }
        broken: list[str] = []
        lines: list[tuple[str, str]] = []
        threads, files = _left_behind(gateway)
        for phase, (stream, script) in phases.items():
            up.reset()
            up.always("/a", script)
            clients = [Client(gateway.base_url, timeout=30) for _ in range(each)]
            for number, client in enumerate(clients):
                client.send("POST", "/v1/messages", message(f"request-{number}- please", stream=stream))
            up.wait("/a", each, timeout=20)
            if phase == "in mid-stream":
                for client in clients:
                    client.begin()
            left_at = time.monotonic()
            for client in clients:
                client.close()
            seen = up.seen("/a")
            told = sum(one.answered.wait(max(0.0, left_at + 4 - time.monotonic())) for one in seen)
            late = [one.gone_at - left_at for one in seen if one.gone_at is not None]
            slowest = max(late, default=99.0)
            _promise(
                broken, len(seen) == each == told == len(late), f"{phase}: {told} of {each} closes were seen"
            )
            _promise(broken, slowest <= 2.0, f"{phase}: {slowest:.1f} s until the provider knew")
            lines.append((phase, f"{told} of {each}, the last after {slowest * 1e3:.0f} ms"))
        up.reset()
        up.always("/a", good)
        up.always("/b", good)
        tally = drive(gateway, 20, 2)
        _promise(broken, tally.from_whom == Counter(a=20), f"health was moved: {dict(tally.from_whom)}")
        board = json.loads(gateway.ctl("providers", "--json", check=True).stdout)["providers"]
        held = sum(int(row.get("in_flight") or 0) for row in board)
        _promise(broken, held == 0, f"{held} slots are still taken")
        bursts = 0 if each >= 100 else each  # idle workers are kept for half a minute
        if not bursts:
            time.sleep(33)
        more_threads, more_files = _left_behind(gateway)
        _promise(broken, more_files <= files + 4, f"descriptors {files} -> {more_files}")
        _promise(broken, more_threads <= threads + 2 + bursts, f"threads {threads} -> {more_threads}")
        lines.append(
            ("left behind", f"threads {threads} -> {more_threads}, descriptors {files} -> {more_files}")
        )
        return Result("leaving clients", lines, broken)

    return _run(lambda up: providers(up, "a", "b"), scenario)


def _left_behind(gateway: Gateway) -> tuple[int, int]:
    """Threads and descriptors of the process."""
    proc = Path(f"/proc/{gateway.pid}")
    return len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir()))


SCENARIOS: dict[str, Callable[[Setting], Result]] = {
    "mixed": mixed, "independent": independent, "outage": outage, "black-hole": black_hole, "flapping": flapping,
    "leaving": leaving,
}  # fmt: skip


def table(results: list[Result]) -> str:
    """What to print."""
    out = []
    for result in results:
        out.append(f"{result.name}: {'ok' if not result.broken else 'NOT KEPT'}")
        out += [f"  {what:<18}{figure}" for what, figure in result.lines]
        out += [f"  ! {line}" for line in result.broken]
    return "\n".join(out)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[], metavar="scenario")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of an outage, times four")
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args(arguments)
    setting = Setting(given.seed or random.randrange(1, 10**6), given.requests, given.seconds, given.workers)
    print(f"seed {setting.seed} (--seed {setting.seed} repeats it)", flush=True)
    broken = 0
    for name in given.scenarios or SCENARIOS:
        result = SCENARIOS[name](setting)
        broken += len(result.broken)
        print(table([result]), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
