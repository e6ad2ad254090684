"""Who could serve a request at all: endpoints x models for a name and a pin, before health and strategy are asked.

Pure, and the same for every request that names the same model, so the router keeps slates until the next
configuration. Refuses (400, 404) what no configuration could serve, and says what would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ccm.errors import Refusal
from ccm.model import Endpoint, ModelFacts, Price, Provider, Snapshot
from ccm.routing import rules
from ccm.settings import Destination
from ccm.shape import dataclass, replace

FindFacts = Callable[[str, str], ModelFacts]  # (model, catalogue type of the provider) -> facts

# What a model can lack so that the request would lose content there. The others (thinking, caching) cost only quality.
FILTERED = frozenset({"tools", "images", "documents", "web_search"})
FALLBACK = 1_000_000
_NO_RETRY = {"x-should-retry": "false"}
_NAME_CHARS = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint for one model. `lacks` are abilities of FILTERED that it has not; `stand_in` marks a provider that
    does not speak the name and offers its default model instead; `index` is its place in the configuration; `rank`
    its place in what a rule says: 0 is asked first, FALLBACK after all that the rule names."""

    endpoint: Endpoint
    model: str
    facts: ModelFacts
    index: int
    lacks: frozenset[str]
    stand_in: bool = False
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Slate:
    """All candidates for one name and pin. `pinned` names who chose the provider ("" where nobody did); `lacking` are
    the abilities that only some of them have: the only ones worth looking for in a request."""

    candidates: tuple[Candidate, ...]
    pinned: str
    lacking: frozenset[str]
    list_price: Price | None = (
        None  # what the name costs at the first provider by priority, whoever is pinned
    )


def slate_for(
    asked: str,
    pin: str,
    pinned_by: str,
    snapshot: Snapshot,
    find_facts: FindFacts,
    to: Sequence[Destination] = (),
    only: bool = False,
) -> Slate:
    """The candidates for a model as the client names it, restricted to the provider or endpoint `pin` ("" = any).

    Without a pin, those a rule sends it `to` come first and the others behind them, unless `only`. Raises Refusal:
    400 for a pin that is not configured or not usable, 404 where the [models] table or a rule leaves nobody, 403
    where no provider has a usable key at all.
    """
    if len(asked) > _NAME_CHARS:
        raise Refusal(
            400, "invalid_request_error", f"model: the name is longer than {_NAME_CHARS} characters"
        )
    if not snapshot.endpoints:
        raise Refusal(403, "permission_error", _no_key(snapshot), _NO_RETRY)
    candidates: list[Candidate] = []
    pinned = ""
    for rank, (provider, model) in enumerate(() if pin else to):
        try:
            found, _ = _group(model or asked, provider, "a rule", snapshot, find_facts)
        except Refusal:
            continue  # not usable now: what the rule names next, and the others, are
        known = {(c.endpoint.id, c.model) for c in candidates}
        candidates += [
            replace(c, rank=rank) for c in found if not c.stand_in and (c.endpoint.id, c.model) not in known
        ]
    if to and only and not pin:
        if not candidates:
            names = ", ".join(dict.fromkeys(provider or model for provider, model in to))
            text = f"a rule allows {names} only, which is not enabled with a usable key"
            raise Refusal(404, "not_found_error", text, _NO_RETRY)
    else:
        named = {c.endpoint.id for c in candidates}
        try:
            found, pinned = _group(asked, pin, pinned_by, snapshot, find_facts)
        except Refusal:
            if not candidates:
                raise
            found = []
        rank = FALLBACK if candidates else 0
        candidates += [replace(c, rank=rank) for c in found if c.endpoint.id not in named]
    missing = [candidate.lacks for candidate in candidates]
    lacking = frozenset[str]().union(*missing) - frozenset.intersection(*missing)
    everybody = candidates
    if pin or to:
        try:
            everybody, _ = _group(asked, "", "", snapshot, find_facts)
        except Refusal:
            everybody = []
    return Slate(tuple(candidates), pinned, lacking, _list_price(everybody))


