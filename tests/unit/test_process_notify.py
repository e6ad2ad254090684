"""What the service manager hears, by path and in the abstract namespace; without one nothing happens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ccm.process import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@ccm-{tmp_path.name}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(2)
        assert notify.tell({"NOTIFY_SOCKET": name}, "READY=1", "MAINPID=7")
        assert manager.recv(100) == b"READY=1\nMAINPID=7"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-listens"])
def test_nobody_is_told(address: str) -> None:
    assert not notify.tell({"NOTIFY_SOCKET": address}, "READY=1")
    assert not notify.tell({}, "READY=1")
