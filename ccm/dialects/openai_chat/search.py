"""Web search by a provider's own means, told in Anthropic's blocks (DIALECTS 10).

Only for requests that asked for Anthropic's web_search and whose `Sent` says that the provider searches: then the
sources that the answer cites become `web_search_result` entries, which is what Claude Code's WebSearch reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ccm.dialects.base import Encoded, Request
from ccm.shape import dataclass

_ASKED = re.compile(r"Perform a web search for the query:\s*(.+)", re.S)
_LONGEST_QUERY = 400
# provider ability -> what makes that provider search (fields put into the request body)
MEANS: dict[str, Callable[[int], dict[str, Any]]] = {
    "web_search_openrouter": lambda uses: {"plugins": [{"id": "web", "max_results": min(10, uses)}]},
    "web_search_zai": lambda uses: {
        "tools": [{"type": "web_search", "web_search": {"enable": True, "search_result": True}}]
    },
    "web_search_perplexity": lambda uses: {},  # searches always
    "web_search_groq": lambda uses: {},  # compound models search by themselves
}


@dataclass(slots=True)
class Sent(Encoded):
    """A request to an OpenAI-compatible provider; `search` is the query where the provider was asked to search."""

    search: str | None = None


def is_search(tool: Mapping[str, Any]) -> bool:
    """Whether a tool is Anthropic's server-side web search."""
    return str(tool.get("type") or "").startswith("web_search_")


def means_of(abilities: frozenset[str]) -> str | None:
    """The way in which a provider searches, None where it cannot."""
    return next((name for name in MEANS if name in abilities), None)


def query_of(request: Request) -> str:
    """What to search for: Claude Code's own wording, else the last text of the user."""
    for message in reversed(request.get("messages") or []):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [
            b.get("text") or "" for b in content or () if isinstance(b, dict) and b.get("type") == "text"
        ]  # fmt: skip
        text = "\n".join(t for t in texts if t).strip()
        if text:
            asked = _ASKED.search(text)
            return (asked.group(1) if asked else text).strip()[:_LONGEST_QUERY]
    return ""


class Search:
    """Collects the sources of one answer; does nothing for a request that did not ask for a search."""

    def __init__(self, sent: Encoded, new_id: Callable[[str], str]) -> None:
        self._query = sent.search if isinstance(sent, Sent) else None
        self._new_id = new_id
        self._sources: dict[str, dict[str, Any]] = {}

    def use_id(self) -> str:
        """An id for the server_tool_use block."""
        return self._new_id("srvtoolu_")

    def chunk(self, chunk: Mapping[str, Any]) -> None:
        """Sources beside the choices: Perplexity's `search_results` and `citations`, Z.ai's `web_search`."""
        if self._query is None:
            return
        for key in ("search_results", "web_search", "citations"):
            for source in _listed(chunk.get(key)):
                self._add(source)

    def delta(self, delta: Mapping[str, Any]) -> None:
        """Sources in a message: `annotations` (OpenRouter), `executed_tools` (Groq)."""
        if self._query is None:
            return
        for note in _listed(delta.get("annotations")):
            if isinstance(note, dict):
                self._add(note.get("url_citation"))
        for tool in _listed(delta.get("executed_tools")):
            found = tool.get("search_results") if isinstance(tool, dict) else None
            for source in _listed(found.get("results") if isinstance(found, dict) else None):
                self._add(source)

    def found(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """[(query, results)] where a search was asked for, else []."""
        return [] if self._query is None else [(self._query, list(self._sources.values()))]

    def _add(self, source: Any) -> None:
        if isinstance(source, str):
            source = {"url": source}
        if not isinstance(source, dict):
            return
        url = source.get("url") or source.get("link")
        if isinstance(url, str) and url and url not in self._sources:
            self._sources[url] = {
                "type": "web_search_result",
                "title": str(source.get("title") or url),
                "url": url,
                "encrypted_content": "",
                "page_age": None,
            }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
