"""What could be used here: keys in the environment, in files, credentials of the clouds' tools, servers on this machine.

A Source says where a key is, and holds the key itself only when its owner typed it or agreed to its being copied.
"""

from __future__ import annotations

import http.client
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ccm.catalog.rows import Row, bundled_rows
from ccm.cli.wizard.places import Place, exported, places
from ccm.config import secrets
from ccm.config.clouds import aws_source, google_source
from ccm.config.schema import DEFAULT_TOKEN
from ccm.model import Secret
from ccm.shape import dataclass, replace

ENV, RC, COPY, TYPED, FILE, COMMAND, CLOUD, LOCAL = (
    "env", "rc", "copy", "typed", "file", "command", "cloud", "local",
)  # fmt: skip
KEPT = (COPY, TYPED)  # kinds whose key goes into a file of ours
KEYS = ".claude-code-mux/keys"  # below the home directory; one file for each provider
_PROBE_S = 0.4
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Source:
    """A provider and where its key comes from. `name` is the variable, file, command, cloud's source or address;
    `place` the file for kinds rc and copy; `models` what a local server offers; `options` what else the provider
    needs (region, project, resource, its default model under "model")."""

    row: Row
    kind: str
    name: str = ""
    place: Place | Path | None = None
    models: tuple[str, ...] = ()
    key: Secret | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it is taken when nobody is asked."""
        return self.kind == ENV and self.row.auto

    @property
    def testable(self) -> bool:
        """Whether it can be asked now (a key that a shell file exports comes with the next login)."""
        return self.kind != RC and (self.kind != LOCAL or bool(self.models))

    def words(self, home: Path) -> str:
        """Where the key is, for people."""
        return {
            ENV: f"key in {self.name}",
            RC: f"{self.name}, set in {tilde(self._path, home)} (from your next login on)",
            COPY: f"{self.name}, copied from {tilde(self._path, home)}",
            TYPED: "the key you typed",
            FILE: f"key in the file {self.name}",
            COMMAND: f"key from `{self.name}`",
            CLOUD: tilde(self.name, home),
            LOCAL: f"answers at {self.name}, {len(self.models)} model{'' if len(self.models) == 1 else 's'}"
            if self.models
            else f"expected at {self.name}",
        }[self.kind]

    @property
    def _path(self) -> str:
        return str(self.place.path if isinstance(self.place, Place) else self.place)

    def settings(self, keys: str) -> dict[str, str]:
        """What its table says, key -> TOML value; `keys` is the directory of our key files as the file names it."""
        told: dict[str, str] = {}
        if self.kind in (ENV, RC):
            told["api_key_env"] = toml(self.name)
        elif self.kind in KEPT:
            told["api_key_file"] = toml(f"{keys}/{self.row.name}")
        elif self.kind == FILE:
            told["api_key_file"] = toml(self.name)
        elif self.kind == COMMAND:
            told["api_key_command"] = "[" + ", ".join(map(toml, shlex.split(self.name))) + "]"
        for name, value in self.options:
            told["models" if name == "model" else name] = (
                f"{{ default = {toml(value)} }}" if name == "model" else toml(value)
            )
        return told


def toml(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def tilde(text: str, home: Path) -> str:
    """Paths in the home directory as people write them."""
    return text.replace(f"{home}/", "~/")


def from_environment(environ: Mapping[str, str], rows: Mapping[str, Row] | None = None) -> list[Source]:
    """The providers whose key is in the environment, in the catalogue's order.

    `ccm-proxy` is ccm's own token, set to reach ccm itself: no provider's key.
    """
    found = []
    for row in (bundled_rows() if rows is None else rows).values():
        key = secrets.from_environment(row.env, environ, DEFAULT_TOKEN)
        if key.secret is not None and row.endpoints:
            found.append(Source(row, ENV, key.name))
    return found


def missing_options(source: Source, environ: Mapping[str, str]) -> list[str]:
    """What only the user can say of a provider: region, project, resource without a variable or default."""
    given = dict(source.options)
    return [
        option
        for option, ways in source.row.options.items()
        if ways and option not in given and not any(way[:1] == "=" or environ.get(way) for way in ways)
    ]


def from_clouds(environ: Mapping[str, str], home: Path) -> list[Source]:
    """Bedrock and Vertex where the clouds' own tools have credentials here."""
    rows = bundled_rows()
    ways = (("bedrock", aws_source(environ, home)), ("vertex", google_source(environ, home)))
    return [Source(rows[name], CLOUD, place) for name, place in ways if place]


def from_files(home: Path, folder: Path, have: Iterable[str]) -> tuple[list[Source], list[Source]]:
    """(keys in files that could be copied, names that shell files export), for providers not in `have`."""
    names = {
        n: row
        for row in bundled_rows().values()
        if row.auto
        for v in row.env
        for n in (secrets.PREFIX + v, v)
    }
    taken = set(have)
    copies: list[Source] = []
    for place in places(home, folder, names):
        for name in place.names:
            row = names[name]
            if row.name not in taken and not secrets.key_fault(place.value(name).strip()):
                taken.add(row.name)
                copies.append(Source(row, COPY, name, place))
    later = []
    for name, path in exported(home, names).items():
        row = names[name]
        if row.name not in taken:
            taken.add(row.name)
            later.append(Source(row, RC, name, path))
    return copies, later


def copied(source: Source) -> Source:
    """The source with its key read from its file; unchanged where it is gone since."""
    assert isinstance(source.place, Place)
    value = source.place.value(source.name).strip()
    return replace(source, key=Secret(value, str(source.place.path))) if value else source


def local_servers(rows: Mapping[str, Row] | None = None, timeout_s: float = _PROBE_S) -> list[Source]:
    """The catalogue's servers of this machine that list models; a port that somebody else has is passed over."""
    found = []
    for row in (bundled_rows() if rows is None else rows).values():
        chat = row.endpoint("openai_chat")
        if chat is None or urlsplit(chat.base_url).hostname not in _LOOPBACK:
            continue
        models = _models(chat.base_url, timeout_s)
        if models:
            found.append(Source(row, LOCAL, urlsplit(chat.base_url).netloc, models=models))
    return found


Probe = Callable[[], Sequence[Source]]


def _models(base_url: str, timeout_s: float) -> tuple[str, ...]:
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", f"{parts.path}/models", headers={"accept": "application/json"})
        response = connection.getresponse()
        listed = json.loads(response.read(1024 * 1024))["data"] if response.status == 200 else []
        return tuple(str(model["id"]) for model in listed if isinstance(model, dict) and model.get("id"))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return ()
    finally:
        connection.close()
