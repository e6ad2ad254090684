"""What a process does as soon as it serves, beside its first requests: what is slow, and needed soon or worth knowing now.

A provider that is reached by TLS needs `requests`, urllib3, `ssl` and the certificates of the authorities: 90 ms that the
start does not wait for, and that the first request to it need not pay. A request that comes sooner waits for the rest.
"""

from __future__ import annotations

import threading

from ccm.errors import UpstreamError
from ccm.model import Provider, Snapshot
from ccm.observe.log import Log
from ccm.process import keys
from ccm.proxy.engine import Engine


def begin(engine: Engine, log: Log) -> None:
    """Starts a thread that does it, where there is anything to do."""
    snapshot = engine.snapshot
    if any(_wants(provider) for provider in snapshot.providers.values()) or keys.commands(snapshot):
        threading.Thread(target=warm, args=(engine, snapshot, log), name="ccm-warm", daemon=True).start()


def warm(engine: Engine, snapshot: Snapshot, log: Log) -> None:
    """Makes the sessions of providers that need one, then tries the key commands. A provider that cannot be used as it is
    configured is told now; requests go on being told, too."""
    for provider in snapshot.providers.values():
        if _wants(provider):
            try:
                engine.sessions.pool(provider)
            except UpstreamError as error:
                log.warning("provider", problem=error.error.message)
            except (
                Exception
            ) as fault:  # an installation that is not whole: every request to it will fail likewise
                log.fault("internal error", fault, where="warming")
    keys.try_commands(engine.auth, snapshot, log)


def _wants(provider: Provider) -> bool:
    return provider.base_url.startswith("https:") or bool(provider.options.get("proxy"))
