"""What must hold of every stream ccm sends: the order rules of the Messages API, checked without ccm's own code."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]
_DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
}


def check(events: list[Event]) -> None:
    """AssertionError where the sequence breaks a rule. A stream may end with one error event instead of its end."""
    started = ended = failed = delta_seen = False
    open_block: Event | None = None
    index = -1
    arguments = ""
    for n, event in enumerate(events):
        kind = event["type"]
        where = f"event {n} ({kind})"
        assert not ended and not failed, f"{where} after the end"
        if kind == "ping":
            continue
        if kind == "error":
            failed = True
            assert event["error"]["type"] and event["error"]["message"], where
            continue
        assert started or kind == "message_start", f"{where} before message_start"
        if kind == "message_start":
            assert not started, f"{where} twice"
            started = True
            assert event["message"]["content"] == [] and event["message"]["stop_reason"] is None, where
            assert event["message"]["usage"]["input_tokens"] >= 0, where
        elif kind == "content_block_start":
            index += 1
            assert open_block is None and event["index"] == index and not delta_seen, where
            open_block, arguments = event["content_block"], ""
        elif kind == "content_block_delta":
            assert open_block is not None and event["index"] == index, where
            assert event["delta"]["type"] in _DELTAS[open_block["type"]], where
            arguments += event["delta"].get("partial_json", "")
        elif kind == "content_block_stop":
            assert open_block is not None and event["index"] == index, where
            if open_block["type"] == "tool_use" and arguments:
                assert isinstance(json.loads(arguments), dict), (
                    f"{where}: closed with half arguments {arguments!r}"
                )
            open_block = None
        elif kind == "message_delta":
            assert open_block is None and event["delta"]["stop_reason"], where
            assert event["usage"]["output_tokens"] >= 0, where
            delta_seen = True
        elif kind == "message_stop":
            assert delta_seen and open_block is None, where
            ended = True
        else:
            raise AssertionError(f"{where}: unknown to the API")
    assert ended or failed, "the stream ends without message_stop and without an error event"


def types(events: list[Event]) -> list[str]:
    """The types in order, pings left out, runs of deltas as one."""
    out: list[str] = []
    for event in events:
        kind = event["type"]
        if kind != "ping" and not (kind == "content_block_delta" and out[-1:] == [kind]):
            out.append(kind)
    return out
