"""`ccm statusline`: the one line that Claude Code shows below its prompt. Claude Code pipes JSON to it and wants a line
back within moments, so this file imports next to nothing: the running ccm reads the JSON and makes the line.

It also runs as a script, outside of the package (`python -I -S .../statusline.py`, which is what `--install` writes):
without the site module Python starts in a third of the time. It must not import anything of ccm at the top, must print
one line and end with 0 whatever comes in, and must never wait for long.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket

WAIT_S = 0.4
MAX_INPUT = 48 * 1024  # what Claude Code sends is about 2 KB; the control socket takes 64
MAX_ANSWER = 16 * 1024
HELP = """usage: ccm statusline [--socket PATH]          the line itself; Claude Code runs this
       ccm statusline --install [--yes]        writes it into Claude Code's settings, after asking
       ccm statusline --uninstall [--yes]      takes it out again

Prints one line: provider, model, cost of the session, cache hits, budgets and quota. Claude Code pipes what it knows to
standard input. NO_COLOR turns colours off; $CLAUDE_CONFIG_DIR says where Claude Code's settings are (~/.claude)."""


def main(argv: list[str] | tuple[str, ...] | None = None) -> int:
    """The entry point. Returns the exit code: 0 for a line, whatever it had to say."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    if "--install" in words or "--uninstall" in words:
        from ccm.cli import statusline_setting

        return statusline_setting.main(words)
    path = ""
    if len(words) == 2 and words[0] == "--socket":
        path = words[1]
    elif len(words) == 1 and words[0].startswith("--socket="):
        path = words[0][9:]
    elif words:
        print(HELP, file=sys.stderr)
        return 2
    given = _input()
    text = ask(path or socket_path(), given) or offline(given)
    out = (text + "\n").encode("utf-8", "replace")
    try:
        os.write(1, out)
    except OSError:  # nobody reads
        pass
    return 0


def socket_path() -> str:
    """The control socket as `control.state.socket_path` names it, without the imports."""
    path = os.environ.get("CCM_SOCKET") or "~/.claude-code-mux/ccm.sock"
    return os.path.abspath(os.path.expanduser(path))


def _input() -> bytes:
    """What is piped in: a JSON object, or b"" for anything else. A terminal is not waited for."""
    try:
        if os.isatty(0):
            return b""
        data = b""
        while len(data) <= MAX_INPUT and (piece := os.read(0, MAX_INPUT)):
            data += piece
    except OSError:
        return b""
    data = data.strip()
    return data if len(data) <= MAX_INPUT and data.startswith(b"{") and data.endswith(b"}") else b""


def ask(path: str, given: bytes) -> str:
    """The line as the running ccm makes it; "" where none answers in time."""
    colour = b"false" if os.environ.get("NO_COLOR") else b"true"
    status, line = _post(path, b'{"colour":%b,"claude":%b}' % (colour, given or b"null"))
    if status == 400 and given:  # what was piped in is no JSON after all
        status, line = _post(path, b'{"colour":%b,"claude":null}' % colour)
    return line if status == 200 else ""


def _post(path: str, body: bytes) -> tuple[int, str]:
    head = (
        b"POST /statusline HTTP/1.1\r\nHost: ccm\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(WAIT_S)
        connection.connect(path)
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while len(answer) < MAX_ANSWER and (piece := connection.recv(MAX_ANSWER)):
            answer += piece
    except (OSError, ValueError):
        return 0, ""
    finally:
        connection.close()
    start, _, text = answer.partition(b"\r\n\r\n")
    status = start[9:12]
    line = text.decode("utf-8", "replace").strip().partition("\n")[0]
    return int(status) if status.isdigit() else 0, line


def offline(given: bytes) -> str:
    """The line where no ccm answers: that, and what Claude Code itself has said."""
    colour = not os.environ.get("NO_COLOR")
    parts = ["\x1b[31mccm is not running\x1b[0m" if colour else "ccm is not running"]
    known = {}
    if given:
        import json

        try:
            known = json.loads(given)
        except (ValueError, RecursionError):
            pass
    model = known.get("model")
    name = model.get("display_name") or model.get("id") if isinstance(model, dict) else model
    if isinstance(name, str) and name.isprintable():
        parts.append(name[:60])
    cost = known.get("cost")
    spent = cost.get("total_cost_usd") if isinstance(cost, dict) else None
    if isinstance(spent, (int, float)) and not isinstance(spent, bool) and 0 < spent < 1e9:
        parts.append(f"~${spent:.2f}")
    return " · ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
