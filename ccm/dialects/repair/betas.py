"""Anthropic's betas and the request fields each one brought: removed together, or the one left over is refused (R19).

Data. Names without their dates; a beta that brings no field has an empty row or none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ccm.dialects.repair.paths import Path
from ccm.late import regex

_DATE = regex(r"-\d{4}-\d{2}-\d{2}$")
# "cache_control.x" stands for that member of every cache_control, wherever it is.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "advanced-tool-use": (
        "tools.*.defer_loading",
        "tools.*.input_examples",
        "tools.*.allowed_callers",
    ),
    "compact": ("context_management",),
    "context-management": ("context_management",),
    "effort": ("output_config.effort",),
    "extended-cache-ttl": ("cache_control.ttl",),
    "fast-mode": ("speed",),
    "fine-grained-tool-streaming": ("tools.*.eager_input_streaming",),
    "mcp-client": ("mcp_servers",),
    "mid-conversation-system": ("role.system",),
    "per-turn-control": ("messages.*.output_config",),
    "prompt-caching-scope": ("cache_control.scope",),
    "skills": ("container",),
    "structured-outputs": ("output_config.format", "output_format", "tools.*.strict"),
    "task-budgets": ("output_config.task_budget",),
    "thinking-display-updates": ("thinking.display",),
    "tool-examples": ("tools.*.input_examples",),
    "tool-search-tool": ("tools.*.defer_loading",),
}


def bare(beta: str) -> str:
    """A beta's name without its date."""
    return _DATE.sub("", beta.strip().lower())


def of_field(path: Path) -> list[str]:
    """The betas (bare names) that brought the field at `path`."""
    name = ".".join(path)
    tail = ".".join(path[-2:])
    return [beta for beta, fields in FIELDS.items() if name in fields or tail in fields]


def listed(header: str) -> list[str]:
    """The betas of an `anthropic-beta` header."""
    return [b.strip() for b in header.split(",") if b.strip()]


def without(header: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """(the header without the betas of these bare names, those removed). "*" removes all."""
    gone = frozenset(names)
    removed = [b for b in listed(header) if "*" in gone or bare(b) in gone]
    return ",".join(b for b in listed(header) if b not in removed), removed
