"""The plain tree, merging, and OpenAI's strict form."""

from __future__ import annotations

import pytest

from ccm.dialects.schemas import hinted, merge, openai_strict, plain, types_of

STRING = {"type": "string"}


def test_references_are_written_out_with_what_stands_beside_them() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/A", "description": "mine"},
            "b": {"$ref": "#/definitions/B~1x"},
        },
        "$defs": {"A": {"type": "string", "description": "its own", "minLength": 1}},
        "definitions": {"B/x": {"$ref": "#/$defs/A"}},
    }
    lost: set[str] = set()
    assert plain(schema, lost) == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "mine", "minLength": 1},
            "b": {"type": "string", "description": "its own", "minLength": 1},
        },
    }
    assert lost == set()


def test_a_schema_that_contains_itself_is_cut_where_it_comes_round() -> None:
    node = {"type": "object", "properties": {"value": STRING, "next": {"$ref": "#/$defs/node"}}}
    lost: set[str] = set()
    out = plain({"$ref": "#/$defs/node", "$defs": {"node": node}}, lost)
    assert out == {"type": "object", "properties": {"value": STRING, "next": {"type": "object"}}}
    assert lost == {"$ref"}


@pytest.mark.parametrize(
    "ref", ["#/$defs/none", "https://example.org/s.json", "#nowhere", "#/properties/a/type"]
)
def test_what_cannot_be_resolved_is_left_open(ref: str) -> None:
    lost: set[str] = set()
    assert plain({"properties": {"a": STRING, "b": {"$ref": ref}}}, lost)["properties"] == {
        "a": STRING,
        "b": {},
    }
    assert lost == {"$ref"}


def test_anchors_and_the_root_are_found() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#it"}},
        "$defs": {"x": {"$anchor": "it", "type": "integer"}},
    }
    assert plain(schema)["properties"] == {"a": {"type": "integer"}}
    array = {"type": "array", "items": {"type": "array"}}
    assert plain({"type": "array", "items": {"$ref": "#"}}) == {"type": "array", "items": array}


def test_exponential_references_end() -> None:
    defs: dict[str, object] = {"d0": STRING}
    for n in range(1, 40):
        defs[f"d{n}"] = {"type": "object", "properties": {k: {"$ref": f"#/$defs/d{n - 1}"} for k in "abc"}}
    lost: set[str] = set()
    plain({"$ref": "#/$defs/d39", "$defs": defs}, lost)
    assert lost == {"$ref"}


def test_a_property_may_be_called_like_a_keyword() -> None:
    properties = {
        "$ref": STRING,
        "title": STRING,
        "default": {"type": "integer"},
        "allOf": STRING,
        "$defs": STRING,
    }
    assert plain({"type": "object", "properties": properties})["properties"] == properties


def test_data_is_never_looked_into() -> None:
    schema = {"enum": [{"$ref": "#/x"}], "default": {"allOf": [1]}, "const": {"$schema": 1}}
    assert plain(schema) == schema


def test_all_of_becomes_one() -> None:
    schema = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number", "minimum": 1}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "minimum": 3}, "b": STRING}, "required": ["b"]},
        ],
        "description": "both",
    }
    assert plain(schema) == {
        "description": "both",
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 3}, "b": STRING},
        "required": ["a", "b"],
    }


def test_merge_takes_the_narrower_side() -> None:
    assert merge({"enum": [1, 2], "maximum": 9}, {"enum": [2, 3], "maximum": 5}) == {
        "enum": [2],
        "maximum": 5,
    }
    assert merge({"type": ["string", "null"]}, {"type": "string"}) == {"type": "string"}
    assert merge({"type": "string"}, {"type": "object"}) == {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": ["STRING", "null", "file"]}, ["string", "null"]),
        ({"properties": {}}, ["object"]),
        ({"items": {}}, ["array"]),
        ({"enum": ["a", None]}, ["string", "null"]),
        ({"const": 1}, ["integer"]),
        ({"const": True}, ["boolean"]),
        ({"minimum": 1}, ["number"]),
        ({"description": "anything"}, []),
    ],
)
def test_types_are_read_or_guessed(schema: dict[str, object], types: list[str]) -> None:
    assert types_of(schema) == types


def test_hints_go_behind_the_description_once() -> None:
    assert hinted("A number", ["> 0", "> 0", ""]) == "A number (> 0)"
    assert hinted(None, ["> 0"]) == "(> 0)"
    assert hinted("is > 0", ["> 0"]) == "is > 0"


def test_strict_requires_everything_and_lets_the_optional_be_null() -> None:
    lost: set[str] = set()
    out = openai_strict(
        {
            "$schema": "x",
            "type": "object",
            "properties": {
                "a": {"type": "string", "format": "uri", "minLength": 2},
                "b": {"type": "integer"},
                "c": {"enum": ["x", "y"]},
                "d": {"oneOf": [STRING, {"type": "integer"}], "default": "q"},
                "e": {"type": "object", "properties": {"f": STRING}, "additionalProperties": False},
            },
            "required": ["a"],
        },
        lost,
    )
    assert lost == set()
    assert out["required"] == ["a", "b", "c", "d", "e"] and out["additionalProperties"] is False
    assert out["properties"]["a"] == {"type": "string"}
    assert out["properties"]["b"] == {"type": ["integer", "null"]}
    assert out["properties"]["c"] == {"anyOf": [{"type": "string", "enum": ["x", "y"]}, {"type": "null"}]}
    assert out["properties"]["d"] == {"anyOf": [STRING, {"type": "integer"}, {"type": "null"}]}
    assert out["properties"]["e"]["required"] == ["f"]
    assert out["properties"]["e"]["properties"]["f"] == {"type": ["string", "null"]}


@pytest.mark.parametrize(
    ("schema", "feature"),
    [
        ({"anyOf": [{"type": "object", "properties": {}}]}, "root"),
        ({"type": "string"}, "root"),
        ({"properties": {"a": {"type": "object", "additionalProperties": STRING}}}, "additionalProperties"),
        ({"properties": {"a": {}}}, "type"),
        ({"properties": {"a": {"type": "array"}}}, "items"),
        ({"properties": {f"p{n}": STRING for n in range(5001)}}, "size"),
    ],
)
def test_strict_says_what_it_cannot_hold(schema: dict[str, object], feature: str) -> None:
    lost: set[str] = set()
    assert openai_strict(schema, lost)["type"] == "object"
    assert feature in lost


def test_strict_notices_depth() -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(12):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    lost: set[str] = set()
    openai_strict(schema, lost)
    assert lost == {"depth"}
