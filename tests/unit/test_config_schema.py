"""The table of keys: consistent in itself, and good at saying what was meant."""

from __future__ import annotations

import pytest

from ccm.config import checks, schema
from ccm.config.read import Reading, key_text


def test_every_default_passes_its_own_check() -> None:
    for key in schema.KEYS:
        if key.default in (None, "", ()):
            continue
        test, _ = schema.KINDS[key.kind]
        assert test(key.default), key.name
        assert key.check is None or key.check(key.default) is None, key.name


def test_names_and_aliases_are_unique_and_explained() -> None:
    seen = set()
    for key in schema.KEYS:
        assert key.help and key.kind in schema.KINDS
        for name in (key.path[-1], *key.aliases):
            assert (*key.path[:-1], name) not in seen
            seen.add((*key.path[:-1], name))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("proxy", "listen"), "proxy.listen"),
        (("providers", "x.y", "timeouts", "first_token"), "providers.<name>.timeouts.first_content_s"),
        (("providers", "timeouts", "timeouts", "idle"), "providers.<name>.timeouts.idle_s"),
        (("providers", "p", "models", "opus"), "providers.<name>.models.<name>"),
        (("models", "gpt-*"), "models.<name>"),
    ],
)
def test_keys_are_found(path: tuple[str, ...], name: str) -> None:
    key = schema.find_key(path)
    assert key is not None and key.name == name


def test_tables_are_no_keys() -> None:
    assert schema.is_table(("providers", "x")) and schema.find_key(("providers", "x")) is None
    assert schema.is_table(("models",)) and not schema.is_table(("models", "x"))
    assert not schema.is_table(("nothing",))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("sk-proj-abc123", True),
        ("AIzaSyA1234567", True),
        ("ghp_0123456789", True),
        ("0a1b2c3d4e5f60718293a4b5c6d7e8f9a.b-c", True),
        ("OPENAI_API_KEY", False),
        ("A_VERY_LONG_NAME_OF_A_VARIABLE_THAT_HOLDS_KEY_2", False),
        ("a_very_long_name_of_a_variable_that_holds_key_2", False),
        ("/home/me/.keys/a-very-long-path-with-2-digits-in-it", False),
        ("hf_", False),
    ],
)
def test_what_looks_like_a_key(text: str, secret: bool) -> None:
    assert checks.looks_secret(text) is secret


def test_no_message_of_a_wrong_key_shows_it() -> None:
    secret = "sk-THE-VALUE-0123456789"
    for key in schema.KEYS:
        if key.kind in ("text or texts", "never"):
            fault = key.check(secret) if key.check else None
            assert fault is None or secret not in " ".join(fault), key.name


def test_paths_are_written_as_toml_writes_them() -> None:
    assert key_text(("models", "gpt-5.6", "openai")) == 'models."gpt-5.6".openai'


def test_a_reading_gives_defaults_and_resolves_aliases() -> None:
    reading = Reading("[providers.x.timeouts]\nidle = 5\n[failover]\ndeadline = 9\n", "f.toml")
    assert reading.get("providers", "x", "timeouts", "idle_s") == 5
    assert reading.get("providers", "x", "timeouts", "total_s") == 3600.0
    assert reading.get("failover", "deadline_s") == 9 and reading.given("failover", "deadline_s")
    assert not reading.given("failover", "enabled") and reading.get("failover", "enabled") is True
    assert reading.names("providers") == ["x"] and reading.problems == []


def test_a_problem_at_an_aliased_key_names_what_was_written() -> None:
    reading = Reading("[failover]\n\ndeadline = 0\n", "f.toml")
    assert [str(p) for p in reading.problems] == [
        "f.toml:3 failover.deadline: must be from 1 to 3600 seconds"
    ]
