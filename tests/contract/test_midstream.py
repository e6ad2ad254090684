"""`[failover] midstream = "continue"` (RELIABILITY 3.7): a broken answer is completed by another provider, or honestly not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import answers, grammar
from tests.gateway import Gateway, provider
from tests.http1 import Client, Reply, message, post
from tests.upstream import Seen, Step, Upstream

SAID = "The quick brown fox jumps over the lazy dog, and then it looked around for"
REST = " another one to jump over, because \U0001f98a never rests."
TIMES = {"header_s": 3, "first_content_s": 3, "idle_s": 1.5}


@pytest.fixture(scope="module")
def gw(tmp_path_factory: pytest.TempPathFactory, module_up: Upstream) -> Iterator[Gateway]:
    up = module_up
    config = provider(up, "a", priority=1, timeouts=TIMES) + provider(
        up, "b", "openai_chat", priority=2, timeouts=TIMES
    )
    gateway = Gateway(
        tmp_path_factory.mktemp("midstream"), config, failover={"midstream": "continue", "backoff_ms": 10}
    ).start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def module_up() -> Iterator[Upstream]:
    with Upstream() as up:
        yield up


@pytest.fixture
def up(module_up: Upstream, gw: Gateway) -> Upstream:
    module_up.reset()
    gw.reset()
    return module_up


def broken(*end: Step, upto: int | None = None, text: str = SAID) -> list[Step]:
    """An Anthropic answer that breaks before its text block is closed."""
    events = answers.events("anthropic", text)
    stop = next(i for i, e in enumerate(events) if e["type"] == "content_block_stop")
    return [
        ("sse", events[: stop if upto is None else stop + upto]),
        ("stall", 0.1),
        *(end or (("cut", "rst"),)),
    ]


def asked_to_repeat(seen: Seen) -> str:
    """The characters the second provider was asked to repeat."""
    last = seen.json["messages"][-1]["content"]
    text = last if isinstance(last, str) else "".join(part["text"] for part in last)
    found = re.search(r"characters:\n\n(.*?)\n\nRepeat", text, re.S)
    assert found, text
    return found[1]


def repeats(change: Callable[[str], str] = lambda tail: tail) -> Callable[[Seen], list[Step]]:
    return lambda seen: [("answer", {"text": change(asked_to_repeat(seen)) + REST})]


def ask(gw: Gateway, **fields: Any) -> Reply:
    return post(gw.base_url, message(**fields), timeout=15)


@pytest.mark.parametrize(
    "end",
    [("cut", "rst"), ("cut", "fin"), ("event", answers.error("anthropic", 529, "Overloaded")), ("stall", 3)],
    ids=["reset", "end", "error", "stall"],
)
def test_the_answer_is_completed(up: Upstream, gw: Gateway, end: Step) -> None:
    """R38: the client sees one whole answer, whatever broke."""
    up.always("/a", broken(end))
    up.always("/b", repeats())
    reply = ask(gw, tool_choice={"type": "auto"}, tools=[{"name": "t", "input_schema": {"type": "object"}}])
    assert (reply.status, reply.text) == (200, SAID + REST)
    grammar.check(reply.events)
    assert re.search(rb": ccm continued provider=b after \d+ tokens\n\n", reply.body)
    (second,) = up.seen("/b")
    assert [m["role"] for m in second.json["messages"]] == ["user", "assistant", "user"]
    assert second.json["messages"][1]["content"] == SAID and "tool_choice" not in second.json
    limit = second.json.get("max_completion_tokens") or second.json["max_tokens"]
    assert limit == 256 - len(SAID) // 4
    delta = next(e for e in reply.events if e["type"] == "message_delta")
    assert delta["usage"]["output_tokens"] > len(SAID) // 4, "both parts are counted"


def test_the_account_has_both_parts_and_health_knows_who_broke(up: Upstream, gw: Gateway) -> None:
    up.always("/a", broken())
    up.always("/b", repeats())
    reply = ask(gw)
    for _ in range(20):
        row = json.loads(gw.ctl("requests", "--limit", "1", "--json", check=True).stdout)["requests"][0]
        if row["id"] == reply.headers["request-id"]:
            break
        time.sleep(0.05)
    assert (row["provider"], row["ending"]) == ("b", "complete")
    assert [(a["endpoint"], a["result"]) for a in row["attempts"]] == [("a", "broken"), ("b", "200")]
    told = json.loads(gw.ctl("providers", "--json", check=True).stdout)["providers"]
    assert all(not line.get("in_flight") for line in told), told


@pytest.mark.parametrize(
    "change",
    [
        lambda tail: "Sure: " + tail,
        lambda tail: tail.replace(" ", "\n"),
        lambda tail: tail[-17:],
        lambda tail: "…" + tail.replace(",", ","),
    ],
    ids=["preamble", "spaces", "shorter", "ellipsis"],
)
def test_the_seam_is_found_where_the_repetition_is_not_exact(
    up: Upstream, gw: Gateway, change: Callable[[str], str]
) -> None:
    up.always("/a", broken())
    up.always("/b", repeats(change))
    assert ask(gw).text == SAID + REST


def test_after_a_closed_block_the_rest_gets_a_block_of_its_own(up: Upstream, gw: Gateway) -> None:
    up.always("/a", broken(("cut", "fin"), upto=1))
    up.always("/b", repeats())
    reply = ask(gw)
    assert reply.text == SAID + REST
    grammar.check(reply.events)
    assert len([e for e in reply.events if e["type"] == "content_block_start"]) == 2


def check_error(reply: Reply, text: str = SAID) -> None:
    assert reply.status == 200 and reply.text == text, "nothing is said twice, nothing is invented"
    assert [e["type"] for e in reply.events].count("error") == 1 and reply.events[-1]["type"] == "error"
    assert "message_stop" not in [e["type"] for e in reply.events]


@pytest.mark.parametrize(
    "script",
    [
        ("answer", {"text": "I have no idea what you are talking about, let us begin anew. " * 6}),
        ("status", 500, {}, answers.error("openai_chat", 500, "no")),
        ("answer", {"text": "", "tool": {"name": "t", "input": {}}}),
    ],
    ids=["another-answer", "fails", "a-tool-at-once"],
)
def test_no_seam_no_continuation(up: Upstream, gw: Gateway, script: Step) -> None:
    up.always("/a", broken())
    up.always("/b", script)
    check_error(ask(gw))


def test_a_second_break_is_an_error(up: Upstream, gw: Gateway) -> None:
    def half(seen: Seen) -> list[Step]:
        return [
            ("sse", answers.events("openai_chat", asked_to_repeat(seen) + REST)[:-2]),
            ("stall", 0.1),
            ("cut", "rst"),
        ]

    up.always("/a", broken())
    up.always("/b", half)
    reply = ask(gw)
    assert reply.text.startswith(SAID) and (SAID + REST).startswith(reply.text)
    check_error(reply, reply.text)
    assert len(up.seen("/b")) == 1


@pytest.mark.parametrize("what", ["a tool", "little text"])
def test_what_cannot_be_joined_is_not(up: Upstream, gw: Gateway, what: str) -> None:
    if what == "a tool":
        events = answers.events("anthropic", SAID, tool={"name": "t", "input": {"x": "y" * 50}})
        up.always("/a", [("sse", events[:-4]), ("stall", 0.1), ("cut", "rst")])
        expected = SAID
    else:
        up.always("/a", broken(text="Too little."))
        expected = "Too little."
    up.always("/b", repeats())
    check_error(ask(gw), expected)
    assert up.seen("/b") == []


def test_a_client_that_leaves_meanwhile_ends_it(up: Upstream, gw: Gateway) -> None:
    up.always("/a", broken())
    up.always("/b", ("stall", 10))
    with Client(gw.base_url) as client:
        client.send("POST", "/v1/messages", message())
        client.begin()
        up.wait("/b")
    (second,) = up.seen("/b")
    assert second.answered.wait(4.0), "nobody waits for the rest"


def test_other_apis_are_continued_too(up: Upstream, gw: Gateway) -> None:
    up.always("/a", broken())
    up.always("/b", repeats())
    body = {"model": "claude-sonnet-5-5", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with Client(gw.base_url) as client:
        raw = client.call("POST", "/v1/chat/completions", body).body
    chunks = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == SAID + REST
