"""Everything known of provider errors: what kind a failure is, what it leads to, and what the client gets in the end.

Codes first, phrases last, quota before rate limit. Quotas must come first because providers announce both with 429,
and waiting for money does not help. One table, `POLICY`, says what each kind leads to (DESIGN 6); the precedence of
several different failures is RELIABILITY 3.2's. Pure. Nothing here may put a key into a text: providers echo parts of
it in their 401s, so what is shown is redacted once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ccm.late import regex
from ccm.model import EMPTY, Failure, ProviderError, Target
from ccm.model import FailureKind as K
from ccm.routing.cooldown import wait_asked
from ccm.routing.words import kind_of, overflow_numbers, text_of
from ccm.shape import dataclass, field


class Policy(NamedTuple):
    """What a kind of failure leads to.

    again    the same target once more: "" never | "first" one short wait, then others | "last" when no other is left
    onward   other targets: "" none | "provider" another provider first | "key" the provider's other keys first |
             "model" not this provider's same model | "window" larger windows only
    penalty  for the target: "" none | "breaker" | "cool" a cool-down
    scope    what the error concerned, so what is penalised: "endpoint" | "key" | "model" (of that key)
    rank     which failure speaks for all in the end; lower ranks first
    """

    again: str
    onward: str
    penalty: str
    scope: str
    rank: int


POLICY: Mapping[K, Policy] = {
    K.CONTEXT_TOO_LONG: Policy("", "window", "", "", 0),
    K.CALLER_FAULT: Policy("", "", "", "", 1),
    K.REFUSED: Policy("", "", "", "", 1),
    K.RATE_LIMIT: Policy("", "key", "cool", "model", 2),
    K.OVERLOADED: Policy("first", "provider", "cool", "model", 3),
    K.CONNECT: Policy("last", "provider", "breaker", "endpoint", 4),
    K.TRANSIENT: Policy("last", "provider", "breaker", "model", 4),
    K.HEAD_TIMEOUT: Policy("", "provider", "breaker", "model", 4),
    K.FIRST_CONTENT_TIMEOUT: Policy("", "provider", "breaker", "model", 4),
    K.IDLE_TIMEOUT: Policy("", "provider", "breaker", "model", 4),
    K.BROKEN: Policy("", "provider", "breaker", "model", 4),
    K.PROTOCOL: Policy("", "provider", "breaker", "model", 4),
    K.INTERNAL: Policy("", "", "", "", 1),
    K.MODEL_GONE: Policy("", "model", "cool", "model", 5),
    K.MODEL_ACCESS: Policy("", "key", "cool", "model", 5),
    K.QUOTA: Policy("", "key", "cool", "key", 6),
    K.REGION: Policy("", "provider", "cool", "key", 6),
    K.CREDENTIAL: Policy("", "key", "cool", "key", 6),
}
TIMEOUTS = frozenset({K.HEAD_TIMEOUT, K.FIRST_CONTENT_TIMEOUT, K.IDLE_TIMEOUT})


def classify(error: ProviderError, *, now_wall: float) -> Failure:
    """The conclusion from a provider's error. `now_wall` is epoch seconds, for waits given as dates. Never raises."""
    headers = error.headers
    hint = headers.get("x-should-retry", "").strip().lower()
    should = {"true": True, "false": False}.get(hint)
    text = text_of(error)
    wait = wait_asked(headers, error.body, now_wall, text)
    return Failure(error.kind or kind_of(error, text, wait), error, wait, should)


def scope_of(failure: Failure) -> str:
    """What a failure concerned: the table's word, but a spent subscription window is the key's, not the model's."""
    if (
        failure.kind is K.RATE_LIMIT
        and failure.error.headers.get("anthropic-ratelimit-unified-status") == "rejected"
    ):
        return "key"
    return POLICY[failure.kind].scope


# ---- what the client gets when everything failed ----


@dataclass(frozen=True, slots=True)
class Final:
    """The answer after the last attempt. `body` is not empty where an Anthropic provider's own error body may go to
    the client as it came (its wording is what Claude Code's repairs look for)."""

    status: int
    type: str
    message: str
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    body: bytes = b""


Failures = Sequence[tuple[Target, Failure]]

