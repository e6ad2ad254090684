"""The README names everything there is, and nothing that is not: commands, keys and their defaults, templates."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ccm.cli import ctl, main, quickstart, statusline
from ccm.cli.arguments import Parser
from ccm.config import load
from ccm.config.schema import KEYS, Key

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text("utf-8")
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PROGRAMS = ("ccm", "ccmctl", "ccm-quickstart")
# Commands of main that have no line in its table.
OTHERS = ("start", "ctl", "quickstart", "statusline", "version")
# What the control script does itself (templates/ccmctl.sh); `service` it hands to ccm.
SCRIPT = {"start": (), "restart": ("--handover",), "logs": ("-f",), "service": ("install", "remove")}


def row(key: Key) -> str:
    """The line that the README's table has to have for a key."""
    value = key.default
    if value in (None, "", ()):
        shown = " "
    elif isinstance(value, bool):
        shown = f" `{str(value).lower()}` "
    else:
        shown = f' `"{value}"` ' if isinstance(value, str) else f" `{value:g}` "
    return f"| `{key.name}` |{shown}| {key.help.replace('<', chr(92) + '<').replace('|', chr(92) + '|')} |"


def code() -> Iterator[str]:
    """Every line of shell code and every code span."""
    for language, text in BLOCKS.findall(README):
        if language in ("bash", "sh"):
            yield from text.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", BLOCKS.sub("", README))


def command_lines() -> list[tuple[str, ...]]:
    """Every command line of ours, without what surrounds it: comments, pipes, redirections, `eval "$(...)"`. What
    stands in square brackets is taken as given."""
    found = []
    for line in code():
        inner = re.search(r"\$\(((?:ccm|ccmctl)\b[^)]*)\)", line)
        text = re.split(r"\s[<>|]\s", inner[1] if inner else line)[0].replace("[", "").replace("]", "")
        if not re.match(r"(?:\S*/)?(?:ccm|ccmctl|ccm-quickstart)(?:\s|$)", text):
            continue
        words = shlex.split(text, comments=True)
        found.append((words[0].rpartition("/")[2], *words[1:]))
    return list(dict.fromkeys(found))


COMMAND_LINES = command_lines()


class Parsed(Exception):
    """Thrown instead of running what was parsed."""


def parse_ccm(monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> None:
    """Parses as `ccm` does; SystemExit(2) where it would refuse."""
    if words[:1] == ("statusline",):
        assert all(word in statusline.HELP for word in words[1:]), words
        return
    if words[:1] == ("quickstart",):
        quickstart._parser().parse_args(words[1:])
        return
    if words[:1] == ("ctl",):
        parse_ctl(words[1:])
        return
    if main._plain_start(list(words)) is not None:  # options and values that argparse is not asked about
        return
    real = Parser.parse_known_args

    def parse(self: Parser, *given: Any, **more: Any) -> Any:
        done = real(self, *given, **more)
        if self.prog == "ccm" and not done[1]:
            raise Parsed
        return done

    monkeypatch.setattr(Parser, "parse_known_args", parse)
    with contextlib.suppress(Parsed):
        code = main.main(words)
        assert (code, words) == (0, ("version",)) or words in (("--version",), ()), words


def parse_ctl(words: Sequence[str]) -> None:
    """Parses as `ccmctl` does, and reads the arguments of commands that need no input."""
    if words[:1] and words[0] in SCRIPT:
        assert set(words[1:]) <= set(SCRIPT[words[0]]), words
        return
    given: argparse.Namespace = ctl.parser(words[0] if words else "").parse_args(words)
    if given.command is not None and given.command.runner is None and "--dry-run" not in words:
        given.command.args(given)


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_the_command_lines_are_right(line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = line
    words = tuple(rest)
    if not words or words == ("COMMAND", "--help"):
        return
    if words[-1] == "--help":
        with pytest.raises(SystemExit) as done, contextlib.redirect_stdout(io.StringIO()):
            ctl.parser().parse_args(words) if program == "ccmctl" else main.main(words)
        assert done.value.code == 0
    elif program == "ccm":
        parse_ccm(monkeypatch, words)
    elif program == "ccmctl":
        parse_ctl(words)
    else:
        quickstart._parser().parse_args(words)


def test_a_wrong_command_line_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("start", "--demos"), ("nothing",), ("run", "--modell", "x")):
        with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            parse_ccm(monkeypatch, words)
    for words in (("switch", "--fore", "3m"), ("nothing",), ("budget", "lift")):
        with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            parse_ctl(words)
    assert len(COMMAND_LINES) > 60


def shown(program: str) -> set[str]:
    """The commands of a program that the README shows."""
    return {line[1] for line in COMMAND_LINES if line[0] == program and len(line) > 1}


def test_every_command_is_there() -> None:
    assert shown("ccm") >= {*main._COMMANDS, *OTHERS}
    wanted = {command.name for command in ctl.COMMANDS} | {"version", "completions", *SCRIPT}
    assert shown("ccmctl") >= wanted
    assert all(any(line[0] == program for line in COMMAND_LINES) for program in PROGRAMS)


def test_every_key_is_there_with_its_default_and_help() -> None:
    lines = set(README.splitlines())
    missing = [row(key) for key in KEYS if key.kind != "never" and row(key) not in lines]
    assert not missing, "README, Keys of ccm-config.toml, needs these rows:\n" + "\n".join(missing)


def test_no_key_is_there_that_is_none() -> None:
    table = README.partition("### Keys of ccm-config.toml")[2].partition("\n### ")[0]
    told = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert told == [key.name for key in KEYS if key.kind != "never"], "also in the order of KEYS"


def test_every_template_is_there() -> None:
    names = [path.name for path in (REPO / "templates").iterdir() if path.is_file()]
    assert len(names) > 5
    assert [name for name in names if name not in README] == []


def test_every_script_it_names_is_there() -> None:
    for name in set(re.findall(r"\bscripts/([\w.-]+\w)", README)):
        assert (REPO / "scripts" / name).is_file(), name


def test_every_answer_header_is_there() -> None:
    sources = "".join(path.read_text("utf-8") for path in (REPO / "ccm" / "proxy").glob("*.py"))
    headers = set(re.findall(r'"(x-ccm-[a-z-]+)"', sources))
    assert len(headers) > 5
    assert sorted(name for name in headers if f"`{name}`" not in README) == []


def test_its_configurations_are_right(tmp_path: Path) -> None:
    first, *more = [text for language, text in BLOCKS.findall(README) if language == "toml"]
    env = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "b", "GOOGLE_API_KEY": "c"}
    for number, text in enumerate(("", *more)):
        path = tmp_path / f"{number}.toml"
        path.write_text(first + text, "utf-8")
        snapshot = load.load(path, env)
        assert len(snapshot.endpoints) == 3
        assert snapshot.warnings == ()
    assert len(more) >= 2
