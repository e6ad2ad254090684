"""Fixtures of the contract tests: a scripted upstream, and ccm in front of it as a process.

Starting ccm costs most of a test's time, so the tests of a module share one through `shared_gateway`; `fresh` starts
one of its own where the state of the process is the subject.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.upstream import Upstream

Start = Callable[..., Gateway]


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """The scripted upstream of a module; `clean` empties it between tests."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`shared_gateway(key, config, **options)`: the running ccm of that key, started on first use."""
    running: dict[str, Gateway] = {}

    def start(key: str, config: str, **options: Any) -> Gateway:
        if key not in running:
            gateway = running[key] = Gateway(tmp_path_factory.mktemp(f"ccm-{key}"), config, **options)
            gateway.start()
        gateway = running[key]
        assert gateway.process is not None and gateway.process.poll() is None, (
            f"ccm died:\n{gateway.log()[-3000:]}"
        )
        return gateway

    yield start
    for gateway in running.values():  # all at once: each takes its time to drain
        gateway.ask_to_stop()
    for gateway in running.values():
        assert gateway.stop() == 0, gateway.log()[-3000:]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Start]:
    """`fresh(config, **options)`: a ccm of this test's own, running."""
    running: list[Gateway] = []

    def start(config: str, **options: Any) -> Gateway:
        gateway = Gateway(tmp_path / f"ccm-{len(running)}", config, **options)
        running.append(gateway)
        return gateway.start()

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def strict(shared: Path) -> Any:
    """The validators made of the providers' official files (`strict.py` of the shared tools)."""
    sys.path.insert(0, str(shared / "tools"))
    try:
        return importlib.import_module("strict")
    finally:
        sys.path.pop(0)