_RETRY_LONGEST_S = 60  # Claude Code obeys up to 60 s and gives up at once above (CLIENT 0.10)
_BUSY_LONGEST_S = 30
_DO_NOT_RETRY = {"x-should-retry": "false"}
_TYPE_OF_STATUS: Mapping[int, str] = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
}  # fmt: skip
_KEYLIKE = regex(
    r"[\w-]*\*{2,}[\w*-]*|\b(?:sk|pk|rk|gsk|xai|key|AIza|Bearer|nvapi|hf|csk|fw|pplx)[-_ ]?[\w-]{12,}"
)
_TEXT_CHARS = 1000


def final(
    failures: Failures,
    *,
    window: int | None = None,
    tokens: int | None = None,
    soonest_s: float | None = None,
) -> Final:
    """Sums up all failures of a request, in order of attempt, into one truthful answer.

    `window` is the largest window among the targets and `tokens` our own estimate of the input, for overflow texts
    that name no numbers; `soonest_s` is when the first target may be asked again. Without any failure (no target
    could be reserved) the answer says busy. The failure of lowest rank speaks (POLICY); among equals the last.
    """
    attempts = ", ".join(
        f"{target.endpoint.id}={failure.error.status or failure.kind.value}" for target, failure in failures
    )
    made = _sum_up(failures, window, tokens, soonest_s)
    if not attempts:
        return made
    return Final(
        made.status, made.type, made.message, {**made.headers, "x-ccm-attempts": attempts}, made.body
    )


def _sum_up(failures: Failures, window: int | None, tokens: int | None, soonest_s: float | None) -> Final:
    if not failures:
        message = "every provider that could take this request is busy; ccm tries again when the client does"
        return Final(503, "api_error", message, _after(soonest_s, _BUSY_LONGEST_S))
    rank = min(POLICY[failure.kind].rank for _, failure in failures)
    speaking = [(target, failure) for target, failure in failures if POLICY[failure.kind].rank == rank]
    target, failure = speaking[-1]
    if failure.kind is K.CONTEXT_TOO_LONG:
        return _overflow(speaking, window, tokens)
    if failure.kind is K.INTERNAL:
        return Final(500, "api_error", f"ccm failed on this request: {_shown(failure)}")
    if rank == 1:
        return _caller_fault(target, failure)
    if failure.kind is K.RATE_LIMIT:
        waits = [f.retry_after_s for _, f in speaking if f.retry_after_s is not None]
        waits += [soonest_s] if soonest_s is not None else []
        headers = _after(min(waits, default=None), _RETRY_LONGEST_S)
        return Final(429, "rate_limit_error", f"rate limited: {_told(failures)}", headers)
    if rank in (3, 4):
        return _unavailable(failures, speaking, soonest_s)
    if rank == 5:
        models = ", ".join(sorted({f"{t.model} at {t.provider.name}" for t, _ in speaking}))
        message = (
            f"model not available: {models} ({_told(speaking)}); name another model or map it under [models]"
        )
        return Final(404, "not_found_error", message, _DO_NOT_RETRY)
    fixes = "; ".join(dict.fromkeys(_fix(t, f) for t, f in speaking))
    return Final(403, "permission_error", fixes, _DO_NOT_RETRY)


def _overflow(speaking: Failures, window: int | None, tokens: int | None) -> Final:
    # the largest window that refused is the one that counts
    target, failure = max(speaking, key=lambda pair: pair[0].facts.window)
    error = failure.error
    native = target.provider.dialect == "anthropic" and error.status == 400 and error.body[:1] == b"{"
    body = error.body if native else b""
    if "exceed context limit" in error.message and "max_tokens" in error.message:
        # Anthropic's other wording: Claude Code lowers max_tokens by itself and must see it unchanged
        return Final(400, "invalid_request_error", error.message, body=body)
    sent, maximum = overflow_numbers(text_of(error), error.body)
    maximum = maximum or window or target.facts.window
    if sent is None or sent <= maximum:
        sent = max(tokens or 0, maximum + 1)
    message = f"prompt is too long: {sent} tokens > {maximum} maximum"
    return Final(400, "invalid_request_error", message, body=body if message in error.message else b"")


