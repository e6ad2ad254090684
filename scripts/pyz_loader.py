"""How the one-file ccm finds its modules: `scripts/build-pyz` puts this beside `__main__.py` into the archive.

The standard zipimport reads the archive by its name at every import and compiles every module at every start. This loader
opens the archive once (an upgrade may replace the file under a running ccm) and keeps the compiled modules in
`~/.claude-code-mux/cache` (or `$CCM_CACHE`), a file per build and Python. Without a directory that can be written it
compiles what is needed, every time. It must never run bytecode that another user could have written.
"""

from __future__ import annotations

import marshal
import os
import stat
import struct
import sys
import zipimport
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, cast

BUILD = "@BUILD@"  # sha256 over the contents; build-pyz sets it
INSIDE = "@TOPS@"  # the top-level packages, as build-pyz finds them
TOPS = frozenset(INSIDE.split())
ENTRIES = {
    "ccm": ("ccm.cli.main", "main"),
    "ccmctl": ("ccm.cli.ctl", "main"),
    "ccm-quickstart": ("ccm.cli.quickstart", "main"),
}
_LOCAL = struct.Struct("<4s22xHH")  # a zip entry's own header: name and extra field follow, then the data
_HEAD = struct.Struct("<16sQI")  # of the cache: magic, size of the whole file, size of the index


def _magic() -> bytes:
    from importlib.util import MAGIC_NUMBER

    return (b"ccm2" + MAGIC_NUMBER).ljust(16, b"\0")


def _age(path: str) -> float:
    try:
        return -os.stat(path).st_mtime
    except OSError:
        return 0.0


