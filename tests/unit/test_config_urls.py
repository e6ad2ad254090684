"""Addresses: every way an ecosystem writes its base URL ends in one form, and nothing dangerous passes."""

from __future__ import annotations

import ipaddress

import pytest

from ccm.config.urls import BadAddress, check_proxy, normalise, parse_listen, refuse_address

A, C, R, G, B = "anthropic", "openai_chat", "openai_responses", "gemini", "bedrock"


@pytest.mark.parametrize(
    ("dialect", "written", "expected"),
    [
        (A, "https://api.anthropic.com", "https://api.anthropic.com"),
        (A, "https://api.anthropic.com/v1/", "https://api.anthropic.com"),
        (A, "https://api.anthropic.com/v1/messages", "https://api.anthropic.com"),
        (A, "https://h/v1/messages/count_tokens", "https://h"),
        (A, "https://h/v1/v1", "https://h"),
        (A, "https://api.z.ai/api/anthropic", "https://api.z.ai/api/anthropic"),
        (A, "http://127.0.0.1:9/up/name", "http://127.0.0.1:9/up/name"),
        (A, "http://127.0.0.1:9/up/name/v1", "http://127.0.0.1:9/up/name"),
        (C, "https://api.openai.com", "https://api.openai.com/v1"),
        (C, "https://api.openai.com/v1", "https://api.openai.com/v1"),
        (C, "https://api.openai.com/v1/", "https://api.openai.com/v1"),
        (C, "https://api.openai.com/v1/v1", "https://api.openai.com/v1"),
        (C, "https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
        (R, "https://api.openai.com/v1/responses", "https://api.openai.com/v1"),
        (R, "https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1"),
        (C, "https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4"),
        (C, "https://h/compatible-mode/v1", "https://h/compatible-mode/v1"),
        (C, "https://api.deepinfra.com/v1/openai", "https://api.deepinfra.com/v1/openai"),
        (C, "https://g/v1beta/openai", "https://g/v1beta/openai"),
        (C, "https://models.github.ai/inference", "https://models.github.ai/inference"),
        (C, "https://r.services.ai.azure.com/models", "https://r.services.ai.azure.com/models"),
        (C, "https://r/openai/deployments/d", "https://r/openai/deployments/d"),
        (C, "http://127.0.0.1:9/up/name/v1", "http://127.0.0.1:9/up/name/v1"),
        (C, "http://127.0.0.1:9/up/name", "http://127.0.0.1:9/up/name/v1"),
        (G, "https://g.example", "https://g.example/v1beta"),
        (G, "https://g.example/v1beta", "https://g.example/v1beta"),
        (G, "https://g.example/v1beta/v1beta/", "https://g.example/v1beta"),
        (G, "https://g.example/v1beta/models", "https://g.example/v1beta"),
        (G, "https://g.example/v1", "https://g.example/v1"),
        (G, "http://127.0.0.1:9/up/name/v1beta", "http://127.0.0.1:9/up/name/v1beta"),
        (G, "http://127.0.0.1:9/up/name", "http://127.0.0.1:9/up/name/v1beta"),
        (
            G,
            "https://g/v1/projects/p/locations/l/publishers/google",
            "https://g/v1/projects/p/locations/l/publishers/google",
        ),
        (B, "http://127.0.0.1:9/up/name/", "http://127.0.0.1:9/up/name"),
        (B, "https://HOST.example:443//x//", "https://host.example/x"),
        (A, "http://[::1]:8/x", "http://[::1]:8/x"),
        (A, "http://localhost:11434", "http://localhost:11434"),
        (A, "http://127.0.0.2:80/", "http://127.0.0.2"),
    ],
)
def test_base_urls(dialect: str, written: str, expected: str) -> None:
    assert normalise(written, dialect) == expected
    assert normalise(expected, dialect) == expected, "normalising twice changes nothing"


REFUSED = [
    "",
    "llm.example.com",
    "https://",
    "https:///x",
    "ftp://h",
    "file:///etc/passwd",
    "https://user@h",
    "https://user:pw@h",
    "https://h/?a=b",
    "https://h/?",
    "https://h/#f",
    "https://h#",
    "https://h:0",
    "https://h:99999",
    "https://h:x",
    "https://h/../etc",
    "https://h/%2e%2e/etc",
    "https://h/a\\b",
    "https://h\nx",
    "https://h x",
    "https://ho<st",
    "https://-h",
    "https://h_/{x}",
    "https://münchen.example",
    "http://llm.example.com",
    "http://10.0.0.1:8000",
    "http://8.8.8.8",
    "https://169.254.169.254",
    "https://169.254.1.1",
    "https://[fe80::1]",
    "https://[fd00:ec2::254]",
    "https://[::ffff:169.254.169.254]",
    "https://[64:ff9b::a9fe:a9fe]",
    "https://[2002:a9fe:a9fe::]",
    "https://100.100.100.200",
    "https://168.63.129.16",
    "https://metadata.google.internal",
    "https://METADATA.google.internal.",
    "https://metadata",
    "https://instance-data",
    "https://2852039166",
    "https://0xa9fea9fe",
    "https://0251.0376.0251.0376",
    "https://127.1",
    "https://0.0.0.0",
    "https://[::]",
    "https://224.0.0.1",
    "https://255.255.255.255",
]


@pytest.mark.parametrize("url", REFUSED)
@pytest.mark.parametrize("dialect", [A, C, B])
def test_refused_base_urls(url: str, dialect: str) -> None:
    with pytest.raises(BadAddress):
        normalise(url, dialect)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "http://ollama:11434", "http://llm.example.com"])
