"""From a file, from the environment, or for the demo: always one whole Snapshot, or one ConfigError with every problem.

A configuration that is refused changes nothing: whoever reloads keeps the snapshot he has (RELIABILITY row 70).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ccm.catalog.models import ModelBook, bundled, load_book
from ccm.catalog.rows import Row, bundled_rows
from ccm.config import build, legacy, schema, secrets
from ccm.config.build import Origin
from ccm.config.options import resolve
from ccm.config.read import Reading
from ccm.errors import ConfigError
from ccm.model import Problem, Snapshot

_MAX_BYTES = 1024 * 1024
_ENVIRONMENT = "environment"
_DEMO_DIALECTS = {"/openai/v1": "openai_chat"}


def read(
    config: str | None,
    env: Mapping[str, str],
    *,
    generation: int = 1,
    listen: str | None = None,
    demo_urls: Sequence[tuple[str, str]] | None = None,
) -> Snapshot:
    """What `ccm start` runs with: the demo when `demo_urls` are given, else a file, else the keys in the environment.

    Raises ConfigError; without a file and without a key it says what to do.
    """
    if demo_urls is not None:
        return demo(env, demo_urls, generation=generation, listen=listen or "")
    path = find_path(config, env, home_of(env))
    if path is not None:
        return load(path, env, generation=generation, listen=listen or "")
    snapshot = from_environment(env, generation=generation, listen=listen or "")
    if snapshot is None:
        raise ConfigError([_nothing_found(env)])
    return snapshot


def home_of(env: Mapping[str, str]) -> Path:
    """The user's home as the environment tells it."""
    return Path(env.get("HOME") or os.path.expanduser("~"))


def candidates(env: Mapping[str, str], home: Path) -> list[Path]:
    """Where a configuration is looked for when none is named, in order."""
    workspace = Path(env.get("WORKSPACE") or home / "workspace")
    places = (
        workspace / "config" / "ccm-config.toml",
        home / "config" / "ccm-config.toml",
        home / ".claude-code-mux" / "config.toml",
    )
    return list(dict.fromkeys(places))


def find_path(explicit: str | None, env: Mapping[str, str], home: Path) -> Path | None:
    """The configuration file: --config, $CCM_CONFIG, then the usual places. None when there is none.

    A file that was named must exist: ConfigError. One that is there but can't be read is found; `load` says why not.
    """
    for said, name in (("--config", explicit), ("$CCM_CONFIG", env.get("CCM_CONFIG"))):
        if name:
            path = Path(name).expanduser()
            if not _exists(path):
                raise ConfigError([Problem(str(path), None, "", f"there is no such file ({said} names it)")])
            return path
    return next((path for path in candidates(env, home) if _exists(path)), None)


def load(
    path: Path, env: Mapping[str, str], *, generation: int = 1, demo_url: str = "", listen: str = ""
) -> Snapshot:
    """The snapshot of a file. `demo_url` is where providers of type "demo" are, `listen` overrules the file.

    Raises ConfigError with all problems at once, each with file, line, key, text and fix.
    """
    written, warnings = _text(path)
    text, old = legacy.modern(written, path.name)
    warnings += old
    reading = Reading(text, path.name, located=not old)
    reading.warnings.extend(warnings)
    if reading.given("proxy", "auth_token") and os.stat(path).st_mode & 0o077:
        reading.warn(("proxy", "auth_token"), "can be read by others", f"run chmod 600 {path}")
    home = home_of(env)
    book = _book(reading, path.parent, home)
    origin = Origin(str(path), path.parent, home, env, generation, demo_url, listen)
    return build.build(reading, origin, book)


def from_environment(env: Mapping[str, str], *, generation: int = 1, listen: str = "") -> Snapshot | None:
    """A snapshot of the providers whose keys are in the environment, in the catalogue's order; None without any."""
    rows = [row for row in bundled_rows().values() if row.auto and _has_key(row, env)]
    if not rows:
        return None
    text = "".join(f"[providers.{row.name}]\npriority = {n}\n" for n, row in enumerate(rows, 1))
    return _from_text(text, env, generation, listen)


def demo(
    env: Mapping[str, str],
    urls: Sequence[tuple[str, str]],
    *,
    generation: int = 1,
    listen: str = "",
) -> Snapshot:
    """The demo: providers (name, base URL) of type "demo", in order of preference. It reads no file and no key."""
    tables = []
    for n, (name, url) in enumerate(urls, 1):
        dialect = next((d for end, d in _DEMO_DIALECTS.items() if url.rstrip("/").endswith(end)), "anthropic")
        tables.append(
            f'[providers.{name}]\ntype = "demo"\ndialect = "{dialect}"\nbase_url = "{url}"\npriority = {n}\n'
        )
    return _from_text("".join(tables), env, generation, listen, demo=True)


