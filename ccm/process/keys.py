"""The keys of a configuration that is about to be used: known to the redactor first, tried where a command gives them."""

from __future__ import annotations

from ccm.errors import UpstreamError
from ccm.model import Endpoint, Secret, Snapshot
from ccm.observe.log import Log
from ccm.observe.redact import Redactor
from ccm.upstream.auth import Authorizer


def register(redactor: Redactor, snapshot: Snapshot) -> None:
    """From here on none of these keys gets into the log or an answer."""
    for provider in snapshot.providers.values():
        for key in provider.keys:
            if key.secret is not None:
                redactor.register(key.secret)
        proxy_auth = provider.options.get("proxy_auth")
        if isinstance(proxy_auth, Secret):
            redactor.register(proxy_auth)
            redactor.register(proxy_auth.reveal().partition(":")[2])


def commands(snapshot: Snapshot) -> list[Endpoint]:
    """The endpoints whose key a command gives."""
    return [one for one in snapshot.endpoints if one.key is not None and one.key.kind == "command"]


def try_commands(auth: Authorizer, snapshot: Snapshot, log: Log) -> None:
    """Key commands that fail are told at start, not at the third request; the first request finds its key ready."""
    for endpoint in commands(snapshot):
        try:
            auth.headers(endpoint, endpoint.provider.base_url, {}, b"")
        except UpstreamError as error:
            log.warning("key command", endpoint=endpoint.id, problem=error.error.message)
