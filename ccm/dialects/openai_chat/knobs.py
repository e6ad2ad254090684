"""How each provider is told to think hard, little or not at all (DIALECTS 7).

A knob gets the client's effort ("off", low ... max) and gives the body fields for it. Where nothing was said nothing is
sent: the provider's own default holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Context, Request
from ccm.dialects.reasoning import budget_of, nearest
from ccm.late import regex

Knob = Callable[[str, Request, Context], dict[str, Any]]
_THREE = ("low", "medium", "high")


def _none(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    return {}


def _facts(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    """reasoning_effort, only for models known to take it: an unknown server may answer 400."""
    if ctx.facts.thinking != "effort":
        return {}
    levels = ctx.facts.efforts or _THREE
    if effort == "off":
        return {"reasoning_effort": "none"} if "none" in levels else {}
    return {"reasoning_effort": nearest(effort, levels)}


_OPENAI_LEVELS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (regex(r"(?:^|/)gpt-5-pro"), ("high",)),
    (regex(r"(?:^|/)gpt-5(?:$|-)(?!.*chat)"), ("minimal", *_THREE)),
    (regex(r"(?:^|/)gpt-5\.1(?:$|-)(?!.*chat)"), ("none", *_THREE)),
    (regex(r"(?:^|/)gpt-(?:5\.|[6-9])(?!.*chat)"), ("none", *_THREE, "xhigh")),
    (regex(r"(?:^|/)o[134](?:$|-)(?!mini$|preview)"), _THREE),
    (regex(r"(?:^|/)o[34]-mini"), _THREE),
)


def _openai(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    levels = ctx.facts.efforts or next((lv for p, lv in _OPENAI_LEVELS if p.search(ctx.model)), ())
    if not levels:
        return {}
    if effort == "off":
        return {"reasoning_effort": next(lv for lv in ("none", "minimal", *levels) if lv in levels)}
    return {"reasoning_effort": nearest(effort, levels)}


def _switch(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    return {"thinking": {"type": "disabled" if effort == "off" else "enabled"}}


def _deepseek(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if effort == "off":
        return {"thinking": {"type": "disabled"}}
    return {
        "thinking": {"type": "enabled"},
        "reasoning_effort": "max" if effort in ("xhigh", "max") else "high",
    }


def _zai(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if effort == "off":
        return {"thinking": {"type": "disabled"}}
    fields: dict[str, Any] = {"thinking": {"type": "enabled", "clear_thinking": False}}
    if ctx.facts.efforts:
        fields["reasoning_effort"] = nearest(effort, ctx.facts.efforts)
    return fields


def _openrouter(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if effort == "off":
        return {"reasoning": {"enabled": False}}
    return {"reasoning": {"effort": nearest(effort, ("minimal", *_THREE, "xhigh"))}}


def _groq(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    """gpt-oss takes levels, Qwen only none and default; other models take neither field."""
    if "gpt-oss" in ctx.model:
        return {"reasoning_effort": "low" if effort == "off" else nearest(effort, _THREE)}
    if "qwen3" in ctx.model:
        if effort == "off":
            return {"reasoning_effort": "none"}
        return {"reasoning_effort": "default", "reasoning_format": "parsed"}
    return {"reasoning_format": "parsed"} if "deepseek-r1" in ctx.model and effort != "off" else {}


def _cerebras(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if "gpt-oss" in ctx.model:
        return {"reasoning_effort": "low" if effort == "off" else nearest(effort, _THREE)}
    if "glm" in ctx.model:
        return {"disable_reasoning": effort == "off"}
    return {}


def _mistral(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if ctx.facts.thinking != "effort":
        return {}
    return {"reasoning_effort": "none" if effort == "off" else "high"}


def _dashscope(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    if effort == "off":
        return {"enable_thinking": False}
    budget = budget_of(request, 32_768)
    return {"enable_thinking": True, **({"thinking_budget": budget} if budget else {})}


def _google(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    """Google's compatible surface turns reasoning_effort into a level or a budget; only Flash 2.x can be off."""
    if not ctx.facts.thinking:
        return {}
    if effort == "off":
        return {"reasoning_effort": "none" if "2.5-flash" in ctx.model else "low"}
    return {"reasoning_effort": nearest(effort, _THREE)}


def _template(effort: str, request: Request, ctx: Context) -> dict[str, Any]:
    fields: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": effort != "off"}}
    return {**fields, **_facts(effort, request, ctx)}


KNOBS: Mapping[str, Knob] = {
    "none": _none,
    "facts": _facts,
    "openai": _openai,
    "thinking": _switch,
    "deepseek": _deepseek,
    "zai": _zai,
    "openrouter": _openrouter,
    "groq": _groq,
    "cerebras": _cerebras,
    "mistral": _mistral,
    "dashscope": _dashscope,
    "google": _google,
    "template": _template,
}
