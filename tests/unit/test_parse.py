"""proxy.parse: the short cut never guesses, the parser never crashes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccm.errors import Refusal
from ccm.proxy.parse import check_messages, parse, peek

GOOD = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


def raw(**fields) -> bytes:
    return json.dumps({**GOOD, **fields}, separators=(",", ":")).encode()


def test_peek_reads_what_claude_code_writes():
    assert peek(raw(stream=True)) == ("m", True)
    assert peek(raw(stream=False)) == ("m", False)
    assert peek(json.dumps({**GOOD, "stream": True}, indent=1).encode()) == ("m", True)


def test_a_property_named_model_does_not_matter():
    tool = {"name": "Agent", "input_schema": {"properties": {"model": {"type": "string"}}}}
    assert peek(raw(tools=[tool], stream=True)) == ("m", True)


@pytest.mark.parametrize(
    "body",
    [
        raw(),
        b'{"max_tokens":1,"model":"m","stream":true}',
        b'{"model":"m","model":"n","stream":true}',
        b'{"model":"m","\\u006dodel":"n","stream":true}',
        b'{"model":"m","stream":true,"x":1}',
        b'{"model":"m","x":"\\"stream\\":true}"}',
        b'{"model":"\\u006d","stream":true}',
        b'[{"model":"m","stream":true}]',
    ],
)
def test_peek_declines(body):
    assert peek(body) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(["model", '","stream":true}', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "stream", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(max_size=5), JSON, st.booleans(), st.booleans())
def test_peek_says_what_json_loads_says(model, middle, stream, ascii):
    body = json.dumps({"model": model, "x": middle, "stream": stream}, ensure_ascii=ascii).encode(
        "utf-8", "surrogatepass"
    )
    peeked = peek(body)
    if peeked is not None:
        parsed = json.loads(body)
        assert peeked == (parsed["model"], parsed["stream"])


@pytest.mark.parametrize(
    "body",
    [b"", b"   ", b"hello", b"[]", b"null", b'"x"', b'{"a":NaN}', b'{"a":-Infinity}', b"[" * 100_000, b'{"a":' * 50_000,
     b'{"model":"\xff"}', '{"model":"x"}'.encode("utf-16"), b'{"a":1} extra', b'{"a":' + b"9" * 6000 + b"}"],
)  # fmt: skip
def test_bad_bodies_are_400(body):
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": 1}, "model"), ({"model": ""}, "model"), ({"messages": {}}, "messages"), ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages.0"), ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [None]}]}, "messages.0.content.0"), ({"tools": "no"}, "tools"),
        ({"stream": "yes"}, "stream"), ({"system": 5}, "system"), ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"), ({"thinking": []}, "thinking"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_named(change, named):
    with pytest.raises(Refusal) as caught:
        check_messages({**GOOD, **change})
    assert caught.value.message.startswith(named + ":")


def test_unknown_fields_and_blocks_are_fine():
    check_messages({**GOOD, "future": {}, "messages": [{"role": "user", "content": [{"type": "hologram"}]}]})


@pytest.mark.parametrize("cap", [-5, 0, True, "16", 1.5, [], {}])
def test_a_count_may_leave_its_limit_out_but_not_make_it_nonsense(cap):
    asked = {name: value for name, value in GOOD.items() if name != "max_tokens"}
    check_messages(asked, counting=True)
    check_messages({**asked, "max_tokens": None}, counting=True)
    with pytest.raises(Refusal, match="max_tokens") as caught:
        check_messages({**asked, "max_tokens": cap}, counting=True)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")


def test_a_model_name_has_256_characters_at_most():
    """It becomes a label, a column and a header: what is longer is no name."""
    for counting in (False, True):
        check_messages({**GOOD, "model": "é" * 256}, counting)
        with pytest.raises(Refusal, match=r"model: .*257 characters.*256 at most") as caught:
            check_messages({**GOOD, "model": "m" * 257}, counting)
        assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert peek(raw(model="m" * 257, stream=True)) is None, "the short cut must not let it pass"
