"""Tools and tool choice as functionDeclarations, googleSearch and toolConfig (DIALECTS 10 and 11).

Also the one place where a tool's name changes: Gemini wants a letter or underscore first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccm.dialects import tools as client_tools
from ccm.dialects.base import Context, Encoded
from ccm.dialects.gemini.model import Generation, is_vertex
from ccm.dialects.gemini.schema import gemini_json_schema, gemini_parameters
from ccm.dialects.names import digest62, short_name
from ccm.dialects.tools import Function, Tools, written
from ccm.wire.jsontext import Shared

_NAME_LIMIT = 128
_NAME_CHARS = "a-zA-Z0-9_.:-"
# The form of tool schemas: JSON Schema wherever the API knows the field (v1beta of AI Studio, Vertex v1 and v1beta1:
# both API descriptions have it and recorded requests of both use it). The quirk is for endpoints behind the times.
OPENAPI_QUIRK = "openapi_schema"
_MODES = {"auto": "AUTO", "any": "ANY", "tool": "ANY", "none": "NONE"}
_SEARCH_LOSSES = ("max_uses", "allowed_domains", "blocked_domains", "user_location")


def sent_name(name: str) -> str:
    """The tool's name as Gemini allows it: a pure function, the same in declarations, history and tool choice."""
    if not (name[:1].isalpha() and name[:1].isascii()) and name[:1] != "_":
        name = f"t_{digest62(name, 6)}_{name}"
    return short_name(name, _NAME_LIMIT, _NAME_CHARS)


def add_tools(request: Mapping[str, Any], ctx: Context, gen: Generation, out: Encoded) -> None:
    """Puts `tools` and `toolConfig` into the body."""
    tools = client_tools.read(request, out.lose)
    search = tools.search
    if search is not None and tools.functions and not gen.is_3:
        search = None  # 2.x: "Tool use with function calling is unsupported"
    client_tools.lose_server(tools, out.lose, search)
    made: list[dict[str, Any]] = []
    if search is not None:
        made.append({"googleSearch": {}})
        for key in _SEARCH_LOSSES:
            if search.get(key):
                out.lose(f"tools.web_search.{key}")
    if tools.functions:
        made.append(
            {"functionDeclarations": _declarations(tools.functions, OPENAPI_QUIRK in ctx.quirks, out)}
        )
    if made:
        out.body["tools"] = made
    config = _tool_config(tools, out)
    if len(made) == 2 and not is_vertex(ctx):
        config["includeServerSideToolInvocations"] = True
    if config:
        out.body["toolConfig"] = config


def _declarations(functions: list[Function], subset: bool, out: Encoded) -> list[dict[str, Any]]:
    key = ("gemini", subset)
    return written(
        functions, key, out, lambda noted: Shared([_declaration(f, subset, noted) for f in functions])
    )


def _declaration(function: Function, subset: bool, out: Encoded) -> dict[str, Any]:
    name = sent_name(function.name)
    if name != function.name:
        out.names[name] = function.name
    if function.strict:
        out.lose("tools.strict")
    declaration: dict[str, Any] = {"name": name, "description": function.description}
    lost: set[str] = set()
    if subset:
        parameters = gemini_parameters(function.schema, lost)
        if parameters.get("properties"):
            declaration["parameters"] = parameters
    else:
        declaration["parametersJsonSchema"] = gemini_json_schema(function.schema, lost)
    for keyword in sorted(lost):
        out.lose(f"tools.input_schema.{keyword}", "approximated")
    return declaration


def _tool_config(tools: Tools, out: Encoded) -> dict[str, Any]:
    if not tools.parallel:
        out.lose("tool_choice.disable_parallel_tool_use")
    mode = _MODES.get(tools.choice)
    if mode is None:
        return {}
    calling: dict[str, Any] = {"mode": mode}
    if tools.choice == "tool":
        calling["allowedFunctionNames"] = [sent_name(tools.choice_name)]
    return {"functionCallingConfig": calling}
