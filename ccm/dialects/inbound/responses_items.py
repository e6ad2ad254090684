"""Output items of the Responses API, made of the blocks of a Messages answer.

Typed calls (local_shell, shell, apply_patch, tool_search) have their arguments as an object: they exist only once
those are whole. All others grow, and are told in their events as they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccm.dialects.inbound.finish import dumped
from ccm.dialects.inbound.toolbox import Offer

Item = dict[str, Any]
PREFIXES = {
    "function": "fc_", "custom": "ctc_", "local_shell": "lsh_", "shell": "sh_", "apply_patch": "apc_",
    "tool_search": "tsc_",
}  # fmt: skip


def call_item(offer: Offer, id: str, call_id: str) -> Item:
    """A function_call or custom_tool_call that has just begun."""
    own = {"namespace": offer.namespace} if offer.namespace else {}
    if offer.kind == "custom":
        return {
            "type": "custom_tool_call",
            "id": id,
            "call_id": call_id,
            **own,
            "name": offer.name,
            "input": "",
        }
    return {
        "type": "function_call",
        "id": id,
        "call_id": call_id,
        **own,
        "name": offer.name,
        "arguments": "",
        "status": "in_progress",
    }


def typed_item(offer: Offer, id: str, call_id: str, arguments: str) -> Item:
    """The whole item of a typed call; a function_call of that name where the model's arguments do not make one."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        given = None
    make = _TYPED.get(offer.kind)
    item = make(given) if make is not None and isinstance(given, dict) else None
    if item is None:
        whole = call_item(Offer("function", offer.name), id, call_id)
        return {**whole, "arguments": arguments, "status": "completed"}
    kind = str(item.pop("type"))
    return {"type": kind, "id": id, "call_id": call_id, **item, "status": "completed"}


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _local_shell(given: Mapping[str, Any]) -> Item | None:
    command = given.get("command")
    if isinstance(command, str):
        command = ["bash", "-lc", command]
    if not isinstance(command, list) or not command or not all(isinstance(part, str) for part in command):
        return None
    env = given.get("env")
    place = given.get("working_directory")
    action = {
        "type": "exec",
        "command": command,
        "env": {k: str(v) for k, v in env.items()} if isinstance(env, dict) else {},
        "timeout_ms": _whole_number(given.get("timeout_ms")),
        "working_directory": place if isinstance(place, str) else None,
    }
    return {"type": "local_shell_call", "action": action}


def _shell(given: Mapping[str, Any]) -> Item | None:
    commands = given.get("commands")
    if isinstance(commands, str):
        commands = [commands]
    if not isinstance(commands, list) or not commands or not all(isinstance(c, str) for c in commands):
        return None
    action = {
        "commands": commands,
        "timeout_ms": _whole_number(given.get("timeout_ms")),
        "max_output_length": _whole_number(given.get("max_output_length")),
    }
    return {"type": "shell_call", "action": action, "environment": {"type": "local"}}


def _apply_patch(given: Mapping[str, Any]) -> Item | None:
    operation = given.get("operation", given)
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        return None
    kind = operation.get("type")
    if kind == "delete_file":
        return {"type": "apply_patch_call", "operation": {"type": kind, "path": operation["path"]}}
    if kind not in ("create_file", "update_file") or not isinstance(operation.get("diff"), str):
        return None
    kept = {"type": kind, "path": operation["path"], "diff": operation["diff"]}
    return {"type": "apply_patch_call", "operation": kept}


def _tool_search(given: Mapping[str, Any]) -> Item:
    return {"type": "tool_search_call", "execution": "client", "arguments": dict(given)}


_TYPED = {
    "local_shell": _local_shell,
    "shell": _shell,
    "apply_patch": _apply_patch,
    "tool_search": _tool_search,
}


def search_item(id: str, input: Any, results: Any, sources: bool) -> Item:
    """A finished web search: what was asked and, where the client wants them, the pages found."""
    query = input.get("query") if isinstance(input, dict) else None
    query = query if isinstance(query, str) else ""
    action: Item = {"type": "search", "query": query, "queries": [query]}
    listed = results if isinstance(results, list) else []
    if sources:
        urls = [r["url"] for r in listed if isinstance(r, dict) and isinstance(r.get("url"), str)]
        action["sources"] = [{"type": "url", "url": url} for url in urls]
    failed = isinstance(results, dict) and results.get("error_code")
    return {
        "type": "web_search_call",
        "id": id,
        "status": "failed" if failed else "completed",
        "action": action,
    }


def response_object(original: Mapping[str, Any], asked_model: str, id: str, created_s: int) -> dict[str, Any]:
    """A response that has just begun: what the client asked for, echoed with OpenAI's defaults."""
    text = original.get("text")
    reasoning = original.get("reasoning")
    reasoning = reasoning if isinstance(reasoning, dict) else {}
    tools = original.get("tools")
    metadata = original.get("metadata")
    parallel = original.get("parallel_tool_calls")
    return {
        "id": id,
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": original.get("instructions"),
        "max_output_tokens": original.get("max_output_tokens"),
        "model": asked_model,
        "output": [],
        "parallel_tool_calls": parallel if isinstance(parallel, bool) else True,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "temperature": _or(original.get("temperature"), 1.0),
        "text": {"format": {"type": "text"}, **(text if isinstance(text, dict) else {})},
        "tool_choice": _or(original.get("tool_choice"), "auto"),
        "tools": [_echoed(t) for t in tools if isinstance(t, dict)] if isinstance(tools, list) else [],
        "top_p": _or(original.get("top_p"), 1.0),
        "truncation": "disabled",
        "metadata": metadata if isinstance(metadata, dict) else {},
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _echoed(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as OpenAI echoes it: functions always say `strict` and `parameters`."""
    if tool.get("type") != "function":
        return dict(tool)
    return {**tool, "strict": bool(tool.get("strict")), "parameters": tool.get("parameters")}


def arguments_of(block: Mapping[str, Any]) -> str:
    """The arguments of a call that brought them in its start."""
    return dumped(block.get("input") or {})
