"""The conversation: which providers, in which order, whose keys are where, how to choose. It writes nothing.

Every question can be answered beforehand by a flag; with nobody to ask, what is not answered has its default.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ccm.catalog.rows import Row, bundled_rows, find_row
from ccm.cli.arguments import did_you_mean
from ccm.cli.wizard import sources
from ccm.cli.wizard.ask import Impossible, Questions, chosen, numbered
from ccm.cli.wizard.sources import Source, missing_options, tilde
from ccm.config import secrets
from ccm.config.options import fill
from ccm.model import STRATEGIES, Secret
from ccm.shape import dataclass, field, replace

# What people want, in their words -> the strategy that does it.
WISHES: Mapping[str, tuple[str, str]] = {
    "failover": ("priority", "in this order, the next when one fails (recommended)"),
    "cheapest": ("cost", "whoever is cheapest for the request"),
    "fastest": ("latency", "whoever answers soonest"),
}
STRATEGY_WORDS: Mapping[str, str] = {
    "priority": "the first one, the others when it fails",
    "round-robin": "in turns",
    "weighted": "in turns, by weight",
    "latency": "whoever answers fastest",
    "cost": "whoever is cheapest for the request",
    "least-busy": "whoever has the least to do",
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_WORDS_FIT = 60  # beside a number and the longest name, on 80 columns
_NOT_OFFERED = ("demo", "custom")  # nothing a few questions could configure


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line answers. `keys` are (provider, kind of source, value)."""

    providers: tuple[str, ...] = ()
    strategy: str = ""
    keys: tuple[tuple[str, str, str], ...] = ()
    use_files: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be configured: the sources in order of preference, and the strategy."""

    sources: tuple[Source, ...]
    strategy: str

    @property
    def kept(self) -> dict[str, Secret]:
        """The keys that go into files of ours, by provider."""
        return {s.row.name: s.key for s in self.sources if s.kind in sources.KEPT and s.key is not None}


@dataclass(slots=True)
class Talk:
    """One conversation. `ask` None: nobody is there."""

    environ: Mapping[str, str]
    home: Path
    folder: Path
    ask: Questions | None
    given: Given
    probe: sources.Probe
    found: list[Source] = field(default_factory=list)

    def plan(self) -> Plan:
        """Everything asked. Raises Impossible, Ended."""
        self._look()
        picked = self._which()
        used = [self._whole(source) for source in picked]
        return Plan(tuple(used), self._strategy(len(used)))

    # ---- what is there

    def _look(self) -> None:
        found = sources.from_environment(self.environ)
        # a key that commonly serves other tools stands last in the list, and is used only if it is asked for
        found.sort(key=lambda source: not source.row.auto)
        named = {source.row.name for source in found}
        found += [s for s in sources.from_clouds(self.environ, self.home) if s.row.name not in named]
        named |= {source.row.name for source in found}
        found += [s for s in self.probe() if s.row.name not in named]
        copies, later = sources.from_files(self.home, self.folder, named | {s.row.name for s in found})
        for name, kind, value in self.given.keys:
            row = self._row(name)
            found = [s for s in found if s.row is not row]
            copies, later = ([s for s in some if s.row is not row] for some in (copies, later))
            found.insert(0, Source(row, kind, value))
        if copies and (self.given.use_files or self._agreed(copies)):
            found += [sources.copied(source) for source in copies]
        self.found = found + later

    def _agreed(self, copies: Sequence[Source]) -> bool:
        """Whether keys in files may be read and copied; their names were all that was looked at so far."""
        if self.ask is None:
            return False
        print("These files hold keys that are not in the environment:")
        for source in copies:
            print(f"  {source.name} in {tilde(str(source.place.path), self.home)}")  # type: ignore[union-attr]
        return self.ask.yes(f"Copy them to ~/{sources.KEYS}, readable by you alone?", False)

    def _options(self, some: Sequence[Source]) -> list[tuple[str, str]]:
        shown = []
        for source in some:
            words = source.words(self.home)
            full = f"{source.row.display}, {words}"
            shown.append((source.row.name, full if len(full) <= _WORDS_FIT else words))
        return shown

    # ---- which of them

    def _which(self) -> list[Source]:
        if self.given.providers:
            return [self._named(name) for name in self.given.providers]
        given = {name for name, _, _ in self.given.keys}
        default = [s for s in self.found if s.ready or s.row.name in given or s.kind in sources.KEPT]
        default = default or [s for s in self.found if s.kind == sources.LOCAL][:1]
        if self.ask is None:
            if not default:
                raise Impossible(_nothing_found())
            return default
        return self._asked(default or self.found[:1])

    def _asked(self, default: Sequence[Source]) -> list[Source]:
        assert self.ask is not None
        names = [source.row.name for source in self.found]
        if names:
            print("\nFound here:")
            print("\n".join(numbered(self._options(self.found))))
            print("\nWhich providers, in which order? Numbers or names, as in `2 1`; any other one")
            print("by its name. `?` lists them all; Enter takes what stands in brackets.")
        else:
            print("No key was found. Which provider do you have one for? `?` lists them all.")
            print("(Or see ccm work without a key: ccm start --demo)")
        shown = " ".join(str(names.index(s.row.name) + 1) for s in default)

        def understand(answer: str) -> list[Source] | str:
            words = answer.replace(",", " ").split()
            if words == ["?"]:
                return textwrap.fill("  ".join(row.name for row in _offered()), 76, subsequent_indent="  ")
            if not words:
                return list(default) if default else "a provider's name (`?` lists them), or Ctrl-C"
            picked: list[Source] = []
            for word in words:
                row = find_row(chosen(word, names) or word.lower())
                if row is None or row.name in _NOT_OFFERED:
                    known = [*names, *(row.name for row in _offered())]
                    return f"{word!r} is no provider here{did_you_mean(word, known)}; `?` lists them"
                source = next((s for s in self.found if s.row.name == row.name), Source(row, ""))
                if source.row.name not in (s.row.name for s in picked):
                    picked.append(source)
            return picked

        return self.ask.until(f"[{shown}] > " if shown else "> ", understand)

    def _named(self, name: str) -> Source:
        row = self._row(name)
        source = next((s for s in self.found if s.row.name == row.name), None)
        if source is None and self.ask is None and row.auth != "none":
            where = row.env[0] if row.env else "--key-file"
            raise Impossible(
                f"no key for {row.name} is here: set {where}, or say where it is (--key-env, --key-file or "
                f"--key-command {row.name}=...)"
            )
        return source or Source(row, "")

    def _row(self, name: str) -> Row:
        row = find_row(name.lower())
        if row is None or row.name in _NOT_OFFERED:
            near = did_you_mean(name, [row.name for row in _offered()])
            raise Impossible(f"{name!r} is no provider of the catalogue{near}; `ccm providers` lists them")
        return row

    # ---- what they need

    def _whole(self, source: Source) -> Source:
        """The source with everything its provider needs, asked for where nothing tells it."""
        if not source.kind:
            source = self._keyed(source.row)
        for option in missing_options(source, self.environ):
            known = source.row.known.get(option, ())
            if self.ask is None:
                ways = " or ".join(way for way in source.row.options[option] if way[:1] != "=")
                raise Impossible(f"{source.row.name} needs a {option}: set {ways}")
            form = source.row.forms.get(option, r"\S+")
            example = f" (for example {known[0]})" if known else ""
            value = self.ask.until(
                f"{source.row.display}: which {option}{example}? > ",
                lambda answer, f=form, o=option: (
                    (answer,) if re.fullmatch(f, answer) else f"{answer!r} is no {o}"
                ),  # type: ignore[misc]
            )[0]
            source = replace(source, options=(*source.options, (option, value)))
        if not source.row.tiers and "tools" in source.row.endpoints[0].abilities:
            source = replace(source, options=(*source.options, ("model", self._model(source))))
        return source

    def _model(self, source: Source) -> str:
        """The model that every name of Claude becomes at a provider that the catalogue knows no models of."""
        if source.models and (self.ask is None or len(source.models) == 1):
            return source.models[0]
        if self.ask is None:
            raise Impossible(f"{source.row.name} does not answer, so its models are unknown: start it first")
        if source.models:
            return self.ask.pick(
                f"Which model of {source.row.display}?", [(m, "") for m in source.models[:20]]
            )
        return self.ask.until(
            f"{source.row.display}: which model? > ",
            lambda a: (a,) if a and " " not in a else "its name, please",
        )[0]

    def _keyed(self, row: Row) -> Source:
        """A provider whose key was not found: its owner says where it is."""
        assert self.ask is not None or row.auth == "none"
        if row.auth == "none" or self.ask is None:
            return Source(row, sources.LOCAL, fill(row.base_url, {}))
        variable = row.env[0] if row.env else "MY_KEY"
        ways = [
            ("type", f"type it now (kept in ~/{sources.KEYS}, for you alone)"),
            ("variable", f"it will be in an environment variable ({variable})"),
            ("command", "a command prints it (pass, op, gcloud ...)"),
            ("file", "it is in a file already"),
        ]
        way = self.ask.pick(f"Where is the key of {row.display}?", ways)
        return _KEYED[way](self.ask, row, variable)

    # ---- how to choose

    def _strategy(self, count: int) -> str:
        if self.given.strategy:
            return strategy_named(self.given.strategy)
        if self.ask is None or count < 2:
            return STRATEGIES[0]
        options = [(name, words) for name, (_, words) in WISHES.items()]
        wish = self.ask.pick(
            "How shall ccm choose among them?", [*options, ("custom", ", ".join(STRATEGIES))]
        )
        if wish != "custom":
            return WISHES[wish][0]
        return self.ask.pick("Which strategy?", [(name, STRATEGY_WORDS[name]) for name in STRATEGIES])


def strategy_named(name: str) -> str:
    """The strategy of a wish or of its own name. Raises Impossible."""
    known = [*WISHES, *STRATEGIES]
    if name not in known:
        raise Impossible(f"{name!r} is no strategy{did_you_mean(name, known)}; there are {', '.join(known)}")
    return WISHES[name][0] if name in WISHES else name


def _typed(ask: Questions, row: Row, _variable: str) -> Source:
    def understand(answer: str) -> Secret | str:
        fault = secrets.key_fault(answer)
        return f"that {fault}" if fault else Secret(answer, "typed")

    key = ask.until(f"Key of {row.display} (it is not shown): ", understand, secret=True)
    return Source(row, sources.TYPED, key=key)


def _in_variable(ask: Questions, row: Row, variable: str) -> Source:
    name = ask.until(
        f"[{variable}] > ",
        lambda a: (a or variable,) if _VARIABLE.fullmatch(a or variable) else f"{a!r} is no variable's name",
    )[0]
    return Source(row, sources.RC, name, Path("your shell's start file"))


def _from_command(ask: Questions, row: Row, _variable: str) -> Source:
    def understand(answer: str) -> tuple[str] | str:
        try:
            return (answer,) if shlex.split(answer) else "a command, as in `pass show openai`"
        except ValueError as error:
            return f"that can't be read: {error}"

    return Source(row, sources.COMMAND, ask.until("Command > ", understand)[0])


def _in_file(ask: Questions, row: Row, _variable: str) -> Source:
    def understand(answer: str) -> tuple[str] | str:
        problem = secrets.from_file(Path(answer).expanduser(), answer, "").problem if answer else "no file"
        return problem or (answer,)

    return Source(row, sources.FILE, ask.until("File > ", understand)[0])


_KEYED: Mapping[str, Callable[[Questions, Row, str], Source]] = {
    "type": _typed,
    "variable": _in_variable,
    "command": _from_command,
    "file": _in_file,
}


def _offered() -> list[Row]:
    return [row for row in bundled_rows().values() if row.name not in _NOT_OFFERED]


def _nothing_found() -> str:
    known = [row.env[0] for row in bundled_rows().values() if row.env and row.auto][:6]
    return (
        "no provider key is in the environment. Set one and come back, for example\n"
        f"  export {known[0]}=...\n"
        f"(ccm also knows {', '.join(known[1:])} and more), or see ccm work without one: ccm start --demo"
    )
