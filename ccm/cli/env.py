"""`ccm env`: the environment that connects Claude Code with ccm, as lines for a shell or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping

from ccm.cli import client, door
from ccm.cli.arguments import EXIT_CODES, FAILED, OK, USAGE, did_you_mean
from ccm.cli.client import Wish
from ccm.errors import ConfigError, ControlError
from ccm.model import STRATEGIES
from ccm.observe.log import escape

_DESCRIPTION = """Prints what Claude Code needs in its environment to work through ccm: address, token, and for models
that are not Claude's the context window and output cap that it can't know. With `unset` for what would get in the
way. Asks the running ccm where there is one, else the configuration."""
_EPILOG = """examples:
  eval "$(ccm env)"                          in bash, zsh and sh
  ccm env | source                           in fish (or --shell fish)
  eval "$(ccm env --provider openai)"        this shell's requests go to openai alone
  ccm env --shell json                       for programs; null stands for a variable that must not be set
  ccm run                                    all of it in one: ccm, environment, Claude Code

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ccm env` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG + EXIT_CODES
    parser.add_argument(
        "--shell", choices=tuple(_SHELLS), help="for which shell (default: the one that $SHELL names)"
    )
    add_wishes(parser)
    parser.add_argument("--project", metavar="NAME", default="", help="count these requests under this name")


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """--provider, --model, --strategy, --config and --socket: those of `ccm run` and `ccm env`."""
    parser.add_argument("--provider", metavar="P", default="", help="only this provider is asked")
    parser.add_argument(
        "--model", metavar="M", default="", help="a model's name, or provider/model to ask only that one"
    )
    parser.add_argument(
        "--strategy",
        metavar="S",
        default="",
        help=f"how to choose for these requests: {', '.join(STRATEGIES)}",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration, where no ccm runs")
    parser.add_argument("--socket", metavar="PATH", help="the control socket")


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Prints the lines; returns the exit code."""
    try:
        found = door.find(args.config, args.socket, env)
    except ConfigError as error:
        print(escape(str(error)), file=sys.stderr)
        return USAGE
    except ControlError as error:
        print(f"ccm: {escape(str(error))}", file=sys.stderr)
        return FAILED
    wish = Wish(args.provider, args.model, args.strategy, args.project)
    told = refusal(found, wish)
    if told:
        print(f"ccm env: {told}", file=sys.stderr)
        return USAGE
    if not found.running:
        print("ccm: nobody runs there yet: `ccm start`, or in the background `ccmctl start`", file=sys.stderr)
    if found.problem:
        print(f"ccm: windows and caps are left out: {escape(found.problem)}", file=sys.stderr)
    print(_SHELLS[args.shell or _own_shell(env)](client.environment(found, wish, env)))
    return OK


def refusal(found: door.Door, wish: Wish) -> str:
    """Why a wish can't be granted there; "" when it can."""
    if wish.strategy and wish.strategy not in STRATEGIES:
        near = did_you_mean(wish.strategy, STRATEGIES)
        return f"{wish.strategy!r} is no strategy{near}; there are {', '.join(STRATEGIES)}"
    if not wish.provider or found.snapshot is None:
        return ""
    usable = [provider.name for provider in found.usable]
    if wish.provider in usable:
        return ""
    provider = found.snapshot.providers.get(wish.provider)
    if provider is None:
        return f"{wish.provider!r} is not configured{did_you_mean(wish.provider, usable)}; usable: {', '.join(usable)}"
    reasons = "; ".join(key.problem for key in provider.keys if key.problem)
    return f"{wish.provider} can't be used: {escape(reasons) or 'it is switched off'}"


def _own_shell(env: Mapping[str, str]) -> str:
    name = os.path.basename(env.get("SHELL", ""))
    return name if name in _SHELLS and name != "json" else "sh"


def _posix(wanted: Mapping[str, str | None], quote: Callable[[str], str] = shlex.quote) -> str:
    """Lines that end in `;`, so that also `eval $(ccm env)` without quotes works."""
    return "\n".join(
        f"unset {name};" if value is None else f"export {name}={quote(value)};"
        for name, value in wanted.items()
    )


def _bash(wanted: Mapping[str, str | None]) -> str:
    return _posix(wanted, lambda value: _ansi(value) if "\n" in value else shlex.quote(value))


def _ansi(value: str) -> str:
    text = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{text}'"


def _fish(wanted: Mapping[str, str | None]) -> str:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return "\n".join(
        f"set -e {name};" if value is None else f"set -gx {name} {quoted(value)};"
        for name, value in wanted.items()
    )


def _json(wanted: Mapping[str, str | None]) -> str:
    return json.dumps(dict(wanted), indent=2, ensure_ascii=False)


_SHELLS: Mapping[str, Callable[[Mapping[str, str | None]], str]] = {
    "sh": _posix,
    "bash": _bash,
    "zsh": _bash,
    "fish": _fish,
    "json": _json,
}
