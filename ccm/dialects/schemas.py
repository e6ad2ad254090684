"""JSON Schema as other APIs take it: lowering of tool and output schemas (R16, DIALECTS 11 and 17). Pure.

Here is what every lowering stands on, and OpenAI's strict form; Gemini's two forms are in `gemini.schema`.

Keys are judged by position: under `properties` a key is the *name* of a property and stays whatever it is called
(`title`, `default`, `$ref`), and values of `enum`, `const`, `default`, `example` are data, never looked into.

Every lowering works on the plain tree that `plain` makes: references inlined (a reference into itself becomes an open
object), `allOf` merged, boolean schemas written out. Whatever a lowering has to give up it names in `lost`; where words
can carry a constraint it goes into the description, so that the model still sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

ONE = frozenset(
    (
        "items",
        "additionalProperties",
        "additionalItems",
        "unevaluatedProperties",
        "unevaluatedItems",
        "contains",
        "not",
        "if",
        "then",
        "else",
        "propertyNames",
        "contentSchema",
    )
)
MANY = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
NAMED = frozenset(("properties", "patternProperties", "dependentSchemas"))
_DROPPED = frozenset(("definitions", "dependencies"))  # beside every `$...` keyword
_MAX_NODES = 20_000  # inlining may grow a schema exponentially; what lies beyond is left open
_MAX_DEPTH = 100
_TYPES = frozenset(("string", "number", "integer", "boolean", "array", "object", "null"))
_GREATEST = frozenset(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"))
_LEAST = frozenset(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"))


def plain(schema: Any, lost: set[str] | None = None) -> Schema:
    """The schema without references, `allOf` and boolean schemas. The input is not changed.

    References are resolved within the document (`#`, `#/$defs/X`, `#anchor`); what cannot be resolved, or leads back
    into itself, becomes an open schema of the same type and puts "$ref" into `lost`.
    """
    return _Inliner(schema, set() if lost is None else lost).node(schema, ())


class _Inliner:
    """One walk over one document."""

    def __init__(self, root: Any, lost: set[str]) -> None:
        self.root = root
        self.lost = lost
        self.nodes = 0

    def node(self, schema: Any, open_refs: tuple[str, ...], depth: int = 0) -> Schema:
        if not isinstance(schema, dict):
            return {"not": {}} if schema is False else {}
        self.nodes += 1
        depth += 1
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            self.lost.add("$ref" if open_refs else "depth")
            return {}
        ref = schema.get("$ref", schema.get("$dynamicRef"))
        out: Schema = {}
        for key, value in schema.items():
            if key in ONE and isinstance(value, (dict, bool)):
                out[key] = value if isinstance(value, bool) else self.node(value, open_refs, depth)
            elif (key in MANY or key == "items") and isinstance(value, list):
                out[key] = [self.node(v, open_refs, depth) for v in value]
            elif key in NAMED and isinstance(value, dict):
                out[key] = {name: self.node(v, open_refs, depth) for name, v in value.items()}
            elif not key.startswith("$") and key not in _DROPPED and _sane(key, value):
                out[key] = [v for v in value if isinstance(v, str)] if key == "required" else value
        for part in out.pop("allOf", None) or ():
            out = merge(out, part)
        if isinstance(ref, str):
            out = merge(out, self.target(ref, open_refs, depth))
        return out

    def target(self, ref: str, open_refs: tuple[str, ...], depth: int) -> Schema:
        found = _find(self.root, ref)
        if found is None or ref in open_refs:
            self.lost.add("$ref")
            kind = found.get("type") if isinstance(found, dict) else None
            return {"type": kind} if isinstance(kind, str) else {}
        return self.node(found, (*open_refs, ref), depth)


def _sane(key: str, value: Any) -> bool:
    """Whether a keyword that holds no schema (any more) has a value it can have; what has not is left out."""
    if key in ONE or key in MANY or key in NAMED:
        return False
    if key in ("required", "enum", "examples", "propertyOrdering"):
        return isinstance(value, list)
    if key in _GREATEST or key in _LEAST or key == "multipleOf":
        return numbers(value) or isinstance(value, bool)  # draft 4: exclusiveMinimum is a flag
    return isinstance(value, str) if key in ("title", "description", "format", "pattern") else True


def _find(root: Any, ref: str) -> Any:
    """What a reference within the document points at, or None."""
    place = unquote(ref.partition("#")[2]) if "#" in ref else None
    if place is None or not ref.startswith("#"):
        return None
    if place and not place.startswith("/"):
        return _anchored(root, place)
    here = root
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and step.isdigit() and int(step) < len(here):
            here = here[int(step)]
        else:
            return None
    return here if isinstance(here, (dict, bool)) else None


def _anchored(root: Any, name: str) -> Any:
    waiting = [root]
    for _ in range(_MAX_NODES):
        if not waiting:
            break
        here = waiting.pop()
        if isinstance(here, dict):
            if name in (here.get("$anchor"), here.get("$dynamicAnchor")):
                return here
            waiting.extend(here.values())
        elif isinstance(here, list):
            waiting.extend(here)
    return None


def merge(first: Schema, second: Schema) -> Schema:
    """A schema for what satisfies both (`allOf`). Where both cannot be said in one, `first` wins."""
    out = dict(first)
    for key, value in second.items():
        if key not in out:
            out[key] = value
        elif key in NAMED:
            own = dict(out[key])
            for name, sub in value.items():
                own[name] = merge(own[name], sub) if name in own else sub
            out[key] = own
        elif key == "required" and isinstance(value, list):
            out[key] = list(dict.fromkeys([*out[key], *value]))
        elif key == "enum":
            out[key] = [v for v in out[key] if v in value] or out[key]
        elif key == "type":
            out[key] = _both_types(out[key], value)
        elif key in _GREATEST and numbers(out[key], value):
            out[key] = max(out[key], value)
        elif key in _LEAST and numbers(out[key], value):
            out[key] = min(out[key], value)
        elif key == "items" and isinstance(value, dict) and isinstance(out[key], dict):
            out[key] = merge(dict(out[key]), dict(value))
    return out


def numbers(*values: Any) -> bool:
    """Whether all of them are JSON numbers."""
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _both_types(first: Any, second: Any) -> Any:
    one, other = types_of({"type": first}), types_of({"type": second})
    both = [t for t in one if t in other or (t == "integer" and "number" in other)]
    both += [t for t in other if t == "integer" and "number" in one and t not in both]
    return (both[0] if len(both) == 1 else both) if both else first


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The JSON types a schema allows, lower case; guessed from its other keywords where it names none; [] = any."""
    said = schema.get("type")
    names = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    types = [t.lower() for t in names if isinstance(t, str) and t.lower() in _TYPES]
    if types:
        return list(dict.fromkeys(types))
    if "properties" in schema or "required" in schema or "additionalProperties" in schema:
        return ["object"]
    if "items" in schema or "prefixItems" in schema:
        return ["array"]
    values = (
        schema["enum"]
        if isinstance(schema.get("enum"), list)
        else [schema[k] for k in ("const",) if k in schema]
    )
    if values:
        return list(dict.fromkeys(_type_of(v) for v in values))
    if "pattern" in schema or "minLength" in schema or "maxLength" in schema:
        return ["string"]
    return ["number"] if "minimum" in schema or "maximum" in schema else []


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ):
        if isinstance(value, kind):
            return name
    return "object"


