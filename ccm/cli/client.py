"""What Claude Code, or another client, needs in its environment to work through ccm. Pure.

Every line rests on an observed effect. Two thoughts behind the figures: Claude Code takes unknown models to have a
window of a million tokens, so it would never compact for a smaller one; and what holds for the providers asked first
is what is told, since ccm itself leads a conversation that is too long for one onward to a larger one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ccm.catalog.models import bare_name
from ccm.catalog.rows import bundled_rows
from ccm.cli.door import Door
from ccm.config.proxies import bypassed
from ccm.model import ModelFacts, Provider
from ccm.routing import rules
from ccm.shape import dataclass

MAIN_TIERS = ("opus", "sonnet")  # haiku is for the background, whose requests are short
_SHARE_OF_WINDOW = 4  # what an answer may take of it, so that question and answer fit together
_CLIENT_WAITS_S = 300.0  # what Claude Code waits for the head of an answer before it gives up
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOOPBACK = ("127.0.0.1", "localhost")
# Modes in which Claude Code goes past ANTHROPIC_BASE_URL.
CLOUD_MODES = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for: `provider` and `model` "" for whatever ccm decides, `strategy` for these requests only,
    `project` the name under which they are counted; `other` for a client that is not Claude Code."""

    provider: str = ""
    model: str = ""
    strategy: str = ""
    project: str = ""
    other: bool = False


def environment(door: Door, wish: Wish, env: Mapping[str, str]) -> dict[str, str | None]:
    """Variables to set, in the order in which they are shown; None for those that must not be set."""
    url = f"{door.url}/p/{wish.provider}" if wish.provider else door.url
    wanted: dict[str, str | None] = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": door.token}
    if wish.other:
        wanted |= {"ANTHROPIC_API_KEY": door.token}
        wanted |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": door.token}
    elif "ANTHROPIC_API_KEY" in env:
        wanted["ANTHROPIC_API_KEY"] = None  # it would be sent too, and Claude Code asks about it
    wanted |= {name: None for name in CLOUD_MODES if env.get(name)}
    if wish.model:
        wanted |= _names(door, wish)
    wanted |= _figures(door, wish)
    wanted["CLAUDE_CODE_GATEWAY_HINT_HEADERS"] = "1"  # tells background requests apart
    headers = _headers(wish, env.get("ANTHROPIC_CUSTOM_HEADERS", ""))
    if headers:
        wanted["ANTHROPIC_CUSTOM_HEADERS"] = headers
    return wanted | _past_the_proxy(env)


def applied(wanted: Mapping[str, str | None], env: Mapping[str, str]) -> dict[str, str]:
    """An environment with the wanted variables set and the unwanted ones gone."""
    kept = {name: value for name, value in env.items() if name not in wanted}
    return kept | {name: value for name, value in wanted.items() if value is not None}


def asked_first(door: Door, wish: Wish) -> list[Provider]:
    """The providers that normal requests go to: the pinned one, the first under priority, else all of them."""
    pinned = wish.provider or rules.split_model(wish.model, [p.name for p in door.usable])[0]
    if pinned:
        return [p for p in door.usable if p.name == pinned]
    if (wish.strategy or door.strategy) == "priority":
        return list(door.usable[:1])
    return list(door.usable)


def _names(door: Door, wish: Wish) -> dict[str, str | None]:
    names: dict[str, str | None] = {"ANTHROPIC_MODEL": wish.model}
    if rules.is_claude(wish.model) and "/" not in wish.model and "," not in wish.model:
        return names  # a name of Claude's own: the tiers keep theirs
    for name in (
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    ):
        names[name] = wish.model
    pinned, _ = rules.split_model(wish.model, [p.name for p in door.usable])
    provider = next((p for p in door.usable if p.name == pinned), None)
    if provider is not None and door.snapshot is not None:
        # the background stays with the provider that was asked for
        asked = bundled_rows()["anthropic"].tiers["haiku"]
        small = f"{pinned}/{rules.model_for(provider, asked, door.snapshot.models)}"
        names |= {"ANTHROPIC_DEFAULT_HAIKU_MODEL": small, "ANTHROPIC_SMALL_FAST_MODEL": small}
    return names


def _figures(door: Door, wish: Wish) -> dict[str, str | None]:
    """Windows, output caps and switches for the models that main requests go to; nothing where those are Claude at
    Anthropic itself, of whom Claude Code knows everything."""
    figures: dict[str, str | None] = {}
    first = asked_first(door, wish)
    if door.snapshot is None or door.book is None or not first:
        return figures
    foreign = [facts for provider in first for facts in _foreign(door, wish, provider)]
    if foreign:
        window = min(facts.window for facts in foreign)
        caps = [facts.output_cap for facts in foreign if facts.output_cap]
        figures["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(window)
        figures["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(min([*caps, max(1024, window // _SHARE_OF_WINDOW)]))
    if any(provider.type != "anthropic" for provider in first):
        # no context_management, no safeguards: the client itself judges tools in auto mode
        figures["CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS"] = "1"
        figures["CLAUDE_CODE_ATTRIBUTION_HEADER"] = "0"  # a line that changes would spoil prompt caches
    waits = max(max(p.timeouts.header_s, p.timeouts.first_content_thinking_s) for p in first)
    if waits > _CLIENT_WAITS_S:
        figures["API_TIMEOUT_MS"] = str(int(waits * 1000) + 30_000)
    return figures


def _foreign(door: Door, wish: Wish, provider: Provider) -> list[ModelFacts]:
    """The facts of the models that main requests become at a provider, without those that Claude Code knows itself."""
    assert door.snapshot is not None and door.book is not None
    examples = bundled_rows()["anthropic"].tiers
    names = [p.name for p in door.usable]
    asked = (
        [rules.split_model(wish.model, names)[1]] if wish.model else [examples[tier] for tier in MAIN_TIERS]
    )
    found = []
    for name in asked:
        model = rules.model_for(provider, name, door.snapshot.models)
        if not (rules.is_claude(name) and bare_name(model) == bare_name(name)):
            found.append(door.book.find(model, provider.type))
    return found


def _headers(wish: Wish, kept: str) -> str:
    """The user's own extra headers, and ours: one on each line."""
    lines = [
        line.strip() for line in kept.splitlines() if line.strip() and not line.lower().startswith("x-ccm-")
    ]
    lines += [f"x-ccm-project: {header_text(wish.project)}"] if header_text(wish.project) else []
    lines += [f"x-ccm-strategy: {wish.strategy}"] if wish.strategy else []
    return "\n".join(lines)


def header_text(name: str) -> str:
    """A name as a header may carry it: 64 plain characters at most."""
    return re.sub(r"[^A-Za-z0-9._ -]+", "-", name).strip()[:64].strip()


def _past_the_proxy(env: Mapping[str, str]) -> dict[str, str | None]:
    """NO_PROXY with this machine in it, where a proxy would catch requests to it."""
    if not caught_by_proxy(env):
        return {}
    found: dict[str, str | None] = {}
    for name in ("no_proxy", "NO_PROXY"):
        entries = [entry.strip() for entry in env.get(name, "").split(",") if entry.strip()]
        found[name] = ",".join([*entries, *(host for host in _LOOPBACK if host not in entries)])
    return found


def caught_by_proxy(env: Mapping[str, str], host: str = "127.0.0.1") -> Sequence[str]:
    """The proxy variables that would take requests to this machine with them; none where no_proxy names it."""
    past = env.get("no_proxy") or env.get("NO_PROXY") or ""
    if bypassed(host, None, past):
        return ()
    return [name for name in _PROXY_VARIABLES if env.get(name, "").strip()]
