"""Limits that errors name: the most output a model gives, the room a prompt leaves, budgets and levels of thinking."""

from __future__ import annotations

import re

from ccm.dialects.reasoning import LEVELS
from ccm.dialects.repair.model import Case, Repair
from ccm.dialects.repair.on_body import BUDGETS, EFFORTS
from ccm.dialects.repair.paths import value_at
from ccm.late import regex

_N = r"(\d[\d,_]{0,12})"
_OUT = r"(?:max(?:imum)?[_ ]?(?:completion[_ ]|output[_ ]|new[_ ])?tokens?|max_?Output_?Tokens|maxTokens|completion tokens|output tokens)"
# The last group is the most that may be asked for; "below" rows name the first number that is too much.
_CAPS: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (regex(pattern, re.IGNORECASE | re.DOTALL), less)
    for pattern, less in (
        # Anthropic, Bedrock with Claude
        (rf"max_tokens: \d+ > {_N}, which is the maximum", 0),
        # OpenAI
        (rf"{_OUT}.{{0,40}}too large.{{0,60}}supports (?:at most|up to) {_N}", 0),
        (rf"{_OUT}.{{0,40}}above maximum value.{{0,40}}<= {_N}", 0),
        # Bedrock Converse
        (rf"maximum tokens you requested exceeds the model limit of {_N}", 0),
        # DeepSeek, DashScope, Z.ai
        (rf"{_OUT}.{{0,60}}(?:range|between|in|请输入|范围).{{0,30}}[\[(]\s*[01]\s*,\s*{_N}\s*\]", 0),
        (rf"range of {_OUT} should be \[\s*[01]\s*,\s*{_N}\s*\]", 0),
        # Gemini: an exclusive end
        (rf"{_OUT} value of \d+ but the supported range is from \d+ \(inclusive\) to {_N} \(exclusive\)", 1),
        (rf"{_OUT} value of \d+ but the supported range is from \d+ \(inclusive\) to {_N} \(inclusive\)", 0),
        # Groq, Cohere, Mistral, vLLM, relays
        (rf"{_OUT}.{{0,30}}(?:must|should|has to|needs to|can) be (?:less than or equal to|at most|no more than|<=|smaller than or equal to)\s*`?{_N}", 0),
        (rf"{_OUT}.{{0,30}}(?:must|should|has to|needs to) be (?:less than|lower than|smaller than|<)\s*`?{_N}", 1),
        (rf"{_OUT}: input should be less than or equal to {_N}", 0),
        (rf"{_OUT}.{{0,40}}(?:must|should) be (?:in|within)? ?(?:the range |range )?(?:of |from |between )?[01] (?:to|and|-) {_N}", 0),
        (rf"{_OUT}.{{0,60}}(?:exceeds?|exceeding|greater than|larger than|higher than|over|above).{{0,60}}(?:maximum|limit|max|cap|most|allowed)[^\d]{{0,50}}{_N}", 0),
        (rf"(?:supports|allows|at most|maximum of|limit(?:ed)? (?:of|to|is)) (?:at most |up to |a maximum of )?{_N} (?:completion|output|generated) tokens", 0),
    )
)  # fmt: skip
# Prompt and answer together are too long for the window: (window, prompt, answer) by name.
_ROOMS: tuple[re.Pattern[str], ...] = tuple(
    regex(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # vLLM, OpenAI, DeepSeek
        r"maximum context length (?:is|of) (?P<window>\d[\d,]*) tokens.{0,60}requested (?:about )?\d[\d,]* tokens \((?P<prompt>\d[\d,]*)"
        r" (?:in|of|from) the (?:messages|prompt|input)[^)]{0,60}?, (?P<answer>\d[\d,]*) in the (?:completion|output)",
        # OpenRouter: "(12000 of text input, 8000 of tool input, 128000 in the output)"
        r"maximum context length is (?P<window>\d[\d,]*) tokens.{0,60}requested about (?P<total>\d[\d,]*) tokens \([^)]{0,160}?"
        r"(?P<answer>\d[\d,]*) (?:in|of) (?:the )?output\)",
        # vLLM since 0.9
        r"maximum context length is (?P<window>\d[\d,]*) tokens and your request has (?P<prompt>\d[\d,]*) input tokens",
        # SGLang
        r"maximum context length of (?P<window>\d[\d,]*) tokens.{0,80}?: (?P<prompt>\d[\d,]*) tokens from the input messages and"
        r" (?P<answer>\d[\d,]*) tokens for the completion",
        # TGI and its heirs
        r"tokens \+ `?max_new_tokens`? must be <= (?P<window>\d[\d,]*).{0,20}Given: (?P<prompt>\d[\d,]*) `?inputs`? tokens and"
        r" (?P<answer>\d[\d,]*)",
        r"input length and `?max_tokens`? exceed context limit: (?P<prompt>\d[\d,]*) \+ (?P<answer>\d[\d,]*) > (?P<window>\d[\d,]*)",
        # LM Studio, SiliconFlow, relays
        r"(?P<prompt>\d[\d,]*) (?:input|prompt) tokens?.{0,40}(?P<answer>\d[\d,]*) (?:output|completion|max) tokens?.{0,60}"
        r"(?:exceeds?|>).{0,60}?(?P<window>\d[\d,]*)",
    )
)
_LEAST_ROOM = 1_024  # with less than that, compacting the conversation helps the client more
_LEAST_CAP = 16
_LIMITS = (
    ("max_tokens",),
    ("max_completion_tokens",),
    ("max_output_tokens",),
    ("generationConfig", "maxOutputTokens"),
    ("inferenceConfig", "maxTokens"),
)


