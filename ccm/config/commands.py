"""Runs the key commands of a configuration once, to find out before the first request whether they give keys."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from ccm.config import secrets
from ccm.config.locate import Lines
from ccm.model import KeySource, Problem, Snapshot

_FIX = "run it in a terminal: it must print the key and nothing else, within {seconds:g} s"


def failing(snapshot: Snapshot, env: Mapping[str, str]) -> list[Problem]:
    """What is wrong with the key commands of enabled providers, in the order of the file; none where all give keys.

    Runs them all at the same time and blocks until the last has ended, at most `secrets.COMMAND_TIMEOUT_S` and a
    second. What they print is in no message.
    """
    wanted = [
        (provider.name, key)
        for provider in snapshot.providers.values()
        for key in provider.keys
        if provider.enabled and key.kind == "command"
    ]
    commands = secrets.KeyCommands()
    faults: list[str] = [""] * len(wanted)

    def run(number: int, key: KeySource) -> None:
        try:
            commands.of(key, env, snapshot.auth_token).get()
        except secrets.KeyUnavailable as error:
            faults[number] = str(error)

    threads = [
        threading.Thread(target=run, args=(number, key), name="ccm-key-command", daemon=True)
        for number, (_, key) in enumerate(wanted)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(secrets.COMMAND_TIMEOUT_S + 1.0)
    lines = Lines(_text(snapshot.path))
    fix = _FIX.format(seconds=secrets.COMMAND_TIMEOUT_S)
    file = Path(snapshot.path).name or "environment"
    found = []
    for (name, _), fault in zip(wanted, faults, strict=True):
        if fault:
            where = ("providers", name, "api_key_command")
            found.append(Problem(file, lines.of(where), ".".join(where), fault, fix))
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig") if path else ""
    except (OSError, UnicodeDecodeError):
        return ""
