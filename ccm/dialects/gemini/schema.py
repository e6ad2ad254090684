"""Tool and output schemas as Gemini takes them: plain JSON Schema, or its own subset of OpenAPI 3.0 (R16, DIALECTS 11).

`parametersJsonSchema` / `responseJsonSchema` take nearly everything. `parameters` is parsed into the message `Schema` of
Google's API description: a keyword that is no field of it is a 400 for the whole request, so it is built from an
allow-list, and what the subset cannot say goes into the description.
"""

from __future__ import annotations

import json
from typing import Any

from ccm.dialects.schemas import MANY, NAMED, ONE, Schema, hinted, merge, numbers, plain, types_of


def gemini_json_schema(schema: Any, lost: set[str] | None = None) -> Schema:
    """For `parametersJsonSchema` and `responseJsonSchema`: JSON Schema, which Gemini may get whole.

    Its parser stumbles over references ("reference to undefined schema", "$ref was set alongside unsupported fields",
    cyclic ones: INVALID_ARGUMENT), so none is left; `const` and integer `exclusive...` are said in keywords it reads.
    """
    out = _json_node(plain(schema, lost))
    if not types_of(out):
        out = {"type": "object", **out}
    return out


def _json_node(schema: Schema) -> Schema:
    out: Schema = {}
    for key, value in schema.items():
        if key in ONE and isinstance(value, dict):
            out[key] = _json_node(dict(value))
        elif (key in MANY or key == "items") and isinstance(value, list):
            out["prefixItems" if key == "items" else key] = [_json_node(v) for v in value]
        elif key in NAMED:
            out[key] = {name: _json_node(v) for name, v in value.items()}
        else:
            out[key] = value
    if isinstance(out.get("const"), (str, int, float)) and not isinstance(out["const"], bool):
        out.setdefault("enum", [out.pop("const")])
        out.pop("const", None)
    _inclusive(out)
    return out


def _inclusive(out: Schema) -> list[str]:
    """Turns exclusive bounds of integers into inclusive ones, in place; returns words for those of real numbers."""
    hints = []
    for key, plain_key, step, sign in (
        ("exclusiveMinimum", "minimum", 1, ">"),
        ("exclusiveMaximum", "maximum", -1, "<"),
    ):
        bound = out.get(key)
        if not isinstance(bound, (int, float)) or isinstance(bound, bool):
            continue
        if types_of(out) == ["integer"] and float(bound).is_integer():
            own = out.get(plain_key)
            limits = [int(bound) + step, *([own] if numbers(own) else ())]
            out[plain_key] = max(limits) if step > 0 else min(limits)
            del out[key]
        else:
            hints.append(f"{sign} {bound}")
    return hints


# ---------------------------------------------------------------- the OpenAPI subset

