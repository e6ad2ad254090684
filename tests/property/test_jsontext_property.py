"""`wire.jsontext` against `json`: whatever the text, whatever was read before."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.repair import before
from ccm.dialects.table import DIALECTS
from ccm.wire.jsontext import Shared, dumps, event, loads
from tests.property.test_dialects_cuts import MAKERS, context

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip
LONG = st.lists(
    st.fixed_dictionaries({"name": TEXT, "description": st.just("x" * 1000)}), min_size=2, max_size=4
)
BODIES = st.dictionaries(st.one_of(TEXT, st.just("tools")), st.one_of(VALUES, LONG), max_size=5)


@settings(max_examples=150, deadline=None)
@given(body=BODIES, tools=LONG, spaced=st.booleans(), ascii=st.booleans())
def test_reads_what_json_reads(body: dict[str, Any], tools: Any, spaced: bool, ascii: bool) -> None:
    whole = {**body, "tools": tools}
    for value in (body, whole, {"a": 1, **whole}, whole):
        text = json.dumps(value, ensure_ascii=ascii, indent=1 if spaced else None)
        assert loads(text) == value
        assert json.dumps(event(text.encode())) == json.dumps(value)


@settings(max_examples=150, deadline=None)
@given(body=BODIES, tools=LONG, at=st.integers(0, 5000), letter=st.sampled_from('{}[]",:1 \\x\x00'))
def test_what_is_no_json_for_json_is_none_here(
    body: dict[str, Any], tools: Any, at: int, letter: str
) -> None:
    text = json.dumps({**body, "tools": tools})
    loads(text)
    at %= len(text)
    for broken in (
        text[:at] + letter + text[at:],
        text[:at] + text[at + 1 :],
        text[:at] + letter + text[at + 1 :],
    ):
        try:
            wanted = json.loads(broken)
        except ValueError:
            with pytest.raises(ValueError):
                loads(broken)
        else:
            assert loads(broken) == wanted


@settings(max_examples=100, deadline=None)
@given(body=BODIES, tools=LONG)
def test_writes_what_json_writes(body: dict[str, Any], tools: Any) -> None:
    for value in (
        body,
        {**body, "tools": Shared(tools)},
        {"a": [{"b": Shared(tools)}], "c": {"d": Shared(tools), **body}},
    ):
        assert dumps(value) == json.dumps(value, separators=(",", ":")).encode()


TOOL_SETS = [
    [{"name": "Read", "description": "d", "input_schema": {"$schema": "x", "type": "object", "properties": {"a": {}}}}],
    [{"name": "mcp__" + "x" * 80, "input_schema": {"type": "object"}, "input_examples": [{}], "strict": True}],
    [{"type": "bash_20250124", "name": "bash"}, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}],
    [{"type": "custom", "name": "9odd name", "description": ""}, {"name": "ref", "input_schema": {"$ref": "#/$defs/a"}}],
]  # fmt: skip


@pytest.mark.parametrize("tools", TOOL_SETS)
@pytest.mark.parametrize("name", MAKERS)
def test_shared_tools_are_translated_as_plain_ones_every_time(name: str, tools: list[dict[str, Any]]) -> None:
    """Bodies, losses and names are the same at the first and at the third use, and nothing shared is changed by it."""
    dialect = DIALECTS[MAKERS[name][1]]
    choice = {"type": "tool", "name": tools[0]["name"]}
    request = {
        "model": "claude-x",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        "tool_choice": choice,
    }
    ctx = context(name)
    plain = dialect.encode({**request, "tools": tools}, ctx)
    shared = Shared(copy.deepcopy(tools))
    for _ in range(3):
        given, _, _ = before((), {**request, "tools": shared}, ctx)
        sent = dialect.encode(given, ctx)
        assert (sent.body, sent.losses, sent.names) == (plain.body, plain.losses, plain.names)
        assert dumps(sent.body) == json.dumps(plain.body, separators=(",", ":")).encode()
        assert shared == tools
