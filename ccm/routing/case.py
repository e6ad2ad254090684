"""One request as routing sees it before any row is looked at: the verdict, the candidates, whose conversation it is.

Made without the router's lock; the same for a request that is served and for one that is only explained.
"""

from __future__ import annotations

from collections.abc import Callable

from ccm.model import Snapshot
from ccm.routing import cost
from ccm.routing.affinity import Key
from ccm.routing.candidates import Candidate, FindFacts, Slate, slate_for
from ccm.routing.choice import Runner
from ccm.routing.classify import QUIET_CLASSES, Ask
from ccm.routing.usual import Usual
from ccm.routing.verdict import Verdict, judge
from ccm.settings import RoutingSettings
from ccm.shape import dataclass

_SLATES_MOST = 512
# Short questions beside a conversation: they follow it where it is warm, but do not say where that is.
_NOBODY: tuple[tuple[str, str], ...] = ()
_BESIDE = frozenset({"title", "web_search", "classifier"})


class Course:
    """What all requests for one name and of one class have in common where no rule, pin or tag has a say: made once
    for a configuration. `usual` is the router's, used under its lock only."""

    __slots__ = ("binds", "slate", "usual", "usually", "verdict")

    def __init__(self, verdict: Verdict, slate: Slate, settings: RoutingSettings) -> None:
        self.verdict = verdict
        self.slate = slate
        self.binds = verdict.sticky and verdict.request_class not in _BESIDE
        self.usual: Usual | None = None
        self.usually = not settings.spare and Usual.may_be(slate.candidates, verdict.strategy)


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
    course: Course | None = None  # with all of its candidates

    @property
    def subagent(self) -> bool:
        return self.verdict.request_class == "subagent" or "x-claude-code-agent-id" in self.ask.headers

    @property
    def binds(self) -> bool:
        """Whether who answers keeps the conversation."""
        return (
            self.course.binds
            if self.course is not None
            else self.verdict.sticky and self.verdict.request_class not in _BESIDE
        )

    def spare(self) -> float:
        """The share of a quota that this request must leave alone: background work's, where `spare` is set."""
        spare, ask = self.settings.spare, self.ask
        if not spare or ask.quiet():
            return 0.0
        few = self.settings.long_context_tokens
        return spare / 100 if ask.is_a("background", few) or ask.is_a("classifier", few) else 0.0

    def price(self, past: cost.Past | None, now: float) -> Callable[[Runner], float | None]:
        """What the request is expected to cost at a runner, by what is known of the conversation."""
        size = cost.expected_input(past, self.ask.size_bytes)
        output = cost.expected_output(past, self.ask.max_output_tokens())

        def price(runner: Runner) -> float | None:
            candidate = runner.candidate
            warm = past.warm_tokens(f"{candidate.endpoint.id}/{candidate.model}", now) if past else 0
            return cost.expected_price(candidate.facts.price, size, output, warm, self.caching)

        return price


class Slates:
    """Slates by what was asked for, remembered until the next configuration. Without a lock: a lost race computes one
    twice."""

    __slots__ = ("courses", "kept")

    def __init__(self) -> None:
        self.kept: tuple[Snapshot | None, dict[object, Slate]] = (None, {})
        self.courses: tuple[Snapshot | None, dict[tuple[str, str], Course]] = (None, {})

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

    def course(self, ask: Ask, snapshot: Snapshot, find_facts: FindFacts) -> Course | None:
        """What the configuration alone decides; None where the request or a rule has a say. Raises Refusal."""
        settings, headers = snapshot.routing, ask.headers
        if settings.rules or ask.path_prefix or "x-ccm-provider" in headers or "x-ccm-strategy" in headers:
            return None
        if settings.tags:
            tagged = ask.tagged() if ask._tagged is None else ask._tagged
            if tagged:
                return None
        kept, courses = self.courses
        if kept is not snapshot:
            courses = {}
            self.courses = (snapshot, courses)
        key = (ask.model, ask.plain_class())
        course = courses.get(key)
        if course is None:
            verdict = judge(ask, snapshot, settings)
            course = Course(verdict, self.of(ask.model, verdict, snapshot, find_facts), settings)
            if len(courses) >= _SLATES_MOST:
                courses.clear()
            courses[key] = course
        return course


def open_case(ask: Ask, snapshot: Snapshot, find_facts: FindFacts, slates: Slates) -> Case:
    """Everything about a request that needs no live row. Raises Refusal where nothing could ever serve it."""
    settings = snapshot.routing
    course = slates.course(ask, snapshot, find_facts)
    if course is not None:
        verdict, slate = course.verdict, course.slate
    else:
        verdict = judge(ask, snapshot, settings)
        slate = slates.of(ask.model, verdict, snapshot, find_facts)
    candidates, excluded = slate.candidates, _NOBODY
    if slate.lacking:
        candidates, excluded = _able(slate, ask)
        if excluded:
            course = None
    session = ask.session()
    key, parent, continues = None, None, True
    if verdict.request_class not in QUIET_CLASSES:
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
        ask, settings, verdict, slate, candidates, excluded, session, key, parent, continues, caching, course
    )  # fmt: skip


def _able(slate: Slate, ask: Ask) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """The candidates that have what the request needs; all of them where none has it (better with a marker in place of
    an image than not at all)."""
    if not (wanted := ask.needs(slate.lacking)):
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
