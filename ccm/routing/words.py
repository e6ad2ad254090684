"""What providers say when they fail: their codes and phrases, and the numbers in their overflow texts.

Data and lookups only; what a kind leads to stands in `failures`. Codes first, phrases last, quota before rate limit:
providers announce both with 429, and waiting does not help against an empty account. Sources: DIALECTS 8 and recorded
answers; codes without a recording are from the providers' documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ccm.late import regex
from ccm.model import FailureKind as K
from ccm.model import ProviderError

# A provider's own word (type, code or status name; lower case, last part of a dotted name) -> kind. Rate limits stand
# apart, because quota phrases are looked at between the two.
_CODES: dict[str, K] = {
    word: kind
    for kind, words in {
        K.QUOTA: "insufficient_quota billing_hard_limit_reached billing_not_active billing_error insufficient_balance"
        " enforced_spend_limit_reached spend_limit_reached payment_required insufficient_funds credits_exhausted"
        " exceeded_current_quota_error usage_limit_reached usage_not_included insufficient_credits 1113",
        K.CREDENTIAL: "invalid_api_key authentication_error invalid_authentication_error api_key_invalid unauthenticated"
        " unauthorized invalid_token token_expired unrecognizedclientexception invalidsignatureexception"
        " expiredtokenexception incompletesignatureexception missingauthenticationtokenexception account_deactivated"
        " api_key_service_blocked authentication_failed invalid_x_api_key 1000 1001 1002",
        K.REGION: "unsupported_country_region_territory region_not_supported unsupported_location",
        K.MODEL_GONE: "model_not_found not_found_error deploymentnotfound resourcenotfoundexception not_found"
        " model_not_supported model_deprecated model_decommissioned invalid_model unknown_model model_not_exist 1211",
        K.MODEL_ACCESS: "model_not_allowed model_access_denied model_not_available 1220",
        K.CONTEXT_TOO_LONG: "context_length_exceeded too_many_prompt_tokens exceed_context_size_error 1261"
        " context_window_exceeded model_max_prompt_tokens_exceeded max_prompt_tokens_exceeded prompt_too_long",
        K.REFUSED: "content_filter content_filtered content_policy_violation responsibleaipolicyviolation"
        " guardrail_intervened data_inspection_failed moderation_blocked prompt_blocked content_blocked 1301",
        K.OVERLOADED: "overloaded_error engine_overloaded engine_overloaded_error server_overloaded overloaded slow_down"
        " server_is_overloaded serviceunavailableexception service_unavailable unavailable modelnotreadyexception"
        " capacity_exceeded system_busy flex_capacity_exceeded 1305",
        K.TRANSIENT: "modelerrorexception internalserverexception internal_server_error server_error internal"
        " modelstreamerrorexception deadline_exceeded modeltimeoutexception upstream_error timeout_error",
    }.items()
    for word in words.split()
}
_RATE_CODES = {
    word
    for words in (
        "rate_limit_error rate_limit_exceeded rate_limited too_many_requests throttlingexception ratelimitreached",
        "servicequotaexceededexception resource_exhausted rate_limit_reached_error requests tokens throttled 1302 1303",
        "concurrency_limit_exceeded toomanyrequestsexception limitexceededexception",
    )
    for word in words.split()
}
_SAYS_OVERFLOW = regex(
    r"prompt is too long|prompt too long|input is too long|exceeds? (?:the |its |this model'?s )?(?:available )?context"
    r"|maximum context length|context[ _](?:length|window|limit|size)[^.]{0,40}exceed|exceed[^.]{0,40}context (?:length|limit)"
    r"|input token count[^.]{0,80}exceeds|maximum (?:number of )?(?:input |prompt )?tokens allowed|input tokens exceeded"
    r"|maximum prompt length|exceeded model token limit|too large for model with [\d,]+ maximum context"
    r"|reduce the length of the (?:messages|prompt|input)|prompt exceeds max length|prompt token count of [\d,]+ exceeds"
    r"|tokens? \+ `?max_new_tokens`? must be|larger than the maximum context size",
    re.IGNORECASE,
)
_SAYS_NO_ACCESS = regex(
    r"(?:don'?t|do not|does not|no) have (?:access|permission)[^.]{0,40}model|access to (?:the |this )?model"
    r"|model[^.]{0,60}not (?:enabled|allowed|activated)",
    re.IGNORECASE,
)
# (statuses it may come with, pattern) -> kind. 0 and 200 are failures without a status of their own.
_PHRASES: tuple[tuple[frozenset[int], re.Pattern[str], K], ...] = (
    (
        frozenset({0, 200, 400, 402, 403, 422, 500}),
        regex(
            r"safety system|content management policy|content filter|usage polic(?:y|ies) viol|input was flagged",
            re.I,
        ),
        K.REFUSED,
    ),
    (frozenset({0, 200, 400, 413, 422, 500, 503}), _SAYS_OVERFLOW, K.CONTEXT_TOO_LONG),
    (
        frozenset({0, 200, 400, 403, 451}),
        regex(r"(?:location|country|region)[^.]{0,30} (?:is )?not (?:supported|available)", re.I),
        K.REGION,
    ),
    (
        frozenset({0, 200, 400, 401, 403}),
        regex(
            r"(?:incorrect|invalid|wrong|malformed|no|missing|expired)[^.]{0,12} (?:x-)?api[- _]?key|api[- _]?key (?:is )?"
            r"(?:not valid|invalid|expired|missing)|invalid bearer|security token|token (?:is|has) expired"
            r"|(?:missing|invalid) auth",
            re.I,
        ),
        K.CREDENTIAL,
    ),
    (frozenset({400, 401, 403, 404}), _SAYS_NO_ACCESS, K.MODEL_ACCESS),
    (
        frozenset({0, 200, 400, 404, 422}),
        regex(
            r"model identifier is invalid|models?[ :/]{1,3}[`'\"]?[\w./:@-]{1,200}[`'\"]? (?:does not exist|(?:is |was )?not found)"
            r"|(?:unknown|invalid|no such) model\b|not a valid model|model .{0,80}(?:deprecated|decommissioned|retired)",
            re.I,
        ),
        K.MODEL_GONE,
    ),
    (
        frozenset({0, 200, 413, 429, 503}),
        regex(r"rate[- ]?limit|too many requests|tokens per (?:min|day)|requests per (?:min|day)", re.I),
        K.RATE_LIMIT,
    ),
    (
        frozenset({0, 200, 429, *range(500, 600)}),
        regex(r"overloaded|at capacity|high demand|high load|temporarily unavailable", re.I),
        K.OVERLOADED,
    ),
)
_SAYS_QUOTA = regex(
    r"credit balance is too low|have any credits|insufficient (?:credit|balance|funds|quota)|more credits|out of credits|spend(?:ing)? limit"
    r"|exceeded your current quota|reached your specified (?:api )?usage limits?|billing (?:hard )?limit|requires more credits"
    r"|check your plan and billing|payment required|purchase (?:more )?credits|used up[^.]{0,30}quota|account is in arrears",
    re.IGNORECASE,
)
_QUOTA_STATUSES = frozenset({0, 200, 400, 402, 403, 429})
_STATUS: Mapping[int, K] = {
    401: K.CREDENTIAL, 402: K.QUOTA, 403: K.CREDENTIAL, 404: K.MODEL_GONE, 408: K.HEAD_TIMEOUT, 425: K.HEAD_TIMEOUT,
    429: K.RATE_LIMIT, 451: K.REGION, 498: K.OVERLOADED, 503: K.OVERLOADED, 529: K.OVERLOADED,
}  # fmt: skip
_TYPES: Mapping[str, K] = {
    "authentication_error": K.CREDENTIAL, "billing_error": K.QUOTA, "permission_error": K.CREDENTIAL,
    "not_found_error": K.MODEL_GONE, "rate_limit_error": K.RATE_LIMIT, "timeout_error": K.TRANSIENT,
    "api_error": K.TRANSIENT, "overloaded_error": K.OVERLOADED, "invalid_request_error": K.CALLER_FAULT,
    "request_too_large": K.CALLER_FAULT,
}  # fmt: skip
_GENERIC = frozenset({"", "provider returned error", "error", "upstream error"})
_PER_DAY = regex(rb"PerDay|per_day|requests per day", re.IGNORECASE)


def text_of(error: ProviderError) -> str:
    """What phrases are looked for in. The body only where the message says nothing (OpenRouter hides the upstream's
    own words in `metadata.raw`); otherwise it may quote the model or the request."""
    if error.message.strip().lower() in _GENERIC:
        return f"{error.message}\n{error.body[:8192].decode('utf-8', 'replace')}"
    return error.message[:8192]


def kind_of(error: ProviderError, text: str, wait: float | None) -> K:
    """The kind, judged by code, quota phrase, rate code, other phrases, status, type: in this order.

    `wait` is the time that the provider named, if any.
    """
    status = error.status
    # Amazon writes namespace#Name:url
    word = error.code.strip().lower().rpartition("#")[2].partition(":")[0]
    known = _CODES.get(word)
    if known is K.MODEL_GONE and _SAYS_NO_ACCESS.search(text) and "does not exist" not in text:
        return K.MODEL_ACCESS
    if known is not None and not (known in (K.TRANSIENT, K.MODEL_GONE) and _SAYS_OVERFLOW.search(text)):
        return known
    google = word == "resource_exhausted" or b"RESOURCE_EXHAUSTED" in error.body
    if status in _QUOTA_STATUSES and _SAYS_QUOTA.search(text):
        # Google writes "check your plan and billing" over every limit: one that names a time soon is a rate limit
        if not google or wait is None or _PER_DAY.search(error.body):
            return K.QUOTA
    elif google and _PER_DAY.search(error.body):
        return K.QUOTA
    if word in _RATE_CODES:
        return K.RATE_LIMIT
    for statuses, pattern, kind in _PHRASES:
        if status in statuses and pattern.search(text):
            return kind
    if status in _STATUS:
        return _STATUS[status]
    if status in (0, 200):
        return _TYPES.get(error.type, K.PROTOCOL if status else K.BROKEN)
    if 400 <= status < 500:
        return K.CALLER_FAULT
    return K.TRANSIENT if status >= 500 else K.PROTOCOL


_N = r"(\d[\d,]{0,19})"  # bounded: with no end, a provider that sends nothing but digits costs seconds
# pattern -> which group is the input, which the maximum
_NUMBERS: tuple[tuple[re.Pattern[str], int, int], ...] = tuple(
    (regex(pattern, re.IGNORECASE | re.DOTALL), input, maximum)
    for pattern, input, maximum in (
        (rf"too long: {_N} tokens? > {_N}", 1, 2),
        (rf"exceed context limit: {_N} \+ {_N} > {_N}", 1, 3),
        (
            rf"maximum (?:context|prompt) length is {_N}.*?(?:resulted in|requested(?: about)?|contains|has) {_N}",
            2,
            1,
        ),
        (rf"token count(?: is)? \(?{_N}\)? .*?(?:exceeds|supports up to).*?{_N}", 1, 2),
        (rf"contains {_N} tokens.*?model with {_N}", 1, 2),
        (rf"(?:token|context) (?:limit|length|window)[^\d]{{0,20}}{_N}[^\d]{{1,20}}requested:? {_N}", 2, 1),
        (rf"prompt token count of {_N} exceeds the limit of {_N}", 1, 2),
        (rf"request \({_N} tokens\) exceeds .*?\({_N} tokens\)", 1, 2),
        (rf"{_N} tokens? (?:>|exceeds?)[^\d]{{0,60}}{_N}", 1, 2),
        (rf"<= {_N}\. given: {_N}", 2, 1),
    )
)
_ONLY_MAXIMUM = regex(rf"(?:maximum|limit|up to|n_ctx)[^\d.]{{0,60}}{_N}", re.IGNORECASE)
_LLAMA = regex(rb'"(n_prompt_tokens|n_ctx)"\s*:\s*(\d+)')


def overflow_numbers(text: str, body: bytes = b"") -> tuple[int | None, int | None]:
    """(tokens sent, maximum) as an overflow text gives them; None for what it does not say."""
    for pattern, input, maximum in _NUMBERS:
        if match := pattern.search(text):
            return _int(match[input]), _int(match[maximum])
    named = {match[1]: int(match[2][:15]) for match in _LLAMA.finditer(body[:65536])}
    if named:
        return named.get(b"n_prompt_tokens"), named.get(b"n_ctx")
    match_max = _ONLY_MAXIMUM.search(text)
    return None, _int(match_max[1]) if match_max else None


def _int(digits: str) -> int:
    return int(digits.replace(",", "")[:15])
