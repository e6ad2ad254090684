"""What each OpenAI-compatible provider wants differently: one table (DIALECTS 2, 7, 15).

A policy is the default row, changed by the provider's row, then by the rows whose model pattern fits, then by the
configured quirks. The default row is what most servers accept; it is also what an unknown ("custom") provider gets.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ccm.dialects.base import Context
from ccm.late import regex
from ccm.shape import dataclass, replace


@dataclass(frozen=True, slots=True)
class Policy:
    """How to write a request for one provider and model. Field comments name the allowed values."""

    system_role: str = "system"  # system | developer | user
    mid_system: str = "fold"  # fold (into user turns) | keep (a system message at its place)
    max_tokens: str = "max_tokens"  # the field's name
    sampling: bool = True  # temperature, top_p are taken
    top_k: bool = False
    stops: int = 4  # stop sequences taken; 0 = none, all are cut locally
    stream_usage: bool = True  # stream_options.include_usage
    effort: str = "facts"  # a row of knobs.KNOBS
    reasoning: str = (
        "state"  # field for reasoning of earlier turns; "state" = where this provider itself put it,
    )
    #                           "drop" = nowhere
    foreign_reasoning: bool = False  # also thinking that another model did
    filler: str | None = None  # reasoning of assistant turns that have none, while thinking is on
    ids: str = ""  # a rule of ids.outward
    forced_tool: bool = True  # tool_choice required / function
    forced_tool_thinking: bool = True  # ... also while thinking
    any_choice: str = "required"
    parallel: bool = True  # parallel_tool_calls is known
    tools: bool = True
    most_tools: int = 0  # 0 = no limit known
    tools_with_effort: bool = True  # False: function tools need reasoning_effort "none" (GPT-5.4 and later)
    json_schema: bool = True  # response_format json_schema; else json_object and the schema as text
    documents: bool = False  # PDF as a `file` part
    document_urls: bool = False
    prefix: bool = False  # a last assistant message is marked `prefix: true`
    prefill: bool = True  # the last message may be the assistant's
    alternate: bool = False  # strictly user, assistant, user ...
    cache_control: bool = False  # keeps Anthropic's marks on content parts
    cache_key: bool = False  # prompt_cache_key
    session_header: str = ""  # header that keeps a conversation on one machine
    user_field: str = ""  # field for metadata.user_id, hashed
    priority_tier: bool = False  # service_tier "priority" for speed "fast"
    bridge: bool = False  # an assistant message between tool results and the user's text
    empty_result: str = "(no output)"


_OPENAI: dict[str, Any] = {
    "most_tools": 128,
    "mid_system": "keep",
    "reasoning": "drop",
    "ids": "max40",
    "documents": True,
    "cache_key": True,
    "effort": "openai",
    "empty_result": "",
}
# catalogue type -> what differs from the default row
PROVIDERS: dict[str, dict[str, Any]] = {
    "openai": {**_OPENAI, "user_field": "safety_identifier", "priority_tier": True},
    "azure": _OPENAI,
    "azure-openai": _OPENAI,
    "github": {**_OPENAI, "documents": False, "cache_key": False},
    "deepseek": {
        "mid_system": "keep",
        "reasoning": "reasoning_content",
        "foreign_reasoning": True,
        "filler": "",
        "effort": "deepseek",
        "forced_tool_thinking": False,
        "json_schema": False,
        "parallel": False,
    },
    "moonshot": {
        "reasoning": "reasoning_content",
        "foreign_reasoning": True,
        "filler": " ",  # an empty string is rejected (crush#2696)
        "effort": "thinking",
        "forced_tool_thinking": False,
        "cache_key": True,
    },
    "zai": {"reasoning": "reasoning_content", "foreign_reasoning": True, "effort": "zai", "stops": 1, "json_schema": False,
            "any_choice": "auto", "forced_tool": False, "parallel": False},
    "mistral": {
        "reasoning": "parts",
        "effort": "mistral",
        "ids": "exact9",
        "any_choice": "any",
        "prefix": True,
        "stream_usage": False,
    },
    "openrouter": {
        "reasoning": "reasoning_details",
        "effort": "openrouter",
        "documents": True,
        "document_urls": True,
        "top_k": True,
        "session_header": "x-session-id",
    },
    "groq": {"reasoning": "reasoning", "effort": "groq", "cache_key": False},
    "cerebras": {"reasoning": "reasoning", "effort": "cerebras", "parallel": True},
    "xai": {"mid_system": "keep", "reasoning": "drop", "effort": "facts", "session_header": "x-grok-conv-id"},
    "alibaba": {"reasoning": "reasoning_content", "effort": "dashscope", "forced_tool_thinking": False, "top_k": True,
                "cache_control": True, "json_schema": False},
    "siliconflow": {"reasoning": "reasoning_content", "effort": "dashscope", "top_k": True, "json_schema": False},
    "together": {"reasoning": "state", "top_k": True},
    "fireworks": {"reasoning": "reasoning_content", "top_k": True, "session_header": "x-session-affinity"},
    "deepinfra": {"top_k": True, "session_header": "x-session-affinity"},
    "perplexity": {"tools": False, "alternate": True, "prefill": False, "json_schema": True, "reasoning": "drop",
                   "stops": 0, "parallel": False, "effort": "none"},
    "ollama": {"reasoning": "reasoning", "effort": "facts", "forced_tool": False, "parallel": False},
    "vllm": {"effort": "template", "top_k": True},
    "sglang": {"reasoning": "reasoning_content", "effort": "template", "top_k": True},
    "llamacpp": {"reasoning": "reasoning_content", "top_k": True, "effort": "template"},
    "lmstudio": {"parallel": False},
    "google": {"effort": "google", "parallel": False, "empty_result": ""},
    "minimax": {"top_k": False, "parallel": False, "json_schema": False},
    "nvidia": {"parallel": False},
    "bedrock": {"reasoning": "reasoning", "parallel": False},  # Mantle
    "zenmux": {"documents": True, "top_k": True},
}  # fmt: skip
_ALIASES = {
    "kimi-coding": "moonshot",
    "kimi": "moonshot", "moonshotai": "moonshot", "z.ai": "zai", "zhipu": "zai", "glm": "zai", "dashscope": "alibaba", "qwen": "alibaba",
    "azure-foundry": "azure", "azure_openai": "azure", "ollama-cloud": "ollama", "llama.cpp": "llamacpp",
    "llama-cpp": "llamacpp", "lm-studio": "lmstudio", "x-ai": "xai", "grok": "xai", "github-models": "github",
    "github_models": "github",
}  # fmt: skip

_REASONER = {"max_tokens": "max_completion_tokens", "sampling": False, "stops": 0, "system_role": "developer"}
_ANY: frozenset[str] = frozenset()
_FIRST_PARTY = frozenset({"openai", "azure", "azure-openai", "github"})
# (catalogue types, or none for any; pattern on the model id; what it changes); later rows win
MODELS: tuple[tuple[frozenset[str], re.Pattern[str], dict[str, Any]], ...] = (
    (_FIRST_PARTY, regex(r"(?:^|/)(?:o[134](?:$|-)|gpt-[5-9](?!.*-chat))"), _REASONER),
    (frozenset({"openrouter"}), regex(r"^openai/(?:o[134](?:$|-)|gpt-[5-9])"), {"sampling": False, "stops": 0}),
    (frozenset({"custom"}), regex(r"(?:^|/)(?:o[134](?:$|-)|gpt-[5-9](?!.*-chat))"), {**_REASONER, "system_role": "system"}),
    (_FIRST_PARTY, regex(r"(?:^|/)o1-(?:mini|preview)"), {"system_role": "user", "parallel": False, "mid_system": "fold"}),
    (_FIRST_PARTY, regex(r"(?:^|/)o[13](?:$|-)"), {"parallel": False}),
    (_FIRST_PARTY, regex(r"(?:^|/)gpt-(?:5\.(?:[4-9]|\d\d)|[6-9])"), {"tools_with_effort": False}),
    (frozenset({"openrouter"}), regex(r"^(?:anthropic|google)/"), {"cache_control": True}),
    (frozenset({"cerebras"}), regex(r"glm"), {"reasoning": "think_tags"}),
    (frozenset({"azure", "azure-openai"}), regex(r"deepseek|grok|mistral|llama|phi|kimi", re.I),
     {"ids": "", "documents": False, "cache_key": False, "reasoning": "state", "mid_system": "fold"}),
    (_ANY, regex(r"deepseek-reasoner"), {"sampling": False}),
)  # fmt: skip
# quirk -> what it changes; the rest of the quirks is read by the decoder (think_tags, lenient_end)
QUIRKS: dict[str, dict[str, Any]] = {
    "no_stream_options": {"stream_usage": False},
    "no_system_role": {"system_role": "user", "mid_system": "fold"},
    "developer_role": {"system_role": "developer"},
    "fold_system": {"mid_system": "fold"},
    "keep_system": {"mid_system": "keep"},
    "max_completion_tokens": {"max_tokens": "max_completion_tokens"},
    "max_tokens": {"max_tokens": "max_tokens"},
    "no_sampling": {"sampling": False},
    "no_stop": {"stops": 0},
    "top_k": {"top_k": True},
    "no_tools": {"tools": False},
    "no_forced_tool": {"forced_tool": False},
    "no_parallel": {"parallel": False},
    "no_json_schema": {"json_schema": False},
    "no_reasoning_replay": {"reasoning": "drop"},
    "reasoning_content": {"reasoning": "reasoning_content", "foreign_reasoning": True, "filler": ""},
    "no_effort": {"effort": "none"},
    "enable_thinking": {"effort": "dashscope"},
    "template_thinking": {"effort": "template"},
    "bridge_after_tool": {"bridge": True},
    "alternate": {"alternate": True},
    "nine_char_ids": {"ids": "exact9"},
    "short_ids": {"ids": "max40"},
    "pdf": {"documents": True},
    "cache_control": {"cache_control": True},
    "prompt_cache_key": {"cache_key": True},
}


def kind_of(family: str) -> str:
    """The catalogue type in a family ("openai_chat/deepseek" -> "deepseek"), other names for it resolved."""
    kind = family.partition("/")[2].lower()
    return _ALIASES.get(kind, kind)


def policy_of(ctx: Context) -> Policy:
    """The policy for a provider and model."""
    return _policy(kind_of(ctx.family), ctx.model[:200], ctx.quirks, "documents" in ctx.abilities)


@functools.lru_cache(maxsize=128)
def _policy(kind: str, model: str, quirks: frozenset[str], documents: bool) -> Policy:
    changes: dict[str, Any] = dict(PROVIDERS.get(kind, {}))
    for kinds, pattern, change in MODELS:
        if (not kinds or kind in kinds) and pattern.search(model):
            changes.update(change)
    for quirk, change in QUIRKS.items():
        if quirk in quirks:
            changes.update(change)
    if documents:
        changes["documents"] = True
    return replace(Policy(), **changes)
