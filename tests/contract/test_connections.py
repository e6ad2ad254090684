"""The connections to providers: TLS against a real authority, a real proxy, reuse, idle age, and what is never done.

In-process through `Sessions` and `Call`, which are what ccm itself uses; the environment's traps through a running ccm.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ccm.config import urls
from ccm.config.proxies import Found, bypassed, from_environment
from ccm.errors import UpstreamError
from ccm.model import FailureKind, Provider, Secret, Timeouts
from ccm.upstream import session, sessions
from ccm.upstream.call import Call
from ccm.upstream.sessions import Pool, Sessions
from tests import answers
from tests.gateway import KEY, Gateway, provider
from tests.http1 import message, post
from tests.tls import Authority, Proxy, Request, Server, ok, response
from tests.upstream import Upstream

API_KEY = "sk-key-of-the-provider-0123456789"
Serve = Callable[..., Server]

needs_openssl = pytest.mark.skipif(bool(Authority.missing()), reason=Authority.missing())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_cert(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server")


@pytest.fixture
def tls(authority: Authority, server_cert: tuple[Path, Path]) -> Iterator[Server]:
    with Server(authority.server_context(*server_cert)) as server:
        yield server


@pytest.fixture
def plain() -> Iterator[Server]:
    with Server() as server:
        yield server


def make(url: str, **options: Any) -> Provider:
    return Provider(
        "prov", "custom", "anthropic", url, timeouts=Timeouts(connect_s=3.0), options={k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    )  # fmt: skip


def exchange(
    using: Sessions, of: Provider, path: str = "/v1/messages", limit: float = 5.0
) -> tuple[int, bytes]:
    call = Call(using.pool(of))
    deadline = time.monotonic() + limit
    call.send(path, {"x-api-key": API_KEY}, b"{}", deadline)
    assert call.head is not None
    body = call.read_all(deadline, 100_000)
    call.release()
    return call.head.status, body


def refused(using: Sessions, of: Provider) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        exchange(using, of)
    assert caught.value.error.kind in (FailureKind.CONNECT, FailureKind.BROKEN), caught.value
    return caught.value


def unverified(error: UpstreamError) -> bool:
    return bool(re.search("certificate is not trusted", str(error)))


@pytest.fixture
def using() -> Iterator[Sessions]:
    made = Sessions()
    yield made
    made.close()


# ---- TLS


@needs_openssl
def test_a_private_authority_must_be_named(using: Sessions, tls: Server, authority: Authority) -> None:
    error = refused(using, make(tls.url))
    assert unverified(error) and tls.requests == []
    assert exchange(using, make(tls.url, ca_bundle=authority.ca)) == (200, b'{"ok": true}')
    assert tls.requests[0].headers["x-api-key"] == API_KEY


@needs_openssl
def test_a_certificate_of_another_name_is_refused(using: Sessions, authority: Authority) -> None:
    with Server(authority.server_context(*authority.issue("other", "DNS:other.example"))) as server:
        error = refused(using, make(server.url, ca_bundle=authority.ca))
        assert unverified(error) and server.requests == []


@needs_openssl
def test_old_tls_is_refused(using: Sessions, authority: Authority, server_cert: tuple[Path, Path]) -> None:
    context = authority.server_context(*server_cert)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Server(context) as server:
        refused(using, make(server.url, ca_bundle=authority.ca))
        assert server.requests == []


@needs_openssl
def test_client_certificates(
    using: Sessions, authority: Authority, server_cert: tuple[Path, Path], tmp_path: Path
) -> None:
    context = authority.server_context(*server_cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    cert, key = authority.issue("client", "DNS:me.example")
    both = tmp_path / "both.pem"
    both.write_text(cert.read_text() + key.read_text())
    with Server(context) as server:
        refused(using, make(server.url, ca_bundle=authority.ca))
        assert exchange(using, make(server.url, ca_bundle=authority.ca, client_cert=both))[0] == 200
        separate = make(server.url, ca_bundle=authority.ca, client_cert=cert, client_key=key)
        assert exchange(using, separate)[0] == 200
        names = [dict(pair[0] for pair in r.peer["subject"])["commonName"] for r in server.requests]
        assert names == ["client", "client"]


@needs_openssl
def test_a_locked_private_key_does_not_wait_for_a_password(
    using: Sessions, tls: Server, authority: Authority
) -> None:
    cert, key = authority.issue("locked", "DNS:me.example")
    began = time.monotonic()
    error = refused(using, make(tls.url, client_cert=cert, client_key=authority.encrypt(key)))
    assert time.monotonic() - began < 2 and "locked" in str(error)


@pytest.mark.parametrize("option", ["ca_bundle", "client_cert"])
def test_files_that_cannot_be_used_are_named(using: Sessions, option: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for path in (bad, tmp_path / "missing.pem"):
        error = refused(using, make("https://127.0.0.1:1", **{option: path}))
        assert f"{option} {path}" in str(error)


@needs_openssl
def test_a_renewed_bundle_is_read_again(
    using: Sessions, tls: Server, authority: Authority, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    other = tmp_path / "other"
    other.mkdir()
    bundle.write_bytes(Authority(other).ca.read_bytes())
    refused(using, make(tls.url, ca_bundle=bundle))
    bundle.write_bytes(authority.ca.read_bytes())
    os.utime(bundle, ns=(1, 1))
    assert exchange(using, make(tls.url, ca_bundle=bundle))[0] == 200, "a reload makes a new Provider"


# ---- proxies


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as found:
        yield found


@needs_openssl
def test_https_goes_through_a_tunnel(
    using: Sessions, tls: Server, authority: Authority, proxy: Proxy
) -> None:
    through = make(tls.url, ca_bundle=authority.ca, proxy=proxy.url)
    for _ in range(3):
        assert exchange(using, through)[0] == 200
    assert [(m, t) for m, t, _ in proxy.heads] == [("CONNECT", f"127.0.0.1:{tls.port}")], (
        "one tunnel, kept alive"
    )
    assert "proxy-authorization" not in proxy.heads[0][2]
    assert API_KEY.encode() not in proxy.passed, "the proxy sees ciphertext only"
    assert len(tls.requests) == 3 and tls.requests[0].path == "/v1/messages"


@needs_openssl
def test_the_certificate_is_verified_through_the_tunnel_too(
    using: Sessions, tls: Server, proxy: Proxy
) -> None:
    assert unverified(refused(using, make(tls.url, proxy=proxy.url)))
    assert tls.requests == []


@needs_openssl
def test_proxy_credentials(using: Sessions, tls: Server, authority: Authority) -> None:
    wanted = "Basic " + base64.b64encode(b"user:p@ss:w/rd").decode()
    with Proxy(auth=wanted) as proxy:
        error = refused(using, make(tls.url, ca_bundle=authority.ca, proxy=proxy.url))
        assert "407" in str(error)
        known = make(
            tls.url, ca_bundle=authority.ca, proxy=proxy.url, proxy_auth=Secret("user:p@ss:w/rd", "x")
        )
        assert exchange(using, known)[0] == 200
        wrong = make(tls.url, ca_bundle=authority.ca, proxy=proxy.url, proxy_auth=Secret("user:wrong", "x"))
        assert "wrong" not in str(refused(using, wrong))
    assert all("proxy-authorization" not in r.headers for r in tls.requests)


def test_plain_http_through_a_proxy_names_the_whole_url(using: Sessions, plain: Server, proxy: Proxy) -> None:
    assert exchange(using, make(f"{plain.url}/base", proxy=proxy.url)) == (200, b'{"ok": true}')
    assert proxy.heads[0][:2] == ("POST", f"{plain.url}/base/v1/messages")
    assert plain.requests[0].path == "/base/v1/messages"


def test_a_proxy_that_is_away_or_no_proxy(using: Sessions, tls: Server, plain: Server) -> None:
    refused(using, make(tls.url, proxy="http://127.0.0.1:1"))
    plain.reply = lambda request: response(403, b"no")
    assert "403" in str(refused(using, make(tls.url, proxy=plain.url)))
    assert "only http:// proxies" in str(refused(using, make(tls.url, proxy="https://127.0.0.1:1")))


@pytest.mark.parametrize(
    ("base", "env", "found"),
    [
        ("https://api.x.com/v1", {"HTTPS_PROXY": "http://p:3128"}, ("http://p:3128", "", "HTTPS_PROXY")),
        (
            "https://api.x.com",
            {"https_proxy": "p:1", "HTTPS_PROXY": "q:2"},
            ("http://p:1", "", "https_proxy"),
        ),
        ("https://api.x.com", {"all_proxy": "http://p/"}, ("http://p:80", "", "all_proxy")),
        ("https://api.x.com", {"HTTP_PROXY": "http://p:1"}, ("", "", "")),
        ("http://10.1.2.3", {"http_proxy": "http://p:1"}, ("http://p:1", "", "http_proxy")),
        (
            "https://a",
            {"https_proxy": "http://us%40er:p%3Aw@p:1"},
            ("http://p:1", "us@er:p:w", "https_proxy"),
        ),
        ("https://a", {"https_proxy": "http://[::1]:8"}, ("http://[::1]:8", "", "https_proxy")),
        ("https://127.0.0.1:8443", {"https_proxy": "http://p:1"}, ("", "", "")),
        ("http://localhost:11434", {"http_proxy": "http://p:1"}, ("", "", "")),
        ("https://api.x.com", {"https_proxy": "http://p:1", "NO_PROXY": "other, x.com"}, ("", "", "")),
        ("https://api.x.com", {"https_proxy": "http://p:1", "no_proxy": "*"}, ("", "", "")),
        ("https://api.x.com", {"https_proxy": " "}, ("", "", "")),
    ],
)
def test_the_environments_proxy_is_used_when_asked_for(
    base: str, env: dict[str, str], found: tuple[str, ...]
) -> None:
    assert from_environment(base, env) == Found(*found)


@pytest.mark.parametrize("value", ["https://u:SECRET@p:1", "socks5://SECRET", "http://:SECRET", "http://p:99999999/SECRET", "http://p:0"])  # fmt: skip
def test_an_unusable_proxy_variable_is_named_and_not_shown(value: str) -> None:
    found = from_environment("https://a", {"HTTPS_PROXY": value})
    assert found.url == "" and "HTTPS_PROXY" in found.problem and "SECRET" not in str(found)


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "is_bypassed"),
    [
        ("api.x.com", 443, "x.com", True),
        ("api.x.com", 443, ".x.com", True),
        ("api.x.com", 443, "*.x.com", True),
        ("notx.com", 443, "x.com", False),
        ("x.com.evil", 443, "x.com", False),
        ("x.com", 8443, "x.com:8443", True),
        ("x.com", 443, "x.com:8443", False),
        ("10.1.2.3", 443, "10.0.0.0/8", True),
        ("11.1.2.3", 443, "10.0.0.0/8", False),
        ("fd00::1", 443, "fd00::/8", True),
        ("fd00::1", 443, "[fd00::1]:443", True),
        ("x.com", 443, "nonsense//,,x.com", True),
        ("x.com", 443, "", False),
    ],
)
def test_no_proxy(host: str, port: int, no_proxy: str, is_bypassed: bool) -> None:
    assert bypassed(host, port, no_proxy) is is_bypassed


# ---- reuse, age and staleness


def test_one_connection_serves_many_calls(using: Sessions, plain: Server) -> None:
    of = make(plain.url)
    for _ in range(20):
        exchange(using, of)
    assert plain.connections == 1 and [r.connection for r in plain.requests] == [1] * 20


def test_parallel_calls_get_a_connection_each_and_leave_them_for_others(
    using: Sessions, plain: Server
) -> None:
    barrier = threading.Barrier(8)

    def meet(request: Request) -> bytes:
        barrier.wait(5)
        return ok(request)

    plain.reply = meet
    of, done = make(plain.url), []
    threads = [threading.Thread(target=lambda: done.append(exchange(using, of)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert done == [200] * 8 and plain.connections == 8
    plain.reply = ok
    for _ in range(20):
        exchange(using, of)
    assert plain.connections == 8


def test_old_connections_are_dropped_when_taken(
    using: Sessions, plain: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = make(plain.url)
    calls = [Call(using.pool(of)) for _ in range(3)]
    for call in calls:
        call.send("/", {}, b"{}", time.monotonic() + 5)
        call.read_all(time.monotonic() + 5, 1000)
    for call in calls:
        call.release()
    plain.wait_open(3)
    now = time.clock_gettime(sessions._CLOCK)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now + sessions.IDLE_LIMIT_S - 1)
    exchange(using, of)
    assert plain.connections == 3, "just young enough"
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now + 3 * sessions.IDLE_LIMIT_S)
    exchange(using, of)
    assert plain.connections == 4
    plain.wait_open(1)


def test_a_connection_that_the_provider_closed_is_replaced(using: Sessions, plain: Server) -> None:
    of = make(plain.url)
    exchange(using, of)
    plain.hang_up()
    assert exchange(using, of)[0] == 200
    assert [r.connection for r in plain.requests] == [1, 2]


def test_a_connection_that_closes_under_the_request_is_replaced_once(using: Sessions, plain: Server) -> None:
    """The keep-alive race: the provider closes in the moment we send."""
    of = make(plain.url)
    exchange(using, of)
    plain.reply = lambda request: b"" if request.connection == 1 else ok(request)
    assert exchange(using, of)[0] == 200
    assert [r.connection for r in plain.requests] == [1, 1, 2]
    plain.reply = lambda request: b""
    assert "closed the connection without an answer" in str(refused(using, of))
    assert plain.connections == 3, "a fresh connection is not replaced"


def test_connection_close_is_obeyed(using: Sessions, plain: Server) -> None:
    plain.reply = lambda request: response(200, b"{}", connection="close")
    of = make(plain.url)
    exchange(using, of)
    exchange(using, of)
    assert plain.connections == 2


def test_a_pool_that_a_reload_closed_still_serves(using: Sessions, plain: Server) -> None:
    of = make(plain.url)
    exchange(using, of)
    pool = using.pool(of)
    using.keep(())
    plain.wait_open(0)
    call = Call(pool)  # chosen before the reload
    call.send("/", {}, b"{}", time.monotonic() + 5)
    assert call.head is not None and call.head.status == 200
    call.read_all(time.monotonic() + 5, 1000)
    call.release()
    plain.wait_open(0)


def test_changed_ways_have_pools_of_their_own(using: Sessions) -> None:
    first = using.pool(make("http://127.0.0.1:1"))
    assert using.pool(make("http://127.0.0.1:1")) is first
    assert using.pool(make("http://127.0.0.1:2")) is not first
    one, two = (
        make("http://127.0.0.1:1", proxy="http://p:1", proxy_auth=Secret(s, "x")) for s in ("a:b", "a:c")
    )
    assert using.pool(one) is not using.pool(two) and using.pool(one) is not first


def test_the_seam_of_urllib3_is_there() -> None:
    """What the hot path stands on. When this fails, `Pool` still works, with one connection per call."""
    assert callable(urllib3.HTTPConnectionPool._get_conn) and callable(urllib3.HTTPConnectionPool._put_conn)
    assert callable(urllib3.HTTPSConnectionPool._prepare_proxy)


@needs_openssl
@pytest.mark.parametrize("proxied", [False, True])
def test_without_the_seam_every_call_connects_anew(
    using: Sessions,
    plain: Server,
    tls: Server,
    authority: Authority,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    proxied: bool,
) -> None:
    monkeypatch.delattr(urllib3.HTTPConnectionPool, "_get_conn")
    monkeypatch.delattr(urllib3.HTTPConnectionPool, "_put_conn")
    server = plain if proxied else tls
    of = make(plain.url, proxy=proxy.url) if proxied else make(tls.url, ca_bundle=authority.ca)
    assert [exchange(using, of)[0] for _ in range(3)] == [200] * 3
    assert server.connections == 3 and len(proxy.heads) == (3 if proxied else 0)


def test_plain_http_needs_no_session(using: Sessions, plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local providers: `requests` is not even imported for them; their connections are reused and end with the pool."""
    monkeypatch.setattr(sessions, "session", None)
    of = make(plain.url)
    assert [exchange(using, of)[0] for _ in range(3)] == [200] * 3
    assert plain.connections == 1 and using.pool(of).session is None
    pool = using.pool(of)
    taken, reused = pool.take()
    assert reused
    using.close()
    pool.give(taken)  # a call that was running while its pool was closed
    assert taken.sock.fileno() == -1 and not pool._idle


