"""Targets at what clients and people give us: requests of every surface into every dialect, schemas, configuration,
the control socket; and the short cuts around JSON, held against the long way."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tomli

from ccm.catalog.models import bundled
from ccm.config import build
from ccm.config.build import Origin
from ccm.config.read import Reading
from ccm.control import api, unix
from ccm.dialects import anthropic, repair
from ccm.dialects.gemini import schema as gemini_schema
from ccm.dialects.inbound.base import SURFACES
from ccm.dialects.inbound.clouds import Bedrock, Vertex
from ccm.dialects.schemas import openai_strict, plain
from ccm.dialects.table import DIALECTS
from ccm.errors import BadRequest, ConfigError, Refusal
from ccm.messages.estimate import estimate
from ccm.messages.tokens import Usage
from ccm.model import ProviderError
from ccm.observe.record import Attempt, RequestRecord
from ccm.observe.redact import Redactor
from ccm.proxy import parse
from ccm.routing import quota, tags
from ccm.routing.classify import Ask
from ccm.routing.cooldown import wait_asked
from ccm.usage import rows
from ccm.wire import jsontext
from tests.conftest import FakeCore
from tests.fuzz.answers import DATA, context
from tests.fuzz.dice import Dice, bent, dumps, spoil, value
from tests.property.streams import MAKERS

_REFUSALS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "messages.3.content.1: thinking blocks cannot be modified", "tools.0.custom.input_schema: JSON schema is invalid",
    "temperature: Extra inputs are not permitted", 'Unknown name "x" at \'tools[0].function_declarations[0]\'',
)  # fmt: skip


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


@functools.cache
def requests(surface: str) -> list[Any]:
    """Sound requests of a surface, as its clients send them."""
    if surface == "messages":
        paths = [*sorted(DATA.rglob("request.json"))]
        return [body for path in paths if "messages" in (body := json.loads(path.read_text()))]
    return [
        json.loads(path.read_text())["body"]
        for path in sorted((DATA / "inbound").glob(f"{surface}-*/client.json"))
    ]


def inbound(surface: str) -> Callable[[bytes], None]:
    """The target for one surface: its request becomes Messages, and those become every dialect's. Only Refusal."""

    def run(data: bytes) -> None:
        dice = Dice(data)
        way = dice.of(tuple(MAKERS))
        raw = dumps(spoil(dice.of(requests(surface)), dice)) if dice.byte() % 8 else dice.rest()
        ctx = context(way, bool(dice.byte() % 2))
        found = SURFACES[surface]
        try:
            body = parse.parse(raw)
            headers = {"anthropic-beta": dice.of(("", "a,b", "a\r\nb"))}
            path_model = dice.of(("", "m", "us.anthropic.claude-x", "%00", "a%2fb"))
            request, _ = found.request(body, path_model, dice.of((None, True, False)), headers, ctx.new_id)
            parse.check_messages(request)
            found.extra_headers(body, headers)
            json.dumps(request)
            _routed(request, headers)
            dialect = DIALECTS[MAKERS[way][1]]
            encoded = dialect.encode(request, ctx)
            _strict(encoded.body)
            counting = dialect.encode_count(request, ctx)
            if counting is not None:
                json.dumps(counting.body)
            text = dice.of(_REFUSALS)
            error = ProviderError(
                400, "invalid_request_error", text, body=dumps({"error": {"message": text}})
            )
            fix = repair.find(error, request, encoded, dialect.name)
            if fix is not None:
                again, ctx2, losses = repair.before((fix,), request, ctx)
                encoded = dialect.encode(again, ctx2)
                repair.after((fix,), encoded, losses)
                json.dumps(encoded.body)
        except Refusal as refusal:
            assert 400 <= refusal.status < 500, refusal
            json.dumps(found.error(refusal.status, refusal.type, refusal.message, "req_1"))
        if isinstance(found, (Bedrock, Vertex)):
            try:
                parse.check_messages(found.counting(parse.parse(raw), "m"), counting=True)
            except Refusal:
                pass

    return run