def book(snapshot: Snapshot) -> ModelBook:
    """The model book that a snapshot's configuration asks for. Raises ConfigError for a broken models file."""
    if not snapshot.path:
        return bundled()
    path = Path(snapshot.path)
    text, _ = legacy.modern(_text(path)[0], path.name)
    return _book(Reading(text, path.name), path.parent, home_of(os.environ))


def files_of(snapshot: Snapshot, env: Mapping[str, str]) -> tuple[Path, ...]:
    """The files a snapshot was made from, for those who watch them: the configuration, key files, the models file."""
    if not snapshot.path:
        return ()
    path, home = Path(snapshot.path), home_of(env)
    names = [key.name for one in snapshot.providers.values() for key in one.keys if key.kind == "file"]
    try:
        text, _ = legacy.modern(_text(path)[0], path.name)
        models = str(Reading(text, path.name, located=False).get("catalog", "models_file"))
    except ConfigError:  # it has changed since: whoever watches it will see that
        models = ""
    files = [path, *(resolve(name, path.parent, home) for name in (*names, models) if name)]
    return tuple(dict.fromkeys(files))


def _from_text(
    text: str, env: Mapping[str, str], generation: int, listen: str, demo: bool = False
) -> Snapshot:
    reading = Reading(text, "demo" if demo else _ENVIRONMENT, located=False)
    origin = Origin("", Path.cwd(), home_of(env), env, generation, "", listen, demo)
    return build.build(reading, origin, bundled())


def _book(reading: Reading, base: Path, home: Path) -> ModelBook:
    """The user's models file on top of ours; its problems are the configuration's."""
    name = str(reading.get("catalog", "models_file"))
    if not name:
        return bundled()
    try:
        return load_book(resolve(name, base, home))
    except ConfigError as error:
        for problem in error.problems:
            if problem.line is None and not problem.key:
                reading.problem(("catalog", "models_file"), f"{problem.file} {problem.text}")
            else:
                reading.problems.append(problem)
        return bundled()


def _has_key(row: Row, env: Mapping[str, str]) -> bool:
    return secrets.from_environment(row.env, env, schema.DEFAULT_TOKEN).secret is not None


def _nothing_found(env: Mapping[str, str]) -> Problem:
    rows = [row for row in bundled_rows().values() if row.auto][:3]
    text = f"no configuration file and no key found: looked at {', '.join(str(p) for p in candidates(env, home_of(env)))}"
    own = [row.env[0] for row in rows if env.get(row.env[0]) == schema.DEFAULT_TOKEN]
    if own:
        text += f"; {own[0]} {secrets.OWN_TOKEN_TEXT}"
    variables = ", ".join(secrets.PREFIX + row.env[0] if row.env[0] in own else row.env[0] for row in rows)
    return Problem(
        "ccm", None, "", text, f"run ccm-quickstart, or set one of {variables} ..., or try ccm start --demo"
    )


def _exists(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        # What may be there but can't be looked at is not passed over silently: `load` will say why.
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return True


def _text(path: Path) -> tuple[str, list[Problem]]:
    """The file's text, and warnings about the file itself. Raises ConfigError where it must not be read."""
    warnings: list[Problem] = []

    def refuse(text: str, fix: str = "", line: int | None = None) -> ConfigError:
        return ConfigError([Problem(str(path), line, "", text, fix)])

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refuse(f"can't be read: {error.strerror}") from None
    try:
        info = os.fstat(descriptor)
        if stat.S_ISDIR(info.st_mode):
            raise refuse("is a directory, not a file")
        if not stat.S_ISREG(info.st_mode):
            raise refuse("is not a file")
        if info.st_mode & 0o002:
            raise refuse(
                "can be changed by everybody, who could then send your keys elsewhere",
                f"run chmod 600 {path}",
            )
        if info.st_uid not in (os.geteuid(), 0):
            if os.geteuid() != 0:
                raise refuse("belongs to another user", "copy it, or chown it to yourself")
            # Root in a container reads a mounted file of the host's user: usual, but worth knowing.
            warnings.append(Problem(path.name, None, "", "belongs to another user", "chown it to root"))
        data = b""
        while len(data) <= _MAX_BYTES and (piece := os.read(descriptor, 65536)):
            data += piece
    except OSError as error:
        raise refuse(f"can't be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise refuse("is longer than 1 MiB, which no configuration is")
    if not data.strip():
        raise refuse("is empty", "ccm-quickstart writes one")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n"), warnings
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(path.name, line, "", "is not UTF-8 text", "save it as UTF-8")]) from None
