"""A Messages history as chat.completions messages (DIALECTS 2).

System text first, each assistant turn one message, its tool results directly after it and in call order, media of tool
results in the user message that follows. Reasoning goes back in the field it came from (`reasoning_state`).
"""

from __future__ import annotations

import json
from typing import Any

from ccm.dialects.base import Context, Encoded
from ccm.dialects.history import Block, History, Result, Turn, fold_system
from ccm.dialects.names import short_name
from ccm.dialects.openai_chat import ids, reasoning_state
from ccm.dialects.openai_chat.policy import Policy
from ccm.dialects.state import is_wrapped, unwrap
from ccm.errors import Refusal

Chat = list[dict[str, Any]]
_dump = json.JSONEncoder(
    ensure_ascii=False
).encode  # `json.dumps` with options makes a new one for every call
_GO_ON = "Continue exactly where the assistant's last message ends."


class Messages:
    """Builds the message list of one request. `build` is called once."""

    def __init__(self, ctx: Context, policy: Policy, sent: Encoded, thinking: bool) -> None:
        self._ctx = ctx
        self._policy = policy
        self._sent = sent
        self._thinking = thinking  # whether the provider is to think: fillers are needed only then
        self._ids: dict[str, str] = {}
        self._filler: tuple[str, str] | None = None  # (field, text) for tool turns without reasoning

    def build(self, history: History, system_extra: str = "") -> Chat:
        """The messages; `system_extra` is added to the system text. Raises Refusal for a file no provider has."""
        policy = self._policy
        turns = history.turns if policy.mid_system == "keep" else fold_system(history.turns)
        self._ids = ids.outward((call["id"] for turn in turns for call in turn.calls), policy.ids)
        self._filler = self._find_filler(turns)
        chat: Chat = []
        system = [*history.system, *([{"type": "text", "text": system_extra}] if system_extra else [])]
        if system:
            chat.append({"role": policy.system_role, "content": self._texts(system)})
        add = {"system": self._system, "user": self._user, "assistant": self._assistant}
        for turn in turns:
            add[turn.role](chat, turn)
        if policy.alternate:
            chat = _alternate(chat)
        if chat and turns[-1:] and turns[-1].role == "assistant" == chat[-1]["role"]:
            if policy.prefix:
                chat[-1]["prefix"] = True
            elif not policy.prefill:
                chat.append({"role": "user", "content": _GO_ON})
                self._sent.lose("prefill", "approximated")
        if not any(m["role"] in ("user", "tool") for m in chat):
            chat.append({"role": "user", "content": _GO_ON})
        return chat

    def _system(self, chat: Chat, turn: Turn) -> None:
        chat.append({"role": self._policy.system_role, "content": self._texts(turn.blocks)})

    def _user(self, chat: Chat, turn: Turn) -> None:
        media: list[dict[str, Any]] = []
        for result in turn.results:
            chat.append(self._result(result, media))
        parts = media + [part for block in turn.blocks for part in self._part(block)]
        if not parts:
            return
        if turn.results and self._policy.bridge:
            chat.append({"role": "assistant", "content": "OK"})
        chat.append({"role": "user", "content": _plain(parts)})

    def _assistant(self, chat: Chat, turn: Turn) -> None:
        message: dict[str, Any] = {"role": "assistant"}
        text = _assistant_text(turn.blocks)
        message["content"] = text or None
        calls = self._calls(turn)
        if calls and self._policy.tools:
            message["tool_calls"] = calls
        elif calls:  # a provider without tools: the calls are told
            told = "\n".join(f"[{c['function']['name']}: {c['function']['arguments']}]" for c in calls)
            message["content"] = f"{text}\n\n{told}" if text else told
        self._reason(message, turn)
        if message["content"] is None and "tool_calls" not in message:
            if len(message) == 2:  # nothing at all is left of this turn
                return
            message["content"] = ""
        chat.append(message)

    def _calls(self, turn: Turn) -> list[dict[str, Any]]:
        """The tool calls; one that came with extra content (a thinking block before it says so) gets it back."""
        calls, extra = [], None
        for block in turn.blocks:
            if block["type"] == "thinking":
                extra = (self._state(block) or {}).get("x")
            elif block["type"] == "tool_use":
                call = self._call(block)
                if isinstance(extra, dict):
                    call["extra_content"] = extra
                calls.append(call)
                extra = None
        return calls

    def _call(self, block: Block) -> dict[str, Any]:
        arguments = block.get("input")
        return {
            "id": self._ids[block["id"]],
            "type": "function",
            "function": {
                "name": short_name(block["name"]),
                "arguments": _dump(arguments if arguments is not None else {}),
            },
        }

    def _result(self, result: Result, media: list[dict[str, Any]]) -> dict[str, Any]:
        text = result.text
        if result.is_error and not text.lower().startswith("error"):
            text = f"Error: {text}"
        own = [part for block in result.media for part in self._part(block)]
        if own:
            note = f"[image of tool result {result.id}]" if any(p["type"] == "image_url" for p in own) else ""
            media += [{"type": "text", "text": note or f"[file of tool result {result.id}]"}, *own]
            text = text or "(see the attachment in the next message)"
        if not self._policy.tools:
            return {"role": "user", "content": f"[result of {result.name}]\n{text}"}
        return {
            "role": "tool",
            "tool_call_id": self._ids[result.id],
            "content": text if text.strip() else self._policy.empty_result,
        }

    def _part(self, block: Block) -> list[dict[str, Any]]:
        if block["type"] == "text":
            part = {"type": "text", "text": block["text"]}
            if self._policy.cache_control and block.get("cache_control"):
                part["cache_control"] = {"type": "ephemeral"}
            elif block.get("cache_control"):
                self._sent.lose("cache_control", "dropped")
            return [part]
        return [self._image(block) if block["type"] == "image" else self._document(block)]

    def _image(self, block: Block) -> dict[str, Any]:
        if "images" not in self._ctx.facts.abilities:
            self._sent.lose("image", "dropped")
            return {"type": "text", "text": f"[image omitted: model {self._ctx.model} is text-only]"}
        source = _source(block)
        if source.get("type") == "url":
            url = str(source.get("url"))
        elif source.get("type") == "base64":
            url = f"data:{source.get('media_type')};base64,{source.get('data')}"
        else:
            raise Refusal(
                400, "invalid_request_error", f"{self._ctx.provider} has no access to files of the Files API"
            )
        return {"type": "image_url", "image_url": {"url": url}}

    def _document(self, block: Block) -> dict[str, Any]:
        source = _source(block)
        title = str(block.get("title") or "document.pdf")
        if source.get("type") == "file":
            raise Refusal(
                400, "invalid_request_error", f"{self._ctx.provider} has no access to files of the Files API"
            )
        if source.get("type") == "base64" and self._policy.documents:
            data = f"data:{source.get('media_type') or 'application/pdf'};base64,{source.get('data')}"
        elif source.get("type") == "url" and self._policy.document_urls:
            data = str(source.get("url"))
        else:
            self._sent.lose("document", "dropped")
            url = f" ({source.get('url')})" if source.get("url") else ""
            return {
                "type": "text",
                "text": f"[document omitted: {title}{url}: {self._ctx.provider} takes no PDF here]",
            }
        return {"type": "file", "file": {"filename": title, "file_data": data}}

    def _texts(self, blocks: list[Block]) -> Any:
        return _plain([part for block in blocks for part in self._part(block)])

    # -- reasoning of earlier turns

    def _reason(self, message: dict[str, Any], turn: Turn) -> None:
        policy = self._policy
        if policy.reasoning == "drop":
            return
        field, text, details = "", "", []
        for block in turn.blocks:
            if block["type"] == "redacted_thinking":
                self._sent.lose("redacted_thinking", "dropped")
            if block["type"] != "thinking":
                continue
            state = self._state(block)
            if state is not None and "x" not in state:
                field = field or str(state.get("f") or "")
                details += [d for d in state.get("d") or () if isinstance(d, dict)]
                text += block.get("thinking") or ""
            elif state is None and policy.foreign_reasoning and block.get("thinking"):
                text += ("\n\n" if text else "") + block["thinking"]
            elif state is None and (block.get("thinking") or block.get("signature")):
                self._sent.lose("thinking", "dropped")
        if policy.reasoning not in ("state", reasoning_state.DETAILS):
            field = policy.reasoning
        elif not details and field == reasoning_state.DETAILS:
            field = reasoning_state.FIELDS[1]
        if details:
            message[reasoning_state.DETAILS] = reasoning_state.joined(details)
        elif text and field:
            _REPLAY.get(field, _as_field)(message, field, text)
        elif self._filler and (self._policy.filler is not None or "tool_calls" in message):
            message[self._filler[0]] = self._filler[1]

    def _state(self, block: Block) -> dict[str, Any] | None:
        signature = block.get("signature")
        state = unwrap(signature, self._ctx.family) if is_wrapped(signature) else None
        return state if isinstance(state, dict) else None

    def _find_filler(self, turns: list[Turn]) -> tuple[str, str] | None:
        """What stands for missing reasoning: by policy, or because this unknown provider itself sends the field that
        DeepSeek and its kin want back on every turn with calls, also as ""."""
        if self._policy.filler is not None:
            return (self._policy.reasoning, self._policy.filler) if self._thinking else None
        if self._policy.reasoning != "state":
            return None
        states = [self._state(b) for turn in turns for b in turn.blocks if b["type"] == "thinking"]
        field = reasoning_state.FIELDS[0]
        return (field, "") if any(s is not None and s.get("f") == field for s in states) else None


