"""ccm and ccmctl: every command, what people read, exit codes, and that nothing heavy is imported."""

from __future__ import annotations

import json
import sys
import types

import pytest

from ccm.cli import ctl, figures, main, manual, render, views
from ccm.control import actions, api, client, observing
from ccm.control import figures as control_figures
from ccm.errors import ControlError
from ccm.messages.tokens import Usage
from ccm.observe.record import Attempt, RequestRecord


@pytest.fixture
def room(fake_core, monkeypatch):
    """ccmctl without a socket: `ask` goes straight to the control table."""

    def ask(path, method, target, args=None, timeout_s=2.0):
        target = target.partition("?")[0]
        reply = api.call(fake_core, method, target, json.loads(json.dumps(dict(args or {}))))
        if reply.content_type != api.JSON:
            return reply.body.decode()
        value = json.loads(reply.body)
        if reply.status >= 400:
            raise ControlError(value["error"], reply.status)
        return value

    monkeypatch.setattr(ctl, "ask", ask)
    return fake_core


def record(**fields) -> RequestRecord:
    defaults = {
        "id": "req_1", "at": 1_000_000.0, "status": 200, "ending": "complete", "provider": "openai", "endpoint": "openai",
        "model": "gpt-5.6", "asked_model": "claude-opus-5-5", "first_content_s": 0.4, "total_s": 3.2,
        "attempts": [Attempt("anthropic", "m", "529", 0.1), Attempt("openai", "gpt-5.6", "200", 3.1)],
        "usage": Usage(input=1200, cache_read=30_000, output=450), "losses": ["top_k=dropped"],
    }  # fmt: skip
    return RequestRecord(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["status"], "ccm 1.0.0 on 127.0.0.1:13456: ok"),
        (["providers"], "environment variable GROQ_API_KEY is not set"),
        (["switch", "openai"], "openai is primary now"),
        (["switch", "openai", "--for", "30m"], "for 30m"),
        (["switch", "--auto"], "the strategy priority decides"),
        (["metrics"], "0 requests since the start"),
        (["metrics", "--prometheus"], "# TYPE ccm_uptime_seconds gauge"),
        (["requests"], "no request has finished yet"),
        (["enable", "openai"], "openai takes requests"),
        (["disable", "openai"], "ccmctl enable openai"),
        (["drain", "openai"], "no new requests"),
        (["reset"], "all providers"),
        (["reset", "openai"], "openai are forgotten"),
        (["reload"], "configuration 3 is in use"),
        (["log-level", "debug"], "log level debug"),
        (["health"], "ok"),
        (["stop"], "stopping"),
        (["models"], "opus    anthropic/opus"),
        (["config"], "[failover]\nenabled = true  # default"),
        (["drill"], "there was no drill"),
        (["drill", "openai", "529", "--no-wait"], "the next request to openai within 1m"),
        (["drill", "--off"], "no drill was on"),
        (["switch", "openai", "--class", "think"], "class think"),
        (["switch", "--auto", "--class", "think"], "class think"),
        (["top", "--count", "1"], "primary none chosen"),
    ],
)
def test_every_command(room, capsys, argv: list[str], says: str) -> None:
    assert ctl.run(argv) == 0
    assert says in capsys.readouterr().out


OTHERS = {command.name for command in figures.COMMANDS} | {
    "debug-bodies",
    "handover",
}  # tested with their rooms


