"""Providers that fail in every way of RELIABILITY 1a: mixed faults, outages, a black hole, flapping; clients that leave."""

from __future__ import annotations

import json
import random
import socket
import statistics
import threading
import time
from collections import Counter

from tests import answers
from tests.chaos.chaos import (
    FAULTS,
    TIMEOUTS,
    UNCOUNTED,
    Result,
    Script,
    Setting,
    drive,
    good,
    left_behind,
    number_of,
    promise,
    run,
    sent_on,
    three,
)
from tests.gateway import Gateway, provider, providers
from tests.http1 import Client, message
from tests.upstream import Seen, Upstream

THINKS_S = 0.05  # how long a provider takes to say no


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
        promise(
            broken, tally.rate >= 0.999, f"{tally.rate:.2%} succeed, 99.9 % promised: {dict(tally.statuses)}"
        )
        promise(broken, most <= 3, f"{most} attempts for one request, 3 promised")
        promise(broken, len(met) == len(kinds) or setting.requests < 2000, f"only {sorted(met)} were met")
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

    return run(three, scenario)


def independent(setting: Setting) -> Result:
    """Every single call fails with 20 %: three attempts can't do better than 1 - 0.2^3 = 99.2 %, and must do as well."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        kinds, lock, rng = sorted(set(FAULTS) - UNCOUNTED), threading.Lock(), random.Random(setting.seed)

        def answer(seen: Seen) -> Script:
            with lock:
                fault = rng.choice(kinds) if rng.random() < 0.2 else ""
            return FAULTS[fault](seen, random.Random(1)) if fault else good(seen)

        for name in "abc":
            up.always(f"/{name}", answer)
        count = setting.requests // 4
        tally = drive(gateway, count, setting.workers)
        calls = sent_on(up)
        broken = list(tally.broken[:5])
        bound = 0.985 if count >= 500 else 0.96
        promise(broken, tally.rate >= bound, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        promise(broken, max(calls.values()) <= 3, f"{max(calls.values())} attempts for one request")
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

    return run(three, scenario)


def outage(setting: Setting) -> Result:
    """Everybody is down for a while: calls <= 1.2 x requests, 503 with a retry-after, back at once (A8)."""

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        rng = random.Random(setting.seed)
        seconds = setting.seconds if setting.full else setting.seconds / 4
        down = threading.Event()
        down.set()
        lock, began = threading.Lock(), time.monotonic()

        def answer(seen: Seen) -> Script:
            if not down.is_set():
                return good(seen)
            with lock:
                kind = rng.choice(("500", "502", "503", "529", "504"))
            return [("stall", THINKS_S), *FAULTS[kind](seen, rng)]

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
                sum(other.path == one.path and one.at <= other.at < one.at + THINKS_S for other in probes)
                for one in probes
            ),
            default=0,
        )
        down.clear()
        recovered = time.monotonic()
        after = drive(gateway, 1 << 30, 4, every_s=0.1, stop_at=recovered + min(35.0, seconds))
        back_s = min(after.good_at, default=recovered + 999) - recovered
        broken = [*tally.broken[:3], *after.broken[:3]]
        promise(broken, tally.good == 0, "something answered although everybody was down")
        promise(broken, set(tally.statuses) <= {"503", "502"}, f"statuses {dict(tally.statuses)}")
        promise(broken, calls <= 1.2 * requests, f"{calls} calls for {requests} requests, 1.2 x promised")
        promise(broken, at_once <= 1, f"{at_once} probes in flight at one provider, 1 promised")
        promise(broken, back_s <= 35, f"first success {back_s:.1f} s after recovery, 35 promised")
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

    return run(three, scenario)


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
        promise(broken, tally.rate == 1.0, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        promise(broken, max(tally.total_s) <= 1.5, f"{max(tally.total_s):.1f} s for one request")
        promise(broken, slow <= 12, f"{slow} requests waited for the black hole")
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
        return run(config, scenario)
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
        failed = sum(sent_on(up).values()) - tally.replies
        broken = list(tally.broken[:5])
        promise(broken, tally.rate >= 0.999, f"{tally.rate:.2%} succeed: {dict(tally.statuses)}")
        promise(broken, failed <= 60, f"{failed} calls met the bad phases")
        return Result(
            "flapping",
            [
                ("requests", f"{tally.replies} in {period * 10:.0f} s, {tally.rate:.2%} succeeded"),
                ("calls lost to it", f"{failed} of {len(early) + len(late)} (phases of {period:.1f} s)"),
                ("answered by", ", ".join(f"{k} {v}" for k, v in sorted(tally.from_whom.items()))),
            ],
            broken,
        )

    return run(three, scenario)


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
        up.always("/a", good)
        drive(gateway, 8, 2)
        time.sleep(0.3)  # the usage database is open by now
        threads, files = left_behind(gateway)
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
            promise(
                broken, len(seen) == each == told == len(late), f"{phase}: {told} of {each} closes were seen"
            )
            promise(broken, slowest <= 2.0, f"{phase}: {slowest:.1f} s until the provider knew")
            lines.append((phase, f"{told} of {each}, the last after {slowest * 1e3:.0f} ms"))
        up.reset()
        up.always("/a", good)
        up.always("/b", good)
        tally = drive(gateway, 20, 2)
        promise(broken, tally.from_whom == Counter(a=20), f"health was moved: {dict(tally.from_whom)}")
        board = json.loads(gateway.ctl("providers", "--json", check=True).stdout)["providers"]
        held = sum(int(row.get("in_flight") or 0) for row in board)
        promise(broken, held == 0, f"{held} slots are still taken")
        bursts = 0 if each >= 100 else each  # idle workers are kept for half a minute
        if not bursts:
            time.sleep(33)
        more_threads, more_files = left_behind(gateway)
        promise(broken, more_files <= files + 4, f"descriptors {files} -> {more_files}")
        promise(broken, more_threads <= threads + 2 + bursts, f"threads {threads} -> {more_threads}")
        lines.append(
            ("left behind", f"threads {threads} -> {more_threads}, descriptors {files} -> {more_files}")
        )
        return Result("leaving clients", lines, broken)

    return run(lambda up: providers(up, "a", "b"), scenario)
