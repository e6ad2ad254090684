"""Units for service managers: what is written, what is said where none answers, and that nothing is left."""

from __future__ import annotations

import argparse
import plistlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ccm.cli import bundled, service
from ccm.cli.service import LABEL, LAUNCHD, SYSTEMD, unit_text

Calls = list[list[str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The service manager's commands, none of them run; each succeeds."""
    made: Calls = []

    def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        made.append(list(words))
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(service, "_call", call)
    monkeypatch.setattr(service, "program", lambda: "/opt/my ccm/ccm")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    return made


def given(action: str, no_start: bool = False) -> argparse.Namespace:
    return argparse.Namespace(action=action, no_start=no_start)


def names(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_systemd_a_whole_life(tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"HOME": str(tmp_path)}
    assert service.run(given("install"), env, "linux") == 0
    unit = tmp_path / ".config/systemd/user/ccm.service"
    assert '\nExecStart="/opt/my ccm/ccm" start\n' in unit.read_text()
    assert calls[1:] == [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "ccm.service"],
        ["systemctl", "--user", "restart", "ccm.service"],
    ]
    first = unit.read_text()
    assert service.run(given("install", no_start=True), env, "linux") == 0
    assert unit.read_text() == first
    assert calls[-1] == ["systemctl", "--user", "daemon-reload"]
    assert service.run(given("remove"), env, "linux") == 0
    assert ["systemctl", "--user", "disable", "--now", "ccm.service"] in calls
    assert names(tmp_path) == []
    assert service.run(given("remove"), env, "linux") == 0
    assert "There is no" in capsys.readouterr().out


def test_only_what_was_made_for_it_is_removed(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / ".config/systemd").mkdir(parents=True)
    service.run(given("install"), {"HOME": str(tmp_path)}, "linux")
    service.run(given("remove"), {"HOME": str(tmp_path)}, "linux")
    assert names(tmp_path) == [".config", ".config/systemd"]


def test_without_a_manager_it_is_written_and_said(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    env = {"HOME": str(tmp_path)}
    assert service.run(given("install"), env, "linux") == 1
    assert "no systemd answers for this user here" in capsys.readouterr().err
    assert service.run(given("install", no_start=True), env, "linux") == 0
    assert (tmp_path / ".config/systemd/user/ccm.service").exists()
    assert service.run(given("remove"), env, "linux") == 0
    assert calls == [] and names(tmp_path) == []


def test_a_failing_command_is_told(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, int("enable" in words), "", "first\nUnit is masked.\n")

    monkeypatch.setattr(service, "_call", call)
    assert service.run(given("install"), {"HOME": str(tmp_path)}, "linux") == 1
    assert "`systemctl --user enable ccm.service` failed: Unit is masked." in capsys.readouterr().err


def test_launchd(tmp_path: Path, calls: Calls) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/a&b"}
    assert service.run(given("install"), env, "darwin") == 0
    unit = tmp_path / f"Library/LaunchAgents/{LABEL}.plist"
    document = plistlib.loads(unit.read_bytes())
    assert document["ProgramArguments"] == ["/opt/my ccm/ccm", "start"]
    assert document["EnvironmentVariables"]["PATH"] == "/usr/bin:/a&b"
    assert document["Label"] == LABEL and document["KeepAlive"] == {"SuccessfulExit": False}
    assert [words[1] for words in calls] == ["print", "bootout", "bootstrap"]
    assert calls[-1][-1] == str(unit)
    assert service.run(given("remove"), env, "darwin") == 0
    assert not unit.exists()


def test_paths_are_written_as_each_format_wants_them() -> None:
    text = unit_text(SYSTEMD, '"@CCM@"', '/o%p/"$HOME"\\x/ccm', {})
    assert text == '"/o%%p/\\"$$HOME\\"\\\\x/ccm"'
    assert unit_text(LAUNCHD, "<@CCM@>", "/a&b<c/ccm", {}) == "</a&amp;b&lt;c/ccm>"
    with pytest.raises(service.Impossible):
        unit_text(SYSTEMD, "@CCM@", "/a\nb", {})


def test_systemd_itself_reads_the_unit_without_a_word() -> None:
    text = unit_text(SYSTEMD, bundled.template(SYSTEMD.template), "/bin/true", {})
    for key in (
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "NoNewPrivileges=yes",
    ):
        assert f"\n{key}\n" in text
    assert "@" not in text


def test_a_template_that_is_not_there_is_named() -> None:
    with pytest.raises(bundled.Missing, match=r"nonsense\.txt is not where"):
        bundled.template("nonsense.txt")