def test_a_plain_connection_that_said_something_unasked_is_not_used(using: Sessions, plain: Server) -> None:
    of = make(plain.url)
    exchange(using, of)
    pool = using.pool(of)
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    odd = sessions.Plain(mine)
    pool.give(odd)
    theirs.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    taken, reused = pool.take()
    assert taken is not odd and reused and mine.fileno() == -1
    taken.close()
    theirs.close()


# ---- where a name leads


@pytest.mark.parametrize(
    ("url", "address", "said"),
    [
        ("https://api.example.com", "93.184.216.34", ""),
        ("https://api.example.com", "10.0.0.1", ""),
        ("https://api.example.com", "2606:2800:220:1::1", ""),
        ("https://api.example.com", "169.254.169.254", "link-local"),
        ("https://api.example.com", "169.254.1.1", "link-local"),
        ("https://api.example.com", "fe80::1%eth0", "link-local"),
        ("https://api.example.com", "::ffff:169.254.169.254", "link-local"),
        ("https://api.example.com", "64:ff9b::a9fe:a9fe", "link-local"),
        ("https://api.example.com", "100.100.100.200", "metadata"),
        ("https://api.example.com", "fd00:ec2::254", "metadata"),
        ("https://api.example.com", "0.0.0.0", "every address"),
        ("https://api.example.com", "224.0.0.1", "not the address of a host"),
        ("http://vllm.lan:8000", "192.168.1.5", ""),
        ("http://vllm.lan:8000", "93.184.216.34", "public address"),
        ("http://vllm.lan:8000", "169.254.169.254", "metadata"),
        ("http://localhost:11434", "127.0.0.1", ""),
        ("http://localhost:11434", "::1", ""),
        ("http://localhost:11434", "10.0.0.1", "not this machine"),
        ("http://ollama.localhost:11434", "8.8.8.8", "not this machine"),
    ],
)
def test_the_resolved_address_is_judged(url: str, address: str, said: str) -> None:
    pool = Pool(make(url))
    if not said:
        pool._check_peer(address)
        return
    with pytest.raises(OSError, match=said):
        pool._check_peer(address)


