"""Places in a request body: how errors name them, how to find them, how to change them without touching the original.

A path is a tuple of keys, "*" for every element of a list: ("tools", "*", "defer_loading"). Errors name the same place as
`tools.10.custom.defer_loading`, `tools[10].defer_loading`, `body -> tools -> 10`, in snake_case for a camelCase field, or
by its last name alone. Never inside what belongs to the client: tool inputs, schemas, results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ccm.late import regex

Path = tuple[str, ...]
Change = Callable[[Any], Any]

GONE: Any = object()  # what a change returns for a value that is to vanish
_BETWEEN = regex(r"\s*->\s*|[.\[\]\"'`\s/\\]+")
_MAX_WORDS = 12
# Containers that mean nothing without members.
_PRUNED = frozenset(
    ("output_config", "reasoning", "stream_options", "generationConfig", "thinkingConfig", "toolConfig", "include",
     "additionalModelRequestFields", "outputConfig", "text", "anthropic_beta", "inferenceConfig")
)  # fmt: skip
# Values that hold the client's own words or data: no parameter of the API is in there.
_OPAQUE = frozenset(
    ("input_schema", "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema", "schema", "inputSchema",
     "args", "arguments", "response", "json", "source")
)  # fmt: skip
# What makes a request what it is: no repair drops it.
_PROTECTED = frozenset(
    ("model", "messages", "contents", "content", "parts", "role", "type", "tools", "name", "id", "description",
     "function", "functions", "functionDeclarations", "functionCall", "functionResponse", "tool_calls", "tool_call_id",
     "tool_use_id", "toolUseId", "call_id", "toolSpec", "toolResult", "system", "systemInstruction", "instructions",
     "input", "source", "data", "url", "image_url", "file", "image", "document", "inlineData", "fileData", "signature",
     "is_error", "status", "output", "summary", "encrypted_content", "anthropic_version", "toolConfig", "budget_tokens",
     "toolUse", *_OPAQUE - {"responseJsonSchema", "responseSchema"})
)  # fmt: skip


def words(name: str) -> list[str]:
    """The words of a place as an error writes it."""
    return [w for w in _BETWEEN.split(name) if w][:_MAX_WORDS]


def find(body: Mapping[str, Any], name: str) -> Path | None:
    """The path that an error means by `name`, if something stands there in `body`."""
    return _walk(body, words(name), ()) or _anywhere(body, words(name))


def camel(word: str) -> str:
    """`generation_config` -> `generationConfig` (Google's errors speak of proto fields)."""
    head, *tail = word.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in tail)


def _walk(node: Any, left: list[str], path: Path) -> Path | None:
    if not left:
        return path if path and path[-1] != "*" else None
    word, rest = left[0], left[1:]
    if isinstance(node, list):
        if word.isdigit():
            return _walk(node[int(word)], rest, (*path, "*")) if int(word) < len(node) else None
        for element in node:
            if isinstance(element, dict) and (found := _walk(element, left, (*path, "*"))):
                return found
        return None
    if not isinstance(node, dict) or word.isdigit():
        return None
    key = next((k for k in (word, camel(word)) if k in node), None)
    if key is not None:
        found = None if rest and _opaque(key, path) else _walk(node[key], rest, (*path, key))
        if found or isinstance(node[key], (dict, list)):
            return found
    # the tag of a union (`custom`, `ephemeral`, `adaptive`), or `body`: part of the name, not of the request
    return _walk(node, rest, path) if rest else None


def _anywhere(body: Mapping[str, Any], left: list[str]) -> Path | None:
    """A bare name that does not stand on the top level: the first API position that has it."""
    if len(left) != 1:
        return None
    for path, holder in positions(body):
        for key in (left[0], camel(left[0])):
            if key in holder:
                return (*path, key)
    return None


def _opaque(key: str, path: Path) -> bool:
    return key in _OPAQUE or (
        key == "input" and bool(path)
    )  # a tool's input; on top it is the conversation itself


def positions(node: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every object of a body that belongs to the API, outermost first."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            if isinstance(value, (dict, list)) and not _opaque(key, path):
                yield from positions(value, (*path, key))
    elif isinstance(node, list):
        for element in node:
            yield from positions(element, (*path, "*"))


def droppable(path: Path, value: Any = None) -> bool:
    """Whether a request without what stands at `path` still says the same to the model in its texts and tools."""
    key = path[-1]
    if path == ("reasoning", "summary"):
        return True
    if key == "id" and path[-2:-1] in (("functionCall",), ("functionResponse",)):
        return True  # Gemini pairs calls and results by name and order too
    if key == "type":
        return value == "custom" and path == ("tools", "*", "type")
    if key == "thinking" and "content" in path:
        return False  # the text of a block
    if key == "text":
        return path == ("text",)
    return key not in _PROTECTED


def value_at(body: Any, path: Path) -> Any:
    """The first value at a path; None where nothing stands."""
    if not path:
        return body
    if path[0] == "*":
        for element in body if isinstance(body, list) else ():
            if (found := value_at(element, path[1:])) is not None:
                return found
        return None
    return value_at(body.get(path[0]), path[1:]) if isinstance(body, dict) else None


def edit(node: Any, path: Path, change: Change) -> Any:
    """`node` with every value at `path` put through `change` (GONE removes it). Copies what it changes, shares the
    rest: bodies share their leaves with the client's request, which other attempts still need."""
    if not path:
        return change(node)
    head, rest = path[0], path[1:]
    if head == "*":
        if not isinstance(node, list):
            return node
        made = [edit(element, rest, change) for element in node]
        if all(new is old for new, old in zip(made, node, strict=True)):
            return node
        return [element for element in made if element is not GONE]
    if not isinstance(node, dict) or head not in node:
        return node
    value = edit(node[head], rest, change)
    if value is node[head]:
        return node
    copy = dict(node)
    if value is GONE or (head in _PRUNED and not value and isinstance(value, (dict, list))):
        del copy[head]
    else:
        copy[head] = value
    return copy


def everywhere(body: Any, key: str, change: Change, under: str = "") -> Any:
    """`body` with every `key` at an API position (inside an `under` where given) put through `change`."""
    paths = {
        (*path, key) for path, holder in positions(body) if key in holder and (not under or under in path)
    }
    for path in sorted(paths, key=len, reverse=True):
        body = edit(body, path, change)
    return body
