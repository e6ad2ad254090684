"""The one table of what can be asked of and done to a running ccm, whatever door it comes through.

A door (the Unix socket, the dashboard) has established who is asking, hands over method, path and plain arguments, and
gets a finished answer. Every answer passes the redactor. Only ControlError is told in words; any other fault is ccm's
own and is told as such, without its text (the log has the traceback).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccm.control import actions, arguments, drills, effective, figures, models, observing, recent, status
from ccm.control.arguments import JSON, Route
from ccm.control.core import Core
from ccm.errors import ControlError, Refusal
from ccm.shape import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer. `allow` names the methods of a path that was asked with another one."""

    status: int
    content_type: str
    body: bytes
    allow: str = ""


def _switch(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    request_class = arguments.word(args, "class")
    if arguments.flag(args, "auto", False):
        return actions.auto(core, request_class)
    return actions.switch(core, arguments.text(args, "name"), arguments.seconds(args, "for"), request_class)


def _explain_request(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    """The body is the request itself, or {"request": {...}, "headers": {...}} where its headers matter."""
    body: Any = args
    headers: Any = {}
    if isinstance(args.get("request"), dict):
        body, headers = args["request"], args.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ControlError("'headers' must be an object of texts")
    if not isinstance(body.get("model"), str):
        raise ControlError("send a Messages request: an object with model and messages")
    try:
        return core.explain_request(dict(body), {str(name).lower(): value for name, value in headers.items()})
    except Refusal as refusal:
        return {"model": body["model"], "refused": str(refusal), "order": [], "candidates": []}


def _drill(core: Core, args: Mapping[str, Any]) -> dict[str, Any]:
    if arguments.flag(args, "off", False):
        return actions.end_drills(core, arguments.text(args, "name") if "name" in args else None)
    return actions.drill(
        core,
        arguments.text(args, "name"),
        arguments.text(args, "fault"),
        arguments.whole(args, "requests"),
        arguments.seconds(args, "for"),
        arguments.whole(args, "after"),
        arguments.seconds(args, "delay"),
    )


ROUTES = (
    Route("GET", "/", lambda core, args: table(), "this table"),
    Route("GET", "/status", lambda core, args: status.read(core), "everything at a glance"),
    Route("GET", "/health", lambda core, args: status.health(core), "one word: ok, degraded or stopping"),
    Route("GET", "/providers", lambda core, args: {"providers": status.providers(core)}, "providers and their health"),
    Route("GET", "/metrics", lambda core, args: core.metrics.snapshot(), "figures since the start"),
    Route(
        "GET",
        "/requests",
        lambda core, args: recent.requests(
            core, arguments.limit(args), arguments.word(args, "after") if "after" in args else None
        ),
        "the last finished requests, youngest first; with after=ID those that ended after it",
        ("limit", "after"),
    ),
    Route(
        "GET",
        "/models",
        lambda core, args: models.read(core, arguments.word(args, "name")),
        "where every model name would go now, with windows and prices",
        ("name",),
    ),
    Route(
        "GET",
        "/explain",
        lambda core, args: core.explain(arguments.word(args, "id") or "last"),
        "why a request went where it went",
        ("id",),
    ),
    Route("POST", "/explain", _explain_request, "where a request would go, without sending it", arguments.ANY),
    Route("GET", "/top", lambda core, args: top(core), "rates, times, tokens and money of the last minute"),
    Route("GET", "/config", lambda core, args: effective.config(core), "the configuration in use, without keys"),
    Route("GET", "/drill", lambda core, args: {"drills": drills.report(core)}, "drills, and what became of who met them"),
    Route(
        "POST",
        "/drill",
        _drill,
        "put a fault into a provider's path for a while, or take it out",
        ("name", "fault", "requests", "for", "after", "delay", "off"),
    ),
    Route(
        "POST", "/switch", _switch, "put a provider first, or let the strategy decide", ("name", "for", "auto", "class")
    ),
    Route("POST", "/auto", lambda core, args: actions.auto(core), "let the strategy decide again"),
    Route("POST", "/enable", lambda core, args: actions.enable(core, arguments.text(args, "name")), "use a provider again", ("name",)),
    Route("POST", "/disable", lambda core, args: actions.disable(core, arguments.text(args, "name")), "use a provider no more", ("name",)),
    Route("POST", "/drain", lambda core, args: actions.drain(core, arguments.text(args, "name")), "send no new requests to it", ("name",)),
    Route(
        "POST",
        "/reset",
        lambda core, args: actions.reset(core, arguments.text(args, "name") if "name" in args else None),
        "forget failures and cool-downs of one provider or all",
        ("name",),
    ),
    Route(
        "POST",
        "/reload",
        lambda core, args: actions.preview(core) if arguments.flag(args, "dry_run", False) else actions.reload(core),
        "read the configuration again; with dry_run only tell what would change",
        ("dry_run",),
    ),
    Route("POST", "/handover", lambda core, args: actions.hand_over(core), "let a new process take over"),
    Route("GET", "/handover", lambda core, args: core.handover, "how the last handover went"),
    Route(
        "POST", "/log-level", lambda core, args: actions.set_log_level(core, arguments.text(args, "level")), "set the log level", ("level",)
    ),
    Route(
        "POST",
        "/stop",
        lambda core, args: actions.stop(core, arguments.flag(args, "drain", True)),
        "stop, after the running requests or at once",
        ("drain",),
    ),
    *observing.ROUTES,
    *figures.ROUTES,
)  # fmt: skip
_BY_PATH: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _BY_PATH.setdefault(_route.path, {})[_route.method] = _route


def table() -> dict[str, Any]:
    """The table itself, for `curl --unix-socket ... http://ccm/`."""
    return {
        "routes": [
            {"method": route.method, "path": route.path, "arguments": list(route.params), "help": route.help}
            for route in ROUTES
        ]
    }


def top(core: Core) -> dict[str, Any]:
    """What the live screen shows: `status`, the figures of the last minute, and the last requests."""
    return {
        "status": status.read(core),
        "window": recent.window(core, recent.PULSE_S),
        "requests": recent.requests(core, 12)["requests"],
    }


def call(core: Core, method: str, path: str, args: Mapping[str, Any]) -> Reply:
    """Answers one request. `args` are the query's (GET) or the JSON body's (POST) members. Never raises."""
    methods = _BY_PATH.get(path)
    if methods is None:
        return problem(404, f"there is no {path}; GET / lists what there is", core)
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        return problem(405, f"{path} takes {' or '.join(methods)}, not {method}", core, ", ".join(methods))
    try:
        unknown = [name for name in args if name not in route.params and route.params != arguments.ANY]
        if unknown:
            known = ", ".join(route.params) or "none"
            raise ControlError(f"{path} has no argument {unknown[0]!r}; known: {known}")
        answer = route.call(core, args)
    except ControlError as error:
        return problem(error.status, str(error), core)
    except Exception as error:  # our own fault: the caller of a control door gets an answer, and ccm goes on
        core.log.fault("control action failed", error, path=path)
        return problem(500, f"{path} failed inside ccm: {type(error).__name__}", core)
    if route.content_type != JSON:
        return Reply(200, route.content_type, core.redactor.clean(str(answer)).encode("utf-8"))
    return Reply(200, JSON, _json(answer, core))


def problem(code: int, message: str, core: Core, allow: str = "") -> Reply:
    """An answer that says no: `{"error": "..."}`."""
    return Reply(code, JSON, _json({"error": message}, core), allow)


def _json(value: object, core: Core) -> bytes:
    return json.dumps(core.redactor.clean_json(value)).encode("ascii") + b"\n"
