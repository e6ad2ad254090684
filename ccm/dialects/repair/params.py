"""Which parameter an error complains about: the phrasings of the providers, and what to do about each parameter.

A complaint counts only when the named thing stands in what was sent and a request can do without it, so the patterns may
be generous. A complaint about a parameter's *value* is no such complaint: what the caller chose stays the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ccm.dialects.repair import betas
from ccm.dialects.repair.model import Case, Repair
from ccm.dialects.repair.on_body import STRICT, THINKING
from ccm.dialects.repair.paths import Path, droppable, find, value_at
from ccm.late import regex

_Q = "[`'\"\u2018\u2019\u201c\u201d]?"
_NAME = rf"{_Q}([A-Za-z_][\w.\[\]]{{0,120}}){_Q}"
_LIST = rf"((?:{_Q}[A-Za-z_][\w.\[\]]{{0,120}}{_Q}(?:\s*,\s*|\s+and\s+)?){{1,8}})"
_NOUN = r"(?:request\s+|body\s+|input\s+|model\s+|keyword\s+|top-level\s+)?(?:parameter|argument|field|key|property|properties|input|option|param|name)"
# Each captures one name or a list of names.
_COMPLAINTS: tuple[re.Pattern[str], ...] = tuple(
    regex(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:unsupported|unknown|unrecognized|unrecognised|unexpected|disallowed|forbidden|not supported)\s+{_NOUN}(?:s|\(s\))?"
        rf"(?:\s+(?:supplied|found|provided|in object|in request))?\s*[:=]?\s*{_LIST}",
        rf"{_NAME}\s*:\s*(?:extra inputs are not permitted|extra fields? not permitted|unknown (?:field|parameter)|unexpected"
        r"|unrecognized|field not permitted|unsupported)",
        rf"{_NAME}\s+(?:(?:is|are|was)\s+(?:not|no longer|un)\s*(?:supported|allowed|permitted|available|enabled|accepted|recogni[sz]ed)"
        r"|(?:is|are) deprecated|is unsupported|must be unset|(?:must|may|should|can)(?: ?not| only) be (?:set|specified|used))",
        rf"{_NAME}\s+(?:{_NOUN}s?|option|feature)\s+(?:is|are|was)\s+(?:not|no longer|un)\s*"
        r"(?:supported|allowed|permitted|available|enabled|accepted)",
        rf"(?:does not|doesn['\u2019]t|do not|don['\u2019]t|cannot|not)\s+(?:support|accept|allow|take|permit)\s+(?:the\s+)?(?:{_NOUN}s?\s+)?{_LIST}",
        rf"additional properties are not allowed \({_LIST}\s+(?:was|were) unexpected",
        rf"argument not supported on this model:\s*{_NAME}",
        rf"unsupported value:\s*{_NAME} does not support .{{1,60}} with this model",
        rf"property\s+{_NAME} is unsupported",
        r"\binvalid (temperature|top_p|top_k)\b.{0,20}only .{1,12} is allowed",
        rf"{_NAME}\s+is (?:not compatible|incompatible)",
        rf"(?:please )?(?:remove|omit|unset|do not (?:set|send|pass)) (?:the )?{_NAME}(?: and try again|\s+(?:field|parameter)| from)",
    )
)
_GOOGLE = regex(r"Unknown name \\?\"([\w$@.-]{1,80})\\?\"(?: at '([^']{0,200})')?")
_GROQ = regex(r"'?((?:messages|tools)\.\d+[\w.]*)'?\s*:\s*property\s+'?(\w+)'? is unsupported")
_CODES = frozenset(
    (
        "unsupported_parameter",
        "unknown_parameter",
        "unsupported_value",
        "extra_forbidden",
        "unrecognized_keys",
    )
)
_WORD = regex(r"[A-Za-z_][\w.\[\]]*")
# What this request said, not what the model is: no lesson for the next one.
_THIS_TIME = regex(
    r"when|while|together|both|combin|compatible|in thinking mode|unless|must be unset", re.IGNORECASE
)


def names(case: Case) -> list[str]:
    """The parameters complained about, as the error writes them; most telling first."""
    found: list[str] = []
    if case.param and case.code in _CODES:
        found.append(case.param)
    for match in _GOOGLE.finditer(case.text):
        found.append(f"{match[2]}.{match[1]}" if match[2] else match[1])
    for match in _GROQ.finditer(case.text):
        found.append(f"{match[1]}.{match[2]}")
    for pattern in _COMPLAINTS:
        for match in pattern.finditer(case.text):
            found += _WORD.findall(match[1])
    if case.param and not found and re.search(r"not supported|unsupported", case.text, re.IGNORECASE):
        found.append(case.param)
    return list(dict.fromkeys(found))


def repair(case: Case) -> Repair | None:
    """The repair for a complaint about parameters, or None where none of them was sent or none can be spared."""
    lasting = not _THIS_TIME.search(case.text)
    drops: list[str] = []
    for name in names(case):
        if _is_schema(name):
            return _schema_form(case)
        path = find(case.body, name)
        if path is None:
            continue
        special = _SPECIAL.get(path[-1])
        made = special(case, path) if special is not None else None
        if made is not None:
            return Repair(made.name, made.args, lasting)
        brought = betas.of_field(path) if case.dialect in _CLAUDE else []
        if brought:
            return Repair("beta", tuple(brought), lasting)
        if _spared(case, path):
            drops.append(".".join(path))
    return Repair("drop", tuple(dict.fromkeys(drops)), lasting) if drops else None


_CLAUDE = ("anthropic", "bedrock")


def _spared(case: Case, path: Path) -> bool:
    if not droppable(path, value_at(case.body, path)):
        return False
    # Anthropic's API requires max_tokens: a complaint about it is about its value
    return not (case.dialect in _CLAUDE and path == ("max_tokens",))


def _is_schema(name: str) -> bool:
    """Whether a Google error speaks of the form of a tool's schema."""
    return bool(re.search(r"parametersJsonSchema|parameters_json_schema|\.parameters\b", name))


