"""What a Gemini model's name says of it: which thinking control, which limits, which form of tool schemas.

The catalogue's facts go first; the name answers where they are silent. One row per generation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ccm.dialects.base import Context
from ccm.dialects.reasoning import BUDGETS, budget_of, effort_of, nearest, wants_thinking
from ccm.model import ModelFacts
from ccm.shape import dataclass

_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NO_THINKING = re.compile(r"-image|-tts|native-audio|embedding|computer-use")
_DEFAULT_CAP = 65_536
# Output a model needs for thoughts that it cannot be kept from having: they count into maxOutputTokens.
_ALLOWANCE = {"MINIMAL": 512, "LOW": 2_048, "budget": 1_024, "default": 4_096}
# thinkingBudget: (lowest that is not off, highest), by kind. DIALECTS 7.
_BUDGET_RANGE = {"pro": (128, 32_768), "flash-lite": (512, 24_576), "flash": (1, 24_576), "": (128, 24_576)}


@dataclass(frozen=True, slots=True)
class Generation:
    """`version` is (major, minor), None for names that are no Gemini's (Gemma, tuned models); `kind` pro | flash |
    flash-lite | "". `thinking` is "level" (3 and later), "budget" (2.5) or "" (none)."""

    version: tuple[int, int] | None
    kind: str
    thinking: str
    cap: int

    @property
    def is_3(self) -> bool:
        """Validates thought signatures, takes media inside function responses, searches beside functions."""
        return self.version is not None and self.version >= (3, 0)


def generation(model: str, facts: ModelFacts) -> Generation:
    """The generation of `model`. An alias such as `gemini-flash-latest` is taken for the newest one."""
    name = model.rpartition("/")[2].lower()
    match = _VERSION.search(name)
    version = (int(match[1]), int(match[2] or 0)) if match else None
    if version is None and name.startswith("gemini-") and "latest" in name:
        version = (3, 0)
    kind = next((k for k in ("flash-lite", "flash", "pro") if f"-{k}" in name), "")
    thinking = ""
    if facts.thinking in ("level", "budget"):
        thinking = facts.thinking
    elif not (facts.known and not facts.thinking) and version and not _NO_THINKING.search(name):
        thinking = "level" if version >= (3, 0) else "budget" if version >= (2, 5) else ""
    cap = facts.output_cap or (8_192 if version and version < (2, 5) else _DEFAULT_CAP)
    return Generation(version, kind, thinking, cap)


def state_family(model: str, facts: ModelFacts) -> str:
    """Whose thought signatures a model can read: they do not survive a change of the generation (DIALECTS 7.2)."""
    version = generation(model, facts).version
    return f"gemini-{version[0]}" if version else model.rpartition("/")[2]


def thinking_config(request: Mapping[str, Any], gen: Generation, facts: ModelFacts) -> dict[str, Any] | None:
    """`thinkingConfig`, or None where nothing is to be said: the model does not think, or the client did not ask."""
    effort = effort_of(request)
    if effort is None or not gen.thinking:
        return None
    config: dict[str, Any] = {}
    if gen.thinking == "level":
        config["thinkingLevel"] = _level(effort, gen, facts)
    else:
        config["thinkingBudget"] = _budget(request, effort, gen)
    if wants_thinking(request) and effort != "off":
        config["includeThoughts"] = _shown(request)
    return config


def output_tokens(request: Mapping[str, Any], gen: Generation, config: dict[str, Any] | None) -> int | None:
    """maxOutputTokens: the client's max_tokens within the model's cap.

    Thoughts count into it as they do in the Messages API. Where the client wanted none and the model has them all the
    same, room for them is added: a classifier's 64 tokens would end in thoughts and an empty answer.
    """
    asked = request.get("max_tokens")
    if isinstance(asked, bool) or not isinstance(asked, int) or asked <= 0:
        return None
    if gen.thinking and not wants_thinking(request):
        asked += _allowance(gen, config)
    return min(asked, gen.cap)


def _allowance(gen: Generation, config: dict[str, Any] | None) -> int:
    if config is None:
        return _ALLOWANCE["default"]
    if "thinkingLevel" in config:
        return _ALLOWANCE.get(config["thinkingLevel"], _ALLOWANCE["default"])
    return _ALLOWANCE["budget"] if config["thinkingBudget"] else 0


def _level(effort: str, gen: Generation, facts: ModelFacts) -> str:
    levels = tuple(e for e in facts.efforts if e in ("minimal", "low", "medium", "high"))
    if gen.kind == "pro" and gen.version == (3, 0):
        levels = ("low", "high")  # the first of the pros knows no more
    elif not levels:
        levels = ("low", "medium", "high")
        levels = ("minimal", *levels) if gen.kind.startswith("flash") else levels
    return nearest("minimal" if effort == "off" else effort, levels).upper()


def _budget(request: Mapping[str, Any], effort: str, gen: Generation) -> int:
    low, high = _BUDGET_RANGE[gen.kind]
    if effort == "off":
        return low if gen.kind in ("pro", "") else 0
    thinking = request.get("thinking")
    form = thinking.get("type") if isinstance(thinking, Mapping) else None
    if form != "enabled":
        # adaptive: the model's own dynamic budget, unless less than that was asked for
        return -1 if effort not in ("minimal", "low", "medium") else min(BUDGETS[effort], high)
    return max(low, budget_of(request, high) or low)


def _shown(request: Mapping[str, Any]) -> bool:
    thinking = request.get("thinking")
    return not (isinstance(thinking, Mapping) and thinking.get("display") == "omitted")


def is_vertex(ctx: Context) -> bool:
    """Whether the upstream is Vertex AI rather than AI Studio."""
    return bool(ctx.options.get("vertex"))