@pytest.mark.parametrize(
    "command", [one for one in ctl.COMMANDS if one.name not in OTHERS], ids=lambda command: command.name
)
def test_every_command_speaks_json(room, capsys, command) -> None:
    room.recent.append(record())
    needed = {
        "enable": ["openai"],
        "disable": ["openai"],
        "drain": ["openai"],
        "switch": ["openai"],
        "log-level": ["info"],
        "top": ["--count", "1"],
    }
    assert ctl.run([command.name, *needed.get(command.name, []), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_every_route_of_the_table_is_reachable_by_ccmctl() -> None:
    others = {route.path for route in (*control_figures.ROUTES, *observing.ROUTES)}
    mine = {command.path for command in ctl.COMMANDS} | {"/", "/auto"}
    assert {route.path for route in api.ROUTES} - others <= mine


@pytest.mark.parametrize("name", [*(command.name for command in ctl.COMMANDS), "version", "completions"])
def test_every_command_has_help_with_exit_codes(capsys, name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        ctl.run([name, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and f"usage: ccmctl {name}" in out and "3   ccm is not running" in out
    if name not in OTHERS:
        assert f"examples:\n  {'ccmctl ' + name if name != 'completions' else 'eval'}" in out


def test_examples_are_command_lines_that_parse(capsys) -> None:
    parser = ctl.parser()
    for name, rows in manual.EXAMPLES.items():
        for line, _ in rows:
            words = line.partition(" < ")[0].partition(" | ")[0].partition(" > ")[0].split()
            if words[0] == "ccmctl":
                assert parser.parse_args(words[1:]).word == name


def test_status_tells_primary_failures_and_warnings(room, capsys, monkeypatch) -> None:
    monkeypatch.setattr(actions.time, "monotonic", lambda: 200.0)
    actions.switch(room, "openai", 1800)
    room.recent.append(record(ending="failed", status=503, error="all \x1b[31mdown"))
    room.metrics.observe(record())
    room.state._load_problem = "state file was corrupt"
    ctl.run(["status"])
    out = capsys.readouterr().out
    assert "openai for another" in out and "then strategy priority" in out
    assert "* openai" in out and "  anthropic" in out
    assert "1 (1 complete), 1 in flight" in out and "1.2k in, 30k from caches, 450 out" in out
    assert "every provider that was tried failed (anthropic 529, openai 200): all \\x1b[31mdown" in out
    assert "warnings\n  state file was corrupt" in out


def test_pages_for_people(room) -> None:
    room.metrics.observe(record())
    room.metrics.observe(record(status=502, ending="broken"))
    room.recent.extend([record(), record(id="req_2", attempts=[], error="x" * 300)])
    page = views.metrics(room.metrics.snapshot(), render.Screen(width=120))
    assert "2 requests since the start" in page and "NOT COMPLETE" in page and "top_k" in page
    assert max(map(len, page.split("\n"))) <= 120
    rows = json.loads(api.call(room, "GET", "/requests", {}).body)["requests"]
    page = views.requests(rows, render.Screen(width=150))
    assert "anthropic 529" in page and max(map(len, page.split("\n"))) <= 150
    assert "x" * 300 in views.requests(rows, render.Screen())


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["statsu"], 2, "did you mean status?"),
        ([], 2, "--help"),
        (["switch"], 2, "--auto"),
        (["switch", "openai", "--auto"], 2, "--auto"),
        (["switch", "--auto", "--for", "3m"], 2, "--auto"),
        (["status", "--jsn"], 2, "--jsn"),
        (["--api-key=sk-1234", "status"], 2, "environment variables"),
        (["start"], 2, "ccm start"),
        (["drill", "openai"], 2, "say which FAULT"),
        (["drill", "openai", "flood"], 2, "known: 429"),
        (["switch", "openai", "--class", "thik"], 2, "did you mean think?"),
        (["explain", "last", "--dry-run"], 2, "standard input"),
        (["status", "--watch", "0"], 2, "out of range"),
        (["switch", "openai", "--watch", "3"], 2, "--watch"),
        (["completions", "tcsh"], 2, "bash"),
    ],
)
def test_wrong_usage(capsys, argv: list[str], code: int, says: str) -> None:
    try:
        found = ctl.run(argv)
    except SystemExit as stop:
        found = stop.code
    error = capsys.readouterr().err
    assert found == code and says in error and "sk-1234" not in error


def test_exit_codes_of_failure(room, capsys, monkeypatch) -> None:
    assert ctl.run(["switch", "opnai"]) == 1
    assert "did you mean openai?" in capsys.readouterr().err

    def nobody(path, *args, **kwargs):
        raise client.NotRunning(path)

    monkeypatch.setattr(ctl, "ask", nobody)
    assert ctl.run(["--socket", "/x/y.sock", "status"]) == 3
    error = capsys.readouterr().err
    assert "/x/y.sock" in error and "ccm start" in error
    assert ctl.run(["status", "--socket", "/z.sock"]) == 3
    assert "/z.sock" in capsys.readouterr().err
    assert ctl.run(["version"]) == 0


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["version"]])
def test_version_is_exact(capsys, argv: list[str]) -> None:
    assert main.main(argv) == 0
    assert capsys.readouterr().out == "ccm 1.0.0\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["strat"], "did you mean start?"),
        (["start", "--token", "x"], "environment variables"),
        ([], "ccm start"),
    ],
)
def test_ccm_usage(capsys, argv: list[str], says: str) -> None:
    try:
        code = main.main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and says in capsys.readouterr().err


def test_ccm_start_hands_everything_on(monkeypatch) -> None:
    seen = []
    app = types.ModuleType("ccm.app")
    app.run = lambda *args: seen.append(args) or 98  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ccm.app", app)
    monkeypatch.setattr("ccm.app", app, raising=False)
    assert main.main(["start"]) == 98
    argv = "start --config f --listen 127.0.0.1:1 --demo --log-level debug --socket s"
    assert main.main(argv.split()) == 98
    assert seen == [(None, None, False, None, None), ("f", "127.0.0.1:1", True, "debug", "s")]
