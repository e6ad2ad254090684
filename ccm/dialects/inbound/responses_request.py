"""An OpenAI Responses request as a Messages request: instructions, input items, tools (DIALECTS 4, 16).

ccm keeps no answers: whatever refers to a stored one (`previous_response_id`, item references, conversations) is
refused with a word on what to send instead. Reasoning comes back in `encrypted_content`, which holds the signature of
the thinking block it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.inbound import knobs
from ccm.dialects.inbound.parts import Block, Losses, blocks, objects, refuse, text
from ccm.dialects.inbound.thread import Thread
from ccm.dialects.inbound.toolbox import Toolbox, sent_name

Item = Mapping[str, Any]

REDACTED = "ccm-redacted."  # before the data of a redacted_thinking block
_OPENAI_SEAL = "gAAAA"  # how OpenAI's own encrypted reasoning begins (Fernet): only OpenAI can read it
_HANDLED = frozenset(
    ("model", "input", "instructions", "stream", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
     "temperature", "top_p", "top_k", "reasoning", "text", "user", "safety_identifier", "previous_response_id",
     "conversation", "prompt", "background", "prompt_cache_key")
)  # fmt: skip
_WITHOUT = ("max_tool_calls", "top_logprobs", "context_management", "moderation", "provider", "plugins")
_HARMLESS = frozenset(
    ("store", "include", "metadata", "stream_options", "service_tier", "truncation", "prompt_cache_retention",
     "prompt_cache_options", "client_metadata")
)  # fmt: skip
_STATEFUL = {
    "previous_response_id": "ccm keeps no responses; send the whole conversation in `input`",
    "conversation": "ccm keeps no conversations; send the whole conversation in `input`",
    "prompt": "ccm has no stored prompts; send their text in `instructions` or `input`",
}


def toolbox(body: Mapping[str, Any], lose: Losses) -> Toolbox:
    """The tools of a request, also those that a tool search of the history has loaded. Raises Refusal."""
    box = Toolbox(lose)
    box.read_responses(body.get("tools"))
    items = body.get("input")
    for n, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") in ("tool_search_output", "additional_tools"):
            box.read_responses(item.get("tools"), f"input.{n}.tools")
    return box


def has_later_system(body: Mapping[str, Any]) -> bool:
    """Whether a system or developer message stands inside the conversation."""
    begun = False
    items = body.get("input")
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict) or item.get("type") == "additional_tools":
            continue
        if item.get("role") not in ("system", "developer"):
            begun = True
        elif begun:
            return True
    return False


def translate(body: dict[str, Any], path_model: str, stream: bool | None, lose: Losses) -> dict[str, Any]:
    """The Messages request. Raises Refusal (400) naming the field that cannot be carried."""
    request: dict[str, Any] = {"model": knobs.model_of(body, path_model)}
    for name, why in _STATEFUL.items():
        if body.get(name):
            refuse(name, why)
    if body.get("background"):
        refuse("background", "ccm keeps no responses to fetch later; use a stream or wait for the answer")
    thread = Thread(lose)
    instructions = body.get("instructions")
    if instructions is not None:
        thread.system(blocks(instructions, "instructions", lose))
    _input(thread, body.get("input"), lose)
    system, request["messages"] = thread.build("input")
    if system:
        request["system"] = system
    knobs.limit(request, body, "max_output_tokens")
    knobs.sampling(request, body, lose)
    reasoning = body.get("reasoning")
    if isinstance(reasoning, Mapping):
        shown = reasoning.get("summary") or reasoning.get("generate_summary")
        knobs.effort(request, reasoning.get("effort"), "reasoning.effort", lose, bool(shown))
    config = body.get("text")
    if isinstance(config, Mapping):
        form = config.get("format")
        if isinstance(form, Mapping):
            knobs.answer_format(request, form.get("type"), form.get("schema"), "text.format.schema", lose)
        if config.get("verbosity") not in (None, "medium"):
            lose("text.verbosity")
    knobs.tool_choice(
        request, toolbox(body, lose), body.get("tool_choice"), body.get("parallel_tool_calls"), lose
    )
    user = body.get("safety_identifier") or body.get("user")
    if isinstance(user, str) and user:
        request["metadata"] = {"user_id": user}
    request["stream"] = knobs.streams(body, stream)
    knobs.settle(request, lose)
    if body.get("service_tier") not in (None, "auto", "default"):
        lose("service_tier")
    if body.get("truncation") not in (None, "disabled"):
        lose("truncation")
    knobs.drop_rest(body, _HANDLED, _WITHOUT, _HARMLESS, lose)
    return request


def _input(thread: Thread, given: Any, lose: Losses) -> None:
    if given is None or isinstance(given, str):
        thread.user([text(given)] if given else [])
        return
    for n, item in enumerate(objects(given, "input")):
        kind = item.get("type") or ("message" if "role" in item else None)
        reader = _ITEMS.get(kind) if isinstance(kind, str) else None
        if reader is not None:
            reader(thread, item, f"input.{n}", lose)
        elif kind is None or kind == "item_reference":
            refuse(f"input.{n}", "ccm keeps no items to refer to; send the item itself")
        else:
            known = isinstance(kind, str) and kind in _NOT_CARRIED
            lose(f"input.{kind if known else 'unknown_item'}")


def _message(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    role = item.get("role")
    said = blocks(item.get("content"), f"{where}.content", lose)
    if role in ("system", "developer"):
        thread.system(said)
    elif role == "user":
        thread.user(said)
    elif role == "assistant":
        if item.get("phase"):
            lose("input.phase")
        thread.assistant(said)
    else:
        refuse(f"{where}.role", "one of user, assistant, system, developer is required")


def _reasoning(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    """A thinking block again. OpenAI's own encrypted reasoning is of no use to anybody else."""
    told = _texts(item.get("summary")) or _texts(item.get("content"))
    sealed = item.get("encrypted_content")
    signature = sealed if isinstance(sealed, str) else ""
    if signature.startswith(REDACTED):
        thread.assistant([{"type": "redacted_thinking", "data": signature[len(REDACTED) :]}])
        return
    if signature.startswith(_OPENAI_SEAL):
        lose("input.encrypted_content")
        signature = ""
    if told or signature:
        thread.assistant([{"type": "thinking", "thinking": "\n\n".join(told), "signature": signature}])


