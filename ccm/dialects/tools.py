"""The tools of a Messages request as plain functions, for every dialect that is not Anthropic's own (DIALECTS 2, 10).

Custom tools are functions already. Anthropic's typed client-side tools (bash, text editor, memory, computer) have no
schema in the request: it is documented, and stands here. Server tools run at Anthropic; they are not functions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from ccm.dialects.base import Encoded, Loss
from ccm.dialects.history import Lose
from ccm.shape import dataclass, field
from ccm.wire.jsontext import Shared, derive

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Function:
    """One callable tool. `schema` is a JSON Schema object without `$schema`; `strict` as the client said (None: it did
    not)."""

    name: str
    description: str
    schema: dict[str, Any]
    strict: bool | None = None


@dataclass(slots=True)
class Tools:
    """`functions` in the client's order, not to be changed; `server` the server tools that a dialect may have a word for;
    `choice` is auto | any | none | tool (with `choice_name`) or "" where nothing was said or its tool is gone."""

    functions: list[Function] = field(default_factory=list)
    server: list[dict[str, Any]] = field(default_factory=list)
    choice: str = ""
    choice_name: str = ""
    parallel: bool = True

    @property
    def search(self) -> dict[str, Any] | None:
        """The web_search server tool, if the client offered it."""
        return next((t for t in self.server if str(t.get("type")).startswith("web_search_")), None)


def read(request: Mapping[str, Any], lose: Lose) -> Tools:
    """The tools and tool_choice of a request. A choice of a tool that is no function goes with that tool."""
    offered = request.get("tools") or []
    functions, server, losses = derive(offered, "read", lambda: _read(offered))
    for loss in losses:
        lose(*loss)
    tools = Tools(functions, list(server))
    choice = request.get("tool_choice")
    if isinstance(choice, Mapping):
        tools.parallel = not choice.get("disable_parallel_tool_use")
        tools.choice = str(choice.get("type") or "")
        tools.choice_name = str(choice.get("name") or "")
    named = tools.choice != "tool" or any(f.name == tools.choice_name for f in tools.functions)
    if not tools.functions or not named:
        tools.choice = ""
    return tools


def _read(offered: Iterable[Any]) -> tuple[list[Function], list[dict[str, Any]], list[Loss]]:
    """The functions and the server tools of a list of tools, and what reading them lost. Shared lists of tools are read
    once: nobody changes what is in here."""
    functions: list[Function] = []
    server: list[dict[str, Any]] = []
    losses: list[Loss] = []

    def lose(feature: str, how: str) -> None:
        losses.append(Loss(feature, how))

    for tool in offered:
        if not isinstance(tool, dict):
            continue
        kind = str(tool.get("type") or "custom")
        if isinstance(tool.get("input_schema"), dict):
            functions.append(_custom(tool, lose))
        elif kind != "custom" and (typed := _typed(kind)) is not None:
            description, schema = typed
            functions.append(Function(str(tool.get("name") or kind), description, schema))
            lose(f"tools.{kind}", "approximated")
        elif kind == "custom" and tool.get("name"):
            functions.append(_custom({**tool, "input_schema": {}}, lose))
        else:
            server.append(tool)
    return (Shared(functions) if isinstance(offered, Shared) else functions), server, losses


def written(functions: list[Function], key: Hashable, sent: Encoded, write: Callable[[Encoded], T]) -> T:
    """What `write(encoded)` makes of the functions, once per `key` where they are shared; the names and losses that it
    notes are noted in `sent` every time. `key` must name all that `write` depends on besides the functions."""

    def make() -> tuple[T, Encoded]:
        scratch = Encoded("", {})
        return write(scratch), scratch

    made, noted = derive(functions, key, make)
    for loss in noted.losses:
        sent.lose(*loss)
    sent.names.update(noted.names)
    return made


def lose_server(tools: Tools, lose: Lose, but: Mapping[str, Any] | None = None) -> None:
    """Notes the server tools as dropped, except the one that was translated."""
    for tool in tools.server:
        if tool is not but:
            lose(f"tools.{tool.get('type')}", "dropped")


def _custom(tool: Mapping[str, Any], lose: Lose) -> Function:
    schema = {k: v for k, v in tool["input_schema"].items() if k != "$schema"}
    schema.setdefault("type", "object")
    if schema["type"] == "object":
        schema.setdefault("properties", {})
    if tool.get("input_examples"):
        lose("tools.input_examples", "dropped")
    strict = tool.get("strict")
    return Function(
        str(tool.get("name") or ""),
        str(tool.get("description") or ""),
        schema,
        strict if isinstance(strict, bool) else None,
    )


def _typed(kind: str) -> tuple[str, dict[str, Any]] | None:
    return next((spec for prefix, spec in _TYPED.items() if kind.startswith(prefix)), None)


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_PAIR = {"type": "array", "items": {"type": "integer"}}
# type prefix -> (description, input schema), after Anthropic's documentation of each tool
_TYPED: dict[str, tuple[str, dict[str, Any]]] = {
    "bash_": (
        "Runs a command in a persistent bash session. `restart: true` restarts the session.",
        _object([], command=_TEXT, restart={"type": "boolean"}),
    ),
    "text_editor_": (
        "Views, creates and edits text files. `old_str` must match exactly once.",
        _object(
            ["command", "path"],
            command={"type": "string", "enum": ["view", "create", "str_replace", "insert", "undo_edit"]},
            path=_TEXT,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line=_NUMBER,
            insert_text=_TEXT,
            view_range=_PAIR,
        ),
    ),
    "memory_": (
        "Stores and reads notes in files below /memories.",
        _object(
            ["command"],
            command={
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
            },
            path=_TEXT,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line=_NUMBER,
            insert_text=_TEXT,
            view_range=_PAIR,
            old_path=_TEXT,
            new_path=_TEXT,
        ),
    ),
    "computer_": (
        "Controls the screen, keyboard and mouse of a computer.",
        _object(
            ["action"],
            action=_TEXT,
            coordinate=_PAIR,
            start_coordinate=_PAIR,
            text=_TEXT,
            duration={"type": "number"},
            scroll_direction={"type": "string", "enum": ["up", "down", "left", "right"]},
            scroll_amount=_NUMBER,
            region=_PAIR,
        ),
    ),
}
