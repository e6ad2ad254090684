"""A conversation of an OpenAI client, made into the turns of the Messages API.

OpenAI's APIs list messages, calls and results one by one and bind results to calls by id only. Messages wants every
result in the user turn directly after its call, unique call ids, and a user turn first. `Thread` takes things in the
order in which they come and builds that.
"""

from __future__ import annotations

from typing import Any

from ccm.dialects.history import NO_RESULT
from ccm.dialects.inbound.parts import Block, Losses, refuse, text
from ccm.dialects.names import anthropic_id
from ccm.shape import dataclass, field

_FIRST = "(The conversation begins with the assistant.)"


@dataclass(slots=True)
class _Turn:
    role: str
    blocks: list[Block] = field(default_factory=list)
    results: dict[str, Block] = field(default_factory=dict)  # call id -> tool_result, of an assistant turn

    @property
    def calls(self) -> list[Block]:
        return [block for block in self.blocks if block["type"] == "tool_use"]


class Thread:
    """Collects a conversation; `build` gives the Messages form. Neighbours of one role become one turn."""

    def __init__(self, lose: Losses) -> None:
        self._lose = lose
        self._head: list[Block] = []  # the system prompt
        self._turns: list[_Turn] = []
        self._used: set[str] = set()
        self._calls: dict[str, tuple[_Turn, str]] = {}  # the client's id -> the turn of its last use, our id

    @property
    def started(self) -> bool:
        """Whether the conversation has begun: system messages after this stand inside it."""
        return bool(self._turns)

    def system(self, blocks: list[Block]) -> None:
        """A system or developer message: the system prompt at the head, a message of its own later."""
        kept = [block for block in blocks if block["type"] == "text"]
        if len(kept) < len(blocks):
            self._lose("system.media")
        if not self._turns:
            self._head += kept
        elif kept:
            self._turn("system").blocks += kept

    def user(self, blocks: list[Block]) -> None:
        """What the user said."""
        if blocks:
            self._turn("user").blocks += blocks

    def assistant(self, blocks: list[Block]) -> None:
        """What the assistant said or thought."""
        if blocks:
            self._assistant().blocks += blocks

    def call(self, id: Any, name: str, input: dict[str, Any]) -> None:
        """A tool call. An id that this conversation has had already gets a new one, and so do its results."""
        given = id if isinstance(id, str) else ""
        turn = self._assistant()
        unique = anthropic_id(given) if given else f"call_{len(self._used)}"
        count = 2
        base = unique
        while unique in self._used:
            unique = f"{base}_{count}"
            count += 1
        self._used.add(unique)
        self._calls[given] = turn, unique
        turn.blocks.append({"type": "tool_use", "id": unique, "name": name, "input": input})

    def result(self, id: Any, blocks: list[Block], name: str = "", is_error: bool = False) -> None:
        """A tool result, found by the id of its call; without one by name, or as the first that is missing."""
        found = self._calls.get(id) if isinstance(id, str) and id else self._unanswered(name)
        if found is None:
            self._lose("tool_result.orphan", "approximated")
            self.user([text(f"[result of a tool call{f' of {name}' if name else ''}]"), *blocks])
            return
        turn, unique = found
        had = turn.results.get(unique)
        if had is not None:
            had["content"] = [*had.get("content", ()), *blocks]
            return
        block: Block = {"type": "tool_result", "tool_use_id": unique}
        if blocks:
            block["content"] = blocks
        if is_error:
            block["is_error"] = True
        turn.results[unique] = block

    def build(self, where: str) -> tuple[list[Block], list[dict[str, Any]]]:
        """(system blocks, messages). Raises Refusal naming `where` when nothing was said at all."""
        if not self._turns:
            if not self._head:
                refuse(where, "at least one message with content is required")
            # Messages needs a user turn: the last system text is what the model is to answer.
            self._lose("system", "approximated")
            self._turns.append(_Turn("user", [self._head.pop()]))
        if self._turns[0].role == "assistant":
            self._lose("messages.first_assistant", "approximated")
            self._turns.insert(0, _Turn("user", [text(_FIRST)]))
        last = self._turns[-1]
        if last.role == "assistant" and last.blocks[-1]["type"] == "text":
            # a beginning that the model is to continue must not end in white space
            last.blocks[-1] = {**last.blocks[-1], "text": last.blocks[-1]["text"].rstrip()}
            if not last.blocks[-1]["text"]:
                last.blocks.pop()
        messages: list[dict[str, Any]] = []
        for turn in self._turns:
            if turn.role == "user" and messages and messages[-1]["role"] == "user":
                messages[-1]["content"] += turn.blocks  # after results
            elif turn.blocks:
                messages.append({"role": turn.role, "content": list(turn.blocks)})
            if calls := turn.calls:
                messages.append({"role": "user", "content": [self._answer(turn, call) for call in calls]})
        return self._head, messages

    def _answer(self, turn: _Turn, call: Block) -> Block:
        answer = turn.results.get(call["id"])
        if answer is None:
            self._lose("tool_result.missing", "approximated")
            content = [text(NO_RESULT)]
            answer = {"type": "tool_result", "tool_use_id": call["id"], "content": content, "is_error": True}
        return answer

    def _turn(self, role: str) -> _Turn:
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(_Turn(role))
        return self._turns[-1]

    def _assistant(self) -> _Turn:
        """The open assistant turn: one whose calls are answered is closed."""
        turn = self._turn("assistant")
        if turn.results:
            turn = _Turn("assistant")
            self._turns.append(turn)
        return turn

    def _unanswered(self, name: str) -> tuple[_Turn, str] | None:
        for turn in reversed(self._turns):
            for call in turn.calls:
                if call["id"] not in turn.results and (not name or call["name"] == name):
                    return turn, call["id"]
        return None
