"""Which path leads where: one table. Paths are matched without their query; `/v1/v1` and prefixes are understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

from ccm.errors import ClientGone, Refusal
from ccm.late import regex
from ccm.model import Snapshot
from ccm.observe.metrics import CONTENT_TYPE
from ccm.proxy import parse, queries
from ccm.proxy.downstream import Downstream
from ccm.proxy.engine import Engine, new_id
from ccm.proxy.entry import Entry, envelope
from ccm.proxy.flow import Flow
from ccm.server import guard
from ccm.server.connection import Request
from ccm.shape import dataclass
from ccm.wire.http1 import RequestHead


@dataclass(slots=True)
class Visit:
    """One request at a route: what the path held, and the answer's writer."""

    engine: Engine
    request: Request
    down: Downstream
    entry: Entry
    rest: str  # what followed the route's own path


def _messages(visit: Visit) -> bool:
    request = visit.request
    return Flow(visit.engine, request.body, request.headers, visit.entry, visit.down, request.notes).run()


def _count(visit: Visit) -> bool:
    request = visit.request
    queries.count_tokens(visit.engine, request.body, request.headers, visit.entry, visit.down)
    return False


def _models(visit: Visit) -> bool:
    queries.models(visit.engine, visit.request.headers, visit.rest, visit.down)
    return False


def _hello(visit: Visit) -> bool:
    visit.down.answer_json(200, {"service": "ccm", "status": "ok"})
    return False


def _health(visit: Visit) -> bool:
    snapshot = visit.engine.snapshot
    good = "degraded" if visit.engine.degraded() else "ok"
    status = "stopping" if visit.engine.stopping.is_set() else good
    visit.down.answer_json(200, {"status": status, "providers": len(snapshot.endpoints)})
    return False


def _metrics(visit: Visit) -> bool:
    body = visit.engine.exposition().encode("utf-8", "replace")
    visit.down.answer(200, body, {"cache-control": "no-store"}, CONTENT_TYPE)
    return False


def _profiles(visit: Visit) -> bool:
    visit.down.answer_json(200, {"inferenceProfileSummaries": []})
    return False


def _swallow(visit: Visit) -> bool:
    parse.parse(visit.request.body)
    visit.down.answer_json(200, {})
    return False


@dataclass(frozen=True, slots=True)
class Route:
    """One row: methods, whether ccm's token is wanted, what answers."""

    methods: tuple[str, ...]
    token: bool
    run: Callable[[Visit], bool]
    surface: str = "messages"


_GET = ("GET", "HEAD")
ROUTES: Mapping[str, Route] = {
    "/v1/messages": Route(("POST",), True, _messages),
    "/v1/messages/count_tokens": Route(("POST",), True, _count),
    "/v1/chat/completions": Route(("POST",), True, _messages, "chat"),
    "/v1/responses": Route(("POST",), True, _messages, "responses"),
    "/v1/models": Route(_GET, True, _models),
    "/v1/models/*": Route(_GET, True, _models),
    "/inference-profiles": Route(_GET, True, _profiles, "bedrock"),
    "/": Route(_GET, False, _hello),
    "/api/hello": Route(_GET, False, _hello),
    "/api/event_logging/*": Route(("POST",), False, _swallow),
    "/health": Route(_GET, False, _health),
    # names, tokens and money; every user of the machine can reach the port. Prometheus can send a bearer token
    "/metrics": Route(_GET, True, _metrics),
}
# Claude Code's other modes, and Azure's classic path; the model stands in the path, and so does whether it streams (DIALECTS 12).
_VERTEX = r"(?:/v1(?:beta1)?)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models"
CLOUDS: Sequence[tuple[re.Pattern[str], Route]] = (
    (regex(r"/deployments/([^/]+)/chat/completions()"), Route(("POST",), True, _messages, "chat")),
    (
        regex(r"/model/([^/]+)/(?:invoke|(invoke-with-response-stream))"),
        Route(("POST",), True, _messages, "bedrock"),
    ),
    (regex(r"/model/([^/]+)/count-tokens()"), Route(("POST",), True, _count, "bedrock")),
    (regex(_VERTEX + r"/()count-tokens:rawPredict()"), Route(("POST",), True, _count, "vertex")),
    (
        regex(_VERTEX + r"/([^/:]+):(?:rawPredict|(streamRawPredict))"),
        Route(("POST",), True, _messages, "vertex"),
    ),
)
_ADMITTED = "admitted"  # in a head's notes: (snapshot, address, what `find` says of its path)
_PREFIX = re.compile(r"/p/([A-Za-z0-9_.-]{1,64})(?=/)")


