"""The table: what an error says -> the repair (DIALECTS 7, 8; CLIENT 5). First match wins; special rows before general.

A row counts only where the refused thing was sent. `once` rows are about this conversation's state and teach nothing
about the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ccm.dialects.repair import betas, limits, params
from ccm.dialects.repair.model import Case, Repair
from ccm.dialects.repair.on_body import STRICT, THINKING
from ccm.dialects.repair.paths import Path, value_at
from ccm.late import regex

Has = Callable[[Case], bool]
Make = Callable[[Case, "re.Match[str]"], Repair | None]

_BAD = frozenset((400, 422))
_WIDE = frozenset((400, 404, 415, 422, 500))  # OpenRouter says 404, llama.cpp 500 for an input it cannot take
CLAUDE = frozenset(("anthropic", "bedrock"))
CHAT = frozenset(("openai_chat",))
RESPONSES = frozenset(("openai_responses",))
OPENAI = CHAT | RESPONSES
GEMINI = frozenset(("gemini",))
ANY = CLAUDE | OPENAI | GEMINI


class Rule(NamedTuple):
    """`pattern` on the error's text; `make` gives the repair, or None where it does not apply after all."""

    pattern: re.Pattern[str]
    make: Make
    dialects: frozenset[str] = ANY
    statuses: frozenset[int] = _BAD


def _row(pattern: str, name: str, *args: str, has: Has, once: bool = False, dialects: frozenset[str] = ANY,
         statuses: frozenset[int] = _BAD) -> Rule:  # fmt: skip
    def make(case: Case, match: re.Match[str]) -> Repair | None:
        return Repair(name, args, lasting=not once) if has(case) else None

    return Rule(regex(pattern, re.IGNORECASE | re.DOTALL), make, dialects, statuses)


def _read(pattern: str, make: Make, dialects: frozenset[str] = ANY, statuses: frozenset[int] = _BAD) -> Rule:
    return Rule(regex(pattern, re.IGNORECASE | re.DOTALL), make, dialects, statuses)


# ---- what was sent


def _messages(case: Case) -> Iterator[dict[str, Any]]:
    messages = case.request.get("messages")
    return (m for m in (messages if isinstance(messages, list) else ()) if isinstance(m, dict))


def _blocks(case: Case, results: bool = False) -> Iterator[dict[str, Any]]:
    """The blocks of the conversation, those inside tool results too (`results`: only those)."""
    for message in _messages(case):
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if not isinstance(block, dict):
                continue
            if not results:
                yield block
            inner = block.get("content")
            yield from (b for b in (inner if isinstance(inner, list) else ()) if isinstance(b, dict))


def _tools(case: Case) -> Iterator[dict[str, Any]]:
    tools = case.request.get("tools")
    return (t for t in (tools if isinstance(tools, list) else ()) if isinstance(t, dict))


def _unsigned(case: Case) -> bool:
    return any(b.get("type") == "thinking" and not b.get("signature") for b in _blocks(case))


def _block(*types: str, results: bool = False) -> Has:
    return lambda case: any(b.get("type") in types for b in _blocks(case, results))


def _at(*path: str) -> Has:
    return lambda case: value_at(case.body, path) is not None


def _sent(*paths: Path) -> Has:
    return lambda case: any(value_at(case.body, path) is not None for path in paths)


def _thinks(form: str = "") -> Has:
    def has(case: Case) -> bool:
        thinking = case.request.get("thinking")
        kind = thinking.get("type") if isinstance(thinking, dict) else None
        return kind == form if form else kind in ("enabled", "adaptive")

    return has


def _role(*roles: str) -> Has:
    """A message (or item) of one of these roles in the body as sent."""

    def has(case: Case) -> bool:
        lists = (case.body.get(k) for k in ("messages", "input"))
        return any(
            isinstance(m, dict) and m.get("role") in roles
            for each in lists
            if isinstance(each, list)
            for m in each
        )

    return has


