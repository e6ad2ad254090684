"""Where the account of requests is kept."""

from __future__ import annotations

from ccm.control.state import home_directory
from ccm.model import Snapshot
from ccm.observe.log import Log
from ccm.usage.store import Store


def open_store(snapshot: Snapshot, log: Log) -> Store | None:
    """The usage store of this configuration, not started yet; None where it is switched off. Its troubles (a full disk,
    a corrupt file) go to the log; requests never notice them."""
    settings = snapshot.usage
    if not settings.enabled:
        return None
    path = settings.path or str(home_directory() / "usage.db")
    return Store(path, settings.retention_days, lambda text: log.warning("usage store", problem=text))
