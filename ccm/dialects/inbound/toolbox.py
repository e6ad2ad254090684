"""The tools an OpenAI client offers, as Messages tools, and what their calls have to become again on the way back.

OpenAI has kinds of tools that Messages lacks: free-text `custom` tools, tools inside namespaces, the typed tools of
Codex (local_shell, shell, apply_patch, tool_search). Each becomes a plain function with a schema; the `Offer` under its
name says which kind of call the client expects. It is rebuilt from the client's own request, so no state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.inbound.parts import Losses, objects, refuse
from ccm.dialects.names import short_name
from ccm.shape import dataclass

Tool = dict[str, Any]
_NAME_LIMIT = 128  # of the Messages API
SEARCH = "web_search_20250305"
_PLACE = ("city", "region", "country", "timezone")
# hosted at OpenAI: nothing here or elsewhere can run them
_HOSTED = frozenset(
    ("file_search", "code_interpreter", "image_generation", "mcp", "computer", "computer_use_preview",
     "programmatic_tool_calling")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool as the client knows it. `kind` is function | custom | local_shell | shell | apply_patch | tool_search."""

    kind: str
    name: str
    namespace: str = ""


def sent_name(name: str, namespace: str = "") -> str:
    """The name under which a tool goes to the model: a pure function, so calls of the history agree with it."""
    return short_name(f"{namespace.rstrip('_')}__{name}" if namespace else name, _NAME_LIMIT)


class Toolbox:
    """`tools` for the Messages request, `offers` by the name sent."""

    def __init__(self, lose: Losses) -> None:
        self.tools: list[Tool] = []
        self.offers: dict[str, Offer] = {}
        self.deferred = False  # tools that the client wanted loaded only when they are looked for
        self._lose = lose

    def add(self, offer: Offer, description: Any, schema: Any, given: Mapping[str, Any]) -> None:
        """One callable tool; `given` is where its `strict` and `cache_control` stand."""
        name = sent_name(offer.name, offer.namespace)
        if name in self.offers:
            self._lose("tools.duplicate")
            return
        self.offers[name] = offer
        tool: Tool = {"name": name}
        if isinstance(description, str) and description:
            tool["description"] = description
        tool["input_schema"] = _schema(schema)
        if given.get("strict") is True and offer.kind == "function":
            tool["strict"] = True
        if isinstance(given.get("cache_control"), dict):
            tool["cache_control"] = given["cache_control"]
        self.deferred = self.deferred or bool(given.get("defer_loading"))
        self.tools.append(tool)

    def search(self, given: Mapping[str, Any]) -> None:
        """OpenAI's hosted web search as Anthropic's."""
        if "web_search" in self.offers or any(tool.get("type") == SEARCH for tool in self.tools):
            self._lose("tools.web_search")
            return
        tool: Tool = {"type": SEARCH, "name": "web_search"}
        filters = given.get("filters")
        domains = filters.get("allowed_domains") if isinstance(filters, Mapping) else None
        if isinstance(domains, list) and domains:
            tool["allowed_domains"] = domains
        place = given.get("user_location")
        if isinstance(place, Mapping):
            inner = place.get("approximate")
            place = inner if isinstance(inner, Mapping) else place
            known = {key: place[key] for key in _PLACE if isinstance(place.get(key), str) and place[key]}
            if known:
                tool["user_location"] = {"type": "approximate", **known}
        if given.get("search_context_size") not in (None, "medium"):
            self._lose("tools.search_context_size")
        self.tools.append(tool)

    def only(self, names: set[str]) -> None:
        """Leaves only these tools (names as sent): the client allowed no others in this turn."""
        self.tools = [tool for tool in self.tools if tool["name"] in names]

    # ---- what the client's lists hold

    def read_chat(self, tools: Any, functions: Any = None) -> None:
        """`tools` (and the old `functions`) of a Chat Completions request. Raises Refusal naming the tool."""
        for n, tool in enumerate(objects(tools, "tools") if tools is not None else ()):
            kind, inner = tool.get("type"), tool.get("function")
            if isinstance(inner, dict) and kind in (None, "function"):
                self._function({**inner, **_marks(tool)}, f"tools.{n}.function")
            elif kind == "custom" and isinstance(tool.get("custom"), dict):
                self._custom(tool["custom"], f"tools.{n}.custom")
            elif isinstance(kind, str) and "web_search" in kind:
                self.search(tool)
            elif kind in (None, "function") and tool.get("name"):
                self._function(tool, f"tools.{n}")
            elif kind in (None, "function"):
                refuse(f"tools.{n}.function", "an object with a name is required")
            else:
                self._lose("tools.hosted")
        for n, function in enumerate(objects(functions, "functions") if functions is not None else ()):
            self._function(function, f"functions.{n}")

    def read_responses(self, tools: Any, where: str = "tools", namespace: str = "") -> None:
        """`tools` of a Responses request, of a namespace, or of a tool_search_output item."""
        for n, tool in enumerate(objects(tools, where) if tools is not None else ()):
            here = f"{where}.{n}"
            kind = str(tool.get("type") or "function")
            reader = _TYPED.get(kind)
            if kind == "function":
                nested = tool.get("function")
                self._function(nested if isinstance(nested, dict) else tool, here, namespace)
            elif kind == "custom":
                self._custom(tool, here, namespace)
            elif kind == "namespace":
                self.read_responses(tool.get("tools"), f"{here}.tools", _name(tool, here))
            elif reader is not None:
                reader(self, tool)
            else:
                self._lose(f"tools.{kind if kind in _HOSTED else 'hosted'}")

    def _function(self, tool: Mapping[str, Any], where: str, namespace: str = "") -> None:
        offer = Offer("function", _name(tool, where), namespace)
        self.add(offer, tool.get("description"), tool.get("parameters", tool.get("input_schema")), tool)

    def _custom(self, tool: Mapping[str, Any], where: str, namespace: str = "") -> None:
        """A free-text tool: its text is the one argument `input`; a grammar is told in the description."""
        form = tool.get("format")
        grammar = form.get("grammar", form) if isinstance(form, Mapping) else {}
        lines = [str(tool.get("description") or "")]
        if isinstance(grammar, Mapping) and isinstance(grammar.get("definition"), str):
            syntax = str(grammar.get("syntax") or "lark")
            lines.append(f"`input` must follow this {syntax} grammar:\n{grammar['definition']}")
            self._lose("tools.format", "approximated")
        self.add(
            Offer("custom", _name(tool, where), namespace), "\n\n".join(filter(None, lines)), _INPUT, tool
        )

    def _typed(self, kind: str, tool: Mapping[str, Any]) -> None:
        description, schema = _SPECS[kind]
        self.add(Offer(kind, kind), tool.get("description") or description, schema, tool)

    def _shell(self, tool: Mapping[str, Any]) -> None:
        place = tool.get("environment")
        if isinstance(place, Mapping) and place.get("type") not in (None, "local"):
            self._lose("tools.shell")  # a container of OpenAI's
            return
        self._typed("shell", tool)

    def _tool_search(self, tool: Mapping[str, Any]) -> None:
        if tool.get("execution") != "client":
            # Searching is OpenAI's part then: here all deferred tools are sent, and nothing has to be searched.
            self._lose("tools.tool_search", "approximated")
            return
        description, schema = _SPECS["tool_search"]
        given = tool.get("parameters")
        self.add(
            Offer("tool_search", "tool_search"),
            tool.get("description") or description,
            given if isinstance(given, dict) and given else schema,
            tool,
        )


