"""Every repair by its name: what it does to the request before it is encoded, and to the body after. The one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ccm.dialects.base import Encoded
from ccm.dialects.repair import on_body, on_request
from ccm.dialects.repair.model import Draft

Args = tuple[str, ...]


class Action(NamedTuple):
    """`before` changes the Messages request and its context, `after` the encoded body."""

    before: Callable[[Draft, Args], None] | None = None
    after: Callable[[Encoded, Args], None] | None = None


ACTIONS: Mapping[str, Action] = {
    "beta": Action(on_request.beta),
    "blocks_as_text": Action(on_request.blocks_as_text),
    "budget": Action(after=on_body.budget),
    "cache": Action(on_request.cache),
    "clean_ids": Action(on_request.clean_ids),
    "cap": Action(on_request.cap),
    "developer_as_system": Action(after=on_body.developer_as_system),
    "drop": Action(after=on_body.drop),
    "effort": Action(after=on_body.effort),
    "fill_reasoning": Action(
        lambda draft, _: on_request.quirk(draft, ("reasoning_content",)), on_body.fill_reasoning
    ),
    "format_as_text": Action(on_request.format_as_text),
    "go_on": Action(on_request.go_on),
    "no_system": Action(on_request.no_system),
    "no_thinking": Action(on_request.no_thinking, on_body.no_thinking),
    "quirk": Action(on_request.quirk),
    "rename": Action(after=on_body.rename),
    "set_effort": Action(after=on_body.set_effort),
    "sign_calls": Action(after=on_body.sign_calls),
    "streamed_answer": Action(on_request.streamed_answer),
    "strip_unsigned": Action(on_request.strip_unsigned),
    "strip_thinking": Action(on_request.strip_thinking),
    "system_inline": Action(on_request.system_inline),
    "thinking_form": Action(on_request.thinking_form),
    "thinking_off": Action(on_request.thinking_off),
    "tool_choice": Action(after=on_body.tool_choice),
    "unstrict": Action(after=on_body.unstrict),
    "whole_answer": Action(on_request.whole_answer),
    "without_include": Action(after=on_body.without_include),
    "without_media": Action(on_request.without_media),
    "without_search": Action(after=on_body.without_search),
    "without_tool": Action(on_request.without_tool),
}
