"""Grounding metadata as Anthropic's web search blocks (DIALECTS 10, R22)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def search_blocks(
    grounding: Mapping[str, Any], new_id: Callable[[str], str]
) -> tuple[tuple[dict[str, Any], dict[str, Any]] | None, int]:
    """(server_tool_use, web_search_tool_result) and the number of searches; None and 0 where nothing was searched.

    Google's links are redirects to the pages and have the pages' host as their title. There is no page text to give,
    so `encrypted_content` is empty.
    """
    queries = [q for q in _listed(grounding, "webSearchQueries") if isinstance(q, str) and q.strip()]
    results: dict[str, dict[str, Any]] = {}
    for chunk in _listed(grounding, "groundingChunks"):
        web = chunk.get("web") if isinstance(chunk, Mapping) else None
        url = web.get("uri") if isinstance(web, Mapping) else None
        if isinstance(web, Mapping) and isinstance(url, str) and url:
            results.setdefault(
                url,
                {
                    "type": "web_search_result",
                    "url": url,
                    "title": str(web.get("title") or url),
                    "encrypted_content": "",
                    "page_age": None,
                },
            )
    if not queries and not results:
        return None, 0
    id = new_id("srvtoolu_")
    use = {"type": "server_tool_use", "id": id, "name": "web_search", "input": {"query": "; ".join(queries)}}
    result = {"type": "web_search_tool_result", "tool_use_id": id, "content": list(results.values())}
    return (use, result), max(1, len(queries))


def _listed(grounding: Mapping[str, Any], key: str) -> list[Any]:
    value = grounding.get(key)
    return value if isinstance(value, list) else []
