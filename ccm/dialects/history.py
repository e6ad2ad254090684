"""A Messages history made regular, for every dialect that is not Anthropic's own (REQUIREMENTS R8, R9, R20, R21, R25).

Out come turns of text, media, thinking and tool calls, with each call's result directly after it and in the order of
the calls. Whatever a foreign API has no word for (server tools, tool references, unknown blocks) becomes text: never
an error, never silently nothing. Blocks of the client are shared, never changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ccm.shape import dataclass, field

Block = dict[str, Any]
Lose = Callable[[str, str], None]  # Encoded.lose

NO_RESULT = "[no result: the call was interrupted]"
_BILLING = "x-anthropic-billing-header:"
_MAX_JSON = 20_000  # characters of an unknown block that are worth sending as text


@dataclass(slots=True)
class Result:
    """The result of one tool call: `blocks` are text, image and document blocks; `synthetic` ones ccm made itself."""

    id: str
    name: str
    blocks: list[Block]
    is_error: bool = False
    synthetic: bool = False

    @property
    def text(self) -> str:
        """The text blocks, one after the other on lines of their own."""
        return "\n".join(b["text"] for b in self.blocks if b["type"] == "text")

    @property
    def media(self) -> list[Block]:
        """The image and document blocks."""
        return [b for b in self.blocks if b["type"] != "text"]


@dataclass(slots=True)
class Turn:
    """One turn. `role` is user | assistant | system; neighbours never share a role.

    user: `results` (all of the calls before, in call order), then `blocks` (text, image, document).
    assistant: `blocks` (text, thinking, redacted_thinking, tool_use) as the model made them. system: text blocks.
    """

    role: str
    blocks: list[Block] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def calls(self) -> list[Block]:
        """The tool_use blocks."""
        return [b for b in self.blocks if b["type"] == "tool_use"]

    @property
    def text(self) -> str:
        """The text of the text blocks, paragraphs apart."""
        return "\n\n".join(b["text"] for b in self.blocks if b["type"] == "text")


@dataclass(slots=True)
class History:
    """`system` are the text blocks of the system prompt (no billing line, nothing empty), `turns` the conversation."""

    system: list[Block]
    turns: list[Turn]

    @property
    def system_text(self) -> str:
        """The system prompt as one string."""
        return "\n\n".join(b["text"] for b in self.system)


def read(request: dict[str, Any], lose: Lose) -> History:
    """The history of a Messages request, made regular. `lose(feature, how)` hears of everything that changed."""
    system = _system(request.get("system"))
    turns: list[Turn] = []
    claims: list[tuple[int, str, Block]] = []  # (turn, call id, tool_result block)
    for message in request.get("messages") or ():
        role = message.get("role")
        role = role if role in ("assistant", "system") else "user"
        blocks = [b for b in _blocks(message.get("content")) if isinstance(b, dict)]
        if role == "system" and not turns:
            system += _texts(blocks)
            continue
        if not turns or turns[-1].role != role:
            turns.append(Turn(role))
        turn = turns[-1]
        for block in blocks:
            if block.get("type") == "tool_result" and role == "user":
                claims.append((len(turns) - 1, str(block.get("tool_use_id") or ""), block))
            elif role == "system":
                turn.blocks += _texts([block])
            elif role == "assistant":
                turn.blocks += _assistant(block, lose)
            else:
                turn.blocks += _user(block, lose)
    turns = _pair(turns, claims, lose)
    return History(system, _merge(t for t in turns if t.blocks or t.results))


def reminder(text: str) -> str:
    """Text of a system message where it has to travel inside a user turn (Claude Code's own form)."""
    return f"<system-reminder>\n{text}\n</system-reminder>"


def fold_system(turns: list[Turn]) -> list[Turn]:
    """The turns without role system: their text goes, as a reminder, to the end of the user turn before, else to the
    head of the next one. For templates that know no system message after the first."""
    out: list[Turn] = []
    waiting: list[Block] = []
    for turn in turns:
        if turn.role == "system":
            note = {"type": "text", "text": reminder(turn.text)}
            if out and out[-1].role == "user":
                out[-1] = Turn("user", [*out[-1].blocks, note], out[-1].results)
            else:
                waiting.append(note)
        elif turn.role == "user" and waiting:
            out.append(Turn("user", [*waiting, *turn.blocks], turn.results))
            waiting = []
        else:
            if waiting:  # system between two assistant turns
                out.append(Turn("user", waiting))
                waiting = []
            out.append(turn)
    if waiting:
        out.append(Turn("user", waiting))
    return _merge(out)


def call_ids(request: dict[str, Any]) -> frozenset[str]:
    """All ids of tool calls in the request: no answer may use one of them again (CLIENT 0.4)."""
    return frozenset(
        block["id"]
        for message in request.get("messages") or ()
        if message.get("role") == "assistant" and isinstance(message.get("content"), list)
        for block in message["content"]
        if isinstance(block, dict) and isinstance(block.get("id"), str)
    )


def block_text(block: Block) -> str:
    """Any block as text: what a model that does not know its type should read of it ("" for nothing)."""
    kind = str(block.get("type") or "")
    render = _AS_TEXT.get(kind)
    if render is not None:
        return render(block)
    if kind.endswith("_tool_result"):
        return _server_result(block)
    if isinstance(block.get("text"), str):
        return str(block["text"])
    return _dump(block)


def _system(system: Any) -> list[Block]:
    if isinstance(system, str):
        first, _, rest = system.partition("\n")
        system = rest.lstrip("\n") if first.startswith(_BILLING) else system
        return [{"type": "text", "text": system}] if system.strip() else []
    blocks = [b for b in system or () if isinstance(b, dict)]
    return [b for b in _texts(blocks) if not b["text"].startswith(_BILLING)]


def _blocks(content: Any) -> Iterable[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else ()


def _texts(blocks: Iterable[Block]) -> list[Block]:
    """Text blocks only: other kinds are rendered on lines of their own, empty ones left out."""
    out = []
    for block in blocks:
        text = block_text(block) if block.get("type") != "text" else block.get("text")
        if isinstance(text, str) and text.strip():
            out.append(block if block.get("type") == "text" else {"type": "text", "text": f"{text}\n"})
    return out


def _assistant(block: Block, lose: Lose) -> list[Block]:
    kind = block.get("type")
    if kind in ("thinking", "redacted_thinking"):
        return [block]
    if kind == "tool_use" and isinstance(block.get("id"), str) and isinstance(block.get("name"), str):
        return [block]
    if kind == "text":
        return [block] if _says(block) else []
    lose(f"content.{kind}", "approximated")
    return _texts([block])


def _says(block: Block) -> bool:
    """Whether a text block holds more than white space."""
    text = block.get("text")
    return isinstance(text, str) and text != "" and not text.isspace()


def _user(block: Block, lose: Lose) -> list[Block]:
    kind = block.get("type")
    if kind == "text":
        return [block] if _says(block) else []
    if kind == "image":
        return [block]
    if kind == "document":
        return _document(block, lose)
    lose(f"content.{kind}", "approximated")
    return _texts([block])


def _document(block: Block, lose: Lose) -> list[Block]:
    """Text documents become text; others stay, with their context as a line before them."""
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    head = [str(block[k]) for k in ("title", "context") if block.get(k)]
    if block.get("citations"):
        lose("document.citations", "dropped")
    if source.get("type") == "text":
        text = "\n".join([*head, str(source.get("data") or "")])
        return [{"type": "text", "text": text}] if text.strip() else []
    if source.get("type") == "content":
        inner: list[Block] = [{"type": "text", "text": "\n".join(head)}] if head else []
        for part in _blocks(source.get("content")):
            if isinstance(part, dict):
                inner += _user(part, lose)
        return inner
    context = block.get("context")
    return [*([{"type": "text", "text": str(context)}] if context else []), block]


def _result(id: str, name: str, block: Block, lose: Lose) -> Result:
    blocks: list[Block] = []
    for part in _blocks(block.get("content")):
        if isinstance(part, dict):
            blocks += _user(part, lose)
    return Result(id, name, blocks, bool(block.get("is_error")))


def _pair(turns: list[Turn], claims: list[tuple[int, str, Block]], lose: Lose) -> list[Turn]:
    """The turns with every call's result at the head of the user turn after it; makes the missing, drops the unasked.
    One pass: a conversation may have thousands of calls."""
    waiting: dict[str, list[tuple[int, Block]]] = {}
    for place, id, block in claims:
        waiting.setdefault(id, []).append((place, block))
    unasked = len(claims)
    out: list[Turn] = []
    moved: set[int] = set()
    for at, turn in enumerate(turns):
        if at in moved:
            continue
        out.append(turn)
        calls = turn.calls if turn.role == "assistant" else ()
        if not calls:
            continue
        results = []
        for call in calls:
            offered = waiting.get(call["id"], ())
            found = next((n for n, (place, _) in enumerate(offered) if place > at), None)
            if found is None:
                lose("tool_use.orphan", "approximated")
                text: Block = {"type": "text", "text": NO_RESULT}
                results.append(Result(call["id"], call["name"], [text], is_error=True, synthetic=True))
            else:
                unasked -= 1
                results.append(_result(call["id"], call["name"], waiting[call["id"]].pop(found)[1], lose))
        # A system message may stand between the calls and their results: it waits until after them.
        after = at + 1
        while after < len(turns) and turns[after].role == "system":
            after += 1
        if after < len(turns) and turns[after].role == "user":
            home = turns[after]
            moved.add(after)
        else:
            home = Turn("user")
        home.results = results
        out.append(home)
    if unasked:
        lose("tool_result.orphan", "dropped")
    return out


def _merge(turns: Iterable[Turn]) -> list[Turn]:
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role and not turn.results:
            out[-1] = Turn(turn.role, [*out[-1].blocks, *turn.blocks], out[-1].results)
        else:
            out.append(turn)
    return out


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= _MAX_JSON else text[:_MAX_JSON] + "…"


def _server_use(block: Block) -> str:
    given = block.get("input")
    if isinstance(given, dict) and len(given) == 1 and isinstance(next(iter(given.values())), str):
        return f"[{block.get('name')}: {next(iter(given.values()))}]"
    return f"[{block.get('name')}: {_dump(given or {})}]"


def _server_result(block: Block) -> str:
    """What a server tool found or printed, without the provider's opaque parts."""
    kind = str(block.get("type")).removesuffix("_tool_result")
    lines = [line for part in _blocks(_listed(block.get("content"))) if (line := _finding(part))]
    return f"[{kind} result]\n" + "\n".join(lines) if lines else f"[{kind} result: empty]"


def _listed(content: Any) -> Any:
    return [content] if isinstance(content, dict) else content


def _finding(part: Any) -> str:
    if not isinstance(part, dict):
        return ""
    if part.get("error_code"):
        return f"error: {part['error_code']}"
    if part.get("url") or part.get("title"):
        line = f"- {part.get('title') or part['url']}" + (f": {part['url']}" if part.get("url") else "")
        inner = part.get("content")
        return "\n".join(filter(None, (line, _finding(inner) if isinstance(inner, dict) else "")))
    if part.get("type") == "document":
        source = part.get("source")
        return (
            str(source.get("data") or "") if isinstance(source, dict) and source.get("type") == "text" else ""
        )
    if "stdout" in part or "stderr" in part:
        return "\n".join(str(part[k]) for k in ("stdout", "stderr") if part.get(k))
    if part.get("tool_references"):
        return "\n".join(_reference(r) for r in part["tool_references"] if isinstance(r, dict))
    if isinstance(part.get("text"), str):
        return str(part["text"])
    return _dump({k: v for k, v in part.items() if not k.startswith("encrypted")})


def _reference(block: Block) -> str:
    return f"[tool loaded: {block.get('tool_name')}]"


def _search_result(block: Block) -> str:
    head = " ".join(str(block[k]) for k in ("title", "source") if block.get(k))
    texts = [b.get("text") or "" for b in _blocks(block.get("content")) if isinstance(b, dict)]
    return "\n".join(filter(None, (head, *texts)))


def _tool_result(block: Block) -> str:
    """A tool_result where none can be (an assistant turn)."""
    return "\n".join(block_text(b) for b in _blocks(block.get("content")) if isinstance(b, dict))


def _media(block: Block) -> str:
    source = block.get("source")
    url = source.get("url") if isinstance(source, dict) else None
    return f"[{block.get('type')}{': ' + str(url) if url else ''}]"


def _nothing(_: Block) -> str:
    return ""


def _compaction(block: Block) -> str:
    content = block.get("content")
    return content if isinstance(content, str) else ""


_AS_TEXT: dict[str, Callable[[Block], str]] = {
    "text": lambda block: str(block.get("text") or ""),
    "server_tool_use": _server_use,
    "mcp_tool_use": _server_use,
    "tool_use": _server_use,
    "tool_reference": _reference,
    "search_result": _search_result,
    "tool_result": _tool_result,
    "image": _media,
    "document": _media,
    "container_upload": lambda block: f"[file uploaded: {block.get('file_id')}]",
    "compaction": _compaction,
    # which model answered is nothing that a model needs to read
    "fallback": _nothing,
    "thinking": _nothing,
    "redacted_thinking": _nothing,
}


def has_cache_marks(request: Mapping[str, Any]) -> bool:
    """Whether a system block, a message block or a tool carries cache_control: for dialects that have no such mark."""
    contents = [m.get("content") for m in request.get("messages") or ()]
    lists = [c for c in (*contents, request.get("system"), request.get("tools")) if isinstance(c, list)]
    return any(isinstance(b, Mapping) and b.get("cache_control") for blocks in lists for b in blocks)