def _name(tool: Mapping[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        refuse(f"{where}.name", "a name is required")
    return name


def _marks(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"cache_control": tool["cache_control"]} if "cache_control" in tool else {}


def _schema(schema: Any) -> dict[str, Any]:
    """A JSON Schema object, as Messages requires it."""
    if not isinstance(schema, dict):
        return {"type": "object", "properties": {}}
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_STRINGS = {"type": "array", "items": {"type": "string"}}
_INTEGER = {"type": "integer"}
_INPUT = _object(
    ["input"], input={"type": "string", "description": "The whole input of the tool, as plain text."}
)
# kind -> (description, schema), after OpenAI's documentation of each tool's call item
_SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "local_shell": (
        "Runs a command on the user's machine and returns its output.",
        _object(
            ["command"],
            command={**_STRINGS, "description": "The program and its arguments."},
            working_directory={"type": "string"},
            timeout_ms=_INTEGER,
            env={"type": "object", "additionalProperties": {"type": "string"}},
        ),
    ),
    "shell": (
        "Runs shell commands on the user's machine, each in a shell of its own, and returns their output.",
        _object(["commands"], commands=_STRINGS, timeout_ms=_INTEGER, max_output_length=_INTEGER),
    ),
    "apply_patch": (
        "Creates, updates or deletes one file. `diff` is a V4A diff: lines begin with a space, + or -, hunks with @@.",
        _object(
            ["operation"],
            operation=_object(
                ["type", "path"],
                type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                path={"type": "string"},
                diff={"type": "string", "description": "Required for create_file and update_file."},
            ),
        ),
    ),
    "tool_search": (
        "Finds tools that are not loaded yet, by what they are to do.",
        _object(["query"], query={"type": "string"}),
    ),
}
_TYPED: dict[str, Callable[[Toolbox, Mapping[str, Any]], None]] = {
    "local_shell": lambda box, tool: box._typed("local_shell", tool),
    "shell": Toolbox._shell,
    "apply_patch": lambda box, tool: box._typed("apply_patch", tool),
    "tool_search": Toolbox._tool_search,
    "web_search": Toolbox.search,
    "web_search_2025_08_26": Toolbox.search,
    "web_search_preview": Toolbox.search,
    "web_search_preview_2025_03_11": Toolbox.search,
}
