"""The Messages API passed on: byte for byte where nothing changes, mended where a provider breaks the grammar."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from ccm.dialects.anthropic import DIALECT, needs_change, splice, without_foreign_thinking
from ccm.dialects.anthropic_scan import Scanner
from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.state import wrap
from ccm.errors import BadUpstream, IncompleteStream, UpstreamError
from ccm.messages.events import render
from ccm.messages.fold import fold
from ccm.model import ModelFacts
from ccm.wire.sse import Frame
from tests.grammar import check

FOREIGN = {"type": "thinking", "thinking": "t", "signature": wrap("gemini/google", {"sig": "x"})}
NATIVE = {"type": "thinking", "thinking": "t", "signature": "EqQB"}
CALL = {"type": "tool_use", "id": "toolu_01", "name": "T", "input": {}}


def context(**more: Any) -> Context:
    numbers = itertools.count(1)
    more.setdefault("model", "claude-x")
    more.setdefault("facts", ModelFacts("claude-x"))
    more.setdefault("family", "anthropic/anthropic")
    return Context(provider="a", asked_model="claude-x", new_id=lambda p: f"{p}{next(numbers)}", **more)


def request(*content: Any, **more: Any) -> dict[str, Any]:
    history = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": list(content)},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01", "content": "r"}]},
    ]
    return {"model": "claude-x", "max_tokens": 9000, "messages": history, **more}


# -- requests


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"a","max_tokens":1}', b'{"model":"b","max_tokens":1}'),
        (b' {\n "model" : "a" ,"x":[1.0,1e3]}', b' {\n "model" : "b" ,"x":[1.0,1e3]}'),
        (b'{"model":"a","tools":[{"properties":{"model":{"type":"string"}}}]}', b'{"model":"b","tools":[{"properties":{"model":{"type":"string"}}}]}'),
        (b'{"model":"a","x":{"model":"a"}}', b'{"model":"b","x":{"model":"a"}}'),
        (b'{"model":"a","model":"c"}', None),
        (b'{"model":"a","\\u006dodel":"c"}', None),
        (b'{"model":"a","x":{"model":}', None),
        (b'{"max_tokens":1,"model":"a"}', None),
        (b'{"model":"a\\n"}', None),
        (b'{"model":1}', None),
        (b"[]", None),
    ],
)  # fmt: skip
def test_splice(raw: bytes, expected: bytes | None) -> None:
    assert splice(raw, "b") == expected


def test_splice_writes_json() -> None:
    assert splice(b'{"model":"a"}', 'q"ü') == b'{"model":"q\\"\\u00fc"}'


def test_needs_change() -> None:
    assert needs_change(json.dumps(request(FOREIGN, CALL)).encode())
    assert not needs_change(json.dumps(request(NATIVE, CALL)).encode())


def test_only_foreign_thinking_is_taken_out() -> None:
    original = request(NATIVE, FOREIGN, CALL)
    cleaned, gone = without_foreign_thinking(original)
    assert gone == 1 and cleaned["messages"][1]["content"] == [NATIVE, CALL]
    assert original["messages"][1]["content"][1] is FOREIGN
    assert without_foreign_thinking(request(NATIVE, CALL)) == (request(NATIVE, CALL), 0)
    every, gone = without_foreign_thinking(
        request(NATIVE, {"type": "redacted_thinking", "data": "x"}, CALL), every=True
    )
    assert gone == 2 and every["messages"][1]["content"] == [CALL]


def test_a_turn_of_nothing_but_foreign_thinking_goes() -> None:
    cleaned, _ = without_foreign_thinking(request(FOREIGN))
    assert [m["role"] for m in cleaned["messages"]] == ["user", "user"]


def test_unsigned_thinking_goes_only_to_those_who_do_not_sign() -> None:
    bare = {"type": "thinking", "thinking": "t", "signature": ""}
    assert DIALECT.encode(request(bare, CALL), context()).body["messages"][1]["content"] == [CALL]
    kept = DIALECT.encode(request(bare, CALL), context(family="anthropic/deepseek")).body
    assert kept["messages"][1]["content"] == [bare, CALL]


def test_headers_travel_byte_for_byte() -> None:
    headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-1,  b-2", "x-api-key": "secret"}
    sent = DIALECT.encode(request(CALL), context(client_headers=headers))
    assert sent.headers == {"anthropic-version": "2026-10-21", "anthropic-beta": "a-1,  b-2"}
    assert DIALECT.encode(request(CALL), context()).headers == {"anthropic-version": "2023-06-01"}
    assert sent.path == "/v1/messages"


def test_thinking_is_off_for_a_request_whose_open_turn_lost_it() -> None:
    budget = {"type": "enabled", "budget_tokens": 2000}
    lost = DIALECT.encode(request(FOREIGN, CALL, thinking=budget), context())
    assert lost.body["thinking"] == {"type": "disabled"}
    assert {Loss("thinking"), Loss("thinking", "approximated")} == set(lost.losses)
    assert DIALECT.encode(request(NATIVE, CALL, thinking=budget), context()).body["thinking"] == budget
    adaptive = {"type": "adaptive"}
    assert DIALECT.encode(request(FOREIGN, CALL, thinking=adaptive), context()).body["thinking"] == adaptive
    closed = request({"type": "text", "text": "x"}, thinking=budget)
    assert DIALECT.encode(closed, context()).body["thinking"] == budget


def known(thinking: str, **more: Any) -> ModelFacts:
    return ModelFacts("other", known=True, thinking=thinking, **more)


def test_a_renamed_model_gets_the_form_it_knows() -> None:
    def sent(facts: ModelFacts, **fields: Any) -> dict[str, Any]:
        return DIALECT.encode(request(NATIVE, CALL, **fields), context(model="other", facts=facts)).body

    adaptive = {
        "thinking": {"type": "adaptive", "display": "updates"},
        "output_config": {"effort": "low", "format": 1},
    }
    body = sent(known("budget"), **adaptive)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048} and body["output_config"] == {
        "format": 1
    }
    body = sent(known("adaptive"), thinking={"type": "enabled", "budget_tokens": 5000, "display": "updates"})
    assert body["thinking"] == {"type": "adaptive", "display": "updates"} and body["output_config"] == {
        "effort": "medium"
    }
    body = sent(known(""), **adaptive)
    assert "thinking" not in body and body["output_config"] == {"format": 1}
    assert sent(ModelFacts("other"), **adaptive)["thinking"] == adaptive["thinking"]
    assert (
        sent(known("budget", output_cap=1500), thinking={"type": "enabled", "budget_tokens": 5000})[
            "max_tokens"
        ]
        == 1500
    )
    assert (
        sent(known("budget", output_cap=1500), thinking={"type": "enabled", "budget_tokens": 5000})[
            "thinking"
        ]["budget_tokens"]
        == 1499
    )


def test_a_model_that_stays_keeps_its_body() -> None:
    body = request(
        NATIVE, CALL, thinking={"type": "adaptive"}, max_tokens=999_999, unknown={"a": 1}, stream=False
    )
    assert DIALECT.encode(body, context(facts=ModelFacts("claude-x", known=True, output_cap=5))).body == body
    assert DIALECT.encode(body, context(stream=True)).body["stream"] is True


def test_counting() -> None:
    sent = DIALECT.encode_count(request(FOREIGN, CALL, stream=True, temperature=1), context())
    assert sent is not None and sent.path == "/v1/messages/count_tokens"
    assert set(sent.body) == {"model", "messages"} and FOREIGN not in sent.body["messages"][1]["content"]
    assert DIALECT.decode_count({"input_tokens": 7}) == 7
    with pytest.raises(BadUpstream):
        DIALECT.decode_count({})


# -- answers


def test_a_whole_answer_passes_and_an_error_in_it_does_not() -> None:
    body = {"type": "message", "model": "theirs", "content": [{"type": "new"}], "x": 1}
    assert DIALECT.decode(body, context(), Encoded("", {})) is body
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode(
            {"type": "error", "error": {"type": "overloaded_error", "message": "o"}},
            context(),
            Encoded("", {}),
        )
    assert caught.value.error.status == 529
    for nonsense in ([], {"content": "x"}):
        with pytest.raises(BadUpstream):
            DIALECT.decode(nonsense, context(), Encoded("", {}))


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, type: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": type, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


OPEN = {"type": "message_start", "message": {"id": "msg_u", "type": "message", "role": "assistant", "model": "u", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 0}}}  # fmt: skip
END = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 5},
    },
    {"type": "message_stop"},
]
REGULAR = [
    OPEN,
    start(0, type="text", text=""),
    {"type": "ping"},
    delta(0, "text_delta", text="ü"),
    stop(0),
    *END,
]


def run(*events: dict[str, Any], whole: bool = True) -> list[dict[str, Any]]:
    decoder = DIALECT.decoder(context(), Encoded("", {}))
    out: list[dict[str, Any]] = []
    for event in events:
        out += decoder.feed(Frame(event.get("type", ""), json.dumps(event).encode()))
    out += decoder.end()
    if whole:
        check(out)
        assert decoder.finished
    return out


def test_a_regular_stream_passes_unchanged_with_what_nobody_knows() -> None:
    news = [
        start(1, type="new_block", data=1),
        delta(1, "new_delta", x=1),
        stop(1),
        {"type": "new_event", "y": 2},
    ]
    events = [*REGULAR[:-2], *news, *END]
    assert run(*events, whole=False) == events


def test_blocks_that_overlap_are_closed_in_time() -> None:
    events = run(OPEN, start(0, type="text", text=""), delta(0, "text_delta", text="A"), start(1, type="tool_use", id="t", name="T"), delta(1, "input_json_delta", partial_json="{}"), stop(0), stop(1), *END)  # fmt: skip
    content = fold(events)["content"]
    assert [b["type"] for b in content] == ["text", "tool_use"] and content[1]["input"] == {}


def test_text_that_comes_late_is_not_lost() -> None:
    events = run(OPEN, start(0, type="text", text=""), delta(0, "text_delta", text="A"), start(1, type="thinking", thinking=""), delta(0, "text_delta", text="B"), delta(1, "thinking_delta", thinking="t"), stop(0), stop(1), *END)  # fmt: skip
    content = fold(events)["content"]
    assert "".join(b.get("text", "") for b in content) == "AB"
    assert "".join(b.get("thinking", "") for b in content) == "t"


def test_a_tool_call_stays_whole() -> None:
    events = run(OPEN, start(0, type="tool_use", id="t", name="T", input={}), delta(0, "input_json_delta", partial_json='{"a"'), start(1, type="text", text=""), delta(1, "text_delta", text="x"), delta(0, "input_json_delta", partial_json=":1}"), stop(1), stop(0), *END)  # fmt: skip
    content = fold(events)["content"]
    assert content[0]["input"] == {"a": 1} and content[1]["text"] == "x"


def test_input_in_the_start_is_given_as_a_delta() -> None:
    events = run(OPEN, start(0, type="tool_use", id="t", name="T", input={"a": 1}), stop(0), *END)
    assert events[1]["content_block"]["input"] == {} and fold(events)["content"][0]["input"] == {"a": 1}


def test_missing_frame_events_are_made() -> None:
    body = [start(0, type="text"), delta(0, "text_delta", text="x")]
    events = run(*body, {"type": "message_stop"})
    assert events[0]["message"]["id"].startswith("msg_")
    assert fold(events)["stop_reason"] == "end_turn"
    assert run(OPEN, *body, stop(0), END[0])[-1] == {"type": "message_stop"}
    assert run(OPEN, delta(0, "text_delta", text="x"), stop(0), *END)[1]["content_block"] == {
        "type": "text",
        "text": "",
    }


def test_an_end_in_the_middle_is_no_end() -> None:
    for events in (REGULAR[:1], REGULAR[:4], REGULAR[:5], []):
        with pytest.raises(IncompleteStream):
            run(*events)


def test_errors_in_a_stream() -> None:
    with pytest.raises(UpstreamError) as caught:
        run(*REGULAR[:3], {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert (caught.value.error.type, caught.value.error.status) == ("overloaded_error", 529)
    for data in (b"{", b"[]"):
        with pytest.raises(BadUpstream):
            DIALECT.decoder(context(), Encoded("", {})).feed(Frame("", data))


# -- the scanner


def scan(raw: bytes, step: int) -> tuple[Scanner, bytes]:
    scanner, carried, out = Scanner(), b"", b""
    for at in range(0, len(raw), step):
        carried += raw[at : at + step]
        n = scanner.feed(carried)
        out, carried = out + carried[:n], carried[n:]
    return scanner, out + scanner.end(carried)


LONG = [OPEN, start(0, type="thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="x"), delta(0, "signature_delta", signature="s"), stop(0), start(1, type="tool_use", id="t", name="T", input={}), *[delta(1, "input_json_delta", partial_json=p) for p in ("{", '"event: error\\n\\n"', ":1}")], stop(1), *END]  # fmt: skip


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 10_000])
def test_the_scanner_follows_any_cut(step: int, end: bytes) -> None:
    raw = b": hello\n\n" + b"".join(map(render, LONG))
    raw = raw.replace(b"\n", end)
    scanner, out = scan(raw, step)
    assert out == raw
    assert (scanner.started, scanner.content, scanner.finished, scanner.irregular) == (
        True,
        True,
        True,
        False,
    )
    assert (scanner.completed_blocks, scanner.open_block, scanner.stop_reason) == (2, None, "end_turn")
    assert (scanner.usage.input, scanner.usage.output) == (3, 5)


def test_the_scanner_sees_content_and_usage_as_they_come() -> None:
    scanner = Scanner()
    assert scanner.feed(render(LONG[0]) + render(LONG[1])) > 0
    assert not scanner.content and scanner.usage.input == 3 and scanner.open_block == 0
    scanner.feed(render(LONG[2]))
    assert scanner.content and not scanner.finished


@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_an_error_event_is_not_relayed(step: int) -> None:
    head = b"".join(map(render, LONG[:3]))
    tail = render({"type": "error", "error": {"type": "overloaded_error", "message": "o"}})
    scanner, out = scan(head + tail, step)
    assert out == head
    assert scanner.error is not None and scanner.error.type == "overloaded_error"


@pytest.mark.parametrize("fragments", [False, True])
@pytest.mark.parametrize("last", [delta(0, "thinking_delta", thinking='say "}" {'), {"type": "ping"}])
def test_half_an_event_is_not_relayed_with_the_error_after_it(last: dict[str, Any], fragments: bool) -> None:
    """Cut anywhere, then a blank line and an error: what is relayed is events, and the error is seen."""
    head, whole = b"".join(map(render, LONG[:3])), render(last)
    error = b"\n\n" + render({"type": "error", "error": {"type": "overloaded_error", "message": "o"}})
    for cut in range(len(whole)):
        scanner, carried, out = Scanner(), b"", b""
        for piece in (head, whole[:cut], error) if fragments else (head, whole[:cut] + error):
            carried += piece
            done = scanner.feed(carried)
            out, carried = out + carried[:done], carried[done:]
        assert scanner.error is not None, cut
        for line in out.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: ":
                json.loads(line[6:])


def test_a_missing_last_blank_line_is_added() -> None:
    raw = b"".join(map(render, LONG))
    scanner, out = scan(raw[:-2], 64)
    assert scanner.finished and out == raw
    scanner, out = scan(raw[:-9], 64)
    assert not scanner.finished and raw.startswith(out)


@pytest.mark.parametrize(
    "events",
    [
        [OPEN, start(0, type="text", text=""), start(1, type="text", text="")],
        [OPEN, start(0, type="tool_use", id="t", name="T")],
        [OPEN, start(1, type="text", text="")],
        [OPEN, delta(0, "text_delta", text="x")],
        [start(0, type="text", text="")],
        [OPEN, start(0, type="text", text=""), *END],
        [OPEN, {"type": "message_stop"}],
    ],
)
def test_the_scanner_names_broken_grammar(events: list[dict[str, Any]]) -> None:
    for step in (1, 10_000):
        assert scan(b"".join(map(render, events)), step)[0].irregular


def test_events_without_their_name_are_irregular() -> None:
    raw = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in LONG)
    assert scan(raw, 10_000)[0].irregular and scan(raw, 5)[0].irregular
