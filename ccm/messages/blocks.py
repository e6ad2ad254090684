"""BlockWriter: the one owner of the stream grammar.

message_start, then blocks with strictly rising indices and exactly one open at a time, then message_delta and
message_stop. Decoders say what arrived (`text`, `thinking`, `tool`, `tool_json` ...), in any interleaving; the writer
opens, closes and, where a provider interleaves two tool calls, holds the later one back until the open one is whole.
Tool arguments pass through byte for byte: never repaired, never invented.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from ccm.messages.events import Event
from ccm.messages.tokens import Usage

_START: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class BlockWriter:
    """Turns what a decoder reads into a grammatical event sequence; `take()` hands out what is ready.

    `usage` is live: the decoder updates it and the writer puts its values into `message_start` and `message_delta`.
    """

    def __init__(self, message_id: str, model: str, usage: Usage | None = None) -> None:
        self.message_id = message_id
        self.model = model
        self.usage = usage if usage is not None else Usage()
        self.stop_reason: str | None = None
        self.started = False
        self.finished = False
        self.tools = 0  # client tool calls begun
        self.blocks = 0  # blocks begun: also the next index
        self._out: list[Event] = []
        self._key: Hashable | None = None  # the open block; None = none open
        self._kind = ""
        self._json: list[str] = []  # argument fragments of the open tool
        self._held: list[tuple[Any, ...]] = []  # calls that wait for the open tool to be whole

    def take(self) -> list[Event]:
        """The events made since the last call, in order."""
        out, self._out = self._out, []
        return out

    def start(self) -> None:
        """message_start, once; every other call starts the message by itself."""
        if self.started:
            return
        self.started = True
        self._out.append(
            {
                "type": "message_start",
                "message": {
                    "id": self.message_id,
                    "type": "message",
                    "role": "assistant",
                    "model": self.model,
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": self.usage.to_dict(),
                },
            }
        )

    def text(self, text: str) -> None:
        """Answer text. Empty strings are nothing."""
        if text:
            self._stream("text", {"type": "text_delta", "text": text})

    def thinking(self, text: str) -> None:
        """Reasoning text. Empty strings are nothing."""
        if text:
            self._stream("thinking", {"type": "thinking_delta", "thinking": text})

    def signature(self, signature: str) -> None:
        """The signature of the open thinking block (or of an empty one of its own), which it closes."""
        if self._hold("signature", signature):
            return
        if self._kind != "thinking":
            self._open("thinking", "thinking", dict(_START["thinking"]))
        self._delta({"type": "signature_delta", "signature": signature})
        self._close()

    def cite(self, citation: dict[str, Any]) -> None:
        """A citation on the open text block (or on an empty one)."""
        self._stream("text", {"type": "citations_delta", "citation": citation})

    def tool(self, key: Hashable, id: str, name: str, type: str = "tool_use") -> None:
        """Opens a tool call; `key` is whatever the provider tells its calls apart by."""
        if self._hold("tool", key, id, name, type):
            return
        self._open(("tool", key), "tool", {"type": type, "id": id, "name": name, "input": {}})
        self.tools += type == "tool_use"

    def tool_json(self, key: Hashable, fragment: str) -> None:
        """A piece of the arguments of call `key`, as the provider sent it."""
        if not fragment:
            return
        if self._key == ("tool", key):
            self._json.append(fragment)
            self._delta({"type": "input_json_delta", "partial_json": fragment})
            if self._held and self._whole():
                self._close()
                self._release()
        elif self._kind == "tool" or self._held:
            self._held.append(("tool_json", key, fragment))
        # else: a fragment for a call that is closed already; it was whole, so this can only be white space

    def tool_end(self, key: Hashable) -> None:
        """The provider says that call `key` is whole."""
        if self._key == ("tool", key):
            self._close()
            self._release()
        elif self._held:
            self._held.append(("tool_end", key))

    def block(self, block: dict[str, Any]) -> None:
        """A block that arrives whole and has no deltas (redacted_thinking, server tool results)."""
        if self._hold("block", block):
            return
        self._open(None, "block", block)
        self._close()

    def ping(self) -> None:
        """A keep-alive; only after the start."""
        if self.started:
            self._out.append({"type": "ping"})

    def close(self) -> None:
        """Closes the open block, as the provider did. A tool call is closed only where the provider ended it."""
        if self._kind:
            self._close()
            self._release()

    def finish(
        self,
        stop_reason: str | None,
        stop_sequence: str | None = None,
        stop_details: dict[str, Any] | None = None,
    ) -> None:
        """The provider's own end: closes what is open, message_delta, message_stop.

        `end_turn` becomes `tool_use` where a tool was called, and the other way round where none was (R3).
        """
        if self.finished:
            return
        self.start()
        while self._kind or self._held:
            if self._kind:
                self._close()
            self._release()
        if stop_reason in (None, "end_turn") and self.tools:
            stop_reason = "tool_use"
        elif stop_reason is None or (stop_reason == "tool_use" and not self.tools):
            stop_reason = "end_turn"
        self.finished = True
        self.stop_reason = stop_reason
        delta: dict[str, Any] = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        if stop_details is not None:
            delta["stop_details"] = stop_details
        self._out.append({"type": "message_delta", "delta": delta, "usage": self.usage.to_dict()})
        self._out.append({"type": "message_stop"})

    def _stream(self, kind: str, delta: dict[str, Any]) -> None:
        if self._kind != kind:
            if self._hold("_stream", kind, delta):
                return
            self._open(kind, kind, dict(_START[kind]))
        self._delta(delta)

    def _delta(self, delta: dict[str, Any]) -> None:
        self._out.append({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta})

    def _open(self, key: Hashable | None, kind: str, block: dict[str, Any]) -> None:
        self.start()
        if self._kind:
            self._close()
        self._key, self._kind, self._json = key, kind, []
        self._out.append({"type": "content_block_start", "index": self.blocks, "content_block": block})
        self.blocks += 1

    def _close(self) -> None:
        self._out.append({"type": "content_block_stop", "index": self.blocks - 1})
        self._key, self._kind = None, ""

    def _hold(self, *call: Any) -> bool:
        """Keeps a call back while another tool call is open and not whole yet."""
        if not self._held and (self._kind != "tool" or self._whole()):
            return False
        self._held.append(call)
        return True

    def _whole(self) -> bool:
        if not self._json:
            return False  # arguments may still come; the end of the stream decides
        try:
            json.loads("".join(self._json))
        except (ValueError, RecursionError):
            return False
        return True

    def _release(self) -> None:
        held, self._held = self._held, []
        for n, (name, *args) in enumerate(held):
            if (
                self._held
            ):  # one of them opened a tool that is not whole: the others wait again, in order, but
                rest = held[n:]  # its own fragments go through
                for again in rest:
                    if again[0] in ("tool_json", "tool_end") and ("tool", again[1]) == self._key:
                        getattr(self, again[0])(*again[1:])
                    else:
                        self._held.append(again)
                return
            getattr(self, name)(*args)
