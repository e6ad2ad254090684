"""Recorded streams cut at every byte, in five ways, through a real ccm (A9): what the client gets is complete, or says
that it is not.

A cut stream may be a refusal before the first content (an honest error status), or a stream that ends in exactly one
error event; whatever was closed in it is closed as the provider had closed it: no half tool call, no thinking without
its signature. Only a cut in what follows the provider's last word leaves a stream complete, and then it is equal to
the uncut one. The recordings are `$CCM_SHARED`'s; twelve of them, by dialect and content, the smallest of each kind.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccm.wire.eventstream_encode import encode
from tests import answers, grammar
from tests.chaos import swarm
from tests.chaos.chaos import Result, Setting, promise
from tests.chaos.recordings import DIALECTS, Missing, Recorded, recordings, tools
from tests.gateway import Gateway, provider

WAYS = ("rst", "eof", "error", "stall", "garbage")
GARBAGE = b'\xff\xfe}]\x00 what is this\n\n: \xf0\x28\ndata: {"]\n\n'
IDLE_S = 0.5
_CUT = re.compile(rb"cut-(\d+)-(\d+)-(\w+)-")
ENV = {
    "AWS_ACCESS_KEY_ID": "AKIACHAOS", "AWS_SECRET_ACCESS_KEY": "chaos/secret/0123456789abcdefghijklmnop",
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the provider
class Cutter:
    """Plays a recorded stream up to a byte, and then fails in one way."""

    def __init__(self, streams: list[Recorded]) -> None:
        self.streams = streams

    async def __call__(self, asked: swarm.Asked, out: asyncio.StreamWriter) -> bool:
        found = _CUT.search(asked.body)
        if found is None:
            out.write(swarm.whole(b'{"object": "list", "data": []}'))
            return True
        stream, at, way = self.streams[int(found[1])], int(found[2]), found[3].decode()
        out.write(swarm.stream_head(stream.type))
        out.write(swarm.chunk(stream.body[:at]) if at else b"")
        if way == "whole":
            out.write(swarm.chunk(b""))
            return True
        await out.drain()
        if way == "rst":
            await asyncio.sleep(0.002)  # what was sent is to be read before the reset
            swarm.reset(out)
        elif way == "stall":
            try:
                await asyncio.wait_for(asked.left(), 20)
            except (OSError, asyncio.TimeoutError):
                pass
        elif way in ("error", "garbage"):
            data = GARBAGE if way == "garbage" else _error(stream.dialect)
            out.write(swarm.chunk(data) + swarm.chunk(b""))
            await out.drain()
        return False


def _error(dialect: str) -> bytes:
    """The provider's own error event, after a line end (the one before may be half)."""
    if dialect == "bedrock":
        headers = {":message-type": "exception", ":exception-type": "modelStreamErrorException"}
        return encode(headers, b'{"message": "no luck"}')
    body = answers.error(dialect, 500, "no luck")
    if dialect == "openai_responses":
        body = {"type": "error", "code": "server_error", "message": "no luck", "sequence_number": 99}
    return b"\n\n" + answers.frame(dialect, body)