def _forced(case: Case) -> bool:
    choice = case.body.get("tool_choice")
    if isinstance(choice, dict):
        return choice.get("type") in ("any", "tool", "function")
    google = value_at(case.body, ("toolConfig", "functionCallingConfig", "mode"))
    converse = value_at(case.body, ("toolConfig", "toolChoice"))
    return choice in ("required", "any") or google == "ANY" or isinstance(converse, dict)


def _marks(member: str = "") -> Has:
    """cache_control (with this member) anywhere at an API position."""

    def has(case: Case) -> bool:
        lists = [case.request.get("system"), case.request.get("tools"), list(_blocks(case))]
        marks = [
            b.get("cache_control")
            for each in lists
            if isinstance(each, list)
            for b in each
            if isinstance(b, dict)
        ]
        return any(isinstance(m, dict) and (not member or member in m) for m in marks)

    return has


def _ends_with_assistant(case: Case) -> bool:
    last = list(_messages(case))[-1:]
    return bool(last) and last[0].get("role") == "assistant"


def _streams(case: Case) -> bool:
    return case.body.get("stream") is True or "stream" in case.encoded.path


def _calls(case: Case) -> bool:
    return any(b.get("type") == "tool_use" for b in _blocks(case))


def _has_tools(case: Case) -> bool:
    return bool(case.body.get("tools"))


def _formats(case: Case) -> bool:
    config = case.request.get("output_config")
    return bool((isinstance(config, dict) and config.get("format")) or case.request.get("output_format"))


# ---- rows that have to read


def _beta(case: Case, match: re.Match[str]) -> Repair | None:
    """The betas an error quotes, else all of them: "invalid beta flag" names none."""
    header = case.encoded.headers.get("anthropic-beta", "")
    inside = case.body.get("anthropic_beta")
    sent = betas.listed(header) + [
        b for b in (inside if isinstance(inside, list) else ()) if isinstance(b, str)
    ]
    if not sent:
        return None
    named = [betas.bare(b) for b in sent if betas.bare(b) in case.text.lower()]
    if not named and re.search(r"\w-20\d\d-\d\d-\d\d", case.text):
        return None  # it names others than were sent
    return Repair("beta", tuple(dict.fromkeys(named)) or ("*",))


_LONG_CONTEXT = ("context-1m",)


def _long_context(case: Case, match: re.Match[str]) -> Repair | None:
    named = "context-1m" in case.encoded.headers.get("anthropic-beta", "") + str(
        case.body.get("anthropic_beta")
    )
    return Repair("beta", _LONG_CONTEXT) if named else None


def _tag(case: Case, match: re.Match[str]) -> Repair | None:
    """Pydantic's `<place>: Input tag '<type>' found using 'type' does not match any of the expected tags`."""
    place, tag, expected = match[1], match[2], match[3]
    if "thinking" in place.split("."):
        form = {"adaptive": "budget", "enabled": "adaptive"}.get(tag, "")
        known = {"adaptive": "enabled", "enabled": "adaptive"}.get(tag, "") in expected
        return Repair("thinking_form", (form,)) if form and known and _thinks(tag)(case) else None
    if place.startswith("tools"):
        return _without_tool(case, tag)
    if tag in ("thinking", "redacted_thinking"):
        return Repair("strip_thinking") if _block(tag)(case) else None
    if tag in ("image", "document"):
        return Repair("without_media", (tag,)) if _block(tag)(case) else None
    if place.startswith("messages") and tag not in ("text", "tool_use", "tool_result") and _block(tag)(case):
        return Repair("blocks_as_text", (tag,))
    return None


def _without_tool(case: Case, kind: str) -> Repair | None:
    """Only a server tool, and only beside others: a request for nothing but a search is not served without it."""
    tools = list(_tools(case))
    hit = [t for t in tools if t.get("type") == kind and "input_schema" not in t]
    return Repair("without_tool", (kind,)) if hit and len(hit) < len(tools) else None


