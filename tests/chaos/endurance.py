"""A long run: what is held after tens of thousands of requests and thousands of aborted ones is what was held before
(A14). Memory, descriptors and threads are read after a pause, since idle workers live for half a minute."""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
import time
from pathlib import Path

from tests import answers, grammar
from tests.chaos import swarm
from tests.chaos.chaos import FAILOVER, Result, Setting, left_behind, promise
from tests.chaos.crowd import megabytes
from tests.gateway import Gateway, provider

SETTLE_S = 33.0
_NUMBER = re.compile(rb"request-(\d+)-")
_ABORT = re.compile(rb"abort-(\d+)-")


class Provider:
    """Answers with the number it was asked with, streamed or whole; requests to be aborted get half an answer."""

    def __init__(self) -> None:
        self._events = {
            d: answers.events(d, "answer-@@@@@@- " + "word " * 40) for d in ("anthropic", "openai_chat")
        }
        self._frames = {d: [answers.frame(d, e) for e in events] for d, events in self._events.items()}
        self._wholes = {
            d: json.dumps(answers.whole(d, "answer-@@@@@@- " + "word " * 40)).encode() for d in self._events
        }
        self._streams = {d: b"".join(frames) for d, frames in self._frames.items()}
        self.gone = self.running = 0  # aborted calls: seen to end, not ended yet

    async def __call__(self, asked: swarm.Asked, out: asyncio.StreamWriter) -> bool:
        dialect = answers.dialect_of(asked.path)
        if _ABORT.search(asked.body):
            out.write(swarm.stream_head() + swarm.chunk(b"".join(self._frames[dialect][:12])))
            self.running += 1
            try:
                await asyncio.wait_for(asked.left(), 60)
                self.gone += 1
            except ConnectionError:
                self.gone += 1
            except asyncio.TimeoutError:
                return False  # nobody told us that the client has left: it stays in `running`
            self.running -= 1
            return False
        found = _NUMBER.search(asked.body)
        number = b"%06d" % int(found[1]) if found else b"??????"
        if b'"stream":true' in asked.body or b'"stream": true' in asked.body:
            data = _fill(self._streams[dialect], number)
            half = len(data) // 2
            out.write(swarm.stream_head() + swarm.chunk(data[:half]))
            out.write(swarm.chunk(data[half:]) + swarm.chunk(b""))
        else:
            out.write(swarm.whole(_fill(self._wholes[dialect], number)))
        return True


def _fill(data: bytes, number: bytes) -> bytes:
    """The number where it belongs; in a stream its piece may be cut in two, so it goes into the first delta whole."""
    return data.replace(b"@@@@@@", number)


class Load:
    """Clients that ask for `count` requests, and leave in the middle of `aborts` more."""

    def __init__(self, gateway: Gateway, seed: int, clients: int) -> None:
        self.gateway, self.clients = gateway, clients
        self.rng = random.Random(seed)
        self.number = self.done = self.aborted = 0
        self.broken: list[str] = []

    async def run(self, count: int, aborts: int) -> None:
        self._left, self._aborts = count, aborts
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _client(self) -> None:
        async with swarm.Line(self.gateway.base_url) as line:
            while self._left > 0 or self._aborts > 0:
                if self._aborts > 0 and (self._left <= 0 or self.rng.random() < 0.05):
                    self._aborts -= 1
                    await self._abort()
                elif self._left > 0:
                    self._left -= 1
                    await self._ask(line)

    async def _ask(self, line: swarm.Line) -> None:
        self.number += 1
        number, stream = self.number, self.number % 2 == 0
        # of eight in a row two are translated ones
        to = {"x-ccm-provider": "b"} if number % 8 < 2 else None
        try:
            got = await line.post(swarm.request(f"request-{number}- please", stream), to)
            assert got.status == 200 and got.ended, f"{got.status} {got.body[:200]!r}"
            if stream:
                grammar.check(got.events)
            assert b"%06d" % number in got.body, f"a mixed body: {got.body[:200]!r}"
            self.done += 1
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.TimeoutError,
            AssertionError,
            KeyError,
        ) as error:
            self.broken.append(f"request {number}: {type(error).__name__} {error}"[:200])

    async def _abort(self) -> None:
        self.number += 1
        try:
            async with swarm.Line(self.gateway.base_url) as line:
                await line.send(swarm.request(f"abort-{self.number}- please"))
                if self.number % 2:
                    await asyncio.wait_for(line.head(), 20)
                else:
                    await asyncio.sleep(0.01)
            self.aborted += 1
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.broken.append(f"abort {self.number}: {type(error).__name__} {error}"[:200])


