"""Keys in the sinks that the contract test of the canaries does not look at (A15): the usage database and what is read
from it, debug bodies, telemetry, the figures for machines, doctor, the status line, and the command lines of children.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ccm.control import client
from ccm.errors import ControlError
from tests.contract.test_secret_canaries import (
    DIALECT,
    ENV,
    FAULTS,
    SPELT,
    ask,
    configuration,
    everything_shown,
    singing,
)
from tests.gateway import Gateway
from tests.upstream import Upstream

COMMANDS = (
    ["usage"], ["costs", "--by", "key"], ["costs", "--csv"], ["explain", "last"], ["config"], ["models"],
)  # fmt: skip
READINGS = (
    "/usage",
    "/costs",
    "/sessions",
    "/budgets",
    "/config",
    "/models",
    "/top",
    "/drill",
    "/debug-bodies",
)


class Collector:
    """Keeps every byte of telemetry."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        kept = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                kept.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def command(gateway: Gateway, *arguments: str) -> str:
    """What `ccm <arguments>` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "ccm", *arguments], capture_output=True, text=True, env=gateway.env,
        cwd=gateway.home, timeout=60, check=False, input="{}",
    )  # fmt: skip
    return done.stdout + done.stderr


def shown(gateway: Gateway, bodies: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of every further sink."""
    yield from everything_shown(gateway)  # with all files below the home, usage.db and the bodies among them
    for words in COMMANDS:
        done = gateway.ctl(*words)
        yield f"ccmctl {' '.join(words)}", done.stdout + done.stderr
    for target in READINGS:
        try:
            yield f"GET {target}", json.dumps(client.ask(gateway.env["CCM_SOCKET"], "GET", target))
        except ControlError as error:  # a path that is only for acting
            yield f"GET {target}", str(error)
    config = str(gateway.config_path)
    for words in (["doctor", "--config", config], ["statusline"], ["check", "--config", config, "--json"]):
        yield f"ccm {' '.join(words)}", command(gateway, *words)
    yield "debug bodies", bodies.read_text("utf-8", "replace")


@pytest.mark.slow
def test_no_canary_sings_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    collector = Collector()
    with Upstream() as up:
        config = configuration(up, tmp_path) + f'\n[telemetry]\notlp_endpoint = "{collector.url}"\n'
        home, bodies = tmp_path / "home", tmp_path / "home" / "bodies.jsonl"
        gateway = Gateway(home, config, env=ENV, failover={"max_retries": 0}, proxy={"log_level": "debug"})
        gateway.start("--debug-bodies", str(bodies))
        try:
            for n, (name, dialect) in enumerate(DIALECT.items()):
                for fault in FAULTS[n % 2 :: 2]:  # all of them are asked of everybody in the contract test
                    key = SPELT[name if name != "aws" else "aws session"][fault.spelling]
                    up.always(f"/{name}", fault.make(dialect, key))
                    gateway.reset()
                    ask(gateway, name, stream=(n + FAULTS.index(fault)) % 2 == 0)
                up.always(f"/{name}", ("answer",) if dialect != "bedrock" else ("status", 500, {}, "no"))
                gateway.reset()
                ask(gateway, name, stream=True)
            sinks = list(shown(gateway, bodies))
        finally:
            assert gateway.stop() == 0, gateway.log()[-2000:]
            collector.server.shutdown()
            collector.server.server_close()
    sinks += [("telemetry", body.decode("latin-1")) for body in collector.bodies]
    names = [where for where, _ in sinks]
    text = dict(sinks)
    assert collector.bodies, "telemetry was on"
    assert any("usage.db" in where for where in names), names
    assert '"request"' in text["debug bodies"] and len(text["debug bodies"]) > 10_000
    assert "no usage is kept" not in text["ccmctl usage"]
    leaks = [f"{where}: {canary}" for where, text in sinks for canary in singing(text)]
    own = {f"file {p.relative_to(home)}" for p in home.rglob("*") if p.name in ("chat.key", "gem.py")}
    leaks = [leak for leak in leaks if leak.partition(":")[0] not in own]
    assert not leaks, "\n".join(sorted(set(leaks))[:60])