def _schema_form(case: Case) -> Repair | None:
    if case.dialect == "gemini" and case.sent(
        "tools", "*", "functionDeclarations", "*", "parametersJsonSchema"
    ):
        return Repair("quirk", ("openapi_schema",))
    return None


def _limit(case: Case, path: Path) -> Repair | None:
    """max_tokens and max_completion_tokens: two names of one thing."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}.get(path[-1])
    if case.dialect != "openai_chat" or len(path) != 1 or other is None:
        return None
    return Repair("rename", (path[-1], other))


def _stop(case: Case, path: Path) -> Repair | None:
    return Repair("quirk", ("no_stop",)) if case.dialect == "openai_chat" else None


def _format(case: Case, path: Path) -> Repair | None:
    form = value_at(case.body, path)
    kind = form.get("type") if isinstance(form, dict) else None
    if case.dialect == "openai_chat" and kind == "json_schema" and "json_schema" in case.text:
        return Repair("quirk", ("no_json_schema",))
    asked = value_at(case.request, ("output_config", "format")) or case.request.get("output_format")
    return Repair("format_as_text") if asked else None


def _text(case: Case, path: Path) -> Repair | None:
    return _format(case, (*path, "format")) if len(path) == 1 and case.dialect == "openai_responses" else None


def _cache(case: Case, path: Path) -> Repair | None:
    return Repair("cache", ("",))


def _cache_member(case: Case, path: Path) -> Repair | None:
    return Repair("cache", (path[-1],)) if path[-2:-1] == ("cache_control",) else None


def _thinking(case: Case, path: Path) -> Repair | None:
    return Repair("no_thinking") if path in THINKING and case.dialect in _CLAUDE else None


def _output_config(case: Case, path: Path) -> Repair | None:
    """All of it: the format is said in words, the effort and the rest go with their betas."""
    if path != ("output_config",):
        return None
    return Repair("beta", ("effort", "structured-outputs", "task-budgets"))


def _stream(case: Case, path: Path) -> Repair | None:
    return Repair("whole_answer") if path == ("stream",) and case.body.get("stream") is True else None


def _system(case: Case, path: Path) -> Repair | None:
    if path not in (("system",), ("systemInstruction",), ("instructions",)):
        return None
    return None if re.search(r"\brole", case.text, re.IGNORECASE) else Repair("no_system")


def _strict(case: Case, path: Path) -> Repair | None:
    """Absent where it is unknown; the Responses API takes absence for true."""
    if path in STRICT and case.dialect == "openai_responses":
        return Repair("unstrict")
    return None


_SPECIAL: Mapping[str, Callable[[Case, Path], Repair | None]] = {
    "max_tokens": _limit,
    "max_completion_tokens": _limit,
    "stop": _stop,
    "response_format": _format,
    "format": _format,
    "output_format": _format,
    "responseJsonSchema": _format,
    "responseMimeType": _format,
    "text": _text,
    "cache_control": _cache,
    "ttl": _cache_member,
    "scope": _cache_member,
    "thinking": _thinking,
    "output_config": _output_config,
    "stream": _stream,
    "system": _system,
    "systemInstruction": _system,
    "instructions": _system,
    "strict": _strict,
}