def _caller_fault(target: Target, failure: Failure) -> Final:
    error = failure.error
    status = error.status if 400 <= error.status < 500 else 400
    headers = {} if failure.should_retry is None else {"x-should-retry": str(failure.should_retry).lower()}
    native = target.provider.dialect == "anthropic" and status == error.status and error.body[:1] == b"{"
    kind = error.type if error.type.endswith("_error") or error.type == "request_too_large" else ""
    type = kind or _TYPE_OF_STATUS.get(status, "invalid_request_error")
    message = _redacted(error.message) or f"{target.provider.name} refused the request ({status})"
    return Final(status, type, message, headers, error.body if native else b"")


def _unavailable(failures: Failures, speaking: Failures, soonest_s: float | None) -> Final:
    kinds = {failure.kind for _, failure in speaking}
    headers = _after(soonest_s, _BUSY_LONGEST_S)
    if kinds <= TIMEOUTS:
        return Final(504, "timeout_error", f"no answer in time: {_told(failures)}", headers)
    # never 529 nor the word overloaded_error: Claude Code gives those up after three tries (RELIABILITY 0.2)
    status = 502 if kinds <= {K.BROKEN, K.PROTOCOL} else 503
    return Final(status, "api_error", f"no provider could answer: {_told(failures)}", headers)


def _fix(target: Target, failure: Failure) -> str:
    provider, key, status = target.provider.name, target.endpoint.key, failure.error.status
    said = f"{status}" if status else failure.kind.value
    if failure.kind is K.QUOTA:
        return f"{provider} has no quota or credit left ({_shown(failure)}): top it up, or `ccmctl switch` to another provider"
    if failure.kind is K.REGION:
        return (
            f"{provider} does not serve this region ({_shown(failure)}): `ccmctl switch` to another provider"
        )
    places = {"env": "environment variable {}", "file": "key file {}", "command": "key command"}
    place = places.get(key.kind, "key").format(key.name) if key is not None else "key"
    # not the provider's text: 401s quote the key
    return f"{provider} rejected its key ({said}): check the {place}, then `ccmctl reload`"


def error_type_for_stream(failure: Failure) -> tuple[str, str]:
    """(type, message) of the one `event: error` after commit. What broke is an api_error; a provider's own error
    inside the stream keeps its type."""
    if failure.kind is K.CONTEXT_TOO_LONG:
        sent, maximum = overflow_numbers(text_of(failure.error), failure.error.body)
        if sent is not None and maximum is not None and sent > maximum:
            return "invalid_request_error", f"prompt is too long: {sent} tokens > {maximum} maximum"
    return _STREAM_TYPES.get(failure.kind, "api_error"), _shown(failure)


_STREAM_TYPES: Mapping[K, str] = {
    K.OVERLOADED: "overloaded_error",
    K.RATE_LIMIT: "rate_limit_error",
    K.QUOTA: "billing_error",
    K.CREDENTIAL: "permission_error",
    K.REGION: "permission_error",
    K.MODEL_GONE: "not_found_error",
    K.MODEL_ACCESS: "not_found_error",
    K.CONTEXT_TOO_LONG: "invalid_request_error",
    K.CALLER_FAULT: "invalid_request_error",
    K.REFUSED: "invalid_request_error",
}


def summary(failure: Failure) -> str:
    """A failure in a few words for status and logs: "529 overloaded: ..."; without keys, one line."""
    status = f"{failure.error.status} " if failure.error.status >= 300 else ""
    name = failure.kind.value.replace("_", " ")
    if failure.kind is K.CREDENTIAL:
        return f"{status}{name}"
    return f"{status}{name}: {' '.join(_shown(failure).split())[:200]}"


def _told(failures: Failures) -> str:
    return "; ".join(
        dict.fromkeys(f"{target.endpoint.id}: {summary(failure)}" for target, failure in failures)
    )


def _shown(failure: Failure) -> str:
    return _redacted(failure.error.message) or failure.kind.value.replace("_", " ")


def _redacted(text: str) -> str:
    return _KEYLIKE.sub("[key]", text[:_TEXT_CHARS]).replace("overloaded_error", "overloaded")


def _after(seconds: float | None, longest: int) -> dict[str, str]:
    """retry-after in whole seconds, 1 to `longest`; 1 where nothing is known."""
    return {"retry-after": str(min(longest, max(1, math.ceil(seconds or 0))))}
