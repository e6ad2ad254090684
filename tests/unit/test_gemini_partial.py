"""Calls in pieces."""

from __future__ import annotations

from ccm.dialects.gemini.partial import PartialCall


def test_pieces_make_the_arguments() -> None:
    call = PartialCall("", "f", "")
    for piece in (
        {"jsonPath": "$.items[1].name", "stringValue": "ap", "willContinue": True},
        {"jsonPath": "$.items[1].name", "stringValue": "ple"},
        {"jsonPath": "$.items[0]", "nullValue": "NULL_VALUE"},
        {"jsonPath": "$['a b'][\"c.d\"]", "boolValue": False},
        {"jsonPath": "$.n", "numberValue": 0.5},
        {"jsonPath": "$.list[0]", "stringValue": "x"},
        {"jsonPath": "$.list[0]", "stringValue": "y"},
    ):
        call.add({"partialArgs": [piece], "willContinue": True})
    assert call.args == {
        "items": [None, {"name": "apple"}],
        "a b": {"c.d": False},
        "n": 0.5,
        "list": ["xy"],
    }


def test_paths_that_fit_nothing_change_nothing() -> None:
    call = PartialCall("", "f", "")
    call.add({"args": {"a": "text"}})
    for path in ("a", "$", "$..a", "$.a[9999999999]", "$[0]", "$.b["):
        call.add({"partialArgs": [{"jsonPath": path, "stringValue": "x"}]})
    call.add({"partialArgs": [{"jsonPath": "$.a"}, "nonsense"]})
    assert call.args == {"a": "text"}
