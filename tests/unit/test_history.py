"""A history made regular: results after their calls, nothing unknown, nothing lost unsaid."""

from __future__ import annotations

from typing import Any

from ccm.dialects import history, tools


def read(*messages: dict[str, Any], system: Any = None) -> tuple[history.History, list[tuple[str, str]]]:
    losses: list[tuple[str, str]] = []
    request = {"messages": list(messages), "system": system}
    return history.read(request, lambda *loss: losses.append(loss)), losses


def call(id: str, name: str = "T") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {}}


def result(id: str, content: Any = "r") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_the_billing_line_is_no_part_of_the_system_text() -> None:
    blocks = [text("x-anthropic-billing-header: cc_version=1;"), text("A"), text(" "), text("B")]
    assert read(system=blocks)[0].system_text == "A\n\nB"
    assert read(system="x-anthropic-billing-header: v\n\nA")[0].system_text == "A"
    assert read(system="A\nx-anthropic-billing-header: quoted")[0].system_text.startswith("A\nx-")


def test_results_stand_in_call_order_and_first() -> None:
    past, losses = read(
        user(text("q")), assistant(call("a"), call("b")), user(text("t"), result("b", "2"), result("a", "1"))
    )
    turn = past.turns[-1]
    assert [(r.id, r.text) for r in turn.results] == [("a", "1"), ("b", "2")]
    assert [b["text"] for b in turn.blocks] == ["t"]
    assert losses == []


def test_a_call_without_result_gets_one_and_a_result_without_call_goes() -> None:
    past, losses = read(
        user(text("q")), assistant(call("a")), user(result("zz"), text("t")), assistant(text("x"))
    )
    made = past.turns[2].results[0]
    assert (made.id, made.is_error, made.synthetic, made.text) == ("a", True, True, history.NO_RESULT)
    assert ("tool_use.orphan", "approximated") in losses and ("tool_result.orphan", "dropped") in losses


def test_a_call_that_ends_the_history_is_answered() -> None:
    past, _ = read(user(text("q")), assistant(call("a")))
    assert [t.role for t in past.turns] == ["user", "assistant", "user"]
    assert past.turns[-1].results[0].synthetic


def test_a_result_that_came_late_is_found() -> None:
    past, losses = read(
        assistant(call("a")), user(text("t")), assistant(call("b")), user(result("a", "A"), result("b", "B"))
    )
    assert [r.text for t in past.turns for r in t.results] == ["A", "B"]
    assert losses == []


def test_the_same_id_twice_pairs_in_order() -> None:
    past, _ = read(assistant(call("a")), user(result("a", "1")), assistant(call("a")), user(result("a", "2")))
    assert [r.text for t in past.turns for r in t.results] == ["1", "2"]


def test_a_system_message_waits_for_an_open_result() -> None:
    system = {"role": "system", "content": "S"}
    past, _ = read(user(text("q")), assistant(call("a")), system, user(result("a"), text("t")))
    assert [t.role for t in past.turns] == ["user", "assistant", "user", "system"]
    folded = history.fold_system(past.turns)
    assert [b["text"] for b in folded[-1].blocks] == ["t", "<system-reminder>\nS\n</system-reminder>"]


def test_a_system_message_at_the_head_is_system_text_and_others_fold_backwards_or_forwards() -> None:
    head = {"role": "system", "content": "H"}
    past, _ = read(
        head, user(text("q")), assistant(text("x")), head, assistant(text("y")), user(text("z")), system="S"
    )
    assert past.system_text == "S\n\nH"
    folded = history.fold_system(past.turns)
    assert [t.role for t in folded] == ["user", "assistant", "user", "assistant", "user"]
    assert "H" in folded[2].text


def test_neighbours_of_one_role_become_one_turn() -> None:
    past, _ = read(
        user(text("a")), user(text("b")), assistant(text("c")), assistant(call("i")), user(result("i"))
    )
    assert [t.role for t in past.turns] == ["user", "assistant", "user"]
    assert past.turns[0].text == "a\n\nb"


def test_foreign_blocks_become_text() -> None:
    search = {
        "type": "web_search_tool_result",
        "tool_use_id": "s",
        "content": [{"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "secret"}],
    }
    past, _ = read(
        assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}, search),
        user({"type": "new_block", "value": 1}, {"type": "search_result", "title": "A", "source": "B", "content": [text("C")]}),
    )  # fmt: skip
    told = past.turns[0].text
    assert "[web_search: q]" in told and "- T: u" in told and "secret" not in told
    assert '"new_block"' in past.turns[1].text and "A B\nC" in past.turns[1].text


def test_results_of_every_content() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    content = [text("see"), image, {"type": "tool_reference", "tool_name": "Web"}, text("")]
    past, _ = read(
        assistant(call("a"), call("b")),
        user(result("a", content), {"type": "tool_result", "tool_use_id": "b"}),
    )
    first, second = past.turns[1].results
    assert first.text == "see\n[tool loaded: Web]\n" and first.media == [image]
    assert second.blocks == []


def test_text_documents_become_text_and_pdfs_stay() -> None:
    pdf = {
        "type": "document",
        "title": "P",
        "context": "why",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
    }
    plain = {
        "type": "document",
        "title": "N",
        "source": {"type": "text", "media_type": "text/plain", "data": "body"},
    }
    past, _ = read(user(pdf, plain))
    assert past.turns[0].blocks == [text("why"), pdf, text("N\nbody")]


def test_call_ids() -> None:
    request = {
        "messages": [
            assistant(call("a"), {"type": "server_tool_use", "id": "s"}),
            user(result("a")),
            {"role": "assistant", "content": "x"},
        ]
    }
    assert history.call_ids(request) == {"a", "s"}


def test_tools_are_functions_and_a_choice_goes_with_its_tool() -> None:
    losses: list[tuple[str, str]] = []
    request = {
        "tools": [
            {
                "name": "A",
                "description": "d",
                "input_schema": {"$schema": "s", "properties": {}},
                "strict": True,
            },
            {"type": "bash_20250124", "name": "bash"},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "tool_choice": {"type": "tool", "name": "web_search", "disable_parallel_tool_use": True},
    }
    offered = tools.read(request, lambda *loss: losses.append(loss))
    assert [f.name for f in offered.functions] == ["A", "bash"]
    assert offered.functions[0].schema == {"type": "object", "properties": {}} and offered.functions[0].strict
    assert "command" in offered.functions[1].schema["properties"]
    assert offered.choice == "" and not offered.parallel
    assert offered.search is not None and offered.search["max_uses"] == 8
    tools.lose_server(offered, lambda *loss: losses.append(loss))
    assert ("tools.web_search_20250305", "dropped") in losses
