"""The configuration and the commands that users have: SEED.md's, as they stand there, must work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator, FormatChecker

from tests.e2e import releases
from tests.e2e.journey import listing
from tests.e2e.namespaces import alone
from tests.gateway import REPO, Gateway, free_port
from tests.http1 import Client

KEYS = {
    "ANTHROPIC_API_KEY": "sk-ant-0123456789abcdefghij",
    "OPENAI_API_KEY": "sk-0123456789abcdefghij",
    "GOOGLE_API_KEY": "AIza0123456789abcdefghij",
}


@pytest.fixture
def seed(shared: Path) -> str:
    found = re.search(r"```toml\n(.*?)```", (shared / "SEED.md").read_text(), re.S)
    assert found, "SEED.md has no TOML"
    return found[1]


class SeedGateway(Gateway):
    """SEED.md's file; only the port is one that is free (two tests may run at once)."""

    def __init__(self, home: Path, text: str, env: dict[str, str]) -> None:
        super().__init__(home, "", env=env)
        assert text.count("127.0.0.1:13456") == 1
        self.config_path.write_text(text.replace("127.0.0.1:13456", f"127.0.0.1:{self.port}"))


@pytest.mark.parametrize("keys", [tuple(KEYS), ("OPENAI_API_KEY",)], ids=["all-keys", "one-key"])
def test_it_starts_and_obeys(tmp_path: Path, seed: str, keys: tuple[str, ...]) -> None:
    gateway = SeedGateway(tmp_path, seed, {k: KEYS[k] for k in keys})
    gateway.start()
    try:
        with Client(gateway.base_url) as client:
            assert client.call("GET", "/health").status == 200
            assert client.call("GET", "/v1/models").status == 200
        for name in ("anthropic", "openai", "google"):
            assert name in gateway.ctl("providers", check=True).stdout
        assert "openai" in gateway.ctl("switch", "openai", check=True).stdout
        assert "openai" in gateway.ctl("status", check=True).stdout
        gateway.ctl("metrics", check=True)
        said = gateway.log() + gateway.ctl("status").stdout
        assert not [key for key in KEYS.values() if key in said], "keys are never shown"
    finally:
        assert gateway.stop() == 0


