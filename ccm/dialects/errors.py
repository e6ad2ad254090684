"""What providers' error bodies say, read once for every dialect (DIALECTS 8).

Providers agree on nothing: `{"error":{...}}`, `{"error":"text","code"}`, `{"detail":...}`, `{"message":...}` with the type
in a header, an array around it, HTML of a proxy, an empty body. This module only reads: what follows from an error
(failover, cool-down, the text the client gets) is decided in `routing.failures`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from ccm.late import regex
from ccm.model import ProviderError

_MAX_TEXT = 8_000  # an HTML page or a dump is no message
# Every alternative that may read far begins where a word does, or else with what is enough to match: an error of a
# megabyte must not be read again from each of its letters.
_KEY_TEXT = r"""(?x)
    (?<![A-Za-z0-9_*.-])(?:sk|rk|gsk|xai|pplx|csk|nvapi|hf|fw|tgp|r8)[-_][A-Za-z0-9_*.-]*[A-Za-z0-9_*-]{6}
    | \b(?:sk|rk|gsk|xai|pplx|csk|nvapi|hf|fw|tgp|r8)[-_][A-Za-z0-9_*-]{6,}(?:\.+[A-Za-z0-9_*-]{6,})*
    | \bAIza[0-9A-Za-z_*-]{8,} | \b(?:AKIA|ASIA)[0-9A-Z*]{8,} | \bABSK[0-9A-Za-z+/=*]{8,}
    | (?<=Bearer\ )[A-Za-z0-9._~+/=*-]{8,}
    | (?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]+)?\*{3,}[A-Za-z0-9_*-]*
    """
_KEYS, _KEYS_BYTES = regex(_KEY_TEXT), regex(_KEY_TEXT.encode())

# A provider's own words, lower case, letters and digits only, that say more than the HTTP status does.
_SPECIFIC = {
    word: kind
    for kind, words in {
        "billing_error": "insufficientquota insufficientbalance billingerror billinghardlimitreached paymentrequired"
        " billingnotactive insufficientcredits quotaexhausted arrearage",
        "not_found_error": "modelnotfound deploymentnotfound notfounderror notfound resourcenotfoundexception"
        " modelnotexist unknownmodel invalidmodel",
        "authentication_error": "invalidapikey apikeyinvalid authenticationerror unauthenticated unauthorized"
        " incorrectapikey unrecognizedclientexception invalidsignatureexception expiredtokenexception"
        " invalidclienttokenid missingauthenticationtoken missingauthenticationtokenexception wrongapikey"
        " expiredtoken invalidauthentication accountdeactivated apikeyexpired",
        "permission_error": "permissionerror permissiondenied accessdeniedexception accessdenied forbidden"
        " modelaccessdenied unsupportedcountryregionterritory insufficientpermissions",
        "rate_limit_error": "ratelimitexceeded ratelimiterror ratelimitreached resourceexhausted throttlingexception"
        " servicequotaexceededexception toomanyrequests toomanyrequestsexception throttling ratelimited"
        " throttlingratequota limitrequests",
        "overloaded_error": "overloadederror overloaded unavailable serviceunavailableexception serviceunavailable"
        " modelnotreadyexception engineoverloaded engineoverloadederror modeloverloaded",
        "timeout_error": "deadlineexceeded modeltimeoutexception timeouterror requesttimeout",
        "request_too_large": "requesttoolarge requestentitytoolarge",
        "api_error": "modelerrorexception internalserverexception modelstreamerrorexception",
    }.items()
    for word in words.split()
}
# Words so broad that a telling HTTP status outranks them.
_GENERIC = {
    word: kind
    for kind, words in {
        "invalid_request_error": "invalidrequesterror invalidargument failedprecondition validationexception"
        " invalidprompt contextlengthexceeded outofrange badrequest contentfilter unprocessableentity"
        " exceedcontextsizeerror badrequesterror invalidrequest toolusefailed invalidparametererror",
        "api_error": "apierror servererror internal internalerror internalservererror unknown aborted"
        " bedrockexception processingerror",
        "rate_limit_error": "tokens requests",
    }.items()
    for word in words.split()
}
_PHRASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (regex(r"incorrect api key|invalid api key|api key not valid|security token[^\n]{0,80}invalid", re.I), "authentication_error"),
    (regex(r"provided model identifier is invalid", re.I), "not_found_error"),
    (regex(r"exceeded your current quota, please check your plan|insufficient balance", re.I), "billing_error"),
)  # fmt: skip
_STATUS_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    524: "timeout_error",
    529: "overloaded_error",
}
# The HTTP status that an error inside a 200 would have had.
TYPE_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_INSIDE = ("error", "detail", "errors", "fault", "base_resp")
_TEXT_KEYS = (
    "message",
    "msg",
    "detail",
    "error_description",
    "error_msg",
    "status_msg",
    "error",
    "title",
    "description",
)


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """Reads any provider's error answer (status >= 400). Never raises; keys the provider echoes are blotted out.

    `headers` come back with lower-case names, and with `retry-after-ms` added where only the body names a wait
    (Google's RetryInfo) or with the upstream's own headers where a relay put them into the body (OpenRouter).
    """
    lower = {name.lower(): value for name, value in headers.items()}
    return _read(status, lower, _parse(body), body)


def error_inside(value: Any, headers: Mapping[str, str] | None = None) -> ProviderError:
    """Reads an error that came inside a 200: `value` is the whole parsed body, or the chunk that carries it.

    The status is the one the error itself names, else the one its type stands for.
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return _read(0, {name.lower(): v for name, v in (headers or {}).items()}, value, body)


def redact(text: str) -> str:
    """The text without anything that looks like a key, whole or masked."""
    return _KEYS.sub("[key]", text)


def _read(status: int, headers: dict[str, str], value: Any, body: bytes) -> ProviderError:
    if isinstance(value, list):
        value = value[0] if value else {}
    outer = value if isinstance(value, dict) else {}
    inner = next((outer[k] for k in _INSIDE if outer.get(k)), outer)
    if isinstance(inner, list):
        inner = inner[0] if inner else {}
    error: dict[str, Any] = inner if isinstance(inner, dict) else {}
    words = _words(headers, outer, error)
    text = _text(inner) or _text(outer) or (_plain(body) if not isinstance(value, (dict, list)) else "")
    text = _with_details(text, error)[: 2 * _MAX_TEXT]
    if not text:
        text = _phrase(status) if status else "the provider reported an error without a message"
    said = _named_status(error) or _named_status(outer)
    kind = _kind(status or said, words, text)
    return ProviderError(
        status=status or said or TYPE_STATUS.get(kind, 500),
        type=kind,
        message=redact(text)[:_MAX_TEXT],
        code=next((w for w in words if w), ""),
        headers=_waits(headers, error),
        body=_KEYS_BYTES.sub(b"[key]", body),
    )


def _parse(body: bytes) -> Any:
    text = body.decode("utf-8", "replace").strip()
    if text.startswith(("data:", "event:")):  # an SSE frame with an error status
        match = re.search(r"(?m)^data: ?(.*)$", text)
        text = match.group(1) if match else ""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _words(headers: Mapping[str, str], outer: dict[str, Any], error: dict[str, Any]) -> list[str]:
    """The provider's own names for the error, most telling first."""
    found: list[Any] = []
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("reason"):
            found.append(detail["reason"])
    found.append(headers.get("x-amzn-errortype", "").partition(":")[0])
    found.append(str(outer.get("__type") or "").rpartition("#")[2])
    for level in (error, outer) if error is not outer else (outer,):
        found += [level.get("code"), level.get("status"), level.get("type")]
        if isinstance(level.get("error"), str) and level.get("message"):
            found.append(level["error"])
    words = [w.strip() for w in found if isinstance(w, str) and w.strip() and not w.strip().isdigit()]
    return [w for w in words if w not in ("error", "about:blank") and len(w) <= 80]


def _kind(status: int, words: list[str], text: str) -> str:
    keys = [re.sub(r"[^a-z0-9]", "", w.lower()) for w in words]
    for key in keys:
        if key in _SPECIFIC:
            return _SPECIFIC[key]
    for pattern, kind in _PHRASES:
        if pattern.search(text):
            return kind
    if status in _STATUS_TYPES:
        return _STATUS_TYPES[status]
    for key in keys:
        if key in _GENERIC:
            return _GENERIC[key]
    return "invalid_request_error" if 400 <= status < 500 else "api_error"


def _text(value: Any, depth: int = 0) -> str:
    """The human text in an error value of any of the recorded forms."""
    if isinstance(value, str):
        return value.strip()
    if depth > 4:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_text(v, depth + 1) for v in value[:5])))
    if not isinstance(value, dict):
        return ""
    text = next((t for k in _TEXT_KEYS if k in value and (t := _text(value[k], depth + 1))), "")
    place = value.get("loc")
    if text and isinstance(place, list):  # FastAPI: where in the request
        text = f"{'.'.join(map(str, place))}: {text}"
    return text


