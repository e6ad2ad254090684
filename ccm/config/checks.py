"""Checks of single configuration values, for the table in `config.schema`. Pure.

A check takes a value of the right TOML type and returns None, or what is wrong and what to write instead. It never shows
a value that may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

from ccm.catalog.rows import QUIRKS
from ccm.config import urls
from ccm.late import regex
from ccm.model import STRATEGIES

Fault = tuple[str, str]  # what is wrong, what to write instead
Check = Callable[[Any], "Fault | None"]

ENV_NAME = regex(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL = regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
PROJECT = regex(r"[a-z0-9](?:[a-z0-9.:-]{0,126}[a-z0-9])?")
API_VERSION = regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
_MODEL = regex(r"[^\s\x00-\x1f\x7f?#\\]{1,256}")
_HEADER_NAME = regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = regex(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")
# How the keys of the well-known providers begin, and what any long key looks like.
_KEY_STARTS = (
    "sk-", "sk_", "gsk_", "xai-", "AIza", "hf_", "ghp_", "github_pat_", "AKIA", "ASIA", "nvapi-", "csk-", "fw_",
    "pplx-", "r8_", "eyJ", "Bearer ",
)  # fmt: skip
_LONG = regex(r"(?=.*[a-z])(?=.*\d)[\w.+=-]{32,}")
# Headers that ccm or the transport sets itself; a second one would split or reroute requests, or carry a key.
_OWN_HEADERS = frozenset((
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect",
    "content-type", "accept-encoding", "content-encoding", "cookie", "proxy-authorization", "proxy-connection",
))  # fmt: skip
_KEY_HEADERS = frozenset(("authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token"))
_KEY_FIX = "name the key's place with api_key_env, api_key_file or api_key_command"


def between(low: float, high: float, unit: str = "") -> Check:
    tail = f" {unit}" if unit else ""

    def check(value: Any) -> Fault | None:
        return None if low <= value <= high else (f"must be from {low:g} to {high:g}{tail}", "")

    return check


def one_of(*known: str) -> Check:
    def check(value: Any) -> Fault | None:
        if value in known:
            return None
        near = nearest(value, known)
        return f"is none of {', '.join(known)}", f"did you mean {near}?" if near else ""

    return check


def matching(pattern: re.Pattern[str], text: str, fix: str = "") -> Check:
    return lambda value: None if pattern.fullmatch(value) else (text, fix)


def listen(value: Any) -> Fault | None:
    try:
        urls.parse_listen(value)
    except urls.BadAddress as error:
        return error.text, error.fix
    return None


def strategy(value: Any) -> Fault | None:
    return one_of(*STRATEGIES)(value.replace("_", "-"))


def token(value: Any) -> Fault | None:
    if not value or not value.isascii() or any(c <= " " or c == "\x7f" for c in value):
        return "must be printable characters without blanks", ""
    return None


def host_names(value: Any) -> Fault | None:
    for host in value:
        if not re.fullmatch(r"\[?[A-Za-z0-9_.:-]+\]?", host):
            return f"{host!r} is not a host name", "write names without a scheme, port or path"
    return None


def variables(value: Any) -> Fault | None:
    for name in [value] if isinstance(value, str) else value:
        if looks_secret(name):
            return "holds what looks like a key itself", "write the name of the variable that holds the key"
        if not ENV_NAME.fullmatch(name):
            return "is not the name of an environment variable", 'for example "OPENAI_API_KEY"'
    return None


def no_secret(value: Any) -> Fault | None:
    if any(looks_secret(v) for v in ([value] if isinstance(value, str) else value)):
        return "holds what looks like a key itself", _KEY_FIX
    return filled(value)


def filled(value: Any) -> Fault | None:
    parts = [value] if isinstance(value, str) else value
    if not all(part.strip() and "\0" not in part for part in parts):
        return "must not be empty", ""
    return None


def command(value: Any) -> Fault | None:
    if isinstance(value, list):
        return None if value[0].strip() and not any("\0" in v for v in value) else ("must not be empty", "")
    return filled(value)


def api_key(_value: Any) -> Fault | None:
    return "keys don't belong in this file", _KEY_FIX


def quirks(value: Any) -> Fault | None:
    for quirk in value:
        if quirk not in QUIRKS:
            near = nearest(quirk, QUIRKS)
            return (
                f"{quirk!r} is not a known quirk",
                f"did you mean {near}?" if near else f"known are {', '.join(QUIRKS)}",
            )
    return None


def proxy(value: Any) -> Fault | None:
    if value == "env":  # the one the environment names
        return None
    try:
        urls.check_proxy(value)
    except urls.BadAddress as error:
        return error.text, error.fix
    return None


def header(value: Any) -> Fault | None:
    return (
        None
        if _HEADER_VALUE.fullmatch(value)
        else ("is not a header value", "one line of text, no control characters")
    )


def check_header_name(name: str) -> Fault | None:
    """What is wrong with a header's name in `[providers.<name>.headers]`."""
    if not _HEADER_NAME.fullmatch(name):
        return "is not a header name", ""
    if name.lower() in _KEY_HEADERS:
        return "carries a key", _KEY_FIX
    if name.lower() in _OWN_HEADERS:
        return "is set by ccm itself", "leave it out"
    return None


def model(value: Any) -> Fault | None:
    for model in value.values() if isinstance(value, dict) else [value]:
        if not isinstance(model, str):
            return "must be a model name, or a table of provider = model", ""
        if not _MODEL.fullmatch(model):
            return f"{model!r} is not a model name", ""
    return None


def looks_secret(text: str) -> bool:
    """Whether a text looks like a key rather than like a name of something."""
    if text.startswith(_KEY_STARTS) and len(text) > 8:
        return True
    return bool(_LONG.fullmatch(text)) and not ENV_NAME.fullmatch(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, "" when none is near."""
    found = difflib.get_close_matches(name.lower(), list(known), 1, 0.6)
    return found[0] if found else ""
