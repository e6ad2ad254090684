"""Tools and tool choice: Messages to function tools and the hosted web search (DIALECTS 4, 10, 17)."""

from __future__ import annotations

from typing import Any

from ccm.dialects.base import Context, Encoded, Request
from ccm.dialects.names import short_name
from ccm.dialects.schemas import openai_strict
from ccm.dialects.tools import Function, Tools, lose_server, read, written
from ccm.wire.jsontext import Shared

Tool = dict[str, Any]
# Providers that search the web themselves when they are given `{"type": "web_search"}`.
_SEARCHES = ("openai", "azure", "xai", "deepseek")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_PLACE = ("type", "city", "region", "country", "timezone")


def add_tools(request: Request, ctx: Context, encoded: Encoded) -> bool:
    """Puts the tools and their choice into the body; whether the hosted web search is among them."""
    given = read(request, encoded.lose)
    functions = given.functions
    tools: list[Tool] = written(
        functions, "responses", encoded, lambda noted: Shared([_function(f, noted) for f in functions])
    )
    search = given.search if searches(ctx) else None
    if search is not None:
        tools = [*tools, _web_search(search, encoded)]
    lose_server(given, encoded.lose, search)
    if not tools:
        return False
    encoded.body["tools"] = tools
    choice = _choice(given)
    if search is not None and len(tools) == 1 and _named(request, search):
        choice = "required"  # the specification has no choice that names the search; with it alone this says the same
    if choice is not None:
        encoded.body["tool_choice"] = choice
    if not given.parallel:
        encoded.body["parallel_tool_calls"] = False
    return search is not None


def searches(ctx: Context) -> bool:
    """Whether the provider has the hosted web search."""
    return "web_search" in ctx.abilities or ctx.family.partition("/")[2].startswith(_SEARCHES)


def _choice(given: Tools) -> Any:
    if given.choice == "tool":
        return {"type": "function", "name": short_name(given.choice_name)}
    return _CHOICES.get(given.choice)


def _named(request: Request, search: Tool) -> bool:
    choice = request.get("tool_choice")
    if not isinstance(choice, dict):
        return False
    return choice.get("type") == "any" or choice.get("name") == search.get("name", "web_search")


def _function(function: Function, encoded: Encoded) -> Tool:
    name = short_name(function.name)
    if name != function.name:
        encoded.names[name] = function.name
    tool: Tool = {"type": "function", "name": name}
    if function.description:
        tool["description"] = function.description
    schema, strict = function.schema, bool(function.strict)
    if strict:
        lost: set[str] = set()
        closed = openai_strict(schema, lost)
        if lost:
            strict = False
            encoded.lose("tools.strict")
        else:
            schema = closed
    tool["parameters"] = schema
    # `strict` is true by default in this API, and a strict schema needs every property required: always say which.
    tool["strict"] = strict
    return tool


def _web_search(given: Tool, encoded: Encoded) -> Tool:
    tool: Tool = {"type": "web_search"}
    allowed = given.get("allowed_domains")
    if isinstance(allowed, list) and allowed:
        tool["filters"] = {"allowed_domains": allowed}
    place = given.get("user_location")
    if isinstance(place, dict):
        tool["user_location"] = {key: place[key] for key in _PLACE if place.get(key)}
    for feature in ("max_uses", "blocked_domains"):
        if given.get(feature):
            encoded.lose(f"tools.web_search.{feature}")
    return tool
