"""The redactor: no form of a registered key survives, and ordinary text does."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest

from ccm.model import Secret
from ccm.observe.redact import MASK, Redactor, mask

KEY = 'canary/Ab3+xyz==9 "q"\\ü-0123456789'
PLAIN = "kk-canary-0123456789abcdef"


def redactor(*keys: str) -> Redactor:
    made = Redactor()
    for key in keys:
        made.register(key)
    return made


@pytest.mark.parametrize("key", [KEY, PLAIN])
@pytest.mark.parametrize(
    "spell",
    [
        lambda k: k,
        lambda k: json.dumps(k)[1:-1],
        lambda k: json.dumps(k, ensure_ascii=False)[1:-1],
        lambda k: urllib.parse.quote(k, safe=""),
        urllib.parse.quote_plus,
        lambda k: base64.b64encode(k.encode()).decode(),
        lambda k: base64.urlsafe_b64encode(k.encode()).decode(),
    ],
)
def test_every_spelling_is_masked(key: str, spell) -> None:
    text = redactor(key).clean(f"before {spell(key)} after")
    assert spell(key) not in text
    assert text.startswith("before ") and text.endswith(" after")
    assert mask(key) in text


@pytest.mark.parametrize("lead", range(6))
@pytest.mark.parametrize("tail", range(3))
def test_base64_of_something_around_the_key_is_masked(lead: int, tail: int) -> None:
    whole = b"u" * lead + b":" + PLAIN.encode() + b"!" * tail
    encoded = base64.b64encode(whole).decode()
    text = redactor(PLAIN).clean(encoded)
    assert mask(PLAIN) in text
    # what is left decodes to nothing of the key but its very ends
    assert encoded[8:-8] not in text


@pytest.mark.parametrize("cut", range(1, len(PLAIN)))
def test_a_key_broken_over_lines_is_masked(cut: int) -> None:
    text = redactor(PLAIN).clean(f"one\n  x {PLAIN[:cut]}\r\n   {PLAIN[cut:]} y\nend")
    assert text == f"one\n  x {mask(PLAIN)} y\nend"


def test_wrapped_base64_is_masked() -> None:
    key = "long-canary-" + "x7Q" * 40
    wrapped = base64.encodebytes(key.encode()).decode()
    text = redactor(key).clean(f"<{wrapped}>")
    assert text == f"<{mask(key)}\n>"


@pytest.mark.parametrize(
    "text",
    [
        "sk-ant-api03-abcdefghijklmnop",
        "Authorization: Bearer abc.def-123456",
        "authorization: basic dXNlcjpwYXNz",
        "x-api-key: 0123456789abcdef",
        '{"x-api-key": "0123456789abcdef"}',
        '{\\"api_key\\": \\"0123456789abcdef\\"}',
        "GET /v1/models?key=AIzaSyA1234567890abcdefghij HTTP/1.1",
        "GET /v1/models?key=0123456789abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "token ya29.a0AfH6SMBx-12345",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG",
    ],
)
def test_the_shapes_of_keys_are_masked_unregistered(text: str) -> None:
    cleaned = redactor().clean(text)
    assert cleaned != text
    for secret in (
        "abcdefghijkl",
        "abc.def-123456",
        "dXNlcjpwYXNz",
        "0123456789abcdef",
        "SyA123",
        "IOSFODNN",
        "a0AfH6",
        "UtnFEMI",
    ):
        assert secret not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "openai answered 200 in 1.2 s",
        "ask-me-anything-about-it",
        "no bearer token was sent",
        "the key of openai is missing: set OPENAI_API_KEY",
        "task-1234567890",
        "primary=openai token=ccm",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redactor(PLAIN).clean(text) == text


def test_ends_are_shown_only_of_long_keys() -> None:
    assert mask("x" * 19) == MASK
    assert mask("abcdef" + "x" * 10 + "wxyz") == "abcdef...wxyz"


def test_short_keys_are_masked_only_as_words() -> None:
    made = redactor("test")
    assert made.clean("key test, latest, testing") == f"key {MASK}, latest, testing"
    assert redactor("abc").clean("abc") == "abc"


def test_secrets_are_registered_and_masks_are_stable() -> None:
    made = Redactor()
    made.register(Secret(PLAIN, "file x"))
    made.register(PLAIN + "-longer-one")
    text = made.clean(f"{PLAIN} {PLAIN}-longer-one Bearer {PLAIN}")
    assert PLAIN not in text
    assert "longer" not in text
    assert made.clean(text) == text


def test_clean_returns_the_same_object_where_nothing_is_found() -> None:
    text = "request ok provider=openai"
    assert redactor(PLAIN).clean(text) is text


def test_json_values_are_cleaned_at_every_depth_and_stay_json() -> None:
    odd = '"\\n\n' + PLAIN + '"\\\n"'
    value = {"a": [odd, {"b": f"x{PLAIN}"}, 1, None, True], "c": (PLAIN,)}
    cleaned = redactor(odd, PLAIN).clean_json(value)
    assert cleaned == {"a": [mask(odd), {"b": "x" + mask(PLAIN)}, 1, None, True], "c": [mask(PLAIN)]}
    assert not set(mask(odd)) & set('"\\\n')
