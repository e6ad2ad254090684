"""Addresses in a configuration: base URLs as each ecosystem writes them, and the address to listen on. Pure, no DNS.

A base URL decides where a key goes, so what is not plainly right is refused: no user name, query or fragment, plain
http only where nobody else listens, never link-local or cloud metadata hosts, no odd spellings of IP addresses. Names
are not resolved here: whoever connects asks `refuse_address` about each resolved address (RELIABILITY S18).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from ccm.late import regex

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Names and addresses under which clouds hand out credentials to whoever asks.
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.tencentyun.com",
    }
)
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_HOST_NAME = regex(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NUMBER_HOST = regex(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?")
_SEGMENT_VERSION = regex(r"v\d+(?:(?:alpha|beta)\d*)?", re.IGNORECASE)
_PATH = regex(r"[A-Za-z0-9._~:@!$&'()*+,;=%/-]*")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# Operations people paste with the base URL, per dialect; the dialect adds its own.
_OPERATIONS = {
    "anthropic": ("/messages/count_tokens", "/messages"),
    "openai_chat": ("/chat/completions", "/responses", "/completions", "/v1/models"),
    "openai_responses": ("/chat/completions", "/responses", "/completions", "/v1/models"),
    "gemini": ("/models",),
    "bedrock": ("/model",),
}


class BadAddress(ValueError):
    """An address that must not be used: `text` says what is wrong, `fix` what to write instead."""

    def __init__(self, text: str, fix: str = "") -> None:
        self.text = text
        self.fix = fix
        super().__init__(f"{text} ({fix})" if fix else text)


class Listen(NamedTuple):
    """Where to listen. `host` without brackets; port 0 takes a free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def wildcard(self) -> bool:
        """Every address of the machine."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - recognised here, not bound


def parse_listen(text: str) -> Listen:
    """The address of `[proxy] listen`: "127.0.0.1:13456", "[::1]:13456", "localhost:0". Raises BadAddress."""
    host, colon, port = text.strip().rpartition(":")
    fix = 'write it as "127.0.0.1:13456"'
    if not colon or not host:
        raise BadAddress("needs a host and a port", fix)
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise BadAddress("the port must be a number from 0 to 65535", fix)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadAddress("an IPv6 address needs brackets", f'write it as "[{host}]:{port}"')
    if _ip(host) is None and (_NUMBER_HOST.fullmatch(host.lower()) or not _HOST_NAME.fullmatch(host.lower())):
        raise BadAddress("the host is neither an IP address nor a name", fix)
    return Listen(host.lower(), int(port))


def normalise(url: str, dialect: str, allow_http: bool = False) -> str:
    """The base URL that a dialect appends its paths to; a missing or doubled version segment is put right.

    anthropic: without /v1 (".../v1/messages" is understood). openai_*: ends in /v1 unless its path already names a
    version or an API (/api/paas/v4, /v1/openai, /inference). gemini: ends in /v1beta or another version. bedrock: as it is.
    A path in front is kept. Raises BadAddress.
    """
    scheme, authority, path = _split(url, allow_http)
    path = re.sub(r"/{2,}", "/", path).rstrip("/")
    for operation in _OPERATIONS.get(dialect, ()):
        if path.endswith(operation):
            path = path[: -len(operation)].rstrip("/")
            break
    return f"{scheme}://{authority}{_VERSIONED[dialect](path)}"


def check_proxy(url: str) -> None:
    """Refuses what is not the plain URL of an HTTP proxy ("http://127.0.0.1:3128"). Raises BadAddress."""
    try:
        parts = urlsplit(url)
        known = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadAddress("is not the URL of an HTTP proxy", 'write it as "http://host:port"')
    if "@" in parts.netloc:
        raise BadAddress("must not carry a user name or password", "this file is no place for secrets")


def _anthropic(path: str) -> str:
    while path.endswith("/v1"):
        path = path[:-3].rstrip("/")
    return path


def _openai(path: str) -> str:
    while path.endswith("/v1/v1"):
        path = path[:-3]
    segments = path.split("/")
    if any(_SEGMENT_VERSION.fullmatch(segment) for segment in segments[-2:]):
        return path
    # Bases without a version of their own: GitHub Models, Azure's model inference and its classic deployments.
    if path == "/models" or path.endswith("/inference") or "/openai/deployments/" in path:
        return path
    return f"{path}/v1"


def _gemini(path: str) -> str:
    segments = path.split("/")
    while len(segments) > 2 and segments[-1] == segments[-2] and _SEGMENT_VERSION.fullmatch(segments[-1]):
        segments.pop()
    path = "/".join(segments)
    # A version may stand further in front: Vertex' .../v1/projects/p/locations/l/publishers/google.
    if _SEGMENT_VERSION.fullmatch(segments[-1]) or "/publishers/" in path:
        return path
    return f"{path}/v1beta"


_VERSIONED: Mapping[str, Callable[[str], str]] = {
    "anthropic": _anthropic,
    "openai_chat": _openai,
    "openai_responses": _openai,
    "gemini": _gemini,
    "bedrock": lambda path: path,
}


def _split(url: str, allow_http: bool) -> tuple[str, str, str]:
    if any(c <= " " or c in '\\"<>^`{|}' or ord(c) > 126 for c in url):
        raise BadAddress("holds characters that a URL can't hold")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadAddress("is not a URL", 'write it as "https://host/path"') from None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") or not parts.netloc:
        raise BadAddress("is not a URL", 'write it as "https://host/path"')
    if "@" in parts.netloc:
        raise BadAddress(
            "must not carry a user name or password",
            "keys belong to api_key_env, api_key_file or api_key_command",
        )
    if parts.query or "?" in url:
        raise BadAddress("must not carry a query", "leave out what follows the question mark")
    if parts.fragment or "#" in url:
        raise BadAddress("must not carry a fragment", "leave out what follows the #")
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise BadAddress("names no host", 'write it as "https://host/path"')
    if port == 0:
        raise BadAddress("port 0 can't be connected to")
    if not _PATH.fullmatch(parts.path) or any(
        s in (".", "..") for s in parts.path.lower().replace("%2e", ".").split("/")
    ):
        raise BadAddress("holds a path that a base URL can't hold")
    address = _ip(host)
    if address is not None:
        if reason := refuse_address(address):
            raise BadAddress(reason)
    else:
        _check_name(host)
    if scheme == "http" and not _is_loopback(host, address):
        if address is not None and address.is_global:
            raise BadAddress("plain http would show the key to everyone on the way", "use https")
        if not allow_http:
            raise BadAddress(
                "plain http would show the key to everyone on the way",
                "use https, or set allow_http = true for a private network",
            )
    shown = f"[{host}]" if isinstance(address, ipaddress.IPv6Address) else host
    default = {"http": 80, "https": 443}[scheme]
    return scheme, shown if port in (None, default) else f"{shown}:{port}", parts.path


def _check_name(host: str) -> None:
    if host in _METADATA_NAMES:
        raise BadAddress("is a cloud metadata host: keys never go there")
    if _NUMBER_HOST.fullmatch(host):
        # inet_aton reads 2852039166, 0xa9fea9fe and 0251.0376.0.1 as addresses; nobody means well by them.
        raise BadAddress("spells an IP address in an unusual way", "write it as four decimal numbers")
    if not _HOST_NAME.fullmatch(host):
        raise BadAddress("the host is neither an IP address nor a name")


def refuse_address(address: Address) -> str:
    """Why no provider may be reached at this address, "" when it may: link-local, metadata, unspecified, multicast.

    IPv4 inside IPv6 (mapped, 6to4, NAT64) is judged by the IPv4 address. To be asked again for every resolved address.
    """
    inner = _inner_ipv4(address)
    if inner is not None:
        return refuse_address(inner)
    if address.is_link_local or address in _METADATA_ADDRESSES:
        return "is a link-local or cloud metadata address: keys never go there"
    if address.is_unspecified:
        return "stands for every address of a machine, which can't be connected to"
    if address.is_multicast or (isinstance(address, ipaddress.IPv4Address) and address.is_reserved):
        return "is not the address of a host"
    return ""


def _inner_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _ip(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_local(url: str) -> bool:
    """Whether this base URL stays on this machine."""
    host = urlsplit(url).hostname or ""
    return _is_loopback(host, _ip(host))


def _is_loopback(host: str, address: Address | None) -> bool:
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    inner = _inner_ipv4(address)
    return (inner or address).is_loopback
