"""Responses requests as Messages requests."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.errors import Refusal
from tests.inbound import ask, losses

USER = {"role": "user", "content": "hi"}
FUNCTION = {
    "type": "function",
    "name": "f",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}


def body(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": list(items) if items else "hi", **fields}


def blocks(made: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    """Per message: (type, the telling part) of each block."""
    keys = ("text", "signature", "data", "id", "tool_use_id")
    return [
        [(b["type"], next(b[k] for k in keys if b.get(k))) for b in message["content"]]
        for message in made["messages"]
    ]


def test_string_input_and_instructions() -> None:
    made = ask("responses", body(instructions="Be brief."))
    assert made == {
        "model": "m",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_tokens": 32_000,
        "stream": False,
    }


def test_a_turn_with_reasoning_calls_and_outputs() -> None:
    made = ask(
        "responses",
        body(
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "dev"}]},
            USER,
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "why"}], "encrypted_content": "SIG"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "ccm-redacted.DATA"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\": 1}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": ""},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
            {"type": "message", "role": "developer", "content": "later"},
            USER,
            tools=[FUNCTION],
        ),
    )  # fmt: skip
    assert made["system"] == [{"type": "text", "text": "dev"}]
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "user", "system", "user"]
    assert blocks(made)[1:3] == [
        [("thinking", "SIG"), ("text", "ok"), ("redacted_thinking", "DATA"), ("tool_use", "c1"), ("tool_use", "c2")],
        [("tool_result", "c1"), ("tool_result", "c2")],
    ]  # fmt: skip
    assert made["messages"][1]["content"][0]["thinking"] == "why"
    assert made["messages"][1]["content"][3]["input"] == {"a": 1}


def test_media_in_messages_and_outputs() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    pdf = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    made = ask(
        "responses",
        body(
            {
                "role": "user",
                "content": [image, pdf, {"type": "input_file", "file_url": "https://x/b.pdf"}],
            },
            {"type": "function_call", "call_id": "c1", "name": "shot", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [image]},
        ),
    )
    kinds = [b["type"] for b in made["messages"][0]["content"]]
    assert kinds == ["image", "document", "document"]
    assert made["messages"][0]["content"][2]["source"] == {"type": "url", "url": "https://x/b.pdf"}
    assert made["messages"][2]["content"][0]["content"][0]["source"]["media_type"] == "image/png"


def test_the_tools_of_codex() -> None:
    given = body(
        USER,
        {"type": "local_shell_call", "id": "l", "call_id": "c1", "status": "completed", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "id": "c1", "output": "files"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        {"type": "function_call", "call_id": "c3", "namespace": "mcp__git__", "name": "log", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c3", "output": "log"},
        {"type": "tool_search_call", "call_id": "c4", "execution": "client", "arguments": {"query": "x"}},
        {"type": "tool_search_output", "call_id": "c4", "execution": "client", "tools": [{**FUNCTION, "name": "found", "defer_loading": True}]},
        {"type": "shell_call", "call_id": "c5", "action": {"commands": ["pwd"], "timeout_ms": None, "max_output_length": None}},
        {"type": "shell_call_output", "call_id": "c5", "output": [{"stdout": "/", "stderr": "", "outcome": {"type": "exit", "exit_code": 2}}]},
        {"type": "apply_patch_call", "call_id": "c6", "status": "completed", "operation": {"type": "delete_file", "path": "a"}},
        {"type": "apply_patch_call_output", "call_id": "c6", "status": "failed", "output": "no such file"},
        tools=[
            {"type": "local_shell"},
            {"type": "custom", "name": "apply", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
            {"type": "namespace", "name": "mcp__git__", "description": "git", "tools": [{**FUNCTION, "name": "log"}]},
            {"type": "tool_search", "execution": "client"},
            {"type": "shell", "environment": {"type": "local"}},
            {"type": "apply_patch"},
            {"type": "web_search", "external_web_access": False, "filters": {"allowed_domains": ["a.org"]}},
            {"type": "image_generation"},
        ],
        tool_choice="auto",
    )  # fmt: skip
    made = ask("responses", given)
    names = [tool["name"] for tool in made["tools"]]
    assert names == ["local_shell", "apply", "mcp__git__log", "tool_search", "shell", "apply_patch", "web_search", "found"]  # fmt: skip
    assert made["tools"][6]["allowed_domains"] == ["a.org"]
    calls = [b for m in made["messages"] for b in m["content"] if b["type"] == "tool_use"]
    assert [(c["name"], c["input"]) for c in calls] == [
        ("local_shell", {"command": ["ls"]}),
        ("apply", {"input": "*** Begin"}),
        ("mcp__git__log", {}),
        ("tool_search", {"query": "x"}),
        ("shell", {"commands": ["pwd"]}),
        ("apply_patch", {"operation": {"type": "delete_file", "path": "a"}}),
    ]
    results = [b for m in made["messages"] for b in m["content"] if b["type"] == "tool_result"]
    assert [r["tool_use_id"] for r in results] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    assert "found" in results[3]["content"][0]["text"] and "2" in results[4]["content"][0]["text"]
    assert results[5]["is_error"] is True and "is_error" not in results[0]
    assert losses("responses", given) == {
        "tools.format": "approximated",
        "tools.image_generation": "dropped",
        "tools.defer_loading": "approximated",
    }


def test_hosted_calls_of_the_history() -> None:
    given = body(
        USER,
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "mcp_call", "id": "x", "name": "ask", "arguments": "{}", "output": "the answer", "server_label": "s"},
        {"type": "code_interpreter_call", "id": "i", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {"type": "compaction", "encrypted_content": "gAAAAB"},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAAAAB"},
        {"type": "invented", "x": 1},
        USER,
    )  # fmt: skip
    told = "\n".join(b["text"] for m in ask("responses", given)["messages"] for b in m["content"])
    assert "the answer" in told and "1+1" in told
    assert losses("responses", given) == {
        "input.web_search_call": "dropped",
        "input.hosted_call": "approximated",
        "input.compaction": "dropped",
        "input.encrypted_content": "dropped",
        "input.unknown_item": "dropped",
    }


@pytest.mark.parametrize(
    ("given", "made", "lost"),
    [
        ({"max_output_tokens": 16}, {"max_tokens": 16}, {}),
        (
            {"reasoning": {"effort": "medium", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "medium"}},
            {},
        ),
        ({"reasoning": {"summary": "auto", "effort": None}}, {}, {}),
        (
            {"text": {"format": {"type": "json_schema", "name": "o", "schema": {"type": "object"}}, "verbosity": "low"}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {"text.verbosity": "dropped"},
        ),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}}, {"tool_choice": {"type": "tool", "name": "f"}}, {}),
        ({"tools": [FUNCTION], "tool_choice": {"type": "mcp", "server_label": "s"}}, {}, {"tool_choice": "dropped"}),
        ({"tools": [{"type": "web_search_preview"}], "tool_choice": {"type": "web_search_preview"}}, {"tool_choice": {"type": "tool", "name": "web_search"}}, {}),
        ({"tools": [{"type": "mcp", "server_label": "s"}], "tool_choice": "required"}, {}, {"tools.mcp": "dropped"}),
        ({"store": True, "metadata": {"a": "b"}, "truncation": "disabled", "service_tier": "auto"}, {}, {}),
        ({"truncation": "auto", "max_tool_calls": 3}, {}, {"truncation": "dropped", "max_tool_calls": "dropped"}),
        ({"stream": True, "safety_identifier": "s"}, {"stream": True, "metadata": {"user_id": "s"}}, {}),
    ],
)  # fmt: skip
def test_settings(given: dict[str, Any], made: dict[str, Any], lost: dict[str, str]) -> None:
    got = ask("responses", body(**given))
    tools = got.pop("tools", None)
    assert got == {**ask("responses", body()), **made}
    assert bool(tools) == ("tools" in given and "mcp" not in str(given["tools"]))
    assert losses("responses", body(**given)) == lost


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (body(previous_response_id="resp_1"), "previous_response_id: "),
        (body(conversation="conv_1"), "conversation: "),
        (body(prompt={"id": "p"}), "prompt: "),
        (body(background=True), "background: "),
        (body({"type": "item_reference", "id": "msg_1"}), "input.0: "),
        (body({"id": "msg_1"}), "input.0: "),
        (body("text"), "input.0: "),
        ({"model": "m", "input": ""}, "input: "),
        ({"model": "m"}, "input: "),
        (body({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}), "input.0.content.0.file_id: "),
        (body({"role": "user", "content": [{"type": "input_audio"}]}), "input.0.content.0: "),
        (body({"role": "wizard", "content": "x"}), "input.0.role: "),
        (body({"type": "function_call", "call_id": "c"}), "input.0.name: "),
        (body(reasoning={"effort": "enormous"}), "reasoning.effort: "),
        (body(tools=[{"type": "function"}]), "tools.0.name: "),
        (body(tools=[{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]), "tools.0.tools.0.name: "),
        (body(max_output_tokens=True), "max_output_tokens: "),
    ],
)  # fmt: skip
def test_refusals_name_the_field(given: dict[str, Any], where: str) -> None:
    with pytest.raises(Refusal) as caught:
        ask("responses", given)
    assert caught.value.status == 400 and caught.value.message.startswith(where)