def _as_field(message: dict[str, Any], field: str, text: str) -> None:
    message[field] = text


def _as_parts(message: dict[str, Any], field: str, text: str) -> None:
    parts: list[dict[str, Any]] = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
    if message["content"]:
        parts.append({"type": "text", "text": message["content"]})
    message["content"] = parts


def _as_tags(message: dict[str, Any], field: str, text: str) -> None:
    message["content"] = f"<think>{text}</think>{message['content'] or ''}"


_REPLAY = {reasoning_state.PARTS: _as_parts, "think_tags": _as_tags}


def _source(block: Block) -> dict[str, Any]:
    source = block.get("source")
    return source if isinstance(source, dict) else {}


def _plain(parts: list[dict[str, Any]]) -> Any:
    """One string where all parts are plain text (every server takes that), else the parts."""
    if all(part["type"] == "text" and len(part) == 2 for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _assistant_text(blocks: list[Block]) -> str:
    """The text of an assistant turn: what stood together stays together, else paragraphs apart."""
    text, adjacent = "", True
    for block in blocks:
        if block["type"] == "text":
            text += block["text"] if adjacent or not text else "\n\n" + block["text"]
            adjacent = True
        else:
            adjacent = False
    return text


def _alternate(chat: Chat) -> Chat:
    """Strict alternation: neighbours of one role become one message of text."""
    out: Chat = []
    for message in chat:
        if out and out[-1]["role"] == message["role"] and message["role"] in ("user", "assistant"):
            both = [out[-1]["content"], message["content"]]
            if all(isinstance(c, str) for c in both):
                out[-1] = {**out[-1], "content": "\n\n".join(both)}
            else:
                out[-1] = {**out[-1], "content": [p for c in both for p in _listed(c)]}
        else:
            out.append(message)
    return out


def _listed(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
