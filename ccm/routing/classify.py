"""What kind of request this is: looked at as little as possible, and only when a rule asks.

A main turn of Claude Code is 50 KB to some MB of JSON; parsing it costs more than the whole routing. So everything
here goes by headers first and by byte searches in the raw body second; `Ask.body()` is the last resort. Answers are
remembered on the Ask. Nothing here decides where a request goes; nothing here ever raises for odd content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ccm.late import regex
from ccm.model import EMPTY
from ccm.routing import conversation, tags
from ccm.routing.rules import tier_of
from ccm.shape import dataclass, field
from ccm.wire.search import contains, find

# Classes whose outcome says nothing about an endpoint's health and must not take turns or bind sessions (R41).
QUIET_CLASSES = frozenset({"probe", "count_tokens"})

# x-claude-code-request-class (sent with CLAUDE_CODE_GATEWAY_HINT_HEADERS=1) -> ours; "auxiliary" needs a second look.
_HINTED = {"main": "default", "subagent": "subagent", "compaction": "compaction", "auxiliary": "background"}

_PROBE_BYTES = 4096  # a probe carries one word; a real turn with max_tokens 1 is larger
_SMALL_BYTES = 24576  # titles and web searches are small; a larger body is not searched for them
_TAIL_BYTES = 131072  # the last message, system, and tools stand within this much of the end
_COMPACTION = b"CRITICAL: Respond with TEXT ONLY. Do NOT call any tools"  # a long needle is found fastest
_SUBAGENT = b"cc_is_subagent=true"
_PROBE = regex(rb'"max_(?:completion_|output_)?tokens"\s*:\s*1\s*[,}]')
_NO_TOOLS = regex(rb'"tools"\s*:\s*\[\s*\]')
_TOOLS = regex(rb'"tools"\s*:\s*\[\s*\{')
_WEB_SEARCH_ONLY = regex(rb'"tools"\s*:\s*\[\s*\{[^{}\[\]]*"type"\s*:\s*"web_search_\d+"[^{}\[\]]*\}\s*\]')
_CLASSIFIER = regex(rb'"stop_sequences"\s*:\s*\[\s*"</severity>"')
_TITLE_SCHEMA = regex(rb'"json_schema".{0,200}?"title"\s*:\s*\{\s*"type"', re.DOTALL)

_MAX_TOKENS = regex(rb'"max_(?:completion_|output_)?tokens"\s*:\s*([0-9]{1,7})\s*[,}]')
_HOUR = regex(rb'"ttl"\s*:\s*"1h"')
# Classes that only a search of the whole body finds: looked for only where a rule asks for them.
_SEARCHED = frozenset({"compaction", "subagent", "classifier"})

_USER_ID = regex(
    rb'"metadata"\s*:\s*\{[^{}]{0,400}?"user_id"\s*:\s*"([^"\\]{1,1024}|(?:[^"\\]|\\.){1,1024})"'
)
_SESSION_JSON = regex(rb'session_id\\*"\s*:\s*\\*"([0-9A-Za-z_-]{1,128})')
_SESSION_OLD = regex(rb"_session_([0-9A-Za-z-]{1,128})")
_SESSION_CLEAN = regex(r"[^0-9A-Za-z_.:-]")
_SESSION_CHARS = 128

# ability -> words that "type" has where it is needed, by surface: the fewer words, the fewer searches
_TYPES_NEEDING: Mapping[str, Mapping[str, tuple[bytes, ...]]] = {
    "messages": {"images": (b"image",), "documents": (b"document",)},
    "count_tokens": {"images": (b"image",), "documents": (b"document",)},
    "chat": {"images": (b"image_url",), "documents": (b"file",), "audio": (b"input_audio",)},
    "responses": {"images": (b"input_image",), "documents": (b"input_file",)},
}
_TYPE_IS = {
    word: regex(rb'"type"\s*:\s*"%s"' % word)
    for words in _TYPES_NEEDING.values()
    for group in words.values()
    for word in group
}
_THINKING = regex(rb'"thinking"\s*:\s*\{[^{}]*"type"\s*:\s*"(?:enabled|adaptive)"')
_WEB_SEARCH = regex(rb'"type"\s*:\s*"web_search(?:_\d+|_preview)?"')
ABILITIES = ("tools", "images", "documents", "audio", "thinking", "web_search")


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(slots=True)
class Ask:
    """What is known of a request; made by `proxy.flow`, used by one thread.

    `headers` have lower-case names. `body` parses the request on first use: rules call it only when they must.
    `body_key` is a hash of the request without `stream`, so that a client's retry after a broken stream is recognised
    (0 = not given). `surface` is "messages" | "chat" | "responses" | "count_tokens".
    """

    model: str
    stream: bool
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    size_bytes: int = 0
    path_prefix: str = ""
    body: Callable[[], dict[str, Any]] = _nothing
    raw: bytes = b""
    body_key: int = 0
    surface: str = "messages"
    _session: str | None = field(default=None, init=False, repr=False, compare=False)
    _deep_kind: str = field(default="", init=False, repr=False, compare=False)
    _plain_kind: str = field(default="", init=False, repr=False, compare=False)
    _quiet: str | None = field(default=None, init=False, repr=False, compare=False)
    _tag: str | None = field(default=None, init=False, repr=False, compare=False)
    _tagged: bool | None = field(default=None, init=False, repr=False, compare=False)
    _needs: dict[str, bool] | None = field(default=None, init=False, repr=False, compare=False)

    def session(self) -> str:
        """The conversation's id: the client's header, else the session in `metadata.user_id`, else "".

        Both forms of user_id are known: the JSON of Claude Code 2.1 and `user_<hash>_account_<id>_session_<uuid>`.
        Subagents carry their parent's id. At most 128 characters of [0-9A-Za-z_.:-].
        """
        if self._session is None:
            given = self.headers.get("x-claude-code-session-id")
            if given:
                given = given[:_SESSION_CHARS]
                plain = given.isascii() and given.replace("-", "").isalnum()  # a UUID
                self._session = given if plain else _SESSION_CLEAN.sub("", given)
            else:
                self._session = self._find_session()
        return self._session

    def request_class(self, wanted: Collection[str] | None = None) -> str:
        """One of default, subagent, background, compaction, title, web_search, classifier, count_tokens, probe.

        With `wanted`, those classes that only a search of the body finds are found only if they are wanted.
        """
        return self.quiet() or self._kind(wanted is None or not _SEARCHED.isdisjoint(wanted))

    def plain_class(self) -> str:
        """The same where no rule asks for a class: `request_class(())`, in fewer steps."""
        kind = self._quiet
        if kind is None:
            kind = self._quiet = self._find_quiet()
        if not kind:
            kind = self._plain_kind
            if not kind:
                kind = self._plain_kind = self._classify(False)
        return kind

    def quiet(self) -> str:
        """ "count_tokens" or "probe" where the outcome says nothing about an endpoint's health (R41), else ""."""
        if self._quiet is None:
            self._quiet = self._find_quiet()
        return self._quiet

    def is_a(self, name: str, long_context_tokens: int) -> bool:
        """Whether the request belongs to a class of `settings.CLASSES`. A count of tokens belongs to the classes of
        the message it counts, so that both go the same way."""
        if name == "think":
            return bool(self.needs(("thinking",)))
        if name == "image":
            return bool(self.needs(("images",)))
        if name == "long_context":
            return self.input_tokens() >= long_context_tokens
        kind = self._kind(deep=name in _SEARCHED or name == "default")
        return kind == name or (name == "background" and kind == "title")

    def tagged(self) -> bool:
        """Whether there may be a subagent tag in the request: without one nothing has to be parsed for it."""
        if self._tagged is None:
            raw = self.raw
            self._tagged = tags.may_have_tags(raw) if raw else bool(self.body())
        return self._tagged

    def tag(self) -> str:
        """What a subagent tag in the request says, or "". The body is parsed only where there is one."""
        if self._tag is None:
            self._tag = tags.find_tag(self.body()) if self.tagged() else ""
        return self._tag

    def fingerprint(self) -> str:
        """The conversation by its beginning, for clients that name no session: see `routing.conversation`."""
        return conversation.fingerprint(self.raw, self.body)

    def continues(self) -> bool:
        """Whether this is a further turn of a conversation."""
        if self.raw:
            return conversation.continues(self.raw)
        messages = self.body().get("messages")
        return isinstance(messages, list) and any(
            isinstance(message, Mapping) and message.get("role") == "assistant" for message in messages
        )

    def max_output_tokens(self) -> int:
        """How long the answer may become; 0 where the request does not say."""
        if not self.raw:
            asked = self.body().get("max_tokens")
            return asked if isinstance(asked, int) else 0
        raw = self.raw
        match = _MAX_TOKENS.match(raw, max(0, find(raw, b'"max_tokens"')))
        if match is None:  # another API's word, or a tool has a property of that name
            match = _MAX_TOKENS.match(raw, max(0, raw.rfind(b'"max_')))
        return int(match[1]) if match is not None else 0

    def caching(self) -> str:
        """ "1h" or "5m" where the request marks what to cache (`cache_control`), else "": then only automatic caches
        work, and nothing is written at a price."""
        if not contains(self.raw, b'"cache_control"'):
            return ""
        return "1h" if _HOUR.search(self.raw) is not None else "5m"

    def tool_names(self) -> list[str]:
        """The names of the tools it offers. Parses the body: only for rules that ask."""
        tools = self.body().get("tools")
        names = (
            [tool.get("name") for tool in tools if isinstance(tool, Mapping)]
            if isinstance(tools, list)
            else []
        )
        return [name for name in names if isinstance(name, str)]

    def input_tokens(self) -> int:
        """A rough count of the input, for limits and prices: four bytes a token (never for the client's meter)."""
        return self.size_bytes // 4

    def needs(self, of: Iterable[str] = ABILITIES) -> frozenset[str]:
        """Which of these abilities the request makes use of: tools, images, documents, audio, thinking, web_search.

        Only the named ones are looked for, each once: a search costs about 0.3 ms per MB. May name one too many (a
        tool's input that spells a type), never one too few. Images inside tool results count (R9).
        """
        known = self._needs
        if known is None:
            known = self._needs = {}
        for ability in of:
            if ability not in known:
                known[ability] = self._does_need(ability)
        return frozenset(ability for ability in of if known[ability])

    def _does_need(self, ability: str) -> bool:
        raw = self.raw
        if not raw:  # a translated request has no bytes of this surface
            return ability in _needs_of_body(self.body())
        if ability == "tools":
            return _TOOLS.search(raw) is not None
        if ability == "thinking":
            # it stands near the end, and blocks of thinking in the history look different
            at = raw.rfind(b'"thinking"')
            return at >= 0 and (_THINKING.match(raw, at) or _THINKING.search(raw)) is not None
        if ability == "web_search":
            return contains(raw, b'"web_search') and _WEB_SEARCH.search(raw) is not None
        for word in _TYPES_NEEDING.get(self.surface, {}).get(ability, ()):
            if (at := find(raw, b'"%s"' % word)) >= 0 and _TYPE_IS[word].search(raw, max(0, at - 64)):
                return True
        return False

    def _find_session(self) -> str:
        raw = self.raw
        if not raw:
            metadata = self.body().get("metadata")
            user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
            return _session_in(user.encode("utf-8", "replace")) if isinstance(user, str) else ""
        at = len(raw)
        for _ in range(
            4
        ):  # from the end: clients write metadata after the messages; tool inputs may name it too
            at = raw.rfind(b'"metadata"', 0, at)
            if at < 0:
                return ""
            if (match := _USER_ID.match(raw, at)) and (session := _session_in(match[1])):
                return session
        return ""

    def _find_quiet(self) -> str:
        if self.surface == "count_tokens":
            return "count_tokens"
        beta = self.headers.get("anthropic-beta")
        if beta is not None and "token-counting" in beta:
            return "count_tokens"
        if self.size_bytes <= _PROBE_BYTES:
            at = self.raw.find(b'"max_')
            if at >= 0 and _PROBE.search(self.raw, at) is not None:
                return "probe"
        return ""

    def _kind(self, deep: bool) -> str:
        kind = self._deep_kind if deep else self._plain_kind
        if not kind:
            kind = self._classify(deep)
            if deep:
                self._deep_kind = kind
            else:
                self._plain_kind = kind
        return kind

    def _classify(self, deep: bool) -> str:
        headers, raw = self.headers, self.raw
        if deep and not self.stream and contains(raw, b'"</severity>"') and _CLASSIFIER.search(raw):
            return "classifier"  # the client calls it auxiliary, as it does titles and searches
        named = headers.get("x-claude-code-request-class")
        hint = "" if named is None else _HINTED.get(named, "")
        if hint and hint != "background":
            return hint
        if "x-claude-code-agent-id" in headers:
            return "subagent"
        if self.size_bytes <= _SMALL_BYTES:
            if raw.find(b'"web_search_') >= 0 and _WEB_SEARCH_ONLY.search(raw):
                return "web_search"
            if raw.find(b'"json_schema"') >= 0 and _NO_TOOLS.search(raw) and _TITLE_SCHEMA.search(raw):
                return "title"
            if tier_of(self.model) == "haiku" and not _TOOLS.search(raw):
                return "background"
        if hint:
            return hint
        if not deep:
            return "default"
        start = max(0, len(raw) - _TAIL_BYTES)
        at = find(raw, _COMPACTION, start)
        while at >= 0:
            # it begins a text, it is not quoted inside one
            if at > 1 and raw[at - 1] == 0x22 and raw[at - 2] != 0x5C:
                return "compaction"
            at = find(raw, _COMPACTION, at + 1)
        # clients that send a session id name their subagents in a header as well; older ones have only this mark
        if "x-claude-code-session-id" not in headers and find(raw, _SUBAGENT, start) >= 0:
            return "subagent"
        return "default"


def _session_in(user_id: bytes) -> str:
    match = _SESSION_JSON.search(user_id) if b"session_id" in user_id else None
    if match is None:
        match = _SESSION_OLD.search(user_id)
    return match[1].decode("ascii") if match else ""


def _needs_of_body(body: Mapping[str, Any]) -> frozenset[str]:
    """The same from a parsed request, for callers that have no bytes (an inbound translation)."""
    found = set()
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        found.add("tools")
        kinds = [tool.get("type") for tool in tools if isinstance(tool, Mapping)]
        if any(isinstance(kind, str) and kind.startswith("web_search") for kind in kinds):
            found.add("web_search")
    thinking = body.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive"):
        found.add("thinking")
    pending: list[Any] = [body.get("messages"), body.get("system")]
    while pending:  # iterative: bodies are client input and may be nested deeply
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, Mapping):
            kind = node.get("type")
            for words in _TYPES_NEEDING.values():
                for ability, names in words.items():
                    if isinstance(kind, str) and kind.encode("utf-8", "replace") in names:
                        found.add(ability)
            pending.append(node.get("content"))
    return frozenset(found)