def _texts(parts: Any) -> list[str]:
    listed = parts if isinstance(parts, list) else ()
    return [p["text"] for p in listed if isinstance(p, dict) and isinstance(p.get("text"), str) and p["text"]]


def _called(item: Item, where: str) -> str:
    name, namespace = item.get("name"), item.get("namespace")
    if not isinstance(name, str) or not name:
        refuse(f"{where}.name", "a name is required")
    return sent_name(name, namespace if isinstance(namespace, str) else "")


def _function_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    thread.call(item.get("call_id"), _called(item, where), knobs.arguments(item.get("arguments"))[0])


def _custom_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    given = item.get("input")
    thread.call(item.get("call_id"), _called(item, where), {"input": given if isinstance(given, str) else ""})


def _local_shell_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    action = item.get("action")
    given = {k: v for k, v in action.items() if k != "type" and v} if isinstance(action, dict) else {}
    thread.call(item.get("call_id") or item.get("id"), "local_shell", given)


def _shell_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    action = item.get("action")
    given = {k: v for k, v in action.items() if v is not None} if isinstance(action, dict) else {}
    thread.call(item.get("call_id"), "shell", given)


def _patch_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    thread.call(item.get("call_id"), "apply_patch", {"operation": item.get("operation") or {}})


def _search_call(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    """A tool search of the client's; one that OpenAI ran has no call id and nothing to answer."""
    if item.get("execution", "client") == "client" and item.get("call_id"):
        thread.call(item["call_id"], "tool_search", knobs.arguments(item.get("arguments"))[0])
    else:
        lose("input.tool_search_call")


def _output(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    """The output of a function, custom tool, local shell or patch: a string or a list of parts."""
    output = item.get("output")
    if output is not None and not isinstance(output, (str, list)):
        output = str(output)
    found = blocks(output, f"{where}.output", lose)
    name = item.get("name")
    failed = item.get("status") in ("failed", "incomplete")
    thread.result(item.get("call_id") or item.get("id"), found, name if isinstance(name, str) else "", failed)


def _shell_output(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    lines: list[str] = []
    for part in item.get("output") or ():
        if not isinstance(part, dict):
            continue
        lines += [str(part[k]) for k in ("stdout", "stderr") if part.get(k)]
        outcome = part.get("outcome")
        if isinstance(outcome, dict) and (outcome.get("exit_code") or outcome.get("type") == "timeout"):
            lines.append(f"[{outcome.get('type', 'exit')}: {outcome.get('exit_code', 'no exit code')}]")
    found = [text("\n".join(lines))] if lines else []
    thread.result(item.get("call_id"), found)


def _search_output(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    """The tools themselves went to the tools (`toolbox`); the result says which they are."""
    if not item.get("call_id"):
        return
    box = Toolbox(Losses())
    box.read_responses(item.get("tools"), f"{where}.tools")
    names = ", ".join(box.offers) or "none"
    thread.result(item["call_id"], [text(f"Tools found, which can be called now: {names}")])


def _hosted(tell: Callable[[Item], str]) -> Callable[[Thread, Item, str, Losses], None]:
    """A tool that OpenAI ran: what it did and found, told as text of the assistant."""

    def read(thread: Thread, item: Item, where: str, lose: Losses) -> None:
        told = tell(item)
        lose("input.hosted_call", "approximated" if told else "dropped")
        if told:
            thread.assistant([text(told)])

    return read


def _mcp(item: Item) -> str:
    found = item.get("output") or item.get("error")
    return f"[{item.get('name')}: {item.get('arguments')}]" + (f"\n{found}" if found else "")


def _interpreter(item: Item) -> str:
    outputs = item.get("outputs")
    logs = [str(o["logs"]) for o in outputs or () if isinstance(o, dict) and o.get("logs")]
    return "\n".join([f"[code_interpreter]\n{item.get('code') or ''}", *logs])


def _file_search(item: Item) -> str:
    queries = item.get("queries")
    lines = [f"[file_search: {', '.join(str(q) for q in queries)}]"] if isinstance(queries, list) else []
    results = item.get("results")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and result.get("text"):
            lines.append(f"- {result.get('filename') or 'file'}: {result['text']}")
    return "\n".join(lines)


def _nothing(thread: Thread, item: Item, where: str, lose: Losses) -> None:
    """An item that says nothing to a model: its tools were read with the other tools."""


# Items that no other provider can use; what they led to stands in the messages after them.
_NOT_CARRIED = frozenset(
    ("web_search_call", "image_generation_call", "computer_call", "computer_call_output", "compaction",
     "compaction_summary", "compaction_trigger", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response",
     "program", "program_output")
)  # fmt: skip
_ITEMS: dict[str, Callable[[Thread, Item, str, Losses], None]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
    "local_shell_call": _local_shell_call,
    "local_shell_call_output": _output,
    "shell_call": _shell_call,
    "shell_call_output": _shell_output,
    "apply_patch_call": _patch_call,
    "apply_patch_call_output": _output,
    "tool_search_call": _search_call,
    "tool_search_output": _search_output,
    "additional_tools": _nothing,
    "mcp_call": _hosted(_mcp),
    "code_interpreter_call": _hosted(_interpreter),
    "file_search_call": _hosted(_file_search),
}


def thinking_seal(block: Block) -> str | None:
    """The `encrypted_content` that carries a thinking block's state; None where it has none."""
    if block.get("type") == "redacted_thinking":
        return REDACTED + str(block.get("data") or "")
    signature = block.get("signature")
    return signature if isinstance(signature, str) and signature else None