class Archive:
    """The open archive as finder, loader and resource reader of everything in it."""

    def __init__(self, path: str, importer: Any) -> None:
        self.path = os.path.abspath(path)
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        files = getattr(importer, "_files", None) or importer._get_files()
        # name -> (where its local header is, size); everything is stored, not compressed
        self._sums = {name: toc[7] for name, toc in files.items()}
        self._places: dict[str, tuple[int, int]] = {
            name.replace(os.sep, "/"): (toc[4], toc[3]) for name, toc in files.items()
        }
        self._codes: dict[str, tuple[int, int]] = {}
        self._cache = -1  # read, not mapped: what was mapped would stay in memory

    # ---- bytes

    def read(self, name: str) -> bytes:
        """The bytes of an entry. KeyError when there is none."""
        header, size = self._places[name]
        magic, name_size, extra_size = _LOCAL.unpack(os.pread(self._fd, _LOCAL.size, header))
        if magic != b"PK\3\4":
            raise ImportError(f"{self.path} is damaged: install ccm again")
        parts: list[bytes] = []
        at = header + _LOCAL.size + name_size + extra_size
        while size > 0:
            part = os.pread(self._fd, size, at)
            if not part:
                raise ImportError(f"{self.path} is cut short: install ccm again")
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return b"".join(parts)

    def names(self) -> Iterable[str]:
        return self._places

    def get_data(self, path: str) -> bytes:
        """The bytes of `<archive>/name`; OSError when there is none (as PEP 302 has it)."""
        name = os.fspath(path)
        if name.startswith(self.path + os.sep):
            name = name[len(self.path) + 1 :]
        try:
            return self.read(name.replace(os.sep, "/"))
        except KeyError:
            raise FileNotFoundError(2, os.strerror(2), os.fspath(path)) from None

    # ---- modules

    def _entry(self, fullname: str) -> tuple[str, bool]:
        base = fullname.replace(".", "/")
        for entry, package in ((base + "/__init__.py", True), (base + ".py", False)):
            if entry in self._places:
                return entry, package
        return "", False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in TOPS:
            return None
        entry, package = self._entry(fullname)
        if not entry:
            return None
        spec = ModuleSpec(
            fullname, cast(Any, self), origin=os.path.join(self.path, entry), is_package=package
        )
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.join(self.path, os.path.dirname(entry))]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        exec(self.get_code(name), module.__dict__)  # noqa: S102
        if name == "certifi.core":  # as a place inside the archive: no file is made for it anywhere
            module.__dict__["where"] = lambda: os.path.join(self.path, "certifi", "cacert.pem")

    def get_code(self, fullname: str) -> CodeType:
        entry, _ = self._entry(fullname)
        place = self._codes.get(entry)
        if place is not None:
            blob = os.pread(self._cache, place[1], place[0])
            if len(blob) == place[1]:
                code: CodeType = marshal.loads(blob)  # noqa: S302
                return code
        return self.compile(entry)

    def compile(self, entry: str) -> CodeType:
        # not the archive's own path, which may differ where one build is used from two places; tracebacks find the source
        return compile(self.read(entry), "ccm.pyz/" + entry, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str | None:
        """For tracebacks."""
        entry, _ = self._entry(fullname)
        return self.read(entry).decode("utf-8") if entry else None

    def is_package(self, fullname: str) -> bool:
        return self._entry(fullname)[1]

    def get_filename(self, fullname: str) -> str:
        return os.path.join(self.path, self._entry(fullname)[0])

    def get_resource_reader(self, fullname: str) -> _Reader | None:
        return _Reader(self, fullname.replace(".", "/")) if self.is_package(fullname) else None

    # ---- compiled modules

    def _cache_file(self) -> str:
        directory = os.environ.get("CCM_CACHE") or os.path.join(
            os.path.expanduser("~"), ".claude-code-mux", "cache"
        )
        tag = sys.implementation.cache_tag
        if not tag or not os.path.isabs(directory):
            return ""
        return os.path.join(directory, f"{BUILD[:16]}.{tag}-O{sys.flags.optimize}")

    def use_cache(self) -> bool:
        """Takes the compiled modules of an earlier start; True when there are some."""
        try:
            fd = os.open(self._cache_file(), os.O_RDONLY | os.O_NOFOLLOW | getattr(os, "O_CLOEXEC", 0))
        except (OSError, ValueError):
            return False
        try:
            about = os.fstat(fd)
            mine = (
                stat.S_ISREG(about.st_mode)
                and about.st_uid in (0, os.geteuid())
                and not about.st_mode & 0o022
            )
            if not mine or about.st_size < _HEAD.size:
                return False
            magic, size, index = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
            if magic != _magic() or size != about.st_size:
                return False
            self._codes = marshal.loads(os.pread(fd, index, _HEAD.size))  # noqa: S302
            self._cache, fd = fd, -1
        except (OSError, ValueError, EOFError, TypeError):
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        return True

    def make_cache(self) -> str:
        """Compiles everything and keeps it; '' or why that cannot be. Of other builds the last two are left."""
        target = self._cache_file()
        if not target:
            return "this Python keeps no bytecode"
        directory = os.path.dirname(target)
        names = [n for n in self._places if n.endswith(".py") and n.partition("/")[0] in TOPS]
        codes: dict[str, tuple[int, int]] = {}
        blobs: list[bytes] = []
        at = 0
        for name in sorted(names):
            try:
                blob = marshal.dumps(self.compile(name))
            except (SyntaxError, ValueError):
                continue  # for other Pythons than this one
            codes[name] = (at, len(blob))
            blobs.append(blob)
            at += len(blob)
        # the places count from the start of the file, and the index before them has one size whatever they are
        shift = _HEAD.size
        while True:
            index = marshal.dumps({n: (a + shift, s) for n, (a, s) in codes.items()})
            if _HEAD.size + len(index) == shift:
                break
            shift = _HEAD.size + len(index)
        temporary = f"{target}.{os.getpid()}"
        try:
            for made in (
                os.path.dirname(directory),
                directory,
            ):  # makedirs would leave the upper one open to all
                if not os.path.isdir(made):
                    os.mkdir(made, 0o700)
            if os.stat(directory).st_uid != os.geteuid():
                return f"{directory} belongs to somebody else"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            return str(error)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_HEAD.pack(_magic(), shift + at, len(index)) + index + b"".join(blobs))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            return str(error)
        others = [
            os.path.join(directory, name) for name in os.listdir(directory) if not name.startswith(BUILD[:16])
        ]
        for other in sorted(others, key=_age)[2:]:  # who still runs such a build has it open
            try:
                os.unlink(other)
            except OSError:
                pass
        return ""

    # ---- the archive itself

    def verify(self) -> str:
        """'' when every entry is the one the manifest names, else what is wrong."""
        import hashlib
        import json
        import zlib

        try:
            for name, wanted_sum in self._sums.items():
                if zlib.crc32(self.read(name.replace(os.sep, "/"))) != wanted_sum:
                    return f"{name} is damaged"
        except ImportError as error:
            return str(error)
        try:
            manifest = json.loads(self.read("MANIFEST.json").decode("utf-8"))
            wanted = manifest["files"]
        except (KeyError, ValueError, TypeError):
            return "it has no manifest"
        there = {name for name in self._places if not name.endswith("/")} - {
            "MANIFEST.json",
            "__main__.py",
            "pyz_loader.py",
        }
        if there != set(wanted):
            return (
                f"other files are in it than its manifest names: {', '.join(sorted(there ^ set(wanted))[:5])}"
            )
        total = hashlib.sha256()
        for name in sorted(wanted):
            digest = hashlib.sha256(self.read(name)).hexdigest()
            if digest != wanted[name]:
                return f"{name} is not what the manifest says"
            total.update(f"{digest} {name}\n".encode())
        if total.hexdigest() != BUILD or manifest.get("build") != BUILD:
            return "the manifest is not this build's"
        return ""


