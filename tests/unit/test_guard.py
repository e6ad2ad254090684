"""server.guard and server.routes: who may come in, and where."""

from __future__ import annotations

import pytest

from ccm.errors import Refusal
from ccm.proxy.entry import Entry
from ccm.server import guard, routes

LOCAL = ("127.0.0.1", 13456)


def refused(check, *args) -> int:
    with pytest.raises(Refusal) as caught:
        check(*args)
    return caught.value.status


@pytest.mark.parametrize(
    "host", ["127.0.0.1:13456", "localhost", "LOCALHOST:1", "[::1]:13456", "box.lan", "10.0.0.9:80"]
)
def test_this_machines_names_are_welcome(host):
    guard.check_host({"host": host}, "/", ("10.0.0.9", 80), ("box.lan",))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.nip.io", 403),
        ("localhost.evil.example", 403),
        ("0.0.0.0:13456", 403),
        ("2130706433", 403),
        ("192.168.1.5:13456", 403),
        ("user@127.0.0.1", 400),
        ("127.0.0.1/x", 400),
        ("127.0.0.1:99999999", 400),
        ("127.0.0.1:1/?", 400),
        ("127.0.0.1:1/#", 400),
        ("", 400),
    ],
)
def test_foreign_and_malformed_hosts(host, status):
    assert refused(guard.check_host, {"host": host}, "/", ("127.0.0.1", 80), ()) == status


def test_an_absolute_target_replaces_host():
    assert refused(guard.check_host, {"host": "127.0.0.1"}, "http://evil.example/", LOCAL, ()) == 403
    assert refused(guard.check_host, {"host": "127.0.0.1"}, "http://127.0.0.1:1/", LOCAL, ()) == 403
    guard.check_host({"host": "evil.example"}, "http://127.0.0.1:13456/", LOCAL, ())
    for broken in (
        "http://[/",
        "http://[::1/",
        "http://]/",
        "http:///",
        "http://127.0.0.1:13456?/",
        "http://a@127.0.0.1:13456/",
    ):
        assert refused(guard.check_host, {"host": "127.0.0.1"}, broken, LOCAL, ()) == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:1", "origin": "https://evil.example"},
        {"host": "127.0.0.1:1", "origin": "null"},
        {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:2"},
        {"host": "127.0.0.1:1", "sec-fetch-site": "cross-site"},
        {"host": "127.0.0.1:1", "sec-fetch-site": "same-site"},
    ],
)
def test_web_pages_stay_out(headers):
    assert refused(guard.check_browser, headers) == 403


def test_own_pages_and_programs_may_come():
    guard.check_browser(
        {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1", "sec-fetch-site": "same-origin"}
    )
    guard.check_browser({"sec-fetch-mode": "cors"})


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "tok"},
        {"authorization": "Bearer tok"},
        {"x-api-key": "no", "authorization": "bearer  tok"},
    ],
)
def test_the_token_in_either_header(headers):
    guard.check_token(headers, "tok")


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": ""}, {"x-api-key": "toK"}, {"authorization": "Basic tok"}, {"x-api-key": "t\xf6k"}],
)
def test_a_wrong_token_is_not_echoed(headers):
    with pytest.raises(Refusal) as caught:
        guard.check_token(headers, "tok")
    assert caught.value.status == 401
    assert caught.value.headers == {"x-should-retry": "false"}
    for value in headers.values():
        assert not value or value not in caught.value.message


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}],
)
def test_bodies_are_plain_json(headers):
    assert refused(guard.check_body, headers) == 415


@pytest.mark.parametrize(
    ("path", "found", "prefix", "rest"),
    [
        ("/v1/messages", "/v1/messages", "", ""),
        ("/v1/v1/messages/", "/v1/messages", "", ""),
        ("/p/openai/v1/messages", "/v1/messages", "openai", ""),
        ("/v1/models/claude-x", "/v1/models/*", "", "claude-x"),
        ("/v1/models/openai/gpt-5", "/v1/models/*", "", "openai/gpt-5"),
        ("/api/event_logging/batch", "/api/event_logging/*", "", "batch"),
    ],
)
def test_paths(path, found, prefix, rest):
    route = routes.ROUTES[found]
    assert routes.find(path) == (route, Entry(route.surface, prefix), rest)


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/v1/chat/completions", Entry("chat")),
        ("/p/x/v1/responses", Entry("responses", "x")),
        ("/anthropic/v1/messages", Entry()),
        ("/openai/v1/responses", Entry("responses")),
        ("/openai/deployments/gpt-5/chat/completions", Entry("chat", "", "gpt-5", None)),
        ("/inference-profiles", Entry("bedrock")),
        (
            "/model/us.anthropic.claude-x-v1%3A0/invoke",
            Entry("bedrock", "", "us.anthropic.claude-x-v1:0", False),
        ),
        ("/model/m/invoke-with-response-stream", Entry("bedrock", "", "m", True)),
        (
            "/v1/projects/p/locations/l/publishers/anthropic/models/m@1:streamRawPredict",
            Entry("vertex", "", "m@1", True),
        ),
        ("/projects/p/locations/l/publishers/anthropic/models/m:rawPredict", Entry("vertex", "", "m", False)),
    ],
)
def test_other_apis(path, entry):
    route, found, rest = routes.find(path)
    assert route is not None
    assert (found, rest) == (entry, "")


@pytest.mark.parametrize("path", ["/v2/messages", "/p/x", "/../etc/passwd", "/v1", "/v1/messages/x/y"])
def test_unknown_paths(path):
    assert routes.find(path)[0] is None
