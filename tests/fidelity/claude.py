"""Gate 5: the real Claude Code does a scripted task through ccm, over every dialect and through every fault of the stub.

The shared `claude_e2e.sh` starts stub, ccm and client and judges files, calls and words. Two outcomes are allowed: the
task is done, or the failure is seen by its user; for most faults only the first (CLIENT 5: what a correct gateway does
when a fault happens once). Silence, a hang, or a malformed request to the provider is a fall.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fidelity import places
from tests.fidelity.table import Ledger, Row
from tests.gateway import SUFFIX, free_port, provider

DIALECTS = ("anthropic", "openai_chat", "openai_responses", "gemini")
DONE, SEEN = "done", "seen"  # what a run may come to
REPAIRED = "malformed"  # done, but a request was refused by the provider, mended and sent again
_RUN_S = 75
_SEEN = re.compile(
    r"API Error|E2E-FAIL|Failed to authenticate|issue with the selected model|Request too large"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `allowed` are the outcomes that a correct gateway may leave the client with."""

    dialect: str
    fault: str = ""
    arguments: str = ""  # more of the stub's options
    allowed: frozenset[str] = frozenset({DONE})
    reason: str = ""  # where `allowed` has more than DONE: why

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.fault, self.arguments))) or "strict"

    @property
    def gate(self) -> str:
        if not self.fault:
            return "claude/task"
        return "claude/http" if self.fault.startswith(("http:", "only_stream:")) else "claude/stream"


_PLACES = ("start", "mid", "tool", "late")
_HTTP = (
    "http:400", "http:401", "http:402", "http:403", "http:404", "http:408", "http:409", "http:413", "http:422",
    "http:429;retry-after=1", "http:500", "http:501", "http:502;raw=<html><h1>Bad-Gateway</h1></html>", "http:503",
    "http:504", "http:529", "only_stream:http:500",
)  # fmt: skip
# Seen by the user at once: nothing that a client or a gateway could repeat with hope.
_HTTP_SEEN = {
    "http:402": "no money: the client shows a 403's text and does not retry",
    "http:403": "not allowed: the same",
    "http:413": "too large: the client has nothing yet to compact",
    "http:401": "a refused key is out until it changes: the client is told so",
}
_BEFORE = ("rst_before", "fin_before", "stall_before_headers", "stall_after_headers")
_BREAKS = tuple(f"{kind}_{at}" for kind in ("rst", "fin", "cut", "stall") for at in _PLACES)
_FRAMING = (
    "crlf", "no_space", "one_write", "content_length", "close_delimited", "close_after", "gzip", "no_ctype",
    "json_ctype", "json_for_stream",
)  # fmt: skip
_ANTHROPIC = (
    *(f"{kind}_{at}" for kind in ("err", "errapi") for at in ("first", *_PLACES)),
    *(f"{kind}_first" for kind in ("rst", "fin", "cut", "stall")),
    "slow_first", "slow_mid", "slow_tool", "stallping_mid", "stallcomment_mid", "sse_for_json",
    "no_start", "no_stop", "no_delta", "no_block_stop", "no_ping", "no_event_lines", "comment", "done_line",
    "unknown_event", "unknown_block", "unknown_delta", "thinking_nosig", "no_thinking", "redacted_thinking",
    "bad_json", "empty_json", "input_at_start", "no_usage", "null_usage", "late_usage", "other_model", "no_id",
    "no_model", "const_id", "const_tool_id", "weird_tool_id", "empty_text", "interleave", "index_gap",
    "stop:end_turn", "stop:max_tokens", "stop:null", "stop:pause_turn", "stop:stop_sequence", "stop:never_heard_of",
    "stop:refusal", "text:Something-else.",
)  # fmt: skip
_STREAM_SEEN = {
    "bad_json": "the model's own words are passed on: the tool's error reaches the model (R6)",
    "empty_json": "no arguments: the tool is called with {} and refuses",
    "weird_tool_id": "the provider refuses the ids that it made itself",
    "stop:refusal": "the client discards the call and asks again",
    "text:Something-else.": "the model itself ends the task",
}
_REPAIRED = {  # who may and who must send unsigned thinking back is only known from the provider's answer (R11)
    "thinking_nosig": "the provider refuses the thinking that it did not sign itself",
    "interleave": "the same: blocks cut apart have no signature",
}
_TRANSLATED = (  # for the other dialects: what their own code has a part in
    "http:400", "http:401", "http:429;retry-after=1", "http:500", "http:503", "rst_before", "stall_after_headers",
    *(f"{kind}_{at}" for kind in ("rst", "fin", "cut", "stall") for at in ("mid", "tool", "late")),
    "err_mid", "errapi_tool", "crlf", "no_space", "close_delimited", "gzip", "no_ctype", "json_for_stream",
)  # fmt: skip
_QUICK_FAULTS = ("rst_mid", "err_tool")