# ---------------------------------------------------------------------------------------------------- the judge
def closed_blocks(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(the blocks that were closed, the one that is still open), as a client puts them together."""
    closed: list[dict[str, Any]] = []
    block: dict[str, Any] | None = None
    for event in events:
        if event["type"] == "content_block_start":
            block = dict(event["content_block"])
            block["json"] = ""
        elif event["type"] == "content_block_delta":
            assert block is not None
            delta = event["delta"]
            for name, value in delta.items():
                if name == "partial_json":
                    block["json"] += value
                elif name == "signature":
                    block["signature"] = value
                elif isinstance(value, str) and name != "type":
                    block[name] = block.get(name, "") + value
        elif event["type"] == "content_block_stop":
            assert block is not None
            closed.append(block)
            block = None
    return closed, block


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two blocks say the same. Ids may be ccm's own, and so may what a signature is packed in."""
    for block in (one, other):
        if block["type"] == "tool_use" and block["json"] and not isinstance(json.loads(block["json"]), dict):
            return False
    keys = ("type", "text", "thinking", "json", "name", "data")
    return all(one.get(k) == other.get(k) for k in keys) and bool(one.get("signature")) == bool(
        other.get("signature")
    )


def judge(stream: Recorded, got: swarm.Got) -> str:
    """How it ended: "complete", "error event" or "status 5xx". AssertionError where a promise is not kept."""
    assert got.ended, "the connection broke without an end"
    if got.status != 200:
        assert got.status >= 500, f"{got.status} for a provider's fault"
        value = json.loads(got.body)
        assert value["type"] == "error" and value["error"]["type"] and value["error"]["message"], value
        return "error status"
    events = [e for e in got.events if e["type"] != "ping"]
    grammar.check(events)
    failed = events[-1]["type"] == "error"
    closed, rest = closed_blocks(events)
    for n, block in enumerate(closed):
        assert n < len(stream.blocks) and _same(block, stream.blocks[n]), (
            f"block {n} was closed as {str(block)[:200]}, the whole one is {str(stream.blocks[n : n + 1])[:200]}"
        )
    if rest is not None:
        whole = stream.blocks[len(closed)]
        for key in ("text", "thinking", "json"):
            assert str(whole.get(key, "")).startswith(str(rest.get(key, ""))), f"{key} is not what was said"
    if failed:
        return "error event"
    reason = next(e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta")
    assert (len(closed), reason) == (len(stream.blocks), stream.stop), "a part was passed off as the whole"
    return "complete"


def _reference(stream: Recorded, got: swarm.Got) -> None:
    """Learns what the uncut stream is, and checks that ccm's own form of it keeps the rules."""
    assert got.status == 200 and got.ended, f"{stream.id}: {got.status} {got.body[:300]!r}"
    events = [e for e in got.events if e["type"] != "ping"]
    grammar.check(events)
    assert events[-1]["type"] == "message_stop", f"{stream.id} ends in {events[-1]}"
    stream.blocks, rest = closed_blocks(events)
    assert rest is None and stream.blocks
    stream.stop = next(e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta")
    try:
        with tools("strict") as (strict,):
            wrong = strict.anthropic_events(events)
    except Missing:
        return
    assert not wrong, f"{stream.id}: {wrong[:3]}"


# ---------------------------------------------------------------------------------------------------- the scenarios
@contextmanager
def _running(streams: list[Recorded], listener: swarm.Listener) -> Iterator[Gateway]:
    limits = {"idle_s": IDLE_S, "first_content_s": IDLE_S, "first_content_thinking_s": IDLE_S, "header_s": 5}
    config = ""
    for dialect, (ours, _, suffix) in DIALECTS.items():
        name = dialect.replace(".", "-")
        extra = {"type": "bedrock", "region": "eu-west-1"} if ours == "bedrock" else {}
        table = provider(f"{listener.url}/{name}{suffix}", name, ours, timeouts=limits, **extra)
        if ours == "bedrock":
            table = table.replace('api_key_env = "CCM_TEST_KEY"\n', "")
            table += f'[providers.{name}.models]\ndefault = "amazon.nova-lite-v1:0"\n'
        config += table
    with tempfile.TemporaryDirectory(prefix="ccm-cuts-") as home:
        options = {"log_level": "error", "max_in_flight": 4096}
        gateway = Gateway(
            Path(home), config, failover={"max_retries": 0, "enabled": False}, proxy=options, env=ENV
        )
        gateway.start()
        try:
            yield gateway
        except AssertionError as error:
            raise AssertionError(f"{error}\n{gateway.log()[-3000:]}") from None
        else:
            assert "internal error" not in gateway.log() and "traceback" not in gateway.log().lower(), (
                f"a fault inside:\n{gateway.log()[-2000:]}"
            )
        finally:
            assert gateway.stop() == 0, gateway.log()[-2000:]


Case = tuple[int, int, str]


def cases(streams: list[Recorded], setting: Setting) -> list[Case]:
    """(stream, offset, way): all of them, or a sample; stalls are thinned out, for each takes half a second."""
    rng = random.Random(setting.seed)
    if not setting.full:
        return [
            (s.number, rng.randrange(len(s.body)), way) for s in streams for way in WAYS for _ in range(4)
        ] + [(s.number, rng.randrange(len(s.body)), rng.choice(WAYS[:3])) for s in streams for _ in range(5)]
    every = [(s.number, at, way) for s in streams for at in range(len(s.body)) for way in WAYS]
    rng.shuffle(every)
    return every


async def _learn(gateway: Gateway, streams: list[Recorded]) -> None:
    async with swarm.Line(gateway.base_url) as line:
        for stream in streams:
            tag = f"cut-{stream.number}-{len(stream.body)}-whole-"
            _reference(stream, await line.post(stream.request(tag), {"x-ccm-provider": stream.provider}))


async def _play(
    gateway: Gateway, streams: list[Recorded], todo: list[Case], clients: int, broken: list[str]
) -> None:
    cases = iter(todo)

    async def client() -> None:
        async with swarm.Line(gateway.base_url, timeout=60) as line:
            for number, at, way in cases:
                stream = streams[number]
                tag = f"cut-{number}-{at}-{way}-"
                try:
                    got = await line.post(stream.request(tag), {"x-ccm-provider": stream.provider})
                    stream.outcomes[judge(stream, got)] += 1
                except (
                    OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, AssertionError, KeyError, ValueError,
                ) as error:  # fmt: skip
                    broken.append(
                        f"{stream.id} at {at} of {len(stream.body)}, {way}: {type(error).__name__} {error}"[
                            :600
                        ]
                    )

    await asyncio.gather(*(client() for _ in range(clients)))


def cuts(setting: Setting) -> Result:
    """Every byte of twelve recorded streams, cut in five ways (A9)."""
    try:
        streams = recordings()
    except Missing as missing:
        return Result("cuts", [("skipped", str(missing))], [])
    listener, broken = swarm.Listener(), list[str]()
    todo = cases(streams, setting)

    async def everything(gateway: Gateway) -> None:
        async with swarm.serve(listener, Cutter(streams)):
            await _learn(gateway, streams)
            await _play(gateway, streams, todo, setting.of(192, 48), broken)

    began = time.monotonic()
    with _running(streams, listener) as gateway:
        asyncio.run(everything(gateway))
    seconds = time.monotonic() - began
    outcomes = sum((s.outcomes for s in streams), Counter[str]())
    told = list(broken[:8])
    promise(told, not broken, f"{len(broken)} of {len(todo)} cuts broke a promise")
    for name in ("error event", "error status"):
        promise(told, outcomes[name] > 0, f"no cut ended in an {name}")
    lines = [
        (
            "cuts",
            f"{len(todo)} of {len(streams)} streams ({sum(len(s.body) for s in streams)} bytes) in {seconds:.0f} s",
        ),
        ("ended in", ", ".join(f"{count} x {name}" for name, count in sorted(outcomes.items()))),
    ]
    lines += [
        (s.id.split("/")[-1], f"{len(s.body)} bytes, {dict(sorted(s.outcomes.items()))}") for s in streams
    ] if setting.full else []  # fmt: skip
    return Result("cuts", lines, told)


def sdk_cuts(setting: Setting) -> Result:
    """The same through the official SDK: a message it gives out as final is the whole one; all else is an exception."""
    try:
        import anthropic  # of the tests' extra

        streams = recordings()
    except (Missing, ImportError) as missing:
        return Result("cuts, official SDK", [("skipped", str(missing))], [])
    rng, listener, broken = random.Random(setting.seed), swarm.Listener(), list[str]()
    outcomes: Counter[str] = Counter()
    todo = [
        (s := rng.choice(streams), rng.randrange(len(s.body)), rng.choice(WAYS))
        for _ in range(setting.of(500, 30))
    ]

    def ask(base_url: str, case: tuple[Recorded, int, str]) -> str:
        stream, at, way = case
        body = json.loads(stream.request(f"cut-{stream.number}-{at}-{way}-"))
        del body["stream"]
        client = anthropic.Anthropic(base_url=base_url, api_key="ccm-proxy", max_retries=0, timeout=30)
        try:
            with client.messages.stream(**body, extra_headers={"x-ccm-provider": stream.provider}) as told:
                final = told.get_final_message()
        except anthropic.APIError as error:
            return type(error).__name__
        except Exception as error:  # whatever the SDK does not own up to is a broken connection to its user
            return f"BROKEN {stream.id} at {at}, {way}: {type(error).__name__}"
        finally:
            client.close()
        kinds = [block["type"] for block in stream.blocks]
        texts = "".join(block.get("text", "") for block in stream.blocks)
        mine = "".join(getattr(block, "text", "") or "" for block in final.content)
        whole = (
            [b.type for b in final.content] == kinds and mine == texts and final.stop_reason == stream.stop
        )
        return "the whole message" if whole else f"BROKEN {stream.id} at {at}, {way}: {str(final)[:200]}"

    async def everything(gateway: Gateway) -> None:
        loop = asyncio.get_running_loop()
        async with swarm.serve(listener, Cutter(streams)):
            await _learn(gateway, streams)
            with ThreadPoolExecutor(8) as pool:
                asked = [loop.run_in_executor(pool, ask, gateway.base_url, case) for case in todo]
                for outcome in await asyncio.gather(*asked):
                    if outcome.startswith("BROKEN"):
                        broken.append(outcome)
                    else:
                        outcomes[outcome] += 1

    with _running(streams, listener) as gateway:
        asyncio.run(everything(gateway))
    told = broken[:5]
    promise(told, sum(outcomes.values()) == len(todo), f"{len(broken)} of {len(todo)} cuts broke a promise")
    promise(told, outcomes["APIStatusError"] > 0, "no error event was raised")
    return Result(
        "cuts, official SDK",
        [("cuts", str(len(todo))), ("raised", ", ".join(f"{n} x {k}" for k, n in sorted(outcomes.items())))],
        told,
    )