def soak(setting: Setting) -> Result:
    """Fifty thousand requests and two thousand aborts leave nothing behind; a hundred thousand more do not drift."""
    count, aborts = setting.of(50_000, 800), setting.of(2000, 60)
    settle_s = SETTLE_S if setting.full else 1.0
    listener, answering = swarm.Listener(), Provider()
    config = provider(f"{listener.url}/a", "a", priority=1)
    config += provider(f"{listener.url}/b/v1", "b", "openai_chat", priority=2)
    broken, lines = list[str](), list[tuple[str, str]]()

    async def everything(gateway: Gateway) -> None:
        load = Load(gateway, setting.seed, setting.of(32, 12))
        async with swarm.serve(listener, answering):
            await load.run(setting.of(5000, 300), setting.of(200, 30))
            await asyncio.sleep(settle_s)
            start_mb, (threads, files) = megabytes(gateway.pid), left_behind(gateway)
            began = time.monotonic()
            await load.run(count, aborts)
            seconds = time.monotonic() - began
            busy_mb = megabytes(gateway.pid)
            await asyncio.sleep(settle_s)
            end_mb, (more_threads, more_files) = megabytes(gateway.pid), left_behind(gateway)
            broken.extend(load.broken[:5])
            promise(broken, not load.broken, f"{len(load.broken)} requests failed")
            promise(broken, end_mb - start_mb < 20, f"{end_mb - start_mb:.1f} MB more, 20 promised")
            promise(broken, more_files - files < 5, f"descriptors {files} -> {more_files}")
            # the short form does not wait until idle workers have gone
            spare = 5 if setting.full else 5 + load.clients
            promise(broken, more_threads - threads < spare, f"threads {threads} -> {more_threads}")
            promise(broken, answering.running == 0, f"{answering.running} calls go on for nobody")
            promise(
                broken,
                answering.gone >= load.aborted // 4,
                f"{answering.gone} aborts were seen by the provider",
            )
            lines.append(
                ("requests", f"{count} and {aborts} aborts in {seconds:.0f} s, {len(load.broken)} failed")
            )
            lines.append(("memory", f"{start_mb:.1f} -> {end_mb:.1f} MB ({busy_mb:.1f} before the pause)"))
            lines.append(
                ("left behind", f"descriptors {files} -> {more_files}, threads {threads} -> {more_threads}")
            )
            if setting.full:
                await drift(load, gateway)

    async def drift(load: Load, gateway: Gateway) -> None:
        samples = [megabytes(gateway.pid)]
        for _ in range(10):
            await load.run(10_000, 0)
            samples.append(megabytes(gateway.pid))
        per_request = (samples[-1] - samples[5]) * 1024 / 50_000
        lines.append(("100,000 more", " ".join(f"{mb:.0f}" for mb in samples) + " MB"))
        lines.append(("drift", f"{per_request * 1024:.0f} bytes a request over the last 50,000"))
        promise(broken, samples[-1] - samples[5] < 5, f"{samples[-1] - samples[5]:.1f} MB in the last 50,000")
        promise(broken, not load.broken, f"{len(load.broken)} requests failed")

    with tempfile.TemporaryDirectory(prefix="ccm-soak-") as home:
        gateway = Gateway(Path(home), config, failover=FAILOVER, proxy={"log_level": "info"})
        gateway.start()
        try:
            asyncio.run(everything(gateway))
            rows = gateway.ctl("metrics", "--json", check=True)
            assert rows.stdout
        finally:
            assert gateway.stop() == 0, gateway.log()[-2000:]
    return Result("soak", lines, broken)
