"""What one of several processes may use of a limit that the configuration sets for all of ccm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ccm.errors import ConfigError
from ccm.model import Problem, Provider, Snapshot


def check(snapshot: Snapshot) -> None:
    """Raises ConfigError where a limit cannot be shared: every worker must be able to ask every provider."""
    few = [one for one in snapshot.providers.values() if 0 < one.max_in_flight < snapshot.workers]
    if few:
        raise ConfigError(
            [
                Problem(
                    snapshot.path or "configuration",
                    None,
                    f"providers.{one.name}.max_in_flight",
                    f"{one.max_in_flight} cannot be shared by [proxy] workers = {snapshot.workers}: each of them "
                    "must be able to ask the provider",
                    f"set workers = {one.max_in_flight}, or max_in_flight to {snapshot.workers} or more",
                )
                for one in few
            ]
        )


def share(limit: int, number: int, workers: int) -> int:
    """The part of a limit that worker `number` (from 1) has; all parts together are the limit. 0 stays 0: none."""
    return limit // workers + (number <= limit % workers) if limit else 0


def of_worker(snapshot: Snapshot, number: int) -> Snapshot:
    """The configuration as one worker uses it: with its own shares of all limits."""
    workers = snapshot.workers
    providers: Mapping[str, Provider] = {
        name: replace(one, max_in_flight=share(one.max_in_flight, number, workers))
        if one.max_in_flight
        else one
        for name, one in snapshot.providers.items()
    }
    return replace(
        snapshot,
        providers=MappingProxyType(dict(providers)),
        endpoints=tuple([replace(one, provider=providers[one.provider.name]) for one in snapshot.endpoints]),
        max_in_flight=max(1, share(snapshot.max_in_flight, number, workers)),
    )