def _strict(body: Any) -> None:
    """What goes to a provider is JSON: no NaN, no Infinity."""
    json.loads(json.dumps(body), parse_constant=_constant)


def _routed(request: dict[str, Any], headers: dict[str, str]) -> None:
    """What routing reads of a request."""
    raw = json.dumps(request).encode()
    ask = Ask(
        model=request["model"],
        stream=False,
        headers=headers,
        size_bytes=len(raw),
        path_prefix="",
        body=lambda: request,
        raw=raw,
    )
    assert isinstance(ask.session(), str) and isinstance(ask.fingerprint(), str)
    (
        ask.request_class(),
        ask.needs(),
        ask.tool_names(),
        ask.max_output_tokens(),
        ask.caching(),
        ask.continues(),
        ask.tag(),
    )
    assert ask.input_tokens() >= 0 and estimate(request) >= 0
    json.dumps(tags.strip_tags(request))


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}, "b": {"$ref": "#/$defs/n"}},
     "required": ["a"], "additionalProperties": False, "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}},
    {"anyOf": [{"type": "integer", "minimum": 1, "exclusiveMaximum": 9}, {"const": 3}], "description": "d"},
    {"allOf": [{"type": "object", "properties": {"a": {}}}, {"oneOf": [{"properties": {"b": True}}, {"not": {}}]}], "default": {}},
    {"type": "array", "prefixItems": [{"type": "string", "format": "date", "pattern": "^a"}], "items": False, "minItems": 1},
    {"type": "object", "patternProperties": {"^x": {"type": "number"}}, "if": {}, "then": {}, "else": {}, "$anchor": "q"},
]  # fmt: skip


def schemas(data: bytes) -> None:
    """Schema lowering: never raises, never loops, and what comes out is JSON."""
    dice = Dice(data)
    raw = dumps(spoil(dice.of(SCHEMAS), dice) if dice.byte() % 8 else value(dice))
    try:
        schema = json.loads(raw, parse_constant=lambda name: 0)
    except (ValueError, RecursionError):
        return
    for lower in (plain, openai_strict, gemini_schema.gemini_json_schema, gemini_schema.gemini_parameters):
        before = json.dumps(schema)
        json.dumps(lower(schema, set()))
        assert json.dumps(schema) == before, f"{lower.__name__} changed what it was given"


@functools.cache
def _configurations() -> list[bytes]:
    return [path.read_bytes() for path in sorted((DATA / "config").rglob("*.toml"))]


_ORIGIN = Origin(
    "", Path("/nonexistent"), Path("/nonexistent"), {"KEY": "sk-ENV-VALUE", "OPENAI_API_KEY": "sk-ENV-VALUE"}
)


def configuration(data: bytes) -> None:
    """Any text is a snapshot with endpoints or a ConfigError with problems, and no key is in its words."""
    dice = Dice(data)
    raw = bent(bent(dice.of(_configurations()), dice), dice) if dice.byte() % 8 else dice.rest()
    text = raw.decode("utf-8", "replace")
    try:
        snapshot = build.build(Reading(text, "f.toml"), _ORIGIN, bundled())
    except ConfigError as error:
        assert error.problems and all(problem.text for problem in error.problems)
        assert "ENV-VALUE" not in str(error)
        return
    assert snapshot.endpoints and "ENV-VALUE" not in repr(snapshot)
    tomli.loads(text)


_CORES: list[FakeCore] = []


def _core() -> FakeCore:
    """A fake core remembers what it was told: a fresh one now and then."""
    if not _CORES or len(_CORES[0].sink.lines) + len(_CORES[0].asked) + len(_CORES[0].router.calls) > 300:
        _CORES[:] = [FakeCore()]
    return _CORES[0]


CONTROL = [
    b"GET /status HTTP/1.1\r\nHost: ccm\r\n\r\n", b"GET /requests?limit=3&after=x HTTP/1.1\r\nHost: ccm\r\n\r\n",
    b'POST /switch HTTP/1.1\r\nHost: ccm\r\nContent-Length: 31\r\n\r\n{"name": "openai", "for": "1m"}',
    b'POST /drill HTTP/1.1\r\nHost: ccm\r\nContent-Length: 52\r\n\r\n{"name": "openai", "fault": "overload", "after": 12}',
    b'POST /log-level HTTP/1.1\r\nHost: ccm\r\nContent-Length: 17\r\n\r\n{"level": "info"}',
]  # fmt: skip