def test_a_refused_address_gets_no_byte(
    using: Sessions, plain: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(address: Any) -> str:
        asked.append(str(address))
        return "is a link-local or cloud metadata address: keys never go there"

    monkeypatch.setattr(sessions, "refuse_address", refuse)
    error = refused(using, make(plain.url))
    assert error.error.kind is FailureKind.CONNECT
    assert "it leads to 127.0.0.1, which is a link-local or cloud metadata address" in str(error)
    plain.wait_open(0)
    assert asked == ["127.0.0.1"] and plain.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com", "http://8.8.8.8/v1", "ftp://api.example.com", "//api.example.com", "api.example.com",
        "https://user@api.example.com", "https://user:pw@api.example.com", "https://api.example.com/v1?key=x",
        "https://api.example.com/#x", "https://", "https://api.example.com:0", "https://169.254.169.254/latest",
        "https://[fe80::1]/", "https://[::ffff:169.254.169.254]/", "https://[64:ff9b::a9fe:a9fe]/", "https://2852039166/",
        "https://0xa9fea9fe/", "https://0251.0376.0251.0376/", "https://169.254.43518/", "https://metadata.google.internal/",
        "https://metadata/", "https://instance-data/", "https://100.100.100.200/", "https://[fd00:ec2::254]/",
        "https://0.0.0.0/", "https://[::]/", "https://224.0.0.1/", "https://api.example.com/../x", "https://api.example.com/%2e%2e/",
        "https://api.example.com\\@evil/", "https://api.example.com/ x", "http://127.0.0.1.example.com/", "https://api.example.com:x/",
    ],
)  # fmt: skip
def test_base_urls_that_are_refused(url: str) -> None:
    with pytest.raises(urls.BadAddress):
        urls.normalise(url, "anthropic")