def _with_details(text: str, error: dict[str, Any]) -> str:
    """Adds what the provider says beside its message and the message lacks."""
    meta = error.get("metadata")
    raw = meta.get("raw") if isinstance(meta, dict) else None
    if raw:  # OpenRouter: the error of the provider behind it
        parsed = _parse(raw.encode("utf-8", "replace")) if isinstance(raw, str) else raw
        behind = _text(parsed.get("error", parsed) if isinstance(parsed, dict) else parsed)
        if behind and behind not in text:
            text = f"{text}: {behind}" if text else behind
    sizes = [error.get("n_prompt_tokens"), error.get("n_ctx")]
    if all(isinstance(n, int) for n in sizes) and not all(str(n) in text for n in sizes):  # llama.cpp
        text = f"{text} ({sizes[0]} tokens > {sizes[1]} context size)"
    return text


def _plain(body: bytes) -> str:
    """Text of a body that is no JSON: an HTML page is reduced to its title or its words."""
    text = body[: 4 * _MAX_TEXT].decode("utf-8", "replace").strip()
    if "<" not in text[:200]:
        return text
    title = re.search(r"<title[^<>]*>([^<]*)</title>", text, re.I)
    if not title or not title.group(1).strip():
        text = re.sub(r"<(script|style)\b.*?(?:</\1>|\Z)", " ", text, flags=re.I | re.S)
        text = re.sub(r"<[^<>]*>", " ", text)
    else:
        text = title.group(1)
    return " ".join(html.unescape(text).split())[:500]


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} without a body"


def _named_status(level: dict[str, Any]) -> int:
    for key in ("code", "status", "status_code", "http_code"):
        value = level.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return 0


def _waits(headers: dict[str, str], error: dict[str, Any]) -> dict[str, str]:
    """The headers, with waiting times added that only the body knows."""
    meta = error.get("metadata")
    behind = meta.get("headers") if isinstance(meta, dict) else None
    if isinstance(behind, dict):
        for name, value in behind.items():
            if isinstance(value, (str, int)):
                headers.setdefault(str(name).lower(), str(value))
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)s", delay) if isinstance(delay, str) else None
        if match and "retry-after" not in headers:
            headers.setdefault("retry-after-ms", str(round(float(match.group(1)) * 1000)))
    return headers
