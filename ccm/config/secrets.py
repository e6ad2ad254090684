"""Where a provider's key comes from: environment, file, command. Keys live in `Secret`s and in no message.

The trap this room exists for: Claude Code carries the proxy's own token in ANTHROPIC_API_KEY, which is also where an
Anthropic key is looked for. A key equal to that token is never sent anywhere: it counts as missing, and the reason is
told. CCM_<NAME> is looked at before <NAME>, so both can stand side by side.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ccm.config.schema import DEFAULT_TOKEN
from ccm.errors import CcmError
from ccm.model import KeySource, Secret, Snapshot

COMMAND_TIMEOUT_S = 10.0
COMMAND_TTL_S = 300.0
FAILURE_TTL_S = 5.0  # a broken command is not run again for every waiting request
_MAX_KEY_BYTES = 64 * 1024
PREFIX = "CCM_"
OWN_TOKEN_TEXT = "holds ccm's own auth_token, not a provider's key"  # noqa: S105 - a message
# What a key command may see. No provider key, whatever it is called, gets in by being forgotten on a list.
_CHILD_ENV = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "DISPLAY",
    "WAYLAND_DISPLAY", "SSH_AUTH_SOCK", "GNUPGHOME", "GPG_TTY", "DBUS_SESSION_BUS_ADDRESS", "PASSWORD_STORE_DIR",
    "VAULT_ADDR", "OP_ACCOUNT", "AWS_PROFILE", "AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG", "SSL_CERT_FILE",
    "SSL_CERT_DIR",
))  # fmt: skip
_CHILD_PREFIXES = ("LC_", "XDG_")


class KeyUnavailable(CcmError):
    """A key command did not give a key. The text names the command's place in the configuration, never its output."""


def key_fault(value: str, own_token: str = "") -> str:
    """Why a text can't be a provider's key, "" when it can. The text itself is never part of the answer."""
    if not value:
        return "is empty"
    if value in (own_token, DEFAULT_TOKEN):  # the default one is nobody's key, also where another is in use
        return OWN_TOKEN_TEXT
    if any(c.isspace() for c in value):
        return "holds blanks or several lines"
    if not value.isascii() or not value.isprintable():
        return "holds characters that no key has"
    if value[0] in "$<" or value.startswith("{{"):
        return "holds a placeholder, not a key"
    return ""


def from_environment(names: Sequence[str], env: Mapping[str, str], own_token: str) -> KeySource:
    """The first usable key among alternative variables, CCM_<NAME> before <NAME> each.

    Without one, `.problem` says what was looked at and, for a variable that is set but unusable, what is wrong with it.
    """
    looked: list[str] = []
    faults: list[str] = []
    for name in names:
        for variable in (name,) if name.startswith(PREFIX) else (PREFIX + name, name):
            looked.append(variable)
            if (value := env.get(variable)) is None:
                continue
            value = value.strip()
            fault = key_fault(value, own_token)
            if not fault:
                return KeySource("env", variable, Secret(value, f"environment variable {variable}"))
            faults.append(f"{variable} {fault}")
    first = names[0] if names else ""
    missing = f"neither {' nor '.join(looked)} is set" if len(looked) > 1 else f"{first} is not set"
    return KeySource("env", first, None, "; ".join(faults) or missing)


def from_file(path: Path, name: str, own_token: str) -> KeySource:
    """The key in a file: a regular file of ours (or root's) that nobody else can read, one line of text.

    `name` is how the configuration calls it. One newline at the end is taken off, nothing else.
    """

    def missing(problem: str) -> KeySource:
        return KeySource("file", name, None, f"{path} {problem}")

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return missing("does not exist")
    except OSError as error:
        return missing(f"can't be read: {error.strerror}")
    try:
        # Asked of the open file: what is checked is what is read.
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return missing("is not a file")
        if info.st_uid not in (os.geteuid(), 0):
            return missing("belongs to another user")
        if info.st_mode & 0o077:
            return missing(f"can be read by others: run chmod 600 {shlex.quote(str(path))}")
        data = os.read(descriptor, _MAX_KEY_BYTES + 1)
    except OSError as error:
        return missing(f"can't be read: {error.strerror}")
    finally:
        os.close(descriptor)
    if len(data) > _MAX_KEY_BYTES:
        return missing("is too long for a key")
    try:
        value = data.decode()
    except UnicodeDecodeError:
        return missing("is not text")
    value = value[:-2] if value.endswith("\r\n") else value.removesuffix("\n")
    if value.lstrip().startswith("{"):
        return missing("holds a JSON document, not a key: for Google set GOOGLE_APPLICATION_CREDENTIALS")
    fault = key_fault(value, own_token)
    return missing(fault) if fault else KeySource("file", name, Secret(value, f"file {path}"))


