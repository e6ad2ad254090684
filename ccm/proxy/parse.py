"""The request body: what routing needs without parsing it, and parsing it strictly when something needs it whole.

Claude Code writes `{"model": ..., ... ,"stream":true}`: with the first key and the last one known, pass-through needs
no document (0.65 ms of json.loads per 146 KB). Anything else is parsed; the short cut never guesses.
"""

from __future__ import annotations

import re
from typing import Any

from ccm.errors import Refusal
from ccm.wire import jsontext
from ccm.wire.search import contains, find

_FIRST_MODEL = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\\x00-\x1f\x80-\xff]{1,256})"\s*,')
_AGAIN = re.compile(rb'"model"\s*:\s*"')
_LAST_STREAM = re.compile(rb',\s*"stream"\s*:\s*(true|false)\s*\}\s*\Z')
_TAIL = 64
MAX_MODEL = 256  # characters of a model's name


def peek(raw: bytes) -> tuple[str, bool] | None:
    """(model, stream) where both are certain without parsing, else None.

    Certain means: json.loads would say the same, or the body is invalid. The first key of the document is `model`, no
    other key `model` with a string value follows anywhere (a tool's *property* named model has an object), no key is
    written with escapes, and the document ends in the key `stream`.
    """
    first = _FIRST_MODEL.match(raw)
    if first is None:
        return None
    last = _LAST_STREAM.search(raw, max(first.end() - 1, len(raw) - _TAIL))
    if last is None or _again(raw, first.end()):
        return None
    if contains(raw, b"\\u00") and _ESCAPED_KEY.search(raw) is not None:
        return None
    return first[1].decode("ascii"), last[1] == b"true"


def _again(raw: bytes, start: int) -> bool:
    """Whether a key `model` with a string value follows anywhere."""
    while (start := find(raw, b'"model"', start)) >= 0:
        if _AGAIN.match(raw, start) is not None:
            return True
        start += 7
    return False


# A key spelled with \u escapes ("\u006dodel"): whoever writes that is read in full.
_ESCAPED_KEY = re.compile(rb'"[a-z]{0,5}\\u00[0-9a-fA-F]{2}[a-z0-9\\]{0,30}"\s*:')


def parse(raw: bytes) -> dict[str, Any]:
    """The document. Raises Refusal 400 for anything but one JSON object in UTF-8 (no NaN, no unbounded nesting)."""
    try:
        body = jsontext.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except ValueError as error:
        raise _bad(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise _bad("the body must be a JSON object")
    return body


def check_messages(body: dict[str, Any], counting: bool = False) -> None:
    """The shape that every later step relies on; contents stay open. Raises Refusal 400 naming the field."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model: a model name is required")
    if len(model) > MAX_MODEL:  # it becomes a label, a column and a header
        raise _bad(f"model: a name of {len(model)} characters; {MAX_MODEL} at most are allowed")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages: a list with at least one message is required")
    for n, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _bad(f"messages.{n}: an object with a role is required")
        _check_content(message.get("content"), f"messages.{n}.content")
    _check_content(body.get("system", ""), "system")
    tools = body.get("tools", [])
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise _bad("tools: a list of objects is required")
    if not isinstance(body.get("stream", False), (bool, type(None))):
        raise _bad("stream: true or false is required")
    cap = body.get("max_tokens")
    left_out = counting and cap is None
    if not left_out and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise _bad("max_tokens: a whole number of at least 1 is required")
    for name in ("thinking", "output_config", "metadata", "tool_choice"):
        if not isinstance(body.get(name, {}), (dict, type(None))):
            raise _bad(f"{name}: an object is required")


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str) or (content is None and where == "system"):
        return
    if not isinstance(content, list):
        raise _bad(f"{where}: text or a list of blocks is required")
    for n, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _bad(f"{where}.{n}: a block with a type is required")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise _bad(f"{where}.{n}.text: text is required")
        if block["type"] == "tool_result" and block.get("content") is not None:
            _check_content(block["content"], f"{where}.{n}.content")


def _bad(what: str) -> Refusal:
    return Refusal(400, "invalid_request_error", what)
