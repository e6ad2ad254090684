"""Lowering to Gemini's two forms of a schema."""

from __future__ import annotations

from typing import Any

import pytest

from ccm.dialects.gemini.schema import gemini_json_schema, gemini_parameters


def lowered(schema: dict[str, Any]) -> Any:
    """One property's schema in the OpenAPI form."""
    return gemini_parameters({"type": "object", "properties": {"x": schema}})["properties"]["x"]


@pytest.mark.parametrize(
    ("schema", "out"),
    [
        ({"type": "string", "$schema": "x", "title": "T"}, {"type": "STRING", "title": "T"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "n"},
         {"type": "INTEGER", "description": "n", "nullable": True}),
        ({"type": ["string", "integer"], "description": "d"},
         {"anyOf": [{"type": "STRING", "description": "d"}, {"type": "INTEGER", "description": "d"}]}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"const": 7}, {"type": "INTEGER", "description": "(one of 7)"}),
        ({"type": "integer", "enum": [1, 2], "description": "n"}, {"type": "INTEGER", "description": "n (one of 1, 2)"}),
        ({"enum": ["a", "b", None]}, {"type": "STRING", "enum": ["a", "b"], "nullable": True}),
        ({"enum": ["", "b"]}, {"type": "STRING", "description": '(one of "", "b")'}),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, {"type": "STRING", "enum": ["a", "b"]}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "INTEGER", "minimum": 1}),
        ({"type": "integer", "exclusiveMaximum": 10, "maximum": 5}, {"type": "INTEGER", "maximum": 5}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "NUMBER", "description": "(> 0)"}),
        ({"type": "string", "format": "uri", "description": "A link."},
         {"type": "STRING", "description": "A link. (format: uri)"}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "array"}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        ({"type": "array", "items": {"type": "number"}, "minItems": 1, "uniqueItems": True},
         {"type": "ARRAY", "items": {"type": "NUMBER"}, "minItems": 1, "description": "(items unique)"}),
        ({"type": "object", "additionalProperties": {"type": "string"}},
         {"type": "OBJECT", "description": '(further keys allowed, each value: {"type":"STRING"})'}),
        ({"type": "object", "additionalProperties": False, "properties": {"a": {"type": "boolean"}}, "required": ["a", "zz"]},
         {"type": "OBJECT", "properties": {"a": {"type": "BOOLEAN"}}, "required": ["a"]}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": []}]},
         {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}),
        ({"oneOf": [{"type": "string"}, {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}]},
         {"anyOf": [{"type": "STRING"},
                    {"type": "ARRAY", "items": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}}]}),
    ],
)  # fmt: skip
def test_openapi_subset(schema: dict[str, Any], out: dict[str, Any]) -> None:
    assert lowered(schema) == out


def test_a_union_of_objects_inherits_what_stood_beside_it() -> None:
    base = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    out = lowered(
        {
            **base,
            "anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "string"}}}],
        }
    )
    assert [sorted(branch["properties"]) for branch in out["anyOf"]] == [["a", "id"], ["b", "id"]]
    assert all(branch["required"] == ["id"] for branch in out["anyOf"])
    assert out.keys() == {"anyOf"}


def test_anything_is_offered_as_every_kind() -> None:
    kinds = [branch["type"] for branch in lowered({"description": "any"})["anyOf"]]
    assert kinds == ["STRING", "NUMBER", "BOOLEAN", "OBJECT", "ARRAY"]


def test_what_is_given_up_is_named() -> None:
    lost: set[str] = set()
    gemini_parameters(
        {"type": "object", "properties": {}, "propertyNames": {"type": "string"}, "not": {}}, lost
    )
    assert lost == {"propertyNames", "not"}


def test_the_root_is_an_object() -> None:
    lost: set[str] = set()
    assert gemini_parameters({"type": "array"}, lost) == {"type": "OBJECT"}
    assert lost == {"type"}


def test_json_schema_keeps_what_the_other_form_cannot_say() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/A"},
            "b": {"const": "x"},
            "c": {"const": True},
            "d": {"type": ["integer", "null"], "exclusiveMinimum": 0},
            "e": {"type": "integer", "exclusiveMaximum": 4},
        },
        "patternProperties": {"^x": {"const": 1}},
        "additionalProperties": False,
        "$defs": {"A": {"type": "string", "pattern": "^a"}},
    }
    assert gemini_json_schema(schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "^a"},
            "b": {"enum": ["x"]},
            "c": {"const": True},
            "d": {"type": ["integer", "null"], "exclusiveMinimum": 0},
            "e": {"type": "integer", "maximum": 3},
        },
        "patternProperties": {"^x": {"enum": [1]}},
        "additionalProperties": False,
    }
    assert gemini_json_schema({}) == {"type": "object"}
