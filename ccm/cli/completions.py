"""`ccmctl completions SHELL`: what the shell offers after a Tab, made of the one table of commands.

Options, choices and words come from the parsers themselves. Names of providers are asked of the running ccm, at the
moment of the Tab (`ccmctl completions names`); where none runs, none are offered.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccm.errors import ControlError
from ccm.shape import dataclass

SHELLS = ("bash", "zsh", "fish")
SCRIPT_COMMANDS = {  # the control script's own (templates/ccmctl.sh)
    "start": "start ccm in the background",
    "restart": "stop it and start it again",
    "logs": "its log",
}
_NAMED = ("NAME", "PROVIDER")  # metavars of arguments that are a provider's name
_FILES = ("FILE", "PATH", "FILE | off")
NAMES = "@names"  # in a list of words: the providers, asked when they are needed
FILES = "@files"


@dataclass(frozen=True, slots=True)
class Word:
    """One command as a shell needs it: option -> (help, words for its value or None for a flag), positional words."""

    name: str
    help: str
    options: Mapping[str, tuple[str, tuple[str, ...] | None]]
    words: tuple[str, ...]


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `ccmctl completions` takes."""
    parser.add_argument("shell", metavar="SHELL", choices=(*SHELLS, "names"), help=", ".join(SHELLS))