_KEPT = ("title", "description", "pattern", "minimum", "maximum", "default", "example")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_FORMATS = {
    "string": frozenset(("enum", "date-time")),
    "integer": frozenset(("int32", "int64")),
    "number": frozenset(("float", "double")),
}
# Constraints without a field of their own: how the description says them. {} is the value.
_IN_WORDS = {
    "multipleOf": "multiple of {}",
    "uniqueItems": "items unique",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
}
# What has neither a field nor short words.
_UNSAID = ("patternProperties", "propertyNames", "not", "if", "then", "else", "contains", "dependentRequired",
           "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "minContains", "maxContains")  # fmt: skip
_ANY: tuple[Schema, ...] = (
    {"type": "STRING"},
    {"type": "NUMBER"},
    {"type": "BOOLEAN"},
    {"type": "OBJECT"},
    {"type": "ARRAY", "items": {"type": "STRING"}},
)
_MAX_BRANCHES = 12
_STRUCTURE = frozenset(("type", "properties", "items", "enum", "const", "prefixItems", "anyOf", "oneOf"))


def gemini_parameters(schema: Any, lost: set[str] | None = None) -> Schema:
    """For `parameters` and `responseSchema`: the fields of Google's `Schema` only, types in capitals, an object.

    An object without properties is the caller's to leave out: older API versions refuse an empty one.
    """
    lost = set() if lost is None else lost
    out = _node(plain(schema, lost), lost)
    if out.get("type") != "OBJECT":
        out = {"type": "OBJECT", **{k: v for k, v in out.items() if k in ("description", "title")}}
        lost.add("type")
    return out


def _node(schema: Schema, lost: set[str]) -> Schema:
    key = "anyOf" if "anyOf" in schema else "oneOf"
    branches = [b for b in schema.get(key) or () if isinstance(b, dict)]
    if branches:
        return _union([dict(b) for b in branches], {k: v for k, v in schema.items() if k != key}, lost)
    types = types_of(schema)
    if not types:
        return _with_description(_any_of([dict(a) for a in _ANY], False), schema)
    if types == ["null"]:
        return _with_description({"type": "NULL"}, schema)
    nullable = "null" in types or schema.get("nullable") is True
    wanted = [t for t in types if t != "null"]
    if len(wanted) > 1:
        parts = [_one(_for_type(schema, t), t, lost) for t in wanted]
        return _any_of(parts, nullable)
    out = _one(schema, wanted[0], lost)
    if nullable or (isinstance(schema.get("enum"), list) and None in schema["enum"]):
        out["nullable"] = True
    return out


def _for_type(schema: Schema, kind: str) -> Schema:
    """The schema narrowed to one of its types; only values of that type stay in its enum."""
    out = {**schema, "type": kind}
    if isinstance(schema.get("enum"), list):
        values = [
            v for v in schema["enum"] if kind in types_of({"const": v}) or (kind == "number" and numbers(v))
        ]
        out["enum"] = values
        if not values:
            del out["enum"]
    return out


def _union(branches: list[Schema], base: Schema, lost: set[str]) -> Schema:
    """anyOf stands alone: "when using any_of, it must be the only field set"; what stood beside it goes inside."""
    if base.keys() & _STRUCTURE - {"type"} and not any(b.keys() & _STRUCTURE for b in branches):
        lost.add("anyOf")  # branches that only demand other combinations of the same properties
        return _node(base, lost)
    if len(branches) > _MAX_BRANCHES and "properties" in base:
        lost.add("anyOf")
        return _node(base, lost)
    nulls = [b for b in branches if types_of(b) == ["null"] or b.get("enum") == [None]]
    rest = [b for b in branches if b not in nulls]
    nullable = bool(nulls) or base.get("nullable") is True
    inner = {k: v for k, v in base.items() if k not in ("default", "nullable", "example", "title")}
    parts = [_node(merge(b, inner), lost) for b in rest]
    if not parts:
        return _with_description({"type": "NULL"}, base)
    flat = [p for part in parts for p in (part["anyOf"] if set(part) == {"anyOf"} else [part])]
    return _any_of(flat, nullable)


def _any_of(parts: list[Schema], nullable: bool) -> Schema:
    unique = [p for n, p in enumerate(parts) if p not in parts[:n]]
    strings = [
        p
        for p in unique
        if p.get("type") == "STRING" and "enum" in p and p.keys() <= {"type", "enum", "format"}
    ]
    if len(strings) == len(unique) and len(unique) > 1:  # a union of constants is one enum
        values = [v for p in strings for v in p["enum"]]
        unique = [{"type": "STRING", "enum": list(dict.fromkeys(values))}]
    if nullable:
        unique = [{**p, "nullable": True} for p in unique]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _with_description(out: Schema, schema: Schema) -> Schema:
    text = schema.get("description")
    if not isinstance(text, str) or not text:
        return out
    if "anyOf" in out:
        return {"anyOf": [{**p, "description": p.get("description", text)} for p in out["anyOf"]]}
    return {**out, "description": text}


def _one(schema: Schema, kind: str, lost: set[str]) -> Schema:
    """One schema of one type."""
    work = {**schema, "type": kind}
    hints = _inclusive(work)
    out: Schema = {"type": kind.upper()}
    for key in _KEPT:
        if key in work and _fits(key, work[key]):
            out[key] = work[key]
    for key in _COUNTS:
        if isinstance(work.get(key), int) and not isinstance(work[key], bool) and work[key] >= 0:
            out[key] = work[key]
    form = work.get("format")
    if form in _FORMATS.get(kind, ()):
        out["format"] = form
    elif isinstance(form, str):
        hints.append(f"format: {form}")
    if "example" not in out and isinstance(work.get("examples"), list) and work["examples"]:
        out["example"] = work["examples"][0]
    for key, words in _IN_WORDS.items():
        if numbers(work.get(key)) or work.get(key) is True:
            hints.append(words.format(work[key]))
    lost.update(key for key in _UNSAID if key in work)
    hints += _values(work, out, kind)
    if kind == "object":
        hints += _object(work, out, lost)
    elif kind == "array":
        _array(work, out, lost)
    text = hinted(out.pop("description", None), hints)
    if text:
        out["description"] = text
    return out


def _fits(key: str, value: Any) -> bool:
    if key in ("title", "description", "pattern"):
        return isinstance(value, str)
    return numbers(value) if key in ("minimum", "maximum") else value is not None


def _values(work: Schema, out: Schema, kind: str) -> list[str]:
    """enum and const: a field for strings only ("Invalid value at enum[0] (TYPE_STRING), 7"), words for the others."""
    values = (
        work["enum"] if isinstance(work.get("enum"), list) else [work["const"]] if "const" in work else []
    )
    values = [v for v in values if v is not None]
    if not values:
        return []
    if kind == "string":
        named = list(dict.fromkeys(v for v in values if isinstance(v, str) and v))  # "" is refused
        if named and len(named) == len([v for v in values if isinstance(v, str)]):
            out["enum"] = named
            return []
    return ["one of " + ", ".join(json.dumps(v, ensure_ascii=False) for v in values[:50])]


def _object(work: Schema, out: Schema, lost: set[str]) -> list[str]:
    properties = work.get("properties")
    if isinstance(properties, dict) and properties:
        out["properties"] = {name: _node(dict(sub), lost) for name, sub in properties.items()}
        required = [n for n in work.get("required") or () if n in properties]
        if required:
            out["required"] = list(dict.fromkeys(required))
        order = [n for n in work.get("propertyOrdering") or () if n in properties]
        if order:
            out["propertyOrdering"] = order
    rest = work.get("additionalProperties")
    if isinstance(rest, dict) and rest:
        lost.add("additionalProperties")
        shape = json.dumps(_node(dict(rest), lost), ensure_ascii=False, separators=(",", ":"))
        return [f"further keys allowed, each value: {shape}" if len(shape) <= 300 else "further keys allowed"]
    return []


def _array(work: Schema, out: Schema, lost: set[str]) -> None:
    items = work.get("items")
    if isinstance(items, dict):
        out["items"] = _node(dict(items), lost)
        return
    tuple_items = items if isinstance(items, list) else work.get("prefixItems")
    if isinstance(tuple_items, list) and tuple_items:
        lost.add("prefixItems")
        out["items"] = _union([dict(t) for t in tuple_items], {}, lost)
    else:
        out["items"] = {"type": "STRING"}  # "items: missing field"