class _Reader:
    """What importlib.resources asks for the files of a package."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def files(self) -> _Place:
        return _Place(self._archive, self._folder)

    def open_resource(self, name: str) -> Any:
        return self.files().joinpath(name).open("rb")

    def resource_path(self, name: str) -> str:
        raise FileNotFoundError(name)

    def is_resource(self, name: str) -> bool:
        return self.files().joinpath(name).is_file()

    def contents(self) -> Iterator[str]:
        return (place.name for place in self.files().iterdir())


class _Place:
    """A file or folder of the archive, as importlib.resources.abc.Traversable."""

    def __init__(self, archive: Archive, path: str) -> None:
        self._archive, self._path = archive, path
        self.name = path.rpartition("/")[2]

    def joinpath(self, *parts: str) -> _Place:
        return _Place(self._archive, "/".join([self._path, *map(str, parts)]))

    __truediv__ = joinpath

    def iterdir(self) -> Iterator[_Place]:
        start = self._path + "/"
        inside = {n[len(start) :].partition("/")[0] for n in self._archive.names() if n.startswith(start)}
        return (self.joinpath(name) for name in sorted(inside - {""}))

    def is_file(self) -> bool:
        return self._path in self._archive.names()

    def is_dir(self) -> bool:
        return not self.is_file() and any(n.startswith(self._path + "/") for n in self._archive.names())

    def read_bytes(self) -> bytes:
        return self._archive.get_data(self._path)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        import io

        raw = io.BytesIO(self.read_bytes())
        return raw if "b" in mode else io.TextIOWrapper(raw, *args, **kwargs)

    def __str__(self) -> str:
        return os.path.join(self._archive.path, self._path)


def main() -> int:
    """Answers as ccm, ccmctl or ccm-quickstart, by the name it is called with; returns the exit code."""
    importer = globals()["__loader__"]
    if not isinstance(importer, zipimport.zipimporter):
        importer = zipimport.zipimporter(os.path.dirname(os.path.abspath(__file__)))
    archive = Archive(importer.archive, importer)
    words = sys.argv[1:]
    if words[:1] == ["--pyz-verify"]:
        problem = archive.verify()
        if problem:
            sys.stderr.write(f"{archive.path}: {problem}\n")
        return 1 if problem else 0
    if words[:1] == ["--pyz-compile"]:
        problem = "" if archive.use_cache() else archive.make_cache()
        if problem:
            sys.stderr.write(f"ccm starts slower than it could: {problem}\n")
        return 1 if problem else 0
    if words[:1] == ["--pyz-read"] and len(words) == 2:
        if words[1] not in archive.names():
            sys.stderr.write(f"{archive.path}: there is no {words[1]} in it\n")
            return 1
        sys.stdout.buffer.write(archive.read(words[1]))
        return 0
    short = words in (["--version"], ["-V"], ["version"])
    if not archive.use_cache() and not short and not archive.make_cache():
        archive.use_cache()
    sys.meta_path.insert(0, archive)
    name = os.environ.pop("CCM_AS", "") or os.path.basename(sys.argv[0])
    module, function = ENTRIES.get(name, ENTRIES["ccm"])
    __import__(module)
    return int(getattr(sys.modules[module], function)())
