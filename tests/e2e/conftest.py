"""Fixtures of the end-to-end tests: real clients, installed on demand below `<repo>/.cache`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import REPO, Gateway
from tests.upstream import Upstream


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """`fresh(config, **options)`: a running ccm of this test's own."""
    running: list[Gateway] = []

    def start(config: str, **options: Any) -> Gateway:
        gateway = Gateway(tmp_path / f"ccm-{len(running)}", config, **options)
        running.append(gateway)
        return gateway.start()

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def claude_code(shared: Path) -> Callable[[str], Path]:
    """`claude_code("2.0.76")`: the directory with that Claude Code; installed once, by npm, or the test is skipped."""

    def directory(version: str) -> Path:
        path = REPO / ".cache" / f"cc-{version}"
        path.parent.mkdir(exist_ok=True)
        with (path.parent / f"cc-{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (path / "node_modules/.bin/claude").exists():
                if shutil.which("npm") is None:
                    pytest.skip("npm is not installed: Claude Code cannot be fetched")
                done = subprocess.run(
                    ["bash", str(shared / "tools/claude_e2e.sh"), "install"],
                    env={**os.environ, "CC_DIR": str(path), "CC_VERSION": version},
                    capture_output=True, text=True, timeout=110, check=False,
                )  # fmt: skip
                if done.returncode:
                    pytest.skip(f"Claude Code {version} cannot be installed: {done.stderr[-300:]}")
        return path

    return directory