def test_plain_http_needs_to_be_allowed(url: str) -> None:
    with pytest.raises(BadAddress, match="allow_http = true"):
        normalise(url, A)
    assert normalise(url, A, allow_http=True) == url


def test_plain_http_to_a_public_address_is_never_allowed() -> None:
    with pytest.raises(BadAddress, match="use https"):
        normalise("http://8.8.8.8", A, allow_http=True)
    with pytest.raises(BadAddress, match="metadata"):
        normalise("http://169.254.169.254", A, allow_http=True)


@pytest.mark.parametrize("text", ["127.0.0.1", "10.1.2.3", "8.8.8.8", "::1", "2001:db8::1"])
def test_ordinary_addresses_may_be_connected_to(text: str) -> None:
    assert refuse_address(ipaddress.ip_address(text)) == ""


@pytest.mark.parametrize(
    "text", ["169.254.0.1", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:169.254.169.254"]
)
def test_resolved_addresses_are_judged_too(text: str) -> None:
    assert refuse_address(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:13456", "127.0.0.1", 13456, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:1", "0.0.0.0", 1, False),
        ("[::]:1", "::", 1, False),
        ("192.168.1.5:65535", "192.168.1.5", 65535, False),
        ("Box.Lan:1", "box.lan", 1, False),
    ],
)
def test_listen(text: str, host: str, port: int, loopback: bool) -> None:
    listen = parse_listen(text)
    assert (listen.host, listen.port, listen.loopback) == (host, port, loopback)
    assert listen.wildcard == (host in ("0.0.0.0", "::"))


@pytest.mark.parametrize(
    "text", ["", "13456", ":13456", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:65536", "::1:80", "a b:1",
             "127.1:80", "http://h:1", "h:٣"]
)  # fmt: skip
def test_bad_listen(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_listen(text)


def test_proxies() -> None:
    check_proxy("http://127.0.0.1:3128")
    check_proxy("http://proxy.example/")
    for bad in (
        "https://h:1",
        "socks5://h:1",
        "http://",
        "http://u:p@h:1",
        "http://h:1/path",
        "h:3128",
        "http://h:x",
    ):
        with pytest.raises(BadAddress):
            check_proxy(bad)
