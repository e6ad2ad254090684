"""What providers say of their limits in response headers: how much is left, of what, and when it comes back (R40, R50).

Pure. Five families of headers, one shape:
- anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}, resets in RFC 3339
  (docs.anthropic.com, api/rate-limits);
- anthropic-ratelimit-unified-{5h,7d,7d_<family>}-{utilization,status,reset} of subscriptions: a spent fraction, resets
  in epoch seconds or RFC 3339 (anthropics/claude-code #12829, anomalyco/opencode #49653, lidge-jun/opencodex PR3809);
- x-ratelimit-{limit,remaining,reset}-WHAT: OpenAI, Azure and Groq with durations ("6m0s", "12ms") or seconds
  (developers.openai.com guides/rate-limits, console.groq.com/docs/rate-limits), Cerebras with -requests-day and
  -tokens-minute (inference-docs.cerebras.ai), Mistral with -req-minute and no reset (mistralai/client-ts #169), others
  with WHAT before the verb; Azure's -1 means nothing (learn.microsoft.com, answers/5625878);
- x-ratelimit-{limit,remaining,reset}: OpenRouter's free models, reset in epoch milliseconds (openrouter.ai/docs/limits);
- RateLimit of the IETF draft httpapi-ratelimit-headers, in its old (-limit, -remaining, -reset), middle
  (limit=, remaining=, reset=) and present form ("name";r=50;t=30 with RateLimit-Policy "name";q=100;w=60).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ccm.late import regex
from ccm.routing.cooldown import number, parse_duration, server_time, until_reset
from ccm.shape import dataclass

_MARK = "ratelimit"
_NAME = regex(r"(?:(anthropic)-|x-)?ratelimit(bysize)?-([a-z0-9_-]{1,60})\Z")
_VERBS = frozenset({"limit", "remaining", "reset", "utilization", "status"})
_MOST = 24  # windows of one answer; a provider has at most a dozen
_LONGEST_S = 32 * 86400.0
_UNSAID_S = 60.0  # a window without a reset and without a name that tells its length
_LENGTHS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
_WORDS = {"req": "requests", "reqs": "requests", "unified": ""}
_PARAMETER = regex(r";\s*([a-z]+)=\"?([0-9.]+)")
_QUOTED = regex(r'"([^"]{0,40})"')
_PAIR = regex(r"\b(limit|remaining|reset)=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Window:
    """One limit. `what` for people ("5h window", "tokens per minute"); `share` is what is left of it, 0 .. 1;
    `resets_at` (monotonic seconds) is when all of it is there again, and nothing is known any more. `account`: it
    holds for everything the key is used for, else for one model."""

    what: str
    share: float
    resets_at: float
    account: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """What one answer said of its endpoint's limits: at least one window."""

    windows: tuple[Window, ...]

    def tightest(self, now: float) -> Window | None:
        """The window of which the smallest share is left; None when all have been reset since."""
        return tightest(self.windows, now)


def read(headers: Mapping[str, str], now_wall: float, now_mono: float, model: str = "") -> Quota | None:
    """What these headers (lower-case names) say, or None: under a microsecond where they say nothing. Never raises.

    `model` is the one that was asked: a subscription's windows for one family count only for that family. Dates count
    from the answer's own Date header, where it has one (our clock may be wrong).
    """
    for name in headers:
        if _MARK in name:
            break
    else:
        return None
    at = server_time(headers, now_wall)
    windows = [
        Window(what, share, now_mono + min(seconds, _LONGEST_S), account)
        for what, share, seconds, account in (*_by_name(headers, at, model.lower()), *_by_draft(headers))
        if seconds > 0
    ]
    return Quota(tuple(windows[:_MOST])) if windows else None


def tightest(windows: tuple[Window, ...], now: float) -> Window | None:
    """Of those that still hold, the one of which the smallest share is left; among equals the one that lasts longest."""
    best: Window | None = None
    for window in windows:
        if window.resets_at > now and (
            best is None or (window.share, -window.resets_at) < (best.share, -best.resets_at)
        ):
            best = window
    return best


def merged(old: tuple[Window, ...], new: tuple[Window, ...], now: float) -> tuple[Window, ...]:
    """The newer word on each window; what was not mentioned holds until its reset."""
    if not old:
        return new
    named = {window.what for window in new}
    return new + tuple([w for w in old if w.what not in named and w.resets_at > now][:_MOST])