def hinted(description: Any, hints: Iterable[str]) -> str:
    """A description with constraints in words behind it."""
    text = description if isinstance(description, str) else ""
    notes = "; ".join(dict.fromkeys(h for h in hints if h and h not in text))
    return f"{text.rstrip()} ({notes})".strip() if notes else text


# ---------------------------------------------------------------- OpenAI strict

_STRICT_KEPT = ("title", "description", "enum", "const", "pattern", "minimum", "maximum", "exclusiveMinimum",
                "exclusiveMaximum", "multipleOf", "minItems", "maxItems")  # fmt: skip
_STRICT_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
)
_STRICT_DEPTH = 10
_STRICT_PROPERTIES = 5_000


def openai_strict(schema: Any, lost: set[str] | None = None) -> Schema:
    """For OpenAI's `strict: true`: every object closed, every property required (optional ones take null), only the
    keywords its subset knows, an object at the root.

    An empty `lost` afterwards means that the strict schema admits what the given one does (but for constraints in
    words); else the caller does better with `strict: false` and the schema as it was.
    """
    lost = set() if lost is None else lost
    tree = plain(schema, lost)
    if types_of(tree) not in ([], ["object"]) or "anyOf" in tree or "oneOf" in tree:
        lost.add("root")
        tree = {key: value for key, value in tree.items() if key not in ("anyOf", "oneOf")}
    tree = {**tree, "type": "object", "properties": tree.get("properties") or {}}
    counted = [0]
    out = _strict_node(tree, 1, lost, counted)
    if counted[0] > _STRICT_PROPERTIES:
        lost.add("size")
    return out


def _strict_node(schema: Schema, depth: int, lost: set[str], counted: list[int]) -> Schema:
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        base = {
            k: v for k, v in schema.items() if k not in ("anyOf", "oneOf", "description", "title", "default")
        }
        out: Schema = {k: schema[k] for k in ("title", "description") if k in schema}
        out["anyOf"] = [_strict_node(merge(dict(b), base), depth, lost, counted) for b in branches]
        return out
    types = types_of(schema)
    out = {key: schema[key] for key in _STRICT_KEPT if key in schema}
    if schema.get("format") in _STRICT_FORMATS:
        out["format"] = schema["format"]
    hints = [f"{k}: {schema[k]}" for k in ("minLength", "maxLength", "default") if k in schema]
    if hints and "description" in out:
        out["description"] = hinted(out["description"], hints)
    if not types:
        lost.add("type")
        types = ["string", "number", "boolean", "null"]
    out["type"] = types[0] if len(types) == 1 else types
    if "object" in types:
        _strict_object(schema, out, depth, lost, counted)
    if "array" in types:
        items = schema.get("items")
        if not isinstance(items, dict):
            lost.add("items")
            items = {"type": "string"}
        out["items"] = _strict_node(dict(items), depth + 1, lost, counted)
    return out


def _strict_object(schema: Schema, out: Schema, depth: int, lost: set[str], counted: list[int]) -> None:
    if depth > _STRICT_DEPTH:
        lost.add("depth")
    rest = schema.get("additionalProperties")
    if isinstance(rest, dict) or rest is True or "patternProperties" in schema or "properties" not in schema:
        lost.add("additionalProperties")  # an open map: strict mode would only ever allow {}
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    counted[0] += len(properties)
    out["properties"] = {
        name: _strict_node(sub, depth + 1, lost, counted)
        if name in required
        else _nullable(_strict_node(sub, depth + 1, lost, counted))
        for name, sub in properties.items()
    }
    out["required"] = list(properties)
    out["additionalProperties"] = False


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        if any("null" in types_of(branch) for branch in schema["anyOf"]):
            return schema
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    types = types_of(schema)
    if "null" in types:
        return schema
    if "enum" in schema or "const" in schema:
        outer = {k: v for k, v in schema.items() if k in ("title", "description")}
        return {**outer, "anyOf": [{k: v for k, v in schema.items() if k not in outer}, {"type": "null"}]}
    return {**schema, "type": [*types, "null"]}