def cases(quick: bool = False) -> list[Case]:
    """Every run of the gate; `quick` leaves one per dialect and a handful of faults."""
    out = [Case(d) for d in DIALECTS]
    if quick:
        return out + [_case("anthropic", f) for f in _QUICK_FAULTS]
    for dialect in DIALECTS:
        out.append(Case(dialect, arguments="--chop 1"))
        if dialect in ("openai_chat", "gemini"):
            signed = " --gemini-signature" if dialect == "gemini" else ""
            out.append(Case(dialect, arguments=f"--reasoning{signed}"))
        faults = (*_HTTP, *_BEFORE, *_BREAKS, *_FRAMING, *_ANTHROPIC)
        if dialect != "anthropic":
            more = ("whole_tool_call",) if dialect == "openai_chat" else ()
            faults = (*_TRANSLATED, *more)
        out += [_case(dialect, fault) for fault in faults]
    return out


def _case(dialect: str, fault: str) -> Case:
    if fault in _REPAIRED:
        return Case(dialect, fault, "", frozenset({DONE, REPAIRED}), _REPAIRED[fault])
    why = _HTTP_SEEN.get(fault) or _STREAM_SEEN.get(fault, "")
    return Case(dialect, fault, "", frozenset({DONE, SEEN} if why else {DONE}), why)


def run(chosen: Sequence[Case], *, jobs: int = 3, deadline: float = float("inf")) -> list[Row]:
    """The rows of these runs. What the deadline (monotonic seconds) leaves no time for counts as not right."""
    client = places.claude_code()
    ledger, lock = Ledger(), threading.Lock()

    def one(case: Case) -> None:
        if time.monotonic() > deadline:
            why: str | None = "not run: no time was left"
        else:
            try:
                why = _verdict(case, client)
            except subprocess.TimeoutExpired:
                why = f"hangs: no end within {_RUN_S + 30} s"
        with lock:
            ledger.row(case.gate, case.dialect, "claude-code").note(case.name, why)

    with ThreadPoolExecutor(jobs, thread_name_prefix="claude") as pool:
        list(pool.map(one, chosen))
    return ledger.rows


def _verdict(case: Case, client: Path) -> str | None:
    with tempfile.TemporaryDirectory(prefix="ccm-e2e-") as name:
        work = Path(name)
        work.chmod(0o755)
        outcome, report = _play(case, client, work)
        if outcome in case.allowed:
            return None
        log = work / "ccm.log"
        tail = log.read_text(errors="replace")[-600:] if log.exists() else "(no log)"
        return f"{outcome} (allowed: {', '.join(sorted(case.allowed))}): {_one_line(report)} | ccm: {_one_line(tail)}"


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().split("\n"))[-900:]


def _play(case: Case, client: Path, work: Path) -> tuple[str, str]:
    """(outcome, the script's report): done | seen | silent | hangs | malformed | setup."""
    port = free_port()
    limits = {"header_s": 2.5, "first_content_s": 2.5, "first_content_thinking_s": 2.5, "idle_s": 2.5}
    tables = provider(f"$STUB_URL{SUFFIX[case.dialect]}", "up", case.dialect, timeouts=limits)
    head = f'[proxy]\nlisten = "127.0.0.1:{port}"\nauth_token = "ccm-proxy"\n[failover]\nbackoff_ms = 50\n'
    (work / "config.in").write_text(head + tables)
    home = work / "ccm-home"
    home.mkdir()
    launch = work / "launch"
    launch.write_text(
        "#!/bin/bash\nset -eu\numask 077\n"
        f'sed "s#\\$STUB_URL#$STUB_URL#g" "{work}/config.in" >"{work}/config.toml"\n'
        f'exec env -i PATH="$PATH" HOME="{home}" PYTHONPATH="{places.REPO}" CCM_TEST_KEY=sk-test-0123456789abcdef '
        f'CCM_SOCKET="{home}/s" "{sys.executable}" -m ccm start --config "{work}/config.toml" >"{work}/ccm.log" 2>&1\n'
    )
    launch.chmod(0o755)
    arguments = ["--strict", "--slow", "1", "--stall", "20", *case.arguments.split()]
    if case.fault:
        arguments += [
            "--fault",
            case.fault,
        ]  # the script splits its arguments at blanks: no fault may have one
    e2e = work / "e2e"
    e2e.mkdir(mode=0o755)
    env = {
        **os.environ,
        "CC_DIR": str(client),
        "CC_VERSION": "latest",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "E2E_GATEWAY_CMD": str(launch),
        "E2E_TIMEOUT": str(_RUN_S),
        "E2E_STRICT": "1",
        "E2E_WORK": str(e2e),
        "STUB_ARGS": " ".join(arguments),
    }
    script = places.shared() / "tools/claude_e2e.sh"
    done = subprocess.run(
        ["bash", str(script)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=_RUN_S + 30, check=False,
    )  # fmt: skip
    return _outcome(done.returncode, done.stderr, e2e / "out.jsonl"), done.stderr


def _outcome(status: int, report: str, out: Path) -> str:
    if status == 0:
        return DONE
    if status == 3:
        return "malformed"
    if status == 2:
        return "setup"
    if "(timeout)" in report:
        return "hangs"
    result = _result(out.read_text(errors="replace").split("\n") if out.exists() else ())
    if (
        result.get("is_error")
        or _SEEN.search(str(result.get("result")))
        or "E2E-OK" not in str(result.get("result"))
    ):
        return SEEN if str(result.get("result") or "").strip() else "silent"
    return "silent"


def _result(lines: Iterable[str]) -> dict[str, object]:
    """The client's last word: its `result` line."""
    for line in lines:
        if '"result"' in line:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("type") == "result":
                return event
    return {}
