"""No text makes the loader fail in any other way than ConfigError, and every key keeps its line."""

from __future__ import annotations

import random
from pathlib import Path

import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.catalog.models import bundled
from ccm.config import build, checks, schema, urls
from ccm.config.build import Origin
from ccm.config.locate import Lines
from ccm.config.read import Reading
from ccm.errors import ConfigError
from ccm.model import DIALECTS

DATA = Path(__file__).resolve().parents[1] / "data" / "config"
TEXTS = [path.read_text("utf-8") for path in sorted(DATA.rglob("*.toml"))]
ORIGIN = Origin("", Path("/nonexistent"), Path("/nonexistent"), {"KEY": "sk-ENV-VALUE"})
NAMES = sorted(
    {part for key in schema.KEYS for part in key.path if part != "*"} | {"openai", "custom", "a.b", ""}
)
VALUES = st.one_of(
    st.booleans(), st.integers(-5, 10**12), st.floats(), st.sampled_from(NAMES), st.text(max_size=12),
    st.lists(st.text(max_size=5), max_size=3), st.just({}),
)  # fmt: skip


def survives(text: str) -> None:
    try:
        snapshot = build.build(Reading(text, "f.toml"), ORIGIN, bundled())
    except ConfigError as error:
        assert error.problems and all(p.text for p in error.problems)
        assert "ENV-VALUE" not in str(error)
    else:
        assert snapshot.endpoints


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXTS) - 1), st.integers(0, 2**32))
def test_damaged_files(which: int, seed: int) -> None:
    chance = random.Random(seed)
    text = list(TEXTS[which])
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) or 1)
        change = chance.choice(("drop", "double", "swap", "insert"))
        if change == "drop":
            del text[at : at + chance.randint(1, 20)]
        elif change == "double":
            text[at:at] = text[at : at + chance.randint(1, 40)]
        elif change == "swap" and text:
            text[at % len(text)] = chance.choice("[]{}=\"'\n#.,x1-\\ ")
        else:
            text.insert(at, chance.choice("[]{}=\"'\n#.,\x00é"))
    survives("".join(text))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), VALUES), max_size=6))
def test_any_value_at_any_key(pairs: list[tuple[list[str], object]]) -> None:
    lines = []
    for path, value in pairs:
        dotted = ".".join(toml(part) for part in path)
        lines.append(f"{dotted} = {toml(value)}")
    survives("\n".join(lines))


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{}"
    return repr(value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_the_scanner_never_raises(text: str) -> None:
    Lines(text)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=6), min_size=1, max_size=5))
def test_keys_keep_their_lines(table: dict[str, str]) -> None:
    text = "# head\n[t]\n" + "\n".join(f"{toml(k)} = {toml(v)}" for k, v in table.items())
    try:
        known = tomli.loads(text)["t"]
    except tomli.TOMLDecodeError:
        return  # surrogates
    lines = Lines(text)
    assert [lines.of(("t", key)) for key in known] == list(range(3, 3 + len(known)))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["http://", "https://", ""]),
    st.text("a1.:[]@/%?#\\x-_é ", max_size=24),
    st.sampled_from(DIALECTS),
    st.booleans(),
)
def test_a_base_url_is_refused_or_stays_as_it_is(start: str, rest: str, dialect: str, allow: bool) -> None:
    try:
        base = urls.normalise(start + rest, dialect, allow)
    except urls.BadAddress as error:
        assert error.text
        return
    assert urls.normalise(base, dialect, allow) == base
    assert not set(base) & set("@?#\\ ") and not base.endswith("/")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_checks_take_any_text(text: str) -> None:
    for key in schema.KEYS:
        if key.check is not None and schema.KINDS[key.kind][0](text):
            fault = key.check(text)
            assert fault is None or (fault[0] and isinstance(fault[1], str))
    checks.looks_secret(text)
