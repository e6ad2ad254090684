"""A `requests` session without a network: what it is asked is written down, what it answers comes from a function."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import requests


@dataclass
class Asked:
    """One request as the code under test made it."""

    method: str
    url: str
    headers: dict[str, str]
    data: Any
    options: dict[str, Any]

    @property
    def form(self) -> dict[str, str]:
        if isinstance(self.data, bytes):
            return dict(parse_qsl(self.data.decode(), strict_parsing=True))
        return dict(self.data or {})


Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]] | None


@dataclass
class Answering:
    """`answer(asked)` gives (status, body[, headers]); None = nobody listens there. Bodies: dict, str or bytes."""

    answer: Callable[[Asked], Answer] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)

    def request(self, method: str, url: str, *, headers: Any = None, data: Any = None, **options: Any) -> Any:
        asked = Asked(method, url, {k.lower(): v for k, v in dict(headers or {}).items()}, data, options)
        self.asked.append(asked)
        found = self.answer(asked)
        if found is None:
            raise requests.ConnectionError("nobody listens")
        status, body, *more = found
        raw = (
            body
            if isinstance(body, bytes)
            else (body if isinstance(body, str) else json.dumps(body)).encode()
        )
        return _Answer(status, dict(more[0]) if more else {}, _Raw(raw))

    @property
    def urls(self) -> list[str]:
        return [f"{asked.method} {asked.url}" for asked in self.asked]


class _Raw(io.BytesIO):
    def read(self, size: int | None = -1, decode_content: bool = False) -> bytes:
        return super().read(size)


@dataclass
class _Answer:
    status_code: int
    headers: dict[str, str]
    raw: _Raw

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.raw.close()
