"""Builds of ccm for the tests of installing and upgrading; each is made once per run of the tests, in a directory of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from tests.gateway import REPO


def build_pyz() -> ModuleType:
    """scripts/build-pyz as a module."""
    loader = SourceFileLoader("build_pyz", str(REPO / "scripts" / "build-pyz"))
    spec = importlib.util.spec_from_loader("build_pyz", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


def pyz(target: Path, version: str = "") -> Path:
    """The one-file ccm. The test is skipped where its wheels cannot be had (they can, in CI)."""
    command = [
        sys.executable,
        str(REPO / "scripts" / "build-pyz"),
        "--output",
        str(target),
        "--version",
        version,
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110, check=False
    )
    if done.returncode and "pip could not fetch" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return target


def release(folder: Path, version: str = "") -> Path:
    """A release folder: the one file, the scripts and templates."""
    (folder / "templates").mkdir(parents=True)
    pyz(folder / "ccm", version)
    for name in ("install.sh", "upgrade.sh", "uninstall.sh"):
        shutil.copy(REPO / "scripts" / name, folder)
    return folder


def broken(target: Path) -> Path:
    """A ccm that says its version and is whole, but cannot start."""
    module = build_pyz()
    wheels = module.wheel_files([module.CACHE])
    files = module.contents(wheels, "9.9.10")
    files["ccm/app.py"] = b'raise RuntimeError("this build is broken")\n'
    module.write(target, module.build(files, wheels))
    return target


def open_directory() -> Path:
    """A directory that other users may enter (pytest's own are private)."""
    path = Path(tempfile.mkdtemp(prefix="ccm-", dir="/tmp"))  # short: sockets have paths below it
    path.chmod(0o755)
    return path