def find(path: str) -> tuple[Route | None, Entry, str]:
    """(route, how the request comes in, rest of the path)."""
    prefix = ""
    match = _PREFIX.match(path)
    if match is not None:
        prefix, path = match[1], path[match.end() :]
    path = (
        path.removeprefix("/anthropic").removeprefix("/openai") or "/"
    )  # Foundry's and Azure's own prefixes
    if path.startswith("/v1/v1/"):  # a base URL that ends in /v1
        path = path[3:]
    if len(path) > 1:
        path = path.rstrip("/") or "/"
    rest = ""
    route = ROUTES.get(path)
    if route is None:
        parent, _, rest = path.rpartition("/")
        route = ROUTES.get(f"{parent}/*")
    if route is None and path.startswith("/v1/models/"):  # names with a provider before a slash
        route, rest = ROUTES["/v1/models/*"], path[len("/v1/models/") :]
    if route is not None:
        return route, Entry(route.surface, prefix), rest
    for pattern, cloud in CLOUDS:
        if (found := pattern.fullmatch(path)) is not None:
            stream = None if cloud.surface == "chat" else bool(found[2])
            return cloud, Entry(cloud.surface, prefix, unquote(found[1]), stream), ""
    return None, Entry(prefix=prefix), ""


def surface_of(target: str) -> str:
    """Whose error envelope somebody who asks for this understands."""
    return find(_path(target))[1].surface


def admit(engine: Engine, head: RequestHead, local: tuple[str, int]) -> None:
    """Decides from the head alone; raises Refusal before a body is read. A head like one that was let in under the
    same configuration, at the same address, is let in again."""
    snapshot, known = engine.snapshot, head.notes.get(_ADMITTED)
    if known is not None and known[0] is snapshot and known[1] == local:
        return
    found = find(_path(head.target))
    try:
        _admit(snapshot, found[0], head, local)
    except Refusal as refusal:
        refusal.surface = found[1].surface
        raise
    except Exception as fault:
        raise _fault(engine, fault, found[1]) from None
    head.notes[_ADMITTED] = (snapshot, local, found)


def _admit(snapshot: Snapshot, route: Route | None, head: RequestHead, local: tuple[str, int]) -> None:
    headers = head.headers
    guard.check_host(headers, head.target, local, snapshot.allowed_hosts)
    guard.check_browser(headers)
    if route is None:
        raise Refusal(404, "not_found_error", "Not found: this path does not exist here.")
    if head.method not in route.methods:
        raise Refusal(
            405,
            "invalid_request_error",
            f"Use {' or '.join(route.methods)} here.",
            {"allow": ", ".join(route.methods)},
        )
    if route.token:
        guard.check_token(headers, snapshot.auth_token)
    if head.method == "POST":
        # botocore's InvokeModel names no type; no web page can send it our token, which was checked above
        guard.check_body(
            {"content-type": "application/json", **headers} if route.surface == "bedrock" else headers
        )


def _fault(engine: Engine, fault: Exception, entry: Entry) -> Refusal:
    """A bug of ours costs its own request and nothing else: the log has the traceback, the client the id."""
    id = new_id("req_")
    engine.on_fault(fault, id)
    refusal = Refusal(500, "api_error", f"ccm failed inside; its log has the details of {id}.")
    refusal.surface = entry.surface
    return refusal


def _path(target: str) -> str:
    if target[0] != "/":
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0]


def handle(engine: Engine, request: Request, down: Downstream) -> bool:
    """Answers an admitted request. True: the connection is answered for by the pump."""
    known = request.notes.get(_ADMITTED)
    route, entry, rest = find(request.path) if known is None else known[2]
    assert route is not None, "admit() lets only known paths in"
    try:
        return route.run(Visit(engine, request, down, entry, rest))
    except ClientGone:
        raise
    except Exception as fault:
        refusal = fault if isinstance(fault, Refusal) else _fault(engine, fault, entry)
        if down.committed:
            raise ClientGone from None
        error = envelope(entry.surface, refusal.status, refusal.type, refusal.message, new_id("req_"))
        down.answer_json(refusal.status, error, refusal.headers)
        return False