def test_the_default_port_is_the_one_promised(tmp_path: Path, seed: str) -> None:
    """Checked without opening it: `ccm check` reads the file just as `ccm start` does."""
    path = tmp_path / "ccm-config.toml"
    path.write_text(seed)
    path.chmod(0o600)
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **KEYS,
    }
    command = [sys.executable, "-m", "ccm", "check", "--config", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=20, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_has_the_form_that_the_installer_checks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ccm", "--version"], capture_output=True, text=True, check=True, timeout=20,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert re.search(r"ccm \d+\.\d+\.\d+", done.stdout)


def test_a_port_in_use_is_said_and_is_exit_98(tmp_path: Path, seed: str) -> None:
    gateway = SeedGateway(tmp_path / "1", seed, KEYS).start()
    try:
        second = SeedGateway(tmp_path / "2", seed, KEYS)
        text = second.config_path.read_text().replace(f":{second.port}", f":{gateway.port}")
        second.config_path.write_text(text)
        command = [sys.executable, "-m", "ccm", "start", "--config", str(second.config_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=second.env, timeout=20, check=False
        )
        assert done.returncode == 98, (done.returncode, done.stdout, done.stderr)
        assert str(gateway.port) in done.stdout + done.stderr
    finally:
        gateway.stop()


def test_a_bad_file_names_the_line(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, f'[providers.a]\nprioritty = 1\ntype = "openai"\n# {free_port()}\n')
    command = [sys.executable, "-m", "ccm", "start", "--config", str(gateway.config_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=gateway.env, timeout=20, check=False)
    assert done.returncode not in (0, 98)
    said = done.stdout + done.stderr
    line = gateway.config_path.read_text().split("\n").index("prioritty = 1") + 1
    assert f":{line}" in said and "prioritty" in said and "priority" in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def extension() -> Iterator[Path]:
    """The extension folder, as scripts/build-extension assembles it."""
    place = releases.open_directory()
    words = [str(REPO / "scripts" / "build-extension"), "--output", str(place)]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    yield place / "claude-code-mux"
    shutil.rmtree(place)


class Manager:
    """Sindri's extension manager, as far as this extension uses it: its steps in its order, each as it does them."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.wanted = yaml.safe_load((folder / "extension.yaml").read_text())
        path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
        self.env = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}

    def script(self, path: str, timeout: int) -> str:
        words = ["bash", str(self.folder / path)]
        done = subprocess.run(
            words, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self) -> None:
        assert self.wanted["install"]["method"] == "script"
        self.script(**self.wanted["install"]["script"])
        for entry in self.wanted["configure"]["templates"]:
            target = Path(entry["destination"].replace("~", str(self.home), 1))
            assert entry["mode"] == "skip-if-exists"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(self.folder / entry["source"], target)
        rc = self.home / ".bashrc"
        for entry in self.wanted["configure"]["environment"]:
            lines = rc.read_text().splitlines(keepends=True)
            line = f'export {entry["key"]}="{entry["value"]}"\n'
            at = next((i for i, one in enumerate(lines) if f"export {entry['key']}=" in one), None)
            lines[len(lines) if at is None else at : len(lines) if at is None else at + 1] = [line]
            rc.write_text("".join(lines))

    def validate(self) -> None:
        workspace = self.env.get("WORKSPACE") or f"{self.home}/workspace"
        env = {**self.env, "PATH": f"{self.home}/.local/bin:{workspace}/bin:{self.env['PATH']}"}
        for command in self.wanted["validate"]["commands"]:
            words = [command["name"], command["versionFlag"]]
            done = subprocess.run(
                ["env", *words], env=env, capture_output=True, text=True, timeout=30, check=True
            )
            assert re.search(command["expectedPattern"], done.stdout + done.stderr)

    def remove(self) -> None:
        self.script(**self.wanted["remove"]["script"])
        for path in self.wanted["remove"]["paths"]:
            target = Path(path.replace("~", str(self.home), 1))
            assert not target.exists(), f"{path} is still there"


def test_the_extension_fits_the_schema_and_says_what_the_page_says(extension: Path, shared: Path) -> None:
    document = yaml.safe_load((extension / "extension.yaml").read_text())
    schema = json.loads((shared / "corpus" / "sindri" / "extension.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    assert [
        str(e) for e in Draft7Validator(schema, format_checker=FormatChecker()).iter_errors(document)
    ] == []
    page = (shared / "SEED.md").read_text()
    for entry in document["configure"]["templates"]:
        assert re.search(rf"\| {re.escape(entry['source'])} +\| {re.escape(entry['destination'])} ", page)
        assert (extension / entry["source"]).is_file()
    for entry in document["configure"]["environment"]:
        assert f"| `{entry['key']}`" in page and f"| {entry['value']} " in page
    assert [f"- {path}" for path in document["remove"]["paths"]] == re.findall(r"^- ~.*", page, re.M)
    assert document["requirements"]["domains"] == re.findall(r"^- ([a-z.]+\.com)$", page, re.M)
    assert document["metadata"]["category"] == re.search(r"Category: (\w+)", page)[1]  # type: ignore[index]
    assert (document["requirements"]["diskSpace"], document["requirements"]["memory"]) == (20, 256)
    assert document["install"]["script"]["timeout"] == 300
    assert (
        document["upgrade"]["strategy"] == "manual"
        and (extension / document["upgrade"]["script"]["path"]).is_file()
    )
    assert document["validate"]["commands"][0]["expectedPattern"] in page
    told = subprocess.run(
        [sys.executable, extension / "ccm", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout == f"ccm {document['metadata']['version']}\n"


@pytest.mark.slow
def test_the_manager_installs_validates_upgrades_and_removes(extension: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("alias a=b\n")
    before = listing(home)
    manager = Manager(extension, home)
    manager.install()
    installed = listing(home)
    manager.install()
    assert listing(home) == installed, "a second time changes nothing"
    manager.validate()
    assert (home / ".bashrc").read_text().count("export PATH=") == 1
    assert "already" in manager.script(**manager.wanted["upgrade"]["script"])
    manager.remove()
    assert listing(home) == before


@pytest.mark.slow
def test_the_pages_own_lines(extension: Path, shared: Path, tmp_path: Path) -> None:
    """Every command of the page, in its order, on the port it names, in a shell that has read ~/.bashrc."""
    home = tmp_path / "h"
    home.mkdir()
    manager = Manager(extension, home)
    manager.install()
    page = (shared / "SEED.md").read_text()
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", page, re.S)
        for line in block.splitlines()
        if line and not line.startswith(("#", "sindri "))
    ]
    assert len(lines) >= 7, lines
    toml = re.search(r"```toml\n(.*?)```", page, re.S)
    assert toml
    script = [
        ". ~/.bashrc",
        "set -eu",
        'test "$ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY" = "http://127.0.0.1:13456 ccm-proxy"',
    ]
    script += [f"export {name}={value}" for name, value in KEYS.items() if name != "ANTHROPIC_API_KEY"]
    script.append("export CCM_ANTHROPIC_API_KEY=sk-ant-0123456789abcdefghij")
    running = False
    for line in lines:
        script.append(f"echo '$' {shlex.quote(line)}")
        if line == "ccm-quickstart":
            script.append("printf '\\n\\n\\n\\n\\n\\n' | ccm-quickstart")
            continue
        if line.startswith("ccm start"):
            if running:
                script.append("ccmctl stop --now; wait")
            if "--config" in line:
                script += ["cat > ~/config/ccm-config.toml <<'END'", toml[1] + "END"]
            script += [
                f"{line} 2>>$HOME/log &",
                "n=0; until ccm health >/dev/null; do n=$((n + 1)); test $n -lt 100; sleep 0.1; done",
            ]
            running = True
            continue
        script.append(line)
    script += ["curl -fsS http://127.0.0.1:13456/health", "ccmctl status", "ccmctl stop", "wait"]
    done = subprocess.run(
        [*alone(), "bash", "-c", "\n".join(script)], env=manager.env, cwd="/", stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    log = (home / "log").read_text() if (home / "log").exists() else ""
    assert done.returncode == 0, done.stdout + done.stderr + log
    for line in lines:
        assert f"$ {line}\n" in done.stdout
    assert "openai" in done.stdout.split("$ ccmctl switch openai\n")[1].split("$ ")[0]
    manager.remove()
    assert not [key for key in KEYS.values() if key in done.stdout + log]
