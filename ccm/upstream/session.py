"""The `requests` session of one provider: its pool, TLS context, proxy and limits (DESIGN 5). Imported when the first
provider needs one; `requests`, urllib3 and certifi take 50 ms and 9 MB.

`trust_env` is off (a netrc entry would replace a bearer token, the environment's proxy would receive the key),
redirects and cookies do not exist here. Certificates are always verified.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from importlib import resources
from typing import Any

import requests
import requests.adapters
import requests.utils
from urllib3 import HTTPConnectionPool

from ccm.model import EMPTY, Secret
from ccm.upstream import tls
from ccm.upstream.sessions import POOL_SIZE, file_version, proxy_headers

tls.learn(ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLError, ssl.SSLCertVerificationError)


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

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Our context has its authorities: no bundle is loaded again for every connection."""
        if self._context is None or verify is not True or cert or not url.lower().startswith("https"):
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
            return
        conn.cert_reqs, conn.ca_certs, conn.ca_cert_dir = "CERT_REQUIRED", None, None

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return proxy_headers(self._proxy_auth)


_contexts: dict[tuple[object, ...], ssl.SSLContext] = {}


_contexts_lock = threading.Lock()
_MOST_CONTEXTS = 64


def tls_context(ca_bundle: str = "", client_cert: str = "", client_key: str = "") -> ssl.SSLContext:
    """The shared context (24-32 ms to make, so made once per set of files): the system's authorities, certifi's and
    those of `ca_bundle`; TLS 1.2 or newer. Raises OSError (ssl.SSLError too) for files that can't be used.

    Made by hand: `ssl.create_default_context` opens the file that SSLKEYLOGFILE names and would write the keys of
    every session there (RELIABILITY S20), and in 3.13 refuses private authorities for formal reasons.
    """
    key = tuple((name, file_version(name)) for name in (ca_bundle, client_cert, client_key))
    with _contexts_lock:
        found = _contexts.get(key)
    if found is not None:
        return found
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    if os.path.isfile(requests.utils.DEFAULT_CA_BUNDLE_PATH):
        context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    else:  # it stands inside the one-file ccm: no copy of it is made anywhere
        context.load_verify_locations(
            cadata=resources.files("certifi").joinpath("cacert.pem").read_text("ascii")
        )
    if ca_bundle:
        context.load_verify_locations(ca_bundle)
    if client_cert:
        # A password that is never right instead of OpenSSL's question at the terminal, which nobody would answer.
        context.load_cert_chain(client_cert, client_key or None, password=lambda: "")
    with _contexts_lock:
        if len(_contexts) >= _MOST_CONTEXTS:  # certificates that were renewed leave theirs behind
            _contexts.clear()
        return _contexts.setdefault(key, context)


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


def open_pool(
    options: Mapping[str, Any], scheme: str, host: str, port: int
) -> tuple[requests.Session, HTTPConnectionPool]:
    """A session and the one pool of it that leads to a provider. Raises OSError and ValueError as `make_session`."""
    session = make_session(options, scheme == "https")
    adapter = session.get_adapter("https://")
    assert isinstance(adapter, _Adapter)
    proxy = str(options.get("proxy") or "")
    manager: Any = adapter.proxy_manager_for(proxy) if proxy else adapter.poolmanager
    return session, manager.connection_from_host(host, port, scheme)