def test_loopback_is_what_python_calls_loopback() -> None:
    assert ipaddress.ip_address("127.0.0.2").is_loopback, "what the checks above stand on"


# ---- what never happens


def test_no_cookies(using: Sessions, plain: Server) -> None:
    plain.reply = lambda request: response(200, b"{}", set_cookie="id=1; Path=/")
    of = make(plain.url)
    exchange(using, of)
    exchange(using, of)
    assert all("cookie" not in r.headers for r in plain.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(using: Sessions, plain: Server, status: int) -> None:
    with Server() as trap:
        plain.reply = lambda request: response(status, b"", location=f"{trap.url}/v1/messages")
        assert exchange(using, make(plain.url))[0] == status
        assert trap.connections == 0


def test_the_environment_does_not_matter(up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path) -> None:
    """netrc, proxies, CA bundles and the key log of a running ccm: none of them is touched."""
    up.reset()
    keylog = tmp_path / "keylog"
    with Proxy() as trap:
        gw = fresh(
            provider(up, "a"),
            env={
                **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), trap.url),
                "REQUESTS_CA_BUNDLE": "/nonexistent", "CURL_CA_BUNDLE": "/nonexistent", "SSLKEYLOGFILE": str(keylog),
                "NETRC": str(tmp_path / "netrc"),
            },
        )  # fmt: skip
        for place in (tmp_path / "netrc", gw.home / ".netrc"):
            place.write_text("machine 127.0.0.1 login trap password trap\ndefault login trap password trap\n")
            place.chmod(0o600)
        reply = post(gw.base_url, message())
        assert reply.status == 200 and reply.text == answers.TEXT
        assert trap.heads == []
    seen = up.seen("/a")[-1]
    assert seen.headers["x-api-key"] == KEY and "authorization" not in seen.headers
    assert not keylog.exists()


@needs_openssl
def test_the_key_log_of_openssl_stays_unwritten(
    using: Sessions, tls: Server, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keylog"))
    session._contexts.clear()
    assert exchange(using, make(tls.url, ca_bundle=authority.ca))[0] == 200
    assert not (tmp_path / "keylog").exists()


def test_a_redirecting_provider_is_told_and_left(up: Upstream, fresh: Callable[..., Gateway]) -> None:
    up.reset()
    with Server() as trap:
        up.always("/a", ("status", 307, {"location": f"{trap.url}/v1/messages?x=1"}))
        up.always("/b", ("answer",))
        gw = fresh(provider(up, "a", priority=1) + provider(up, "b", priority=2))
        reply = post(gw.base_url, message())
        assert reply.status == 200 and reply.headers["x-ccm-provider"] == "b"
        assert trap.connections == 0
        told = gw.ctl("requests", "--json").stdout
        assert reply.headers["x-ccm-attempts"] == "a=protocol,b=200"
        assert "redirects are not followed" in told and "?x=1" not in told
