"""Very many clients at once: slow ones that hold what they can (A4), and hundreds of concurrent streams (A5)."""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import answers, grammar
from tests.chaos import swarm
from tests.chaos.chaos import FAILOVER, Result, Script, Setting, Tally, drive, good, promise, run
from tests.gateway import Gateway, provider, providers
from tests.upstream import Seen, Upstream

P99_S = 0.100
MOST_MB = 150.0
_FLOOD = 16 * 1024 * 1024  # bytes of a stream that nobody reads


def megabytes(pid: int, field: str = "VmRSS") -> float:
    """Of the process's memory: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


# ---------------------------------------------------------------------------------------------------- slow clients
class Holders:
    """Slow clients in one thread: a third sends its head byte by byte, a third its body, a third reads a stream byte by
    byte. Who is thrown out comes back at once. `held` is how many were connected at least, `most` at most."""

    KINDS = ("head", "body", "read")

    def __init__(self, port: int, count: int, seed: int) -> None:
        self.port, self.count = port, count
        self.rng = random.Random(seed)
        self.held, self.most = count, 0
        self.back: Counter[str] = Counter()  # how often each kind was thrown out
        self._full = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-clients", daemon=True)

    def _first(self, kind: str) -> bytes:
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nx-api-key: ccm-proxy\r\n"
            "anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n"
        ).encode()
        if kind == "head":
            return head + b"x-slow: "
        if kind == "body":
            return head + b"content-length: 20000\r\n\r\n{"
        body = swarm.request(f"flood {self.rng.random()}")
        return head + b"content-length: %d\r\n\r\n" % len(body) + body

    def _open(self, selector: selectors.BaseSelector, kind: str) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(self._first(kind))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, (kind, self.rng.random()))

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number in range(self.count):
                self._open(selector, self.KINDS[number % 3])
            self.most = len(selector.get_map())
            self._full.set()
            while not self._done.wait(0.2):
                gone = []
                for key in list(selector.get_map().values()):
                    if self.rng.random() > 0.2:  # each about once a second
                        continue
                    sock, kind = key.fileobj, key.data[0]
                    assert isinstance(sock, socket.socket)
                    try:
                        if kind != "read":
                            sock.send(b"a")
                        if not sock.recv(64 if kind == "read" else 4096):
                            gone.append((sock, kind))
                    except BlockingIOError:
                        pass
                    except OSError:
                        gone.append((sock, kind))
                self.held = min(self.held, self.count - len(gone))
                for sock, kind in gone:
                    selector.unregister(sock)
                    sock.close()
                    self.back[kind] += 1
                    self._open(selector, kind)
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    @contextmanager
    def holding(self) -> Iterator[Holders]:
        """They are there while the body runs."""
        self._thread.start()
        assert self._full.wait(20), "the slow clients did not get in"
        try:
            yield self
        finally:
            self._done.set()
            self._thread.join(10)


def slow_clients(setting: Setting) -> Result:
    """Hundreds of clients that send or read a byte a second do not hurt those beside them (A4)."""
    count, seconds = setting.of(500, 90), setting.of(45, 2)

    def answer(seen: Seen) -> Script:
        if b"flood" not in seen.raw:
            return good(seen)
        events = answers.events("anthropic", "word " * 1000)
        delta = answers.frame(
            "anthropic", {**events[3], "delta": {"type": "text_delta", "text": "x" * 16384}}
        )
        return [("sse", events[:3]), *[("bytes", delta)] * (_FLOOD // len(delta)), ("sse", events[-3:])]

    def scenario(up: Upstream, gateway: Gateway) -> Result:
        up.always("/a", answer)
        drive(gateway, 200, 4)
        before = drive(gateway, 1 << 30, 4, every_s=0.02, stop_at=time.monotonic() + seconds / 3)
        start_mb = megabytes(gateway.pid)
        with Holders(gateway.port, count, setting.seed).holding() as holders:
            time.sleep(0.5)
            beside = drive(gateway, 1 << 30, 4, every_s=0.02, stop_at=time.monotonic() + seconds)
            rss_mb = megabytes(gateway.pid)
            threads = len(list(Path(f"/proc/{gateway.pid}/task").iterdir()))
        broken = [*before.broken[:3], *beside.broken[:3]]
        promise(broken, beside.rate == 1.0, f"{beside.rate:.2%} of the good succeed: {dict(beside.statuses)}")
        limit_s = max(P99_S, 4 * before.percentile(0.99))  # a machine that is busy is slow without them, too
        late_s = beside.percentile(0.99)
        promise(broken, late_s < limit_s, f"p99 {late_s * 1e3:.0f} ms, {limit_s * 1e3:.0f} promised")
        promise(broken, holders.most == count, f"{holders.most} of {count} slow clients got in")
        promise(broken, threads < 100, f"{threads} threads")
        back = ", ".join(f"{n} x {kind}" for kind, n in sorted(holders.back.items())) or "nobody"
        return Result(
            "slow clients",
            [
                (
                    "held",
                    f"{count}: heads, bodies, stopped readers, {seconds} s; at least {holders.held} at any time",
                ),
                ("thrown out", f"{back} (and back at once)"),
                ("good, alone", _times(before)),
                ("good, beside", _times(beside)),
                ("ccm", f"{threads} threads, {start_mb:.0f} -> {rss_mb:.0f} MB"),
            ],
            broken,
        )

    return run(lambda up: providers(up, "a"), scenario)


def _times(tally: Tally) -> str:
    middle, late = tally.percentile(0.5) * 1e3, tally.percentile(0.99) * 1e3
    return f"{tally.replies} requests, {tally.rate:.1%} good, p50 {middle:.1f} ms, p99 {late:.1f} ms"


# ---------------------------------------------------------------------------------------------------- streams
class Paced:
    """A provider that begins every stream at once, and goes on only when all have begun."""

    def __init__(self, count: int, events: int, pace_s: float) -> None:
        self.count, self.events, self.pace_s = count, events, pace_s
        self.begun = self.running = self.most = 0
        self.all_begun = asyncio.Event()

    async def __call__(self, asked: swarm.Asked, out: asyncio.StreamWriter) -> bool:
        dialect = answers.dialect_of(asked.path)
        text = json.loads(asked.body)["messages"][-1]["content"]
        number = text if isinstance(text, str) else text[0]["text"]
        frames = [answers.frame(dialect, event) for event in answers.events(dialect, self.text(number))]
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            out.write(swarm.stream_head() + swarm.chunk(b"".join(frames[:4])))
            if self.begun >= self.count:
                self.all_begun.set()
            await asyncio.wait_for(self.all_begun.wait(), 60)
            for frame in frames[4:]:
                await asyncio.sleep(self.pace_s)
                out.write(swarm.chunk(frame))
                await out.drain()
            out.write(swarm.chunk(b""))
        finally:
            self.running -= 1
        return True

    def text(self, number: str) -> str:
        """The text that answers a request: as many deltas as wanted, its number in each."""
        return "".join(f"{number[:6]:>6}\n" for _ in range(self.events))


async def _one_stream(
    base_url: str, number: int, provider_name: str, paced: Paced, gate: asyncio.Semaphore, broken: list[str]
) -> None:
    async with swarm.Line(base_url, timeout=120) as line:
        try:
            async with gate:
                body = swarm.request(f"{number:06d} please")
                await line.send(body, {"x-ccm-provider": provider_name})
                got = await asyncio.wait_for(line.head(), 60)
            await asyncio.wait_for(line._body(got), 120)
            assert got.status == 200 and got.ended, f"{got.status}, ended {got.ended}: {got.body[:200]!r}"
            grammar.check(got.events)
            deltas = [e["delta"] for e in got.events if e["type"] == "content_block_delta"]
            text = "".join(delta["text"] for delta in deltas)
            assert text == paced.text(f"{number:06d}"), f"short or mixed: {text[:40]!r}"
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.TimeoutError,
            AssertionError,
            KeyError,
        ) as error:
            broken.append(f"stream {number}: {type(error).__name__} {error}"[:200])


def streams(setting: Setting) -> Result:
    """Five hundred streams at once, then a thousand: every one complete, within 150 MB (A5)."""
    lines, broken = list[tuple[str, str]](), list[str]()
    for count in (500, 1000) if setting.full else (120,):
        paced = Paced(count, setting.of(60, 12), setting.of(200, 50) / 1000)
        listener, failed = swarm.Listener(), list[str]()
        config = provider(
            f"{listener.url}/a", "a", timeouts={"idle_s": 60, "first_content_s": 60, "header_s": 60}
        )
        config += provider(
            f"{listener.url}/b/v1",
            "b",
            "openai_chat",
            timeouts={"idle_s": 60, "first_content_s": 60, "header_s": 60},
        )

        async def everything(
            gateway: Gateway, paced: Paced, listener: swarm.Listener, failed: list[str]
        ) -> None:
            gate = asyncio.Semaphore(64)
            async with swarm.serve(listener, paced):
                every = [
                    _one_stream(gateway.base_url, n, "ab"[n % 2], paced, gate, failed)
                    for n in range(paced.count)
                ]
                await asyncio.gather(*every)

        with tempfile.TemporaryDirectory(prefix="ccm-streams-") as home:
            gateway = Gateway(Path(home), config, failover=FAILOVER, proxy={"log_level": "error"})
            gateway.start()
            try:
                began = time.monotonic()
                asyncio.run(everything(gateway, paced, listener, failed))
                seconds, peak_mb = time.monotonic() - began, megabytes(gateway.pid, "VmHWM")
            finally:
                assert gateway.stop() == 0, gateway.log()[-2000:]
        broken += failed[:3]
        promise(broken, paced.most == count, f"only {paced.most} of {count} at the same time")
        promise(broken, not failed, f"{len(failed)} of {count} streams failed")
        promise(broken, count > 500 or peak_mb < MOST_MB, f"{peak_mb:.0f} MB, {MOST_MB:.0f} promised")
        lines.append(
            (
                f"{count} streams",
                f"{count - len(failed)} complete, half of them translated, {paced.most} at once, "
                f"{seconds:.0f} s, {peak_mb:.0f} MB at most",
            )
        )
    return Result("concurrent streams", lines, broken)
