"""JSON that remembers tools: the same as `json`, always; the same object where the same tools come again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.wire import jsontext
from ccm.wire.jsontext import Shared, derive, dumps, event, loads


def tools(word: str = "does things", count: int = 30) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": word}}}
    return [
        {"name": f"tool_{n}", "description": f"{word} " * 9, "input_schema": schema} for n in range(count)
    ]


def body(**more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "\u201chi\u201d"}],
        "tools": tools(),
        **more,
    }


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsontext, "_kept", ())


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
def test_the_same_tools_come_back_as_the_same_object(ascii: bool, separators: tuple[str, str]) -> None:
    text = json.dumps(body(), ensure_ascii=ascii, separators=separators)
    first = loads(text)
    again = loads(json.dumps(body(max_tokens=5), ensure_ascii=ascii, separators=separators))
    assert first == body() and again == body(max_tokens=5)
    assert isinstance(first["tools"], Shared) and first["tools"] is again["tools"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "{}", " { } ", "[]", "1", '"x"', "nul", '{"a":1,}', '{"a" 1}', '{"a":1 "b":2}', '{"a":1}x', "{1:2}",
     '{"a":NaN}', '{"tools":[NaN]}', '{"tools":[1,2}', '{"tools":', '{"tools"}', '{"a":"\x01"}', '{"a":1,"a":2}',
     '{"tools":[1],"tools":[2]}', '{"a":[1,{"tools":[3]}]}', "{'a':1}", '{"\\u0074ools":[1]}', '{"a":1}}', "\ufeff{}",
     '{"a":-Infinity}', '{"a":"\\ud800"}', '{"tools":[1],}', '{"tools":[1]]'],
)  # fmt: skip
def test_what_json_says_is_said(text: str) -> None:
    try:
        wanted = json.loads(text, parse_constant=_refuse)
    except ValueError:
        with pytest.raises(ValueError):
            loads(text)
    else:
        assert loads(text) == wanted


def _refuse(name: str) -> None:
    raise ValueError(name)


def test_tools_that_only_begin_the_same_are_other_tools() -> None:
    text = json.dumps(body())
    first = loads(text)
    longer = body(tools=[*tools(), {"name": "one_more"}])
    assert loads(json.dumps(longer)) == longer
    changed = body(tools=tools("does thinks"))
    assert loads(json.dumps(changed)) == changed
    broken = text[:-1] + "]}"  # the known list, then something that is no JSON
    with pytest.raises(ValueError):
        loads(broken)
    assert loads(text)["tools"] is first["tools"]


def test_a_known_list_deeper_down_is_not_looked_for() -> None:
    loads(json.dumps(body()))
    inner = loads(json.dumps({"x": {"tools": tools()}}))
    assert type(inner["x"]["tools"]) is list


def test_only_the_latest_are_kept_and_short_lists_not_at_all() -> None:
    texts = [json.dumps(body(tools=tools(f"tool set {n}"))) for n in range(12)]
    found = [loads(text)["tools"] for text in texts]
    assert len(jsontext._kept) == 8
    assert loads(texts[-1])["tools"] is found[-1] and loads(texts[0])["tools"] is not found[0]
    assert type(loads(json.dumps(body(tools=tools(count=1))))["tools"]) is list
    before = jsontext._kept
    huge = loads(json.dumps(body(tools=tools("x" * 60_000, 10))))
    assert type(huge["tools"]) is list and jsontext._kept is before


def test_written_as_json_writes_it() -> None:
    shared = Shared(tools("\u201cquoted\u201d \ud83d\ude00"))
    for value in (
        {"model": "m", "tools": shared, "n": 1.5, "b": None},
        {"tools": [{"functionDeclarations": shared}], "messages": [{"role": "user", "content": "ü"}]},
        {"toolConfig": {"tools": shared, "toolChoice": {"auto": {}}}, "empty": {}, "list": []},
        {"a": {"b": {"c": {"d": {"e": shared}}}}, 'q"': [1, [2, [3, [4, [shared]]]]]},
        {1: {"x": shared}, None: 2, False: [shared]},
        {},
    ):
        assert dumps(value) == json.dumps(value, separators=(",", ":")).encode()


def test_what_was_derived_is_made_once_per_key() -> None:
    made: list[str] = []

    def make(word: str) -> str:
        made.append(word)
        return word

    shared = Shared(tools())
    assert [derive(shared, "a", lambda: make("a")) for _ in range(3)] == ["a", "a", "a"]
    assert derive(shared, "b", lambda: make("b")) == "b"
    assert made == ["a", "b"]
    assert [derive([], "a", lambda: make("plain")) for _ in range(2)] == ["plain", "plain"]
    assert made == ["a", "b", "plain", "plain"]
    for n in range(100):
        shared.derive(n, lambda n=n: n)  # type: ignore[misc]
    assert len(shared._derived) <= 32


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{}", b' {"a":1} ', b'{"a":1}\n', b"[DONE]", b"{", b'{"a":"\xc3\xa9"}', b'{"a":"\xff"}', b"\xef\xbb\xbf{}",
     b"NaN", b'{"a":NaN}', b"1 2", '{"a":1}'.encode("utf-16"), b'"\xed\xa0\x80"', b"{}{}", b'{"a":"\\ud800"}'],
)  # fmt: skip
def test_an_event_is_read_as_json_reads_it(data: bytes) -> None:
    try:
        wanted = json.loads(data)
    except ValueError:
        with pytest.raises(ValueError):
            event(data)
    else:
        assert json.dumps(event(data)) == json.dumps(wanted)  # NaN equals nothing


def test_a_number_beyond_all_numbers_is_refused() -> None:
    """It would go on to a provider as Infinity, which is no JSON."""
    for text in ('{"a": 1e999}', '{"a": [-1e999]}', "[1e400]"):
        with pytest.raises(ValueError):
            loads(text)
    assert loads('{"a": 1e308, "b": 1.5}') == {"a": 1e308, "b": 1.5}