_Found = tuple[str, float, float, bool]  # what, share, seconds to the reset, account


def _by_name(headers: Mapping[str, str], at: float, model: str) -> Iterator[_Found]:
    """The families in which a header's name says what is limited."""
    said: dict[tuple[bool, str], dict[str, str]] = {}
    for name, value in headers.items():
        if _MARK not in name or (match := _NAME.match(name)) is None:
            continue
        anthropic, by_size, rest = match.groups()
        parts = rest.split("-")
        if parts[-1] in _VERBS:
            verb = parts.pop()
        elif parts[0] in _VERBS:
            verb = parts.pop(0)
            if verb == "reset" and parts == ["after"]:
                parts = []
        else:
            continue
        if by_size:
            parts.insert(0, "size")
        said.setdefault((bool(anthropic), "-".join(parts)), {})[verb] = value
    for (anthropic_own, what), words in said.items():
        unified = anthropic_own and what.startswith("unified")
        if unified:
            window = what.removeprefix("unified").lstrip("-")
            if window.startswith("overage"):
                continue  # what can be bought beyond the plan, at its price
            _, _, family = window.partition("_")
            if family and family not in model:
                continue
        share = _share(words)
        if share is None:
            continue
        reset = words.get("reset")
        seconds = until_reset(reset, at) if reset is not None else None
        if seconds is None:
            seconds = _length_s(what)
        yield _called(what), share, seconds, unified and "_" not in what


def _share(words: Mapping[str, str]) -> float | None:
    """What is left, 0 .. 1; None where nothing can be said: a number without a limit tells only when it is 0."""
    if words.get("status", "").strip() == "rejected":
        return 0.0
    if "utilization" in words:
        used = number(words["utilization"])
        return None if used is None else max(0.0, 1.0 - used)
    left = _leading(words.get("remaining", ""))
    if left is None:
        return None
    limit = _leading(words.get("limit", ""))
    if limit:
        return min(1.0, left / limit)
    return 0.0 if left == 0 else None


def _leading(text: str) -> float | None:
    """The first number of a value: the draft's old form adds policies behind it ("100, 100;w=60")."""
    return number(text.partition(",")[0].partition(";")[0])


def _length_s(what: str) -> float:
    """How long a window lasts that names no reset: its name may say so (requests-day, tokens-minute, unified-5h)."""
    last = what.rpartition("-")[2].partition("_")[0]
    return _LENGTHS_S.get(last) or parse_duration(last) or _UNSAID_S


def _called(what: str) -> str:
    """A window for people: "requests-day" is "requests per day", "unified-5h" is "5h window"."""
    if what.startswith("unified"):
        return f"{what.removeprefix('unified').lstrip('-').replace('_', ' ') or 'plan'} window"
    parts = [_WORDS.get(part, part) for part in what.split("-") if part]
    if len(parts) > 1 and (parts[-1] in _LENGTHS_S or parse_duration(parts[-1])):
        parts.insert(-1, "per")
    return " ".join(parts) or "requests"


def _by_draft(headers: Mapping[str, str]) -> Iterator[_Found]:
    """The IETF draft's RateLimit header, with what RateLimit-Policy adds."""
    value = headers.get("ratelimit")
    if value is None:
        return
    value = value[:1000]
    pairs = dict(_PAIR.findall(value))
    if "remaining" in pairs:
        share = _share(pairs)
        if share is not None:
            yield "requests", share, number(pairs.get("reset", "")) or _UNSAID_S, False
        return
    policies = dict(_items(headers.get("ratelimit-policy", "")[:1000]))
    for name, words in _items(value):
        policy = policies.get(name, {})
        left, most = number(words.get("r", "")), number(policy.get("q", ""))
        if left is None or (not most and left > 0):
            continue
        seconds = number(words.get("t", ""))
        if seconds is None:
            seconds = number(policy.get("w", "")) or _UNSAID_S
        share = min(1.0, left / most) if most else 0.0
        yield (name if name and name != "default" else "requests"), share, seconds, False


def _items(value: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, parameters) of a structured list; of several quoted names the last one."""
    for item in value.split(","):
        names = _QUOTED.findall(item)
        yield (names[-1] if names else item.partition(";")[0].strip()[:40]), dict(_PARAMETER.findall(item))
