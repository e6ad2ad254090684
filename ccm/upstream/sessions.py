"""One tuned `requests` session per provider: it owns pool, TLS context, proxy and limits (DESIGN 5).

The hot path takes its connections from the session adapter's urllib3 pool and speaks HTTP/1.1 on them itself
(`call.py`): 20 us of CPU instead of 380-680 us per call. `trust_env` is off (a netrc entry would replace a bearer
token, the environment's proxy would receive the key), redirects and cookies do not exist here. Certificates are always
verified; where a provider's name leads is judged once per connection, before a byte of a request is sent.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.utils
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ClosedPoolError

from ccm.config.urls import refuse_address
from ccm.errors import UpstreamError
from ccm.model import EMPTY, FailureKind, Provider, ProviderError, Secret

POOL_SIZE = 256
IDLE_LIMIT_S = 60.0  # a pooled connection older than this may have been dropped silently (suspend, NAT)
# What of a provider's options makes another connection.
_OPTIONS = ("ca_bundle", "client_cert", "client_key", "proxy", "proxy_auth")
# The clock of idle connections goes on while the machine sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class _Adapter(requests.adapters.HTTPAdapter):
    """A pool with our TLS context, and credentials for the proxy that stand in no URL."""

    def __init__(self, context: ssl.SSLContext | None, proxy_auth: Secret | None = None) -> None:
        self._context = context
        self._proxy_auth = proxy_auth
        super().__init__(pool_connections=4, pool_maxsize=POOL_SIZE, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        return super().proxy_manager_for(proxy, **kwargs)

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return proxy_headers(self._proxy_auth)


def proxy_headers(auth: Secret | None) -> dict[str, str]:
    """What tells an HTTP proxy who we are: `auth` is "user:password"."""
    if auth is None:
        return {}
    return {"proxy-authorization": "Basic " + base64.b64encode(auth.reveal().encode()).decode()}


_contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
_contexts_lock = threading.Lock()


def tls_context(ca_bundle: str = "", client_cert: str = "", client_key: str = "") -> ssl.SSLContext:
    """The shared context (24-32 ms to make, so made once per set of files): the system's authorities, certifi's and
    those of `ca_bundle`; TLS 1.2 or newer. Raises OSError (ssl.SSLError too) for files that can't be used.

    Made by hand: `ssl.create_default_context` opens the file that SSLKEYLOGFILE names and would write the keys of
    every session there (RELIABILITY S20), and in 3.13 refuses private authorities for formal reasons.
    """
    key = tuple((name, _version(name)) for name in (ca_bundle, client_cert, client_key))
    with _contexts_lock:
        found = _contexts.get(key)
    if found is not None:
        return found
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    if ca_bundle:
        context.load_verify_locations(ca_bundle)
    if client_cert:
        # A password that is never right instead of OpenSSL's question at the terminal, which nobody would answer.
        context.load_cert_chain(client_cert, client_key or None, password=lambda: "")
    with _contexts_lock:
        return _contexts.setdefault(key, context)


def _version(name: str) -> tuple[int, int]:
    """A file that was replaced (a renewed certificate) is another file."""
    if not name:
        return 0, 0
    info = os.stat(name)
    return info.st_mtime_ns, info.st_size


def make_session(options: Mapping[str, Any] = EMPTY, secure: bool = True) -> requests.Session:
    """A session that goes where a provider's options say, and takes nothing from the environment. Raises OSError for
    certificate files that can't be used, ValueError for a proxy that can't."""
    context = None
    if secure:
        context = tls_context(
            *(str(options.get(name) or "") for name in ("ca_bundle", "client_cert", "client_key"))
        )
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.max_redirects = 0
    auth = options.get("proxy_auth")
    adapter = _Adapter(context, auth if isinstance(auth, Secret) else None)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    proxy = str(options.get("proxy") or "")
    if proxy:
        if not proxy.startswith("http://"):
            raise ValueError(
                "only http:// proxies can be used (they see no more of https than the host's name)"
            )
        session.proxies = {"http": proxy, "https": proxy}
    return session


class Sessions:
    """The sessions of all providers, made when first needed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[tuple[object, ...], Pool] = {}
        self._known: dict[
            int, tuple[Provider, Pool]
        ] = {}  # by id(provider): no key to be made on the hot path

    def pool(self, provider: Provider) -> Pool:
        """The provider's pool. A changed provider (other URL, proxy, CA) is another provider and gets another one.
        Raises UpstreamError where certificate files or the proxy can't be used."""
        known = self._known.get(id(provider))
        if known is not None and known[0] is provider:
            return known[1]
        key = _identity(provider)
        pool = self._pools.get(key)
        if pool is None:
            made = Pool(provider)
            with self._lock:
                pool = self._pools.setdefault(key, made)
        self._known[id(provider)] = (provider, pool)
        return pool

    def keep(self, providers: Iterable[Provider]) -> None:
        """Closes the idle connections of providers that are gone; running calls keep theirs to the end."""
        wanted = {_identity(p) for p in providers}
        with self._lock:
            gone = [key for key in self._pools if key not in wanted]
            pools = [self._pools.pop(key) for key in gone]
            self._known = {}
        for pool in pools:
            pool.close()

    def close(self) -> None:
        """Closes all idle connections."""
        self.keep(())


