"""What Bedrock's models differ in, as far as a request has to know it. Names only: the catalogue's facts come first.

Source: docs.aws.amazon.com/bedrock, "Supported models and model features" and the models' own pages.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from ccm.dialects.base import Context
from ccm.late import regex
from ccm.shape import dataclass

# A geography before the vendor makes an inference profile of a model id: "us.anthropic.claude-…", "global.…".
_PROFILE = regex(r"^(?:us-gov|us|eu|apac|jp|au|ca|sa|me|af|global)\.(?=[a-z0-9]+\.)")
CONVERSE_QUIRK = "bedrock_converse"  # Claude through Converse instead of InvokeModel


@dataclass(frozen=True, slots=True)
class Traits:
    """What Converse accepts for a model. `forced`: the tool choices beside auto. `effort`: the form of its reasoning
    setting ("" none). `top_k`: where top_k goes ("" nowhere)."""

    caches: bool = False
    result_status: bool = False
    result_media: bool = False
    forced: frozenset[str] = frozenset()
    effort: str = ""
    top_k: str = ""
    formats: bool = False  # outputConfig.textFormat


_CLAUDE = Traits(True, True, True, frozenset(("any", "tool")), "claude", "top_k", True)
_NOVA = Traits(True, True, True, frozenset(("any", "tool")), "", "nova")
_TRAITS: tuple[tuple[re.Pattern[str], Traits], ...] = (
    (regex("claude"), _CLAUDE),
    (regex(r"nova-(?:[2-9]|sonic-[2-9])"), Traits(True, True, True, _NOVA.forced, "nova", "nova")),
    (regex("nova"), _NOVA),
    (regex(r"mistral"), Traits(forced=frozenset(("any",)), top_k="top_k")),
    (regex(r"gpt-oss"), Traits(effort="openai")),
)


def is_claude(model: str) -> bool:
    """Whether a model id or ARN names a Claude model."""
    return "claude" in model.lower()


def invokes(ctx: Context) -> bool:
    """Whether a request goes to InvokeModel with Anthropic's own body: Claude, unless a quirk says Converse."""
    return is_claude(ctx.model) and CONVERSE_QUIRK not in ctx.quirks


def traits_of(model: str) -> Traits:
    """The traits of a model; cautious ones for unknown models and for ARNs that name none."""
    name = model.lower()
    return next((traits for pattern, traits in _TRAITS if pattern.search(name)), Traits())


def path(model: str, action: str) -> str:
    """The path of an action on a model, its id percent-encoded (`:` and the `/` of ARNs too)."""
    return f"/model/{quote(model, safe='')}/{action}"


def base_model(model: str) -> str:
    """The model behind an inference profile id: CountTokens knows only that one."""
    return _PROFILE.sub("", model)
