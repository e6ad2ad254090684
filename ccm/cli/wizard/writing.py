"""What the wizard writes, and that it is all or nothing: key files first, the configuration last, each replaced as a
whole; whatever stops it in between (a full disk, Ctrl-C) puts everything back as it was, directories included."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ccm
from ccm.cli.template import Choice, compose
from ccm.cli.wizard.ask import Impossible
from ccm.cli.wizard.sources import KEYS
from ccm.cli.wizard.talk import Plan
from ccm.control.state import write_atomically
from ccm.model import Secret
from ccm.shape import dataclass

TEMPLATE = "ccm-config.toml.template"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the configuration, the copy of the old one (None without), the key files."""

    config: Path
    backup: Path | None
    keys: tuple[Path, ...]


def template_text() -> str:
    """The bundled template: beside the package in a checkout or a single file, else among the installed data files.
    Raises Impossible."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(ccm.__file__)))
    loader: Any = ccm.__loader__
    try:
        return str(loader.get_data(os.path.join(root, "templates", TEMPLATE)).decode("utf-8"))
    except OSError:
        pass
    try:
        for file in metadata.files("claude-code-mux") or ():
            if file.name == TEMPLATE:
                return Path(str(file.locate())).read_text("utf-8")
    except (metadata.PackageNotFoundError, OSError):
        pass
    raise Impossible(f"{TEMPLATE} is not where this installation should have it: install ccm again")


def composed(plan: Plan, template: str, keys: str = f"~/{KEYS}") -> str:
    """The configuration's text; `keys` is the directory of the key files as the text names it."""
    picked = tuple((source.row.name, source.settings(keys)) for source in plan.sources)
    return compose(template, Choice(picked, plan.strategy))


@contextmanager
def rehearsed(plan: Plan, template: str) -> Iterator[Path]:
    """The configuration with its key files in a private directory that is gone afterwards: what can be tested before
    anything is written where it belongs. Sources that can't be asked now are left out."""
    now = Plan(tuple(s for s in plan.sources if s.testable), plan.strategy)
    with TemporaryDirectory(prefix="ccm-quickstart-") as folder:
        config = Path(folder, "ccm-config.toml")
        write_atomically(str(config), composed(now, template, str(Path(folder, "keys"))).encode())
        for name, key in now.kept.items():
            write_atomically(str(Path(folder, "keys", name)), _line(key))
        yield config


def write(plan: Plan, text: str, target: Path, home: Path) -> Written:
    """Writes everything (0600) or nothing. Raises OSError; then everything is as it was."""
    keys = {home / KEYS / name: _line(key) for name, key in plan.kept.items()}
    contents: dict[Path, bytes] = dict(keys)
    backup = None
    old = _read(target)
    if old is not None and old != text.encode():
        backup = _free_name(target)
        contents[backup] = old
    if old != text.encode():
        contents[target] = text.encode()  # last: a configuration never names keys that are not there
    before = {path: _read(path) for path in contents}
    made = [folder for path in contents for folder in _missing(path.parent)]
    try:
        for path, content in contents.items():
            write_atomically(str(path), content)
    except BaseException:
        _put_back(before, made)
        raise
    return Written(target, backup, tuple(keys))


def _put_back(before: Mapping[Path, bytes | None], made: list[Path]) -> None:
    for path, content in before.items():
        try:
            if content is None:
                path.unlink(missing_ok=True)
            elif _read(path) != content:
                write_atomically(str(path), content)
        except OSError:
            continue  # the rest is put back all the same
    for folder in sorted(set(made), key=lambda path: -len(path.parts)):
        try:
            folder.rmdir()
        except OSError:
            continue


def _read(path: Path) -> bytes | None:
    """A file's content, None where there is none. Raises OSError for one that can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _missing(folder: Path) -> list[Path]:
    """The directories that have to be made for this one to be there."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _free_name(target: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{target.name}.bak-{stamp}{'' if n == 0 else f'-{n}'}" for n in range(1000))
    return next(path for name in names if not (path := target.with_name(name)).exists())


def _line(key: Secret) -> bytes:
    return key.reveal().encode() + b"\n"
