"""Installing, upgrading, removing: the whole journey as an ordinary user, and each script's promises one by one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import releases
from tests.e2e.journey import listing
from tests.e2e.namespaces import USER, as_user, ordinary, user_python
from tests.gateway import REPO

ClaudeCode = Callable[[str], Path]
PATH = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"  # no shim in front of Python
CACHE = Path(
    f"/tmp/ccm-test-cache-{os.getpid()}"
)  # the modules are compiled once for all homes of these tests
RC = "alias ll='ls -l'\nexport EDITOR=vi"  # the last line has no end


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = releases.open_directory()
    yield path
    shutil.rmtree(path)
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="module")
def release(place: Path) -> Path:
    return releases.release(place / "release")


class Home:
    """A home directory, and commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.env = {
            "HOME": str(path),
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
            "CCM_CACHE": str(CACHE),
        }

    def run(self, *words: str, answers: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(words),
            env={**self.env, **env},
            cwd="/",
            input=answers,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def install(self, release: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", str(release / "install.sh"), *words, **env)

    def uninstall(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", str(REPO / "scripts" / "uninstall.sh"), *words, "--yes")


@pytest.fixture
def home(place: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    path = place / f"h{abs(hash(request.node.name)) % 10**6}"
    yield Home(path)
    subprocess.run(["chmod", "-R", "u+w", str(path)], check=False)
    shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_whole_journey(place: Path, release: Path, shared: Path, claude_code: ClaudeCode) -> None:
    prefix = as_user()
    python = user_python(prefix)
    newer = releases.release(place / "newer", "9.9.9")
    broken = releases.broken(place / "broken")
    home = place / "j" / "home"
    home.mkdir(parents=True)
    (home / ".bashrc").write_text(RC)
    (home / ".profile").write_text("# mine\n")
    script = shutil.copy(REPO / "tests" / "e2e" / "journey.py", place)
    for name in ("claude_stub.py", "strict.py"):
        if (shared / "tools" / name).exists():
            shutil.copy(shared / "tools" / name, place)
    if os.geteuid() == 0:
        for path in (home.parent, *home.parent.rglob("*")):
            os.chown(path, USER, USER)
    client = (claude_code("latest") / "node_modules/.bin/claude").resolve()
    words = [
        *prefix,
        python,
        script,
        str(home),
        str(release),
        str(newer),
        str(broken),
        str(place / "claude_stub.py"),
        str(client),
    ]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]
    report = json.loads(done.stdout)
    print(json.dumps(report, indent=1))
    assert report["differs"] == []
    assert report["failed"] == []
    assert report["answered"] > 20
    assert report["installed_bytes"] <= 20_000_000
    assert report["memory_bytes"] <= 64 * 1024 * 1024
    assert report["times_s"]["install"] < 30


@pytest.mark.slow
def test_a_second_time_changes_nothing(home: Home, release: Path) -> None:
    (home.path / ".bashrc").write_text(RC)
    (home.path / ".zshrc").write_text("")
    (home.path / ".config" / "fish").mkdir(parents=True)
    before = listing(home.path)
    assert home.install(release).returncode == 0
    first = listing(home.path)
    assert home.install(release).returncode == 0
    assert listing(home.path) == first
    assert {"bin/ccm", "bin/ccmctl", "bin/ccm-quickstart", "config/ccm-config.toml"} <= set(first)
    for name in (".bashrc", ".zshrc"):
        assert (home.path / name).read_text().count("ANTHROPIC_BASE_URL") == 1
    assert home.uninstall().returncode == 0
    assert listing(home.path) == before


@pytest.mark.slow
def test_what_users_wrote_below_the_block_stays(home: Home, release: Path) -> None:
    rc = home.path / ".bashrc"
    rc.write_text(RC)
    home.install(release)
    rc.write_text(rc.read_text() + "alias late=1")
    home.install(release)
    home.uninstall()
    assert rc.read_text() == RC + "\nalias late=1"


def test_a_configuration_is_never_overwritten(home: Home, release: Path) -> None:
    config = home.path / "config" / "ccm-config.toml"
    config.parent.mkdir()
    config.write_text('[load_balancing]\nstrategy = "cost"\n')
    done = home.install(release)
    assert config.read_text() == '[load_balancing]\nstrategy = "cost"\n'
    assert (config.parent / "ccm-config.toml.new").read_text() == (
        REPO / "templates/ccm-config.toml.template"
    ).read_text()
    assert '-strategy = "cost"' in done.stdout and "+[proxy]" in done.stdout


def test_the_shell_finds_ccm_and_a_real_key_is_kept_for_it(home: Home, release: Path) -> None:
    (home.path / ".bashrc").write_text("export ANTHROPIC_API_KEY=sk-ant-real\n")
    home.install(release)
    said = home.run(
        "bash",
        "-c",
        '. "$HOME/.bashrc"; . "$HOME/.bashrc"; ccm --version; echo $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY $CCM_ANTHROPIC_API_KEY',
    ).stdout.split("\n")
    assert re.fullmatch(r"ccm \d+\.\d+\.\d+", said[0])
    assert said[1] == "http://127.0.0.1:13456 ccm-proxy sk-ant-real"


@pytest.mark.slow
def test_strange_homes_workspaces_and_prefixes(place: Path, release: Path) -> None:
    home = Home(place / "it's a $HOME %s")
    done = home.install(release, WORKSPACE=str(home.path / "my work"))
    assert done.returncode == 0, done.stderr
    path = f"{home.path}/my work/bin"
    assert home.run("ccm", "--version", PATH=f"{path}:{PATH}").stdout.startswith("ccm ")
    assert home.run("bash", "-c", '. "$HOME/.bashrc"; ccmctl version').returncode == 0
    assert home.uninstall().returncode == 0
    assert listing(home.path).keys() == {"."}
    other = place / "opt" / "ccm"
    assert home.install(release, "--prefix", str(other)).returncode == 0
    assert (other / "bin" / "ccm").exists() and not (home.path / "bin").exists()
    assert home.run("bash", "-c", '. "$HOME/.bashrc"; command -v ccm').stdout == f"{other}/bin/ccm\n"
    assert home.uninstall().returncode == 0
    assert not other.exists()
    shutil.rmtree(home.path)


@pytest.mark.slow
def test_answers_in_the_pipe_are_not_eaten(home: Home, release: Path) -> None:
    done = home.run("sh", "-c", 'sh "$0" --quiet && cat', str(release / "install.sh"), answers="1\n2\n")
    assert done.stdout == "1\n2\n"
    piped = home.run(
        "sh", "-s", "--", "--from", str(release / "ccm"), answers=(release / "install.sh").read_text()
    )
    assert piped.returncode == 0 and "is installed" in piped.stdout


def test_what_cannot_be_is_said_and_changes_nothing(home: Home, release: Path, place: Path) -> None:
    alone = place / "alone"
    alone.mkdir()
    shutil.copy(release / "install.sh", alone)
    cut = place / "cut"
    cut.write_bytes((release / "ccm").read_bytes()[:-100_000])
    bent = place / "bent"
    bent.write_bytes(
        (release / "ccm").read_bytes().replace(b"Runs ccm in the foreground", b"Runs ccm in the background")
    )
    old = place / "old"
    old.mkdir()
    (old / "python3").write_text("#!/bin/sh\n[ $1 = -V ] || exit 1\necho Python 3.8.1\n")
    (old / "python3").chmod(0o755)
    for name in ("sh", "cat", "mkdir", "rm", "rmdir", "sed", "date", "dirname", "sort", "timeout", "tr"):
        found = shutil.which(name)
        assert found
        (old / name).symlink_to(found)
    before = listing(home.path)
    cases = [
        (home.install(alone), "unpack the whole release"),
        (home.install(release, "--from", str(cut)), "no ccm that runs here"),
        (home.install(release, "--from", str(bent)), "is damaged"),
        (home.install(release, PATH=str(old)), "Python 3.10 or newer is needed (python3 is Python 3.8.1)"),
        (home.install(release, HOME="/nonexistent"), "does not exist"),
    ]
    for done, words in cases:
        assert done.returncode == 1 and words in done.stderr, (words, done.stderr)
    assert home.install(release, "--nonsense").returncode == 2
    assert listing(home.path) == before


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_done(home: Home, release: Path) -> None:
    (home.path / ".bashrc").write_text(RC)
    before = listing(home.path)
    size = (release / "ccm").stat().st_size
    for blocks in (size // 512 // 2, 1):  # a file of more is cut off by the system, as on a full disk
        done = home.run(
            "sh", "-c", f'trap "" XFSZ; ulimit -f {blocks}; exec sh "$0"', str(release / "install.sh")
        )
        assert done.returncode == 1 and "cannot be written" in done.stderr, done.stderr
        assert listing(home.path) == before
    home.install(release)
    installed = listing(home.path)
    newer = releases.pyz(release.parent / "newer-file", "9.9.9")
    done = home.run(
        "sh",
        "-c",
        f'trap "" XFSZ; ulimit -f {size // 1024}; exec sh "$0" --from "$1"',
        str(release / "upgrade.sh"),
        str(newer),
    )
    assert done.returncode == 1 and "no room" in done.stderr, done.stderr
    assert listing(home.path) == installed


def test_a_home_that_cannot_be_written(home: Home, release: Path) -> None:
    prefix = ordinary()
    if prefix:
        user_python(prefix)
        home.env["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    home.path.chmod(0o555)
    done = home.run(*prefix, "sh", str(release / "install.sh"))
    assert done.returncode == 1 and f"{home.path} cannot be written" in done.stderr
    done = home.run(
        *prefix, "sh", str(REPO / "templates" / "ccmctl.sh"), "start", CCM_BIN=str(release / "ccm")
    )
    assert (
        done.returncode == 1
        and ".claude-code-mux cannot be made" in done.stderr
        and "read-only" in done.stderr
    )


@pytest.mark.slow
def test_removal_asks_first(home: Home, release: Path) -> None:
    home.install(release)
    installed = listing(home.path)
    for answer in ("n\n", "", "what\n"):
        done = home.run("sh", str(release / "uninstall.sh"), answers=answer)
        assert done.returncode == 1 and "Nothing was removed" in done.stdout
        for name in (
            "bin/ccm",
            "bin/ccmctl",
            "bin/ccm-quickstart",
            "config/ccm-config.toml",
            ".claude-code-mux",
            ".bashrc",
        ):
            assert str(home.path / name) in done.stdout
    assert listing(home.path) == installed
    assert home.run("sh", str(release / "uninstall.sh"), answers="y\n").returncode == 0
    assert listing(home.path).keys() == {"."}
    assert home.uninstall().stdout == "Nothing of ccm is here.\n"


@pytest.mark.slow
def test_an_upgrade_without_a_running_ccm_and_back(home: Home, release: Path, place: Path) -> None:
    home.install(release)
    newer = releases.pyz(place / "newer-file", "9.9.9")
    upgrade = str(release / "upgrade.sh")
    assert "from 1.0.0 to 9.9.9" in home.run("sh", upgrade, "--from", str(newer)).stdout
    assert home.run(f"{home.path}/bin/ccm", "--version").stdout == "ccm 9.9.9\n"
    assert "already" in home.run("sh", upgrade, "--from", str(newer)).stdout
    assert "from 9.9.9 to 1.0.0" in home.run("sh", upgrade, "--rollback").stdout
    assert "from 1.0.0 to 9.9.9" in home.run("sh", upgrade, "--rollback").stdout
    junk = place / "junk"
    junk.write_text("#!/bin/sh\necho ccm 8.8.8\n")
    done = home.run("sh", upgrade, "--from", str(junk))
    assert done.returncode == 1 and "ccm 9.9.9 stays" in done.stderr
    assert home.run(f"{home.path}/bin/ccm", "--version").stdout == "ccm 9.9.9\n"
    left = {name for name in listing(home.path) if re.search(r"next|keep|ccm-install", name)}
    assert left == set()