def _identity(provider: Provider) -> tuple[object, ...]:
    options = provider.options
    return (
        provider.name,
        provider.base_url,
        provider.timeouts.connect_s,
        *(options.get(name) or "" for name in _OPTIONS),
        *(_age(options.get(name)) for name in _OPTIONS[:3]),
    )


def _age(name: Any) -> tuple[int, int]:
    try:
        return _version(str(name or ""))
    except OSError:
        return 0, 0


class Pool:
    """One provider's connections. `path` is the base URL's path, to be put before the dialect's own."""

    def __init__(self, provider: Provider) -> None:
        url = urlsplit(provider.base_url)
        self.provider = provider
        self.secure = url.scheme == "https"
        self.host = url.hostname or ""
        self.port = url.port or (443 if self.secure else 80)
        self.path = url.path.rstrip("/")
        default = self.port == (443 if self.secure else 80)
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = name if default else f"{name}:{self.port}"
        proxy = str(provider.options.get("proxy") or "")
        try:
            self.session = make_session(provider.options, self.secure)
        except (OSError, ValueError) as error:
            raise _unusable(provider, error) from None
        adapter = self.session.get_adapter("https://")
        assert isinstance(adapter, _Adapter)
        manager: Any = adapter.proxy_manager_for(proxy) if proxy else adapter.poolmanager
        self._pool: HTTPConnectionPool = manager.connection_from_host(self.host, self.port, url.scheme)
        self._connect_s = provider.timeouts.connect_s
        self._proxied = bool(proxy)
        # Through a plain-HTTP proxy the target is the whole URL; https goes through CONNECT.
        self.absolute = f"{url.scheme}://{self.authority}" if proxy and not self.secure else ""
        # urllib3's seam. Where it has moved, one fresh connection per call still works.
        self._get = getattr(self._pool, "_get_conn", self._make)
        self._put = getattr(self._pool, "_put_conn", _close)

    def take(self) -> tuple[HTTPConnection, bool]:
        """A connected connection and whether it had been used before. Raises what urllib3 and ssl raise, OSError for
        a name that leads where no provider may be."""
        while True:
            try:
                connection: Any = self._get(timeout=0.001)
            except ClosedPoolError:  # by a reload, after our caller had chosen it
                connection = self._make()
            if getattr(connection, "sock", None) is None:
                break
            if time.clock_gettime(_CLOCK) - getattr(connection, "ccm_idle_since", 0.0) < IDLE_LIMIT_S:
                return connection, True
            connection.close()  # and those below it in the stack, one after the other: they are older still
        connection.timeout = self._connect_s
        try:
            if self._proxied and self.secure:
                self._pool._prepare_proxy(connection)
            else:
                connection.connect()
            if not self._proxied:
                self._check_peer(connection.sock.getpeername()[0])
        except BaseException:
            connection.close()
            raise
        connection.sock.setblocking(False)
        return connection, False

    def give(self, connection: HTTPConnection) -> None:
        """Back into the pool, for the next call."""
        connection.ccm_idle_since = time.clock_gettime(_CLOCK)  # type: ignore[attr-defined]
        self._put(connection)

    def close(self) -> None:
        """Closes idle connections."""
        self._pool.close()  # the manager forgets its pools, but leaves their connections open
        self.session.close()

    def _make(self, timeout: float = 0.0) -> Any:
        pool = self._pool
        place = pool.proxy if pool.proxy is not None else pool
        return pool.ConnectionCls(host=place.host or "", port=place.port, **pool.conn_kw)

    def _check_peer(self, text: str) -> None:
        """Judges where the name has led (RELIABILITY S18). The connection is pinned: nobody resolves again."""
        address = ipaddress.ip_address(text.partition("%")[0])
        fault = refuse_address(address)
        if not fault and not self.secure and not address.is_loopback:
            if self.host == "localhost" or self.host.endswith(".localhost"):
                fault = "is not this machine"
            elif address.is_global:
                fault = "is a public address: plain http would show the key to everyone on the way"
        if fault:
            raise OSError(f"it leads to {address}, which {fault}")


def _close(connection: HTTPConnection) -> None:
    connection.close()


def _unusable(provider: Provider, error: Exception) -> UpstreamError:
    options = provider.options
    named = [f"{name} {options[name]}" for name in _OPTIONS[:3] if options.get(name)]
    what = str(error) if isinstance(error, ValueError) else getattr(error, "strerror", "") or str(error)
    where = f" ({', '.join(named)})" if named else ""
    text = f"{provider.name} can't be reached as configured: {what[:200]}{where}"
    return UpstreamError(ProviderError(0, "api_error", text, kind=FailureKind.CONNECT))
