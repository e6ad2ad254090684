"""One tuned `requests` session per provider: it owns pool, TLS context, proxy and limits (DESIGN 5).

The hot path takes its connections from the session adapter's urllib3 pool and speaks HTTP/1.1 on them itself
(`call.py`): 20 us of CPU instead of 380-680 us per call. `trust_env` is off (a netrc entry would replace a bearer
token, the environment's proxy would receive the key), redirects and cookies do not exist here.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.utils
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from ccm.model import Provider

POOL_SIZE = 256
IDLE_LIMIT_S = 60.0  # a pooled connection older than this may have been dropped silently (suspend, NAT)


class _Adapter(requests.adapters.HTTPAdapter):
    """A pool with our TLS context: the system's certificates and certifi's, TLS 1.2 or newer."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=POOL_SIZE, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        return super().proxy_manager_for(proxy, **kwargs)


_contexts: dict[tuple[str, str], ssl.SSLContext] = {}
_contexts_lock = threading.Lock()


def tls_context(ca_bundle: str = "", client_cert: str = "") -> ssl.SSLContext:
    """The shared context (24-32 ms to make, so made once per set of files)."""
    key = (ca_bundle, client_cert)
    with _contexts_lock:
        found = _contexts.get(key)
    if found is not None:
        return found
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    if ca_bundle:
        context.load_verify_locations(ca_bundle)
    if client_cert:
        context.load_cert_chain(client_cert)
    context.keylog_filename = None  # type: ignore[assignment]  # SSLKEYLOGFILE would write session keys (RELIABILITY S20)
    with _contexts_lock:
        return _contexts.setdefault(key, context)


class Sessions:
    """The sessions of all providers, made when first needed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[tuple[object, ...], Pool] = {}

    def pool(self, provider: Provider) -> Pool:
        """The provider's pool. A changed provider (other URL, proxy, CA) is another provider and gets another one."""
        key = _identity(provider)
        pool = self._pools.get(key)
        if pool is None:
            made = Pool(provider)
            with self._lock:
                pool = self._pools.setdefault(key, made)
        return pool

    def keep(self, providers: Iterable[Provider]) -> None:
        """Closes the idle connections of providers that are gone; running calls keep theirs to the end."""
        wanted = {_identity(p) for p in providers}
        with self._lock:
            gone = [key for key in self._pools if key not in wanted]
            pools = [self._pools.pop(key) for key in gone]
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
        *(str(options.get(name, "")) for name in ("ca_bundle", "client_cert", "proxy")),
    )


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
        options = provider.options
        context = None
        if self.secure:
            context = tls_context(str(options.get("ca_bundle", "")), str(options.get("client_cert", "")))
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.max_redirects = 0
        adapter = _Adapter(context)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)
        proxy = str(options.get("proxy", ""))
        manager: Any = adapter.proxy_manager_for(proxy) if proxy else adapter.poolmanager
        self._pool: HTTPConnectionPool = manager.connection_from_host(self.host, self.port, url.scheme)
        self._connect_s = provider.timeouts.connect_s
        # Through a plain-HTTP proxy the target is the whole URL; https goes through CONNECT.
        self.absolute = f"{url.scheme}://{self.authority}" if proxy and not self.secure else ""

    def take(self) -> tuple[HTTPConnection, bool]:
        """A connected connection and whether it had been used before. Raises what urllib3 and ssl raise."""
        get = getattr(self._pool, "_get_conn", None)
        if get is None:  # urllib3's seam moved: one fresh connection per call still works
            connection: Any = self._pool.ConnectionCls(host=self.host, port=self.port, **self._pool.conn_kw)
        else:
            connection = get(timeout=0.001)
        if getattr(connection, "sock", None) is not None:
            return connection, True
        connection.timeout = self._connect_s
        if self._pool.proxy is not None and self.secure:
            self._pool._prepare_proxy(connection)
        else:
            connection.connect()
        connection.sock.setblocking(False)
        return connection, False

    def give(self, connection: HTTPConnection) -> None:
        """Back into the pool, for the next call."""
        put = getattr(self._pool, "_put_conn", None)
        if put is None:
            connection.close()
        else:
            put(connection)

    def close(self) -> None:
        """Closes idle connections."""
        self.session.close()
