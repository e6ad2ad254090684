"""What is known of an endpoint and its models at this moment: one row of the router's board.

Rows have no lock: the router's guards them, and only the router changes them. They outlive configurations as long as
provider and key stay the same. Two scopes, because errors have two: a key is rejected or a host unreachable for the
endpoint; a rate limit, an overload or a 5xx concerns one model there.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from random import Random
from typing import Any

from ccm.model import Endpoint, Failure, Outcome
from ccm.model import FailureKind as K
from ccm.routing.breaker import Breaker, State
from ccm.routing.cooldown import UNTIL_RELOAD, Cooldown
from ccm.routing.failures import POLICY, scope_of, summary
from ccm.routing.latency import PeakEwma, normalised
from ccm.routing.quota import Quota, Window, merged, tightest
from ccm.routing.slots import Waiter

_MODELS_MOST = 64  # a client may name any model; beyond this the least used row is forgotten
_BLEND = 0.3

_STATES = ("ready", "half-open", "cooling", "open", "key rejected", "draining", "disabled")
# among unavailable targets, what is the least bad to try: the rank, then the shorter remaining time
_SEVERITY = {K.MODEL_GONE: 1, K.MODEL_ACCESS: 1, K.QUOTA: 2, K.REGION: 3, K.CREDENTIAL: 3}


class ModelHealth:
    """One model at one endpoint."""

    __slots__ = ("breaker", "cool", "latency", "probing", "quota")

    def __init__(self, rng: Random) -> None:
        self.breaker = Breaker(rng)
        self.cool = Cooldown()
        self.latency = PeakEwma()
        self.probing = False  # one attempt of a panic is under way: nobody else is sent after it
        self.quota: tuple[Window, ...] = ()  # limits of this model alone

    def idle(self, now: float) -> bool:
        return self.breaker.closed() and not self.cool.active(now)


class EndpointHealth:
    """One endpoint: its own breaker (for connecting) and cool-down (for its key), its models, its counters."""

    __slots__ = (
        "_rng", "breaker", "cool", "draining", "enabled", "endpoint", "failures", "first_content_s", "in_flight",
        "last_error", "last_error_at", "models", "quota", "requests", "successes", "tokens_per_s", "waiting",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, rng: Random) -> None:
        self._rng = rng
        self.endpoint = endpoint
        self.breaker = Breaker(rng)
        self.cool = Cooldown()
        self.models: OrderedDict[str, ModelHealth] = OrderedDict()
        self.enabled = True
        self.draining = False
        self.in_flight = 0
        self.requests = 0
        self.successes = 0
        self.failures = 0
        self.last_error = ""
        self.last_error_at = 0.0
        self.first_content_s: float | None = None
        self.tokens_per_s: float | None = None
        self.quota: tuple[Window, ...] = ()  # limits of the whole account
        self.waiting: deque[Waiter] = deque()  # for a slot, in order of arrival

    def model(self, name: str, now: float) -> ModelHealth:
        """The row of a model, made on first use."""
        row = self.models.get(name)
        if row is None:
            row = self.models[name] = ModelHealth(self._rng)
            if len(self.models) > _MODELS_MOST:
                old = next(
                    (key for key, value in self.models.items() if key != name and value.idle(now)), None
                )
                del self.models[next(iter(self.models)) if old is None else old]
        return row

    def ready(self, model: ModelHealth, now: float) -> bool:
        """Whether this endpoint may be asked for this model now (its in-flight limit aside)."""
        return not self.draining and self.ready_but_draining(model, now)

    def ready_but_draining(self, model: ModelHealth, now: float) -> bool:
        return (
            self.enabled
            and self.cool.until <= now
            and model.cool.until <= now
            and self.breaker.ready(now)
            and model.breaker.ready(now)
        )

    def takes_over(self, model: ModelHealth, now: float) -> bool:
        """Whether it is well enough to carry what another target is relieved of."""
        return self.ready(model, now) and self.breaker.closed() and model.breaker.closed()

    def resting(self, model: ModelHealth, now: float) -> bool:
        """Whether it is alive and only cooling after an overload or a rate limit: something to fall back on where
        nothing better is left: an early call costs at most another refusal."""
        cool = model.cool
        return (
            self.enabled
            and not self.draining
            and not self.cool.active(now)
            and cool.kind in (K.OVERLOADED, K.RATE_LIMIT)
            and self.breaker.closed()
            and model.breaker.closed()
        )

    def alive(self, now: float) -> bool:
        """The same where the model does not matter."""
        return self.enabled and not self.draining and not self.cool.active(now) and self.breaker.closed()

    def full(self) -> bool:
        """Whether another request would have to wait: no slot is free, or others wait for it already."""
        most = self.endpoint.provider.max_in_flight
        return most > 0 and (self.in_flight >= most or self.has_waiters())

    def has_waiters(self) -> bool:
        """Whether somebody waits for a slot; those who have gone elsewhere are forgotten."""
        while self.waiting and self.waiting[0].done:
            self.waiting.popleft()
        return bool(self.waiting)

    def share(self, model: ModelHealth, now: float) -> float:
        """How much of its load it should get after a recovery, 0.1 .. 1."""
        return min(self.breaker.share(now), model.breaker.share(now))

    def remaining_s(self, model: ModelHealth, now: float) -> float:
        """Seconds until it may be asked again; 0 when it may now."""
        longest = max(self.cool.remaining_s(now), model.cool.remaining_s(now))
        for breaker in (self.breaker, model.breaker):
            if breaker.state(now) is State.OPEN:
                longest = max(longest, breaker.until - now)
        return longest

    def badness(self, model: ModelHealth, now: float) -> tuple[int, float]:
        """For the panic rule: the smaller, the better a guess."""
        kinds = [cool.kind for cool in (self.cool, model.cool) if cool.active(now)]
        return max((_SEVERITY.get(kind, 0) for kind in kinds if kind), default=0), self.remaining_s(
            model, now
        )

    def why_not(self, name: str, model: ModelHealth, now: float) -> str:
        """Why it is not ready, for people; "" when it is."""
        if self.ready(model, now):
            return ""
        state, until, reason = self._state_of(name, model, now)
        wait = f" for {max(0.0, until - now):.0f} s" if until > now else ""
        return f"{state}{wait}" + (f": {reason}" if reason else "")

    def _state_of(self, name: str, model: ModelHealth | None, now: float) -> tuple[str, float, str]:
        """(state, until, reason) of the endpoint alone, or of one of its models."""
        if not self.enabled:
            return "disabled", 0.0, "by ccmctl"
        if self.draining:
            return "draining", 0.0, f"{self.in_flight} in flight"
        worst = ("ready", 0.0, "")
        for cool, breaker, text in (
            (self.cool, self.breaker, "cannot connect"),
            *([(model.cool, model.breaker, f"{name} keeps failing")] if model else []),
        ):
            for found in (
                (("key rejected" if cool.kind is K.CREDENTIAL else "cooling"), cool.until, cool.reason)
                if cool.active(now)
                else None,
                (breaker.state(now).value, breaker.until if not breaker.ready(now) else 0.0, text)
                if breaker.state(now) is not State.CLOSED
                else None,
            ):
                if found and _STATES.index(found[0]) > _STATES.index(worst[0]):
                    worst = found
        return worst

    def state(self, now: float) -> tuple[str, float, str]:
        """(state, until, reason) for the board. What concerns only some of its models is told in the reason."""
        own = self._state_of("", None, now)
        if own[0] != "ready" or not self.models:
            return own
        found = [self._state_of(name, model, now) for name, model in self.models.items()]
        bad = [state for state in found if state[0] != "ready"]
        if not bad:
            return own
        worst = max(bad, key=lambda state: _STATES.index(state[0]))
        return worst if len(bad) == len(found) else ("ready", 0.0, f"{worst[0]}: {worst[2]}")

    def timed(self, model: ModelHealth, first_content_s: float, input_tokens: int, now: float) -> None:
        """Takes in one time to first content."""
        sample = normalised(first_content_s, input_tokens) if input_tokens > 0 else first_content_s
        model.latency.add(sample, now)
        old = self.first_content_s
        self.first_content_s = first_content_s if old is None else old + _BLEND * (first_content_s - old)

    def told(self, model: ModelHealth, quota: Quota, now: float) -> None:
        """Takes in what an answer said of its limits."""
        windows = quota.windows
        own = tuple([window for window in windows if window.account])
        if own:
            self.quota = merged(self.quota, own, now)
        if len(own) < len(windows):
            model.quota = merged(model.quota, tuple([w for w in windows if not w.account]), now)

    def headroom(self, model: ModelHealth, now: float) -> Window | None:
        """The limit that is nearest for this model; None where nothing is known (any more)."""
        if not self.quota and not model.quota:
            return None
        return tightest(self.quota + model.quota, now)

    def preferred(self) -> bool:
        """Whether it is to be asked before others for as long as its quota lasts."""
        return self.endpoint.provider.prefer_until == "limit"

    def spent(self, model: ModelHealth, now: float) -> bool:
        """Whether nothing is left of a limit."""
        window = self.headroom(model, now)
        return window is not None and window.share <= 0

    def succeeded(
        self, name: str, outcome: Outcome, begun: float, now: float, *, timed: bool = False
    ) -> None:
        """Takes in a success: cool-downs that it disproves end, times are learnt (`timed`: the one to first content
        has been already)."""
        model = self.models.get(name) or self.model(name, now)
        self.successes += 1
        if self.cool.streak:  # else there is nothing to clear
            self.cool.clear(begun)
        if model.cool.streak:
            model.cool.clear(begun)
        first = outcome.first_content_s
        if first is None:
            return
        if not timed:
            self.timed(model, first, outcome.input_tokens, now)
        seconds = now - begun - first
        if outcome.output_tokens > 0 and seconds > 0.05:
            self.tokens_per_s = _blend(self.tokens_per_s, outcome.output_tokens / seconds)

    def failed(self, name: str, failure: Failure, begun: float, now: float) -> None:
        """Takes in a failure: counted, remembered, and cooled down where its kind asks for it (not the breakers)."""
        self.failures += 1
        self.last_error, self.last_error_at = summary(failure), now
        if POLICY[failure.kind].penalty != "cool":
            return
        cool = self.cool if scope_of(failure) == "key" else self.model(name, now).cool
        reason = self.last_error if cool is self.cool else f"{name}: {self.last_error}"
        cool.start(failure.kind, now, begun, failure.retry_after_s, reason, self._rng)

    def reset(self) -> None:
        """Forgets all failures; counters stay."""
        self.breaker.reset()
        self.cool.clear()
        self.models.clear()
        self.quota = ()
        self.last_error, self.last_error_at = "", 0.0

    def reloaded(self, endpoint: Endpoint) -> None:
        """The configuration was read again and has this endpoint still: what waits for that may be asked again."""
        self.endpoint = endpoint
        for cool in (self.cool, *(model.cool for model in self.models.values())):
            if cool.kind in UNTIL_RELOAD:
                cool.clear()

    def line(self, now: float) -> dict[str, Any]:
        """The row as status shows it. Times are seconds: `until_s` (and `cooldown_s`, the same with 0 for none) from
        now, `last_error_ago_s` before now."""
        state, until, reason = self.state(now)
        first = self.first_content_s
        left = round(until - now, 1) if until > now else None
        return {
            "id": self.endpoint.id,
            "provider": self.endpoint.provider.name,
            "endpoint": self.endpoint.id,
            "state": state,
            "until_s": left,
            "cooldown_s": left or 0.0,
            "reason": reason,
            "enabled": self.enabled,
            "draining": self.draining,
            "in_flight": self.in_flight,
            "waiting": sum(not waiter.done for waiter in self.waiting),
            "requests": self.requests,
            "successes": self.successes,
            "failures": self.failures,
            "last_error": self.last_error,
            "last_error_ago_s": round(now - self.last_error_at, 1) if self.last_error else None,
            "first_content_s": None if first is None else round(first, 4),
            "first_content_ms": None if first is None else round(first * 1000),
            "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 1),
            "quota": self._quota_line(now),
        }

    def _quota_line(self, now: float) -> dict[str, Any] | None:
        """The nearest of all limits; one that holds for a single model names it, where there are several."""
        found = quota_line(tightest(self.quota, now), now)
        for name, model in self.models.items():
            line = quota_line(tightest(model.quota, now), now)
            if line is not None and (found is None or line["left_percent"] < found["left_percent"]):
                found = line if len(self.models) == 1 else {**line, "what": f"{name}: {line['what']}"}
        return found


def quota_line(window: Window | None, now: float) -> dict[str, Any] | None:
    """A limit as status shows it: what is left in percent, of what, and in how many seconds it comes back."""
    if window is None:
        return None
    return {
        "left_percent": round(window.share * 100, 1),
        "resets_s": round(window.resets_at - now, 1),
        "what": window.what,
    }


def _blend(old: float | None, sample: float) -> float:
    return sample if old is None else old + _BLEND * (sample - old)