def control(data: bytes) -> None:
    """The control socket: BadRequest, or an answer that is never ccm's own fault."""
    dice = Dice(data)
    how = dice.below(4)
    raw = dice.rest() if how == 0 else bent(dice.of(CONTROL), dice)
    if how > 1:
        route = dice.of(api.ROUTES)
        names = [name for name in route.params if name != "*"] or ["model", "messages", "request", "x"]
        args = {dice.of(names): value(dice) for _ in range(dice.below(4))}
        body = dumps(args)
        raw = (
            f"{route.method} {route.path} HTTP/1.1\r\nHost: ccm\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
    try:
        request = unix.parse(raw)
    except BadRequest as error:
        assert 400 <= error.status <= 505
        return
    if isinstance(request, int):
        assert request > len(raw)
        return
    core = _core()
    reply = api.call(core, request.method, request.path, request.args)  # type: ignore[arg-type]
    assert reply.status != 500, (request.method, request.path, request.args, core.sink.lines[-1:])
    out = unix.render(reply)
    assert out.startswith(b"HTTP/1.1 ") and b"canary" not in out
    if reply.content_type == "application/json":
        json.loads(reply.body)


def json_text(data: bytes) -> None:
    """`jsontext` and `parse.peek` and `splice` say what json says."""
    dice = Dice(data)
    tools = [
        {"name": f"t{n}", "description": "d" * 400, "input_schema": {"type": "object"}} for n in range(6)
    ]
    body = dict(dice.of(requests("messages")))
    if dice.byte() % 2:
        body["tools"] = tools
    raw = dumps(spoil(body, dice)) if dice.byte() % 8 else dice.rest()
    raw = bent(raw, dice) if dice.byte() % 2 else raw
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    wanted = _or_fault(lambda: json.loads(text, parse_constant=_constant, parse_float=_finite))
    for _ in range(2):
        got = _or_fault(lambda: jsontext.loads(text))
        assert repr(got) == repr(wanted), (got, wanted)
    if wanted is not _FAULT:
        assert jsontext.dumps(jsontext.loads(text)) == json.dumps(wanted, separators=(",", ":")).encode()
    event = _or_fault(lambda: json.loads(raw))
    assert repr(_or_fault(lambda: jsontext.event(raw))) == repr(event)
    peeked = parse.peek(raw)
    if wanted is _FAULT or text.encode() != raw or not isinstance(wanted, dict):
        return
    if peeked is not None:
        assert (wanted.get("model"), wanted.get("stream")) == peeked, (peeked, wanted)
    spliced = anthropic.splice(raw, "other-model")
    if spliced is not None:
        assert json.dumps(json.loads(spliced)) == json.dumps({**wanted, "model": "other-model"})


_FAULT = object()


def _or_fault(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ValueError, RecursionError):
        return _FAULT


_LIMITS = (
    *(
        f"{prefix}{verb}{what}"
        for prefix in ("anthropic-ratelimit-", "x-ratelimit-", "ratelimit-", "x-ratelimitbysize-")
        for verb, what in itertools.product(("limit", "remaining", "reset"), ("", "-requests", "-tokens-minute"))
    ),
    "ratelimit", "ratelimit-policy", "date", "retry-after", "retry-after-ms", "anthropic-ratelimit-unified-5h-utilization",
    "anthropic-ratelimit-unified-7d-reset", "anthropic-ratelimit-unified-7d_opus-status", "anthropic-ratelimit-tokens-reset",
)  # fmt: skip
_AMOUNTS = (
    "0", "1", "100", "-1", "1e309", "NaN", "6m0s", "12ms", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59",
    "1790000000", "1790000000000", '"default";r=50;t=30', "limit=1, remaining=0, reset=3", '"a";q=100;w=60', "rejected", "",
    "Sun, 22 Nov 2026 18:00:00 GMT", "Sun, 22 Nov 99999 18:00:00 GMT", "x" * 2000, "\u0663", "1_0", "²", "99999999999999999999999",
)  # fmt: skip


def limits(data: bytes) -> None:
    """`quota.read` and `wait_asked`: never raise; shares and waits stay in their range."""
    dice = Dice(data)
    headers = {dice.of(_LIMITS): dice.of(_AMOUNTS) for _ in range(dice.below(9))}
    if dice.byte() % 2:
        headers[dice.of(_LIMITS)] = dice.rest().decode("latin-1")
    found = quota.read(headers, 1.79e9, 1000.0, "claude-opus-x")
    if found is not None:
        for window in found.windows:
            assert 0.0 <= window.share <= 1.0 and window.resets_at == window.resets_at, window
        found.tightest(1001.0)
    asked = wait_asked(headers, b"", 1.79e9, dice.of(_AMOUNTS))
    assert asked is None or 0 <= asked <= 3600, asked


def usage_rows(data: bytes) -> None:
    """`usage.rows`: any record becomes rows that SQLite can hold; providers' figures never become negative."""
    dice = Dice(data)
    words = lambda: str(dice.of(("", "a", "\ud800", "x" * 5000, "\x00", "é")))  # noqa: E731
    figure = lambda: dice.of((0, 1, -5, 2**70, 10**30))  # noqa: E731
    real = lambda: dice.of((None, 0.0, 1e308, float("inf"), float("nan"), -1.0))  # noqa: E731

    def usage() -> Usage:
        tokens = Usage(
            figure(), figure(), figure(), figure(), figure(), dice.of((None, 3, -3)), figure(), figure()
        )
        tokens.update(
            spoil(
                {
                    "input_tokens": 1,
                    "output_tokens": 2,
                    "cache_creation": {"ephemeral_1h_input_tokens": 3},
                    "server_tool_use": {"web_search_requests": 1},
                },
                dice,
            )
        )
        return tokens

    record = RequestRecord(
        words(), dice.of((0.0, 1.79e9, 1.8e9)), asked_model=words(), session=words(), project=words()
    )
    record.stream, record.status, record.ending = True, dice.of((200, 0, 499)), "complete"
    record.provider, record.endpoint, record.model = words(), words(), words()
    record.cost_usd, record.list_cost_usd, record.first_content_s, record.total_s = (
        real(),
        real(),
        real(),
        dice.of((0.0, float("nan"))),
    )
    record.usage, record.stop_reason = usage(), dice.of((None, words()))
    for _ in range(dice.below(4)):
        record.attempts.append(
            Attempt(words(), words(), words(), 0.1, usage=dice.of((None, usage())), cost_usd=real())
        )
    request, whole, partial = rows.rows_of(record)
    for row in (request, *whole, *partial):
        for column in row:
            assert column is None or isinstance(column, (str, int, float)), column
            if isinstance(column, str):
                column.encode()
                assert len(column) <= 5000
            elif isinstance(column, int):
                assert -(2**63) <= column < 2**63, column
            elif isinstance(column, float):
                assert column - column == 0.0, column


_KEYS = (
    "sk-ant-canary-0123456789abcdef",
    "Plain+Key/with=signs0123",
    "pässword-123456",
    'quote"d\\key-98765',
)


@functools.cache
def _redactor() -> Redactor:
    made = Redactor()
    for key in _KEYS:
        made.register(key)
    return made


def redact(data: bytes) -> None:
    """The redactor: never raises, cleans twice as well as once, and leaves no registered key."""
    dice = Dice(data)
    text = dice.of(("", "x-api-key: ", '{"error": "bad key ', "Bearer ", "?key=", "\\"))
    for _ in range(dice.below(4)):
        text += dice.of(_KEYS) + dice.of(("", " ", '"', "\n", "%20", "\\n", "a", "=", "."))
    text += dice.rest().decode("latin-1")
    clean = _redactor().clean(text)
    assert not any(key in clean for key in _KEYS), (text, clean)
    _redactor().clean_json({"a": [text, {text: 1}], "b": None})
