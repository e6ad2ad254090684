"""Tools, tool choice and names."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.base import Context, Encoded, Loss
from ccm.dialects.gemini import DIALECT
from ccm.dialects.gemini.tools import sent_name
from ccm.model import ModelFacts

READ = {
    "name": "Read",
    "description": "Reads.",
    "input_schema": {"type": "object", "properties": {"p": {"type": "string"}}},
}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def encode(
    model: str = "gemini-3.8-flash",
    quirks: frozenset[str] = frozenset(),
    vertex: bool = False,
    **request: Any,
) -> Encoded:
    ctx = Context(
        provider="google",
        family="gemini/google",
        model=model,
        asked_model="c",
        facts=ModelFacts(model),
        new_id=lambda prefix: prefix + "1",
        quirks=quirks,
        options={"vertex": True} if vertex else {},
    )
    return DIALECT.encode({"messages": [{"role": "user", "content": "x"}], **request}, ctx)


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        (None, None),
        ({"type": "auto"}, {"mode": "AUTO"}),
        ({"type": "any"}, {"mode": "ANY"}),
        ({"type": "none"}, {"mode": "NONE"}),
        ({"type": "tool", "name": "Read"}, {"mode": "ANY", "allowedFunctionNames": ["Read"]}),
        ({"type": "tool", "name": "gone"}, None),
    ],
)
def test_tool_choice(choice: Any, calling: Any) -> None:
    body = encode(tools=[READ], tool_choice=choice).body
    assert body.get("toolConfig", {}).get("functionCallingConfig") == calling


def test_both_forms_of_a_schema() -> None:
    (declaration,) = encode(tools=[READ]).body["tools"][0]["functionDeclarations"]
    assert declaration == {
        "name": "Read",
        "description": "Reads.",
        "parametersJsonSchema": READ["input_schema"],
    }
    old = frozenset({"openapi_schema"})
    empty = {"name": "Now", "description": "", "input_schema": {"type": "object", "properties": {}}}
    first, second = encode(tools=[READ, empty], quirks=old).body["tools"][0]["functionDeclarations"]
    assert first["parameters"] == {"type": "OBJECT", "properties": {"p": {"type": "STRING"}}}
    assert second == {"name": "Now", "description": ""}


def test_search_alone_takes_its_choice_with_it() -> None:
    out = encode(tools=[SEARCH], tool_choice={"type": "tool", "name": "web_search"})
    assert out.body["tools"] == [{"googleSearch": {}}]
    assert "toolConfig" not in out.body
    assert Loss("tools.web_search.max_uses") in out.losses


def test_search_beside_functions_only_from_generation_3_on() -> None:
    new = encode(tools=[SEARCH, READ])
    assert [list(tool) for tool in new.body["tools"]] == [["googleSearch"], ["functionDeclarations"]]
    assert new.body["toolConfig"] == {"includeServerSideToolInvocations": True}
    assert "toolConfig" not in encode(tools=[SEARCH, READ], vertex=True).body
    old = encode("gemini-2.5-pro", tools=[SEARCH, READ])
    assert [list(tool) for tool in old.body["tools"]] == [["functionDeclarations"]]
    assert Loss("tools.web_search_20250305") in old.losses


def test_typed_client_tools_become_functions_and_foreign_server_tools_go() -> None:
    out = encode(
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"type": "code_execution_20250825", "name": "code_execution"},
        ]
    )
    (declaration,) = out.body["tools"][0]["functionDeclarations"]
    assert declaration["name"] == "bash" and "command" in declaration["parametersJsonSchema"]["properties"]
    assert Loss("tools.code_execution_20250825") in out.losses


def test_losses_of_tools_are_named() -> None:
    tool = {**READ, "strict": True, "cache_control": {"type": "ephemeral"}, "input_examples": [{}]}
    out = encode(tools=[tool], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    features = {loss.feature for loss in out.losses}
    assert {
        "cache_control",
        "tools.strict",
        "tools.input_examples",
        "tool_choice.disable_parallel_tool_use",
    } <= features


def test_empty_tools_leave_nothing() -> None:
    assert encode(tools=[]).body.keys() == {"contents"}


def test_names() -> None:
    assert sent_name("mcp__server__do-it") == "mcp__server__do-it"
    odd = sent_name("1st-tool")
    assert odd.endswith("_1st-tool") and odd[0] == "t" and odd == sent_name("1st-tool")
    assert sent_name("-x") != sent_name("-y")
    assert len(sent_name("n" * 200)) == 128
    out = encode(
        tools=[{**READ, "name": "1st"}],
        tool_choice={"type": "tool", "name": "1st"},
        messages=[
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "1st", "input": {}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}]},
        ],
    )
    sent = sent_name("1st")
    assert out.names == {sent: "1st"}
    assert out.body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [sent]
    assert out.body["contents"][1]["parts"][0]["functionCall"]["name"] == sent
    assert out.body["contents"][2]["parts"][0]["functionResponse"]["name"] == sent