def _named_tool(case: Case, match: re.Match[str]) -> Repair | None:
    """A refusal that quotes the type of a server tool."""
    for tool in _tools(case):
        kind = tool.get("type")
        if isinstance(kind, str) and kind != "custom":
            words = (kind, re.sub(r"_\d{8}$", "", kind))
            if any(re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", case.text) for w in words):
                return _without_tool(case, kind)
    return None


def _choice(case: Case, match: re.Match[str]) -> Repair | None:
    """The provider's own word for "some tool" where the error lists it, else `auto`."""
    if not _forced(case):
        return None
    sent = case.body.get("tool_choice")
    listed = re.search(
        r"(?:one of|should be|expected|must be|supported values)[^.;\n]{0,200}", case.text, re.I | re.S
    )
    word = "auto"
    if case.dialect in OPENAI and listed:
        if isinstance(sent, str) and re.search(rf"\b{re.escape(sent)}\b", listed[0]):
            return None
        word = next(
            (w for w in ("required", "any") if w != sent and re.search(rf"\b{w}\b", listed[0])), "auto"
        )
    return Repair("tool_choice", (word,))


# Not "none at all" but "not this one": its kind, size or number. That is the caller's to put right.
_ABOUT_ONE = regex(
    r"\b(?:formats?|mime|media[ _]types?|larger|too (?:large|big|many)|sizes?|resolutions?|dimensions?|urls?|corrupt\w*|exceed\w*|at most"
    r"|maximum|more than|animated|s3\w*)\b",
    re.IGNORECASE,
)


def _media(kind: str) -> Make:
    def make(case: Case, match: re.Match[str]) -> Repair | None:
        if _ABOUT_ONE.search(case.text[max(0, match.start() - 80) : match.end() + 80]):
            return None
        if re.search(r"tool.?results?|function.?response|toolResult", case.text, re.IGNORECASE):
            return Repair("without_media", (kind, "results")) if _block(kind, results=True)(case) else None
        return Repair("without_media", (kind,)) if _block(kind)(case) else None

    return make


def _level(case: Case, match: re.Match[str]) -> Repair | None:
    path = ("generationConfig", "thinkingConfig", "thinkingLevel")
    return Repair("drop", (".".join(path),)) if value_at(case.body, path) else None


def _reader(read: Callable[[Case], Repair | None]) -> Make:
    return lambda case, match: read(case)


_NOT = r"(?:not|n't|n\u2019t|un)[ -]?(?:supported|support|allowed|accept(?:ed)?|permitted|available|enabled)"
_SAYS_NO_IMAGES = (
    r"(?:(?:does not|doesn['\u2019]t|do not|don['\u2019]t) (?:support|accept|take|process|handle|read)|(?:cannot|not) support)[^.]{0,40}\b(?:images?|image_url|vision|multi-?modal)"
    r"|\b(?:images?|image_url|vision|multimodal)\b[^.]{0,60}(?:is|are|was) (?:not|un|only) ?(?:supported|available|allowed|accepted|enabled)"
    r"|(?:no endpoints? (?:found )?that )?support(?:s)? image input|not a (?:multi-?modal|vision) model|unknown variant `?image_url"
    r"|missing data required for image input|text-only model|only supports? text"
)

RULES: tuple[Rule, ...] = (
    # -- what a look-alike left in the history
    _row(r"tool_use(?:\.id|_id)\b[^.]{0,60}(?:match|pattern)", "clean_ids", has=_block("tool_use", "tool_result"), dialects=CLAUDE),
    # -- opaque state of another issuer (R11, R12, R14)
    _row(r"thinking\.signature: field required", "strip_unsigned", has=_unsigned, dialects=CLAUDE),
    _row(r"invalid `?signature`? in `?thinking`?|thinking\.signature|invalid `?data`? in `?redacted_thinking|invalid thinking signature"
         r"|thinking`? or `?redacted_thinking`? blocks? [^.]{0,60}cannot be modified|signature[^.]{0,40}thinking[^.]{0,40}invalid",
         "strip_thinking", has=_block("thinking", "redacted_thinking"), once=True, dialects=CLAUDE),
    _row(r"expected `?thinking`? or `?redacted_thinking`?,? but found", "thinking_off", has=_thinks(), once=True, dialects=CLAUDE),
    _row(r"thinking (?:may|can)(?: ?not) be (?:enabled|used) when tool_choice forces|thinking[^.]{0,40}tool_choice[^.]{0,40}forces",
         "thinking_off", has=_thinks(), once=True, dialects=CLAUDE),
    _row(r"encrypted[ _]content[^.]{0,60}(?:could not be|cannot be|can't be) (?:verified|decrypted|parsed)|invalid_encrypted_content"
         r"|of type 'reasoning' was provided without its required following item|item with id 'rs_[^']*' not found",
         "strip_thinking", has=_block("thinking"), once=True, dialects=RESPONSES),
    _row(r"encrypted content is not supported", "without_include", "reasoning.encrypted_content", has=_at("include"), dialects=RESPONSES),
    _row(r"missing (?:a )?`?thought_?signature", "sign_calls", has=_calls, dialects=GEMINI),
    _row(r"(?:invalid|corrupted|malformed|unable to (?:verify|decode)|failed to (?:verify|decode))[^.]{0,30}thought[ _]?signature"
         r"|thought[ _]?signature[^.]{0,30}(?:is )?(?:not valid|invalid|corrupted)",
         "sign_calls", "anew", has=_calls, once=True, dialects=GEMINI),
    # -- reasoning of earlier turns (R13)
    _row(r"reasoning_content.{0,80}(?:must be passed back|is missing|required|in the assistant message)|missing `?reasoning_content",
         "fill_reasoning", has=_role("assistant"), dialects=CHAT),
    _row(r"(?:remove|drop|without) the `?reasoning_content", "drop", "messages.*.reasoning_content",
         has=_at("messages", "*", "reasoning_content"), dialects=CHAT),
    # -- forms of thinking (R15)
    _read(r"([\w.\[\]]{1,120}): input tag '([\w-]{1,60})' found using '?type'?[^:]{0,40}expected tags:(.{0,400})", _tag),
    _row(r"adaptive`?[\"']? ?(?:thinking)? ?(?:is|are) not supported|adaptive thinking is not|thinking\.type:? (?:input )?should be '?enabled",
         "thinking_form", "budget", has=_thinks("adaptive"), dialects=CLAUDE),
    _row(r"thinking\.type\.enabled[^.]{0,10} is not supported|use [`\"']?thinking\.type\.adaptive|(?:enabled|manual|budget)[`\"']? thinking is not supported"
         r"|budget_tokens[`\"']? (?:is|are) (?:not supported|no longer|deprecated)",
         "thinking_form", "adaptive", has=_thinks("enabled"), dialects=CLAUDE),
    _row(r"thinking(?:\.\w+)?\.display: ", "beta", "thinking-display-updates", has=_at("thinking", "display"), dialects=CLAUDE),
    _read(r"support|should be|must be|one of|expected", _reader(limits.effort)),
    _row(r"function tools with `?reasoning_effort`? are not supported|set `?reasoning_effort`? to '?none", "set_effort",
         "reasoning_effort", "none", has=_has_tools, dialects=CHAT),
    _row(r"not support the `?effort`? parameter", "beta", "effort", has=_at("output_config", "effort"), dialects=CLAUDE),
    _read(r"budget", _reader(limits.budget)),
    _read(rf"thinking.?level[^.]{{0,60}}{_NOT}|{_NOT}[^.]{{0,30}}thinking.?level", _level, GEMINI),
    _row(rf"verified to generate reasoning summar|reasoning\.summary[^.]{{0,60}}{_NOT}", "drop", "reasoning.summary",
         has=_at("reasoning", "summary"), dialects=RESPONSES),
    _row(rf"(?:does not|doesn['\u2019]t) support (?:extended |adaptive )?(?:thinking|reasoning)\b(?!\.)|(?<!adaptive )(?<!enabled )(?<!manual )(?<!budget )\bthinking (?:is|mode is) {_NOT}(?! (?:when|while|with tool))"
         r"|thinking is not enabled for this model|include_thoughts is only enabled",
         "no_thinking", has=_sent(*THINKING)),
    # -- betas (R19)
    _read(r"long context beta|context-1m[^.]{0,60}not", _long_context, CLAUDE),
    _read(r"anthropic[-_]beta|beta flag|beta header|unsupported beta|unknown beta|invalid beta", _beta, CLAUDE),
    # -- cache_control (R18)
    _row(r"maximum of \d+ blocks with cache_control", "cache", "limit", has=_marks(), once=True, dialects=CLAUDE),
    _row(r"cache_control(?:\.\w+)?\.ttl|ttl[^.]{0,60}(?:must not come after|not supported)|extended-cache-ttl", "cache", "ttl",
         has=_marks("ttl"), dialects=CLAUDE),
    _row(r"cache_control(?:\.\w+)?\.scope", "cache", "scope", has=_marks("scope"), dialects=CLAUDE),
    _row(rf"(?<!input\.)cache_?control[^.]{{0,60}}{_NOT}|prompt caching[^.]{{0,40}}{_NOT}|did not allow prompt caching|cache_?point[^.]{{0,60}}{_NOT}",
         "cache", "", has=_marks()),
    # -- system text (R20)
    _row(r"(?:unexpected|unsupported|invalid|unknown) (?:message )?role:? [`\"']?system|role [`\"']?system[`\"']? (?:is )?not (?:supported|allowed)"
         r"|messages\.\d+\.role: input should be|role must be (?:one of )?(?:\[?[`\"']?(?:user|assistant)[`\"']?(?:,| or| and)? ?){2}",
         "system_inline", has=_role("system"), dialects=CLAUDE),
    _row(r"system message[s]? must be (?:at|the) (?:the )?(?:beginning|first)|unexpected role 'system' after|only the first message can (?:be|have)[^.]{0,20}system"
         r"|system[^.]{0,30}must be the first message", "quirk", "fold_system", has=_role("system", "developer"), dialects=CHAT),
    _row(r"developer[`\"']? (?:is not one of|role)|unknown (?:variant|role):? [`\"']?developer|(?:role|value)s?:? [`\"']?developer|does not support 'developer'"
         r"|unexpected role [`\"']?developer", "developer_as_system", has=_role("developer"), dialects=OPENAI),
    _row(r"does not support 'system' with this model|[`\"']?system[`\"']? role (?:is )?not supported|only user(?:, | and )assistant[^.]{0,20} roles are supported"
         r"|(?:unexpected|unsupported|invalid|unknown) role:? [`\"']?system|unknown variant `system`", "quirk", "no_system_role",
         has=_role("system", "developer"), dialects=CHAT),
    _row(rf"(?:developer|system) instructions? (?:is|are) {_NOT}|(?:does not|doesn['\u2019]t) support (?:the )?system (?:message|prompt|instruction|field)",
         "no_system", has=lambda case: bool(case.request.get("system"))),
    # -- the order and the ids of messages
    _row(r"roles must alternate", "quirk", "alternate", "fold_system", has=_at("messages"), dialects=CHAT),
    _row(r"unexpected role 'user' after role 'tool'", "quirk", "bridge_after_tool", has=_role("tool"), dialects=CHAT),
    _row(r"tool call id[^.]{0,160}length of 9", "quirk", "nine_char_ids", has=_role("tool"), dialects=CHAT),
    _row(r"(?:tool_calls?|tool_call_id|call_id).{0,60}too long.{0,10}expected a string with maximum length 40",
         "quirk", "short_ids", has=_role("tool"), dialects=CHAT),
    _row(r"not support assistant message prefill|conversation must end with a user message|(?:last|final) message (?:must|should|has to) (?:be|have)[^.]{0,30}user"
         r"|expected last role user|cannot (?:end|finish) with an? assistant", "go_on", has=_ends_with_assistant),
    # -- what models cannot look at, use or do
    _read(_SAYS_NO_IMAGES, _media("image"), statuses=_WIDE),
    _read(r"(?:does not|doesn['\u2019]t|do not|cannot|not) support[^.]{0,30}\b(?:documents?|pdfs?|file input)|\b(?:documents?|pdfs?|file input)[^.]{0,30}(?:is|are) not supported"
          r"|no endpoints? found that support file", _media("document"), statuses=_WIDE),
    _read(rf"{_NOT}|unknown|invalid|not a valid|no such|does not match|unrecognized", _named_tool),
    _row(r"tool use with function calling is unsupported|search[^.]{0,40}function[^.]{0,40}(?:unsupported|not supported)", "without_search",
         has=_at("tools", "*", "googleSearch"), dialects=GEMINI),
    _read(rf"tool_?choice.{{0,200}}(?:{_NOT}|incompatible|unsupported|should be|must be|one of|unavailable|invalid)"
          rf"|(?:{_NOT}|unsupported|invalid).{{0,60}}tool_?choice|function_?calling_?config[^.]{{0,100}}{_NOT}|mode[^.]{{0,12}}any[^.]{{0,60}}{_NOT}"
          r"|forced function calling", _choice),
    _row(r"tool use in streaming mode|verified to stream this model|stream(?:ing)? (?:mode )?is not supported|not support (?:streaming|stream mode)",
         "whole_answer", has=_streams),
    _row(r"stream must be set to true|only supports? stream(?:ing)? mode|must have stream ?= ?true|streaming is (?:strongly )?(?:required|recommended)",
         "streamed_answer", has=lambda case: not _streams(case)),
    # -- structured answers
    _row(r"json_schema[^.]{0,80}(?:not supported|unavailable|unsupported|not available|invalid)|(?:not|n't) support[^.]{0,60}(?:json_schema|response[ _]format|structured output)"
         r"|response_format[^.]{0,60}(?:unavailable|not available)", "quirk", "no_json_schema",
         has=lambda case: value_at(case.body, ("response_format", "type")) == "json_schema", dialects=CHAT),
    _row(r"json_schema[^.]{0,80}not supported|structured outputs? (?:is|are) not|(?:not|n't) support[^.]{0,40}structured output|response mime ?type[^.]{0,60}unsupported"
         r"|output_config\.format", "format_as_text", has=_formats),
    _row(r"invalid schema for (?:function|response_format|text\.format)|is required to be supplied and to be|strict[^.]{0,60}not (?:supported|permitted|allowed)",
         "unstrict", has=lambda case: any(value_at(case.body, p) is True for p in STRICT), dialects=OPENAI),
    _row(r"(?:schema|constraint)[^.]{0,80}(?:too many states|too complex|any_?of|didn't specify the schema type|reference to undefined)", "quirk", "openapi_schema",
         has=_at("tools", "*", "functionDeclarations", "*", "parametersJsonSchema"), dialects=GEMINI),
    # -- sampling
    _row(r"temperature`? and `?top_p`? cannot both", "drop", "top_p", has=_at("top_p")),
    # -- limits (R23)
    _read(r"token", _reader(limits.room)),
    _read(r"token", _reader(limits.cap)),
    # -- any other parameter (R24)
    _read(r"", _reader(params.repair)),
)  # fmt: skip