def _list_price(found: Sequence[Candidate]) -> Price | None:
    """What the request would cost without ccm: at the provider that comes first, for the name as it was asked."""
    first = min(found, key=lambda c: (c.stand_in, c.endpoint.provider.priority, c.index), default=None)
    return first.facts.price if first is not None else None


def _group(
    asked: str, pin: str, pinned_by: str, snapshot: Snapshot, find_facts: FindFacts
) -> tuple[list[Candidate], str]:
    """The candidates for one name and pin, and who pinned them."""
    mapping = snapshot.models
    name = rules.plain(rules.renamed(asked, mapping))
    prefix, model = rules.split_model(name, snapshot.providers, mapping)
    if pin and prefix not in ("", pin.partition("#")[0]):
        prefix, model = "", name  # the pin is explicit; the prefix then is part of the model's name
    if not pin and prefix:
        pin, pinned_by = prefix, "model name"
    endpoints = list(enumerate(snapshot.endpoints))
    only = rules.restricted(asked, mapping)
    if pin:
        endpoints = [(n, e) for n, e in endpoints if pin in (e.id, e.provider.name)]
        if not endpoints:
            raise Refusal(400, "invalid_request_error", _bad_pin(pin, pinned_by, snapshot), _NO_RETRY)
        if only is not None:
            # the table's model where it names the pinned provider; the pin itself is never overruled
            only = only if endpoints[0][1].provider.name in only else None
    elif only is not None:
        endpoints = [(n, e) for n, e in endpoints if e.provider.name in only]
        if not endpoints:
            names = ", ".join(only) or "no provider"
            text = f"model {asked!r} is mapped to {names} by [models], and none of them is enabled with a usable key"
            raise Refusal(404, "not_found_error", text, _NO_RETRY)
    return _candidates(model, endpoints, only, find_facts), pinned_by if pin else ""


def _candidates(
    model: str, endpoints: list[tuple[int, Endpoint]], only: Mapping[str, str] | None, find_facts: FindFacts
) -> list[Candidate]:
    named: dict[str, tuple[str, bool]] = {}
    for _, endpoint in endpoints:
        provider = endpoint.provider
        if provider.name not in named:
            fixed = only.get(provider.name) if only is not None else None
            named[provider.name] = (fixed, True) if fixed is not None else _name_at(provider, model)
    somebody = any(speaks for _, speaks in named.values())
    found = []
    for index, endpoint in endpoints:
        provider = endpoint.provider
        name, speaks = named[provider.name]
        stand_in = somebody and not speaks
        if stand_in:
            name = rules.stand_in(provider) or name
        facts = find_facts(name, provider.type)
        lacks = FILTERED - facts.abilities - provider.abilities
        found.append(Candidate(endpoint, name, facts, index, lacks, stand_in))
    return found


def _name_at(provider: Provider, model: str) -> tuple[str, bool]:
    """(the model there, whether the provider speaks the name)."""
    return rules.model_for(provider, model), rules.is_claude(model) or rules.speaks(provider, model)


def _bad_pin(pin: str, pinned_by: str, snapshot: Snapshot) -> str:
    usable = ", ".join(dict.fromkeys(endpoint.provider.name for endpoint in snapshot.endpoints))
    provider = snapshot.providers.get(pin)
    if provider is None:
        return f"{pinned_by} names {pin!r}, which is not configured; configured and usable: {usable}"
    why = _problem(provider)
    return f"{pinned_by} names {pin!r}, which {why}; usable: {usable}"


def _no_key(snapshot: Snapshot) -> str:
    if not snapshot.providers:
        return "ccm has no provider: set a key such as ANTHROPIC_API_KEY, or run `ccm-quickstart`"
    problems = "; ".join(f"{name} {_problem(provider)}" for name, provider in snapshot.providers.items())
    return f"no provider can be used: {problems}; set a key, then `ccmctl reload`"


def _problem(provider: Provider) -> str:
    if not provider.enabled:
        return "is disabled in the configuration"
    problem = next((key.problem for key in provider.keys if key.problem), "")
    return f"has no usable key ({problem})" if problem else "has no usable key"