def _asked(case: Case) -> int:
    """The output limit as sent; 0 where there is none."""
    return next((v for path in _LIMITS if isinstance(v := value_at(case.body, path), int)), 0)


def _int(digits: str) -> int:
    return int(digits.replace(",", "").replace("_", "")[:12] or 0)


def cap(case: Case) -> Repair | None:
    """The model's largest output, where it is named and lower than what was asked for."""
    asked = _asked(case)
    for pattern, less in _CAPS:
        match = pattern.search(case.text)
        if match is None:
            continue
        most = _int(match[match.lastindex or 1]) - less
        if _LEAST_CAP <= most < asked:
            return Repair("cap", (str(most),))
    return None


def room(case: Case) -> Repair | None:
    """What the window leaves beside this prompt. Claude Code repairs Anthropic's own wording by itself, exactly."""
    if case.dialect == "anthropic":
        return None
    asked = _asked(case)
    for pattern in _ROOMS:
        match = pattern.search(case.text)
        if match is None:
            continue
        found = {name: _int(digits) for name, digits in match.groupdict().items() if digits}
        answer = found.get("answer", asked)
        prompt = found.get("prompt", found.get("total", 0) - answer)
        # a count that calls itself "about" may be short of the truth by a little
        spare = max(16, prompt // 50) if "about" in case.text else 16
        left = found["window"] - prompt - spare
        if prompt > 0 and _LEAST_ROOM <= left < asked:
            return Repair("cap", (str(left),), lasting=False)
    return None


_LEVEL = regex(rf"(?<![\w-])({'|'.join(sorted(LEVELS, key=len, reverse=True))})(?![\w-])", re.IGNORECASE)
_LISTS_LEVELS = regex(
    r"(?:supported|allowed|valid|accepted|available|possible|permitted) (?:values|levels|options|efforts?)|must be (?:one of|either)"
    r"|should be|expected(?: one of)?|can (?:only )?be|only supports?|is limited to|one of|choose (?:from|between)",
    re.IGNORECASE,
)
_SPEAKS_OF_EFFORT = regex(r"effort|thinking.?level|reasoning", re.IGNORECASE)


def effort(case: Case) -> Repair | None:
    """The efforts that the model has, where the error lists them and the one sent is not among them."""
    if not _SPEAKS_OF_EFFORT.search(f"{case.text} {case.param}"):
        return None
    mark = _LISTS_LEVELS.search(case.text)
    if mark is None:
        return None
    levels = tuple(dict.fromkeys(word.lower() for word in _LEVEL.findall(case.text[mark.end() :])))
    sent = [v.lower() for path in EFFORTS if isinstance(v := value_at(case.body, path), str)]
    if not levels or not sent or all(word in levels for word in sent):
        return None
    return Repair("effort", tuple(sorted(levels, key=LEVELS.index)))


_BUDGET = regex(r"thinking[ _.]?(?:config[ _.])?budget|budget[ _]tokens|thinking budget", re.IGNORECASE)
_BUDGET_RANGE = regex(
    rf"(?:between|from) {_N} (?:and|to) {_N}|\[\s*{_N}\s*,\s*{_N}\s*\]|greater than or equal to {_N}|at least {_N}"
    rf"|less than or equal to {_N}|at most {_N}",
    re.IGNORECASE,
)


def budget(case: Case) -> Repair | None:
    """A thinking budget out of its range, or not below max_tokens."""
    if not _BUDGET.search(case.text) or not any(isinstance(value_at(case.body, p), int) for p in BUDGETS):
        return None
    if re.search(r"max_tokens`? must be greater than|less than `?max_tokens", case.text):
        return Repair("budget", ("", ""), lasting=False)
    if re.search(
        r"only works in thinking mode|budget (?:of )?0 is (?:invalid|not)", case.text, re.IGNORECASE
    ):
        return Repair("drop", ("generationConfig.thinkingConfig.thinkingBudget",))
    match = _BUDGET_RANGE.search(case.text)
    if match is None:
        return None
    a, b, c, d, least, least2, most, most2 = (str(_int(g)) if g else "" for g in match.groups())
    return Repair("budget", (a or c or least or least2, b or d or most or most2))