def from_command(command: str | Sequence[str]) -> KeySource:
    """A key that a command prints. It is not run here: `command_of(source)` gives its `KeyCommand`."""
    return KeySource("command", command if isinstance(command, str) else shlex.join(command))


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment a key command gets: where to find things, no keys."""
    return {k: v for k, v in env.items() if k in _CHILD_ENV or k.startswith(_CHILD_PREFIXES)}


class KeyCommand:
    """One key command and the key it gave last. Any number of threads may ask; one of them runs it, the others wait."""

    def __init__(
        self,
        command: str | Sequence[str],
        env: Mapping[str, str],
        own_token: str = "",
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        ttl_s: float = COMMAND_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A list runs as it is, a string through `sh -c`. `env` is filtered before the command sees it."""
        self.argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        self._env = child_environment(env)
        self._own_token = own_token
        self._timeout_s = timeout_s
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._secret: Secret | None = None
        self._failure = ""
        self._until = float("-inf")  # what is known holds until then
        self._running: threading.Event | None = None

    def get(self) -> Secret:
        """The key, at most `ttl_s` old. Blocks while the command runs, at most `timeout_s`. Raises KeyUnavailable."""
        while True:
            with self._lock:
                if self._clock() < self._until:
                    if self._secret is None:
                        raise KeyUnavailable(self._failure)
                    return self._secret
                done = self._running
                mine = done is None
                if done is None:
                    done = self._running = threading.Event()
            if mine:
                self._refresh(done)
            elif not done.wait(self._timeout_s + 1.0):
                raise KeyUnavailable("the key command is still running")

    def forget(self) -> None:
        """The key was refused by the provider: the next `get` runs the command again."""
        with self._lock:
            self._until = float("-inf")

    def _refresh(self, done: threading.Event) -> None:
        secret, failure = None, "the key command could not be run"
        try:
            secret, failure = self._run()
        finally:
            with self._lock:
                self._secret, self._failure = secret, failure
                self._until = self._clock() + (self._ttl_s if secret else FAILURE_TTL_S)
                self._running = None
            done.set()

    def _run(self) -> tuple[Secret | None, str]:
        try:
            child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._env,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return None, f"the key command can't be started: {getattr(error, 'strerror', None) or error}"
        try:
            out, _ = child.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            _end(child)
            return None, f"the key command did not end within {self._timeout_s:g} s"
        if child.returncode:
            return None, f"the key command failed with exit status {child.returncode}"
        if len(out) > _MAX_KEY_BYTES:
            return None, "the key command printed too much for a key"
        text = out.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
        fault = key_fault(text, self._own_token)
        return (None, f"what the key command printed {fault}") if fault else (Secret(text, "key command"), "")


def _end(child: subprocess.Popen[bytes]) -> None:
    """The whole process group: a shell's own children would hold the pipe open."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass
    child.communicate()


class KeyCommands:
    """The key commands in use, by command line: a reload keeps the keys that were fetched before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], KeyCommand] = {}

    def of(self, source: KeySource, env: Mapping[str, str], own_token: str) -> KeyCommand:
        """The command of a key source of kind "command"; made on first use."""
        key = (source.name, own_token)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = KeyCommand(_as_written(source.name), env, own_token)
            return found


def _as_written(line: str) -> str | list[str]:
    """A list was joined by `shlex.join`: where splitting and joining gives the same line, no shell is needed."""
    try:
        parts = shlex.split(line)
    except ValueError:
        return line
    return parts if parts and shlex.join(parts) == line else line


def variables_used(snapshot: Snapshot) -> frozenset[str]:
    """The environment variables whose values are now in `Secret`s: to be removed from `os.environ` (RELIABILITY S35)."""
    providers = snapshot.providers.values()
    used = {key.name for provider in providers for key in provider.keys if key.kind == "env" and key.secret}
    if any(provider.auth == "sigv4" for provider in providers):
        used |= {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    return frozenset(used)
