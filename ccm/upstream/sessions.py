"""The connections of all providers. Each provider that is reached by TLS or through a proxy has one `requests` session
that owns pool, TLS context, proxy and limits (DESIGN 5); a plain-http one on this machine or network needs none of that.

The hot path takes its connections from the session adapter's urllib3 pool and speaks HTTP/1.1 on them itself
(`call.py`): 20 us of CPU instead of 380-680 us per call. Where a provider's name leads is judged once per connection,
before a byte of a request is sent.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ccm.config.urls import refuse_address
from ccm.errors import UpstreamError
from ccm.late import Late
from ccm.model import FailureKind, Provider, ProviderError, Secret

if TYPE_CHECKING:
    import requests
    from urllib3 import HTTPConnectionPool, exceptions
    from urllib3.connection import HTTPConnection

    from ccm.upstream import session
else:  # `requests` takes a third of the start-up time: it is imported for the first provider that needs it
    session, exceptions = Late("ccm.upstream.session"), Late("urllib3.exceptions")

POOL_SIZE = 256
IDLE_LIMIT_S = 60.0  # a pooled connection older than this may have been dropped silently (suspend, NAT)
# What of a provider's options makes another connection.
_OPTIONS = ("ca_bundle", "client_cert", "client_key", "proxy", "proxy_auth")
# The clock of idle connections goes on while the machine sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def proxy_headers(auth: Secret | None) -> dict[str, str]:
    """What tells an HTTP proxy who we are: `auth` is "user:password"."""
    if auth is None:
        return {}
    return {"proxy-authorization": "Basic " + base64.b64encode(auth.reveal().encode()).decode()}


def file_version(name: str) -> tuple[int, int]:
    """A file that was replaced (a renewed certificate) is another file."""
    if not name:
        return 0, 0
    info = os.stat(name)
    return info.st_mtime_ns, info.st_size


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
        return file_version(str(name or ""))
    except OSError:
        return 0, 0


class Plain:
    """A connection that needs neither TLS nor a proxy; the part of urllib3's that `Pool` and `Call` use."""

    __slots__ = ("ccm_idle_since", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ccm_idle_since = 0.0

    @property
    def dropped(self) -> bool:
        """Whether the provider has closed it, or said something that nobody asked for."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


def _nothing() -> None: ...


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
        self._connect_s = provider.timeouts.connect_s
        proxy = str(provider.options.get("proxy") or "")
        self._proxied = bool(proxy)
        # Through a plain-HTTP proxy the target is the whole URL; https goes through CONNECT.
        self.absolute = f"{url.scheme}://{self.authority}" if proxy and not self.secure else ""
        self.session: requests.Session | None = None
        self._pool: HTTPConnectionPool | None = None
        self._idle: list[Plain] = []  # the latest last
        self._closed = False
        if not self.secure and not proxy:
            return
        try:
            self.session, self._pool = session.open_pool(provider.options, url.scheme, self.host, self.port)
        except (OSError, ValueError) as error:
            raise _unusable(provider, error) from None
        # urllib3's seam. Where it has moved, one fresh connection per call still works.
        self._get = getattr(self._pool, "_get_conn", self._make)
        self._put = getattr(self._pool, "_put_conn", _close)

    def take(self, connecting: Callable[[], None] = _nothing) -> tuple[HTTPConnection | Plain, bool]:
        """A connected connection and whether it had been used before. `connecting` is called before one is made: that
        takes its time. Raises what urllib3 and ssl raise, OSError for a name that leads where no provider may be."""
        if self._pool is None:
            return self._take_plain(connecting)
        return self._take_pooled(self._pool, connecting)

    def _take_plain(self, connecting: Callable[[], None]) -> tuple[Plain, bool]:
        now = time.clock_gettime(_CLOCK)
        while self._idle:
            try:
                known = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if now - known.ccm_idle_since < IDLE_LIMIT_S and not known.dropped:
                return known, True
            known.close()
        connecting()
        sock = socket.create_connection((self.host, self.port), self._connect_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._check_peer(sock.getpeername()[0])
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        return Plain(sock), False

    def _take_pooled(
        self, pool: HTTPConnectionPool, connecting: Callable[[], None]
    ) -> tuple[HTTPConnection, bool]:
        while True:
            try:
                connection: Any = self._get(timeout=0.001)
            except exceptions.ClosedPoolError:  # by a reload, after our caller had chosen it
                connection = self._make()
            if getattr(connection, "sock", None) is None:
                break
            if time.clock_gettime(_CLOCK) - getattr(connection, "ccm_idle_since", 0.0) < IDLE_LIMIT_S:
                return connection, True
            connection.close()  # and those below it in the stack, one after the other: they are older still
        connection.timeout = self._connect_s
        connecting()
        try:
            if self._proxied and self.secure:
                pool._prepare_proxy(connection)
            else:
                connection.connect()
            if not self._proxied:
                self._check_peer(connection.sock.getpeername()[0])
        except BaseException:
            connection.close()
            raise
        connection.sock.setblocking(False)
        return connection, False

    def give(self, connection: HTTPConnection | Plain) -> None:
        """Back into the pool, for the next call."""
        connection.ccm_idle_since = time.clock_gettime(_CLOCK)  # type: ignore[union-attr]
        if not isinstance(connection, Plain):
            self._put(connection)
        elif self._closed or len(self._idle) >= POOL_SIZE:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Closes idle connections."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        if self._pool is not None:
            self._pool.close()  # the manager forgets its pools, but leaves their connections open
        if self.session is not None:
            self.session.close()

    def _make(self, timeout: float = 0.0) -> Any:
        pool = self._pool
        assert pool is not None
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
