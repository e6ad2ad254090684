"""The configuration template, filled in: a line editor that changes values and keeps every comment. Pure.

A block is a table's header with the lines up to the next header. Only live lines are changed, never commented ones;
what the template lacks is added as a block of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ccm.shape import dataclass

_HEADER = re.compile(r"\[([A-Za-z0-9_.\-]+)\]\s*(?:#.*)?\Z")
_FAMILY = "providers."
_KEY_WAYS = ("api_key_env", "api_key_file", "api_key_command")  # of which a table may have one


@dataclass(frozen=True, slots=True)
class Choice:
    """What the configuration shall say: (provider, its keys as name -> TOML value) in order of preference, and the
    strategy."""

    providers: tuple[tuple[str, Mapping[str, str]], ...]
    strategy: str


def compose(template: str, choice: Choice) -> str:
    """The template with the chosen providers on, in order, all others off, and the strategy set."""
    blocks = _split(template)
    chosen = {name: (number, settings) for number, (name, settings) in enumerate(choice.providers, 1)}
    present = set()
    last = 0
    for index, block in enumerate(blocks):
        name = _table(block)
        if name.startswith(_FAMILY):
            last = index
            provider, _, below = name[len(_FAMILY) :].partition(".")
            if below:
                continue
            present.add(provider)
            place = chosen.get(provider)
            _set(block, "enabled", "true" if place else "false")
            if place:
                _drop(block, [way for way in _KEY_WAYS if way not in place[1]])
                for key, value in place[1].items():
                    _set(block, key, value)
                _set(block, "priority", str(place[0]))
    added = [
        [
            f"[{_FAMILY}{name}]",
            "enabled = true",
            *(f"{key} = {value}" for key, value in settings.items()),
            f"priority = {number}",
            "",
        ]
        for name, (number, settings) in chosen.items()
        if name not in present
    ]
    after = last if last else len(blocks) - 1
    if added:
        _part(blocks[after])
    blocks[after + 1 : after + 1] = added
    balancing = next((block for block in blocks if _table(block) == "load_balancing"), None)
    if balancing is None:
        _part(blocks[-1])
        balancing = ["[load_balancing]"]
        blocks.append(balancing)
    _set(balancing, "strategy", f'"{choice.strategy}"')
    return "\n".join(line for block in blocks for line in block).rstrip("\n") + "\n"


def _split(text: str) -> list[list[str]]:
    """The lines, cut before every live header; the first block holds what stands before the first one."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if _HEADER.match(line.strip()):
            blocks.append([])
        blocks[-1].append(line)
    return blocks


def _table(block: list[str]) -> str:
    match = _HEADER.match(block[0].strip()) if block else None
    return match[1] if match else ""


def _part(block: list[str]) -> None:
    """Makes sure that a blank line ends the block."""
    if block and block[-1].strip():
        block.append("")


def _drop(block: list[str], keys: list[str]) -> None:
    """Takes live lines of these keys out of the block."""
    pattern = re.compile(rf"\s*(?:{'|'.join(map(re.escape, keys))})\s*=") if keys else None
    block[:] = [line for line in block if pattern is None or not pattern.match(line)]


def _set(block: list[str], key: str, value: str) -> None:
    """Gives a key of the block this value; a comment behind the old one stays."""
    pattern = re.compile(rf"(\s*{re.escape(key)}\s*=\s*)(\"[^\"]*\"|'[^']*'|[^#\s]+)(.*)\Z")
    for index, line in enumerate(block):
        match = pattern.match(line)
        if match:
            block[index] = f"{match[1]}{value}{match[3]}"
            return
    block.insert(1, f"{key} = {value}")
