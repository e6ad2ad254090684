"""`ccm`: the command line. Light itself; what a command needs is imported when it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from ccm import __version__

_DESCRIPTION = """A local gateway for Claude Code: Anthropic's Messages API in, any provider out, with failover.
Claude Code finds it with these two variables:

  ANTHROPIC_BASE_URL=http://127.0.0.1:13456
  ANTHROPIC_AUTH_TOKEN=ccm-proxy        (or ANTHROPIC_API_KEY=ccm-proxy)"""
_EPILOG = """examples:
  ccm start                              with ~/config/ccm-config.toml, or with the keys found in the environment
  ccm start --demo                       without any key: two scripted providers, one of them failing now and then
  ccm start --config ./ccm-config.toml   with this configuration
  ccm check                              what is wrong with the configuration, and where
  ccm providers                          what ccm can talk to; `ccm providers NAME` with a ready snippet
  ccm test                               one small real request to every configured provider and tier
  ccm run                                Claude Code through ccm, in one; `ccm run -- -p "hi"` with its own options
  ccm doctor                             what is wrong here, and how to mend it
  ccmctl status                          what the running ccm does (see `ccmctl --help`)

files:
  ~/config/ccm-config.toml        the configuration (`ccm-quickstart` writes one)
  ~/.claude-code-mux/             control socket, state, log and pid file; nobody else can read them

environment:
  CCM_SOCKET      the control socket's path        CCM_LOG_FILE    log into this file (5 x 10 MB), not to stderr
  CCM_LOG_FORMAT  text (default) or json           NO_COLOR        no colours

"""
# Commands with a module of their own: add_arguments(parser) and run(args) -> exit code; imported when they run.
_COMMANDS = {
    "check": ("ccm.cli.check", "check a configuration without running it"),
    "providers": ("ccm.cli.providers", "the providers ccm knows, and where their keys are"),
    "models": ("ccm.cli.models", "the models ccm knows, with windows and prices"),
    "test": ("ccm.cli.try_out", "ask every configured provider one small question"),
    "run": ("ccm.cli.run", "run Claude Code through ccm, starting ccm if none runs"),
    "env": ("ccm.cli.env", "the environment that connects Claude Code, for `eval`"),
    "doctor": ("ccm.cli.doctor", "a report of what is wrong and how to mend it, ready to paste"),
    "health": ("ccm.cli.health", "one word and an exit code, for health checks"),
    "service": ("ccm.cli.service", "let systemd or launchd run ccm: install, remove"),
}
_START_OPTIONS = ("--config", "--listen", "--log-level", "--socket", "--debug-bodies")
_LEVELS = ("debug", "info", "warning", "error")
_START = """Runs ccm in the foreground until SIGTERM or Ctrl-C; running requests end first (a second signal ends
them at once). SIGHUP, and `ccmctl reload`, read the configuration again. `ccmctl start` does the same in the background."""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--version"], ["-V"], ["version"]):  # answered before anything else is imported
        print(f"ccm {__version__}")
        return 0
    if words[:1] == ["statusline"]:  # likewise: Claude Code waits for it
        from ccm.cli import statusline

        return statusline.main(words[1:])
    try:
        plain = _plain_start(words)
        return _run(words) if plain is None else _start(*plain)
    except KeyboardInterrupt:
        return 130


def _plain_start(words: list[str]) -> tuple[str | None, str | None, bool, str | None, str | None, str] | None:
    """`ccm start` with nothing but known options and their values; None for everything that argparse must judge. A start
    without argparse is 8 ms faster."""
    found: dict[str, str] = {}
    if words[:1] != ["start"]:
        return None
    left = iter(words[1:])
    for word in left:
        name, equals, value = word.partition("=")
        if word == "--demo":
            found[word] = word
            continue
        if not equals:
            value = next(left, "")
        if name not in _START_OPTIONS or not value or value.startswith("-"):
            return None
        if name == "--log-level" and value not in _LEVELS:
            return None
        found[name] = value
    config, listen, level, socket, bodies = map(found.get, _START_OPTIONS)
    return config, listen, "--demo" in found, level, socket, bodies or ""


def _start(
    config: str | None, listen: str | None, demo: bool, level: str | None, socket: str | None, bodies: str
) -> int:
    from ccm.process import light

    light.prepare()

    from ccm import app
    from ccm.errors import CcmError, ConfigError

    try:
        settings = (config, listen, demo, level, socket)
        return app.run(*settings, bodies) if bodies else app.run(*settings)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except CcmError as error:
        print(f"ccm: {error}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    from ccm.cli.arguments import EXIT_CODES, USAGE, Parser, refuse_secrets

    if words[:1] == ["quickstart"]:  # likewise
        from ccm.cli import quickstart

        return quickstart.main(words[1:])
    if words[:1] == ["ctl"]:  # `ccm ctl status` is `ccmctl status`: what the control script calls
        from ccm.cli import ctl

        return ctl.main(words[1:])
    after: list[str] = []
    if words[:1] == ["run"] and "--" in words:  # what stands behind it is for the client
        at = words.index("--")
        words, after = words[:at], words[at + 1 :]
    if refuse_secrets("ccm", words):
        return USAGE
    top = Parser(prog="ccm", description=_DESCRIPTION, epilog=_EPILOG + EXIT_CODES)
    top.add_argument("--version", action="version", version=f"ccm {__version__}")
    below = top.add_subparsers(metavar="COMMAND", dest="command", parser_class=Parser)
    start = below.add_parser("start", help="run ccm in the foreground", description=_START, epilog=EXIT_CODES)
    start.add_argument(
        "--config", metavar="FILE", help="the configuration (default: ~/config/ccm-config.toml)"
    )
    start.add_argument("--listen", metavar="HOST:PORT", help="listen here, whatever the configuration says")
    start.add_argument(
        "--demo", action="store_true", help="scripted providers instead of real ones; needs no key"
    )
    start.add_argument("--log-level", metavar="LEVEL", choices=_LEVELS,
                       help="debug, info, warning or error")  # fmt: skip
    start.add_argument(
        "--socket",
        metavar="PATH",
        help="the control socket (default: $CCM_SOCKET, else in ~/.claude-code-mux)",
    )
    start.add_argument(
        "--debug-bodies",
        metavar="FILE",
        default="",
        help="write prompts and answers into FILE for 10 minutes",
    )
    command = next((word for word in words if not word.startswith("-")), "")
    for name, (module, told) in _COMMANDS.items():
        parser = below.add_parser(name, help=told)
        if name == command:
            importlib.import_module(module).add_arguments(parser)
    below.add_parser("ctl", help="the same as ccmctl", add_help=False)
    below.add_parser("quickstart", help="the same as ccm-quickstart", add_help=False)
    below.add_parser("statusline", help="the line below Claude Code's prompt (--install)", add_help=False)
    below.add_parser("version", help="print the version")
    given, unknown = top.parse_known_args(words)
    if unknown:
        hint = "; what is for the client stands behind --: ccm run -- -p hi" if command == "run" else ""
        top.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    given.after = after
    if given.command is None:
        top.print_help(sys.stderr)
        return USAGE
    if given.command in _COMMANDS:
        return int(importlib.import_module(_COMMANDS[given.command][0]).run(given))
    if given.command == "version":
        print(f"ccm {__version__}")
        return 0

    return _start(given.config, given.listen, given.demo, given.log_level, given.socket, given.debug_bodies)


if __name__ == "__main__":
    sys.exit(main())
