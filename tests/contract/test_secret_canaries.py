"""Keys that sing when they are seen: a running ccm, every kind of credential, every way a provider can fail while it
echoes the key in whatever spelling, at every log level. No key may appear anywhere but in the header that carries it
to its own provider (RELIABILITY S24, S25).
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import answers
from tests.gateway import Gateway, provider
from tests.http1 import Client, Reply, message
from tests.upstream import Seen, Step, Upstream

LEVELS = ("debug", "info", "warning", "error")
# Nothing of their shape gives these keys away, and every one changes under every encoding.
CANARIES = {
    "ant": 'Zq7/ant+"canary"=%41~0123456789',
    "chat": "Wx9/chat+canary\\=%42~0123456789",
    "gem": "Vb3/gem+canary=%43'~0123456789",
    "resp": "Tk5/resp+canary=<%44>~0123456789",
    "aws": "Rj1/aws+secret+canary/%45~0123456789abcd",
}
AWS_SESSION = "Pd8/aws+session+canary/%46==0123456789"
DIALECT = {
    "ant": "anthropic",
    "chat": "openai_chat",
    "gem": "gemini",
    "resp": "openai_responses",
    "aws": "bedrock",
}
# The headers that carry a key to its own provider. AWS's secret key itself travels nowhere.
CARRIERS = {
    "ant": {"x-api-key"},
    "chat": {"authorization"},
    "gem": {"x-goog-api-key"},
    "resp": {"authorization"},
    "aws": set(),
}


def spellings(key: str) -> dict[str, str]:
    """How a key could be written, made without ccm's own code."""
    raw = key.encode()
    found = {
        "plain": key,
        "url": urllib.parse.quote(key, safe=""),
        "url path": urllib.parse.quote(key),
        "url plus": urllib.parse.quote_plus(key),
        "json": json.dumps(key)[1:-1],
        "json slashes": json.dumps(key)[1:-1].replace("/", "\\/"),
        "base64": base64.b64encode(raw).decode(),
        "base64url": base64.urlsafe_b64encode(raw).decode(),
        "base64 +1": base64.b64encode(b"x" + raw + b"xx").decode(),  # inside something longer
        "base64 +2": base64.b64encode(b"xx" + raw + b"x").decode(),
    }
    return found


def heard(how: str, form: str) -> str:
    """The part of a spelling that holds nothing but the key."""
    if how == "base64" or how == "base64url":
        return form.rstrip("=")[:-1]
    return form[4:-4] if how.startswith("base64 ") else form


SPELT = {name: spellings(key) for name, key in {**CANARIES, "aws session": AWS_SESSION}.items()}
HEARD = {
    name: {how: heard(how, form) for how, form in forms.items() if how == "plain" or form != forms["plain"]}
    for name, forms in SPELT.items()
}


def singing(text: str) -> list[str]:
    """The canaries in a text, with their spelling; also where it was broken over lines."""
    joined = text.replace("\r", "").replace("\n", "")
    return [
        f"{name} as {how}"
        for name, forms in HEARD.items()
        for how, form in forms.items()
        if form in text or form in joined
    ]


class Fault(NamedTuple):
    """What a provider does: steps for (its dialect, the echoed key in one spelling)."""

    name: str
    make: Callable[[str, str], list[Step]]
    spelling: str = "plain"


def status(code: int, headers: bool = False, spelling: str = "plain") -> Fault:
    def make(dialect: str, key: str) -> list[Step]:
        echo = {
            "request-id": key, "x-ratelimit-limit-requests": key, "anthropic-echo": key, "x-echo": key, "set-cookie": key,
        }  # fmt: skip
        body = answers.error(dialect, code, f"Incorrect API key provided: {key}. (header: Bearer {key})")
        return [("status", code, echo if headers else {}, body)]

    return Fault(f"{code}{' headers' if headers else ''} {spelling}", make, spelling)


def in_stream(dialect: str, key: str) -> list[Step]:
    body = answers.error(dialect, 500, f"upstream failed for {key}")
    if dialect == "openai_responses":
        body = {"type": "error", "code": "server_error", "message": f"upstream failed for {key}"}
    return [("head",), ("event", body if dialect != "gemini" else answers.frame("gemini", body))]


def after_content(dialect: str, key: str) -> list[Step]:
    if dialect == "bedrock":
        return in_stream(dialect, key)
    return [("sse", answers.events(dialect)[:5]), *in_stream(dialect, key)[1:]]


def cut_after_content(dialect: str, key: str) -> list[Step]:
    events = answers.events(dialect)[:5] if dialect != "bedrock" else []
    return [("sse", events), ("bytes", f"data: {{{key}".encode()), ("cut", "rst")]