def run(
    given: argparse.Namespace, path: str, ask: Callable[..., Any], parser: argparse.ArgumentParser
) -> int:
    """Prints the script; or the providers' names, one a line, and nothing at all where no ccm runs."""
    if given.shell == "names":
        try:
            rows = ask(path, "GET", "/providers")["providers"]
        except ControlError:
            return 0
        print("\n".join(str(row["name"]) for row in rows))
        return 0
    print(script(given.shell, parser), end="")
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script for a shell."""
    return _WRITERS[shell](words(parser))


def words(parser: argparse.ArgumentParser) -> list[Word]:
    """Every command of ccmctl's parser, and the control script's own."""
    below = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    told = {action.dest: str(action.help or "") for action in below._choices_actions}
    found = [_word(name, told.get(name, ""), one) for name, one in below.choices.items()]
    known = {word.name for word in found}
    more = [Word(name, text, {}, ()) for name, text in SCRIPT_COMMANDS.items() if name not in known]
    return [*found, *more]


def _word(name: str, text: str, parser: argparse.ArgumentParser) -> Word:
    options: dict[str, tuple[str, tuple[str, ...] | None]] = {}
    positional: list[str] = []
    for action in parser._actions:
        if action.option_strings:
            value = None if action.nargs == 0 else _values(action)
            for option in action.option_strings:
                if option.startswith("--"):
                    options[option] = (str(action.help or ""), value)
        else:
            positional += _values(action)
    return Word(name, text, options, tuple(positional))


def _values(action: argparse.Action) -> tuple[str, ...]:
    if action.choices:
        return tuple(str(choice) for choice in action.choices)
    metavar = str(action.metavar or "")
    if metavar in _NAMED:
        return (NAMES,)
    if metavar in _FILES:
        return (FILES,)
    listed = _LISTED.get(metavar)
    return listed() if listed else ()


def _levels() -> tuple[str, ...]:
    return ("debug", "info", "warning", "error")


_LISTED: Mapping[str, Callable[[], tuple[str, ...]]] = {"LEVEL": _levels, "ID": lambda: ("last",)}


# ---- bash


def _bash(found: Sequence[Word]) -> str:
    lines = [
        '# bash completion for ccmctl: put this into ~/.bashrc:  eval "$(ccmctl completions bash)"',
        "_ccmctl() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" n',
        "    COMPREPLY=()",
        "    for ((n = 1; n < COMP_CWORD; n++)); do",
        '        case "${COMP_WORDS[n]}" in',
        "            --socket) n=$((n + 1)) ;;",
        "            -*) ;;",
        '            *) command="${COMP_WORDS[n]}"; break ;;',
        "        esac",
        "    done",
        '    local words="" files=""',
        '    case "$command:$before" in',
    ]
    for word in found:
        for option, (_, value) in word.options.items():
            if value is not None:
                lines.append(f"        {word.name}:{option}) {_bash_words(value)} ;;")
    lines += [
        '        *) case "$command" in',
        f'            "") words="{" ".join(word.name for word in found)} --help --version --socket" ;;',
    ]
    for word in found:
        lines.append(f"            {word.name}) {_bash_words((*word.options, *word.words))} ;;")
    lines += [
        "        esac ;;",
        "    esac",
        '    words="${words//@names/$("${COMP_WORDS[0]}" completions names 2>/dev/null)}"',
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        '    if [ -n "$files" ]; then COMPREPLY+=($(compgen -f -- "$current")); fi',
        "}",
        "complete -F _ccmctl ccmctl",
    ]
    return "\n".join(lines) + "\n"


def _bash_words(values: Sequence[str]) -> str:
    plain = " ".join(value for value in values if value != FILES)
    return f'words="{plain}"' + ("; files=yes" if FILES in values else "")


# ---- zsh


def _zsh(found: Sequence[Word]) -> str:
    lines = [
        "#compdef ccmctl",
        '# zsh completion for ccmctl: put this into ~/.zshrc:  eval "$(ccmctl completions zsh)"',
        '_ccmctl_names() { local -a names; names=(${(f)"$(ccmctl completions names 2>/dev/null)"}); compadd -a names }',
        "_ccmctl() {",
        "    local -a commands",
        "    commands=(",
    ]
    lines += [f"        {_zsh_quote(f'{word.name}:{_zsh_text(word.help)}')}" for word in found]
    lines += [
        "    )",
        "    if (( CURRENT == 2 )); then _describe command commands; return; fi",
        '    case "${words[2]}" in',
    ]
    for word in found:
        specs = [
            _zsh_quote(
                f"{option}[{_zsh_text(text)}]" + ("" if value is None else f":value:{_zsh_action(value)}")
            )
            for option, (text, value) in word.options.items()
        ]
        specs += [_zsh_quote(f"*::word:{_zsh_action(word.words)}")] if word.words else []
        lines.append(f"        {word.name}) shift words; (( CURRENT-- )); _arguments {' '.join(specs)} ;;")
    lines += [
        "    esac",
        "}",
        "if (( $+functions[compdef] )); then compdef _ccmctl ccmctl; fi",
    ]
    return "\n".join(lines) + "\n"


def _zsh_action(values: Sequence[str]) -> str:
    if NAMES in values and len(values) == 1:
        return "_ccmctl_names"
    if FILES in values:
        return "_files"
    plain = [value for value in values if value != NAMES]
    return (
        f"({' '.join(plain)})" if NAMES not in values else f"{{_ccmctl_names; compadd -- {' '.join(plain)}}}"
    )


def _zsh_text(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", " -")


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish


def _fish(found: Sequence[Word]) -> str:
    names = " ".join(word.name for word in found)
    lines = [
        "# fish completion for ccmctl: ccmctl completions fish > ~/.config/fish/completions/ccmctl.fish",
        "complete -c ccmctl -f",
        f"set -l commands {names}",
    ]
    for word in found:
        lines.append(
            f'complete -c ccmctl -n "not __fish_seen_subcommand_from $commands" -a {word.name} -d {_fish_quote(word.help)}'
        )
    for word in found:
        seen = f"-n '__fish_seen_subcommand_from {word.name}'"
        for option, (text, value) in word.options.items():
            more = "" if value is None else f" -x -a {_fish_words(value)}" if FILES not in value else " -r -F"
            lines.append(f"complete -c ccmctl {seen} -l {option[2:]}{more} -d {_fish_quote(text)}")
        if word.words:
            lines.append(f"complete -c ccmctl {seen} -a {_fish_words(word.words)}")
    return "\n".join(lines) + "\n"


def _fish_words(values: Sequence[str]) -> str:
    text = " ".join("(ccmctl completions names 2>/dev/null)" if value == NAMES else value for value in values)
    return _fish_quote(text.replace(FILES, "").strip())


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: Mapping[str, Callable[[Sequence[Word]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
