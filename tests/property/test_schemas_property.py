"""Any JSON Schema, sane or not, is lowered without an error and to what the API knows (R16)."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.dialects.gemini.schema import gemini_json_schema, gemini_parameters
from ccm.dialects.schemas import openai_strict, plain

# Names that are keywords elsewhere: as properties they must survive.
NAMES = st.sampled_from(
    [
        "title",
        "default",
        "$ref",
        "const",
        "enum",
        "properties",
        "type",
        "items",
        "a",
        "b",
        "$defs",
        "anyOf",
        "x-y",
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
)  # fmt: skip
JUNK = st.recursive(
    SCALARS, lambda c: st.one_of(st.lists(c, max_size=2), st.dictionaries(NAMES, c, max_size=2)), max_leaves=4
)
TYPES = st.sampled_from(
    ["string", "number", "integer", "boolean", "array", "object", "null", "STRING", "file"]
)
REFS = st.sampled_from(
    ["#", "#/$defs/A", "#/$defs/B", "#/definitions/A", "#/nowhere", "#anchor", "http://x/y", "#/properties/a"]
)


def objects(child: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    named = st.dictionaries(NAMES, child, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, max_size=3)),
            "properties": named,
            "patternProperties": named,
            "required": st.lists(NAMES, max_size=3),
            "items": st.one_of(child, st.lists(child, max_size=2)),
            "prefixItems": st.lists(child, max_size=2),
            "additionalProperties": st.one_of(st.booleans(), child),
            "anyOf": st.lists(child, max_size=3),
            "oneOf": st.lists(child, max_size=3),
            "allOf": st.lists(child, max_size=3),
            "not": child,
            "enum": st.lists(SCALARS, max_size=3),
            "const": JUNK,
            "default": JUNK,
            "$ref": REFS,
            "$defs": st.fixed_dictionaries({}, optional={"A": child, "B": child}),
            "definitions": st.fixed_dictionaries({}, optional={"A": child}),
            "$schema": st.just("https://json-schema.org/draft/2020-12/schema"),
            "$anchor": st.just("anchor"),
            "title": st.text(max_size=3),
            "description": st.text(max_size=5),
            "format": st.sampled_from(["uri", "date-time", "int32", "enum"]),
            "minimum": st.integers(-5, 5),
            "exclusiveMinimum": st.one_of(st.integers(-5, 5), st.booleans(), st.floats(-2, 2)),
            "exclusiveMaximum": st.integers(-5, 5),
            "minLength": st.integers(-1, 5),
            "maxItems": st.integers(0, 5),
            "pattern": st.text(max_size=3),
            "propertyNames": child,
            "nullable": st.booleans(),
        },
    )  # fmt: skip


SCHEMAS = st.recursive(st.one_of(st.booleans(), objects(st.just({"type": "string"}))), objects, max_leaves=12)
# The same with anything at all in any place.
BROKEN = st.one_of(
    JUNK,
    st.dictionaries(
        st.sampled_from(["type", "properties", "required", "anyOf", "allOf", "oneOf", "items", "enum", "$ref", "minimum",
                         "additionalProperties", "prefixItems", "description", "$defs", "default", "examples", "format"]),
        JUNK,
        max_size=6,
    ),
)  # fmt: skip

GEMINI_KEYS = {
    "type", "format", "title", "description", "nullable", "enum", "items", "maxItems", "minItems", "properties",
    "required", "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "example",
    "anyOf", "propertyOrdering", "default",
}  # fmt: skip


def check_openapi(schema: dict[str, Any]) -> None:
    """The rules of Google's Schema message, as far as an API description and recorded refusals tell them."""
    assert schema.keys() <= GEMINI_KEYS, schema
    if "anyOf" in schema:
        assert schema.keys() == {"anyOf"} and schema["anyOf"]
        for branch in schema["anyOf"]:
            check_openapi(branch)
        return
    assert schema["type"] in {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
    if "enum" in schema:
        assert schema["type"] == "STRING"
        assert schema["enum"] and all(isinstance(v, str) and v for v in schema["enum"])
    if schema["type"] == "ARRAY":
        check_openapi(schema["items"])
    for sub in schema.get("properties", {}).values():
        check_openapi(sub)
    assert set(schema.get("required", ())) <= schema.get("properties", {}).keys()


@settings(max_examples=120, deadline=None)
@given(SCHEMAS)
def test_openapi_subset_is_all_that_is_left(schema: Any) -> None:
    before = copy.deepcopy(schema)
    out = gemini_parameters(schema)
    check_openapi(out)
    assert out["type"] == "OBJECT"
    assert schema == before


@settings(max_examples=80, deadline=None)
@given(SCHEMAS)
def test_json_schema_has_no_reference_left(schema: Any) -> None:
    out = gemini_json_schema(schema)
    json.dumps(out)

    def walk(node: Any) -> None:
        if not isinstance(node, dict):
            return
        assert not {"$ref", "$defs", "definitions", "$schema", "allOf", "$anchor"} & node.keys()
        for key in ("properties", "patternProperties"):
            for sub in node.get(key, {}).values():
                walk(sub)
        for key in ("items", "additionalProperties", "not", "propertyNames"):
            walk(node.get(key))
        for key in ("anyOf", "oneOf", "prefixItems"):
            for sub in node.get(key, ()):
                walk(sub)

    walk(out)


@settings(max_examples=80, deadline=None)
@given(SCHEMAS)
def test_strict_objects_are_closed(schema: Any) -> None:
    before = copy.deepcopy(schema)
    out = openai_strict(schema)
    assert out["type"] == "object"

    def walk(node: dict[str, Any]) -> None:
        if "anyOf" in node:
            for branch in node["anyOf"]:
                walk(branch)
            return
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        if "object" in types:
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
            for sub in node["properties"].values():
                walk(sub)
        if "array" in types:
            walk(node["items"])

    walk(out)
    assert schema == before


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from([{"type": "string"}, {"type": "integer"}]), min_size=1))
def test_no_property_is_lost_whatever_its_name(properties: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    for lower in (gemini_parameters, gemini_json_schema, openai_strict, plain):
        out = lower(schema)
        assert list(out["properties"]) == list(properties)
        assert sorted(out["required"]) == sorted(properties)


@settings(max_examples=120, deadline=None)
@given(BROKEN)
def test_nonsense_never_raises(schema: Any) -> None:
    check_openapi(gemini_parameters(schema))
    gemini_json_schema(schema)
    openai_strict(schema)
