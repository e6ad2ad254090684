"""One request as routing sees it before any row is looked at: the verdict, the candidates, whose conversation it is.

Made without the router's lock; the same for a request that is served and for one that is only explained.
"""

from __future__ import annotations

from ccm.model import Snapshot
from ccm.routing.affinity import Key
from ccm.routing.candidates import Candidate, FindFacts, Slate, slate_for
from ccm.routing.classify import Ask
from ccm.routing.verdict import Verdict, judge
from ccm.settings import RoutingSettings
from ccm.shape import dataclass

_SLATES_MOST = 512
# Short questions beside a conversation: they follow it where it is warm, but do not say where that is.
_BESIDE = frozenset({"title", "web_search", "classifier"})


@dataclass(slots=True)
class Case:
    """`candidates` can do what the request needs; `excluded` are (endpoint id, why not) of the others. `key` is the
    conversation (None: none, or it does not matter), `parent` that of the session a subagent belongs to."""

    ask: Ask
    settings: RoutingSettings
    verdict: Verdict
    slate: Slate
    candidates: tuple[Candidate, ...]
    excluded: tuple[tuple[str, str], ...]
    session: str
    key: Key | None
    parent: Key | None
    continues: bool  # a turn that may find a warm cache
    caching: str

    @property
    def subagent(self) -> bool:
        return self.verdict.request_class == "subagent" or "x-claude-code-agent-id" in self.ask.headers

    @property
    def binds(self) -> bool:
        """Whether who answers keeps the conversation."""
        return self.verdict.sticky and self.verdict.request_class not in _BESIDE


class Slates:
    """Slates by what was asked for, remembered until the next configuration. Without a lock: a lost race computes one
    twice."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: tuple[Snapshot | None, dict[object, Slate]] = (None, {})

    def of(self, model: str, verdict: Verdict, snapshot: Snapshot, find_facts: FindFacts) -> Slate:
        """The slate for a name and a verdict. Raises Refusal (`candidates.slate_for`)."""
        kept, slates = self.kept
        if kept is not snapshot:
            slates = {}
            self.kept = (snapshot, slates)
        key = (model, verdict.pin, verdict.by, verdict.to, verdict.only)
        slate = slates.get(key)
        if slate is None:
            slate = slate_for(model, verdict.pin, verdict.by, snapshot, find_facts, verdict.to, verdict.only)
            if len(slates) >= _SLATES_MOST:
                slates.clear()
            slates[key] = slate
        return slate


def open_case(ask: Ask, snapshot: Snapshot, find_facts: FindFacts, slates: Slates) -> Case:
    """Everything about a request that needs no live row. Raises Refusal where nothing could ever serve it."""
    settings = snapshot.routing
    verdict = judge(ask, snapshot, settings)
    slate = slates.of(ask.model, verdict, snapshot, find_facts)
    candidates, excluded = _able(slate, ask)
    session = ask.session()
    key, parent, continues = None, None, True
    if verdict.request_class not in ("count_tokens", "probe"):
        prices = verdict.strategy == "cost"
        conversation = session
        if not session and (verdict.sticky or prices) and len(candidates) > 1:
            conversation = ask.fingerprint()
            continues = bool(conversation) and ask.continues()
        if conversation:
            key = (conversation, f"{ask.model} {verdict.affinity}" if verdict.affinity else ask.model)
        if session and not verdict.affinity:
            parent = (session, "")
    caching = ask.caching() if verdict.strategy == "cost" else ""
    return Case(
        ask, settings, verdict, slate, candidates, excluded, session, key, parent, continues, caching
    )  # fmt: skip


def _able(slate: Slate, ask: Ask) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """The candidates that have what the request needs; all of them where none has it (better with a marker in place of
    an image than not at all)."""
    if not slate.lacking or not (wanted := ask.needs(slate.lacking)):
        return slate.candidates, ()
    able = tuple(candidate for candidate in slate.candidates if not candidate.lacks & wanted)
    if not able or len(able) == len(slate.candidates):
        return slate.candidates, ()
    excluded = tuple(
        (candidate.endpoint.id, f"no {', '.join(sorted(candidate.lacks & wanted))}")
        for candidate in slate.candidates
        if candidate.lacks & wanted
    )
    return able, excluded