FAULTS = [
    *(status(code) for code in (400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 529)),
    *(status(401, spelling=s) for s in ("url", "json", "base64", "base64 +1", "base64url")),
    *(status(400, spelling=s) for s in ("url", "json", "base64", "base64 +2")),
    status(400, headers=True),
    status(429, headers=True),
    Fault("200 headers", lambda d, k: [("head", 200, {"request-id": k, "x-echo": k}), ("cut", "fin")]),
    Fault("html", lambda d, k: [("status", 502, {"content-type": "text/html"}, f"<h1>bad key {k}</h1>")]),
    Fault("200 html", lambda d, k: [("status", 200, {"content-type": "text/html"}, f"<h1>{k}</h1>")]),
    Fault("200 error", lambda d, k: [("status", 200, {}, answers.error(d, 500, f"failed: {k}"))]),
    Fault("text body", lambda d, k: [("status", 400, {"content-type": "text/plain"}, f"no such key {k}")]),
    Fault("redirect", lambda d, k: [("status", 307, {"location": f"http://127.0.0.1:1/{k}?key={k}"})]),
    Fault("redirect url", lambda d, k: [("status", 307, {"location": f"http://127.0.0.1:1/{k}"})], "url path"),
    Fault("bad status line", lambda d, k: [("raw", f"HTTP/9.9 {k}\r\n\r\n".encode()), ("cut", "fin")]),
    Fault("bad header", lambda d, k: [("raw", f"HTTP/1.1 200 OK\r\n{k}\r\n\r\n".encode()), ("cut", "fin")]),
    Fault("bad length", lambda d, k: [("raw", f"HTTP/1.1 200 OK\r\ncontent-length: {k}\r\n\r\n".encode()), ("cut", "fin")]),
    Fault("bad chunk", lambda d, k: [("raw", f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{k}\r\n".encode()), ("cut", "fin")]),
    Fault("bad coding", lambda d, k: [("raw", f"HTTP/1.1 200 OK\r\ncontent-encoding: {k}\r\ncontent-length: 2\r\n\r\n{{}}".encode())]),
    Fault("bad json", lambda d, k: [("status", 200, {}, f'{{"error": "{k}')]),
    Fault("bad event", lambda d, k: [("head",), ("bytes", f"event: {k}\ndata: {{{k}\n\n".encode()), ("cut", "fin")]),
    Fault("bad type", lambda d, k: [("status", 400, {}, {"type": "error", "error": {"type": k, "code": k, "message": "m"}})]),
    Fault("error in stream", in_stream),
    Fault("error after content", after_content),
    Fault("reset after content", cut_after_content),
    Fault("reset", lambda d, k: [("cut", "rst")]),
    Fault("closed", lambda d, k: [("cut", "fin")]),
    Fault("stalled", lambda d, k: [("stall", 1)]),
]  # fmt: skip


def configuration(up: Upstream, directory: Path) -> str:
    """One provider per kind of credential: variable, file, command, variable as bearer, AWS."""
    file, script = directory / "chat.key", directory / "gem.py"
    file.write_text(CANARIES["chat"] + "\n")
    file.chmod(0o600)
    script.write_text(f"print({CANARIES['gem']!r})\n")
    script.chmod(0o600)
    short = {"header_s": 0.5, "first_content_s": 0.5, "first_content_thinking_s": 0.5, "idle_s": 0.5}
    keys: dict[str, dict[str, Any]] = {
        "ant": {"api_key_env": "CANARY_ANT"},
        "chat": {"api_key_file": str(file)},
        "gem": {"api_key_command": [sys.executable, "-I", str(script)]},
        "resp": {"api_key_env": "CANARY_RESP"},
    }
    tables = []
    for name, more in keys.items():
        table = provider(up, name, DIALECT[name], timeouts=short, **more)
        if "api_key_env" not in more:
            table = table.replace('api_key_env = "CCM_TEST_KEY"\n', "")
        tables.append(table)
    aws = provider(up, "aws", "bedrock", type="bedrock", region="eu-west-1", timeouts=short)
    tables.append(aws.replace('api_key_env = "CCM_TEST_KEY"\n', ""))
    return "\n".join(tables) + '\n[providers.aws.models]\ndefault = "anthropic.claude-x-v1:0"\n'


ENV = {
    "CANARY_ANT": CANARIES["ant"],
    "CANARY_RESP": CANARIES["resp"],
    "AWS_ACCESS_KEY_ID": "AKIACANARY",
    "AWS_SECRET_ACCESS_KEY": CANARIES["aws"],
    "AWS_SESSION_TOKEN": AWS_SESSION,
}


def ask(gw: Gateway, name: str, stream: bool) -> Reply | None:
    """One request at one provider; None where the connection ended without an answer."""
    with Client(gw.base_url) as client:
        try:
            return client.post(message(stream=stream), headers={"x-ccm-provider": name})
        except ConnectionError:
            return None


def everything_shown(gw: Gateway) -> Iterator[tuple[str, str]]:
    """(where, text) of all that ccm shows after the fact, and of all that it keeps."""
    yield "log", gw.log()
    for command in (
        ["status"], ["status", "--json"], ["providers"], ["requests", "--limit", "200"], ["requests", "--limit", "200", "--json"],
        ["metrics"], ["metrics", "--json"], ["metrics", "--prometheus"], ["health"], ["reload"],
    ):  # fmt: skip
        done = gw.ctl(*command)
        yield f"ccmctl {' '.join(command)}", done.stdout + done.stderr
    connection = http.client.HTTPConnection("127.0.0.1", gw.port, timeout=5)
    for path in ("/", "/health", "/metrics", "/v1/models", "/api/hello"):
        connection.request("GET", path, headers={"x-api-key": "ccm-proxy"})
        answer = connection.getresponse()
        yield f"GET {path}", str(answer.getheaders()) + answer.read().decode("utf-8", "replace")
    connection.close()
    yield "command line", Path(f"/proc/{gw.pid}/cmdline").read_bytes().decode("utf-8", "replace")
    for path in gw.home.rglob("*"):
        if path.is_file():
            yield f"file {path.relative_to(gw.home)}", path.read_bytes().decode("utf-8", "replace")


def misplaced(seen: Seen) -> list[str]:
    """Canaries in a request where they do not belong."""
    name = seen.path.split("/")[1]
    found = [f"path: {c}" for c in singing(seen.path)] + [
        f"body: {c}" for c in singing(seen.raw.decode("utf-8", "replace"))
    ]
    for header, value in seen.headers.items():
        for canary in singing(value):
            owner = canary.partition(" as ")[0]
            mine = owner == name and header in CARRIERS[name] and canary.endswith("as plain")
            if not mine and (owner, name, header) != ("aws session", "aws", "x-amz-security-token"):
                found.append(f"{header}: {canary}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_no_canary_sings(up: Upstream, fresh: Callable[..., Gateway], tmp_path: Path, level: str) -> None:
    gw = fresh(configuration(up, tmp_path), env=ENV, failover={"max_retries": 0}, proxy={"log_level": level})
    up.reset()
    leaks: list[str] = []
    # the most talkative level hears every fault; the others, which say less of the same, a part of them each
    faults = FAULTS if level == "debug" else FAULTS[LEVELS.index(level) :: 4]
    asked = 0
    for name, dialect in DIALECT.items():
        for fault in faults:
            for stream in (True, False):
                key = SPELT[name if name != "aws" else "aws session"][fault.spelling]
                up.always(f"/{name}", fault.make(dialect, key))
                gw.reset()
                reply = ask(gw, name, stream)
                asked += 1
                if reply is None:
                    continue
                shown = str(reply.headers) + "\n" + reply.body.decode("utf-8", "replace")
                for canary in singing(shown):
                    leaks.append(f"answer to the client: {name}, {fault.name}, stream={stream}: {canary}")
    assert asked == len(DIALECT) * len(faults) * 2
    ledger = up.ledger
    assert {seen.path.split("/")[1] for seen in ledger} == set(DIALECT), "every provider was reached"
    for name in ("ant", "chat", "gem", "resp"):
        (header,) = CARRIERS[name]
        assert any(
            CANARIES[name] in s.headers.get(header, "") for s in ledger if s.path.startswith(f"/{name}/")
        )
    leaks += [f"request {seen.path}: {found}" for seen in ledger for found in misplaced(seen)]
    leaks += [f"{where}: {canary}" for where, text in everything_shown(gw) for canary in singing(text)]
    assert not leaks, f"{len(leaks)} leaks at level {level}:\n" + "\n".join(sorted(set(leaks))[:80])


def test_the_ears_hear() -> None:
    """What the test above relies on: every spelling is recognised, and a text without keys is silent."""
    for name, forms in SPELT.items():
        for how, form in forms.items():
            assert any(s.startswith(f"{name} as ") for s in singing(f"xx{form}yy")), (name, how)
            assert singing(f"{form[:10]}\n{form[10:]}"), (name, how)
    basic = base64.b64encode(f"user:{CANARIES['ant']}".encode()).decode()
    assert singing(basic), "inside Basic credentials"
    assert singing("a text like any other, with Zq7/ant in it") == []
