"""Whole configuration files: each broken one gives exactly the messages beside it, each good one loads.

`CCM_WRITE_EXPECTED=1` writes the messages anew; read the difference before you believe it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ccm.config import load
from ccm.errors import ConfigError

DATA = Path(__file__).resolve().parents[1] / "data" / "config"
BROKEN = sorted((DATA / "broken").glob("*.toml"))
GOOD = sorted((DATA / "good").glob("*.toml"))
ENV = {
    "HOME": "/nonexistent",
    "KEY": "sk-test-key",
    "KEY_2": "sk-other-key",
    "OWN": "ccm-proxy",
    "BLANKS": "two words",
    "LINES": "sk-first-key\nsk-second-key",
    "EMPTY": "",
    "DOLLAR": "${KEY}",
}


def placed(source: Path, directory: Path) -> Path:
    """A private copy: a checkout's files may be group-writable, a configuration must not be. Key files stand beside it
    as `<case>.<name>.key`, those named "open" readable by others."""
    path = directory / source.name
    shutil.copyfile(source, path)
    path.chmod(0o600)
    for key in source.parent.glob(f"{source.stem}.*.key"):
        copy = directory / key.name
        shutil.copyfile(key, copy)
        copy.chmod(0o644 if ".open." in key.name else 0o600)
    return path


@pytest.mark.parametrize("source", BROKEN, ids=lambda p: p.stem)
def test_broken(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load.load(placed(source, tmp_path), ENV)
    told = str(caught.value).replace(str(tmp_path), "DIR") + "\n"
    expected = source.with_suffix(".expected")
    if os.environ.get("CCM_WRITE_EXPECTED"):
        expected.write_text(told, "utf-8")
    assert told == expected.read_text("utf-8")
    assert "SECRET" not in told, "a message shows a key"


@pytest.mark.parametrize("source", GOOD, ids=lambda p: p.stem)
def test_good(source: Path, tmp_path: Path) -> None:
    env = {**ENV, "OPENAI_API_KEY": "sk-openai"}
    snapshot = load.load(placed(source, tmp_path), env)
    assert snapshot.endpoints
    told = "".join(f"{w}\n" for w in snapshot.warnings).replace(str(tmp_path), "DIR")
    expected = source.with_suffix(".warnings")
    if os.environ.get("CCM_WRITE_EXPECTED"):
        expected.write_text(told, "utf-8")
    assert told == expected.read_text("utf-8")


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) >= 25
    assert {p.stem for p in GOOD} >= {"seed", "everything", "custom_prefix"}
