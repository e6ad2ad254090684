"""What a newcomer does from the first file to the last, as an ordinary user without network: run by test_install.py.

    python3 journey.py HOME RELEASE NEWER BROKEN STUB CLAUDE        (the standard library only; prints one JSON object)

HOME is empty but for what users have there; RELEASE and NEWER are release folders, BROKEN a one-file ccm that cannot start,
STUB the scripted provider for Claude Code, CLAUDE its program ("" for none). A step that fails raises.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 13456
ANTHROPIC, OPENAI = "CCM_ANTHROPIC_API_KEY", "OPENAI_API_KEY"
CHUNKS = 12


def listing(home: Path) -> dict[str, str]:
    """Every name below the home directory with its mode and contents."""
    found = {}
    for path in sorted([home, *home.rglob("*")]):
        info = path.lstat()
        if path.is_symlink():
            told = os.readlink(path)
        else:
            told = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(home))] = f"{info.st_mode:o} {info.st_uid} {told}"
    return found


class Chat(BaseHTTPRequestHandler):
    """A Chat Completions provider whose streams take a while."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        base: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
        }
        for n in range(CHUNKS):
            delta = {"role": "assistant", "content": f"w{n} "}
            self._event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            time.sleep(0.02)
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": CHUNKS, "total_tokens": 3 + CHUNKS}
        self._event({**base, "choices": [end], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


class Load:
    """Clients that stream in a loop, each on a connection of its own; `failed` says what went wrong."""

    def __init__(self, clients: int) -> None:
        self.answered, self.failed = 0, list[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._loop) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _loop(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
        while not self._stop.is_set():
            try:
                text = ask(connection)
                if text.count("text_delta") < CHUNKS or "message_stop" not in text:
                    raise ValueError(text[-300:])
                self.answered += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                connection.close()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def ask(connection: http.client.HTTPConnection, provider: list[str] | None = None) -> str:
    """One streamed message; the body. ValueError for another status than 200."""
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 99,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
    }
    headers = {
        "x-api-key": "ccm-proxy",
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
    }
    connection.request("POST", "/v1/messages", json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {text}")
    if provider is not None:
        provider.append(f"{answer.headers['x-ccm-provider']} {answer.headers['x-ccm-attempts']}")
    return text


class Journey:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.times: dict[str, float] = {}
        self.env = {
            "HOME": str(home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
        }

    def do(self, name: str, *words: str, answers: str = "", code: int = 0, shell: str = "") -> str:
        """Runs a command (or, with `shell`, lines in a shell that has read ~/.bashrc); its output."""
        command = ["bash", "-c", f'. "$HOME/.bashrc"\n{shell}'] if shell else list(words)
        begun = time.monotonic()
        done = subprocess.run(
            command,
            env=self.env,
            cwd="/",
            input=answers,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.times[name] = round(time.monotonic() - begun, 2)
        said = done.stdout + done.stderr
        if done.returncode != code:
            raise SystemExit(
                f"{name}: {command}: exit {done.returncode}, not {code}\n{said[-4000:]}\n{self.log()[-3000:]}"
            )
        return said

    def log(self) -> str:
        path = self.home / ".claude-code-mux" / "ccm.log"
        return path.read_text() if path.exists() else ""


def service_memory(journey: Journey) -> int:
    """Resident memory of the running ccm, in bytes."""
    pid = json.loads(journey.do("health", shell="ccmctl health --json"))["pid"]
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def main(home: Path, release: Path, newer: Path, broken: Path, stub: str, claude: str) -> dict[str, Any]:
    work = home.parent / "work"
    work.mkdir()
    journey = Journey(home)
    before = listing(home)

    chat = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=chat.serve_forever, daemon=True).start()

    journey.do("install", "sh", str(release / "install.sh"), answers="these answers are for the next one\n")
    size = sum(p.lstat().st_size for p in home.rglob("*") if p.is_file())
    keys = f"export {ANTHROPIC}=sk-ant-0123456789abcdefghij {OPENAI}=sk-0123456789abcdefghij\n"
    told = journey.do(
        "quickstart", shell=keys + "ccm-quickstart", answers="openai anthropic\nfailover\n\n\n\n"
    )
    assert "openai" in told, told

    config = home / "config" / "ccm-config.toml"
    text = config.read_text()
    upstream = subprocess.Popen(
        [sys.executable, stub, "--port-file", str(work / "port"), "--log", str(work / "upstream.jsonl")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) if stub else None  # fmt: skip
    try:
        urls = {"openai": f"http://127.0.0.1:{chat.server_address[1]}/v1"}
        if upstream is not None:
            while not (work / "port").exists() or not (work / "port").read_text().strip():
                time.sleep(0.02)
            urls["anthropic"] = f"http://127.0.0.1:{(work / 'port').read_text().strip()}"
        text = text.replace("[providers.openai]\n", '[providers.openai]\ndialect = "openai_chat"\n')
        for name, url in urls.items():
            text = text.replace(f"[providers.{name}]\n", f'[providers.{name}]\nbase_url = "{url}"\n')
        config.write_text(text)

        told = journey.do("start", shell=keys + "ccmctl start")
        assert "ok" in told, told
        journey.do("version", shell="ccm --version")
        journey.do("status", shell="ccmctl status")
        if claude:
            journey.do("switch", shell="ccmctl switch anthropic")
            (work / "w").mkdir()
            (work / "claude").mkdir()
            task = f"Do the scripted task. E2E_DIR={work}/w E2E_TOKEN=tok123abc"
            told = journey.do(
                "claude",
                shell=f'''cd "{work}/w"; export HOME="{work}/claude" DISABLE_AUTOUPDATER=1
                CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 "{claude}" -p "{task}" --output-format stream-json --verbose \
                --allowedTools "Write Read Bash" </dev/null''',
            )
            result = json.loads([line for line in told.splitlines() if '"type":"result"' in line][-1])
            assert result["subtype"] == "success" and not result["is_error"], result
            assert list((work / "w").iterdir()), "the task writes files"
        journey.do("switch", shell="ccmctl switch openai")
        provider: list[str] = []
        ask(http.client.HTTPConnection("127.0.0.1", PORT, timeout=20), provider)
        assert provider[0].startswith("openai "), (provider, journey.log()[-2000:])

        load = Load(4)
        time.sleep(0.5)
        told = journey.do("upgrade", "sh", str(newer / "upgrade.sh"))
        assert "from 1.0.0 to 9.9.9" in told, told
        assert "ccm 9.9.9 is running" in journey.do("which", shell="ccmctl version")
        told = journey.do("broken", "sh", str(newer / "upgrade.sh"), "--from", str(broken), code=1)
        assert "the old file is back, and ccm 9.9.9 runs on" in told, told
        assert "ccm 9.9.9 is running" in journey.do("which", shell="ccmctl version; ccm --version")
        told = journey.do("rollback", "sh", str(home / ".claude-code-mux" / "upgrade.sh"), "--rollback")
        assert "from 9.9.9 to 1.0.0" in told, told
        assert "ccm 1.0.0 is running" in journey.do("which", shell="ccmctl version")
        memory = service_memory(journey)
        load.end()
        most = max(memory, service_memory(journey))
        journey.do("uninstall", "sh", str(home / ".claude-code-mux" / "uninstall.sh"), "--yes")
    finally:
        chat.shutdown()
        if upstream is not None:
            upstream.kill()
            upstream.wait()
        subprocess.run(
            ["sh", str(home / "bin" / "ccmctl"), "stop", "--now"],
            env=journey.env,
            capture_output=True,
            check=False,
        )
    after = listing(home)
    differs = sorted(
        f"{n}: {before.get(n)} -> {after.get(n)}" for n in {*before, *after} if before.get(n) != after.get(n)
    )
    return {
        "times_s": journey.times,
        "installed_bytes": size,
        "memory_bytes": most,
        "answered": load.answered,
        "failed": load.failed,
        "differs": differs,
    }


if __name__ == "__main__":
    home, release, newer, broken = (Path(word) for word in sys.argv[1:5])
    print(json.dumps(main(home, release, newer, broken, *sys.argv[5:7])))
