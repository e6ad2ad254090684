"""Golden cases: tests/data/inbound/<case>/ client.json + answer.json -> request.json, reply.json, reply.stream.

client.json is {"surface", "path_model", "stream", "body"}, answer.json a whole Messages answer. After a wanted change:
CCM_WRITE_GOLDEN=1 pytest tests/unit/test_inbound_cases.py, then read the diff.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ccm.dialects.inbound.base import SURFACES
from ccm.messages.fold import unfold
from ccm.proxy.parse import check_messages
from ccm.wire.eventstream import Framer
from tests.inbound import ids, stream, whole

CASES = sorted(p for p in (Path(__file__).parent.parent / "data" / "inbound").iterdir() if p.is_dir())


def golden(path: Path, text: str) -> None:
    if os.environ.get("CCM_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), path


def pretty(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def readable(surface: str, data: bytes) -> str:
    """A stream as text: event-stream messages as their headers and what their base64 holds."""
    if surface != "bedrock":
        return data.decode()
    lines = []
    for frame in Framer().feed(data):
        inner = json.loads(base64.b64decode(json.loads(frame.payload)["bytes"]))
        lines.append(f"{frame.headers[':event-type']} {json.dumps(inner)}\n")
    return "".join(lines)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Path) -> None:
    client = json.loads((case / "client.json").read_text())
    answer = json.loads((case / "answer.json").read_text())
    surface, body = client["surface"], client["body"]
    before = json.dumps(body)
    request, losses = SURFACES[surface].request(body, client["path_model"], client["stream"], {}, ids())
    check_messages(request)
    assert json.dumps(body) == before  # the client's own
    said = {"request": request, "losses": losses, "headers": SURFACES[surface].extra_headers(body)}
    golden(case / "request.json", pretty(said))
    golden(case / "reply.json", pretty(whole(surface, answer, body)))
    golden(case / "reply.stream", readable(surface, stream(surface, list(unfold(answer)), body)))
