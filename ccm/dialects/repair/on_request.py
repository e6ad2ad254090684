"""Repairs of the Messages request and its context, before a dialect encodes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ccm.dialects.anthropic import without_foreign_thinking
from ccm.dialects.history import block_text, reminder
from ccm.dialects.names import anthropic_id
from ccm.dialects.reasoning import BUDGETS, effort_of
from ccm.dialects.repair import betas
from ccm.dialects.repair.model import Draft
from ccm.dialects.repair.paths import GONE, everywhere, positions
from ccm.shape import replace

Args = tuple[str, ...]
Block = dict[str, Any]

_SMALLEST_BUDGET = 1_024
_GO_ON = "Continue exactly where the assistant's last message ends."
_ONLY_JSON = "Answer only with one JSON value that matches this JSON Schema, and with nothing else:"
_MOST_MARKS = 4  # cache_control blocks in one request


def quirk(draft: Draft, args: Args) -> None:
    """The encoder's own way around it; `args`: quirks. What is lost thereby the encoder says."""
    draft.quirk(*args)


def whole_answer(draft: Draft, args: Args) -> None:
    """Asks for a whole answer where streams are refused; the client still gets its stream."""
    draft.ctx = replace(draft.ctx, stream=False)


def streamed_answer(draft: Draft, args: Args) -> None:
    """Asks for a stream where nothing else is given; the client still gets its message."""
    draft.ctx = replace(draft.ctx, stream=True)


# ---- thinking


def strip_thinking(draft: Draft, args: Args) -> None:
    """No thinking of earlier turns: signatures of another issuer, account or model are worth nothing (R11)."""
    draft.request, gone = without_foreign_thinking(draft.request, every=True)
    if gone:
        draft.lose("thinking")


def strip_unsigned(draft: Draft, args: Args) -> None:
    """No thinking without a signature: this provider, like Anthropic, takes none back."""
    draft.request, gone = without_foreign_thinking(draft.request, unsigned=True)
    if gone:
        draft.lose("thinking")


