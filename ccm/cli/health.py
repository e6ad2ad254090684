"""`ccm health`: one word and an exit code, for container health checks and watchdogs. Light: it runs every few seconds."""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from ccm.cli.arguments import FAILED, OK
from ccm.control.client import ask
from ccm.control.state import socket_path
from ccm.errors import ControlError

TIMEOUT_S = 2.0
_DESCRIPTION = """Says in one word how the running ccm is, and nothing else. Asks over the control socket, or with --url or
--port over HTTP, which works from another user or container."""
_EPILOG = """answers:
  ok         it answers, and can reach at least one provider     exit code 0
  degraded   it answers, but no provider can be asked now        exit code 0: a restart would not help
  stopping   it finishes its last requests                       exit code 1
  down       nobody answers                                      exit code 1

examples:
  ccm health
  ccm health --port 13456
  HEALTHCHECK CMD ["ccm", "health"]           in a Dockerfile"""
_WORDS = {"ok": OK, "degraded": OK, "stopping": FAILED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ccm health` on its subparser."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("--socket", metavar="PATH", help="the control socket")
    door = parser.add_mutually_exclusive_group()
    door.add_argument("--url", metavar="URL", help="ask http://HOST:PORT instead of the control socket")
    door.add_argument("--port", metavar="N", type=int, help="the same at 127.0.0.1")


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Asks and says the word; returns the exit code."""
    url = f"http://127.0.0.1:{args.port}" if args.port is not None else args.url
    try:
        word = over_http(url) if url else over_socket(socket_path(args.socket, env))
    except (ControlError, OSError, ValueError, http.client.HTTPException):
        word = ""
    print(word if word in _WORDS else "down")
    return _WORDS.get(word, FAILED)


def over_socket(path: str) -> str:
    """The word of the ccm at a control socket. Raises ControlError when nobody answers."""
    answer = ask(path, "GET", "/health", timeout_s=TIMEOUT_S)
    return str(answer.get("status", "")) if isinstance(answer, dict) else ""


def over_http(url: str) -> str:
    """The word of whoever serves /health there; "" for one that is not ccm. Raises OSError, HTTPException, ValueError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("not an http URL")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        answer = json.loads(response.read(65536))
        return str(answer.get("status", "")) if isinstance(answer, dict) and response.status == 200 else ""
    finally:
        connection.close()