def clean_ids(draft: Draft, args: Args) -> None:
    """Tool ids in Anthropic's alphabet: some look-alike minted others, and they stay in the history."""

    def clean(block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        changed = {k: anthropic_id(block[k]) for k in ("id", "tool_use_id") if isinstance(block.get(k), str)}
        return block if all(block[k] == v for k, v in changed.items()) else {**block, **changed}

    messages = []
    for message in draft.request.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            cleaned = [clean(block) for block in content]
            if any(new is not old for new, old in zip(cleaned, content, strict=True)):
                message = {**message, "content": cleaned}
        messages.append(message)
    draft.request = {**draft.request, "messages": messages}


def thinking_form(draft: Draft, args: Args) -> None:
    """The other form of thinking: `budget` or `adaptive` (R15). The model's facts are set right too, or the encoder
    would turn it back."""
    draft.ctx = replace(draft.ctx, facts=replace(draft.ctx.facts, thinking=args[0]))
    thinking = draft.request.get("thinking")
    form = thinking.get("type") if isinstance(thinking, dict) else None
    if form not in ("enabled", "adaptive") or form == {"budget": "enabled"}.get(args[0], "adaptive"):
        return
    effort = effort_of(draft.request) or "high"
    shown = {k: v for k, v in (thinking or {}).items() if k == "display"}
    if args[0] == "adaptive":
        config = draft.request.get("output_config")
        config = {**(config if isinstance(config, dict) else {}), "effort": effort}
        draft.request = {
            **draft.request,
            "thinking": {"type": "adaptive", **shown},
            "output_config": config,
        }
    else:
        limit = draft.request.get("max_tokens")
        budget = BUDGETS.get(effort, BUDGETS["high"])
        if isinstance(limit, int):
            budget = min(budget, limit - 1)
        made = {"type": "enabled", "budget_tokens": budget, **shown}
        draft.request = {**draft.request, "thinking": made if budget >= _SMALLEST_BUDGET else _OFF}
        draft.drop("output_config", "effort")
    draft.lose("thinking", "approximated")


_OFF = {"type": "disabled"}


def thinking_off(draft: Draft, args: Args) -> None:
    """This request without thinking: its history or its choice of a tool does not allow any (R12)."""
    thinking = draft.request.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") != "disabled":
        draft.request = {**draft.request, "thinking": _OFF}
        draft.lose("thinking")


def no_thinking(draft: Draft, args: Args) -> None:
    """A model that does not think: neither the wish nor its effort."""
    draft.ctx = replace(draft.ctx, facts=replace(draft.ctx.facts, thinking="", efforts=()))
    draft.quirk("no_effort")
    on = draft.request.get("thinking")
    if draft.drop("thinking") and isinstance(on, dict) and on.get("type") != "disabled":
        draft.lose("thinking")
    if draft.drop("output_config", "effort"):
        draft.lose("output_config.effort")
    draft.drop("messages", "*", "output_config", "effort")


# ---- system text


def system_inline(draft: Draft, args: Args) -> None:
    """System messages inside the conversation become reminders in the user turn beside them (R20)."""
    out: list[Any] = []
    waiting: list[Block] = []
    seen = False
    for message in _listed(draft.request.get("messages")):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system":
            seen = True
            note = [_reminded(b) for b in _blocks(message.get("content"))]
            if out and _is_user(out[-1]):
                out[-1] = {**out[-1], "content": [*_blocks(out[-1].get("content")), *note]}
            else:
                waiting += note
            continue
        if waiting:
            if role == "user":
                content = _blocks(message.get("content"))
                first = next(
                    (n for n, b in enumerate(content) if b.get("type") != "tool_result"), len(content)
                )
                message = {**message, "content": [*content[:first], *waiting, *content[first:]]}
            else:
                out.append({"role": "user", "content": waiting})
            waiting = []
        out.append(message)
    if waiting:
        out.append({"role": "user", "content": waiting})
    if seen:
        draft.request = {**draft.request, "messages": out}
        draft.lose("messages.role.system", "approximated")


def no_system(draft: Draft, args: Args) -> None:
    """The system prompt stands at the head of the first user turn: this model takes none of its own."""
    system_inline(draft, ())
    notes = [_reminded(b) for b in _blocks(draft.request.get("system"))]
    draft.drop("system")
    if not notes:
        return
    messages = list(_listed(draft.request.get("messages")))
    if messages and _is_user(messages[0]):
        messages[0] = {**messages[0], "content": [*notes, *_blocks(messages[0].get("content"))]}
    else:
        messages.insert(0, {"role": "user", "content": notes})
    draft.request = {**draft.request, "messages": messages}
    draft.lose("system", "approximated")


def _is_user(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _reminded(block: Block) -> Block:
    if block.get("type") != "text":
        return block
    return {**block, "text": reminder(str(block.get("text") or ""))}


def go_on(draft: Draft, args: Args) -> None:
    """A conversation that ends with the assistant's words gets a user turn that asks to go on."""
    messages = _listed(draft.request.get("messages"))
    if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        draft.request = {**draft.request, "messages": [*messages, {"role": "user", "content": _GO_ON}]}
        draft.lose("messages.prefill", "approximated")


# ---- what the model cannot take


def without_media(draft: Draft, args: Args) -> None:
    """`args`: "image" or "document", and "results" where only tool results must be without. A marker stands instead:
    the model and the user see that something is missing."""
    kind, *where = args
    marker = f"[{kind} omitted: model {draft.ctx.model} {_TAKES_NO[kind]}]"

    def change(block: Any) -> Any:
        if not isinstance(block, dict) or block.get("type") != kind:
            return block
        kept = {k: v for k, v in block.items() if k == "cache_control"}
        draft.lose(kind)
        return {"type": "text", "text": marker, **kept}

    draft.edit(("messages", "*", "content", "*", "content", "*"), change)
    if not where:
        draft.edit(("messages", "*", "content", "*"), change)


_TAKES_NO = {"image": "is text-only", "document": "takes no documents"}


def blocks_as_text(draft: Draft, args: Args) -> None:
    """Blocks of a type that the provider does not know become text, as any foreign dialect shows them (R21, R25)."""

    def change(block: Any) -> Any:
        if not isinstance(block, dict) or block.get("type") != args[0]:
            return block
        draft.lose(f"messages.{args[0]}", "approximated")
        return {"type": "text", "text": block_text(block) or f"[{args[0]}]"}

    draft.edit(("messages", "*", "content", "*", "content", "*"), change)
    draft.edit(("messages", "*", "content", "*"), change)


def without_tool(draft: Draft, args: Args) -> None:
    """A server tool that the provider has not; a choice of it goes with it (R22)."""
    gone = {
        str(t.get("name"))
        for t in _listed(draft.request.get("tools"))
        if isinstance(t, dict) and t.get("type") == args[0]
    }
    if not gone:
        return
    draft.edit(("tools", "*"), lambda t: GONE if isinstance(t, dict) and t.get("type") == args[0] else t)
    draft.lose(f"tools.{args[0]}")
    choice = draft.request.get("tool_choice")
    named = isinstance(choice, dict) and choice.get("name") in gone
    if (named or not draft.request.get("tools")) and draft.drop("tool_choice"):
        draft.lose("tool_choice")
    if not draft.request.get("tools"):
        draft.drop("tools")


def cap(draft: Draft, args: Args) -> None:
    """max_tokens no higher than `args[0]`, and a thinking budget below that (R23)."""
    most = int(args[0])
    facts = draft.ctx.facts
    lower = min(most, facts.output_cap or most)
    draft.ctx = replace(draft.ctx, facts=replace(facts, output_cap=lower))
    asked = draft.request.get("max_tokens")
    if isinstance(asked, int) and asked > most:
        draft.request = {**draft.request, "max_tokens": most}
        draft.lose("max_tokens", "approximated")
    thinking = draft.request.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(thinking, dict) and isinstance(budget, int) and budget >= most:
        fits = most > _SMALLEST_BUDGET
        draft.request = {
            **draft.request,
            "thinking": {**thinking, "budget_tokens": most - 1} if fits else _OFF,
        }
        draft.lose("thinking", "approximated")


# ---- fields


def beta(draft: Draft, args: Args) -> None:
    """Betas (bare names; "*" = all sent) together with the fields they brought (R19)."""
    header, removed = betas.without(draft.ctx.client_headers.get("anthropic-beta", ""), args)
    if removed:
        others = {k: v for k, v in draft.ctx.client_headers.items() if k != "anthropic-beta"}
        if header:
            others["anthropic-beta"] = header
        draft.ctx = replace(draft.ctx, client_headers=others)
        for name in removed:
            draft.lose(f"beta.{betas.bare(name)}")
    names = {*map(betas.bare, removed), *args} - {"*"}
    for field in dict.fromkeys(f for name in sorted(names) for f in betas.FIELDS.get(name, ())):
        _FIELDS.get(field, _field)(draft, field)


def _field(draft: Draft, field: str) -> None:
    if field.startswith("cache_control."):
        cache(draft, (field.partition(".")[2],))
    elif draft.drop(*field.split(".")):
        draft.lose(field.replace("*.", ""))


def format_as_text(draft: Draft, args: Args) -> None:
    """A structured answer is asked for in words, where the provider has no means of its own."""
    config = draft.request.get("output_config")
    form = (config.get("format") if isinstance(config, dict) else None) or draft.request.get("output_format")
    gone = [draft.drop("output_config", "format"), draft.drop("output_format")]
    if not any(gone):
        return
    draft.lose("output_config.format", "approximated")
    schema = form.get("schema") if isinstance(form, dict) else None
    if isinstance(schema, dict):
        told = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        note: Block = {"type": "text", "text": f"{_ONLY_JSON}\n{told}"}
        draft.request = {**draft.request, "system": [*_blocks(draft.request.get("system")), note]}


_FIELDS: dict[str, Callable[[Draft, str], None]] = {
    "role.system": lambda draft, _: system_inline(draft, ()),
    "output_config.format": lambda draft, _: format_as_text(draft, ()),
    "output_format": lambda draft, _: format_as_text(draft, ()),
}


def cache(draft: Draft, args: Args) -> None:
    """cache_control less what the provider refuses: "" all of it, "ttl" or "scope" that member, "limit" all but the last
    four. Only at the API's own positions, never inside a tool's input or a schema (R18)."""
    what = args[0]
    before = draft.request
    if what == "limit":
        _limit_marks(draft)
    elif what:
        draft.request = everywhere(before, what, lambda _: GONE, under="cache_control")
    else:
        draft.request = everywhere(before, "cache_control", lambda _: GONE)
    if draft.request is not before:
        draft.lose(f"cache_control.{what}" if what in ("ttl", "scope") else "cache_control")


def _limit_marks(draft: Draft) -> None:
    """The latest marks cache the most; those of the conversation's beginning go first, then the system's."""
    left = sum(1 for _, holder in positions(draft.request) if "cache_control" in holder) - _MOST_MARKS

    def change(holder: Any) -> Any:
        nonlocal left
        if left <= 0 or not isinstance(holder, dict) or "cache_control" not in holder:
            return holder
        left -= 1
        return {k: v for k, v in holder.items() if k != "cache_control"}

    for path in (
        ("messages", "*", "content", "*"),
        ("messages", "*", "content", "*", "content", "*"),
        ("system", "*"),
    ):
        draft.edit(path, change)
